"""Keep what heads say of photos that they were not fitted on: what doubts of labels and learning curves rest on.

RUN/out_of_fold.safetensors
├── probabilities   float32 [n k]   of each class, by the exact head whose fitting left the photo out
├── labels          int64   [n]     as given
├── ids             uint8   [n 16]  of the photos' contents, as in splits.csv
└── metadata        features: fingerprint of the cached features; strength: of the chosen head
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from headstart.errors import BadRun

NAME = "out_of_fold.safetensors"
ID_BYTES = 16
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")  # it becomes the name of a folder: nothing else may come out of a file


@dataclass(frozen=True, kw_only=True, eq=False)
class OutOfFold:
    """For each photo, in the order of the manifest, what the head that had not seen it said; and by which features."""

    ids: tuple[str, ...]
    labels: Int[np.ndarray, "n"]
    probabilities: Float[np.ndarray, "n k"]
    features: str  # fingerprint
    strength: float

    def arrays(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """What is written: tensors and metadata."""
        ids = np.frombuffer(bytes.fromhex("".join(self.ids)), np.uint8).reshape(len(self.ids), ID_BYTES)
        tensors: dict[str, np.ndarray] = {
            "ids": ids,
            "labels": self.labels.astype(np.int64),
            "probabilities": self.probabilities.astype(np.float32),
        }
        return tensors, {"features": self.features, "strength": repr(self.strength)}


def read(path: Path, *, photos: int, classes: int) -> OutOfFold | None:
    """What lies there, of a run of so many photos and classes; None where there is nothing.

    Raises:
        BadRun: the file is damaged, or of another run. Nothing larger than such a run is read.
    """
    if not path.exists():
        return None
    try:
        return _read(path, photos, classes)
    except Exception as problem:
        raise BadRun(
            f"{str(path)!r} does not load: {problem}", fix="delete it: the report then does without, or train again"
        ) from problem


def _read(path: Path, photos: int, classes: int) -> OutOfFold:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        about = file.metadata() or {}
        n = _shape(file, "labels")[0]
        if n > photos:
            raise ValueError(f"it tells of {n} photos, and the run has {photos}")
        for name, shape in {"labels": (n,), "ids": (n, ID_BYTES), "probabilities": (n, classes)}.items():
            if _shape(file, name) != shape:
                raise ValueError(f"{name} have the shape {_shape(file, name)} instead of {shape}")
        ids, labels, probabilities = (file.get_tensor(name) for name in ("ids", "labels", "probabilities"))
    if ids.dtype != np.uint8 or labels.dtype != np.int64 or probabilities.dtype != np.float32:
        raise ValueError("its numbers are of other kinds")
    if n and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError("it has labels that the run has no classes for")
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all()):
        raise ValueError("it has probabilities that are none")
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise ValueError("its probabilities do not sum to 1")
    strength = float(about.get("strength", "nan"))
    if not _FINGERPRINT.fullmatch(about.get("features", "")) or not (math.isfinite(strength) and strength > 0):
        raise ValueError("it does not say what it was made from")
    return OutOfFold(
        ids=tuple(row.tobytes().hex() for row in ids),
        labels=labels,
        probabilities=probabilities,
        features=about["features"],
        strength=strength,
    )


def _shape(file: object, name: str) -> tuple[int, ...]:
    return tuple(file.get_slice(name).get_shape())  # type: ignore[attr-defined]
