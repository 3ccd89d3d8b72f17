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
Function = Callable[[Points], tuple[Values, Points]]

ENOUGH = 1e-4  # share of the promised decrease that a step must bring (Armijo)
NOISE = 1e-7  # differences of values below this share are rounding in single precision


def minimise(
    function: Function,
    start: Points,
    done: Callable[[Points, Points], Bool[np.ndarray, "p"]],
    *,
    memory: int = 10,
    steps: int = 1000,
) -> Points:
    """The minima of `p` functions of `d` variables, one a row (Nocedal and Wright 2006, algorithm 7.5).

    Args:
        function: the values and the gradients at `p` points.
        start: where each one begins.
        done: which rows are near enough, from points and gradients; such a row no longer moves.
        memory: how many past steps are kept.
        steps: the most that are taken.
    """
    points = start
    values, gradients = function(points)
    moves: list[tuple[Points, Points, Values]] = []
    moving = ~done(points, gradients)
    for _ in range(steps):
        if not moving.any():
            break
        directions = np.where(moving[:, None], _directions(gradients, moves), 0)
        slopes = dots(directions, gradients)
        lengths = np.ones_like(values) if moves else 1 / np.maximum(1, np.sqrt(dots(gradients, gradients)))
        for _ in range(20):
            tried = points + lengths[:, None].astype(points.dtype) * directions
            tried_values, tried_gradients = function(tried)
            poor = tried_values > values + ENOUGH * lengths * slopes + NOISE * np.abs(values)
            if not poor.any():
                break
            lengths = np.where(poor, lengths / 2, lengths)
        moves = [*moves[1 - memory :], _move(tried - points, tried_gradients - gradients)]
        points, values, gradients = tried, tried_values, tried_gradients
        moving &= ~done(points, gradients)
    return points


def dots(left: Points, right: Points) -> Values:
    """The scalar product of each row with its own."""
    product: Values = np.einsum("pd,pd->p", left, right).astype(np.float64)
    return product


def _move(step: Points, change: Points) -> tuple[Points, Points, Values]:
    curvature = dots(step, change)
    # A row that stands still, or whose curvature drowns in rounding, teaches nothing: weight 0.
    known = curvature > 1e-10 * dots(change, change)
    return step, change, np.divide(1, curvature, out=np.zeros_like(curvature), where=known)


def _directions(gradients: Points, moves: list[tuple[Points, Points, Values]]) -> Points:
    """Minus the gradient, times the inverse curvature that the past moves have shown."""
    result = -gradients
    shares = []
    for step, change, inverse in reversed(moves):
        share = inverse * dots(step, result)
        result = result - share[:, None].astype(result.dtype) * change
        shares.append(share)
    if moves:
        step, change, inverse = moves[-1]
        squares = inverse * dots(change, change)
        result = result * np.where(squares > 0, 1 / np.maximum(squares, 1e-30), 1)[:, None].astype(result.dtype)
    for (step, change, inverse), share in zip(moves, reversed(shares), strict=True):
        result = result + (share - inverse * dots(change, result))[:, None].astype(result.dtype) * step
    return result
