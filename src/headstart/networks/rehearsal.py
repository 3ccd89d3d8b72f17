"""Time a training step as often as it takes to see it warm, and choose what it computes in by that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from headstart.networks.network import Batch, Network, StepPrecision

ENOUGH = 3  # steps that are timed
PATIENCE = 3.0  # seconds after which one more step is the last
WORTH = 0.9  # of the time in fp32 that another precision may take at most to be chosen


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


def fastest(
    network: Network, batch: Batch, rates: Mapping[str, float] | None = None
) -> tuple[StepPrecision, dict[StepPrecision, float]]:
    """The precision in which to train, and the seconds of a step in each; arguments as for `Network.rehearse`.

    It hangs on a clock: a run keeps it as a decision, for a resumed run to take the same.
    """
    seconds = {each: network.rehearse(batch, rates, precision=each) for each in network.precisions}
    quickest = min(seconds, key=lambda each: seconds[each])
    return (quickest if seconds[quickest] <= WORTH * seconds["fp32"] else "fp32"), seconds
