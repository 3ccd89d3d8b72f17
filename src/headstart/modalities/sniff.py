"""Tell an image's format from its first bytes; the suffix of a file's name says nothing."""

from __future__ import annotations

from typing import Literal

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"]  # Pillow's own names
FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
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
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),  # the same without its container
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
_AVIF = {b"avif", b"avis"}  # brands of the container that AVIF, HEIC and films share
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
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
    return "AVIF" if _AVIF & _brands(head) else None


def refusal(head: bytes) -> str | None:
    """Why a file that begins with these bytes is no usable photo; None where it may be one."""
    if not head:
        return "empty file"
    if sniff(head):
        return None
    if brands := _brands(head):
        return "HEIC is not read (save it as JPEG or PNG)" if brands & _HEIC else "a film, not a photo"
    for start, reason in _STRANGERS:
        if head.lstrip().lower().startswith(start):
            return reason
    if not head[:HEAD].strip(b"\0"):
        return "not a photo: it begins with nothing but zeros (a copy that failed?)"
    return "not a photo: its content is none of JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000"


def _brands(head: bytes) -> set[bytes]:
    """What a file in the container of AVIF, HEIC and films says it is: its main brand first, then all it can be."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), HEAD, len(head))
    return {head[8:12], *(head[place : place + 4] for place in range(16, end - 3, 4))}
