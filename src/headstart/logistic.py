"""State multinomial logistic regression on standardised features, for several choices of items at once, and solve it.

Each choice has its own mean and standard deviation, folded into its weights, so that all of them read the same matrix:
a narrow matrix product takes as long as reading the features, however few its columns are, so that one wide product for
five folds costs little more than a narrow one for a single fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headstart.errors import Diverged
from headstart.heads import LinearHead
from headstart.machine import product_threads
from headstart.minimise import Points, Values, dots, minimise

# The largest norm of the gradient, as a share of the penalty's own gradient. The penalty makes the problem strongly
# convex in the weights, so this is about their largest relative error; single precision allows little better.
TOLERANCE = 1e-4
CONSTANT = 1e-6  # a standard deviation below this share is rounding: the feature says nothing
NEVER = -20.0  # logit of a class without items: its probability is below 1e-8
CHUNK = 4096  # rows squared at a time
# Multiplications in a matrix product below which one core does it: handing so short a product to threads takes longer
# than it saves where other programs want the cores too, ten times longer with hundreds of photos.
SHORT = 500_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """All features, centred and scaled, with a last column of ones; computed once for all problems on them."""

    rows: Float[np.ndarray, "n d+1"]
    mean: Float[np.ndarray, "d"]
    inverse: Float[np.ndarray, "d"]  # one over the standard deviation; 0 for a constant feature

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> Inputs:
        """Standardise a copy.

        Raises:
            Diverged: a feature is not a finite number.
        """
        n, d = features.shape
        mean = features.mean(0, dtype=np.float64)
        if not np.isfinite(mean).all():
            raise Diverged(
                "the backbone gives features that are not finite numbers", fix="use another backbone or --size"
            )
        rows = np.ones((n, d + 1), np.float32)
        np.subtract(features, mean.astype(np.float32), out=rows[:, :d])
        deviation = np.sqrt(np.einsum("nd,nd->d", rows[:, :d], rows[:, :d]) / n, dtype=np.float64)
        varies = deviation > CONSTANT * np.abs(mean)
        inverse = np.divide(1, deviation, out=np.zeros(d), where=varies & (deviation > 0))
        rows[:, :d] *= inverse.astype(np.float32)
        return cls(rows, mean, inverse)

    def head(self, weights: Float[np.ndarray, "k d+1"]) -> LinearHead:
        """The head on raw features that equals `weights` on the rows."""
        raw = weights[:, :-1] * self.inverse
        bias = weights[:, -1] - raw @ self.mean
        return LinearHead(np.ascontiguousarray(raw.T, np.float32), bias.astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Problems:
    """`p` regressions on the same rows; they differ in how much each item counts.

    A point is a row of weights on the features as this problem standardises them, and of biases: `[p k*(d+1)]`.
    """

    inputs: Inputs
    labels: Int[np.ndarray, "n"]
    shares: Float[np.ndarray, "p n"]  # of each item in the mean loss; 0 = held out
    totals: Float[np.ndarray, "p"]  # summed weights of the items
    counts: Float[np.ndarray, "p k"]  # the same per class
    mean: Float[np.ndarray, "p d"]
    inverse: Float[np.ndarray, "p d"]

    @classmethod
    def of(
        cls, inputs: Inputs, labels: Int[np.ndarray, "n"], classes: int, weights: Float[np.ndarray, "p n"]
    ) -> Problems:
        """One problem for each row of `weights`."""
        weights = weights.astype(np.float64)
        totals = weights.sum(1)
        shares = (weights / totals[:, None]).astype(np.float32)
        features = inputs.rows[:, :-1]
        squares = np.zeros((len(weights), features.shape[1]), np.float32)
        with product_threads(1 if weights.size * features.shape[1] < SHORT else None):
            mean = shares @ features
            for start in range(0, len(labels), CHUNK):
                part = slice(start, start + CHUNK)
                squares += shares[:, part] @ np.square(features[part])
        variance = squares - mean**2
        varies = variance > CONSTANT
        deviation = np.sqrt(np.where(varies, variance, 1))
        inverse = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
        counts = np.stack([np.bincount(labels, row, classes) for row in weights])
        return cls(inputs, labels, shares, totals, counts, mean, inverse)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (*self.counts.shape, self.inputs.rows.shape[1])

    def start(self) -> Points:
        """No weights, and the biases that give each class its own share of the items."""
        points = np.zeros(self._shape, np.float32)
        points[..., -1] = np.log(np.maximum(self.counts, 1e-9) / self.totals[:, None])
        points[..., -1] *= self.counts > 0
        return points.reshape(len(points), -1)

    def solve(self, strength: float, start: Points, *, tolerance: float = TOLERANCE) -> Points:
        """The solutions, to this tolerance. `strength` is the inverse penalty in scikit-learn's multinomial sense:
        half the squared weights plus `strength` times the summed losses.
        """
        penalty = 1 / (strength * self.totals)

        def done(points: Points, gradients: Points) -> Bool[np.ndarray, "p"]:
            weights = points.reshape(self._shape)[..., :-1].reshape(len(points), -1)
            size = np.maximum(dots(weights, weights), 1e-6)
            near: Bool[np.ndarray, "p"] = dots(gradients, gradients) <= (tolerance * penalty) ** 2 * size
            return near

        with product_threads(1 if start.size * len(self.labels) < SHORT else None):
            return minimise(lambda points: self.losses(points, penalty), start, done)

    def losses(self, points: Points, penalty: Values) -> tuple[Values, Points]:
        """The penalised mean losses, and their gradients."""
        items = np.arange(len(self.labels))
        logits = self.logits(points)
        logits -= logits.max(1, keepdims=True)
        true = np.maximum(logits[:, self.labels, items], -1e30)  # -inf where the item is held out with its class
        np.exp(logits, out=logits)
        sums = logits.sum(1)
        losses = dots(self.shares, np.log(sums) - true)
        logits /= sums[:, None]
        logits[:, self.labels, items] -= 1
        logits *= self.shares[:, None]
        gradients = self._gradients(logits)
        weights = points.reshape(self._shape)[..., :-1]
        gradients[..., :-1] += penalty[:, None, None].astype(np.float32) * weights
        flat = weights.reshape(len(points), -1)
        return losses + penalty / 2 * dots(flat, flat), gradients.reshape(points.shape)

    def logits(self, points: Points) -> Float[np.ndarray, "p k n"]:
        """The answers of every problem's solution for every item; `-inf` for a class that it has no items of."""
        problems, classes, width = self._shape
        wide = self.rowwise(points).reshape(problems * classes, width) @ self.inputs.rows.T
        logits: Float[np.ndarray, "p k n"] = wide.reshape(problems, classes, -1)
        logits[self.counts == 0] = -np.inf
        return logits

    def rowwise(self, points: Points) -> Float[np.ndarray, "p k d+1"]:
        """Weights and biases that stand on `inputs.rows` themselves."""
        result = points.reshape(self._shape).copy()
        result[..., :-1] *= self.inverse[:, None]
        result[..., -1] -= np.einsum("pkd,pd->pk", result[..., :-1], self.mean)
        return result

    def heads(self, points: Points) -> list[LinearHead]:
        """The heads on raw features; a class without items gets next to no probability."""
        weights = self.rowwise(points)
        weights[self.counts == 0] = 0
        weights[self.counts == 0, -1] = NEVER
        return [self.inputs.head(own) for own in weights]

    def _gradients(self, errors: Float[np.ndarray, "p k n"]) -> Float[np.ndarray, "p k d+1"]:
        problems, classes, width = self._shape
        wide = errors.reshape(problems * classes, -1) @ self.inputs.rows
        result: Float[np.ndarray, "p k d+1"] = wide.reshape(problems, classes, width)
        result[..., :-1] -= result[..., -1:] * self.mean[:, None]
        result[..., :-1] *= self.inverse[:, None]
        return result
