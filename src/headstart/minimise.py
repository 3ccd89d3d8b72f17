"""Find the minimum of several smooth convex functions at once, each with its own steps (L-BFGS).

Written here because the functions share their most expensive part, one matrix product, which no library's solver for a
single function can know of; and because importing SciPy's takes longer than solving.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

Points = Float[np.ndarray, "p d"]
Values = Float[np.ndarray, "p"]
Move = tuple[Points, Points, Values]  # the step, the change of the gradient, one over their product
Function = Callable[[Points], tuple[Values, Points]]

ENOUGH = 1e-4  # share of the promised decrease that a step must bring (Armijo)
NOISE = 1e-5  # differences of values below this share may be rounding in single precision
HALVINGS = 12


def minimise(
    function: Function,
    start: Points,
    done: Callable[[Points, Points], Bool[np.ndarray, "p"]],
    *,
    memory: int = 20,
    steps: int = 1000,
) -> Points:
    """The minima of `p` functions of `d` variables, one a row (Nocedal and Wright 2006, algorithm 7.5).

    Args:
        function: the values and the gradients at `p` points.
        start: where each one begins.
        done: which rows are near enough, from points and gradients; such a row no longer moves.
        memory: how many past moves are kept.
        steps: the most that are taken. A row also ends where single precision shows no way further down.
    """
    points = start
    values, gradients = function(points)
    moves: list[Move] = []
    moving = ~done(points, gradients)
    for _ in range(steps):
        if not moving.any():
            break
        directions = np.where(moving[:, None], _directions(gradients, moves), 0)
        slopes = dots(directions, gradients)
        lengths = np.ones_like(values) if moves else 1 / np.maximum(1, np.sqrt(-slopes))
        for _ in range(HALVINGS):
            tried = points + _column(lengths, points) * directions
            tried_values, tried_gradients = function(tried)
            poor = moving & ~_acceptable(values, tried_values, lengths, slopes, dots(directions, tried_gradients))
            if not poor.any():
                break
            lengths = np.where(poor, lengths / 2, lengths)
        moving &= ~poor
        moves = [*moves[-memory + 1 :], _move(tried - points, tried_gradients - gradients)]
        points, values, gradients = tried, tried_values, tried_gradients
        moving &= ~done(points, gradients)
    return points


def _acceptable(values: Values, tried: Values, lengths: Values, slopes: Values, ends: Values) -> Bool[np.ndarray, "p"]:
    """Whether a step went down enough; near the minimum the slopes tell it, where the values are all rounding."""
    down = tried <= values + ENOUGH * lengths * slopes
    flat = (tried <= values + NOISE * np.abs(values)) & (ends <= -0.5 * slopes)
    good: Bool[np.ndarray, "p"] = down | flat
    return good


def dots(left: Points, right: Points) -> Values:
    """The scalar product of each row with its own."""
    product: Values = np.einsum("pd,pd->p", left, right).astype(np.float64)
    return product


def _column(scalars: Values, like: Points) -> Points:
    return scalars[:, None].astype(like.dtype)


def _move(step: Points, change: Points) -> Move:
    curvature = dots(step, change)
    # A row that stands still, or whose curvature drowns in rounding, teaches nothing: weight 0.
    known = curvature > 1e-10 * dots(change, change)
    return step, change, np.divide(1, curvature, out=np.zeros_like(curvature), where=known)


def _directions(gradients: Points, moves: list[Move]) -> Points:
    """Minus the gradient, times the inverse curvature that the past moves have shown."""
    result = -gradients
    shares = []
    for step, change, inverse in reversed(moves):
        share = inverse * dots(step, result)
        result = result - _column(share, result) * change
        shares.append(share)
    if moves:
        _, change, inverse = moves[-1]
        bend = inverse * dots(change, change)
        result = result * _column(np.divide(1, bend, out=np.ones_like(bend), where=bend > 0), result)
    for (step, change, inverse), share in zip(moves, reversed(shares), strict=True):
        result = result + _column(share - inverse * dots(change, result), result) * step
    return result
