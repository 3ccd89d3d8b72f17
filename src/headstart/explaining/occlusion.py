"""Find what an answer hangs on by hiding one place of a picture after another; any model will do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from headstart.modalities.spec import InputSpec

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

SIDE = 7  # places along a side: as many as most networks' last map has
REACH = 2.0  # side of what is hidden, in places: what is hidden twice as wide cannot be guessed from around it
BATCH = 25  # pictures that are answered at a time: 49 take two turns, and a large network's memory

Answer = Callable[["UInt8[np.ndarray, 'n size size 3']"], "Float[np.ndarray, 'n k']"]


def occlusion(
    answer: Answer, picture: UInt8[np.ndarray, "size size 3"], label: int, spec: InputSpec
) -> Float[np.ndarray, "r c"]:
    """How far the log-odds of a class fall when each place is hidden (Zeiler and Fergus 2014).

    Log-odds and not probabilities: those of a sure answer do not fall before nearly all of it is hidden.
    """
    shown = np.concatenate([picture[None], _hidden(picture, spec)])
    each = [log_odds(answer(shown[start : start + BATCH]), label) for start in range(0, len(shown), BATCH)]
    odds = np.concatenate(each)
    fallen: Float[np.ndarray, "r c"] = (odds[0] - odds[1:]).reshape(SIDE, SIDE).astype(np.float32)
    return fallen


def log_odds(probabilities: Float[np.ndarray, "n k"], label: int) -> Float[np.ndarray, "n"]:
    """Of one class against all others together; their sum, as 1 minus a probability near 1 has few digits left."""
    others = np.delete(probabilities, label, axis=1).astype(np.float64).sum(axis=1)
    smallest = np.finfo(np.float32).tiny
    odds: Float[np.ndarray, "n"] = np.log(np.maximum(probabilities[:, label], smallest)) - np.log(
        np.maximum(others, smallest)
    )
    return odds


def nothing(spec: InputSpec) -> UInt8[np.ndarray, "3"]:
    """The colour that tells a network least: what its normalisation makes 0, or a middle grey where it has none."""
    mean = np.array(spec.mean[::-1] if spec.order == "bgr" else spec.mean)
    colour: UInt8[np.ndarray, "3"] = np.rint(mean if mean.any() else np.full(3, 127)).astype(np.uint8)
    return colour


def _hidden(picture: UInt8[np.ndarray, "size size 3"], spec: InputSpec) -> UInt8[np.ndarray, "places size size 3"]:
    """The picture once for each place, row by row, with that place and what is close to it in one colour."""
    copies = np.repeat(picture[None], SIDE * SIDE, axis=0)
    cell, colour = len(picture) / SIDE, nothing(spec)
    for place, copy in enumerate(copies):
        upper, left = ((np.array(divmod(place, SIDE)) + 0.5 - REACH / 2) * cell).round().astype(int)
        lower, right = upper + round(REACH * cell), left + round(REACH * cell)
        copy[max(0, upper) : lower, max(0, left) : right] = colour
    return copies
