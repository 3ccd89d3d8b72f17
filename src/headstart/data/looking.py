"""Look at every photo once: sizes, sharpness and thumbnails, out of the cache or from its bytes, a thread a core."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from headstart.data.archive import Readable
from headstart.data.contents import content
from headstart.events import Progress
from headstart.machine import cores
from headstart.modalities.look import FACTS, fingerprint, look
from headstart.modalities.modality import Undecodable
from headstart.shards import Rows
from headstart.store import Found, Shelf, Store

PIECE = 32  # photos that a thread takes at a time
SHARD = 4096  # rows, of 4 kB each, that wait in memory until they are written
BLOCK = 512  # rows that are read at a time: their thumbnails fit into a processor's own memory

Files = Mapping[str, Sequence[Readable]]  # id -> wherever its bytes lie


@dataclass(frozen=True)
class Looks:
    """What is known of each photo by its id: rows of `modalities.look`, and reasons where there is none."""

    ids: tuple[str, ...]
    reasons: Mapping[str, str]
    _rows: Rows = field(repr=False)

    def __contains__(self, id: str) -> bool:
        return id in self._rows

    def take(self, ids: Sequence[str]) -> Float[np.ndarray, "n width"]:
        """A copy of the rows of these photos.

        Raises:
            KeyError: there is none of an id.
        """
        return self._rows.take(ids)

    def blocks(self) -> Iterator[Float[np.ndarray, "n width"]]:
        """All rows in the order of `ids`, some thousands at a time."""
        for start in range(0, len(self.ids), BLOCK):
            yield self.take(self.ids[start : start + BLOCK])

    def facts(self) -> Float[np.ndarray, "n 4"]:
        """The `FACTS` of every photo in the order of `ids`."""
        parts = [rows[:, : len(FACTS)].copy() for rows in self.blocks()]
        return np.concatenate(parts) if parts else np.empty((0, len(FACTS)), np.float32)


def look_at(
    files: Files, store: Store, *, max_pixels: int | None = None, workers: int | None = None
) -> Generator[Progress, None, Looks]:
    """Looks at all these photos, of which only the missing ones are decoded.

    Raises:
        DiskFull: the store has no room left.
        BadSetting: the store cannot be written.
    """
    rules = fingerprint(max_pixels)
    shelf = store.shelf(
        hashlib.blake2b(rules.encode(), digest_size=16).hexdigest(), {"what": "looks at photos", "decoding": rules}
    )
    found = shelf.find(files)
    missing = [id for id in files if id not in found.rows and id not in found.reasons]
    lost: dict[str, str] = {}
    done = len(files) - len(missing)
    if missing:
        yield Progress(what="photos looked at", done=done, total=len(files))
        with closing(_look_at(files, missing, shelf, found, lost, max_pixels, workers or cores())) as counts:
            for count in counts:
                yield Progress(what="photos looked at", done=done + count, total=len(files))
        store.trim(found.rows.paths)
    reasons = {id: reason for id in files if (reason := found.reasons.get(id) or lost.get(id))}
    return Looks(tuple(id for id in files if id in found.rows), reasons, found.rows)


@dataclass(slots=True)
class _Piece:
    """What came of some photos. `lost`: files that could not be read, which another time may be."""

    rows: dict[str, Float[np.ndarray, "width"]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def add(self, other: _Piece) -> None:
        self.rows |= other.rows
        self.reasons |= other.reasons
        self.lost |= other.lost

    def write(self, shelf: Shelf, found: Found) -> None:
        """Put what there is on the shelf."""
        reasons, self.reasons = self.reasons, {}
        rows, self.rows = self.rows, {}
        if reasons:
            shelf.add_reasons(reasons, found)
        if rows:
            shelf.add(list(rows), np.stack(list(rows.values())), found)


def _look_at(
    files: Files,
    ids: Sequence[str],
    shelf: Shelf,
    found: Found,
    lost: dict[str, str],
    max_pixels: int | None,
    workers: int,
) -> Generator[int, None, None]:
    """Look, and write what was seen; tells how many photos are through."""
    pending = _Piece()
    through = 0
    pieces = (ids[first : first + PIECE] for first in range(0, len(ids), PIECE))
    try:
        with closing(_in_threads(lambda some: _piece(files, some, max_pixels), pieces, workers)) as seen:
            for piece in seen:
                through += len(piece.rows) + len(piece.reasons) + len(piece.lost)
                pending.add(piece)
                if len(pending.rows) >= SHARD:
                    pending.write(shelf, found)
                yield through
    finally:
        # Also when the consumer leaves early: what was seen is kept.
        pending.write(shelf, found)
        lost |= pending.lost


def _in_threads(
    work: Callable[[Sequence[str]], _Piece], pieces: Iterator[Sequence[str]], workers: int
) -> Generator[_Piece, None, None]:
    """What the work makes of each piece, in order; few wait at a time."""
    with ThreadPoolExecutor(workers, thread_name_prefix="looks") as pool:
        first = itertools.islice(pieces, 2 * workers)
        waiting: deque[Future[_Piece]] = deque(pool.submit(work, piece) for piece in first)
        try:
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(work, piece) for piece in itertools.islice(pieces, 1))
                yield done
        finally:
            for future in waiting:
                future.cancel()


def _piece(files: Files, ids: Sequence[str], max_pixels: int | None) -> _Piece:
    piece = _Piece()
    for id in ids:
        try:
            piece.rows[id] = look(content(id, files[id]), max_pixels=max_pixels)
        except Undecodable as problem:
            piece.reasons[id] = str(problem)
        except OSError as problem:
            piece.lost[id] = f"cannot be read: {problem.strerror or problem}"
    return piece
