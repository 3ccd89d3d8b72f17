"""Tell two answerers apart by the same photos: how much more often one is right, and what of that may be luck."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headstart.evaluation.metrics import NORMAL

SURE = 2.5758293035489004  # 99 % of a standard normal variable lie within this distance of 0
CROSSING = 0.005  # of accuracy, for each doubling to come: learning curves cross


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of accuracies and its standard error."""

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """What it is with 95 % confidence."""
        return self.between(NORMAL)

    def between(self, quantile: float) -> tuple[float, float]:
        """The same for another quantile of the normal distribution; within [-1, 1]."""
        reach = quantile * self.error
        return max(-1.0, self.value - reach), min(1.0, self.value + reach)

    @property
    def noise(self) -> bool:
        """Whether the interval holds zero."""
        low, high = self.interval
        return low <= 0 <= high


def difference(
    one: Float[np.ndarray, "n"],
    other: Float[np.ndarray, "n"],
    families: Sequence[str],
    weights: Float[np.ndarray, "n"] | None = None,
) -> Difference:
    """Accuracy of `one` less that of `other`: 1 where an answer is right, 0 where it is not, NaN where there is none.

    Photos of a family are one observation, since they are right or wrong together. Two imagined photos, of which each
    side wins a half, keep the interval honest where few answers differ (Agresti and Min 2005).
    """
    there = ~(np.isnan(one) | np.isnan(other))
    shares = np.ones(len(one)) if weights is None else np.asarray(weights, dtype=np.float64)
    shares = shares[there] / shares[there].mean()
    gains = (one - other)[there]
    value = float(shares @ gains) / len(gains)
    _, family = np.unique(np.asarray(families)[there], return_inverse=True)
    sums = np.bincount(family, shares * (gains - value))
    return Difference(value, math.sqrt(float(sums @ sums) + 1) / (len(gains) + 2))


def hopeless(behind: Difference, doublings: int, dear: bool = False) -> bool:
    """Whether what has this difference to the best so far is not worth judging by more photos, in so many doublings.

    99 % instead of 95, since with every doubling it is asked again, and of every candidate; and some room for learning
    curves that cross. But for what is `dear` 95 % are enough: to look closer would cost more than all the others.
    """
    if dear:
        return behind.interval[1] < 0
    return behind.between(SURE)[1] < -CROSSING * doublings
