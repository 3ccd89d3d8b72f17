"""Time a training step as often as it takes to see it warm."""

from __future__ import annotations

import time
from collections.abc import Callable

ENOUGH = 3  # steps that are timed
PATIENCE = 0.6  # seconds after which one more step is the last


def lowest(step: Callable[[], object]) -> float:
    """The fewest seconds that a step took, not counting the first, which makes what the others find ready.

    Others may want the processor meanwhile: the lowest of a few is what the step itself takes.
    """
    began = time.monotonic()
    step()
    times: list[float] = []
    while not times or (len(times) < ENOUGH and time.monotonic() - began < PATIENCE):
        before = time.monotonic()
        step()
        times.append(time.monotonic() - before)
    return min(times)
