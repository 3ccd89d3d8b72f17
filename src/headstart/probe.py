"""Get the exact linear head for cached features, with the penalty that cross-validation likes best."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headstart.errors import BadData
from headstart.heads import LinearHead
from headstart.logistic import Inputs, Problems
from headstart.minimise import Points

# Inverse penalties in scikit-learn's multinomial sense; the first is good for a thousand features of any photos.
FIRST = 0.01
WEAKER = (0.03, 0.1, 0.3, 1.0)
STRONGER = (0.003, 0.001, 0.0003, 0.0001)
FOLDS = 5
SMALLEST_PROBABILITY = 1e-7  # a class that was missing from a fold must not make the log loss infinite


@dataclass(frozen=True, slots=True)
class PathPoint:
    """What a penalty is worth on items that were held out; each counts by its weight."""

    strength: float
    accuracy: float
    log_loss: float


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """The chosen head, fitted on everything that was given, and the answers of heads that had not seen the item."""

    head: LinearHead
    strength: float
    out_of_fold: Float[np.ndarray, "n k"]
    path: tuple[PathPoint, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    point: PathPoint
    answers: Float[np.ndarray, "n k"]
    solution: Points


def fit(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    classes: int,
    *,
    strength: float,
    weights: Float[np.ndarray, "n"] | None = None,
) -> LinearHead:
    """The exact head for this penalty. An item of weight 2 counts as two equal items.

    Raises:
        Diverged: a feature is not a finite number.
    """
    shares = np.ones(len(labels)) if weights is None else np.asarray(weights)
    problem = Problems.of(Inputs.of(features), labels, classes, shares[None])
    return problem.heads(problem.solve(strength, problem.start()))[0]


def probe(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    ids: Sequence[str],
    classes: int,
    *,
    seed: int,
    folds: int = FOLDS,
    weights: Float[np.ndarray, "n"] | None = None,
) -> Generator[PathPoint, None, Probe]:
    """Find the best penalty by cross-validation: yields each one tried, a good guess first, and returns the best.

    From the first guess the path goes on to weaker penalties as long as they lower the log loss and lose no accuracy,
    or else to stronger ones; each starts from the best solution so far. Items with equal ids are never on both sides.
    A class that is missing from a fold's training part gets probability 0 there. With `weights` an item of weight 2
    counts as two equal items wherever items are counted: in every fit, in accuracy and in log loss.

    Raises:
        BadData: all items are the same.
        Diverged: a feature is not a finite number.
    """
    inputs = Inputs.of(features)
    fold = assign_folds(labels, ids, seed=seed, folds=folds)
    shares = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    problems = Problems.of(inputs, labels, classes, (fold != np.arange(fold.max() + 1)[:, None]) * shares)
    best = first = _attempt(problems, fold, FIRST, problems.start(), shares)
    path = [first.point]
    yield first.point
    for strengths in (WEAKER, STRONGER):
        for strength in strengths:
            attempt = _attempt(problems, fold, strength, best.solution, shares)
            path.append(attempt.point)
            yield attempt.point
            if not _better(attempt.point, best.point):
                break
            best = attempt
        if best is not first:
            break
    whole = Problems.of(inputs, labels, classes, shares[None])
    solution = whole.solve(best.point.strength, best.solution.mean(0, keepdims=True))
    return Probe(whole.heads(solution)[0], best.point.strength, best.answers, tuple(path))


def assign_folds(labels: Int[np.ndarray, "n"], ids: Sequence[str], *, seed: int, folds: int) -> Int[np.ndarray, "n"]:
    """A fold for each item, from 0 up without gaps, every class spread evenly; equal ids share a fold.

    The order of the items does not matter: within a class they are dealt out in the order of a hash of seed and id.

    Raises:
        BadData: all items are the same.
    """
    first_label: dict[str, int] = {}
    for label, key in sorted(zip(labels.tolist(), ids, strict=True)):
        first_label.setdefault(key, label)
    if len(first_label) < 2:
        raise BadData("all training items are the same file", fix="give at least two different items a class")
    # Dealing goes on where the last class ended, or else every small class would fill the first folds.
    order = sorted(first_label, key=lambda key: (first_label[key], _hash(seed, key)))
    fold = {key: position % folds for position, key in enumerate(order)}
    return np.array([fold[key] for key in ids], dtype=np.int64)


def _better(point: PathPoint, best: PathPoint) -> bool:
    """Accuracy alone is too coarse to choose by; log loss alone drifts to ever weaker penalties on easy data."""
    return point.log_loss < best.log_loss and point.accuracy >= best.accuracy


def _hash(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest()


def _attempt(
    problems: Problems, fold: Int[np.ndarray, "n"], strength: float, start: Points, shares: Float[np.ndarray, "n"]
) -> _Attempt:
    solution = problems.solve(strength, start)
    logits = problems.logits(solution)[fold, :, np.arange(len(fold))].astype(np.float64)
    answers = np.exp(logits - logits.max(1, keepdims=True))
    answers /= answers.sum(1, keepdims=True)
    true = answers[np.arange(len(fold)), problems.labels]
    point = PathPoint(
        strength=strength,
        accuracy=float(np.average(answers.argmax(1) == problems.labels, weights=shares)),
        log_loss=float(np.average(-np.log(np.maximum(true, SMALLEST_PROBABILITY)), weights=shares)),
    )
    return _Attempt(point, answers, solution)
