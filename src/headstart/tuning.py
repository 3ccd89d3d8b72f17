"""Take a run through the stages of its recipe: from checkpoint to checkpoint, and within its time limit."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace

from headstart.events import Decision, EpochEnded, Event, Note, StageEnded, Stepped
from headstart.networks.network import Cut
from headstart.planning import RESERVE, fitted
from headstart.runs import Run
from headstart.session import Session
from headstart.training.loop import Position, Source, conclude, train
from headstart.training.recipe import Recipe
from headstart.training.sources import Judge, open_stage
from headstart.training.stages import Stage

CHECKPOINT_EVERY = 60.0  # seconds within an epoch; each epoch ends with one in any case


def tune(session: Session, recipe: Recipe, cut: Cut) -> Iterator[Event]:
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
        stage = yield from _fitted(session, planned)
        if not stage.epochs:
            yield Note(text=f"stage {stage} is left out: the time limit has no room for it")
        else:
            with session.timed(f"{stage} views"):
                source, judge = yield from open_stage(session.shop, stage, session.dataset, cut)
            with session.timed(f"{stage} epochs"):
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
    work = train(session.network, stage, source, seed=session.settings.seed, judge=judge, position=at)
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


def improved(run: Run) -> bool:
    """Whether any stage found weights that do better on validation photos than those it began with."""
    return any(isinstance(event, StageEnded) and event.best > 0 for event in run.events)


def _fitted(session: Session, stage: Stage) -> Generator[Event, None, Stage]:
    """The stage with as many epochs and kept views as time and disk have room for, in the precision that is faster.

    Decided once, by the costs that the plan was made of; only the clock has gone on since then.
    """
    limit, forecast = session.settings.time_limit, session.forecast
    work = forecast.stage(str(stage)) if forecast is not None else None
    if forecast is None or work is None:
        return stage
    session.reserve = RESERVE * forecast.evaluation if limit is not None else 0.0
    timed = limit is not None and stage.unfreeze > 0
    left = limit - session.used - session.reserve if limit is not None and timed else None
    fit = fitted(work, room=session.store.room, seconds=left)
    epochs, views = (int(session.network.agree(float(number))) for number in (fit.epochs, fit.views))
    if timed:
        reason = fit.change or f"{work.seconds(epochs, views):.0f} s of the {left:.0f} s that are left"
        epochs = yield from session.decide(f"epochs/{stage}", epochs, reason)
    if work.views and epochs:
        views = yield from session.decide(f"views/{stage}", views, fit.why_views)
    if work.why_precision and epochs:
        precision = yield from session.decide(f"precision/{stage}", work.precision, work.why_precision)
        stage = replace(stage, precision=precision if precision in session.network.precisions else None)
    return replace(stage, epochs=int(epochs), views=int(views) if work.views else stage.views)


def _late(session: Session) -> bool:
    limit = session.settings.time_limit
    return limit is not None and session.used > min(limit - session.reserve, 0.95 * limit)
