"""Tell photos that are like none of those that a model learnt from, by the distance of their features.

`Novelty` is all that needs to travel with a model: a few matrices. The same arithmetic stands in every exported graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


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
