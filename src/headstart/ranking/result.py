"""What a ranking found out: a line for each backbone, and which to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Standing = Literal["best", "within noise", "behind"]
CHEAPER = 0.8  # of the best's milliseconds: what is measured twice differs by less


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A backbone that was judged by `photos` of the training photos.

    `accuracy`: of the exact head, out of fold, with its 95 % interval. `difference`: to the best by the same photos,
    below 0 where it is behind. `milliseconds`: of a photo through decoding and the frozen part, here; `timed`: measured
    now, or else, since the features were there, guessed from a few pictures. `megabytes`: of weights. `tune_minutes`:
    predicted for tuning at quality balanced. `computed`: photos whose features were not there yet.
    """

    backbone: str
    weights: str | None
    standing: Standing
    photos: int
    accuracy: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    milliseconds: float
    timed: bool
    megabytes: float
    tune_minutes: float
    computed: int


@dataclass(frozen=True, kw_only=True)
class Untried:
    """A backbone that the time limit had no room for, and how many seconds its first `photos` would take."""

    backbone: str
    photos: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Which backbone suits some photos. `ranked`: the best first. `best`: the most accurate.

    `cheaper`: those that are within noise of the best and take less time, the cheapest first. `photos`: training
    photos that there are. `judged`: how many of them the best was judged by. `stopped`: why not by all; None where it
    was by all, or where one was left.
    """

    data: str
    seed: int
    classes: tuple[str, ...]
    photos: int
    judged: int
    best: str
    cheaper: tuple[str, ...]
    verdict: str
    ranked: tuple[Ranked, ...]
    untried: tuple[Untried, ...]
    stopped: str | None
    seconds: float


def cheaper_ones(ranked: Sequence[Ranked]) -> tuple[str, ...]:
    """Those within noise of the first that take clearly less time, the cheapest first."""
    enough = CHEAPER * ranked[0].milliseconds
    near = [each for each in ranked[1:] if each.standing == "within noise" and each.milliseconds < enough]
    return tuple(each.backbone for each in sorted(near, key=lambda each: each.milliseconds))


def verdict(ranked: Sequence[Ranked], untried: Sequence[Untried]) -> str:
    """What to take, in one or two plain sentences."""
    best, noise = ranked[0], [each for each in ranked[1:] if each.standing == "within noise"]
    cheap = set(cheaper_ones(ranked))
    said = f"{best.backbone} is the most accurate of {len(ranked)}"
    if len(ranked) == 1:
        said = f"{best.backbone} is the only one that was tried"
    elif not noise:
        said += ", and none is within noise of it"
    elif cheap:
        names = ", ".join(f"{each.backbone} ({_less(each, best)})" for each in noise if each.backbone in cheap)
        said += f"; within noise of it and cheaper: {names}"
    else:
        said += f"; within noise of it, but not cheaper: {', '.join(each.backbone for each in noise)}"
    more = f". Not tried for want of time: {', '.join(each.backbone for each in untried)}" if untried else ""
    return said + more


def _less(one: Ranked, best: Ranked) -> str:
    return f"{one.milliseconds / best.milliseconds:.0%} of its time, {-100 * one.difference:.1f} points less accurate"
