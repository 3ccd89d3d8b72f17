"""Open a photo's bytes as the upright picture in RGB that a person would see, or say why that cannot be done."""

from __future__ import annotations

import importlib
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from PIL import Image, features
from PIL.ExifTags import Base

from headstart.modalities import jpeg, tiff
from headstart.modalities.colours import rgb
from headstart.modalities.modality import Undecodable
from headstart.modalities.sniff import HEAD, Format, refusal, sniff

PIXEL_LIMIT = 178_956_970  # Pillow's own, of a quarter of a gigabyte in grey
MOST_SCANS = 100  # of a progressive JPEG; encoders make about ten, and a bomb makes thousands of a few bytes each
# A file of so few bytes for so many pixels is a bomb, not a photo: 162 bytes of JPEG 2000 took 15 s and 3 GB. The bound
# is above what deflate, LZW and JPEG's Huffman codes can reach at all; blank pages in a fax's TIFF do go beyond.
BOMB_PIXELS = 1 << 24
BOMB_PIXELS_A_BYTE = 10_000
_BOMBS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "JPEG2000")
_PLUGINS: dict[Format, str] = {
    **{"JPEG": "JpegImagePlugin", "PNG": "PngImagePlugin", "WEBP": "WebPImagePlugin", "GIF": "GifImagePlugin"},
    **{"BMP": "BmpImagePlugin", "TIFF": "TiffImagePlugin", "AVIF": "AvifImagePlugin", "JPEG2000": "Jpeg2KImagePlugin"},
}
_OPTIONAL: dict[Format, tuple[str, str]] = {  # what a Pillow may be built without
    "WEBP": ("webp", "WebP"),
    "AVIF": ("avif", "AVIF"),
    "JPEG2000": ("jpg_2000", "JPEG 2000"),
}
_SHORT = ("truncated", "only got", "not enough data", "unexpected end")  # Pillow's ways to say that bytes are missing
_EMPTY = ("decoder", "broken data", "cannot load", "failed to decode", "unrecognized data")  # and that they say nothing
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset(_TURNS[number] for number in (5, 6, 7, 8))
_CUT_SHORT = "damaged: the file ends before the picture does"
_NO_SENSE = "damaged: its header makes no sense"
_NO_PICTURE = "damaged: its data make no sense"


def upright(
    content: bytes, *, reduced_to: int | None = None, longer: bool = False, max_pixels: int = PIXEL_LIMIT
) -> Image.Image:
    """The whole photo in RGB as its camera held it.

    Args:
        content: the file's bytes.
        reduced_to: a shorter side of so many pixels is enough: a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size,
            which is much faster.
        longer: `reduced_to` speaks of the longer side instead.
        max_pixels: a photo of more is refused by its header, before it is decoded.

    Raises:
        Undecodable: with the reason.
    """
    return sized(content, reduced_to=reduced_to, longer=longer, max_pixels=max_pixels)[0]


def sized(
    content: bytes,
    *,
    reduced_to: int | None = None,
    longer: bool = False,
    max_pixels: int = PIXEL_LIMIT,
    grey: bool = False,
) -> tuple[Image.Image, tuple[int, int]]:
    """The same, and the width and height that the upright photo has where it is not reduced.

    `grey`: in grey; of a JPEG the colours are not even decoded.

    Raises:
        Undecodable: with the reason.
    """
    with reasons():
        image = _opened(content)
        _check(image, content, max_pixels)
        size = image.size
        least = None if reduced_to is None else _least(size, reduced_to, longer)
        _load(image, least, grey)
        photo = image.format in ("JPEG", "MPO")
        if photo:
            _check_end(image, content, least, grey)
        turn = _TURNS.get(_orientation(image))
        if not (grey and photo and image.mode == "L"):
            image = rgb(image).convert("L") if grey else rgb(image)
        if turn is None:
            return image, size
        return image.transpose(turn), size[::-1] if turn in _SIDEWAYS else size


def _opened(content: bytes) -> Image.Image:
    """The picture by its header; nothing is decoded yet."""
    head = content[:HEAD]
    known, reason = sniff(head), refusal(head)
    if reason or known is None:
        raise Undecodable(reason or "not a photo")
    feature, name = _OPTIONAL.get(known, ("", ""))
    if feature and not features.check(feature):
        raise Undecodable(f"{name} is not read by this Pillow (update Pillow, or save the photo as JPEG or PNG)")
    importlib.import_module(f"PIL.{_PLUGINS[known]}")
    if known == "TIFF":
        tiff.quiet()
    # Not `Image.open`: it applies a limit that is global to the process, and ours is for one run.
    opener, _ = Image.OPEN[known]
    try:
        return opener(io.BytesIO(content), "")
    except (SyntaxError, LookupError, TypeError, OSError, RuntimeError, struct.error) as problem:
        if "pixel mode" in str(problem):
            raise Undecodable("its kind of pixels is not read (save it with 8 bits a channel)") from problem
        raise Undecodable(_CUT_SHORT if _short(known, content, problem) else _NO_SENSE) from problem


def _short(known: Format, content: bytes, problem: Exception) -> bool:
    """Whether a file that cannot be opened ends before a place that its first bytes name."""
    if known == "WEBP":
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if known == "TIFF":
        return int.from_bytes(content[4:8], "little" if content[:2] == b"II" else "big") >= len(content)
    return any(word in str(problem).lower() for word in _SHORT)


def _check(image: Image.Image, content: bytes, max_pixels: int) -> None:
    """Refuse by the header what would take too much memory or time."""
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise Undecodable(
            f"too large: {image.width} x {image.height} pixels are more than {max_pixels:,} (see --max-pixels)"
        )
    if sniff(content[:HEAD]) in _BOMBS and pixels > max(BOMB_PIXELS, BOMB_PIXELS_A_BYTE * len(content)):
        raise Undecodable(f"damaged: {len(content):,} bytes cannot hold {image.width} x {image.height} pixels")
    if image.info.get("progressive") and sum(1 for _ in jpeg.scans(content)) > MOST_SCANS:
        raise Undecodable(f"damaged: a JPEG of more than {MOST_SCANS} scans")


def _least(size: tuple[int, int], side: int, longer: bool) -> tuple[int, int]:
    """The width and height below which a reduced photo must not go."""
    if not longer:
        return side, side
    width, height = (max(1, side * own // max(size)) for own in size)
    return width, height


def _load(image: Image.Image, least: tuple[int, int] | None, grey: bool = False) -> None:
    if least is not None:
        image.draft("L" if grey else None, least)  # does nothing for other formats than JPEG
    image.load()


def _check_end(image: Image.Image, content: bytes, least: tuple[int, int] | None, grey: bool = False) -> None:
    """Refuse a JPEG whose data end early although its end is marked: decoders fill the rest with grey in silence.

    A photo that only happens to end in that grey stays the same when nonsense is put behind its data. And refuse a
    JPEG 2000 without an end: of those in tiles, the missing ones would stay empty.
    """
    if image.format == "JPEG2000" and content.find(b"\xff\xd9", content.find(b"\xff\x93")) < 0:
        raise Undecodable(_CUT_SHORT)
    if image.format not in ("JPEG", "MPO"):
        return
    if not jpeg.ended(content):
        raise Undecodable(_CUT_SHORT)
    last = image.getpixel((image.width - 1, image.height - 1))
    if not set(last if isinstance(last, tuple) else (last,)) <= {127, 128}:
        return
    again = _opened(jpeg.filled(content))
    _load(again, least, grey)
    if again.tobytes() != image.tobytes():
        raise Undecodable(_CUT_SHORT)


def _orientation(image: Image.Image) -> int:
    try:
        # After loading: Pillow turns a TIFF while it loads it, and then forgets the orientation.
        return int(image.getexif().get(Base.Orientation, 1))
    except Exception:  # noqa: BLE001  damaged notes of the camera fail in many ways and leave the photo whole
        return 1


@contextmanager
def reasons() -> Iterator[None]:
    """Turn whatever Pillow raises on bad bytes into `Undecodable` with a reason for humans."""
    try:
        with _QUIET:
            yield
    except Undecodable:
        raise
    except Image.DecompressionBombError as problem:  # of a WebP, whose canvas is laid out before we see its size
        raise Undecodable(f"too large: more than the {PIXEL_LIMIT:,} pixels that Pillow takes") from problem
    except MemoryError as problem:
        raise Undecodable("too large for the memory of this machine, or damaged") from problem
    # Damaged bytes surface in Pillow as nearly every built-in error: SyntaxError, struct.error, IndexError, ...
    except Exception as problem:
        raise Undecodable(_reason(problem)) from problem


def _reason(problem: Exception) -> str:
    text = str(problem)
    if any(word in text.lower() for word in _SHORT):
        return _CUT_SHORT
    if not text or any(word in text.lower() for word in _EMPTY):
        return _NO_PICTURE
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
