"""Take the compression off a tar file, once: into the cache folder, as one plain tar that is read in place.

No member is ever written under a name of its own, so no name in the archive can lead anywhere.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import zlib
from pathlib import Path
from typing import IO, Any

from headstart.errors import BadData, BadSetting, DiskFull
from headstart.places import FOLDER, cache_folder, make
from headstart.writing import room_for, whole

SWELLING = 200  # times its own size that a tar may unpack to: photos hardly pack at all
LEAST = 1 << 26  # bytes that any tar may unpack to
TOTAL = 100 * 10**9  # bytes that unpacked tars take in the cache folder, but for the one that is wanted
SPARE = 1 << 28  # bytes left free on the disk
BLOCK = 1 << 20

_OPENERS: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)


def plain(path: Path) -> Path:
    """A tar without compression that holds the same: the file itself, or one in the cache folder.

    Raises:
        BadData: the file is damaged, or unpacks to more than it can honestly hold.
        BadSetting: the cache folder cannot be written.
        DiskFull: there is no room.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(8)
    opener = next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)
    if opener is None:
        return path
    status = path.stat()
    name = f"{path.absolute()} {status.st_size} {status.st_mtime_ns}".encode(errors="surrogateescape")
    target = cache_folder() / "archives" / f"{hashlib.blake2b(name, digest_size=16).hexdigest()}.tar"
    if target.exists():
        os.utime(target)  # it was used last
        return target
    fix = f"set {FOLDER} to a folder that you may write to, on a disk with room, or give the tar uncompressed"
    try:
        with room_for(target, fix=fix):
            make(target.parent)
            _trim(target.parent)
            _unpack(path, opener, target, fix)
    except _Unwritable as problem:
        raise BadSetting(f"the cache {str(target.parent)!r} cannot be written: {problem}", fix=fix) from problem
    return target


class _Unwritable(Exception):
    """The cache folder, not the archive, is at fault."""


def _unpack(path: Path, opener: Any, target: Path, fix: str) -> None:
    limit = max(LEAST, SWELLING * path.stat().st_size)
    written = 0
    with whole(target, fix=fix) as unfinished, _opened(unfinished) as out, opener(path, "rb") as packed:
        while block := _read(packed, path):
            written += len(block)
            if written > limit:
                raise BadData(
                    f"archive {str(path)!r} unpacks to more than {SWELLING} times its size: no set of photos does",
                    fix="do not use it, and mistrust where it comes from",
                )
            if written % (64 * BLOCK) < BLOCK and shutil.disk_usage(target.parent).free < SPARE:
                raise DiskFull(f"no room to unpack {str(path)!r} into {str(target.parent)!r}", fix=fix)
            out.write(block)


def _opened(path: Path) -> Any:
    try:
        return path.open("wb")
    except PermissionError as problem:
        raise _Unwritable(problem.strerror) from problem


def _read(packed: IO[bytes], path: Path) -> bytes:
    try:
        return packed.read(BLOCK)
    except (EOFError, zlib.error, lzma.LZMAError, ValueError) as problem:
        raise _damaged(path, problem) from problem
    except OSError as problem:
        # These libraries call damage an OSError without a number.
        if problem.errno is not None:
            raise
        raise _damaged(path, problem) from problem


def _damaged(path: Path, problem: Exception) -> BadData:
    return BadData(f"archive {str(path)!r} is damaged: {problem}", fix="copy or download it again")


def _trim(folder: Path) -> None:
    """Remove those that were used longest ago until the rest fit."""
    room = TOTAL
    kept = sorted(folder.glob("*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in kept:
        room -= path.stat().st_size
        if room < 0:
            path.unlink(missing_ok=True)
