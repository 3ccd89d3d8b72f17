"""Keep what is dear to compute on disk: shelves of shards, found again by fingerprint, bounded in size.

    root/
    └── <fingerprint>/       a shelf: everything that one way of computing gave
        ├── meta.json        what it is, for humans
        ├── <…>-512-<…>.npy  rows of 512 items (see shards.py)
        └── <…>-3-<…>.json   reasons why 3 items gave nothing

Finished files never change and appear under their names whole, so any number of processes may share a store. The time
of a file's last change is the time of its last use. Where room is needed, what is large for each item goes first and
what was used last goes last: see `Store.trim`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from jaxtyping import Float

from headstart.errors import BadData, BadSetting, DiskFull
from headstart.places import FOLDER, cache_folder, make
from headstart.shards import Rows, intact, items_in, read_ids, write_blocks, write_rows
from headstart.writing import write_text

LIMIT = "HEADSTART_CACHE_LIMIT"
DEFAULT_LIMIT = 20 * 10**9  # bytes: four million photos of the default backbone
ABANDONED = 3600.0  # seconds after which a temporary file must be one of a killed process: writing takes less than one
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_META = "meta.json"


@dataclass(frozen=True, slots=True)
class ShelfUsage:
    """What one way of computing features takes on disk."""

    fingerprint: str
    what: str
    items: int
    bytes: int
    last_used: datetime


@dataclass(frozen=True, slots=True)
class Beside:
    """What the cache folder holds of one other kind."""

    what: str
    bytes: int


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """Where the cache lies and what it takes, the most recently used shelf first; and what lies beside it."""

    root: Path
    bytes: int
    limit: int
    shelves: tuple[ShelfUsage, ...]
    beside: tuple[Beside, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a shelf knows of the items asked for: rows, or the reason why there are none."""

    rows: Rows
    reasons: dict[str, str]


class Store:
    """A folder of shelves that together stay below `limit_bytes`, not counting what is in use."""

    def __init__(self, root: Path, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self._used: WeakSet[Rows] = WeakSet()  # rows that somebody still reads

    @classmethod
    def default(cls) -> Store:
        """The user's own: in `HEADSTART_CACHE` or the system's place for caches, up to `HEADSTART_CACHE_LIMIT`.

        Raises:
            BadSetting: the limit is not a size.
        """
        # A folder of its own: clearing must never come near what else a user keeps there.
        return cls(cache_folder() / "features", _bytes(os.environ.get(LIMIT) or str(DEFAULT_LIMIT)))

    def shelf(self, fingerprint: str, about: Mapping[str, Any]) -> Shelf:
        """The shelf of this fingerprint, made where there is none. `about["what"]` names it to humans.

        Raises:
            BadSetting: the folder cannot be written.
            DiskFull: there is no room.
        """
        return Shelf(self.root / fingerprint, about, self._used)

    def known(self, fingerprint: str, ids: Collection[str]) -> set[str]:
        """Which of these items the shelf of this fingerprint knows something of; its files are not checked."""
        wanted, folder = set(ids), self.root / fingerprint
        known: set[str] = set()
        for path in _files(folder):
            with suppress(OSError, ValueError, TypeError, RecursionError):  # damaged, or a stranger's
                known |= wanted.intersection(
                    json.loads(path.read_bytes()) if path.suffix == ".json" else read_ids(path) or ()
                )
        return known

    def usage(self) -> CacheUsage:
        """What lies here, without reading any of it."""
        shelves = [_usage(folder) for folder in self._shelves()]
        shelves.sort(key=lambda shelf: shelf.last_used, reverse=True)
        return CacheUsage(self.root, sum(shelf.bytes for shelf in shelves), self.limit_bytes, tuple(shelves))

    @property
    def room(self) -> int:
        """Bytes that may be asked for at once: half of the limit, or nine tenths of what is free on the disk."""
        folder = next(folder for folder in (self.root, *self.root.absolute().parents) if folder.exists())
        return int(min(self.limit_bytes / 2, 0.9 * shutil.disk_usage(folder).free))

    def clear(self) -> int:
        """Delete everything that this class wrote; how many bytes that were."""
        freed = 0
        for folder in self._shelves():
            for path in (*_files(folder), *_temporary(folder), folder / _META):
                freed += _delete(path)
            with suppress(OSError):
                folder.rmdir()
        return freed

    def trim(self, keep: Collection[Path] = ()) -> int:
        """Delete files until all fit into the limit, none of `keep` and none that is read; the bytes deleted.

        What goes first is what was unused for longest, times its bytes an item: the activations of a stage are needed
        by that stage and are fifty times as large as pooled features, which every run on the same photos begins with.
        """
        kept = {*keep, *(path for rows in list(self._used) for path in rows.paths)}
        now = time.time()
        freed = sum(
            _delete(path)
            for folder in self._shelves()
            for path in _temporary(folder)
            if now - _changed(path) > ABANDONED
        )
        files = [(*_stat(path), path) for folder in self._shelves() for path in _files(folder)]
        excess = sum(size for _, size, _ in files) - self.limit_bytes
        for _, path in sorted(((_burden(now - used, size, path), path) for used, size, path in files), reverse=True):
            if excess <= 0:
                break
            if path not in kept:
                deleted = _delete(path)
                excess -= deleted
                freed += deleted
        self._forget_empty(now)
        return freed

    def _forget_empty(self, now: float) -> None:
        for folder in self._shelves():
            # A young one may be empty because another process is about to fill it.
            if not any(folder.glob("*-*")) and now - _changed(folder / _META) > ABANDONED:
                _delete(folder / _META)
                with suppress(OSError):
                    folder.rmdir()

    def _shelves(self) -> list[Path]:
        return sorted(path.parent for path in self.root.glob(f"*/{_META}"))


class Shelf:
    """A folder of finished files about items, all computed in the same way."""

    def __init__(self, folder: Path, about: Mapping[str, Any], used: WeakSet[Rows]) -> None:
        self.folder = folder
        self.about = dict(about)
        self._used = used  # takes note of the rows that are given out
        self._make()

    def find(self, ids: Collection[str]) -> Found:
        """What is known of these items. A damaged file is deleted, and its items are simply not found."""
        wanted = set(ids)
        found = Found(Rows(), {})
        self._used.add(found.rows)
        for path in _files(self.folder):
            # Any file may be deleted by another process at any moment: then it is not found.
            with suppress(FileNotFoundError, BadData):
                if path.suffix == ".json":
                    self._find_reasons(path, wanted, found)
                else:
                    self._find_rows(path, wanted, found)
        return found

    def add(
        self, ids: Sequence[str], rows: Float[np.ndarray, "n ..."], found: Found, *, needed: int | None = None
    ) -> None:
        """Keep rows, and add them to what is `found`. `needed`: bytes of all that is still to come, for the error.

        Raises:
            DiskFull: there is no room; nothing is left behind.
        """
        self._make()
        with self._room(needed or rows.nbytes):
            path = write_rows(self.folder, ids, rows)
        found.rows.add(path, enumerate(ids))

    def drop(self, paths: Collection[Path]) -> None:
        """Delete files of this shelf, whoever reads them still."""
        for path in paths:
            _delete(path)

    def add_reasons(self, reasons: Mapping[str, str], found: Found) -> None:
        """Keep the reasons why items give nothing, so that they are not tried again.

        Raises:
            DiskFull: there is no room; nothing is left behind.
        """
        content = json.dumps(dict(reasons), indent=1, ensure_ascii=False).encode(errors="replace")
        self._make()
        with self._room(len(content)):
            write_blocks(self.folder, list(reasons), [content], ".json")
        found.reasons.update(reasons)

    def _find_rows(self, path: Path, wanted: set[str], found: Found) -> None:
        ids = read_ids(path)
        here = [(row, id) for row, id in enumerate(ids or ()) if id in wanted and id not in found.rows]
        # Read as a whole only when it is needed: a shelf may be much larger than this data set.
        if ids is None or (here and not intact(path)):
            _delete(path)
        elif here:
            found.rows.add(path, here)
            os.utime(path)

    def _find_reasons(self, path: Path, wanted: set[str], found: Found) -> None:
        told = _reasons(path) if intact(path) else None
        if told is None:
            _delete(path)
            return
        here = {id: reason for id, reason in told.items() if id in wanted}
        if here:
            found.reasons.update(here)
            os.utime(path)

    def _make(self) -> None:
        with self._room(len(self.about)):
            make(self.folder)
            if not (self.folder / _META).exists():
                write_text(self.folder / _META, json.dumps(self.about, indent=1) + "\n")

    @contextmanager
    def _room(self, needed: int) -> Iterator[None]:
        root = self.folder.parent
        try:
            yield
        except DiskFull as problem:
            free = shutil.disk_usage(self.folder).free
            raise DiskFull(
                f"no room for features in the cache {str(root)!r}: {readable(needed)} needed, {readable(free)} free",
                fix=f"free some space, or set {FOLDER} to a folder on a larger disk; what is finished is kept",
            ) from problem
        except OSError as problem:
            raise BadSetting(
                f"the cache {str(root)!r} cannot be written: {problem.strerror or problem}",
                fix=f"set {FOLDER} to a folder that you may write to",
            ) from problem


def readable(size: int) -> str:
    """A number of bytes for humans: `3.1 MB`."""
    number, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.1f} {unit}"


def _burden(unused: float, size: int, path: Path) -> float:
    """Seconds without use, times bytes an item."""
    return max(1.0, unused) * size / max(1, items_in(path) or 0)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmgt]?)b?", text.strip().lower())
    if not match:
        raise BadSetting(f"{LIMIT} is {text!r}, which is no size", fix="write it like 500MB or 20GB")
    return int(float(match[1]) * _UNITS[match[2]])


def _reasons(path: Path) -> dict[str, str] | None:
    """Why photos could not be read, by their ids; None where the file says something else."""
    try:
        told = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    plain = isinstance(told, dict) and all(isinstance(reason, str) for reason in told.values())
    return told if plain else None


def _usage(folder: Path) -> ShelfUsage:
    try:
        what = str(json.loads((folder / _META).read_bytes())["what"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        what = "unknown"
    files = _files(folder)
    stats = [_stat(path) for path in files]
    return ShelfUsage(
        fingerprint=folder.name,
        what=what,
        items=sum(items_in(path) or 0 for path in files),
        bytes=sum(size for _, size in stats),
        last_used=datetime.fromtimestamp(max((used for used, _ in stats), default=_changed(folder / _META)), UTC),
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9a-f]*-*") if items_in(path) is not None)


def _temporary(folder: Path) -> list[Path]:
    return list(folder.glob(".*.part"))


def _stat(path: Path) -> tuple[float, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0.0, 0
    return stat.st_mtime, stat.st_size


def _changed(path: Path) -> float:
    return _stat(path)[0]


def _delete(path: Path) -> int:
    size = _stat(path)[1]
    try:
        path.unlink()
    except OSError:
        return 0  # already gone, or held open by a process on a system that then refuses
    return size
