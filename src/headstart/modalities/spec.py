"""Describe the picture that a backbone was trained on; everything that turns a file into its input is here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

Fit = Literal["crop", "pad", "squash"]


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The picture that a backbone was trained on.

    A photo becomes `size` x `size` pixels of RGB uint8, antialiased. `fit` says how: `crop` resizes it so that its
    shorter side is `round(size / crop)` pixels and cuts out the middle; `pad` resizes the whole photo until it fits
    and fills the rest with black; `squash` resizes each side on its own. The rest the network does itself: it puts
    the channels into `order` and computes `(pixels - mean) / std` on 0..255, channel by channel in that order. A
    network that scales inside, or wants plain pixels, has mean 0 and std 1.
    """

    size: int
    crop: float
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: Literal["rgb", "bgr", "grey"] = "rgb"  # grey: one channel, ITU-R 601 luma; mean and std are equal thrice
    fit: Fit = "crop"

    @property
    def resized(self) -> int:
        """Length of the shorter side before cropping, in pixels."""
        return round(self.size / self.crop)

    @property
    def fingerprint(self) -> str:
        """A hash of every field."""
        fields = asdict(self)
        if self.order == "rgb":
            del fields["order"]  # features that were kept before there was another order stay valid
        if self.fit == "crop":
            del fields["fit"]  # likewise
        return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=8).hexdigest()
