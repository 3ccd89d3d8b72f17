"""Read one member of a zip or tar where it lies, piece by piece, never more of it than the archive says there is."""

from __future__ import annotations

import bz2
import functools
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

BLOCK = 1 << 18  # bytes in memory at a time
LARGEST = 1 << 30  # bytes of a photo: none has more, and it has to fit into memory
_LOCAL = struct.Struct("<4s22xHH")  # of a member's own header in a zip: its mark, and the lengths of name and extra

Packing = Literal["stored", "deflated", "bzip2"]


class Readable(Protocol):
    """A `Path`, or whatever else its bytes come from. Its text is its name."""

    def read_bytes(self) -> bytes:
        """All of them.

        Raises:
            OSError: they cannot be read.
        """


def bytes_of(file: Readable) -> bytes:
    """The whole content of a photo's file: whoever named it may have named what never ends, a pipe or a device.

    Raises:
        OSError: it cannot be read, or is no file that ends.
    """
    if isinstance(file, Path):
        told = file.stat()
        if not stat.S_ISREG(told.st_mode):
            raise OSError(None, "it is no plain file")
        if told.st_size > LARGEST:
            raise OSError(None, "it is larger than any photo")
    return file.read_bytes()


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive."""

    archive: Path  # as the user named it
    file: Path  # that is read: the same, or what a compressed tar was unpacked to
    name: str  # with forward slashes, relative to the top of the archive
    start: int  # of its content, or in a zip of its header
    packed: int  # bytes in the archive
    size: int  # bytes unpacked, as the archive says
    packing: Packing = "stored"
    checksum: int | None = None  # CRC-32 of the unpacked bytes; a zip's member has one

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read_bytes(self) -> bytes:
        """The unpacked content.

        Raises:
            OSError: the archive is gone, has changed or is damaged here.
        """
        return b"".join(self.blocks())

    def blocks(self) -> Iterator[bytes]:
        """The unpacked content piece by piece; never more than the archive says it is.

        Raises:
            OSError: as `read_bytes`.
        """
        try:
            with self.file.open("rb") as file:
                file.seek(self.start)
                if self.checksum is not None:
                    _skip_header(file)
                yield from _checked(_unpacked(file, self), self)
        except (ValueError, EOFError, zlib.error) as problem:
            raise OSError(None, f"it is damaged in the archive: {problem}") from problem


def _skip_header(file: BinaryIO) -> None:
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        raise EOFError("it is cut short")
    mark, name, extra = _LOCAL.unpack(header)
    if mark != b"PK\x03\x04":
        raise ValueError("its header is not where the archive says")
    file.seek(name + extra, os.SEEK_CUR)


def _unpacked(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """Pieces of at most `BLOCK` bytes, so that a bomb bursts in small bits and is noticed at the first."""
    left = member.packed
    expand = _expander(member.packing)
    while left:
        piece = file.read(min(left, BLOCK))
        if not piece:
            raise EOFError("it is cut short")
        left -= len(piece)
        yield from expand(piece)


def _expander(packing: Packing) -> Callable[[bytes], Iterator[bytes]]:
    if packing == "deflated":
        return functools.partial(_inflate, zlib.decompressobj(-zlib.MAX_WBITS))
    if packing == "bzip2":
        return functools.partial(_bunzip, bz2.BZ2Decompressor())
    return lambda piece: iter((piece,))


def _inflate(stream: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    while piece and not stream.eof:
        yield stream.decompress(piece, BLOCK)
        piece = stream.unconsumed_tail


def _bunzip(stream: bz2.BZ2Decompressor, piece: bytes) -> Iterator[bytes]:
    while not stream.eof:
        block = stream.decompress(piece, BLOCK)
        yield block
        piece = b""
        if stream.needs_input:
            return


def _checked(pieces: Iterator[bytes], member: Member) -> Iterator[bytes]:
    size = checksum = 0
    for piece in pieces:
        size += len(piece)
        if size > member.size:
            raise ValueError("it is larger than the archive says")
        checksum = zlib.crc32(piece, checksum)
        yield piece
    if size < member.size:
        raise ValueError("it is smaller than the archive says")
    if member.checksum not in (None, checksum):
        raise ValueError("its checksum is wrong")
