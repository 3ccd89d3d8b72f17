"""Lay what a network gives for the places of a picture on their grid: maps as they are, tokens in rows."""

from __future__ import annotations

from math import isqrt

import numpy as np
from jaxtyping import Float

MOST_ASIDE = 16  # tokens that stand for no place: a class token or two, and a few registers


def on_grid(values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n r c d"] | None:
    """A map `[n r c d]` as it is; of tokens `[n t d]` those of places, in a square. None where there are no places.

    Pictures are square, so the places among the tokens are the largest square number of them, and networks put those
    that stand for no place (class, registers) before them.
    """
    if values.ndim == 4:
        return values
    if values.ndim != 3:
        return None
    n, tokens, width = values.shape
    side = isqrt(tokens)
    aside = tokens - side * side
    if side < 2 or aside > MOST_ASIDE:
        return None
    return values[:, aside:].reshape(n, side, side, width)
