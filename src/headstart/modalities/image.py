"""Turn the bytes of a photo into the RGB picture that a backbone takes, plainly or changed at random.

One rule for each kind of file:

- The first frame of an animation and the first page of a document stand for the whole.
- The orientation that a camera writes into EXIF is applied. Colour profiles are not: backbones were trained without.
- Grey, 1-bit and palette pictures become RGB; CMYK by Pillow's plain formula.
- Transparent pixels are laid over white, as on a web page.
- Of 16 bits a channel the upper eight count. Floating-point and wider integer pixels are refused: nothing says
  which value is white.
- A photo of more than 178,956,970 pixels is refused (Pillow's own limit against decompression bombs).
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, UnidentifiedImageError, features
from PIL import __version__ as pillow
from PIL.ExifTags import Base

from headstart.modalities.modality import Undecodable
from headstart.modalities.sniff import HEAD, refusal, sniff
from headstart.modalities.spec import InputSpec

RULES = 1  # part of the fingerprint: count up when the same bytes begin to give another picture
PIXEL_LIMIT = 178_956_970
# A reduced JPEG keeps a shorter side of at least this many times the one it is resized to (see
# benchmarks/quality/reduced_decoding.py for what 1, 2 and 4 cost and bring).
REDUCED_MARGIN = 2

AUGMENT_SCALE = (0.5, 1.0)  # share of the photo's area that a random view shows
AUGMENT_RATIO = (3 / 4, 4 / 3)  # its width over its height, before it is made square
AUGMENT_FLIP = 0.5  # probability of a mirrored view
AUGMENT_JITTER = 0.2  # brightness, contrast and saturation each change by up to this share

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels


class ImageModality:
    """Photos: JPEG, PNG, WebP, GIF, BMP and TIFF, told apart by their content."""

    name = "image"
    suffixes = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"})

    def fingerprint(self, *, reduced: bool) -> str:
        """Names all that decides about pixels besides the InputSpec: our rules, Pillow, the lossy decoders."""
        libraries = [f"{library}-{features.version(library)}" for library in ("jpg", "libjpeg_turbo", "webp")]
        how = f"reduced-{REDUCED_MARGIN}" if reduced else "full"
        return " ".join([f"image-{RULES}", how, f"pillow-{pillow}", *libraries])

    def decode(self, content: bytes, spec: InputSpec, *, reduced: bool = False) -> UInt8[np.ndarray, "h w c"]:
        """The middle of the photo. `reduced` lets a large JPEG be decoded at 1/2, 1/4 or 1/8 of its size.

        Raises:
            Undecodable: with the reason.
        """
        with _reasons():
            image = _upright(content, reduced_to=spec.resized * REDUCED_MARGIN if reduced else None)
            return np.asarray(_cut(image, _middle(image.size, spec), spec))

    def augment(self, content: bytes, spec: InputSpec, rng: np.random.Generator) -> UInt8[np.ndarray, "h w c"]:
        """A random part of the photo, perhaps mirrored, in slightly other colours; decoded at reduced size.

        Raises:
            Undecodable: with the reason.
        """
        with _reasons():
            image = _upright(content, reduced_to=spec.resized * REDUCED_MARGIN)
            image = _cut(image, _random_part(image.size, rng), spec)
            if rng.random() < AUGMENT_FLIP:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = change(image).enhance(rng.uniform(1 - AUGMENT_JITTER, 1 + AUGMENT_JITTER))
            return np.asarray(image)


def _upright(content: bytes, *, reduced_to: int | None) -> Image.Image:
    """The whole photo in RGB as its camera held it; `reduced_to` allows a smaller one with such a shorter side."""
    head = content[:HEAD]
    known, reason = sniff(head), refusal(head)
    if reason or known is None:
        raise Undecodable(reason or "not a photo")
    image: Image.Image = Image.open(io.BytesIO(content), formats=(known,))
    if image.width * image.height > PIXEL_LIMIT:
        raise Undecodable(_TOO_LARGE)
    if reduced_to is not None:
        image.draft(None, (reduced_to, reduced_to))  # does nothing for other formats than JPEG
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    image = _rgb(image)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        # After loading: Pillow turns a TIFF while it loads it, and then forgets the orientation.
        return int(image.getexif().get(Base.Orientation, 1))
    except Exception:  # noqa: BLE001  damaged notes of the camera fail in many ways and leave the photo whole
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _upper_byte(image).convert("RGB")
    if image.mode == "F":
        raise Undecodable("its pixels are floating-point numbers of unknown range (save it with 8 or 16 bits)")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return image.convert("RGB")


def _upper_byte(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 0xFFFF):
        raise Undecodable("its pixels are integers of more than 16 bits (save it with 8 or 16 bits)")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _middle(whole: tuple[int, int], spec: InputSpec) -> Box:
    """The part of a photo that is left when it is resized and its middle cut out, both in whole pixels."""
    short = min(whole)
    (left, right), (upper, lower) = (
        _middle_of_side(side, int(side * spec.resized / short), spec.size) for side in whole
    )
    return left, upper, right, lower


def _middle_of_side(side: int, resized: int, size: int) -> tuple[float, float]:
    start = round((resized - size) / 2)
    return start * side / resized, min(side, (start + size) * side / resized)


def _random_part(whole: tuple[int, int], rng: np.random.Generator) -> Box:
    """A box of random area, shape and place; as near to the drawn shape as the photo allows."""
    width, height = whole
    area = rng.uniform(*AUGMENT_SCALE) * width * height
    ratio = np.exp(rng.uniform(*np.log(AUGMENT_RATIO)))
    box_width, box_height = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
    left, upper = rng.random() * (width - box_width), rng.random() * (height - box_height)
    return left, upper, min(width, left + box_width), min(height, upper + box_height)


def _cut(image: Image.Image, box: Box, spec: InputSpec) -> Image.Image:
    """A part of the photo at the backbone's size, antialiased. What lies outside it is not resized in vain."""
    return image.resize((spec.size, spec.size), _RESAMPLING[spec.interpolation], box=box)


_TOO_LARGE = f"too large: more than {PIXEL_LIMIT // 10**6} million pixels"


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever Pillow raises on bad bytes into `Undecodable` with a reason for humans."""
    try:
        with _QUIET:
            yield
    except Undecodable:
        raise
    except Image.DecompressionBombError as problem:
        raise Undecodable(_TOO_LARGE) from problem
    except MemoryError as problem:
        raise Undecodable("too large for the memory of this machine, or damaged") from problem
    # Damaged bytes surface in Pillow as nearly every built-in error: SyntaxError, struct.error, IndexError, ...
    except Exception as problem:
        raise Undecodable(_reason(problem)) from problem


def _reason(problem: Exception) -> str:
    text = str(problem)
    if "truncated" in text.lower():
        return "damaged: the file ends before the picture does"
    if isinstance(problem, UnidentifiedImageError) or not text:
        return "damaged: its header makes no sense"
    return f"damaged: {text}"


class _Quiet:
    """Keeps Pillow's warnings from the user while any thread decodes: what matters becomes a reason instead.

    `warnings.catch_warnings` will not do here: on leaving it puts back the whole list of filters as it was, and so
    undoes what other threads did to it meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._filter = warnings.filters[0]

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._filter in warnings.filters:
                warnings.filters.remove(self._filter)  # type: ignore[attr-defined]


_QUIET = _Quiet()
