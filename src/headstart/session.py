"""Hold what one process has open while it works on a run, and the clock."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from headstart.backbones.backbone import Backbone
from headstart.choosing import Choices
from headstart.config import Settings
from headstart.data.dataset import Dataset
from headstart.evaluation.metrics import wilson
from headstart.events import Accuracy, Decision, Event
from headstart.modalities.modality import Modality
from headstart.networks.network import Network
from headstart.planning import Forecast
from headstart.runs import Run
from headstart.store import Store
from headstart.training.sources import Workshop
from headstart.weighting import ClassWeights, parse


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
    reserve: float = 0.0  # seconds that the work after training will take, once they can be told
    ready: float = field(default_factory=time.monotonic)  # when the manifest was finished: what is told counts from it
    choices: Choices = field(init=False)  # what computes features
    took: dict[str, float] = field(default_factory=dict)  # seconds of each phase so far
    forecast: Forecast | None = None  # what it will take, once that was measured

    def __post_init__(self) -> None:
        self.choices = Choices(self.settings.precision, self.run.decision)

    @property
    def class_weights(self) -> ClassWeights:
        """What each class counts for."""
        return parse(self.settings.class_weights)

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
            class_weights=self.class_weights,
            choices=self.choices,
        )

    @property
    def used(self) -> float:
        """Seconds since the command began, with those of earlier attempts at this run."""
        return time.monotonic() - self.began

    @property
    def seconds(self) -> float:
        """Seconds since the manifest was finished."""
        return time.monotonic() - self.ready

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """While open, seconds count for the phase of this name."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.took[name] = self.took.get(name, 0.0) + time.monotonic() - began

    def decide(self, name: str, value: Any, reason: str) -> Generator[Event, None, Any]:
        """A value of this machine or moment, or the one that an interrupted run has used."""
        told = self.run.decision(name)
        if told is None:
            told = Decision(name=name, value=value, reason=reason)
            yield told
        return told.value

    def accuracy(self, name: str, value: float, n: int) -> Accuracy:
        """The event that tells an accuracy now."""
        return Accuracy(name=name, value=value, interval=wilson(round(value * n), n), n=n, seconds=self.seconds)
