"""One real file, or several, of every kind that people have: for the table in docs/images.md and for whole runs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, features

QUARTERS = ((220, 40, 40), (40, 180, 60), (50, 80, 200), (230, 220, 60))  # upper left, upper right, lower left, right
WIDTH, HEIGHT = 120, 80


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Files that all become the picture of four quarters in these colours, or that are refused with these words."""

    files: Sequence[bytes]
    quarters: Sequence[tuple[int, int, int]] = QUARTERS
    reason: str = ""
    needs: str = ""  # what Pillow has to be built with
    near: int = 12  # how far a channel may be off


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Four quarters of different colours."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = QUARTERS[:2]
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = QUARTERS[2:]
    return Image.fromarray(pixels)


def noise(seed: int = 0) -> Image.Image:
    """A picture that no format can make small: cut anywhere, its file has lost something."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    """The file that Pillow makes of it."""
    file = io.BytesIO()
    image.copy().save(file, format, **options)
    return file.getvalue()


def turned(format: str, orientation: int) -> bytes:
    """The scene as a camera held otherwise would write it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> the transposition that it undoes
    stored = scene() if orientation == 1 else scene().transpose(Image.Transpose(back[orientation]))
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    return saved(stored, format, exif=exif, **options)


def png(rows: bytes, *, bits: int, colour: int, interlaced: bool = False) -> bytes:
    """A PNG of the scene's size with these filtered rows, of kinds that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def unfiltered(pixels: np.ndarray) -> bytes:
    """Rows of a PNG as they are."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def interlaced() -> bytes:
    """The scene's rows in the seven passes of Adam7."""
    pixels = np.asarray(scene())
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    return b"".join(unfiltered(pixels[top::down, left::across]) for top, left, down, across in steps)


def tiff(pixels: np.ndarray, sample_format: int) -> bytes:
    """A plain TIFF of three channels of any kind; 1: integers, 3: fractions."""
    height, width, channels = pixels.shape
    data, start = pixels.tobytes(), 8
    bits = start + len(data)
    formats = bits + 2 * channels
    tags = (
        *((256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, bits), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 4, 1, start), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1)),
        (339, 3, channels, formats),
    )
    arrays = struct.pack("<3H", *[pixels.itemsize * 8] * 3) + struct.pack("<3H", *[sample_format] * 3)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", formats + 2 * channels) + data + arrays + directory


def cuts(content: bytes) -> list[bytes]:
    """The file, broken off at many places."""
    return [content[: max(16, len(content) * part // 12)] for part in range(12)]


def scans(count: int) -> bytes:
    """A progressive JPEG that says the same again and again."""
    content = saved(scene(), "JPEG", progressive=True)
    first = content.rfind(b"\xff\xda")
    return content[:first] + content[first:-2] * count + b"\xff\xd9"


def bombs() -> list[bytes]:
    """Files of a few bytes whose headers promise 13,000 x 13,000 pixels."""
    jpeg = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG", progressive=True))
    place = jpeg.find(b"\xff\xc2")
    jpeg[place + 5 : place + 9] = struct.pack(">HH", 13_000, 13_000)
    small = bytearray(saved(Image.new("RGB", (16, 16)), "PNG"))
    small[16:24] = struct.pack(">II", 13_000, 13_000)
    small[29:33] = struct.pack(">I", zlib.crc32(bytes(small[12:29])))
    return [bytes(jpeg), bytes(small)]


def huge() -> bytes:
    """The header of a bitmap of 20,000 x 20,000 pixels, with nothing behind it."""
    header = bytearray(saved(Image.new("1", (8, 8)), "BMP"))
    header[18:22] = header[22:26] = (20_000).to_bytes(4, "little")
    return bytes(header)


def grey(colours: Sequence[tuple[int, int, int]] = QUARTERS) -> list[tuple[int, int, int]]:
    """The same in grey."""
    return [(value,) * 3 for value in (round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in colours)]


def mixed(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour between two."""
    red, green, blue = ((a + b) // 2 for a, b in zip(one, other, strict=True))
    return red, green, blue


def animated() -> dict[str, object]:
    """What a file of several pictures is saved with; Pillow writes notes on the pictures, so they are new each time."""
    return {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT), "blue")]}


def kinds() -> Mapping[str, Kind]:
    """Every kind by its name in the table of docs/images.md."""
    plain = scene()
    luma = np.asarray(plain.convert("L"))
    clear = plain.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, WIDTH // 2, HEIGHT // 2))  # the first quarter is a hole
    holed = ((255, 255, 255), *QUARTERS[1:])
    palette = plain.quantize(8)
    hole = palette.getpixel((0, 0))
    lab = None
    if features.check("littlecms2"):
        spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        lab = ImageCms.profileToProfile(plain, *spaces, outputMode="LAB")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if lab is not None else b"profile"
    photo = noise()
    avif, jpeg2000 = features.check("avif"), features.check("jpg_2000")
    deep = np.asarray(plain).astype(np.uint16) * 256 + 99
    half = saved(photo, "JPEG", quality=90)

    def read(*files: bytes, **more: object) -> Kind:
        return Kind(files=files, **more)

    def refused(reason: str, *files: bytes, **more: object) -> Kind:
        return Kind(files=files, reason=reason, **more)

    return {
        "JPEG": read(saved(plain, "JPEG", quality=95)),
        "JPEG, progressive": read(saved(plain, "JPEG", quality=95, progressive=True)),
        "JPEG in grey": read(saved(plain.convert("L"), "JPEG", quality=95), quarters=grey()),
        "JPEG in CMYK": read(saved(plain.convert("CMYK"), "JPEG", quality=95)),
        "JPEG with a colour profile": read(saved(plain, "JPEG", quality=95, icc_profile=profile)),
        "MPO: several photos in a JPEG, as phones write": read(saved(plain, "MPO", quality=95, **animated())),
        "turned by a camera: EXIF orientation 1 to 8": read(
            *(
                turned(format, way)
                for format in ("JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if avif else []))
                for way in range(1, 9)
            )
        ),
        "PNG": read(saved(plain, "PNG")),
        "PNG, interlaced": read(png(interlaced(), bits=8, colour=2, interlaced=True)),
        "PNG or GIF with a palette": read(saved(palette, "PNG"), saved(palette, "GIF")),
        "palette with a transparent colour": read(
            saved(palette, "PNG", transparency=hole), saved(palette, "GIF", transparency=hole), quarters=holed
        ),
        "transparency (alpha)": read(
            *(saved(clear, "PNG"), saved(clear, "WEBP", lossless=True), saved(clear, "TIFF")), quarters=holed
        ),
        "grey with transparency": read(
            saved(clear.convert("LA"), "PNG"), saved(clear.convert("LA"), "TIFF"), quarters=grey(holed)
        ),
        "grey": read(saved(plain.convert("L"), "PNG"), saved(plain.convert("L"), "TIFF"), quarters=grey()),
        "black and white, 1 bit": read(
            *(saved(plain.convert("L").point(lambda value: 255 * (value > 100)).convert("1"), "PNG"),),
            quarters=[(255 * (value[0] > 100),) * 3 for value in grey()],
        ),
        "16 bits a channel, grey": read(
            *(saved(Image.fromarray(luma.astype(np.uint16) * 256 + 99), name) for name in ("PNG", "TIFF")),
            quarters=grey(),
        ),
        "16 bits a channel, RGB": read(png(unfiltered(deep.byteswap()), bits=16, colour=2), tiff(deep, 1)),
        "animated GIF, WebP or PNG": read(
            *(saved(plain, "GIF", **animated()), saved(plain, "PNG", **animated())),
            saved(plain, "WEBP", lossless=True, **animated()),
        ),
        "WebP": read(saved(plain, "WEBP", quality=95), saved(plain, "WEBP", lossless=True)),
        "BMP": read(saved(plain, "BMP")),
        "TIFF, plain, compressed or BigTIFF": read(
            *(saved(plain, "TIFF", compression=way) for way in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")),
            saved(plain, "TIFF", big_tiff=True),
        ),
        "TIFF of several pages": read(saved(plain, "TIFF", **animated())),
        "TIFF in CMYK": read(saved(plain.convert("CMYK"), "TIFF")),
        "TIFF in YCbCr": read(saved(plain.convert("YCbCr"), "TIFF")),
        "TIFF in Lab": read(*([saved(lab, "TIFF")] if lab is not None else []), needs="littlecms2"),
        "TIFF of fractions from 0 to 1": read(
            saved(Image.fromarray(luma.astype(np.float32) / 255), "TIFF"), quarters=grey()
        ),
        "TIFF of fractions from 0 to 255": read(
            saved(Image.fromarray(luma.astype(np.float32)), "TIFF"), quarters=grey()
        ),
        "TIFF of 32-bit integers that 8 or 16 bits would hold": read(
            *(saved(Image.fromarray(luma.astype(np.int32) * factor), "TIFF") for factor in (1, 256)), quarters=grey()
        ),
        "AVIF": read(
            *([saved(plain, "AVIF", quality=90), saved(plain, "AVIF", quality=90, **animated())] if avif else []),
            needs="avif",
        ),
        "JPEG 2000": read(
            *([saved(plain, "JPEG2000", no_jp2=bare) for bare in (False, True)] if jpeg2000 else []), needs="jpg_2000"
        ),
        "one pixel": read(saved(Image.new("RGB", (1, 1), "red"), "PNG"), quarters=[(255, 0, 0)] * 4),
        "a pixel wide or high": read(
            saved(scene(2, 400).resize((1, 400)), "PNG"),
            quarters=[*[mixed(*QUARTERS[:2])] * 2, *[mixed(*QUARTERS[2:])] * 2],
        ),
        "a panorama of 60,000 x 2 pixels": read(saved(scene(60_000, 2), "PNG")),
        "any of these under a wrong suffix": read(saved(plain, "JPEG", quality=95)),
        "empty file": refused("empty file", b""),
        "nothing but zeros": refused("not a photo: it begins with nothing but zeros", bytes(5000)),
        "JPEG that ends early": refused("damaged", *cuts(half)),
        "JPEG that ends early, with its end marked": refused(
            "damaged: the file ends before the picture does", *(part + b"\xff\xd9" for part in cuts(half)[3:])
        ),
        "JPEG whose rest is zeros": refused(
            "damaged: the file ends before the picture does", *(part.ljust(len(half), b"\0") for part in cuts(half)[3:])
        ),
        "PNG, WebP, GIF, BMP or TIFF that ends early": refused(
            "damaged", *(cut for name in ("PNG", "WEBP", "GIF", "BMP", "TIFF") for cut in cuts(saved(photo, name)))
        ),
        "AVIF or JPEG 2000 that ends early": refused(
            "damaged",
            *(cuts(saved(photo, "AVIF"))[1:] if avif else []),
            *(
                cuts(saved(photo, "JPEG2000"))[1:] + cuts(saved(photo, "JPEG2000", tile_size=(40, 40)))
                if jpeg2000
                else []
            ),
            needs="avif",
        ),
        "more than 178,956,970 pixels": refused("too large", huge()),
        "a few bytes that promise a huge picture": refused("bytes cannot hold 13000 x 13000 pixels", *bombs()),
        "progressive JPEG of more than 100 scans": refused("damaged: a JPEG of more than 100 scans", scans(101)),
        "fractions of another range, or not a number": refused(
            "nothing says which is white",
            *(
                saved(Image.fromarray(luma.astype(np.float32) * factor), "TIFF")
                for factor in (1 / 100, 10, -1, float("nan"))
            ),
        ),
        "fractions in three channels": refused(
            "its kind of pixels is not read", tiff(np.asarray(plain).astype(np.float32), 3)
        ),
        "integers beyond 16 bits": refused(
            "its pixels are integers of more than 16 bits",
            *(saved(Image.fromarray(luma.astype(np.int32) * factor), "TIFF") for factor in (100_000, -1)),
        ),
        "HEIC": refused("HEIC is not read", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)),
        "JPEG XL": refused("JPEG XL is not read", b"\xff\x0a" + bytes(100), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100)),
        "a film": refused("a film, not a photo", b"\0\0\0\x18ftypisom\0\0\x02\0isommp41" + bytes(100)),
        "a web page": refused("a web page, not a photo", b"\n<!DOCTYPE html><html>404</html>", b"<html><body>"),
        "an SVG drawing": refused("an SVG drawing, not a photo", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        "a PDF": refused("a PDF, not a photo", b"%PDF-1.7\n%..."),
        "a Git LFS pointer": refused(
            "a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        ),
        "anything else": refused("not a photo", b"hello, this is a text", b"\0\1\2\3" * 30, b"PK\3\4" + bytes(40)),
    }
