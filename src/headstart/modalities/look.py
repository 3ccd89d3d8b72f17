"""Take a small look at a photo: its size, how sharp it is, and a thumbnail that later questions are answered from."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter

from headstart.modalities.image import ImageModality
from headstart.modalities.upright import PIXEL_LIMIT, reasons, sized

RULES = 1  # part of the fingerprint: count up when the same bytes begin to give another look
SIDE = 64  # pixels of the square on which sharpness is measured; a larger JPEG is not decoded further than to this
THUMBNAIL = 32  # pixels of a thumbnail's side: the whole photo, squashed
FACTS = ("width", "height", "bytes", "sharpness")  # what stands before the pixels in a row
_PIXELS = THUMBNAIL * THUMBNAIL
_PACKED = -(-_PIXELS // 3)  # numbers: float32 holds 24 bits exactly, which are three pixels
WIDTH = len(FACTS) + _PACKED  # numbers in a row
_WEIGHTS = np.array([1, 1 << 8, 1 << 16], np.float32)
_LAPLACIAN = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=1, offset=128)
_INNER = (1, 1, SIDE - 1, SIDE - 1)  # Pillow leaves the border as it was


def fingerprint(max_pixels: int | None = None) -> str:
    """Changes whenever the same bytes would give another look."""
    return f"look-{RULES}-{SIDE}-{THUMBNAIL} {ImageModality(max_pixels=max_pixels).fingerprint(reduced=True)}"


def look(content: bytes, *, max_pixels: int | None = None) -> Float[np.ndarray, "{WIDTH}"]:
    """One row of float32: the `FACTS`, and the thumbnail in grey, three pixels a number.

    Raises:
        Undecodable: with the reason.
    """
    limit = PIXEL_LIMIT if max_pixels is None else max_pixels
    whole, size = sized(content, reduced_to=SIDE, max_pixels=limit, grey=True)
    with reasons():
        # Averages shrink best; to enlarge by them would repeat pixels, unlike in a larger copy of the same photo.
        averages = min(whole.size) >= SIDE
        small = whole.resize((SIDE, SIDE), Image.Resampling.BOX if averages else Image.Resampling.BILINEAR)
        row = np.empty(WIDTH, np.float32)
        row[: len(FACTS)] = *size, len(content), _sharpness(small)
        row[len(FACTS) :] = _packed(small.reduce(SIDE // THUMBNAIL))
        return row


def facts(rows: Float[np.ndarray, "n {WIDTH}"]) -> Float[np.ndarray, "n 4"]:
    """Width and height in pixels as one sees the photo, bytes of its file, and the variance of its Laplacian."""
    return rows[:, : len(FACTS)]


def grey(rows: Float[np.ndarray, "n {WIDTH}"]) -> Float[np.ndarray, "n side side"]:
    """The thumbnails: the whole photo of each row, squashed to a square, in grey 0..255."""
    packed = rows[:, len(FACTS) :].astype("<i4").view(np.uint8).reshape(len(rows), _PACKED, 4)
    pixels = packed[:, :, :3].astype(np.float32).reshape(len(rows), 3 * _PACKED)[:, :_PIXELS]
    return pixels.reshape(len(rows), THUMBNAIL, THUMBNAIL)


def _sharpness(pixels: Image.Image) -> float:
    """The variance of the Laplacian, which is cut off at -128 and 127: what is blurred is far from there."""
    edges = np.frombuffer(pixels.filter(_LAPLACIAN).crop(_INNER).tobytes(), np.uint8).astype(np.float32)
    return float(edges @ edges) / edges.size - float(edges.mean()) ** 2


def _packed(pixels: Image.Image) -> Float[np.ndarray, "numbers"]:
    padded = pixels.tobytes() + bytes(3 * _PACKED - _PIXELS)
    packed: Float[np.ndarray, "numbers"] = np.frombuffer(padded, np.uint8).reshape(_PACKED, 3) @ _WEIGHTS
    return packed
