"""A finished run without a training: any classes, photos and answers, for tests of what is said about runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.config import Settings
from headstart.data.dataset import SPLITS, Dataset, Item, Skipped
from headstart.evaluation.abstention import Abstention, Unsure
from headstart.evaluation.calibration import Calibration, Compared
from headstart.evaluation.evaluation import Answer, Evaluation
from headstart.evaluation.metrics import measure, wilson
from headstart.events import Accuracy, EpochEnded, Event, Note, StageEnded, StageStarted
from headstart.heads import Head
from headstart.networks.network import Optimization
from headstart.runs import Run
from headstart.training.recipe import Recipe
from headstart.training.stages import Stage

from .conftest import draw

EACH = {"train": 6, "validation": 2, "test": 4}  # photos of each class


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """What the run is to look like. `old`: as an older headstart wrote it, without calibration and abstention."""

    classes: Sequence[str] = ("ants", "bees")
    name: str = "photos"  # of the data that the run says it was made of
    file: str = "photo"  # how the names of files begin
    accuracy: float = 0.75
    photos: bool = False  # whether the files are there
    tuned: bool = True
    old: bool = False
    skipped: tuple[Skipped, ...] = ()


def made_up(folder: Path, asked: MadeUp | None = None) -> Path:
    """The folder of such a run; its model is a file that no backbone can load."""
    asked = asked or MadeUp()
    dataset = _dataset(folder / "photos", asked)
    if asked.photos:
        for number, item in enumerate(dataset.items):
            draw(folder / "photos" / item.path, (40 * (number % 5), 120, 60), seed=number)
    settings = Settings(data=str(folder / asked.name), out=str(folder / "run"), report="off")
    run = Run.create(folder / "run", settings, dataset, BACKBONE)
    run.write_recipe(RECIPE if asked.tuned else replace(RECIPE, stages=()))
    (run.path / "model.safetensors").write_bytes(b"none")
    evaluation, answers = _judged(dataset, asked)
    for event in _events(asked, evaluation):
        run.append(event)
    run.finish(evaluation, answers)
    return run.path


BACKBONE = {
    "name": "bundled/efficientnet_lite0",
    "size": 224,
    "fit": "crop",
    "weights_hash": "5793",
    "licence": "Apache-2.0",
    "framework": "torch",
    "about": {},
}
STAGE = Stage(epochs=2, lr=1e-3, unfreeze=1, name="tune")
RECIPE = Recipe(head=Head(), probe=True, stages=(STAGE,), optimization=Optimization())


def _dataset(root: Path, asked: MadeUp) -> Dataset:
    places = [
        (label, split, f"{split}-{number}")
        for label in range(len(asked.classes))
        for split in SPLITS
        for number in range(EACH[split])
    ]
    return Dataset(
        root=root,
        classes=tuple(asked.classes),
        items=tuple(
            Item(f"{place:032x}", f"class-{label}/{asked.file}-{name}.jpg", label, split)
            for place, (label, split, name) in enumerate(places)
        ),
        skipped=asked.skipped,
    )


def _judged(dataset: Dataset, asked: MadeUp) -> tuple[Evaluation, list[Answer]]:
    test, k = dataset.test, len(dataset.classes)
    rng = np.random.default_rng(0)
    told = np.where(np.arange(len(test)) < asked.accuracy * len(test), test.labels, (test.labels + 1) % k)
    probabilities = np.full((len(test), k), 0.01)
    probabilities[np.arange(len(test)), told] = 1 + rng.uniform(0, 3, len(test))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    answers = [
        Answer(item.path, dataset.classes[item.label], "test", dataset.classes[best], float(row[best]))
        for item, row, best in zip(test.items, probabilities, probabilities.argmax(axis=1), strict=True)
    ]
    evaluation = Evaluation(test=measure(test.labels, probabilities, dataset.classes))
    if asked.old:
        return evaluation, answers
    modest = 0.8 * probabilities + 0.2 / k
    unsure, right = np.arange(len(test)) < 1, told == test.labels
    return (
        replace(
            evaluation,
            calibration=Calibration(
                temperature=0.7, method="fitted on 9 photos", test=Compared.of(test.labels, modest, probabilities)
            ),
            abstention=Abstention(
                method="distance of features", threshold=1.0, false_alarms=0.05, test=Unsure.of(unsure, right)
            ),
        ),
        answers,
    )


def _events(asked: MadeUp, evaluation: Evaluation) -> list[Event]:
    n = len(asked.classes) * (EACH["train"] + EACH["validation"])
    right = round(0.7 * n)
    events: list[Event] = [
        Accuracy(name="probe", value=right / n, interval=wilson(right, n), n=n, seconds=1.0),
        Note(text="a note of the run"),
    ]
    if asked.tuned:
        events.append(StageStarted(stage="tune", rates={"head": 1e-3, "top": 5e-4}, epochs=2))
        events += [
            EpochEnded(
                stage="tune",
                epoch=epoch,
                epochs=2,
                loss=1 / epoch,
                validation_loss=0.8 / epoch,
                validation_accuracy=0.5 + 0.1 * epoch,
                seconds=1.0,
            )
            for epoch in (1, 2)
        ]
        events.append(StageEnded(stage="tune", epochs=2, best=2, reason="all epochs done"))
    return events
