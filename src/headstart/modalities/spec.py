"""Describe the picture that a backbone was trained on; everything that turns a file into its input is here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The picture that a backbone was trained on.

    A photo is resized so that its shorter side is `round(size / crop)` pixels, antialiased, the middle
    `size` x `size` is cut out as RGB uint8, and the network itself computes `(pixels - mean) / std` on 0..255.
    """

    size: int
    crop: float
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def resized(self) -> int:
        """Length of the shorter side before cropping, in pixels."""
        return round(self.size / self.crop)

    @property
    def fingerprint(self) -> str:
        """A hash of every field."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=8).hexdigest()
