"""Find photos that are a part of another: among neighbours by a backbone's features, one laid into the other.

Hashes of whole pictures do not see a crop. Features do: a crop's nearest neighbours usually hold the photo that it came
from, among others of the same class. So each neighbour is checked on the thumbnails: the smaller view is searched for
in the larger one, at several sizes and places, and must agree almost as near-duplicates do. That says "probably", where
thumbnails are all there is: what is found is told, and decides nothing (benchmarks/quality/crops.py has figures).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from headstart.data.duplicates import Pair
from headstart.data.looking import Looks
from headstart.data.matching import agreement, blank
from headstart.modalities.look import grey

NEIGHBOURS = 5  # of each photo, that are checked
NEAR = 0.6  # least cosine of two photos' features for one to be a part of the other
SIDES = (0.9, 0.8, 0.7, 0.6, 0.5)  # of the part, as shares of the whole's
PLACES = 5  # along each side where a part is searched for
LEAST = (0.95, 0.95)  # agreement of the best tiles, and of all, after one was laid over the other
BLOCK = 1024  # rows whose neighbours are searched for at a time, so that not all pairs are in memory at once


def crops(ids: Sequence[str], features: Float[np.ndarray, "n d"], looks: Looks) -> list[Pair]:
    """Pairs of photos of which one probably shows a part of the other, sorted.

    Args:
        ids: one for each row; those without a look are passed over.
        features: what a backbone's last cut gives for each; any scale.
        looks: of these photos.
    """
    kept = [place for place, id in enumerate(ids) if id in looks]
    names = [ids[place] for place in kept]
    found: dict[tuple[str, str], float] = {}
    for one, other in _neighbours(features[kept]):
        pictures = (
            grey(looks.take([names[place] for place in one])),
            grey(looks.take([names[place] for place in other])),
        )
        figures = np.maximum(_inside(*pictures), _inside(*pictures[::-1]))
        for place in np.flatnonzero(figures).tolist():
            pair = sorted((names[one[place]], names[other[place]]))
            found[pair[0], pair[1]] = max(found.get((pair[0], pair[1]), 0.0), float(figures[place]))
    return sorted(Pair(one, other, round(min(1.0, figure), 4)) for (one, other), figure in found.items())


def _neighbours(features: Float[np.ndarray, "n d"]) -> Iterator[tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]]:
    """The nearest neighbours of a block of rows at a time, each pair once in its block."""
    rows = np.asarray(features, np.float32)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    most = min(NEIGHBOURS, len(rows) - 1)
    for start in range(0, len(rows) if most > 0 else 0, BLOCK):
        cosines = rows[start : start + BLOCK] @ rows.T
        here = np.arange(len(cosines))
        cosines[here, here + start] = -1
        nearest = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        one, column = np.nonzero(np.take_along_axis(cosines, nearest, 1) >= NEAR)
        other = nearest[one, column]
        for first in range(0, len(one), BLOCK):
            yield one[first : first + BLOCK] + start, other[first : first + BLOCK]


def _inside(whole: Float[np.ndarray, "m side side"], part: Float[np.ndarray, "m side side"]) -> Float[np.ndarray, "m"]:
    """The agreement of each part with the best window of its whole; 0 where it is not enough."""
    if not len(whole):
        return np.zeros(0)
    best = np.full(len(whole), -1.0)
    window = np.zeros_like(part)
    blurred = np.zeros_like(part)
    for share in SIDES:
        soft = _resampled(_resampled(part, 0, 0, 1, round(part.shape[1] * share)), 0, 0, 1, part.shape[1])
        for down in np.linspace(0, 1 - share, PLACES):
            for across in np.linspace(0, 1 - share, PLACES):
                seen = _resampled(whole, down, across, share, part.shape[1])
                alike = _correlation(seen, soft)
                better = alike > best
                best[better], window[better], blurred[better] = alike[better], seen[better], soft[better]
    found = agreement(window, blurred, aligned=True)
    enough = (found.most >= LEAST[0]) & (found.all >= LEAST[1]) & ~blank(part) & ~blank(whole)
    return np.where(enough, np.minimum(found.most, found.all), 0.0)


def _resampled(
    pictures: Float[np.ndarray, "m side side"], down: float, across: float, share: float, size: int
) -> Float[np.ndarray, "m size size"]:
    """The square window that begins at these shares of the sides, and is `share` of them, at another size; bilinear."""
    side = pictures.shape[1]
    step = (np.arange(size) + 0.5) / size * share

    def weights(start: float) -> Float[np.ndarray, "size side"]:
        places = np.clip((start + step) * side - 0.5, 0, side - 1)
        reach = max(1.0, share * side / size)  # when it shrinks, each pixel is a mean of several
        near = np.maximum(0, 1 - np.abs(np.arange(side)[None] - places[:, None]) / reach)
        scaled: Float[np.ndarray, "size side"] = (near / near.sum(1, keepdims=True)).astype(np.float32)
        return scaled

    resampled: Float[np.ndarray, "m size size"] = weights(down) @ pictures @ weights(across).T
    return resampled


def _correlation(
    one: Float[np.ndarray, "m side side"], other: Float[np.ndarray, "m side side"]
) -> Float[np.ndarray, "m"]:
    first = one - one.mean((1, 2), keepdims=True)
    second = other - other.mean((1, 2), keepdims=True)
    products = (first * second).sum((1, 2))
    alike: Float[np.ndarray, "m"] = products / np.sqrt((first**2).sum((1, 2)) * (second**2).sum((1, 2)) + 1)
    return alike
