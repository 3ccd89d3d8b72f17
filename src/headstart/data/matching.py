"""Judge whether two small pictures show the same: after laying one over the other, by their edges.

Edges, not pixels: on white backgrounds the pixels of any two pictures agree for the most part, and edges do not care
about brightness. A mark or a text that one picture has and the other lacks is forgiven; where both have edges, these
must agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

BLOCK = 512  # pairs that are judged at a time
COARSE, FINE = 6, 2  # linear steps of laying one over the other, at half the size and then at the full one
FARTHEST = 0.12  # of the side: how far a corner may move, so that a burst or a slight crop fits but nothing else does
_TILES = 4  # along a side: where edges are compared
_DROPPED = 4  # of the 16 tiles, those that differ most are left out of one of the two figures
_STRUCTURE = 1.5  # grey levels: a picture whose edges are weaker on average is blank


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the pictures of pairs agree, each in [-1, 1]: `most` in their twelve best tiles, `all` everywhere."""

    most: Float[np.ndarray, "m"]
    all: Float[np.ndarray, "m"]


def blank(grey: Float[np.ndarray, "n side side"]) -> Bool[np.ndarray, "n"]:
    """Which pictures have no structure to compare: flat, or a mere gradient of light."""
    edges = np.abs(np.diff(grey, 2, axis=1))[:, :, 1:-1].mean((1, 2)) + np.abs(np.diff(grey, 2, axis=2))[:, 1:-1].mean(
        (1, 2)
    )
    flat: Bool[np.ndarray, "n"] = edges < _STRUCTURE
    return flat


def agreement(
    one: Float[np.ndarray, "m side side"], other: Float[np.ndarray, "m side side"], *, aligned: bool
) -> Agreement:
    """Compare each pair as it lies; or, if `aligned`, after moving, turning and scaling the second a little."""
    if not aligned:
        return _compare(one, other, np.ones(one.shape, bool))
    moved, inside = _laid_over(one, other)
    return _compare(one, moved, inside)


def _compare(
    one: Float[np.ndarray, "m side side"],
    other: Float[np.ndarray, "m side side"],
    inside: Bool[np.ndarray, "m side side"],
) -> Agreement:
    inside = inside[:, 1:-1, 1:-1]
    first, second = _edges(one) * inside[:, None], _edges(other) * inside[:, None]
    both, left, right = _tiled(first * second), _tiled(first * first), _tiled(second * second)
    gain = np.sqrt((left.sum(1) + 1e-6) / (right.sum(1) + 1e-6))[:, None]  # contrast
    both, right = both * gain, right * gain**2
    kept = np.argsort(left + right - 2 * both, axis=1)[:, : _TILES**2 - _DROPPED]
    sums = [np.take_along_axis(part, kept, 1).sum(1) for part in (both, left, right)]
    most = sums[0] / np.sqrt(sums[1] * sums[2] + 1e-6)
    gain = np.sqrt((sums[1] + 1e-6) / (sums[2] + 1e-6))[:, None]  # now without what only one of them has
    both, right = both * gain, right * gain**2
    shared = np.minimum(left, right)
    return Agreement(most, np.minimum(both, shared).sum(1) / (shared.sum(1) + 1e-6))


def _edges(grey: Float[np.ndarray, "m side side"]) -> Float[np.ndarray, "m 2 inner inner"]:
    across = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    down = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    return np.stack([across, down], axis=1)


def _tiled(edges: Float[np.ndarray, "m 2 inner inner"]) -> Float[np.ndarray, "m tiles"]:
    """Sums over tiles; sides need not divide."""
    starts = np.linspace(0, edges.shape[2], _TILES, endpoint=False).astype(int)
    sums = np.add.reduceat(np.add.reduceat(edges.sum(1), starts, axis=1), starts, axis=2)
    return sums.reshape(len(edges), _TILES**2)


def _laid_over(
    one: Float[np.ndarray, "m side side"], other: Float[np.ndarray, "m side side"]
) -> tuple[Float[np.ndarray, "m side side"], Bool[np.ndarray, "m side side"]]:
    """The second as it lies best over the first (Gauss-Newton steps over affine maps and light), and where it does."""
    m, side = one.shape[:2]
    maps = np.zeros((m, 6), np.float32)
    maps = _improved(maps, _halved(one), _halved(other), COARSE)
    maps = _improved(maps, one, other, FINE)
    moved, _, inside = _sampled(other.reshape(m, side * side), maps, *_plane(side))
    return moved.reshape(one.shape), inside.reshape(one.shape)


def _halved(grey: Float[np.ndarray, "m side side"]) -> Float[np.ndarray, "m half half"]:
    half: Float[np.ndarray, "m half half"] = (
        grey[:, ::2, ::2] + grey[:, 1::2, ::2] + grey[:, ::2, 1::2] + grey[:, 1::2, 1::2]
    ) / 4
    return half


def _plane(side: int) -> tuple[Float[np.ndarray, "3 pixels"], float]:
    """What a map is a weighted sum of, for each of the two directions, at each pixel; and pixels in half a side.

    Places go from -1 to 1 between the picture's edges, so that a map is the same for any number of pixels.
    """
    place = (2 * np.arange(side, dtype=np.float32) + 1) / side - 1
    down, across = (grid.ravel() for grid in np.meshgrid(place, place, indexing="ij"))
    return np.stack([np.ones_like(down), across, down]), side / 2


def _improved(
    maps: Float[np.ndarray, "m 6"],
    one: Float[np.ndarray, "m side side"],
    other: Float[np.ndarray, "m side side"],
    rounds: int,
) -> Float[np.ndarray, "m 6"]:
    """Maps that lay the second picture over the first better."""
    m, side = one.shape[:2]
    plane, step = _plane(side)
    target, source = _standard(one), _standard(other)
    for _ in range(rounds):
        moved, slopes, inside = _sampled(source, maps, plane, step)
        columns = np.empty((m, 8, side * side), np.float32)
        columns[:, :3] = slopes[:, :1] * plane
        columns[:, 3:6] = slopes[:, 1:] * plane
        columns[:, 6], columns[:, 7] = moved, 1
        columns *= inside[:, None]
        wanted = (target - moved) * inside
        normal = columns @ columns.transpose(0, 2, 1)
        normal += np.float32(1e-3 * side * side) * np.eye(8, dtype=np.float32)
        maps = maps + np.linalg.solve(normal, columns @ wanted[:, :, None])[:, :6, 0]
        reach = np.abs(maps).reshape(m, 2, 3).sum(2).max(1) / 2  # of a side, at the worst corner
        maps *= np.minimum(1, FARTHEST / np.maximum(reach, 1e-6))[:, None]
    return maps


def _standard(grey: Float[np.ndarray, "m side side"]) -> Float[np.ndarray, "m pixels"]:
    flat = grey.reshape(len(grey), grey.shape[1] * grey.shape[2])
    standard: Float[np.ndarray, "m pixels"] = (flat - flat.mean(1, keepdims=True)) / (flat.std(1, keepdims=True) + 1)
    return standard


def _sampled(
    pixels: Float[np.ndarray, "m pixels"],
    maps: Float[np.ndarray, "m 6"],
    plane: Float[np.ndarray, "3 pixels"],
    step: float,
) -> tuple[Float[np.ndarray, "m pixels"], Float[np.ndarray, "m 2 pixels"], Bool[np.ndarray, "m pixels"]]:
    """The pictures under their maps, with slopes across and down, and which pixels came from inside of them."""
    m, side = len(pixels), round(2 * step)
    across = (plane[1] + maps[:, :3] @ plane + 1) * np.float32(step) - np.float32(0.5)
    down = (plane[2] + maps[:, 3:] @ plane + 1) * np.float32(step) - np.float32(0.5)
    inside = (across >= 0) & (across <= side - 1) & (down >= 0) & (down <= side - 1)
    left = np.clip(np.floor(across), 0, side - 2)
    upper = np.clip(np.floor(down), 0, side - 2)
    right_share = np.clip(across - left, 0, 1)
    lower_share = np.clip(down - upper, 0, 1)
    corner: Int[np.ndarray, "m pixels"] = (upper * side + left).astype(np.int64) + (np.arange(m) * side * side)[:, None]
    flat = pixels.ravel()
    here, right, below, beyond = flat[corner], flat[corner + 1], flat[corner + side], flat[corner + side + 1]
    top = here + (right - here) * right_share
    bottom = below + (beyond - below) * right_share
    slope_across = ((right - here) * (1 - lower_share) + (beyond - below) * lower_share) * step
    slopes = np.stack([slope_across, (bottom - top) * step], axis=1)
    return top + (bottom - top) * lower_share, slopes, inside
