"""Find how many threads keep a processor, or a GPU, busy with these photos: by measuring a few of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from headstart.data.archive import Readable
from headstart.data.member import bytes_of
from headstart.modalities.modality import Undecodable
from headstart.runtimes.runtime import Runner

SAMPLED = 16  # files that are read and decoded, from all over the data set
SECONDS = 0.5  # after which no more are begun: files on a slow disk show it soon
SLIGHT = 0.1  # waiting of so little of the time that a photo needs is not worth another thread
SPARE = 1.5  # times as many decoders as a GPU needs by the measurement, which may be wrong
MOST = 8  # threads a core: each holds a photo at its full size


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that one photo takes."""

    waiting: float  # a thread waits for the bytes of its file
    decoding: float  # of processor time, reading included
    computing: float  # of one core in the network; on a GPU, of the GPU


def chosen(
    files: Sequence[Readable],
    decode: Callable[[bytes], UInt8[np.ndarray, "h w c"]],
    opened: Callable[[], Runner],
    *,
    cores: int,
    gpu: bool = False,
) -> tuple[int, str]:
    """How many threads are to read, decode and compute, and why.

    Args:
        files: Photos of the data set, of which a few are read.
        decode: Turns bytes into the network's picture.
        opened: Gives what will compute. It is asked only where its pace matters: where files come slowly, or on a GPU.
        cores: Of this machine, or the network's own threads where it has more.
        gpu: Whether the network has something else than the cores to compute on.
    """
    seen = list(_sampled(files, decode))
    if not seen:
        return cores, "cores of this machine"
    waiting = statistics.median(waited for waited, _, _ in seen)
    decoding = statistics.fmean(took for _, took, _ in seen)
    if not gpu and waiting <= SLIGHT * decoding:
        return cores, "cores of this machine; files come without waiting"
    computing = _computing(opened(), seen[0][2])
    return needed(Pace(waiting, decoding, computing), cores=cores, gpu=gpu)


def needed(pace: Pace, *, cores: int, gpu: bool) -> tuple[int, str]:
    """The number of threads for this pace, and why.

    Where network and decoders share the cores, each thread is to be joined by as many as work while it waits for a
    file. A GPU wants so many that all but one can decode while one computes.
    """
    if not gpu:
        busy = pace.decoding + pace.computing
        number = cores if pace.waiting <= SLIGHT * busy else round(cores * (1 + pace.waiting / busy))
        took = f"a photo waits {_told(pace.waiting)} for its file and keeps a core busy for {_told(busy)}"
        return min(number, MOST * cores), took
    preparing = pace.waiting + pace.decoding
    wanted = 1 + math.ceil(SPARE * preparing / pace.computing)
    # More than the cores only as far as threads wait for files instead of decoding; two even on one core.
    room = max(2, min(MOST * cores, round(cores * preparing / pace.decoding)))
    took = f"a photo takes {_told(preparing)} to read and decode and {_told(pace.computing)} on the GPU"
    return max(2, min(wanted, room)), took + (", more than the cores can feed" if wanted > room else "")


def _sampled(
    files: Sequence[Readable], decode: Callable[[bytes], UInt8[np.ndarray, "h w c"]]
) -> Iterator[tuple[float, float, UInt8[np.ndarray, "h w c"]]]:
    """Of each file that can be read: seconds waited for it, processor seconds that it took, and its picture."""
    began = time.perf_counter()
    for position in np.linspace(0, len(files) - 1, min(SAMPLED, len(files)), dtype=int):
        if time.perf_counter() - began > SECONDS:
            return
        wall, busy = time.perf_counter(), time.thread_time()
        try:
            content = bytes_of(files[int(position)])
            waited = (time.perf_counter() - wall) - (time.thread_time() - busy)
            picture = decode(content)
        except (Undecodable, OSError):
            continue  # the extraction will say so
        yield waited, time.thread_time() - busy, picture


def _computing(runner: Runner, picture: UInt8[np.ndarray, "h w c"]) -> float:
    """Seconds that it takes for a photo, each thread with its share of the cores; the first pass warms it up."""
    batch = np.stack([picture] * runner.chunk)
    took = []
    with runner.concurrent(runner.concurrency):
        for _ in range(3):
            began = time.perf_counter()
            runner(batch)
            took.append(time.perf_counter() - began)
    return min(took[1:]) / runner.chunk


def _told(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{1000 * seconds:.0f} ms"
