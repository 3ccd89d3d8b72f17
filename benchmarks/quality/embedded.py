"""Read a folder of class folders with the frozen features of its photos: what benchmarks of exact heads begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import headstart as hs


@dataclass(frozen=True)
class Embedded:
    """Photos as the default backbone sees them."""

    features: np.ndarray  # float32 [n d]
    labels: np.ndarray  # int [n]
    paths: list[str]


def embedded(folder: Path) -> Embedded:
    """All photos of these class folders, in the order of their paths; features come out of the cache where they are."""
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    names = sorted({path.parent.name for path in files})
    labels = np.array([names.index(path.parent.name) for path in files])
    paths = [str(path) for path in files]
    return Embedded(np.asarray(hs.TransferFeatures().fit_transform(paths)), labels, paths)
