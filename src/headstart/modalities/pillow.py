"""Take a Pillow image as the pixels that its file would give."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

PLAIN = ("L", "RGB", "RGBA")


def is_image(value: Any) -> bool:
    """Whether this is a Pillow image."""
    return isinstance(value, Image.Image)


def pixels(image: Any) -> UInt8[np.ndarray, "h w c"]:
    """Grey, RGB or RGBA, upright as its camera held it; of 16 bits a channel the upper eight.

    Raises:
        ValueError: its numbers say not which value is white.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return np.asarray(np.asarray(upright) >> 8, np.uint8)[..., None]
    if upright.mode in ("I", "F"):
        raise ValueError(f"mode {upright.mode!r}: its pixels are numbers of unknown range")
    if upright.mode not in PLAIN or "transparency" in upright.info:
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    array = np.asarray(upright)
    return array[..., None] if array.ndim == 2 else array
