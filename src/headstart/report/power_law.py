"""Extrapolate a learning curve: errors fall as `a + b * n**-c`, and how far that can be trusted is drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

DRAWN = 200  # curves of each shape, for the band
PERCENT = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shape:
    """What curves may look like: the exponents, and whether a part of the error stays with any number of photos."""

    exponents: Float[np.ndarray, "e"]
    floor: bool = True


# Fitted freely, the exponent follows chance in the smallest parts, and twice the photos then seem to bring a point more
# than they do (benchmarks/quality/more_labels.py); theory has what a linear head can still learn fall this fast.
LIKELY = Shape(exponents=np.linspace(0.5, 1.5, 21))
SHAPES = (LIKELY, Shape(exponents=np.linspace(0.05, 1.5, 30), floor=False))


@dataclass(frozen=True, kw_only=True, eq=False)
class Band:
    """Accuracies in [0, 1], with their 95 % intervals."""

    middle: Float[np.ndarray, "q"]
    low: Float[np.ndarray, "q"]
    high: Float[np.ndarray, "q"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bands:
    """At the sizes that were measured, and by the fitted curve at those that were asked for."""

    measured: Band
    fitted: Band


def extrapolated(
    sizes: Float[np.ndarray, "m"],
    right: Bool[np.ndarray, "m s n"],
    families: Sequence[str],
    ahead: Float[np.ndarray, "q"],
    *,
    rng: np.random.Generator,
) -> Bands:
    """Accuracies at the sizes `ahead`, with bands.

    Each curve of the band is fitted to photos drawn with replacement, by families, and to draws of the parts drawn with
    replacement. Half of the curves have the likely shape, half go on falling with any number of photos: which of them
    holds cannot be known from the sizes that there are, and it matters more than all else.

    Args:
        sizes: photos learnt from, fewest first.
        right: for each size and draw, whether each photo was named rightly.
        families: of each photo.
        ahead: sizes to predict for.
        rng: draws them.
    """
    names = {family: place for place, family in enumerate(dict.fromkeys(families))}
    members = np.array([names[family] for family in families])
    whole = (~right).mean(axis=(1, 2))
    drawn = np.empty((DRAWN * len(SHAPES), len(sizes)))
    for curve in range(len(drawn)):
        counts = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[members]
        picks = rng.integers(right.shape[1], size=right.shape[1])
        drawn[curve] = (~right[:, picks]).mean(axis=1) @ counts / max(1, counts.sum())
    curves = np.concatenate(
        [fitted(sizes, some, ahead, shape) for some, shape in zip(np.split(drawn, len(SHAPES)), SHAPES, strict=True)]
    )
    middle = fitted(sizes, whole[None], ahead, LIKELY)[0]
    return Bands(measured=_band(1 - whole, 1 - drawn), fitted=_band(1 - middle, 1 - curves))


def fitted(
    sizes: Float[np.ndarray, "m"],
    errors: Float[np.ndarray, "c m"],
    ahead: Float[np.ndarray, "q"],
    shape: Shape,
) -> Float[np.ndarray, "c q"]:
    """Errors at the sizes `ahead` by the best `a + b * n**-c` for each row of errors: least squares, large sizes first.

    `a` lies between 0 and the smallest error, `b` is not negative and `c` one of the shape's exponents: an error never
    rises with more photos and never falls below 0.
    """
    weights = sizes / sizes.sum()  # few photos follow no power law yet
    scale = sizes[-1]
    best = np.full(len(errors), np.inf)
    result = np.empty((len(errors), len(ahead)))
    most = errors.min(axis=1) * shape.floor
    for exponent in shape.exponents:
        fall = (sizes / scale) ** -exponent
        mean = weights @ fall
        slope = (errors - (errors @ weights)[:, None]) @ (weights * (fall - mean)) / (weights @ (fall - mean) ** 2)
        floor = np.clip(errors @ weights - slope * mean, 0, most)
        slope = np.maximum((errors - floor[:, None]) @ (weights * fall) / (weights @ fall**2), 0)
        misses = (errors - floor[:, None] - slope[:, None] * fall) ** 2 @ weights
        better = misses < best
        best[better] = misses[better]
        there = floor[:, None] + slope[:, None] * (ahead / scale) ** -exponent
        result[better] = there[better]
    return np.minimum(result, 1)


def _band(middle: Float[np.ndarray, "q"], drawn: Float[np.ndarray, "c q"]) -> Band:
    low, high = np.percentile(drawn, PERCENT, axis=0)
    return Band(middle=middle, low=np.minimum(low, middle), high=np.maximum(high, middle))
