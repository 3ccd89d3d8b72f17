"""Make a small picture of a photo, for pages that show many."""

from __future__ import annotations

import io

from PIL import Image

from headstart.modalities.upright import PIXEL_LIMIT, reasons, sized

QUALITY = 78  # of the JPEG: below, blocks show; above, a page of a hundred gets heavy


def thumbnail(content: bytes, side: int, *, max_pixels: int = PIXEL_LIMIT) -> bytes:
    """The whole photo, upright and in RGB, as a JPEG file whose longer side has `side` pixels.

    Raises:
        Undecodable: with the reason.
    """
    photo, _ = shrunk(content, side, max_pixels)
    with reasons():
        written = io.BytesIO()
        photo.save(written, "JPEG", quality=QUALITY, optimize=True)
        return written.getvalue()


def shrunk(content: bytes, side: int, max_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    """The upright photo with `side` pixels on its longer side, and the width and height of the whole one.

    Raises:
        Undecodable: with the reason.
    """
    photo, size = sized(content, reduced_to=side, longer=True, max_pixels=max_pixels)
    with reasons():
        scale = side / max(size)
        width, height = (max(1, round(own * scale)) for own in size)
        return photo.resize((width, height), Image.Resampling.LANCZOS), size
