"""Write down what a run knows of photos like its own, and read it back from a stranger's run without trusting it.

RUN/novelty.safetensors
├── mean         float32 [d]
├── projection   float32 [d r]
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
ARRAYS = ("mean", "projection", "centres")
LARGEST = 256 << 20  # bytes; half a million features at the width that is written


def arrays(novelty: Novelty) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What is written: tensors and metadata."""
    about = {
        "threshold": repr(novelty.threshold),
        "k": str(novelty.k),
        "normalise": str(novelty.normalise).lower(),
        "false_alarms": repr(novelty.false_alarms),
    }
    return {name: np.asarray(getattr(novelty, name), np.float32) for name in ARRAYS}, about


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
        found = {name: file.get_tensor(name) for name in ARRAYS}
    return _checked(found["mean"], found["projection"], found["centres"], about)


def _checked(mean: np.ndarray, projection: np.ndarray, centres: np.ndarray, about: Mapping[str, str]) -> Novelty:
    if not (mean.ndim == 1 and projection.ndim == 2 and centres.ndim == 2):
        raise ValueError("its arrays have other dimensions")
    d, r = projection.shape
    if mean.shape != (d,) or centres.shape[1] != r or not centres.size or not d:
        raise ValueError(f"its shapes do not fit: {mean.shape}, {projection.shape}, {centres.shape}")
    for array in (mean, projection, centres):
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
