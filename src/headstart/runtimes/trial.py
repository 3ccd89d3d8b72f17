"""Try what could compute features on some pictures: how fast it is, and how far its features are from those wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from headstart.runtimes.runtime import Offer, Precision, Runner

# Largest difference from the framework's features in fp32, as a share of how much these differ between photos.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.08, "int8": 0.2}


@dataclass(frozen=True)
class Trial:
    """What a runner gave for some pictures, and how long it takes for one."""

    rows: Float[np.ndarray, "n ..."]
    seconds: float


def trial(runner: Runner, pictures: UInt8[np.ndarray, "n h w c"]) -> Trial:
    """Run these pictures, as many at a time as the runner likes; the first pass warms it up and is not timed."""
    took: list[float] = []
    lock = threading.Lock()

    def timed(chunk: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n ..."]:
        began = time.perf_counter()
        rows = runner(chunk)
        with lock:
            took.append(time.perf_counter() - began)
        return rows

    chunks = list(_chunks(pictures, runner.chunk))
    workers = min(runner.concurrency, max(1, len(chunks) - 1))
    with runner.concurrent(max(1, runner.concurrency)), ThreadPoolExecutor(workers, thread_name_prefix="trial") as pool:
        first = runner(chunks[0])
        rest = list(pool.map(timed, chunks[1:] or chunks))
    rows = np.concatenate([first, *(rest if len(chunks) > 1 else [])])[: len(pictures)]
    return Trial(rows, min(took) / runner.chunk / workers)


def _chunks(pictures: UInt8[np.ndarray, "n h w c"], size: int) -> Iterator[UInt8[np.ndarray, "n h w c"]]:
    for first in range(0, len(pictures), size):
        part = pictures[first : first + size]
        yield np.concatenate([part, *[part[-1:]] * (size - len(part))])


@dataclass(frozen=True)
class Comparison:
    """How far a way's features are from the framework's, and how much faster it is."""

    photos: int
    difference: float  # its norm, over that of how the framework's features differ from their mean over photos
    plain: float  # the same over the norm of the features themselves
    speed: float  # photos a second over the framework's

    def refusal(self, offer: Offer) -> str:
        """Why this way is not taken; empty where it is."""
        tolerance = TOLERANCES[offer.precision]
        if not np.isfinite(self.difference):
            return f"{offer} gives numbers that are not finite"
        if self.difference > tolerance:
            return f"{offer} differs by {percent(self.difference)}, more than {percent(tolerance)}"
        if self.speed < 1:
            return f"{offer} takes {1 / self.speed:.1f} times as long"
        return ""

    def __str__(self) -> str:
        return (
            f"{self.photos} photos agree to {percent(self.difference)} with the framework in fp32,"
            f" {self.speed:.1f} times as fast"
        )


def compare(truth: Trial, other: Trial) -> Comparison:
    """How far the features are from the true ones."""
    true = truth.rows.astype(np.float64)
    gap = float(np.linalg.norm(other.rows.astype(np.float64) - true))
    spread = float(np.linalg.norm(true - true.mean(axis=0)))
    size = float(np.linalg.norm(true))
    return Comparison(
        photos=len(true),
        difference=gap / spread if spread else (np.inf if gap else 0.0),
        plain=gap / size if size else (np.inf if gap else 0.0),
        speed=truth.seconds / other.seconds,
    )


def percent(share: float) -> str:
    """`0.6 %`: two digits that count, and no more than anybody wants to know."""
    return "less than 0.001 %" if 0 < share < 1e-5 else f"{100 * share:.2g} %"
