"""Find out what a run will take here: count its work, and measure this machine for a moment on a few of its photos."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from headstart.choosing import Wanted, allowed, expected, here
from headstart.config import Precision as Wish
from headstart.events import Event
from headstart.modalities.modality import Undecodable
from headstart.networks.network import HEAD, INPUT, Batch, Cut
from headstart.networks.network import StepPrecision as Precision
from headstart.planning import DISK, Forecast, Job, Pace, Phase, StageWork, forecast
from headstart.preparing import staff
from headstart.runtimes import framework
from headstart.runtimes.runtime import Offer, Runner
from headstart.session import Session
from headstart.training.recipe import Recipe
from headstart.training.sources import cost_of, entry
from headstart.training.stages import Stage, learning_rates

PHOTOS = 12  # that are decoded to see how long it takes
LONGEST = 3.0  # seconds that a measurement takes at most, as far as that can be told beforehand
SHARE = 0.05  # of the time that is predicted, which it takes at most
MOMENT = 0.2  # seconds after which one thing has been timed often enough
REHEARSED = 3  # steps that a rehearsal takes, with the first one, which is slower
FEWEST_ROWS = 4  # in a step that is timed
SLOWER = 1.2  # a step, compared with as many FLOPs of answers: where it is too dear to be timed
WORTH = 20.0  # seconds of training, below which no other precision is tried: short runs always have the same bits
PAYS = 0.8  # of the time in fp32, at which bf16 is worth its rounding
FITS = 3  # ways to bring photos to a square


def predicted(session: Session, recipe: Recipe, cut: Cut) -> Generator[Event, None, Forecast]:
    """What this run will take, phase by phase, and in which precision its steps are computed.

    What computes the features is chosen by the way. The network gets a head for the time of the measurement: put on the
    real one afterwards.

    Raises:
        BadRuntime: the precision that was asked for cannot be had.
    """
    began = time.monotonic()
    known = session.dataset.only("train", "validation")
    offer = yield from session.shop.choose(known, cut)
    yield from staff(session, known, cut, offer)
    wanted = session.shop.wanted(known, cut)
    missing = wanted.missing(offer)
    chosen = time.monotonic() - began
    gauge = _Gauge(session, cut)
    # It is opened for the features in any case; where these are all there, it may never be needed.
    frozen = gauge.runner(session.choices.runner(wanted, offer)) if missing else None
    pace = gauge.pace(offer, frozen, len(known))
    if recipe.stages:
        session.network.set_head(recipe.head, len(session.dataset.classes), seed=session.settings.seed)
        session.network.prepare(recipe.optimization)
    weights = _bytes(session, None)
    job = Job(
        pace=pace,
        spent=tuple(Phase(name=name, seconds=seconds, done=True) for name, seconds in session.took.items()),
        photos=len({item.id for item in known.items}),
        missing=missing,
        flops=gauge.flops,
        probed=recipe.probe,
        framed=FITS * len(session.dataset.train) if session.settings.fit == "best" else 0,
        stages=tuple(_stage(session, stage, cut, pace, offer) for stage in recipe.stages),
        validation=len(session.dataset.validation),
        test=len(session.dataset.test),
        views=len(recipe.views),
        reported=session.settings.report == "on",
        weights=weights,
        limit=session.settings.time_limit,
        room=session.store.room,
    )
    # What a measurement may take hangs on how long the whole will be: so first it is guessed without.
    rough = forecast(replace(job, limit=None)).seconds
    left = min(LONGEST, SHARE * rough) - (time.monotonic() - began - chosen)
    works = []
    for stage, work in zip(recipe.stages, job.stages, strict=True):
        works.append(gauge.rehearsed(stage, work, recipe, left / len(job.stages)))
    took = time.monotonic() - began
    choosing = Phase(name="measuring", seconds=took, work=f"{offer} computes the frozen part", done=True)
    return forecast(
        replace(
            job,
            stages=tuple(works),
            spent=(*job.spent, choosing),
            about={
                "computed_by": str(offer),
                "cached": job.photos - missing,
                "photos": job.photos,
                "measured": took - chosen,
            },
        )
    )


@dataclass
class _Gauge:
    """Times things on a few photos."""

    session: Session
    cut: Cut

    def __post_init__(self) -> None:
        files = self.session.dataset.train.files
        self.contents = _read(files[:: max(1, len(files) // PHOTOS)][:PHOTOS])
        self.pictures, self.decode = self._decoded(reduced=True)
        self.flops = float(sum(group.flops for group in self.session.network.groups))

    def pace(self, offer: Offer, frozen: float | None, photos: int) -> Pace:
        """Of everything but training steps."""
        whole = self.runner(framework.open(self.session.network, framework.offer_of(self.session.network), self.cut))
        network = self.session.network
        width = _width(network.features(self.pictures[:1], self.cut)) if len(self.pictures) else 1
        return Pace(
            decode=self.decode,
            exact=self._decoded(reduced=False)[1],
            augment=self._augment(),
            frozen=expected(offer, whole) if frozen is None else frozen,
            framework=whole,
            product=self._agreed(_product(photos, width, 5 * len(self.session.dataset.classes))),
        )

    def runner(self, runner: Runner) -> float:
        """Seconds of one photo when as many threads call it as do in the real work."""
        if not len(self.pictures):
            return 0.0
        chunk = np.resize(self.pictures, (runner.chunk, *self.pictures.shape[1:]))
        threads = max(1, min(self.session.workers, runner.concurrency))
        with runner.concurrent(threads):
            return self._agreed(_side_by_side(partial(runner, chunk), threads) / runner.chunk)

    def rehearsed(self, stage: Stage, work: StageWork, recipe: Recipe, left: float) -> StageWork:
        """The work with a step that was timed, in the precision that is faster by more than chance; if there is time.

        As many photos in a step as there is time for: of few, each takes longer, since the optimizer sees all weights.
        """
        network = self.session.network
        plan = recipe.optimization.precision
        each = work.step / stage.batch_size
        both = _precisions(self.session, stage, plan)
        if work.training(stage.epochs, work.views) < WORTH:
            both = both[:1]
        rows = int(left / (REHEARSED * each * len(both))) if each else stage.batch_size
        rows = min(stage.batch_size, rows)
        rows = int(network.agree(float(rows)))
        told = self.session.run.decision(f"precision/{stage}")
        if rows < FEWEST_ROWS or stage.lora or not len(self.pictures):
            return replace(work, precision=told.value if told else plan)
        batch = self._batch(work, rows)
        rates = learning_rates(stage, network.groups)
        steps: dict[Precision, float] = {}
        for precision in both:
            steps[precision] = self._agreed(network.rehearse(batch, rates, precision=precision))
        best = plan if len(steps) == 1 else _faster(steps)
        if told is not None:
            best = told.value if told.value in steps else best
        took = steps.get(best, next(iter(steps.values())))
        told_as = {precision: 1000 * seconds * stage.batch_size / rows for precision, seconds in steps.items()}
        figures = ", ".join(f"{milliseconds:.0f} ms in {precision}" for precision, milliseconds in told_as.items())
        why = f"a step takes {figures}" if len(steps) > 1 or told is not None else ""
        return replace(work, step=took * stage.batch_size / rows, precision=best, why_precision=why)

    def _batch(self, work: StageWork, rows: int) -> Batch:
        place = next(cut for cut in self.session.network.cuts if cut.name == work.entry)
        few = self.pictures[:FEWEST_ROWS]
        crossing: Shaped[np.ndarray, "n ..."] = few if place == INPUT else self.session.network.features(few, place)
        labels = np.arange(rows) % len(self.session.dataset.classes)
        inputs = np.resize(crossing, (rows, *crossing.shape[1:]))
        return Batch(inputs, labels, np.full(rows, 1 / rows), place)

    def _decoded(self, *, reduced: bool) -> tuple[UInt8[np.ndarray, "n h w c"], float]:
        spec, modality = self.session.backbone.spec, self.session.modality
        pictures, seconds = self._each(partial(modality.decode, spec=spec, reduced=reduced))
        blank = np.empty((0, *self.session.network.input_shape), np.uint8)
        return (np.stack(pictures) if pictures else blank), seconds

    def _augment(self) -> float:
        spec, modality = self.session.backbone.spec, self.session.modality
        return self._each(lambda content: modality.augment(content, spec, np.random.default_rng(0)))[1]

    def _each(
        self, change: Callable[[bytes], UInt8[np.ndarray, "h w c"]]
    ) -> tuple[list[UInt8[np.ndarray, "h w c"]], float]:
        """What comes of each photo, and seconds of one."""

        def timed(content: bytes) -> tuple[UInt8[np.ndarray, "h w c"] | None, float]:
            began = time.monotonic()
            with suppress(Undecodable):
                return change(content), time.monotonic() - began
            return None, 0.0

        workers = self.session.workers
        with ThreadPoolExecutor(workers, thread_name_prefix="pace") as pool:
            found = [(picture, took) for picture, took in pool.map(timed, self.contents) if picture is not None]
        # Not the slowest: the first of all finds nothing ready.
        times = sorted(took for _, took in found)[: max(1, len(found) - 1)]
        seconds = statistics.fmean(times) / workers if times else 0.0
        return [picture for picture, _ in found], self._agreed(seconds)

    def _agreed(self, seconds: float) -> float:
        return self.session.network.agree(seconds)


def _stage(session: Session, stage: Stage, cut: Cut, pace: Pace, offer: Offer) -> StageWork:
    """The work of a stage, its steps by their FLOPs alone."""
    network, data, shop = session.network, session.dataset, session.shop
    cost = cost_of(network, stage, data, cut, class_weights=session.class_weights)
    place = entry(network, stage, cut)
    total = sum(group.flops for group in network.groups)
    share = cost.frozen / total
    kept = place != INPUT and stage.views > 0
    half = place != cut
    there: list[int] = []
    fill, opening = pace.frozen, 0.0
    if kept:
        fill, opening = _filling(
            shop.wanted(data.train, place, half=half), pace, offer, stage.views, session.settings.precision
        )
        for view in range(max(stage.views, stage.epochs)):
            found = _there(shop.wanted(data.train, place, view=view, half=half))
            if not found:
                break
            there.append(found)
    return StageWork(
        stage=str(stage),
        cost=cost,
        views=stage.views if kept else 0,
        batch_size=stage.batch_size,
        entry=place.name,
        there=tuple(there),
        there_judged=_there(shop.wanted(data.validation, place, half=half)) if kept else 0,
        fill=pace.augment + share * fill,
        fill_judged=pace.decode + share * fill,
        fresh=_fresh(stage, place, pace, share),
        opening=opening,
        step=SLOWER * stage.batch_size * pace.framework * cost.live / total,
        judge=pace.framework * (1 - share) if place != INPUT else pace.decode + pace.framework,
        checkpoint=_checkpoint(session, stage) / DISK,
    )


def _filling(wanted: Wanted, pace: Pace, offer: Offer, views: int, precision: Wish) -> tuple[float, float]:
    """Seconds of a photo through the whole frozen part, and to open what will compute it at this cut.

    That is chosen again at each cut: here it has all views to compute, where the features may be in the cache.
    """
    ways = allowed(here(wanted), wanted.network, precision)
    if offer.runtime != framework.NAME or ways[0].runtime == framework.NAME:
        return pace.frozen, wanted.toll(offer)
    faster, opening = expected(ways[0], pace.framework), wanted.toll(ways[0])
    spared = views * len(wanted.dataset) * (pace.framework - faster)
    return (faster, opening) if spared > opening else (pace.framework, 0.0)


def _fresh(stage: Stage, place: Cut, pace: Pace, share: float) -> float:
    """What a picture costs beside the step itself: decoding, and what lies below the cut where it is not kept."""
    if not stage.unfreeze:
        return 0.0  # its features are at hand
    return (pace.augment if stage.augment else pace.decode) + (0.0 if place == INPUT else share * pace.framework)


def _checkpoint(session: Session, stage: Stage) -> int:
    """Bytes: what moves with its two slots and its average, and the best weights of all."""
    return 4 * _bytes(session, {*learning_rates(stage, session.network.groups)} - {HEAD}) + _bytes(session, None)


def _bytes(session: Session, groups: set[str] | None) -> int:
    """Of the weights of these groups; of all of them."""
    found = session.network.weights()
    if groups is None:
        return sum(values.nbytes for values in found.values())
    names = {name for group in session.network.groups if group.name in groups for name in group.parameters}
    return sum(values.nbytes for name, values in found.items() if name in names)


def _precisions(session: Session, stage: Stage, plan: Precision) -> tuple[Precision, ...]:
    """Those between which the pace decides."""
    free = stage.precision is None and plan == "fp32" and session.settings.precision in ("auto", "bf16")
    return session.network.precisions if free else (stage.precision or plan,)


def _faster(steps: dict[Precision, float]) -> Precision:
    return "bf16" if steps.get("bf16", np.inf) < PAYS * steps["fp32"] else "fp32"


def _side_by_side(call: Callable[[], object], threads: int) -> float:
    """Seconds that one of such calls takes while `threads` threads make them, divided by these."""

    def timed(_: int) -> float:
        began = time.monotonic()
        call()
        return time.monotonic() - began

    with ThreadPoolExecutor(threads, thread_name_prefix="pace") as pool:
        list(pool.map(timed, range(threads)))  # makes ready what the others find: some engines compile now
        began = time.monotonic()
        times = list(pool.map(timed, range(threads)))
        while time.monotonic() - began < MOMENT and len(times) < 4 * threads:
            times += pool.map(timed, range(threads))
    return statistics.median(times) / threads


def _product(photos: int, width: int, columns: int) -> float:
    """Seconds of the product that the exact head is made of, measured on some of its rows."""
    rows = min(photos, 2000)
    left = np.ones((rows, width), np.float32)
    right = np.ones((width, columns), np.float32)
    times, since = list[float](), time.monotonic()
    while len(times) < 3 or (len(times) < 20 and time.monotonic() - since < MOMENT / 5):
        began = time.monotonic()
        left @ right
        times.append(time.monotonic() - began)
    return min(times) * photos / rows if rows else 0.0  # others on the machine can only make it slower


def _there(wanted: Wanted) -> int:
    """How many of these photos the cache knows, whoever computed them."""
    items = len({item.id for item in wanted.dataset.items})
    return max(items - wanted.missing(offer) for offer in here(wanted))


def _width(features: Float[np.ndarray, "1 ..."]) -> int:
    return int(features.size)


def _read(files: Sequence[object]) -> list[bytes]:
    contents = []
    for file in files:
        with suppress(OSError):
            contents.append(file.read_bytes())  # type: ignore[attr-defined]
    return contents
