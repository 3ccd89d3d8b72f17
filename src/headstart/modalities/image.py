"""Turn the bytes of a photo into the RGB picture that a backbone takes, plainly or changed at random.

One rule for each kind of file; docs/images.md has them all, and a test holds a file of each against that page:

- The first frame of an animation and the first page of a document stand for the whole.
- The orientation that a camera writes into EXIF is applied. Colour profiles are not: backbones were trained without.
- Grey, 1-bit and palette pictures become RGB; CMYK by Pillow's plain formula; Lab by way of its own definition.
- Transparent pixels are laid over white, as on a web page.
- Of 16 bits a channel the upper eight count. Floating-point and wider integer pixels are taken by their range where
  that leaves no doubt about which value is white, and are refused otherwise.
- A photo of more pixels than the limit is refused by its header. So is one whose data end early, however it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance, features
from PIL import __version__ as pillow

from headstart.modalities.frames import framed, randomly_framed
from headstart.modalities.spec import InputSpec
from headstart.modalities.upright import PIXEL_LIMIT, reasons, upright

if TYPE_CHECKING:
    from jaxtyping import UInt8

# The whole photo, for `look.py` and whoever else wants more of it than a backbone's square.
_upright, _reasons = upright, reasons

RULES = 3  # part of the fingerprint: count up when the same bytes begin to give another picture
# A reduced JPEG keeps a shorter side of at least this many times the one it is resized to (see
# benchmarks/quality/reduced_decoding.py for what 1, 2 and 4 cost and bring); where it is padded, a longer side.
REDUCED_MARGIN = 2
AUGMENT_FLIP = 0.5  # probability of a mirrored view
AUGMENT_JITTER = 0.2  # brightness, contrast and saturation each change by up to this share


class ImageModality:
    """Photos: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and JPEG 2000, told apart by their content.

    `max_pixels`: a photo of more is refused, by its header.
    """

    name = "image"
    suffixes = frozenset(
        {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
        | {".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
    )

    def __init__(self, *, max_pixels: int | None = None) -> None:
        self.max_pixels = PIXEL_LIMIT if max_pixels is None else max_pixels

    def fingerprint(self, *, reduced: bool) -> str:
        """Names all that decides about pixels besides the InputSpec: our rules, Pillow, the lossy decoders.

        Also the limit, where it is not the usual one: what is refused is kept as well as what is decoded.
        """
        names = ("jpg", "libjpeg_turbo", "webp", "avif", "jpg_2000", "littlecms2")
        libraries = [f"{name}-{features.version(name)}" for name in names]
        how = f"reduced-{REDUCED_MARGIN}" if reduced else "full"
        limit = [f"max-{self.max_pixels}"] if self.max_pixels != PIXEL_LIMIT else []
        return " ".join([f"image-{RULES}", how, *limit, f"pillow-{pillow}", *libraries])

    def decode(self, content: bytes, spec: InputSpec, *, reduced: bool = False) -> UInt8[np.ndarray, "h w c"]:
        """The photo in the backbone's square. `reduced` lets a large JPEG be decoded at 1/2, 1/4 or 1/8 of its size.

        Raises:
            Undecodable: with the reason.
        """
        return np.asarray(framed(self._upright(content, spec, reduced=reduced), spec))

    def augment(self, content: bytes, spec: InputSpec, rng: np.random.Generator) -> UInt8[np.ndarray, "h w c"]:
        """A view changed at random, perhaps mirrored, in slightly other colours; decoded at reduced size.

        It shows a part of a photo that is cropped, and the whole of one that is padded or squashed.

        Raises:
            Undecodable: with the reason.
        """
        image = randomly_framed(self._upright(content, spec, reduced=True), spec, rng)
        if rng.random() < AUGMENT_FLIP:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(rng.uniform(1 - AUGMENT_JITTER, 1 + AUGMENT_JITTER))
        return np.asarray(image)

    def _upright(self, content: bytes, spec: InputSpec, *, reduced: bool) -> Image.Image:
        side = (spec.resized if spec.fit == "crop" else spec.size) * REDUCED_MARGIN
        return upright(
            content,
            reduced_to=side if reduced else None,
            longer=spec.fit == "pad",
            max_pixels=self.max_pixels,
        )
