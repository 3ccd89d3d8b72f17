"""Say what a training would do and take, without doing it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.config import Settings
from headstart.data.dataset import SPLITS, Dataset
from headstart.events import Decision, Event
from headstart.pace import predicted
from headstart.planning import Forecast
from headstart.preparing import head_cut, opened
from headstart.starting import started
from headstart.training.recipe import Recipe
from headstart.training.stages import learning_rates


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do and take: printed by a dry run, before anything moves."""

    settings: Settings
    dataset: Dataset
    backbone: str
    pixels: int  # side of the square that enters the network
    fit: str  # how photos are brought to a square; best: to be chosen
    recipe: Recipe
    rates: dict[str, dict[str, float]]  # stage -> group -> rate
    decisions: dict[str, str]  # what was found out by measuring: value and reason
    forecast: Forecast

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries."""
        return {
            "data": self.settings.data,
            "backbone": self.backbone,
            "pixels": self.pixels,
            "fit": self.fit,
            "quality": self.settings.quality,
            "classes": list(self.dataset.classes),
            "photos": {split: len(self.dataset.only(split)) for split in SPLITS},
            "skipped": len(self.dataset.skipped),
            "recipe": self.recipe.to_tables(),
            "rates": self.rates,
            "decisions": self.decisions,
            "forecast": self.forecast.to_json(),
        }


def plan(settings: Settings) -> Generator[Event, None, Plan]:
    """What `train` would do with these settings, and how long it would take here, by a short measurement.

    Raises:
        HeadstartError: as `train`.
    """
    start = yield from started(settings)
    settings, backbone, network, recipe = start.settings, start.backbone, start.network, start.recipe
    decisions = {} if start.choice is None else {start.choice.name: f"{start.choice.value} ({start.choice.reason})"}
    with tempfile.TemporaryDirectory() as private:
        run = start.run(Path(private, "run"))  # thrown away: decisions belong to a run
        session = opened(run, backbone, network, start.began, looking=start.looking)
        work = predicted(session, recipe, head_cut(recipe, network))
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                forecast: Forecast = end.value
                break
            if isinstance(event, Decision):
                run.append(event)
                decisions[event.name] = f"{event.value} ({event.reason})"
            else:
                yield event
    return Plan(
        settings=settings,
        dataset=start.dataset,
        backbone=backbone.name,
        pixels=backbone.spec.size,
        fit=settings.fit or backbone.spec.fit,
        recipe=recipe,
        rates={str(stage): learning_rates(stage, network.groups) for stage in recipe.stages},
        decisions=decisions,
        forecast=forecast,
    )
