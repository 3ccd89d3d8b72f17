"""Write a file so that it is whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from headstart.errors import DiskFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def whole(path: Path, *, fix: str = "free some space and try again") -> Iterator[Path]:
    """Give a temporary path beside `path`; once it is written without an error it takes the place of `path`.

    Raises:
        DiskFull: there is no room; nothing is left behind, and what stood at `path` still does.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with room_for(path, fix=fix):
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def room_for(path: Path, *, fix: str) -> Iterator[None]:
    """Turn the system's errors for a full disk into ours.

    Raises:
        DiskFull: with the place and the space that is left.
    """
    try:
        yield
    except OSError as problem:
        # A library in between may have dropped the number and kept the words.
        if problem.errno not in _FULL and "No space left" not in str(problem):
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        raise DiskFull(f"no room to write {str(path)!r}: {free:.0f} MB are free there", fix=fix) from problem


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all; file names that are not UTF-8 come through unchanged.

    Raises:
        DiskFull: there is no room.
    """
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
