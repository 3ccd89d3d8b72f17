"""Bring files through decoding and a network: in parallel, in order, in bounded memory.

Each thread reads, decodes and computes for itself, so no layer ends in a barrier between threads; on a GPU, where only
one may compute at a time, the others decode meanwhile.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.data.archive import Readable as Readable
from headstart.data.member import bytes_of
from headstart.machine import cores
from headstart.modalities.modality import Undecodable
from headstart.runtimes.runtime import Runner

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

# Results that wait while the consumer is busy, so that the threads work on while it writes to a slow disk.
AHEAD_BYTES = 16 * 10**6
AHEAD = (2, 32)  # the same in chunks a thread: at least, at most


@dataclass(frozen=True, slots=True)
class Chunk:
    """What came out for neighbouring files. `positions` of those that could be read, `failed`: the others' reasons."""

    positions: tuple[int, ...]
    values: Float[np.ndarray, "n ..."]
    failed: dict[int, str]


def run(
    paths: Sequence[Readable],
    decode: Callable[[bytes], UInt8[np.ndarray, "h w c"]],
    runner: Runner,
    *,
    workers: int | None = None,
) -> Iterator[Chunk]:
    """Chunks of results in the order of `paths`; every forward pass has the same shape, padded where files fail.

    One shape, because a compiled network wants it, and because a row's bits must not depend on how many came with it.
    A thread holds the pictures of one chunk at a time. What decoding or the runner raises comes out at its place.

    Args:
        paths: Files, each of which is asked for when it is its turn.
        decode: Turns bytes into a picture; all have the same shape.
        runner: Computes; at most `runner.concurrency` threads call it at a time.
        workers: Threads; by default one a core (`workers.chosen` finds a better number).
    """
    workers = workers or max(cores(), runner.concurrency)
    permits = threading.BoundedSemaphore(min(workers, runner.concurrency))

    def work(piece: range) -> Chunk:
        pictures = _Pictures(runner.chunk)
        failed: dict[int, str] = {}
        for position in piece:
            try:
                pictures.add(position, decode(bytes_of(paths[position])))
            except Undecodable as problem:
                failed[position] = str(problem)
            except OSError as problem:
                failed[position] = f"cannot be read: {problem.strerror or problem}"
        if not pictures.positions:
            return Chunk((), np.empty((0,), np.float32), failed)
        batch = pictures.padded()
        with permits:
            values = runner(batch)
        return Chunk(tuple(pictures.positions), values[: len(pictures.positions)], failed)

    size = runner.chunk
    pieces = (range(first, min(first + size, len(paths))) for first in range(0, len(paths), size))
    with runner.concurrent(workers), ThreadPoolExecutor(workers, thread_name_prefix="photos") as pool:

        def begun(number: int) -> list[Future[Chunk]]:
            return [pool.submit(work, piece) for piece in itertools.islice(pieces, max(0, number))]

        waiting = deque(begun(AHEAD[0] * workers))
        try:
            while waiting:
                chunk = waiting.popleft().result()
                waiting.extend(begun(_ahead(chunk, workers) - len(waiting)))
                yield chunk
        finally:
            for future in waiting:
                future.cancel()


class _Pictures:
    """The pictures of one chunk, copied to where the network reads them as soon as each is decoded."""

    def __init__(self, size: int) -> None:
        self.positions: list[int] = []  # of the files that the pictures come from
        self._size = size
        self._batch: UInt8[np.ndarray, "n h w c"] | None = None

    def add(self, position: int, picture: UInt8[np.ndarray, "h w c"]) -> None:
        if self._batch is None:
            # New for each chunk: a runner may keep it, or give it back as what crosses the first cut.
            self._batch = np.empty((self._size, *picture.shape), picture.dtype)
        self._batch[len(self.positions)] = picture
        self.positions.append(position)

    def padded(self) -> UInt8[np.ndarray, "n h w c"]:
        """All of the chunk's size; where files failed, the last picture again."""
        assert self._batch is not None
        self._batch[len(self.positions) :] = self._batch[len(self.positions) - 1]
        return self._batch


def _ahead(chunk: Chunk, workers: int) -> int:
    """How many chunks may be begun before the consumer has taken the next: few where they are large."""
    least, most = (number * workers for number in AHEAD)
    return min(most, max(least, AHEAD_BYTES // max(1, chunk.values.nbytes)))
