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

import numpy as np
from jaxtyping import Float, UInt8

from headstart.data.archive import Readable as Readable
from headstart.machine import cores
from headstart.modalities.modality import Undecodable
from headstart.runtimes.runtime import Runner


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
    """
    workers = workers or max(cores(), runner.concurrency)
    permits = threading.BoundedSemaphore(min(workers, runner.concurrency))

    def work(positions: range) -> Chunk:
        pictures: list[UInt8[np.ndarray, "h w c"]] = []
        good: list[int] = []
        failed: dict[int, str] = {}
        for position in positions:
            try:
                pictures.append(decode(paths[position].read_bytes()))
                good.append(position)
            except Undecodable as problem:
                failed[position] = str(problem)
            except OSError as problem:
                failed[position] = f"cannot be read: {problem.strerror or problem}"
        if not good:
            return Chunk((), np.empty((0,), np.float32), failed)
        batch = np.stack(pictures + [pictures[-1]] * (runner.chunk - len(pictures)))
        with permits:
            values = runner(batch)
        return Chunk(tuple(good), values[: len(good)], failed)

    with runner.concurrent(workers), ThreadPoolExecutor(workers, thread_name_prefix="photos") as pool:
        size = runner.chunk
        pieces = (range(first, min(first + size, len(paths))) for first in range(0, len(paths), size))
        waiting: deque[Future[Chunk]] = deque(
            pool.submit(work, piece) for piece in itertools.islice(pieces, 2 * workers)
        )
        try:
            while waiting:
                chunk = waiting.popleft().result()
                waiting.extend(pool.submit(work, piece) for piece in itertools.islice(pieces, 1))
                yield chunk
        finally:
            for future in waiting:
                future.cancel()
