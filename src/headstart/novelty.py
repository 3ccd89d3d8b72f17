"""Tell photos that are like none of those that a model learnt from, by the distance of their features.

`Novelty` is all that needs to travel with a model: a few matrices. The same arithmetic stands in every exported graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

FALSE_ALARMS = 0.05  # share of photos like those of the training that may be called unsure
COMPUTED = 1_000  # training photos that are enough for a fit, where their features have to be computed
WIDTH = 512  # numbers of a photo that are compared: what travels with a model stays within 2 KB a feature
PRINCIPAL = 64  # of these, directions in which the training photos differ most; the rest are drawn at random
ROUNDS = 2  # of looking for them


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Where the features of the training photos lie, and how far from them is too far.

    `distance = the k-th smallest Euclidean distance from z = (features' - mean) @ projection to the rows of centres`,
    where features' are the pooled features of the shipped network for the plain photo, divided by their own Euclidean
    norm where `normalise` is true. With whitening in `projection`, a row a class in `centres` and `k` 1 this is the
    Mahalanobis distance to the nearest class (Lee et al. 2018); with training photos in `centres` it is that to the
    k-th neighbour (Sun et al. 2022).
    """

    mean: Float[np.ndarray, "d"]
    projection: Float[np.ndarray, "d r"]
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
        z = (features - self.mean) @ self.projection
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

    Of more than `WIDTH` features a photo is told by its place in the directions in which photos differ most, and by
    as many random ones as there is room for, that stand for the length of all that is left: what is strange about a
    photo lies mostly where the training photos hardly differ (see docs/decisions/0026-abstention.md).
    """
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    mean = rows.mean(axis=0)
    rows -= mean
    projection = _directions(rows)
    centres = np.stack([rows[labels == label].mean(axis=0) for label in np.unique(labels)]) @ projection
    return Novelty(
        mean=mean.astype(np.float32),
        projection=projection.astype(np.float32),
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


def limited(novelty: Novelty, held_out: Float[np.ndarray, "n"], share: float = FALSE_ALARMS) -> Novelty | None:
    """The same with the threshold that calls so large a share of further such photos unsure, at most, in the mean.

    `held_out` are distances of photos that the fit has not seen. The threshold is the `ceil((n + 1)(1 - share))`-th of
    them (Vovk et al. 2005). None where there are too few: even the largest of fewer than `needed(share)` is exceeded
    more often.
    """
    place = math.ceil((len(held_out) + 1) * (1 - share) - 1e-9)
    if place > len(held_out):
        return None
    return replace(novelty, threshold=float(np.sort(held_out)[place - 1]), false_alarms=share)


def needed(share: float = FALSE_ALARMS) -> int:
    """The fewest photos that can tell a threshold for this share of false alarms."""
    return math.ceil(1 / share - 1e-9) - 1


def _directions(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d r"]:
    """Orthogonal directions for these centred rows: all where there are few, else principal and random ones.

    The random ones are stretched so that the expected length of what they see is that of all that is left.
    """
    d = rows.shape[1]
    if d <= WIDTH:
        return np.eye(d)
    draw = np.random.default_rng(0)
    principal = draw.normal(size=(d, min(PRINCIPAL, len(rows) - 1)))  # so many can differ at all
    for _ in range(ROUNDS):
        principal = np.linalg.qr(rows.T @ (rows @ principal))[0]
    drawn = _drawn(d, WIDTH - principal.shape[1], draw)
    rest = drawn - principal @ (principal.T @ drawn)
    return np.hstack([principal, rest * np.sqrt(d / rest.shape[1])])


def _drawn(d: int, r: int, draw: np.random.Generator) -> Float[np.ndarray, "d r"]:
    """Random orthogonal directions: waves of random frequencies, and of random signs (Ailon and Chazelle 2009).

    They need no decomposition, which for a few thousand features would take longer than all else here.
    """
    frequencies = draw.permutation(d - 1)[:r] + 1  # 0 is no wave
    waves = np.cos(np.pi / d * (np.arange(d)[:, None] + 0.5) * frequencies)
    directions: Float[np.ndarray, "d r"] = draw.choice([-1.0, 1.0], size=(d, 1)) * waves * np.sqrt(2 / d)
    return directions
