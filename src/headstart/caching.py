"""Say what lies in the cache folder and delete it: features, and beside them whatever else can be made again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from headstart.places import cache_folder
from headstart.store import Beside, CacheUsage, Store

# Folder in the cache folder -> what it holds, and how the names in it look. Only such names are ever deleted: whoever
# has named a folder of their own in HEADSTART_CACHE may keep other things there.
_HASH = "[0-9a-f]{32}"
BESIDE: dict[str, tuple[str, re.Pattern[str]]] = {
    "pictures": ("pictures of data sets that have no files", re.compile(_HASH)),
    "pictures/content": ("the same, each once", re.compile(_HASH + r"(\.\w+)?")),
    "archives": ("archives, uncompressed", re.compile(_HASH + r"\.tar")),
    "runtimes": ("networks converted for OpenVINO", re.compile(_HASH + r"\.ir")),
    "quantised": ("networks in eight bits", re.compile(_HASH)),
    "served": ("bundles of runs that were served", re.compile(_HASH)),
}
_WRITING = re.compile(r"\..*\.part")  # left behind by a process that was killed


def usage() -> CacheUsage:
    """What lies there, without reading any of it.

    Raises:
        BadSetting: the limit is not a size.
    """
    found = (Beside(what=what, bytes=_size(name, names)) for name, (what, names) in BESIDE.items())
    return replace(Store.default().usage(), beside=tuple(each for each in found if each.bytes))


def clear() -> int:
    """Delete all of it; how many bytes that were.

    Raises:
        BadSetting: the limit is not a size.
    """
    freed = Store.default().clear()
    for name, (_, names) in BESIDE.items():
        freed += _size(name, names)
        for path in _entries(name, names):
            _delete(path)
        for path in _entries(name, _WRITING):
            _delete(path)
        with suppress(OSError):
            (cache_folder() / name).rmdir()
    with suppress(OSError):
        (cache_folder() / "pictures").rmdir()
    return freed


def _entries(name: str, names: re.Pattern[str]) -> Iterator[Path]:
    folder = cache_folder() / name
    with suppress(OSError):
        yield from (path for path in list(folder.iterdir()) if names.fullmatch(path.name))


def _size(name: str, names: re.Pattern[str]) -> int:
    """Bytes on the disk: a file with several names counts once, by a share for each."""
    total = 0.0
    for entry in _entries(name, names):
        for path in entry.rglob("*") if entry.is_dir() else (entry,):
            with suppress(OSError):
                if path.is_file():
                    status = path.stat()
                    total += status.st_size / max(1, status.st_nlink)
    return round(total)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()
