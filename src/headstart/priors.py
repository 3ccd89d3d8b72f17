"""Answer for photos among which the classes are more or less frequent than among those that were learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Literal, cast

import numpy as np
from jaxtyping import Float

from headstart.data import per_class
from headstart.errors import BadSetting, first_five

Priors = Literal["uniform", "train", "estimate"] | Mapping[str, float]
WORDS: tuple[str, ...] = ("uniform", "train", "estimate")
WHAT = "priors"
ROUNDS = 1000  # of estimation at most; a few dozen are usual
SETTLED = 1e-6  # change of any share at which estimation ends
SMALLEST = 1e-12  # share of a class that was all but missing: nothing is divided by zero


def parse(given: str | PathLike[str] | Mapping[str, float]) -> Priors:
    """Shares of classes in any way that a user may give them; they need not sum to 1.

    Raises:
        BadSetting: a file does not exist or holds something else, or a share is negative.
    """
    if isinstance(given, Mapping):
        numbers = {str(name): float(share) for name, share in given.items()}
    elif given in WORDS:
        return cast(Priors, given)
    else:
        numbers = per_class.read(fspath(given), what=WHAT, words=WORDS)
    wrong = [f"{name!r} ({share:g})" for name, share in numbers.items() if not 0 <= share < np.inf]
    if wrong:
        raise BadSetting(f"{WHAT} are negative or no number for {first_five(wrong)}", fix="give shares from 0 up")
    if not sum(numbers.values()):
        raise BadSetting(f"{WHAT} sum to 0", fix="give at least one class a share above 0")
    return numbers


def shares(
    wanted: Priors,
    classes: Sequence[str],
    *,
    counted: Float[np.ndarray, "k"],
    learnt: Float[np.ndarray, "k"],
    answers: Float[np.ndarray, "n k"],
) -> Float[np.ndarray, "k"]:
    """The share of each class that is wanted; the sum is 1.

    Args:
        wanted: what `parse` gave.
        classes: names of the columns.
        counted: how often each class is among the photos that were learnt from.
        learnt: its share there after weights, to which the answers fit.
        answers: for the photos in question: `estimate` reads the shares out of them.

    Raises:
        BadSetting: a class is missing from the shares, or is none of the model's.
    """
    if isinstance(wanted, Mapping):
        found = per_class.in_order(wanted, classes, what=WHAT)
    elif wanted == "estimate":
        return estimate(answers, learnt)
    else:
        found = np.ones(len(classes)) if wanted == "uniform" else np.asarray(counted, dtype=np.float64)
    return cast(Float[np.ndarray, "k"], found / found.sum())


def shift(
    answers: Float[np.ndarray, "n k"], *, learnt: Float[np.ndarray, "k"], wanted: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "n k"]:
    """The same answers where classes occur with the shares `wanted` instead of `learnt` (Saerens et al. 2002).

    Each probability is multiplied by the class's new share over its old one; then rows sum to 1 again. Rows of NaN
    stay. A photo whose every likely class is said not to occur gets the wanted shares.
    """
    with np.errstate(invalid="ignore"):
        raised = answers.astype(np.float64) * (wanted / np.maximum(learnt, SMALLEST))
        sums = raised.sum(axis=1, keepdims=True)
        shifted: Float[np.ndarray, "n k"] = np.where(sums > 0, raised / sums, np.where(np.isnan(sums), sums, wanted))
        return shifted


def estimate(answers: Float[np.ndarray, "n k"], learnt: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """The shares of the classes among unlabelled photos, by expectation and maximisation (Saerens et al. 2002).

    It takes the answers as true probabilities for photos with shares `learnt`. Rows of NaN are passed over; without
    any other, the shares are `learnt`.
    """
    known = answers[np.isfinite(answers).all(axis=1)]
    found = np.maximum(np.asarray(learnt, dtype=np.float64), SMALLEST)
    for _ in range(ROUNDS if len(known) else 0):
        before, found = found, shift(known, learnt=learnt, wanted=found).mean(axis=0)
        if np.abs(found - before).max() < SETTLED:
            break
    return cast(Float[np.ndarray, "k"], found / found.sum())
