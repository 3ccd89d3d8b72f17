"""Take a run through the stages of its recipe: from checkpoint to checkpoint, and within its time limit."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial

from headstart import pipeline
from headstart.events import Decision, EpochEnded, Event, Note, StageEnded, Stepped
from headstart.networks.network import Cut
from headstart.runs import Run
from headstart.runtimes.runtime import CHUNK, Plain
from headstart.session import Session
from headstart.training.batches import Order
from headstart.training.loop import Position, Source, conclude, train
from headstart.training.recipe import Recipe
from headstart.training.sources import Judge, bytes_of_views, live_share, open_stage
from headstart.training.stages import Stage, learning_rates
from headstart.weighting import item_weights

RESERVE = 1.5  # how much longer than measured the final evaluation may take under a time limit
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
        stage = yield from _fit_to_disk(session, planned, cut)
        stage = yield from _fit_to_time(session, recipe, stage)
        if not stage.epochs:
            yield Note(text=f"stage {stage} is left out: the time limit has no room for it")
        else:
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


def _fit_to_disk(session: Session, stage: Stage, cut: Cut) -> Generator[Event, None, Stage]:
    """The stage without cached views where there is no room for them."""
    needed = bytes_of_views(session.network, stage, session.dataset, cut)
    views = stage.views if session.store.has_room(needed) else 0
    if views != stage.views or session.run.decision(f"views/{stage}") is not None:
        reason = (
            f"cached views of stage {stage} need {needed / 1e9:.1f} GB: every epoch computes the frozen part instead"
        )
        views = yield from session.decide(f"views/{stage}", views, reason)
    return replace(stage, views=views)


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
        weights = item_weights(session.dataset.train, session.class_weights)
        sights = Order(n=n, batch_size=1, seed=0, stage="", weights=weights).sights
        # A backward pass costs two forward passes of what is live; the frozen part runs once a view, or each epoch.
        epoch = photo * sights * (3 * share + (0 if stage.views else 1 - share))
        session.reserve = RESERVE * photo * len(session.dataset.only("validation", "test")) * len(recipe.views)
        room = limit - session.used - session.reserve - photo * n * stage.views
        fits = session.network.agree(float(min(stage.epochs, max(0, int(room / epoch)))))
        reason = f"an epoch takes about {epoch:.0f} s and {max(0.0, room):.0f} s are left for training"
        told = Decision(name=name, value=int(fits), reason=reason)
        yield told
    return replace(stage, epochs=int(told.value))


def _pace(session: Session) -> float:
    """Seconds that one photo takes through the whole network, by a few dozen."""
    paths = session.dataset.train.files[: 4 * CHUNK]
    decode = partial(session.modality.decode, spec=session.backbone.spec, reduced=True)
    began = time.monotonic()
    for _ in pipeline.run(paths, decode, Plain(session.network, session.network.logits), workers=session.workers):
        pass
    return (time.monotonic() - began) / len(paths)


def _late(session: Session) -> bool:
    limit = session.settings.time_limit
    return limit is not None and session.used > min(limit - session.reserve, 0.95 * limit)
