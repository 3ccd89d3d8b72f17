"""Make all that a run begins with, and refuse what can be refused, while nothing is written yet."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from headstart.backbones.backbone import Backbone
from headstart.choosing import check_precision
from headstart.config import Settings
from headstart.data.dataset import Dataset
from headstart.data.loading import folder_of
from headstart.events import Decision, Event
from headstart.networks.network import Network
from headstart.preparing import fetched_backbone, folder_for, identity, recipe_of, surveyed, without_files
from headstart.ranking.auto import settled
from headstart.runs import Run, check_new
from headstart.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins with."""

    settings: Settings
    out: Path  # where the run is to lie; it does not exist yet
    backbone: Backbone
    network: Network
    dataset: Dataset
    recipe: Recipe
    choice: Decision | None  # of the backbone, where several were ranked
    began: float  # by the monotonic clock
    looking: float  # seconds that looking at the photos took

    def run(self, path: Path) -> Run:
        """A run's folder there, with what is known by now.

        Raises:
            BadRun: it exists or cannot be made.
        """
        return Run.create(path, self.settings, self.dataset, identity(self.backbone))


def started(settings: Settings) -> Generator[Event, None, Start]:
    """The way of every training, and of its dry run, up to its folder.

    Raises:
        HeadstartError: the data, a setting or the backbone cannot be used, or the run folder cannot be made.
    """
    began = time.monotonic()
    folder_of(settings.data, columns=settings.columns)  # before weights are downloaded for photos that are not there
    settings = without_files(settings)
    named, choice = yield from settled(settings, began)
    backbone = yield from fetched_backbone(named)
    out = folder_for(settings)
    check_new(out)
    network = backbone.build()
    network.to(settings.device)
    check_precision(network, settings.precision)
    before = time.monotonic()
    dataset = yield from surveyed(settings)
    looking = time.monotonic() - before
    recipe = recipe_of(settings, dataset, network)
    return Start(
        settings=settings,
        out=out,
        backbone=backbone,
        network=network,
        dataset=dataset,
        recipe=recipe,
        choice=choice,
        began=began,
        looking=looking,
    )
