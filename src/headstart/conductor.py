"""Lead a run from a folder of photos to a tested model: the only place that knows the order of the work.

Everything here is a generator of events. A run that was interrupted takes the same way again: what is deterministic is
computed anew from the cache, training goes on from its checkpoint, and decisions that hung on a clock or on the
machine are read from the events instead of being taken again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from headstart import pipeline
from headstart.answering import PLAIN, Answerer, answerer
from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import load_backbone
from headstart.config import Settings
from headstart.data.dataset import Dataset, Skipped, Split
from headstart.data.loading import drop_unreadable, load_dataset, load_labelled
from headstart.errors import BadData
from headstart.evaluation.evaluation import Answer, Evaluation
from headstart.evaluation.metrics import Metrics, measure
from headstart.events import (
    Accuracy,
    Decision,
    EpochEnded,
    Event,
    Note,
    PhaseEnded,
    RunStarted,
    StageEnded,
    Stepped,
    to_json,
)
from headstart.features import Features
from headstart.modalities.loading import load_modality
from headstart.modalities.modality import Modality
from headstart.networks.network import Cut, Network
from headstart.probe import Probe, probe
from headstart.runs import Run, check_new, default_path
from headstart.store import Store
from headstart.training.loop import Position, Score, Source, conclude
from headstart.training.loop import train as train_stage
from headstart.training.recipe import FEW, Recipe
from headstart.training.recipe import plan as plan_recipe
from headstart.training.sources import Judge, Workshop, live_share, open_stage, score
from headstart.training.stages import Stage, learning_rates

JUDGED: tuple[Split, ...] = ("validation", "test")
RESERVE = 1.5  # how much longer than measured the final evaluation may take under a time limit
CHECKPOINT_EVERY = 60.0  # seconds within an epoch; each epoch ends with one in any case


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do: printed by a dry run, before anything moves."""

    settings: Settings
    dataset: Dataset
    backbone: str
    recipe: Recipe
    rates: dict[str, dict[str, float]]  # stage -> group -> rate

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries."""
        return {
            "data": self.settings.data,
            "backbone": self.backbone,
            "quality": self.settings.quality,
            "classes": list(self.dataset.classes),
            "photos": {split: len(self.dataset.only(split)) for split in ("train", "validation", "test")},
            "skipped": len(self.dataset.skipped),
            "recipe": self.recipe.to_tables(),
            "rates": self.rates,
        }


@dataclass
class Session:
    """One process's work on a run: what is opened for it, and the clock."""

    run: Run
    settings: Settings
    backbone: Backbone
    network: Network
    modality: Modality
    dataset: Dataset
    store: Store
    workers: int
    began: float  # when the command began: what a time limit counts from
    ready: float = field(default_factory=time.monotonic)  # when the manifest was finished: what is told counts from it

    @property
    def shop(self) -> Workshop:
        """What stages and features need of it."""
        return Workshop(
            backbone=self.backbone,
            network=self.network,
            modality=self.modality,
            store=self.store,
            workers=self.workers,
            seed=self.settings.seed,
        )

    @property
    def used(self) -> float:
        """Seconds since the command began, with those of earlier attempts at this run."""
        return time.monotonic() - self.began

    @property
    def seconds(self) -> float:
        """Seconds since the manifest was finished."""
        return time.monotonic() - self.ready


def plan(settings: Settings) -> Plan:
    """What `train` would do with these settings.

    Raises:
        HeadstartError: as `train`.
    """
    backbone = load_backbone(settings.backbone, size=settings.size, weights=settings.weights)
    check_new(_out(settings))
    dataset = load_dataset(settings.data, seed=settings.seed, splits=settings.splits)
    network = backbone.build()
    network.to(settings.device)
    recipe = _planned(settings, dataset, network)
    rates = {str(stage): learning_rates(stage, network.groups) for stage in recipe.stages}
    return Plan(settings=settings, dataset=dataset, backbone=backbone.name, recipe=recipe, rates=rates)


def train(settings: Settings) -> Generator[Event, None, Run]:
    """Do the whole job; what can be refused is refused before a folder exists.

    Raises:
        HeadstartError: the data, a setting or the backbone cannot be used, the disk is full, or training diverged.
    """
    began = time.monotonic()
    backbone = load_backbone(settings.backbone, size=settings.size, weights=settings.weights)
    out = _out(settings)
    check_new(out)
    network = backbone.build()
    network.to(settings.device)
    dataset = load_dataset(settings.data, seed=settings.seed, splits=settings.splits)
    _planned(settings, dataset, network)  # refuses what cannot be trained, while nothing is written yet
    with tempfile.TemporaryDirectory() as private:
        # Of several processes the first keeps the run; the others need one of their own, and throw it away.
        follower = network.shard[0] > 0
        run = Run.create(Path(private, "run") if follower else out, settings, dataset, _identity(backbone))
        return (yield from _conduct(run, backbone, network, began))


def resume(path: Path) -> Generator[Event, None, Run]:
    """Finish an interrupted run, to the same bits as if it had not been interrupted.

    Raises:
        HeadstartError: there is no run, or as `train`.
    """
    began = time.monotonic()
    run = Run.reopen(path)
    if run.finished:
        yield Note(text=f"run {path} is finished already")
        return run
    settings = run.settings
    backbone = load_backbone(run.backbone["name"], size=run.backbone["size"], weights=settings.weights)
    if backbone.weights_hash != run.backbone["weights_hash"]:
        yield Note(text="the backbone's weights are not those that the run began with: results will differ")
    network = backbone.build()
    network.to(settings.device)
    return (yield from _conduct(run, backbone, network, began))


def evaluate(path: Path, data: Path) -> Generator[Event, None, Evaluation]:
    """Measure a finished model on other labelled photos; classes are matched by name.

    Raises:
        BadRun: there is no finished run.
        BadData: the photos cannot be used, or have a class that the model does not know.
    """
    run = Run.open(path)
    dataset = load_labelled(data, classes=run.classes)
    known = {item.id for item in run.dataset.only("train", "validation").items}
    seen = sum(item.id in known for item in dataset.items)
    if seen:
        yield Note(text=f"{seen} of these {len(dataset)} photos were used to make the model: the result flatters it")
    metrics, _, failed = yield from _measured(answerer(run), dataset, seed=run.settings.seed)
    if failed:
        yield Note(
            text=f"{len(failed)} photos cannot be read and are left out, first {failed[0].path!r}: {failed[0].reason}"
        )
    return Evaluation(test=metrics)


# ---- the way of a run


def _conduct(run: Run, backbone: Backbone, network: Network, began: float) -> Generator[Event, None, Run]:
    checkpoint = run.load_checkpoint()
    run.rewind(checkpoint[0]["events"] if checkpoint else 0)
    session = Session(
        run=run,
        settings=run.settings,
        backbone=backbone,
        network=network,
        modality=load_modality("image"),
        dataset=run.dataset,
        store=Store.default(),
        workers=max(pipeline.cores(), network.concurrency),
        began=began - (checkpoint[0]["seconds"] if checkpoint else 0.0),
    )
    yield RunStarted(path=str(run.path))
    told = {_gist(event) for event in run.events}
    for event in _phases(session):
        # What comes before the checkpoint is done again when a run is resumed, and must not be told twice.
        if _gist(event) not in told:
            run.append(event)
        yield event
    return run


def _gist(event: Event) -> str:
    """The event without its time."""
    return repr({**to_json(event), "seconds": None})


def _phases(session: Session) -> Iterator[Event]:
    session.workers = int((yield from _decide(session, "workers", session.workers, "cores of this machine")))
    cut = _cut(session.network, _recipe(session).head.input)
    features = yield from _extract(session, cut)
    yield PhaseEnded(name="features", seconds=session.seconds)
    recipe = _recipe(session)  # unreadable photos are gone by now
    session.run.write_recipe(recipe)
    yield from _remarks(session)

    solved: Probe | None = None
    if recipe.probe:
        # Tuning is compared on validation photos, so the head that it starts from must not have seen them.
        photos = session.dataset.train if recipe.stages else session.dataset.only("train", "validation")
        solved = yield from _probe(session, features, photos, told=True)
        session.network.set_head(solved.head, len(session.dataset.classes))
    else:
        session.network.set_head(recipe.head, len(session.dataset.classes), seed=session.settings.seed)
    yield from _stages(session, recipe, cut)

    if solved is not None and recipe.stages and not _improved(session.run):
        yield Note(text="tuning did not beat the frozen backbone on validation photos: the frozen one ships")
        solved = yield from _probe(session, features, session.dataset.only("train", "validation"), told=False)
        _restart(session, solved)
    tuned = recipe.stages and (solved is None or _improved(session.run))
    if tuned:
        finished = yield from _tuned(session, recipe)
    else:
        finished = _frozen(session, recipe, cast(Probe, solved))
    yield PhaseEnded(name="training", seconds=session.seconds)
    yield from _finish(session, finished)


def _extract(session: Session, cut: Cut) -> Generator[Event, None, Features]:
    """Features to learn from; photos that turn out to be unreadable leave the data set, with their reason."""
    with session.network.leading():
        features = yield from session.shop.features(session.dataset.only("train", "validation"), cut)
    if not features.unreadable:
        return features
    session.dataset = drop_unreadable(session.dataset, features.unreadable, seed=session.settings.seed)
    session.run.write_manifest(session.dataset)
    # A class that lost its only photo of some split is given another: then some photo is new here.
    return (yield from _extract(session, cut))


def _restart(session: Session, solved: Probe) -> None:
    """The backbone as it was pre-trained, with this head."""
    session.network = session.backbone.build()
    session.network.to(session.settings.device)
    session.network.set_head(solved.head, len(session.dataset.classes))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What ships, and how its validation figures came about. `validation`: measured already, out of fold."""

    recipe: Recipe
    method: str
    choices: tuple[str, ...]
    validation: Metrics | None = None


def _frozen(session: Session, recipe: Recipe, solved: Probe) -> Finished:
    """The exact head on the frozen backbone, fitted on train and validation photos together."""
    photos = session.dataset.only("train", "validation")
    chosen = ("strength of the head's regularisation",)
    return Finished(
        recipe=replace(recipe, views=PLAIN),
        method="out of fold: each photo of train and validation by a head that was not fitted on it",
        choices=(*chosen, "choice between the tuned model and the frozen one") if recipe.stages else chosen,
        validation=measure(photos.labels, solved.out_of_fold, photos.classes, seed=session.settings.seed),
    )


def _tuned(session: Session, recipe: Recipe) -> Generator[Event, None, Finished]:
    """The tuned network, with the test-time views and the temperature that fit its validation photos best."""
    photos = session.dataset.validation
    if not len(photos):
        return Finished(recipe=replace(recipe, views=PLAIN), method="there are no validation photos", choices=())
    scores: dict[tuple[str, ...], Score] = {}
    for views in dict.fromkeys((PLAIN, recipe.views)):
        probabilities, _ = yield from _answerer(session, replace(recipe, views=views)).answer(
            photos.paths, reduced=True
        )
        scores[views] = score(photos.labels, np.log(np.maximum(probabilities, 1e-12)))
    best = recipe.views if scores[recipe.views].beats(scores[PLAIN]) else PLAIN
    return Finished(
        recipe=replace(recipe, views=best, temperature=scores[best].temperature),
        method="by the model that ships, on photos that it was chosen by and not fitted on",
        choices=(
            "early stopping",
            "choice between the tuned model and the frozen one",
            *(("test-time views",) if len(scores) > 1 else ()),
            "temperature",
        ),
    )


def _answerer(session: Session, recipe: Recipe) -> Answerer:
    return Answerer(
        network=session.network,
        modality=session.modality,
        spec=session.backbone.spec,
        views=recipe.views,
        temperature=recipe.temperature,
    )


def _remarks(session: Session) -> Iterator[Event]:
    for text in session.dataset.notes:
        yield Note(text=text)
    skipped = session.dataset.skipped
    if skipped:
        yield Note(text=f"{len(skipped)} files are not used, first {skipped[0].path!r}: {skipped[0].reason}")
    if session.settings.quality != "fast" and not _recipe(session).stages:
        few = len(session.dataset.validation)
        yield Note(text=f"not tuned: {few} validation photos cannot tell whether it helps, {FEW} might")


def _probe(session: Session, features: Features, photos: Dataset, *, told: bool) -> Generator[Event, None, Probe]:
    """The exact head on these photos; its accuracy, out of fold, is told as soon as the first is known."""
    ids = [item.id for item in photos.items]
    path = probe(features.take(ids), photos.labels, ids, len(photos.classes), seed=session.settings.seed)
    first = True
    while True:
        try:
            point = next(path)
        except StopIteration as end:
            solved: Probe = end.value
            break
        if first and told:
            yield _accuracy("first", point.accuracy, len(ids), session.seconds)
        first = False
    best = min(solved.path, key=lambda point: abs(np.log(point.strength / solved.strength)))
    if told:
        yield _accuracy("probe", best.accuracy, len(ids), session.seconds)
    return solved


def _stages(session: Session, recipe: Recipe, cut: Cut) -> Iterator[Event]:
    """Every stage of the recipe, from the checkpoint on where there is one."""
    network, run = session.network, session.run
    if not recipe.stages:
        return
    network.prepare(recipe.optimization)
    checkpoint = run.load_checkpoint()
    first, position = 0, Position()
    if checkpoint is not None:
        about, position, state = checkpoint
        first = about["stage"]
        network.load_state(state)
    for number, planned in list(enumerate(recipe.stages))[first:]:
        stage = yield from _fit_to_time(session, recipe, planned)
        if stage.epochs:
            source, judge = yield from open_stage(session.shop, stage, session.dataset, cut)
            yield from _stage(session, number, stage, source, judge, position)
        position = Position()
        run.save_checkpoint(number + 1, position, network.state(), session.used)


def _stage(
    session: Session, number: int, stage: Stage, source: Source, judge: Judge | None, at: Position
) -> Iterator[Event]:
    """One stage with its checkpoints. It ends early where the time limit says so, or where it once did."""
    name = f"stop/{stage}"
    told = session.run.decision(name)
    stop = tuple(told.value) if told else None
    saved = time.monotonic()
    work = train_stage(session.network, stage, source, seed=session.settings.seed, judge=judge, position=at)
    for event in work:
        yield event
        if not isinstance(event, Stepped | EpochEnded):
            continue
        if told is None and session.network.agree(float(_late(session))):
            stop = (at.epoch, at.step)
            yield Decision(name=name, value=list(stop), reason="the time limit is near")
        if stop == (at.epoch, at.step) and at.epoch < stage.epochs:
            work.close()  # type: ignore[attr-defined]
            yield conclude(session.network, stage, at, reason="time limit")
            return
        if isinstance(event, EpochEnded) or time.monotonic() - saved > CHECKPOINT_EVERY:
            session.run.save_checkpoint(number, at, session.network.state(), session.used)
            saved = time.monotonic()


def _finish(session: Session, finished: Finished) -> Iterator[Event]:
    """Judge the model that ships, from file bytes and in full precision, and declare the run whole."""
    run, recipe = session.run, finished.recipe
    run.write_recipe(recipe)
    run.save_model(session.network.weights())
    model = _answerer(session, recipe)
    judged: dict[str, Metrics] = {}
    answers: list[Answer] = []
    for split in (split for split in JUDGED if len(session.dataset.only(split))):
        photos = session.dataset.only(split)
        judged[split], given, failed = yield from _measured(model, photos, seed=session.settings.seed)
        answers += given
        if failed:
            session.dataset = _without(session.dataset, failed)
            run.write_manifest(session.dataset)
            yield Note(text=f"{len(failed)} {split} photos cannot be read and are left out, first {failed[0].path!r}")
    test = judged["test"]
    yield _accuracy("test", test.accuracy, test.n, session.seconds)
    evaluation = Evaluation(
        test=test,
        validation=finished.validation or judged.get("validation"),
        validation_method=finished.method,
        fitted_on_validation=finished.choices,
    )
    yield PhaseEnded(name="evaluation", seconds=session.seconds)
    run.finish(evaluation, answers)


# ---- parts


def _measured(
    model: Answerer, photos: Dataset, *, seed: int
) -> Generator[Event, None, tuple[Metrics, list[Answer], list[Skipped]]]:
    """Metrics and single answers for labelled photos, and those that could not be read.

    Raises:
        BadData: not one can be read.
    """
    probabilities, failed = yield from model.answer(photos.paths)
    good = [row for row in range(len(photos)) if row not in failed]
    skipped = [Skipped(photos.items[row].path, reason) for row, reason in sorted(failed.items())]
    if not good:
        raise BadData(
            f"none of {len(photos)} photos can be read, first {skipped[0].path!r}: {skipped[0].reason}",
            fix="check that the files are whole",
        )
    items, rows = [photos.items[row] for row in good], probabilities[good]
    answers = [
        Answer(item.path, photos.classes[item.label], item.split, photos.classes[best], float(row[best]))
        for item, row, best in zip(items, rows, rows.argmax(axis=1), strict=True)
    ]
    return measure(photos.labels[good], rows, photos.classes, seed=seed), answers, skipped


def _improved(run: Run) -> bool:
    """Whether any stage found weights that do better on validation photos than those it began with."""
    return any(isinstance(event, StageEnded) and event.best > 0 for event in run.events)


def _fit_to_time(session: Session, recipe: Recipe, stage: Stage) -> Generator[Event, None, Stage]:
    """The stage with as many epochs as the time limit has room for: decided once, by counted work and measured pace."""
    limit = session.settings.time_limit
    if limit is None or stage.unfreeze == 0:
        return stage
    name = f"epochs/{stage}"
    told = session.run.decision(name)
    if told is None:
        photo = _pace(session)
        share = live_share(session.network, list(learning_rates(stage, session.network.groups)))
        n = len(session.dataset.train)
        # A backward pass costs two forward passes of what is live; the frozen part runs once a view, or each epoch.
        epoch = photo * n * (3 * share + (0 if stage.views else 1 - share))
        before = photo * (
            n * stage.views + RESERVE * len(session.dataset.only("validation", "test")) * len(recipe.views)
        )
        room = limit - session.used - before
        fits = session.network.agree(float(min(stage.epochs, max(0, int(room / epoch)))))
        reason = f"an epoch takes about {epoch:.0f} s and {max(0.0, room):.0f} s are left for training"
        told = Decision(name=name, value=int(fits), reason=reason)
        yield told
    return replace(stage, epochs=int(told.value))


def _pace(session: Session) -> float:
    """Seconds that one photo takes through the whole network, by a few dozen."""
    paths = session.dataset.train.paths[: 4 * pipeline.CHUNK]
    decode = partial(session.modality.decode, spec=session.backbone.spec, reduced=True)
    began = time.monotonic()
    for _ in pipeline.run(paths, decode, session.network.logits, session.network, workers=session.workers):
        pass
    return (time.monotonic() - began) / len(paths)


def _late(session: Session) -> bool:
    limit = session.settings.time_limit
    return limit is not None and session.used > 0.9 * limit


def _decide(session: Session, name: str, value: Any, reason: str) -> Generator[Event, None, Any]:
    """A value of this machine, or the one that an interrupted run has used."""
    told = session.run.decision(name)
    if told is None:
        told = Decision(name=name, value=value, reason=reason)
        yield told
    return told.value


def _recipe(session: Session) -> Recipe:
    return _planned(session.settings, session.dataset, session.network)


def _planned(settings: Settings, dataset: Dataset, network: Network) -> Recipe:
    """The recipe, refused where a stage asks for more groups than there are."""
    recipe = plan_recipe(
        settings,
        train=len(dataset.train),
        validation=len(dataset.validation),
        groups=len(network.groups),
        gpu="cuda" in network.engine,
    )
    for stage in recipe.stages:
        learning_rates(stage, network.groups)
    return recipe


def _without(dataset: Dataset, failed: list[Skipped]) -> Dataset:
    lost = {skipped.path for skipped in failed}
    kept = tuple(item for item in dataset.items if item.path not in lost)
    return replace(dataset, items=kept, skipped=(*dataset.skipped, *failed))


def _accuracy(name: str, value: float, n: int, seconds: float) -> Accuracy:
    from headstart.evaluation.metrics import wilson

    return Accuracy(name=name, value=value, interval=wilson(round(value * n), n), n=n, seconds=seconds)


def _cut(network: Network, name: str) -> Cut:
    return next(cut for cut in network.cuts if cut.name == name)


def _identity(backbone: Backbone) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "size": backbone.spec.size,
        "weights_hash": backbone.weights_hash,
        "licence": backbone.licence,
        "framework": backbone.framework,
    }


def _out(settings: Settings) -> Path:
    return Path(settings.out) if settings.out else default_path(settings.data)
