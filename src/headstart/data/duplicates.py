"""Find photos that are the same picture once more: saved again, resized, edited a little, mirrored, or of a burst.

Candidates come from hashes (`hashes.py`), so not all pairs are compared; each is then judged on its thumbnails
(`matching.py`), so that two things on the same background do not count. What these thresholds find and miss is measured
by benchmarks/quality/near_duplicates.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headstart.data.families import Links
from headstart.data.hashes import distance, hashes, near
from headstart.data.looking import Looks
from headstart.data.matching import Agreement, agreement, blank
from headstart.modalities.look import grey

LYING = (0.93, 0.95)  # least agreement of the best tiles, and of all, as the pictures lie
MOVED = (0.95, 0.98)  # the same after one was laid over the other, which brings any two a little nearer
WORTH_MOVING = 0.5  # less agreement than this as they lie, and no small move helps
BLOCK = 512  # pairs that are judged at a time
CROWD = 32  # within a family of more, pairs that would link nothing new are not judged


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Two nearly equal photos by their ids, the lower one first; `agreement` is 1 where nothing differs."""

    one: str
    other: str
    agreement: float
    mirrored: bool = False


def near_duplicates(looks: Looks, *, mirrored: bool = True) -> list[Pair]:
    """All pairs of nearly equal photos, sorted. Blank ones are like none. `mirrored`: also mirror images."""
    candidates = _candidates(looks, mirrored=mirrored)
    links = Links()
    pairs = []
    for start in range(0, len(candidates), BLOCK):
        block = [
            (looks.ids[one], looks.ids[other], bool(flip))
            for one, other, flip in candidates[start : start + BLOCK].tolist()
        ]
        block = [(one, other, flip) for one, other, flip in block if not links.crowded(one, other, CROWD)]
        for pair in judge(looks, block):
            links.join(pair.one, pair.other)
            pairs.append(pair)
    best: dict[tuple[str, str], Pair] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.agreement, not pair.mirrored)):
        best[pair.one, pair.other] = pair
    return sorted(best.values())


def judge(looks: Looks, candidates: Sequence[tuple[str, str, bool]]) -> Iterable[Pair]:
    """Those candidates (two ids, and whether the second is mirrored) that are nearly the same."""
    if not candidates:
        return
    one = grey(looks.take([one for one, _, _ in candidates]))
    other = grey(looks.take([other for _, other, _ in candidates]))
    flips = np.array([flip for _, _, flip in candidates])
    other[flips] = other[flips, :, ::-1]
    figures = _figures(one, other)
    for (first, second, flip), figure in zip(candidates, figures.tolist(), strict=True):
        if figure:
            yield Pair(min(first, second), max(first, second), round(min(1.0, figure), 4), flip)


def _figures(one: Float[np.ndarray, "m side side"], other: Float[np.ndarray, "m side side"]) -> Float[np.ndarray, "m"]:
    """The agreement of each pair; 0 where it is not enough."""
    as_they_lie = agreement(one, other, aligned=False)
    figures = np.where(_enough(as_they_lie, LYING), np.minimum(as_they_lie.most, as_they_lie.all), 0.0)
    doubtful = np.flatnonzero((figures == 0) & (as_they_lie.most > WORTH_MOVING))
    moved = agreement(one[doubtful], other[doubtful], aligned=True)
    figures[doubtful] = np.where(_enough(moved, MOVED), np.minimum(moved.most, moved.all), 0.0)
    return figures


def _enough(found: Agreement, least: tuple[float, float]) -> Bool[np.ndarray, "m"]:
    enough: Bool[np.ndarray, "m"] = (found.most >= least[0]) & (found.all >= least[1])
    return enough


def _candidates(looks: Looks, *, mirrored: bool) -> Int[np.ndarray, "m 3"]:
    """Two positions in `looks.ids` and whether the second is mirrored; the most alike hashes first."""
    plain, flipped, empty = [], [], []
    for rows in looks.blocks():
        pictures = grey(rows)
        empty.append(blank(pictures))
        plain.append(hashes(pictures))
        flipped.append(hashes(np.ascontiguousarray(pictures[:, :, ::-1])))
    if not plain:
        return np.empty((0, 3), np.int64)
    kept = np.flatnonzero(~np.concatenate(empty))
    n = len(kept)
    values = np.concatenate(plain)[kept]
    if mirrored:
        values = np.concatenate([values, np.concatenate(flipped)[kept]])
    found = near(values)
    found = found[found[:, 0] < n]  # two mirrored ones are like two plain ones
    one, other, flip = found[:, 0], found[:, 1] % n if n else found[:, 1], found[:, 1] >= n
    wanted = (one < other) & ~((one == other) & flip)
    order = np.argsort(distance(values[found[:, 0]], values[found[:, 1]])[wanted], kind="stable")
    return np.stack([kept[one[wanted]], kept[other[wanted]], flip[wanted]], axis=1)[order]
