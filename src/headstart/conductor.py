"""Lead a run from a folder of photos to a tested model: the only place that knows the order of the work.

Everything here is a generator of events. A run that was interrupted takes the same way again: what is deterministic is
computed anew from the cache, training goes on from its checkpoint, and decisions that hung on a clock or on the
machine are read from the events instead of being taken again.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from headstart.answering import answerer, mixture_of
from headstart.backbones.backbone import Backbone, OnProgress
from headstart.backbones.loading import load_backbone
from headstart.config import Settings
from headstart.data.dataset import SPLITS, Dataset
from headstart.data.loading import drop_unreadable, folder_of, load_labelled, survey
from headstart.errors import BadRun
from headstart.evaluation.evaluation import Evaluation
from headstart.events import Event, Note, PhaseEnded, Progress, RunStarted, to_json
from headstart.features import Features
from headstart.framing import best_fit
from headstart.judging import finish, frozen, measured, tuned
from headstart.machine import cores
from headstart.modalities.loading import load_modality
from headstart.networks.network import HEAD, Cut, Network
from headstart.probe import Probe, probe
from headstart.runs import Run, check_new, default_path
from headstart.session import Session
from headstart.store import Store
from headstart.training.recipe import FEW, Recipe
from headstart.training.recipe import plan as plan_recipe
from headstart.training.stages import learning_rates
from headstart.tuning import improved, tune
from headstart.weighting import item_weights, parse, told, written


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do: printed by a dry run, before anything moves."""

    settings: Settings
    dataset: Dataset
    backbone: str
    fit: str  # how photos are brought to a square; best: to be chosen
    recipe: Recipe
    rates: dict[str, dict[str, float]]  # stage -> group -> rate

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries."""
        return {
            "data": self.settings.data,
            "backbone": self.backbone,
            "fit": self.fit,
            "quality": self.settings.quality,
            "classes": list(self.dataset.classes),
            "photos": {split: len(self.dataset.only(split)) for split in SPLITS},
            "skipped": len(self.dataset.skipped),
            "recipe": self.recipe.to_tables(),
            "rates": self.rates,
        }


def plan(settings: Settings) -> Generator[Event, None, Plan]:
    """What `train` would do with these settings.

    Raises:
        HeadstartError: as `train`.
    """
    folder_of(settings.data, columns=settings.columns)
    settings = _without_files(settings)
    backbone = _backbone(settings)
    check_new(_out(settings))
    dataset = yield from _surveyed(settings)
    network = backbone.build()
    network.to(settings.device)
    recipe = _planned(settings, dataset, network)
    rates = {str(stage): learning_rates(stage, network.groups) for stage in recipe.stages}
    fit = settings.fit or backbone.spec.fit
    return Plan(settings=settings, dataset=dataset, backbone=backbone.name, fit=fit, recipe=recipe, rates=rates)


def train(settings: Settings) -> Generator[Event, None, Run]:
    """Do the whole job; what can be refused is refused before a folder exists.

    Raises:
        HeadstartError: the data, a setting or the backbone cannot be used, the disk is full, or training diverged.
    """
    began = time.monotonic()
    folder_of(settings.data, columns=settings.columns)  # before weights are downloaded for photos that are not there
    settings = _without_files(settings)
    backbone = yield from _fetched(settings)
    out = _out(settings)
    check_new(out)
    network = backbone.build()
    network.to(settings.device)
    dataset = yield from _surveyed(settings)
    _planned(settings, dataset, network)  # refuses what cannot be trained, while nothing is written yet
    if network.shard[0] == 0:
        run = Run.create(out, settings, dataset, _identity(backbone))
        return (yield from _conduct(run, backbone, network, began))
    # Of several processes the first keeps the run; the others need one of their own, and throw it away.
    with tempfile.TemporaryDirectory() as private:
        run = Run.create(Path(private, "run"), settings, dataset, _identity(backbone))
        yield from _conduct(run, backbone, network, began)
    return Run(out)


def resume(path: Path, *, factory: str | None = None) -> Generator[Event, None, Run]:
    """Finish an interrupted run, to the same bits as if it had not been interrupted.

    A run that began with a factory needs it again: code is never taken on the word of a run.

    Raises:
        HeadstartError: there is no run, or as `train`.
    """
    began = time.monotonic()
    run = Run.reopen(path)
    if run.finished:
        yield Note(text=f"run {path} is finished already")
        return run
    settings = run.settings
    if settings.allow_code:
        raise BadRun(
            f"run {str(path)!r} began with a file that holds code, and code is never taken on the word of a run",
            fix=f"train anew: {settings.command()}",
        )
    if settings.factory != factory:
        began_with_one = f"began with the factory {settings.factory!r}, and code is never taken on the word of a run"
        again = shlex.join(["headstart", "resume", str(path), "--factory", str(settings.factory)])
        raise BadRun(
            f"run {str(path)!r} {began_with_one if settings.factory else 'began without a factory'}",
            fix=f"if you trust it, name it again: {again}" if settings.factory else "leave the factory out",
        )
    # Named as it was found then: another engine or size would give another model.
    began_with = run.backbone
    engine = began_with["about"].get("engine", settings.framework)
    same = replace(settings, backbone=began_with["name"], size=began_with["size"], framework=engine)
    backbone = yield from _fetched(same)
    if backbone.weights_hash != run.backbone["weights_hash"]:
        yield Note(text="the backbone's weights are not those that the run began with: results will differ")
    network = backbone.build()
    network.to(settings.device)
    if network.shard[0] == 0:
        return (yield from _conduct(run, backbone, network, began))
    with tempfile.TemporaryDirectory() as private:
        yield from _conduct(Run(shutil.copytree(path, Path(private, "run"))), backbone, network, began)
    return run


def evaluate(
    path: Path,
    data: Path,
    *,
    priors: str | PathLike[str] | Mapping[str, float] | None = None,
    columns: str | None = None,
) -> Generator[Event, None, Evaluation]:
    """Measure a finished model on other labelled photos; classes are matched by name, `priors` are their shares.

    Raises:
        BadRun: there is no finished run.
        BadData: the photos cannot be used, or have a class that the model does not know.
        BadSetting: the priors are none, or do not name the model's classes.
    """
    run = Run.open(path)
    mixture = mixture_of(run, priors)
    dataset = load_labelled(data, classes=run.classes, columns=columns)
    for text in dataset.notes:
        yield Note(text=text)
    if skipped := dataset.skipped:
        yield Note(text=f"{len(skipped)} files are not used, first {skipped[0].path!r}: {skipped[0].reason}")
    known = {item.id for item in run.dataset.only("train", "validation").items}
    seen = sum(item.id in known for item in dataset.items)
    if seen:
        yield Note(text=f"{seen} of these {len(dataset)} photos were used to make the model: the result flatters it")
    metrics, _, failed = yield from measured(answerer(run), dataset, seed=run.settings.seed, mixture=mixture)
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
        modality=load_modality("image", max_pixels=run.settings.max_pixels),
        dataset=run.dataset,
        store=Store.default(),
        workers=max(cores(), network.concurrency),
        began=began - (checkpoint[0]["seconds"] if checkpoint else 0.0),
    )
    yield RunStarted(path=str(run.path))
    told = {_gist(event) for event in run.events}
    for event in _phases(session):
        # What comes before the checkpoint is done again when a run is resumed, and must not be told twice.
        if _gist(event) not in told:
            run.append(event)
        yield event
    session.network.agree(0.0)  # of several processes, none leaves before the first has finished the run
    return run


def _gist(event: Event) -> str:
    """The event without its time."""
    return repr({**to_json(event), "seconds": None})


def _phases(session: Session) -> Iterator[Event]:
    session.workers = int((yield from session.decide("workers", session.workers, "cores of this machine")))
    cut = next(cut for cut in session.network.cuts if cut.name == _recipe(session).head.input)
    if session.settings.fit == "best":
        if session.run.decision("fit") is None:
            yield from _extract(session, session.network.cuts[-1])  # what cannot be read must be gone before it counts
        yield from best_fit(session)
        session.run.write_backbone(_identity(session.backbone))
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
    yield from tune(session, recipe, cut)

    if solved is None or improved(session.run):
        finished = yield from tuned(session, recipe)
    else:
        if recipe.stages:
            yield Note(text="tuning did not beat the frozen backbone on validation photos: the frozen one ships")
            solved = yield from _probe(session, features, session.dataset.only("train", "validation"), told=False)
            _restart(session, solved)
        finished = frozen(session, recipe, solved)
    yield PhaseEnded(name="training", seconds=session.seconds)
    yield from finish(session, finished)


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


def _remarks(session: Session) -> Iterator[Event]:
    for text in session.backbone.remarks:
        yield Note(text=text)
    for text in session.dataset.notes:
        yield Note(text=text)
    if (weights := session.class_weights) is not None:
        yield Note(text=told(weights))
    skipped = session.dataset.skipped
    if skipped:
        yield Note(text=f"{len(skipped)} files are not used, first {skipped[0].path!r}: {skipped[0].reason}")
    if session.settings.quality != "fast" and not _recipe(session).stages:
        few = len(session.dataset.validation)
        yield Note(text=f"not tuned: {few} validation photos cannot tell whether it helps, {FEW} might")


def _probe(session: Session, features: Features, photos: Dataset, *, told: bool) -> Generator[Event, None, Probe]:
    """The exact head on these photos; its accuracy, out of fold, is told as soon as the first is known."""
    ids = [item.id for item in photos.items]
    weights = item_weights(photos, session.class_weights)
    path = probe(
        features.take(ids),
        photos.labels,
        photos.families,
        len(photos.classes),
        seed=session.settings.seed,
        weights=weights,
    )
    # As many equal photos would tell as much as these unequal ones (Kish 1965).
    n = len(ids) if weights is None else round(weights.sum() ** 2 / (weights**2).sum())
    first = True
    while True:
        try:
            point = next(path)
        except StopIteration as end:
            solved: Probe = end.value
            break
        if first and told:
            yield session.accuracy("first", point.accuracy, n)
        first = False
    best = min(solved.path, key=lambda point: abs(np.log(point.strength / solved.strength)))
    if told:
        yield session.accuracy("probe", best.accuracy, n)
    return solved


def _recipe(session: Session) -> Recipe:
    return _planned(session.settings, session.dataset, session.network)


def _planned(settings: Settings, dataset: Dataset, network: Network) -> Recipe:
    """The recipe, refused where a stage asks for more groups than there are, or class weights fit to other classes."""
    recipe = plan_recipe(
        settings,
        validation=len(dataset.validation),
        groups=network.groups,
        gpu="cuda" in network.engine,
    )
    for stage in recipe.stages:
        rates = learning_rates(stage, network.groups)
        if stage.lora:
            network.check_adapters(set(rates) - {HEAD})
    item_weights(dataset.train, parse(settings.class_weights))
    return recipe


def _surveyed(settings: Settings) -> Generator[Event, None, Dataset]:
    """The photos, each looked at: what cannot be decoded is listed before a run folder exists."""
    found = yield from survey(
        settings.data,
        seed=settings.seed,
        splits=settings.splits,
        columns=settings.columns,
        max_pixels=settings.max_pixels,
    )
    return found.dataset


def _without_files(settings: Settings) -> Settings:
    """The same with what a file of class weights says: it may be another by the time that the run is resumed."""
    return replace(settings, class_weights=written(parse(settings.class_weights)))


def _identity(backbone: Backbone) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "size": backbone.spec.size,
        "fit": backbone.spec.fit,
        "weights_hash": backbone.weights_hash,
        "licence": backbone.licence,
        "framework": backbone.framework,
        "about": dict(backbone.about),
    }


def _backbone(settings: Settings, on_progress: OnProgress | None = None) -> Backbone:
    return load_backbone(
        settings.backbone,
        size=settings.size,
        weights=settings.weights,
        framework=settings.framework,
        cut=settings.cut,
        allow_code=settings.allow_code,
        factory=settings.factory,
        fit=None if settings.fit == "best" else settings.fit,
        on_progress=on_progress,
    )


def _fetched(settings: Settings) -> Generator[Event, None, Backbone]:
    """The backbone; while its weights are downloaded, how far that is. Leaving early stops the download."""
    told: SimpleQueue[tuple[int, int | None] | None] = SimpleQueue()
    left = False

    def tell(there: int, of: int | None) -> None:
        if left:
            raise CancelledError
        told.put((there, of))

    with ThreadPoolExecutor(1, thread_name_prefix="backbone") as pool:
        loading = pool.submit(_backbone, settings, tell)
        loading.add_done_callback(lambda _: told.put(None))
        try:
            while (now := told.get()) is not None:
                there, total = now
                yield Progress(what="MB of weights", done=there >> 20, total=(total or there) >> 20)
        finally:
            left = True
        return loading.result()


def _out(settings: Settings) -> Path:
    return Path(settings.out) if settings.out else default_path(settings.data)
