"""Keep a moving average of weights: how long it remembers, and how it stands in for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


def decay(longest: float, step: int) -> float:
    """What the average keeps of itself at this step, counted from 1.

    A short memory at first: a long one would hold on to the weights from before training.
    """
    return min(longest, (1 + step) / (10 + step))


@contextlib.contextmanager
def swapped(swap: Callable[[], None]) -> Iterator[None]:
    """Swap weights and average for as long as it is open."""
    swap()
    try:
        yield
    finally:
        swap()
