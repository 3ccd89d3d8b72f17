"""Tell an image's format from its first bytes; the suffix of a file's name says nothing."""

from __future__ import annotations

from typing import Literal

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]  # Pillow's own names
FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
HEAD = 64  # bytes that are enough to decide

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),  # BigTIFF
    (b"MM\x00+", "TIFF"),
)
# What else is often found under a photo's name, and the way out.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the photo itself (git lfs pull fetches it)"),
    (b"<!doctype html", "a web page, not a photo"),
    (b"<html", "a web page, not a photo"),
    (b"<svg", "an SVG drawing, not a photo"),
    (b"%pdf", "a PDF, not a photo"),
    (b"\xff\x0a", "JPEG XL is not read (save it as JPEG or PNG)"),
    (b"\x00\x00\x00\x0cjxl ", "JPEG XL is not read (save it as JPEG or PNG)"),
)
_BRANDS = {  # of the container that HEIC, AVIF and films share
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}  # lengths that a BMP's second header may have


def sniff(head: bytes) -> Format | None:
    """The format of a file that begins with these bytes (`HEAD` of them are enough); None: no format that is read."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # "BM" alone would take any text that begins so.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return None


def refusal(head: bytes) -> str | None:
    """Why a file that begins with these bytes is no usable photo; None where it may be one."""
    if not head:
        return "empty file"
    if sniff(head):
        return None
    if head[4:8] == b"ftyp":
        name = _BRANDS.get(head[8:12])
        return f"{name} is not read (save it as JPEG or PNG)" if name else "a film, not a photo"
    for start, reason in _STRANGERS:
        if head.lstrip().lower().startswith(start):
            return reason
    return "not a photo: its content is none of JPEG, PNG, WebP, GIF, BMP, TIFF"
