"""Find pictures whose coarse structure is nearly the same, without comparing all pairs.

A picture's hash is 64 signs: of its lowest frequencies (a cosine transform), brightness left out. Compression, size,
light and small marks hardly change them. Two hashes that differ in at most `RADIUS` = 11 of 64 bits differ in at most 2
of 16 bits in at least one of four quarters (pigeonhole: 4 x 3 = 12 > 11). So each hash is filed four times, under
each quarter and its sixteen neighbours of one bit. Two quarters that differ in at most 2 bits meet in some drawer,
where each has moved one bit towards the other, and only pairs that meet are compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt64

BITS = 64
RADIUS = 11
EQUAL = 16  # of so many photos with the same hash all pairs are made
CROWD = 64  # so many neighbours in a drawer, and eight times what is usual, are compared: a film must not be n^2
_QUARTERS = 4
_QUARTER_BITS = BITS // _QUARTERS
_FREQUENCIES = 11  # the 64 lowest of a triangle of these, without the mean
_COUNTS = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def hashes(grey: Float[np.ndarray, "n side side"]) -> UInt64[np.ndarray, "n"]:
    """The signs of the 64 lowest frequencies; every quarter of the bits has low and high ones."""
    side = grey.shape[1]
    waves = np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * (2 * np.arange(side) + 1) / (2 * side)).astype(np.float32)
    spectrum = waves @ grey.astype(np.float32) @ waves.T
    both = itertools.product(range(_FREQUENCIES), repeat=2)
    places = sorted((down + across, down, across) for down, across in both if down + across)[:BITS]
    order = [places[place] for quarter in range(_QUARTERS) for place in range(quarter, BITS, _QUARTERS)]
    signs = np.stack([spectrum[:, down, across] > 0 for _, down, across in order], axis=1)
    return np.packbits(signs, axis=1).view(np.uint64).ravel() if len(grey) else np.empty(0, np.uint64)


def distance(one: UInt64[np.ndarray, "m"], other: UInt64[np.ndarray, "m"]) -> UInt8[np.ndarray, "m"]:
    """In how many bits each pair differs."""
    words = (one ^ other).view(np.uint16).reshape(-1, _QUARTERS)
    total: UInt8[np.ndarray, "m"] = _COUNTS[words].sum(axis=1, dtype=np.uint8)
    return total


def near(values: UInt64[np.ndarray, "n"]) -> Int[np.ndarray, "m 2"]:
    """All pairs of positions, each once and the lower first, whose hashes differ in at most `RADIUS` bits.

    Of many equal hashes a few are searched with, so that a thousand equal pictures do not make half a million pairs:
    each of the others is paired with the first of them and the one before it.
    """
    order = np.argsort(values, kind="stable")  # stable: equal ones stay by position
    new = np.ones(len(values), bool)
    new[1:] = values[order][1:] != values[order][:-1]
    start = np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
    late = np.flatnonzero(np.arange(len(values)) - start >= EQUAL)
    searched = np.sort(np.delete(order, late))
    keys = [_key(order[start[late]], order[late]), _key(order[late - 1], order[late])]
    for quarter in range(_QUARTERS):
        for one, other in _meetings(values[searched], quarter):
            close = distance(values[searched[one]], values[searched[other]]) <= RADIUS
            keys.append(np.unique(_key(searched[one[close]], searched[other[close]])))
    unique = np.unique(np.concatenate(keys))
    return np.stack([unique >> 32, unique & 0xFFFFFFFF], axis=1)


def _key(one: Int[np.ndarray, "m"], other: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
    key: Int[np.ndarray, "m"] = np.minimum(one, other).astype(np.int64) << 32 | np.maximum(one, other)
    return key


def _meetings(
    values: UInt64[np.ndarray, "n"], quarter: int
) -> Iterator[tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]]:
    """Pairs that lie in the same drawer of a quarter, a block of them at a time."""
    words = values.view(np.uint16).reshape(-1, _QUARTERS)[:, quarter]
    moves = np.array([0, *(1 << bit for bit in range(_QUARTER_BITS))], np.uint16)
    drawers = (words[:, None] ^ moves).ravel()
    owners = np.repeat(np.arange(len(values)), len(moves))
    order = np.lexsort((values[owners], drawers))  # in a drawer, likely neighbours lie side by side
    drawers, owners = drawers[order], owners[order]
    # The entry so many places on lies in the same drawer, or, from some number on, none does.
    alive = np.arange(len(owners))
    for step in range(1, CROWD + 8 * len(owners) // (1 << _QUARTER_BITS)):
        alive = alive[alive + step < len(owners)]
        alive = alive[drawers[alive] == drawers[alive + step]]
        if not len(alive):
            return
        yield owners[alive], owners[alive + step]
