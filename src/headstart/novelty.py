"""Tell photos that are like none of those that a model learnt from, by the distance of their features.

`Novelty` is all that needs to travel with a model: a few matrices. The same arithmetic stands in every exported graph.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

FALSE_ALARMS = 0.05  # share of photos like those of the training that may be called unsure
COMPUTED = 1_000  # training photos that are enough for a fit, where their features have to be computed


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Where the features of the training photos lie, and how far from them is too far.

    `distance = the k-th smallest Euclidean distance from z = (features' - mean) @ projection to the rows of centres`,
    where features' are the pooled features of the shipped network for the plain photo, divided by their own Euclidean
    norm where `normalise` is true. Without a `projection`, z is features' - mean: so it is in what `fit` makes, with a
    row a class in `centres`. Older runs have one. With whitening in it and `k` 1 this is the Mahalanobis distance to
    the nearest class (Lee et al. 2018); with training photos in `centres` that to the k-th neighbour (Sun et al. 2022).
    """

    mean: Float[np.ndarray, "d"]
    projection: Float[np.ndarray, "d r"] | None
    centres: Float[np.ndarray, "m r"]
    k: int
    normalise: bool
    threshold: float  # a photo whose distance is above it is `unsure`
    false_alarms: float  # share of photos like those of the training that the threshold calls unsure, in [0, 1]

    def distance(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        """How far each photo is from those of the training, in the units of `threshold`."""
        features = features.astype(np.float64)
        if self.normalise:
            features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        z = features - self.mean
        if self.projection is not None:
            z = z @ self.projection
        squares = (z**2).sum(1)[:, None] - 2 * z @ self.centres.T + (self.centres**2).sum(1)[None]
        nearest = np.partition(squares, self.k - 1, axis=1)[:, self.k - 1]
        distance: Float[np.ndarray, "n"] = np.sqrt(np.maximum(nearest, 0.0))
        return distance

    def unsure(self, distances: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Which of the photos at these distances are too far; a file that could not be read, at NaN, is not."""
        far: Bool[np.ndarray, "n"] = distances > self.threshold
        return far


def fit(features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"]) -> Novelty:
    """Where these photos lie: the mean of each class of features of length 1. No photo is too far yet.

    All directions count alike: what is strange about a photo lies mostly where the training photos hardly differ (see
    docs/decisions/0026-abstention.md).
    """
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    mean = rows.mean(axis=0)
    centres = np.stack([rows[labels == label].mean(axis=0) for label in np.unique(labels)]) - mean
    return Novelty(
        mean=mean.astype(np.float32),
        projection=None,
        centres=centres.astype(np.float32),
        k=1,
        normalise=True,
        threshold=math.inf,
        false_alarms=0.0,
    )


def out_of_fold(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], folds: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """The distance of each photo from those of the other folds."""
    distances = np.empty(len(labels))
    for fold in np.unique(folds):
        inside = folds == fold
        distances[inside] = fit(features[~inside], labels[~inside]).distance(features[inside])
    return distances


def limited(
    novelty: Novelty,
    held_out: Float[np.ndarray, "n"],
    families: Sequence[str] | None = None,
    *,
    share: float = FALSE_ALARMS,
) -> Novelty | None:
    """The same with the threshold that calls so large a share of further such photos unsure, at most, in the mean.

    `held_out` are distances of photos that the fit has not seen. The threshold is the `ceil((n + 1)(1 - share))`-th of
    them (Vovk et al. 2005). Photos to come are of other families, so a family counts as one, a part for each of its
    photos (Dunn, Wasserman and Ramdas 2022). None where there are too few: even the largest of fewer than
    `needed(share)` is exceeded more often.
    """
    names = list(range(len(held_out))) if families is None else list(families)
    photos = Counter(names)
    order = np.argsort(held_out, kind="stable")
    below = np.cumsum([1 / photos[names[row]] for row in order])  # families, with parts of them
    enough = np.flatnonzero(below >= (len(photos) + 1) * (1 - share) - 1e-9)
    if not len(enough):
        return None
    return replace(novelty, threshold=float(held_out[order[enough[0]]]), false_alarms=share)


def needed(share: float = FALSE_ALARMS) -> int:
    """The fewest photos, of as many families, that can tell a threshold for this share of false alarms."""
    return math.ceil(1 / share - 1e-9) - 1
