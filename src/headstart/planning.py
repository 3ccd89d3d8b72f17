"""Predict what a run will take, phase by phase, from counted work and measured paces; and fit it to a time limit.

Everything here is arithmetic: `pace.py` measures, `tuning.py` acts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from headstart.events import Planned
from headstart.networks.network import StepPrecision as Precision
from headstart.novelty import COMPUTED
from headstart.training.views import Cost, choose

RESERVE = 1.5  # how much longer than predicted the final evaluation may take under a time limit
REPORT = 2.0  # seconds of a report's charts and page, whatever the photos
CURVE = 500  # products of features and weights that its learning curve takes
EXPLAINED = 40  # photos that it shows with heat maps, at most
EXPLAINING = 3  # passes through the network that a heat map takes, its gradients among them
SOLVED = 450  # products of features and weights that the exact head takes: five folds, three to five penalties
BESIDES = 4e-4  # seconds of what is done between two of these products
AFTER = ("evaluation", "report")  # phases
DISK = 300e6  # bytes a second, of files that are written whole and waited for


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds on this machine with all of its threads at work: each of one photo, where nothing else is said."""

    decode: float  # from a file to the pixels that enter the network
    exact: float  # the same without shortcuts: how photos are decoded that judge
    augment: float  # to a view changed at random
    frozen: float  # through the whole backbone, by what was chosen to compute it
    framework: float  # through the whole network by its own framework in fp32
    product: float  # of all features with the weights of a head for each fold, once


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """What a stage works on and what its parts take, however many its epochs and views come to be; in seconds."""

    stage: str
    cost: Cost  # in FLOPs, of all the epochs that were asked for
    views: int  # of each photo whose activations quality wants to be kept; 0 where none can be
    batch_size: int
    entry: str  # the cut at which batches enter
    there: tuple[int, ...] = ()  # photos of each view whose activations are in the cache already
    there_judged: int = 0  # validation photos of which they are
    fill: float = 0.0  # a photo decoded, changed at random and computed up to the cut
    fill_judged: float = 0.0  # a validation photo decoded and computed up to the cut
    fresh: float = 0.0  # what a picture costs more in a step where its activations are not kept
    opening: float = 0.0  # to make ready what computes up to the cut
    step: float = 0.0  # one step
    judge: float = 0.0  # one validation photo
    checkpoint: float = 0.0  # one checkpoint
    precision: Precision = "fp32"  # of the steps
    why_precision: str = ""  # where it was chosen

    @property
    def steps(self) -> int:
        """In an epoch."""
        return math.ceil(self.cost.sights / self.batch_size)

    def left(self, views: int) -> int:
        """Photos of so many views that are yet to be computed."""
        there = [*self.there[:views], *[0] * (views - len(self.there))]
        return sum(self.cost.photos - min(self.cost.photos, known) for known in there)

    def filling(self, views: int) -> float:
        """Until the activations of so many views lie in the cache."""
        if not views:
            return 0.0
        judged = self.cost.judged - min(self.cost.judged, self.there_judged)
        opening = self.opening if self.left(views) else 0.0
        return opening + self.left(views) * self.fill + judged * self.fill_judged

    def training(self, epochs: int, views: int) -> float:
        """So many epochs, with validation and checkpoints; the weights from before are judged as well."""
        if not epochs:
            return 0.0
        anew = 0.0 if views else self.cost.sights * self.fresh
        judging = self.cost.judged * self.judge
        return epochs * (self.steps * self.step + anew + judging + self.checkpoint) + judging + self.checkpoint

    def seconds(self, epochs: int, views: int) -> float:
        """Of the whole stage."""
        return self.filling(views) + self.training(epochs, views) if epochs else 0.0


@dataclass(frozen=True)
class Fitted:
    """A stage with so many epochs and views, and why it is not as it was asked for; empty where it is."""

    epochs: int
    views: int
    why_views: str
    change: str = ""


def fitted(work: StageWork, *, room: int, seconds: float | None = None) -> Fitted:
    """As many epochs as there is time for, from as many kept views as the disk and the time have room for.

    Args:
        work: the stage.
        room: bytes that the cache may take.
        seconds: that the stage may take; None: without a limit.
    """
    whole = _with_epochs(work, work.cost.epochs, room)
    if seconds is None or work.seconds(work.cost.epochs, whole.views) <= seconds:
        return whole
    fewest, most = 0, work.cost.epochs - 1  # the most epochs that fit lie between
    while fewest < most:
        middle = (fewest + most + 1) // 2
        least = _quickest(work, middle, room)
        fewest, most = (middle, most) if work.seconds(middle, least.views) <= seconds else (fewest, middle - 1)
    at_most = f"there are {max(0.0, seconds):.0f} s for it"
    if not fewest:
        one = work.seconds(1, _quickest(work, 1, room).views)
        return Fitted(0, 0, "", f"stage {work.stage} is left out: one epoch of it takes {one:.0f} s, and {at_most}")
    best = _quickest(work, fewest, room)
    asked = work.seconds(work.cost.epochs, whole.views)
    fewer = f" from {best.views} views instead of {whole.views}" if 0 < best.views < whole.views else ""
    change = (
        f"stage {work.stage} has {fewest} epochs instead of {work.cost.epochs}{fewer}: it would take {asked:.0f} s,"
        f" and {at_most}"
    )
    return replace(best, change=change)


def _with_epochs(work: StageWork, epochs: int, room: int) -> Fitted:
    if not work.views or not epochs:
        return Fitted(epochs, 0, "")
    # Chosen by FLOPs, which are the same each time: what a clock says would give other bits from run to run.
    chosen = choose(replace(work.cost, epochs=epochs), wanted=work.views, room=room)
    return Fitted(epochs, chosen.count, chosen.reason)


def _quickest(work: StageWork, epochs: int, room: int) -> Fitted:
    """So many epochs from the views that quality wants, but not more views than epochs."""
    usual = _with_epochs(work, epochs, room)
    if usual.views <= work.views:
        return usual
    return replace(usual, views=min(work.views, epochs))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run: what it does, in words and numbers, and its seconds. `done`: before the plan was made."""

    name: str
    seconds: float
    work: str = ""
    gflop: float = 0.0
    bytes: int = 0
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will do and take, before it begins; and what does not fit into its limits."""

    phases: tuple[Phase, ...]
    changes: tuple[str, ...] = ()  # what is left out or shortened, and why
    limit: float | None = None  # seconds
    stages: tuple[StageWork, ...] = ()
    computed_by: str = ""  # what computes the frozen part
    cached: int = 0  # photos whose features were there
    photos: int = 0  # of how many
    measured: float = 0.0  # seconds that the measurement took
    answer: float = 0.0  # seconds of one photo by the finished model, from its file, many at once; 0: not measured

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def evaluation(self) -> float:
        """Seconds of the work after training, with the report."""
        return sum(phase.seconds for phase in self.phases if phase.name in AFTER)

    @property
    def told(self) -> Planned:
        """The event that tells it."""
        return Planned(
            phases=[asdict(phase) for phase in self.phases],
            seconds=self.seconds,
            limit=self.limit,
            changes=list(self.changes),
        )

    def stage(self, name: str) -> StageWork | None:
        """The work of the stage of this name."""
        return next((work for work in self.stages if work.stage == name), None)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, with the total."""
        return {"seconds": self.seconds, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Forecast:
        """The forecast that `to_json` wrote."""
        rest = {name: value for name, value in values.items() if name != "seconds"}
        rest["phases"] = tuple(Phase(**phase) for phase in values["phases"])
        rest["stages"] = tuple(_work(work) for work in values["stages"])
        rest["changes"] = tuple(values["changes"])
        return cls(**rest)


def _work(values: Mapping[str, Any]) -> StageWork:
    return StageWork(**{**values, "cost": Cost(**values["cost"]), "there": tuple(values["there"])})


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a forecast is made from."""

    pace: Pace
    spent: tuple[Phase, ...]  # what is done by the time that the plan is made
    photos: int  # whose features are wanted
    missing: int  # of these
    flops: float  # of one forward pass of one photo
    probed: bool
    framed: int = 0  # photos that are computed to choose how they fit the square
    stages: tuple[StageWork, ...] = ()
    validation: int = 0
    test: int = 0
    views: int = 1  # of a photo that is judged
    reported: bool = False
    weights: int = 0  # bytes of the finished model
    limit: float | None = None
    room: int = 0  # bytes that the cache may take
    about: Mapping[str, Any] = field(default_factory=dict)  # of the forecast, passed on


def forecast(job: Job) -> Forecast:
    """The phases of the run, in their order, with what they take."""
    before = [*job.spent, *_features(job)]
    ahead = [_evaluation(job), *([_report(job)] if job.reported else [])]
    after = sum(phase.seconds for phase in ahead)
    used = sum(phase.seconds for phase in before)
    changes, phases = list[str](), list[Phase]()
    if job.limit is not None and used + after > job.limit:
        changes.append(
            f"what is done in any case takes {used + after:.0f} s, more than the limit of {job.limit:.0f} s:"
            " it is done nevertheless, and nothing is tuned"
        )
    for work in job.stages:
        left = None if job.limit is None else job.limit - used - RESERVE * after
        fit = fitted(work, room=job.room, seconds=left)
        if work.views and fit.epochs and not fit.views:
            changes.append(f"stage {work.stage}: {fit.why_views}")
        changes += [fit.change] if fit.change else []
        phases += _stage(work, fit)
        used = sum(phase.seconds for phase in (*before, *phases))
    return Forecast(
        phases=(*before, *phases, *ahead),
        changes=tuple(changes),
        limit=job.limit,
        stages=job.stages,
        answer=job.pace.exact + (job.views if job.stages else 1) * job.pace.framework,
        **job.about,
    )


def _features(job: Job) -> list[Phase]:
    pace, missing = job.pace, job.missing
    phases = []
    if job.framed:
        seconds = job.framed * (pace.decode + pace.frozen) + 3 * _solving(pace)
        work = f"{job.framed} pictures decoded and computed"
        phases.append(Phase(name="fit", seconds=seconds, work=work, gflop=job.framed * job.flops / 1e9))
    there = f", {job.photos - missing} are in the cache" if job.photos > missing else ""
    phases.append(
        Phase(
            name="features",
            seconds=missing * (pace.decode + pace.frozen),
            work=f"{missing} of {job.photos} photos decoded and computed{there}",
            gflop=missing * job.flops / 1e9,
        )
    )
    if job.probed:
        phases.append(Phase(name="probe", seconds=_solving(pace), work="the exact head and its accuracy"))
    return phases


def _solving(pace: Pace) -> float:
    return SOLVED * (pace.product + BESIDES)


def _stage(work: StageWork, fit: Fitted) -> list[Phase]:
    if not fit.epochs:
        return []
    phases = []
    if fit.views:
        left = work.left(fit.views)
        there = fit.views * work.cost.photos - left
        phases.append(
            Phase(
                name=f"{work.stage} views",
                seconds=work.filling(fit.views),
                work=f"{left} activations at {work.entry}, of {fit.views} views"
                + (f"; {there} are in the cache" if there else ""),
                gflop=work.cost.frozen * left / 1e9,
                bytes=work.cost.room(fit.views),
            )
        )
    anew = work.cost.frozen if work.fresh and not fit.views else 0.0
    steps = f"{fit.epochs} epochs of {work.steps} steps in {work.precision}"
    phases.append(
        Phase(
            name=f"{work.stage} epochs",
            seconds=work.training(fit.epochs, fit.views),
            work=f"{steps}, {work.cost.judged} validation photos after each",
            gflop=fit.epochs * work.cost.sights * (work.cost.live + anew) / 1e9,
        )
    )
    return phases


def _evaluation(job: Job) -> Phase:
    judged = job.validation + job.test
    looks = job.views if job.stages else 1
    seconds = judged * (job.pace.exact + looks * job.pace.framework) + 2 * job.weights / DISK
    passes = float(judged * looks)
    if job.stages:  # training photos go through what has moved, to tell photos that are like none of them
        frozen = min(work.cost.frozen for work in job.stages)
        live = 1 - frozen / job.flops if job.flops else 1.0
        learnt = min(COMPUTED, max(0, job.photos - job.validation))
        seconds += learnt * (live * job.pace.framework + (0.0 if frozen else job.pace.decode))
        passes += learnt * live
    work = f"{job.validation} validation and {job.test} test photos by the finished model"
    return Phase(name="evaluation", seconds=seconds, work=work, gflop=passes * job.flops / 1e9)


def _report(job: Job) -> Phase:
    shown = min(EXPLAINED, job.validation + job.test)
    curve = CURVE * (job.pace.product + BESIDES) if job.probed else 0.0
    return Phase(
        name="report",
        seconds=REPORT + curve + shown * (job.pace.exact + EXPLAINING * job.pace.framework),
        work="charts, doubtful labels, what more labels would bring" if job.probed else "charts",
        gflop=shown * EXPLAINING * job.flops / 1e9,
    )
