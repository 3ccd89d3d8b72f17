"""Judge one backbone by some photos: the exact head on its features, out of fold, and what a photo cost."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from headstart.choosing import Choices, expected
from headstart.config import Settings
from headstart.data.dataset import Dataset
from headstart.evaluation.metrics import wilson
from headstart.events import Decision, Event, Note, Progress
from headstart.features import Features
from headstart.machine import cores
from headstart.modalities.loading import load_modality
from headstart.outcome import outcome
from headstart.probe import probe
from headstart.ranking.candidates import Ready
from headstart.ranking.costs import framework_seconds, tuning_seconds
from headstart.store import Store
from headstart.training.sources import Workshop
from headstart.weighting import item_weights, parse

OPEN = 10**9  # bytes of weights that stay in memory together: what is open need not be built and converted again
ENOUGH = 16  # photos that tell a pace


@dataclass(frozen=True, eq=False)
class Judged:
    """What came out for a part of the photos: in their order, 1 where the answer is right, 0 where not, NaN without."""

    right: Float[np.ndarray, "n"]
    accuracy: float
    interval: tuple[float, float]

    @property
    def n(self) -> int:
        """How many photos there were."""
        return len(self.right)


@dataclass(eq=False)
class Entrant:
    """A backbone in the race, and what is known of it by now."""

    ready: Ready
    judged: dict[int, Judged] = field(default_factory=dict)  # by the size of the part
    pace: float | None = None  # seconds of a photo, decoding included; None: not known yet
    timed: bool = False  # whether the pace was measured, or guessed since nothing had to be computed
    computed: int = 0  # photos, the others' features were there
    solving: float = 0.0  # seconds that the last head took
    bytes: int = 0  # of weights
    tuning: float = 0.0  # seconds that tuning would take, by counted work

    @property
    def name(self) -> str:
        """The full name of the backbone."""
        return self.ready.backbone.name

    @property
    def last(self) -> Judged:
        """What is known by the largest part."""
        return self.judged[max(self.judged)]


class Stable:
    """The networks that are open. Those longest unused are let go where all together would be too large."""

    def __init__(self, settings: Settings, limit: int = OPEN) -> None:
        self.limit = limit
        self._settings = settings
        self._open: dict[Entrant, Workshop] = {}

    def shop(self, entrant: Entrant) -> Workshop:
        """Everything that its features need, built where it is not open."""
        if entrant in self._open:
            self._open[entrant] = self._open.pop(entrant)  # the last used is the last in the row
            return self._open[entrant]
        while self._open and sum(each.bytes for each in (*self._open, entrant)) > self.limit:
            self.close(next(iter(self._open)))
        settings, network = self._settings, entrant.ready.backbone.build()
        network.to(settings.device)
        entrant.bytes = sum(array.nbytes for array in network.weights().values())
        self._open[entrant] = Workshop(
            backbone=entrant.ready.backbone,
            network=network,
            modality=load_modality("image", max_pixels=settings.max_pixels),
            store=Store.default(),
            workers=settings.workers or max(cores(), network.concurrency),
            seed=settings.seed,
            class_weights=parse(settings.class_weights),
            choices=Choices(settings.precision),
        )
        return self._open[entrant]

    def close(self, entrant: Entrant) -> None:
        """Let its network go."""
        if self._open.pop(entrant, None) is not None:
            gc.collect()  # a framework's networks refer to themselves


class Meter:
    """What a photo takes, from how far the work is: what comes before the first photos (conversion) does not count."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)
        self._before: int | None = None

    def tell(self, done: int, now: float) -> None:
        """So many are done."""
        if self._before is None:
            self._before = done
        elif self._first is None:
            self._first = (done, now)
        self._last = (done, now)

    @property
    def computed(self) -> int:
        """How many were done meanwhile."""
        return self._last[0] - (self._before or 0)

    @property
    def pace(self) -> float | None:
        """Seconds of one, or nothing where there were too few."""
        if self._first is None or self._last[0] - self._first[0] < ENOUGH:
            return None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])


def weigh(entrant: Entrant, data: Dataset, shop: Workshop) -> Generator[Event, None, None]:
    """Find out what it costs, once: a photo here, where that was not measured already, and tuning on all this data."""
    cut = shop.network.cuts[-1]
    plain = framework_seconds(shop, cut)
    if entrant.pace is None:
        entrant.pace = expected((yield from shop.choose(data.train, cut)), plain)
    with shop.network.concurrent(shop.workers):  # single pictures are slow where all threads share each
        entrant.tuning = tuning_seconds(shop, data, cut, pace=entrant.pace, plain=plain)


def judge(entrant: Entrant, photos: Dataset, shop: Workshop, every: Dataset) -> Generator[Event, None, Judged]:
    """How often the exact head on this backbone names photos rightly that it was not fitted on.

    What computes features is chosen once, as if those of `every` photo were wanted: they will be if it does well.

    Raises:
        BadData: the photos are all the same.
        DiskFull: the store has no room for the features.
    """
    features = yield from _features(entrant, photos, shop, every)
    began = time.monotonic()
    readable = np.array([item.id not in features.unreadable for item in photos.items])
    kept = photos.with_items(item for item, good in zip(photos.items, readable, strict=True) if good)
    weights = item_weights(kept, shop.class_weights)
    rows = features.take([item.id for item in kept.items])
    solved = outcome(probe(rows, kept.labels, kept.families, len(kept.classes), seed=shop.seed, weights=weights))
    right = np.full(len(photos), np.nan)
    right[readable] = solved.out_of_fold.argmax(1) == kept.labels
    shares = np.ones(len(kept)) if weights is None else weights
    accuracy = float(np.average(right[readable], weights=shares))
    n = round(shares.sum() ** 2 / (shares**2).sum())  # as many equal photos would tell as much (Kish 1965)
    entrant.solving = time.monotonic() - began
    return Judged(right, accuracy, wilson(round(accuracy * n), n))


def _features(entrant: Entrant, photos: Dataset, shop: Workshop, every: Dataset) -> Generator[Event, None, Features]:
    meter = Meter()
    work = _computed(shop, photos, every)
    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                features: Features = end.value
                break
            if isinstance(event, Progress):
                meter.tell(event.done, time.monotonic())
                event = replace(event, what=f"{event.what} of {entrant.name}")
            elif isinstance(event, Decision):  # which of several backbones it is about, its own name does not say
                event = Note(text=f"{entrant.name}: {event.value} ({event.reason})")
            yield event
    finally:
        work.close()  # what is computed is kept
        entrant.computed += meter.computed
        if meter.pace is not None:
            entrant.pace = min(meter.pace, entrant.pace or math.inf) if entrant.timed else meter.pace
            entrant.timed = True
    return features


def _computed(shop: Workshop, photos: Dataset, every: Dataset) -> Generator[Event, None, Features]:
    cut = shop.network.cuts[-1]
    yield from shop.choose(every, cut)
    return (yield from shop.features(photos, cut))
