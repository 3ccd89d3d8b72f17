"""Let each training photo count for as much as it should: by its class, and by a weight of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float

from headstart.data import per_class
from headstart.data.dataset import Dataset
from headstart.errors import BadData, BadSetting, first_five

ClassWeights = Literal["balanced"] | Mapping[str, float] | None  # None: classes count by their photos
WHAT = "class weights"


def parse(given: str | PathLike[str] | Mapping[str, float] | None) -> ClassWeights:
    """Class weights in any way that a user may give them: `none`, `balanced`, a file, a list, or a mapping.

    Raises:
        BadSetting: a file does not exist or holds something else, or a weight is not above 0.
    """
    if given is None or given == "none":
        return None
    if given == "balanced":
        return "balanced"
    if isinstance(given, Mapping):
        given = json.dumps({str(name): weight for name, weight in given.items()}, default=_plain)
    numbers = per_class.read(fspath(given), what=WHAT, words=("balanced", "none"))
    low = [f"{name!r} ({weight:g})" for name, weight in numbers.items() if weight <= 0]
    if low:
        raise BadSetting(f"{WHAT} must be above 0, but are not for {first_five(low)}", fix="leave out photos instead")
    return numbers


def written(weights: ClassWeights) -> str | None:
    """The same as one line of text that needs no file."""
    return json.dumps(weights, ensure_ascii=False) if isinstance(weights, Mapping) else weights


def told(weights: ClassWeights) -> str:
    """What a user should know of a run with such weights."""
    how = "balanced" if isinstance(weights, str) else "weighted"
    return (
        f"classes are {how}, in training and in every choice: probabilities are those of such a mixture; "
        "where the photos to come are another, say so with --priors"
    )


def item_weights(photos: Dataset, weights: ClassWeights) -> Float[np.ndarray, "n"] | None:
    """For how many plain photos each of these counts; None where all count alike.

    That is its own weight times that of its class. `balanced` gives each class that occurs the same sum. Weights of
    classes are scaled so that the sum over all photos stays that of their own weights: a photo of weight 2 is the same
    as two such photos, and a penalty means the same with and without weights of classes.

    Raises:
        BadSetting: a class is missing from the weights, or is none of the data set's.
        BadData: a photo's own weight is not above 0.
    """
    own = np.array([item.weight for item in photos.items], dtype=np.float64)
    wrong = [f"{item.path!r} ({item.weight:g})" for item in photos.items if not 0 < item.weight < np.inf]
    if wrong:
        raise BadData(f"weights of photos must be above 0, but are not for {first_five(wrong)}", fix="leave those out")
    return _shared(own, photos.labels, by_class(photos, weights))


def by_class(photos: Dataset, weights: ClassWeights) -> Float[np.ndarray, "k"] | None:
    """The weight of each class, before any scaling; None where there is none.

    Raises:
        BadSetting: a class is missing from the weights, or is none of the data set's.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        own = [item.weight for item in photos.items]
        sums = np.bincount(photos.labels, own, len(photos.classes))
        return np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0)
    return per_class.in_order(weights, photos.classes, what=WHAT)


def prior(photos: Dataset, weights: ClassWeights) -> Float[np.ndarray, "k"]:
    """The share of each class in what a model of these photos learns from; the sum is 1."""
    shares = item_weights(photos, weights)
    sums = np.bincount(photos.labels, shares, len(photos.classes)).astype(np.float64)
    return cast(Float[np.ndarray, "k"], sums / sums.sum())


def _shared(own: np.ndarray, labels: np.ndarray, classes: np.ndarray | None) -> Float[np.ndarray, "n"] | None:
    weights = own
    if classes is not None and len(own):
        weights = own * classes[labels]
        weights = weights * (own.sum() / weights.sum())
    return None if np.allclose(weights, 1, rtol=0, atol=1e-12) else weights


def _plain(value: Any) -> float | str:
    """Numbers of NumPy as plain ones; anything else as a word, to be refused with the others that are no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return repr(value)
