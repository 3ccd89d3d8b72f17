"""Write pixels as a PNG file, whose bytes are the same for the same pixels on every machine and for ever."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

CHANNELS = {1: 0, 3: 2, 4: 6}  # grey, RGB, RGBA -> PNG's number for it
_BLOCK = 0xFFFF  # the longest that deflate allows for a stored block


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels in memory that are read like a file."""

    pixels: UInt8[np.ndarray, "h w c"]

    def read_bytes(self) -> bytes:
        """The PNG file."""
        return encode(self.pixels)


def encode(pixels: UInt8[np.ndarray, "h w c"]) -> bytes:
    """A PNG file of one, three or four channels, lossless and not compressed.

    Not compressed, because compressors change from version to version: the hash of a file's bytes decides its split,
    and the same pixels must not fall elsewhere after an update. It also takes a fiftieth of the time.
    """
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, width * channels)
    header = struct.pack(">IIBBBBB", width, height, 8, CHANNELS[channels], 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", _stored(rows.tobytes())), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return b"".join((struct.pack(">I", len(content)), name, content, struct.pack(">I", checksum)))


def _stored(content: bytes) -> bytes:
    """A zlib stream that holds the content as it is."""
    return b"".join((b"\x78\x01", *_blocks(content), struct.pack(">I", zlib.adler32(content))))


def _blocks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _BLOCK):
        block = content[start : start + _BLOCK]
        last = start + _BLOCK >= len(content)
        yield struct.pack("<BHH", last, len(block), len(block) ^ _BLOCK) + block
