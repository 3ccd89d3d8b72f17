"""Time a training step as often as it takes to see it warm, and leave no trace of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from headstart.networks.network import Batch, Network, StepPrecision

ENOUGH = 3  # steps that are timed
PATIENCE = 0.6  # seconds after which one more step is the last


class Undoable(Protocol):
    """What a framework's trainer has to be able to do."""

    precision: StepPrecision

    def undone(self) -> AbstractContextManager[None]:
        """What thawing and stepping change within is put back, to the bit."""

    def values_kept(self) -> AbstractContextManager[None]:
        """What steps change within is put back, to the bit."""


def rehearsed(
    network: Network, trainer: Undoable, batch: Batch, rates: Mapping[str, float] | None, precision: StepPrecision
) -> float:
    """Seconds of a step of this network, whose trainer this is; see `Network.rehearse`."""
    with trainer.undone():
        if rates is not None:
            network.thaw(rates)
        trainer.precision = precision
        with trainer.values_kept():
            return lowest(lambda: network.read([network.step(batch, scale=1.0, key=0)]))


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
