"""Solve the linear head exactly on cached features, and say how it does on items that it has not seen.

Multinomial logistic regression with an L2 penalty on standardised features. All folds of a cross-validation are solved
at the same time: a narrow matrix product takes as long as reading the features once, however few its columns are, so
one wide product for five folds costs little more than the product for one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headstart.errors import BadData
from headstart.heads import LinearHead
from headstart.minimise import Points, Values, dots, minimise

# Inverse penalties in scikit-learn's sense: half the squared weights plus `strength` times the sum of the losses.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
FIRST = STRENGTHS.index(1e-2)  # good for a thousand features of a network, whatever the photos are
# The penalty makes the problem strongly convex, so this bounds the relative error of the solved weights.
TOLERANCE = 1e-3
NEVER = -20.0  # bias of a class without items: its probability is below 1e-8
SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True, slots=True)
class PathPoint:
    """What a penalty is worth, by cross-validation."""

    strength: float
    accuracy: float
    log_loss: float


@dataclass(frozen=True, slots=True)
class Probe:
    """The chosen head, fitted on everything that was given, and the answers of heads that had not seen the item."""

    head: LinearHead
    strength: float
    out_of_fold: Float[np.ndarray, "n k"]
    path: tuple[PathPoint, ...]


def fit(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    classes: int,
    *,
    strength: float,
    weights: Float[np.ndarray, "n"] | None = None,
) -> LinearHead:
    """The exact head for this penalty. An item of weight 2 counts as two equal items."""
    shares = np.ones(len(labels)) if weights is None else np.asarray(weights)
    inputs = Inputs.of(features)
    problems = Problems.of(inputs, labels, classes, shares[None])
    return inputs.head(problems.raw(problems.solve(strength, problems.start()))[0])


def probe(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    ids: Sequence[str],
    classes: int,
    *,
    seed: int,
    folds: int = 5,
) -> Generator[PathPoint, None, Probe]:
    """Find the best penalty by cross-validation: yields each one tried, a good guess first, and returns the best.

    From the first guess the path goes to weaker penalties as long as they lower the log loss, or else to stronger
    ones. Items with equal ids are never on both sides. A class that is missing from a fold's training part gets
    probability 0 there.

    Raises:
        BadData: all items are the same.
    """
    inputs = Inputs.of(features)
    fold = assign_folds(labels, ids, seed=seed, folds=folds)
    problems = Problems.of(inputs, labels, classes, np.stack([fold != part for part in range(fold.max() + 1)]))
    path: list[PathPoint] = []
    best, best_answers, best_solution = None, None, problems.start()
    for direction in (1, -1):
        solution = best_solution
        for index in range(FIRST + (direction if path else 0), ...):
            pass
    raise NotImplementedError
