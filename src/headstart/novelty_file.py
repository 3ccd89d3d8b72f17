"""Write down what a run knows of photos like its own, and read it back from a stranger's run without trusting it.

RUN/novelty.safetensors
├── mean         float32 [d]
├── projection   float32 [d r]   in older runs; without it r is d
├── centres      float32 [m r]
└── metadata     threshold, k, normalise, false_alarms: see `headstart.novelty`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headstart.errors import BadRun
from headstart.novelty import Novelty

NAME = "novelty.safetensors"
LARGEST = 256 << 20  # bytes; ten thousand classes of some thousand features


def arrays(novelty: Novelty) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What is written: tensors and metadata."""
    about = {
        "threshold": repr(novelty.threshold),
        "k": str(novelty.k),
        "normalise": str(novelty.normalise).lower(),
        "false_alarms": repr(novelty.false_alarms),
    }
    found = {"mean": novelty.mean, "projection": novelty.projection, "centres": novelty.centres}
    return {name: array.astype(np.float32) for name, array in found.items() if array is not None}, about


def read(path: Path) -> Novelty | None:
    """What lies there; None where there is nothing.

    Raises:
        BadRun: the file is damaged, or larger than any that is written.
    """
    if not path.exists():
        return None
    try:
        return _read(path)
    except Exception as problem:
        raise BadRun(
            f"{str(path)!r} does not load: {problem}",
            fix="copy the run again, or delete the file: the run then is never unsure",
        ) from problem


def _read(path: Path) -> Novelty:
    from safetensors import safe_open  # not needed by those who only compute

    if path.stat().st_size > LARGEST:
        raise ValueError("it is larger than any can be")
    with safe_open(path, framework="numpy") as file:
        about = file.metadata() or {}
        projection = file.get_tensor("projection") if "projection" in set(file.keys()) else None
        return _checked(file.get_tensor("mean"), projection, file.get_tensor("centres"), about)


def _checked(mean: np.ndarray, projection: np.ndarray | None, centres: np.ndarray, about: Mapping[str, str]) -> Novelty:
    arrays = [mean, centres] if projection is None else [mean, projection, centres]
    if [array.ndim for array in arrays] != [1, 2, 2][: len(arrays)]:
        raise ValueError("its arrays have other dimensions")
    d, r = (len(mean), len(mean)) if projection is None else projection.shape
    if len(mean) != d or centres.shape[1] != r or not centres.size or not d:
        raise ValueError(f"its shapes do not fit: {', '.join(str(array.shape) for array in arrays)}")
    for array in arrays:
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError("its numbers are of another kind, or not finite")
    threshold, share, k = float(about["threshold"]), float(about["false_alarms"]), int(about["k"])
    if not (math.isfinite(threshold) and threshold >= 0 and 0 < share < 1 and 1 <= k <= len(centres)):
        raise ValueError("its threshold makes no sense")
    if about["normalise"] not in ("true", "false"):
        raise ValueError("it does not say whether features are brought to length 1")
    return Novelty(
        mean=mean,
        projection=projection,
        centres=centres,
        k=k,
        normalise=about["normalise"] == "true",
        threshold=threshold,
        false_alarms=share,
    )
