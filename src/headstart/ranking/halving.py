"""Find out which backbone suits some photos: all by a few photos, the promising ones by ever more of them.

Only training photos are looked at, of the split that `train` makes with the same seed; validation and test photos
choose and judge the model that is trained later. Every feature that is computed here is found there by `train`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike

from headstart.config import Settings
from headstart.data.dataset import Dataset
from headstart.data.loading import folder_of
from headstart.events import Accuracy, Event, Note
from headstart.preparing import surveyed
from headstart.ranking import subsets
from headstart.ranking.candidates import Ready, named, ready
from headstart.ranking.entrant import Entrant, Judged, Stable, judge, weigh
from headstart.ranking.pairs import Difference, difference, hopeless
from headstart.ranking.result import Ranked, Ranking, Untried, cheaper_ones, verdict
from headstart.weighting import item_weights, parse

Clock = Callable[[], float]
DEAR = 3.0  # times the time of the best


def rank(
    settings: Settings,
    backbones: str | Sequence[str] | None = None,
    weights: Mapping[str, str | PathLike[str]] | Sequence[str] | None = None,
) -> Generator[Event, None, Ranking]:
    """Which of these backbones suits the photos; by default, of those that are on this machine.

    Raises:
        HeadstartError: the data, a setting or a backbone cannot be used; before any photo is looked at where it can be
            known by then.
    """
    began = time.monotonic()
    folder_of(settings.data, columns=settings.columns)
    entrants = yield from ready(named(backbones, weights), settings, others=backbones is None)
    dataset = yield from surveyed(settings)
    for text in dataset.notes:
        yield Note(text=text)
    return (yield from race(dataset, entrants, settings, began=began, limit=settings.time_limit))


@dataclass(eq=False)
class _Race:
    """What is to be found out, by which photos, and until when."""

    settings: Settings
    dataset: Dataset
    photos: Dataset  # the training photos, in the order in which they are taken
    sizes: Sequence[int]
    entrants: Sequence[Entrant]
    stable: Stable
    began: float
    ends: float
    clock: Clock
    untried: list[Untried] = field(default_factory=list)
    stopped: str | None = None

    @property
    def left(self) -> float:
        """Seconds until it ends."""
        return self.ends - self.clock()

    def differ(self, one: Entrant, other: Entrant, size: int) -> Difference:
        """How much more accurate one is than another, by a part that both were judged by."""
        part = subsets.first(self.photos, size)
        weights = item_weights(part, parse(self.settings.class_weights))
        return difference(one.judged[size].right, other.judged[size].right, part.families, weights)


def race(
    dataset: Dataset,
    candidates: Sequence[Ready],
    settings: Settings,
    *,
    began: float,
    limit: float | None = None,
    clock: Clock = time.monotonic,
) -> Generator[Event, None, Ranking]:
    """The same for a data set that is loaded and candidates that are ready. `limit`: seconds since `began`.

    At least one is judged by the first part of the photos, however short the limit is.

    Raises:
        BadData: the training photos are all the same.
        DiskFull: the store has no room for the features.
    """
    photos = subsets.ordered(dataset.train, settings.seed)
    sizes = subsets.sizes(len(photos), len(photos.classes))
    if len(candidates) == 1 and limit is None:
        sizes = sizes[-1:]  # there is nobody to leave
    entrants = sorted(map(Entrant, candidates), key=lambda entrant: entrant.ready.estimate)
    race = _Race(
        settings=settings,
        dataset=dataset,
        photos=photos,
        sizes=sizes,
        entrants=entrants,
        stable=Stable(settings),
        began=began,
        ends=math.inf if limit is None else began + limit,
        clock=clock,
    )
    count = f"{len(entrants)} backbones" if len(entrants) > 1 else "1 backbone"
    yield Note(text=f"ranking {count} by {len(photos)} training photos; validation and test photos are not looked at")
    yield from _first_round(race)
    alive = [entrant for entrant in entrants if entrant.judged]
    for size in race.sizes:
        if size != race.sizes[0] and not (yield from _round(race, alive, size)):
            break
        alive = yield from _survivors(race, alive, size)
        if len(alive) == 1 and len(entrants) > 1:
            break
    return _told(race, alive)


def _first_round(race: _Race) -> Generator[Event, None, None]:
    """All by the first part of the photos, cheap ones first, as long as there is time."""
    size = race.sizes[0]
    tried: list[Entrant] = []
    for entrant in race.entrants:
        seconds = _guess(tried, entrant, size)
        in_time = True
        if tried:
            in_time = race.left > (seconds or 0.0) and (yield from _judged(race, entrant, size))
        else:
            yield from _judged(race, entrant, size, patient=True)
        if in_time:
            tried.append(entrant)
            continue
        race.stable.close(entrant)
        race.untried.append(Untried(backbone=entrant.name, photos=size, seconds=_guess(tried, entrant, size)))
        yield Note(text=f"{entrant.name} is not tried: the time limit has no room for it")


def _round(race: _Race, alive: Sequence[Entrant], size: int) -> Generator[Event, None, bool]:
    """The remaining ones by a larger part of the photos, the cheapest first; whether there was time for all of them.

    A part that only some were judged by would compare nothing, so it counts for none.
    """
    before = max(alive[0].judged)
    seconds = sum((entrant.pace or 0.0) * (size - before) + entrant.solving * size / before for entrant in alive)
    in_time = race.left > seconds
    for entrant in sorted(alive, key=_cost):
        in_time = in_time and (yield from _judged(race, entrant, size))
    if not in_time:
        for entrant in alive:
            entrant.judged.pop(size, None)
        race.stopped = f"time limit: {size} photos would take about {seconds:.0f} s more"
        yield Note(text=f"stopped after {before} of {len(race.photos)} photos by the {race.stopped}")
    return in_time


def _judged(race: _Race, entrant: Entrant, size: int, *, patient: bool = False) -> Generator[Event, None, bool]:
    """Judge it by the first photos; false where time ran out on the way, unless it is `patient`."""
    shop = race.stable.shop(entrant)
    part = subsets.first(race.photos, size)
    work = judge(entrant, part, shop, race.photos)
    try:
        while True:
            if not patient and race.left < 0:
                return False
            try:
                yield next(work)
            except StopIteration as end:
                found: Judged = end.value
                break
    finally:
        work.close()
    entrant.judged[size] = found
    yield Accuracy(
        name=entrant.name,
        value=found.accuracy,
        interval=found.interval,
        n=found.n,
        seconds=race.clock() - race.began,
    )
    if size == race.sizes[0]:
        yield from weigh(entrant, race.dataset, shop)
    return True


def _survivors(race: _Race, alive: Sequence[Entrant], size: int) -> Generator[Event, None, list[Entrant]]:
    """Those that may still turn out to be the best."""
    best = _best(alive)
    left = []
    for entrant in alive:
        behind = race.differ(entrant, best, size)
        dear = _cost(entrant) > DEAR * _cost(best)
        if entrant is best or size == len(race.photos) or not hopeless(behind, race.sizes[::-1].index(size), dear):
            left.append(entrant)
            continue
        race.stable.close(entrant)
        low, high = behind.interval
        yield Note(
            text=f"{entrant.name} is out: {-behind.value:.3f} behind {best.name} on the same {entrant.last.n} photos, "
            f"95 % interval {-high:.3f} to {-low:.3f}"
        )
    return left


def _best(entrants: Sequence[Entrant]) -> Entrant:
    """The most accurate, and of equal ones the cheapest: by what is known without a clock, so that it is always one."""
    return max(entrants, key=lambda entrant: (entrant.last.accuracy, -entrant.ready.estimate))


def _cost(entrant: Entrant) -> float:
    """Seconds of a photo, once it is weighed."""
    return entrant.pace or 0.0


def _guess(tried: Sequence[Entrant], entrant: Entrant, size: int) -> float | None:
    """Seconds that so many photos would take, by the paces of others and what is known without building it."""
    rates = [each.pace / each.ready.estimate for each in tried if each.pace and math.isfinite(each.ready.estimate)]
    if entrant.pace is not None:
        return entrant.pace * size
    if not rates or not math.isfinite(entrant.ready.estimate):
        return None
    return max(rates) * entrant.ready.estimate * size


def _told(race: _Race, alive: Sequence[Entrant]) -> Ranking:
    """The result; each is compared to the best by the largest part that it was judged by."""
    best = _best(alive)
    rows = [_row(race, entrant, best) for entrant in race.entrants if entrant.judged]
    ranked = sorted(rows, key=lambda row: (row.standing != "best", -row.photos, -row.difference))
    return Ranking(
        data=race.settings.data,
        seed=race.settings.seed,
        classes=race.photos.classes,
        photos=len(race.photos),
        judged=best.last.n,
        best=best.name,
        cheaper=cheaper_ones(ranked),
        verdict=verdict(ranked, race.untried),
        ranked=tuple(ranked),
        untried=tuple(race.untried),
        stopped=race.stopped,
        seconds=race.clock() - race.began,
    )


def _row(race: _Race, entrant: Entrant, best: Entrant) -> Ranked:
    behind = Difference(0.0, 0.0) if entrant is best else race.differ(entrant, best, max(entrant.judged))
    return Ranked(
        backbone=entrant.name,
        weights=entrant.ready.candidate.weights,
        standing="best" if entrant is best else "within noise" if behind.noise else "behind",
        photos=entrant.last.n,
        accuracy=entrant.last.accuracy,
        interval=entrant.last.interval,
        difference=behind.value,
        difference_interval=behind.interval,
        milliseconds=1000 * (entrant.pace or 0.0),
        timed=entrant.timed,
        megabytes=entrant.bytes / 1e6,
        tune_minutes=entrant.tuning / 60,
        computed=entrant.computed,
    )
