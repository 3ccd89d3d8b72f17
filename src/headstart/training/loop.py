"""Train a network through one stage, whatever its framework: a generator that yields what happens."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from headstart.errors import Diverged
from headstart.events import EpochEnded, Event, StageEnded, StageStarted, Stepped
from headstart.networks.network import Batch, Network
from headstart.training.stages import Stage, learning_rates, schedule

READ_EVERY = 8  # steps between two looks at the losses, each of which waits for the device


class Source(Protocol):
    """Where a stage's batches come from, the same for the same epoch each time."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number` (from 0), from batch `first` on."""


@dataclass(frozen=True)
class Score:
    """How a network does on validation photos.

    `log_loss` is that of the probabilities at the best `temperature`, so that a network that is merely too sure or,
    after label smoothing, not sure enough does not count as a worse one.
    """

    log_loss: float
    accuracy: float
    temperature: float = 1.0
    metrics: dict[str, float] = field(default_factory=dict)  # the user's own

    def beats(self, other: Score) -> bool:
        """Whether this is the better network: more right answers, or as many and surer ones."""
        return (self.accuracy, -self.log_loss) > (other.accuracy, -other.log_loss)


@dataclass
class Position:
    """Where a stage stands: together with `Network.state()`, all that is needed to go on to the same bits."""

    epoch: int = 0  # epochs that are complete
    step: int = 0  # steps made in the epoch that is not
    loss: float = 0.0  # their sum
    before: Score | None = None  # of the weights from before the stage
    best_epoch: int = 0  # 0: the weights from before the stage
    best_score: Score | None = None
    best: dict[str, np.ndarray] = field(default_factory=dict)  # all weights at that epoch

    def offer(self, score: Score, weights: Callable[[], dict[str, np.ndarray]]) -> None:
        """Keep these weights if they beat those from before the stage, and have the lowest loss of all that do.

        Against the weights from before, right answers count; between epochs the loss does: the best of many epochs by
        right answers on a few dozen photos would be the luckiest.
        """
        if self.before is None or self.best_score is None:
            self.before = score
        elif not score.beats(self.before) or (self.best_epoch and score.log_loss >= self.best_score.log_loss):
            return
        self.best_epoch, self.best_score, self.best = self.epoch, score, weights()


def train(
    network: Network,
    stage: Stage,
    source: Source,
    *,
    seed: int,
    judge: Callable[[], Score] | None = None,
    position: Position | None = None,
) -> Iterator[Event]:
    """Train from `position` to the end of the stage, and leave the network with its best weights.

    `judge` scores the network on photos that it does not train on. Leave the generator at any event: `position`
    and `network.state()` then describe the very moment, and another call goes on from there; `conclude` instead
    ends the stage at that moment.

    Raises:
        Diverged: a loss is not a finite number.
    """
    at = position if position is not None else Position()
    rates = learning_rates(stage, network.groups)
    network.thaw(rates, stage.lora, precision=stage.precision)
    if at.epoch == at.step == 0:
        if judge is not None:
            at.offer(judge(), network.weights)
        yield StageStarted(stage=str(stage), rates=rates, epochs=stage.epochs)
    while at.epoch < stage.epochs and not stalled(stage, at):
        yield from _epoch(network, stage, source, at, seed=seed, judge=judge)
    yield conclude(network, stage, at)


def conclude(network: Network, stage: Stage, at: Position, reason: str | None = None) -> StageEnded:
    """End the stage here: put the best weights back, or the average where no judge chose."""
    if at.best:
        network.load_weights(at.best)
    else:
        with network.averaged():
            average = network.weights()
        network.load_weights(average)
    done = "no better for a while" if at.epoch < stage.epochs else "all epochs done"
    kept = at.best_epoch if at.best else at.epoch
    return StageEnded(stage=str(stage), epochs=at.epoch, best=kept, reason=reason or done)


def stalled(stage: Stage, at: Position) -> bool:
    """Whether so many epochs brought nothing better that the stage may end."""
    return stage.patience is not None and at.best_score is not None and at.epoch - at.best_epoch >= stage.patience


def _epoch(
    network: Network, stage: Stage, source: Source, at: Position, *, seed: int, judge: Callable[[], Score] | None
) -> Iterator[Event]:
    began = time.monotonic()
    unread: list[Any] = []
    for batch in source.epoch(at.epoch, first=at.step):
        done = at.epoch * source.steps + at.step
        scale = schedule(stage, done, stage.epochs * source.steps)
        unread.append(network.step(batch, scale=scale, key=key(seed, str(stage), done)))
        at.step += 1
        if len(unread) == READ_EVERY or at.step == source.steps:
            for loss in network.read(unread):
                at.loss = _finite(at.loss + loss, stage, at)
            unread = []
            yield Stepped(stage=str(stage), epoch=at.epoch + 1, step=at.step, steps=source.steps, epochs=stage.epochs)
    mean, at.epoch, at.step, at.loss = at.loss / source.steps, at.epoch + 1, 0, 0.0
    score = None
    if judge is not None:
        with network.averaged():
            score = judge()
            _finite(score.log_loss, stage, at)
            at.offer(score, network.weights)
    yield EpochEnded(
        stage=str(stage),
        epoch=at.epoch,
        epochs=stage.epochs,
        loss=mean,
        validation_loss=score.log_loss if score else None,
        validation_accuracy=score.accuracy if score else None,
        seconds=time.monotonic() - began,
        metrics=score.metrics if score else {},
    )


def _finite(loss: float, stage: Stage, at: Position) -> float:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is not a finite number in epoch {at.epoch + 1} of stage {stage} (learning rate {stage.lr:g})",
            fix=f"use a lower rate, for instance --lr {stage.lr / 10:g}",
        )
    return loss


def key(*parts: object) -> int:
    """A number in [0, 2^63) for these parts, the same on every machine: seeds that do not run in step."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
