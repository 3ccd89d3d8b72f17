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
from collections.abc import Generator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from headstart.backbones.backbone import Backbone
from headstart.config import Settings
from headstart.data.dataset import Dataset
from headstart.data.loading import drop_unreadable
from headstart.errors import BadRun, HeadstartError
from headstart.events import Compared, Event, Note, PhaseEnded, RunStarted, to_json
from headstart.features import Features
from headstart.framing import best_fit
from headstart.judging import Finished, finish, frozen, tuned
from headstart.machine import peak_memory
from headstart.networks.network import Cut, Network
from headstart.out_of_fold import OutOfFold
from headstart.pace import predicted
from headstart.preparing import fetched_backbone, head_cut, identity, opened, recipe_of, staff
from headstart.probe import Probe, probe
from headstart.runs import REPORT, Run
from headstart.session import Session
from headstart.starting import started
from headstart.training.recipe import FEW, Recipe
from headstart.tuning import improved, tune
from headstart.weighting import item_weights, told


def train(settings: Settings) -> Generator[Event, None, Run]:
    """Do the whole job; what can be refused is refused before a folder exists.

    Raises:
        HeadstartError: the data, a setting or the backbone cannot be used, the disk is full, or training diverged.
    """
    start = yield from started(settings)
    if start.network.shard[0] == 0:
        run = start.run(start.out)
        if start.choice is not None:
            run.append(start.choice)
        return (yield from _conduct(run, start.backbone, start.network, start.began, looking=start.looking))
    # Of several processes the first keeps the run; the others need one of their own, and throw it away.
    with tempfile.TemporaryDirectory() as private:
        run = start.run(Path(private, "run"))
        yield from _conduct(run, start.backbone, start.network, start.began, looking=start.looking)
    return Run(start.out)


def resume(path: Path, *, factory: str | None = None) -> Generator[Event, None, Run]:
    """Finish an interrupted run, to the same bits as if it had not been interrupted.

    A run that began with a factory needs it again: code is never taken on the word of a run.

    Raises:
        HeadstartError: there is no run, or as `train`.
    """
    began = time.monotonic()
    run = Run.reopen(path)
    if run.finished:
        wanting = run.settings.report == "on" and not (path / REPORT).exists()
        report = f"; write its report with: headstart report {shlex.quote(str(path))}" if wanting else ""
        yield Note(text=f"run {path} is finished already{report}")
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
    backbone = yield from fetched_backbone(same)
    if backbone.weights_hash != run.backbone["weights_hash"]:
        yield Note(text="the backbone's weights are not those that the run began with: results will differ")
    network = backbone.build()
    network.to(settings.device)
    if network.shard[0] == 0:
        return (yield from _conduct(run, backbone, network, began))
    with tempfile.TemporaryDirectory() as private:
        yield from _conduct(Run(shutil.copytree(path, Path(private, "run"))), backbone, network, began)
    return run


# ---- the way of a run


def _conduct(
    run: Run, backbone: Backbone, network: Network, began: float, *, looking: float = 0.0
) -> Generator[Event, None, Run]:
    checkpoint = run.load_checkpoint()
    run.rewind(checkpoint[0]["events"] if checkpoint else 0)
    began -= checkpoint[0]["seconds"] if checkpoint else 0.0
    session = opened(run, backbone, network, began, looking=looking)
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
    cut = head_cut(_recipe(session), session.network)
    yield from _forecast(session, cut)
    if session.settings.fit == "best":
        with session.timed("fit"):
            if session.run.decision("fit") is None:
                # What cannot be read must be gone before it counts.
                yield from _extract(session, session.network.cuts[-1])
            yield from best_fit(session)
            session.run.write_backbone(identity(session.backbone))
    with session.timed("features"):
        features = yield from _extract(session, cut)
    yield PhaseEnded(name="features", seconds=session.seconds)
    recipe = _recipe(session)  # unreadable photos are gone by now
    session.run.write_recipe(recipe)
    yield from _remarks(session)

    solved: Probe | None = None
    if recipe.probe:
        # Tuning is compared on validation photos, so the head that it starts from must not have seen them.
        photos = session.dataset.train if recipe.stages else session.dataset.only("train", "validation")
        with session.timed("probe"):
            solved = yield from _probe(session, features, photos, told=True)
        session.network.set_head(solved.head, len(session.dataset.classes))
    else:
        session.network.set_head(recipe.head, len(session.dataset.classes), seed=session.settings.seed)
    yield from tune(session, recipe, cut)

    with session.timed("evaluation"):
        finished = yield from _shipped(session, recipe, features, solved)
        yield PhaseEnded(name="training", seconds=session.seconds)
        yield from finish(session, finished)
    _write_costs(session)
    yield from _reported(session)
    yield from _compared(session)


def _forecast(session: Session, cut: Cut) -> Iterator[Event]:
    """Tell what the run will do and take; a run that goes on keeps to what it began with."""
    session.forecast = session.run.forecast
    if session.forecast is not None:
        session.took = {}  # what an earlier attempt has taken is not known by its phases
        return
    session.forecast = yield from predicted(session, _recipe(session), cut)
    session.took["measuring"] = session.forecast.phases[len(session.took)].seconds
    session.run.write_plan(session.forecast)
    yield session.forecast.told


def _compared(session: Session) -> Iterator[Event]:
    """What the run has taken, beside what was predicted."""
    used = _write_costs(session)
    if session.forecast is not None and "start" in session.took:
        yield Compared(predicted=session.forecast.seconds, actual=used)


def _write_costs(session: Session) -> float:
    """Write what the run has taken so far; its seconds."""
    used = session.used
    if session.forecast is not None:
        phases = session.took if "start" in session.took else None
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        took = {"seconds": used, "phases": phases, "peak_bytes": peak_memory(), "ended": ended}
        session.run.write_plan(session.forecast, took)
    return used


def _reported(session: Session) -> Iterator[Event]:
    """The report. The run is finished: whatever may go wrong with its report, it stays."""
    if session.settings.report == "off" or session.network.shard[0] != 0:
        return
    again = f"headstart report {shlex.quote(str(session.run.path))}"
    with session.timed("report"):
        try:
            from headstart.report.making import report  # draws: only where it is wanted

            yield from report(session.run.path)
        except HeadstartError as problem:
            yield Note(text=f"the run is finished, without a report: {problem.what}; {problem.fix}; then: {again}")
        except Exception as problem:  # noqa: BLE001  hours of training must not end in a fault of a chart
            fault = f"{type(problem).__name__}: {problem}"
            yield Note(text=f"the run is finished, but its report failed: {fault}; try again: {again}")
        else:
            yield PhaseEnded(name="report", seconds=session.seconds)


def _shipped(
    session: Session, recipe: Recipe, features: Features, solved: Probe | None
) -> Generator[Event, None, Finished]:
    """The tuned network where tuning has helped, and the frozen one where it has not."""
    if solved is None or improved(session.run):
        return (yield from tuned(session, recipe))
    if recipe.stages:
        yield Note(text="tuning did not beat the frozen backbone on validation photos: the frozen one ships")
        solved = yield from _probe(session, features, session.dataset.only("train", "validation"), told=False)
        _restart(session, solved)
    return (yield from frozen(session, recipe, solved))


def _extract(session: Session, cut: Cut) -> Generator[Event, None, Features]:
    """Features to learn from; photos that turn out to be unreadable leave the data set, with their reason."""
    photos = session.dataset.only("train", "validation")
    offer = yield from session.shop.choose(photos, cut)
    yield from staff(session, photos, cut, offer)
    with session.network.leading():
        features = yield from session.shop.features(photos, cut)
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
    session.run.save_out_of_fold(
        OutOfFold(
            ids=tuple(ids),
            labels=photos.labels,
            probabilities=solved.out_of_fold,
            features=features.fingerprint,
            strength=solved.strength,
        )
    )
    return solved


def _recipe(session: Session) -> Recipe:
    return recipe_of(session.settings, session.dataset, session.network)
