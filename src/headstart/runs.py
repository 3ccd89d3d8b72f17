"""Open, read and write the folder of a run: everything that later verbs need, and nothing half-written.

A run that is not finished holds a file called `INCOMPLETE`; it is the first to be written and the last to go.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from headstart import novelty_file, out_of_fold, plain_files
from headstart.config import Settings, from_toml, to_toml
from headstart.data.dataset import SPLITS, Dataset, Item, Skipped, Split
from headstart.data.splits import write_splits
from headstart.errors import BadRun
from headstart.evaluation.evaluation import Answer, Evaluation
from headstart.events import STORED, Decision, Event, Note, PhaseEnded, from_json, to_json
from headstart.novelty import Novelty
from headstart.out_of_fold import OutOfFold
from headstart.planning import Forecast
from headstart.run_files import read_csv, sound, write_csv, write_json, write_tensors
from headstart.training.loop import Position, Score
from headstart.training.recipe import Recipe
from headstart.writing import room_for, write_text

MARK = "INCOMPLETE"
FREE = "free some space, then resume the run"
REPORT = "report.html"
PACKAGES = (
    *("headstart", "numpy", "torch", "keras", "tensorflow", "tensorflow-cpu", "jax"),
    *("pillow", "scikit-learn", "scipy", "safetensors", "accelerate"),
)


class Run:
    """A run folder. Made by `create`, reopened by `open` and `reopen`; never overwritten."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        """The folder: whatever takes the path of a run takes the run."""
        return str(self.path)

    # ---- making and opening

    @classmethod
    def create(cls, path: Path, settings: Settings, dataset: Dataset, backbone: Mapping[str, Any]) -> Run:
        """Make the folder, with what is known before any work: settings, manifest, classes, versions.

        Raises:
            BadRun: the folder exists or cannot be made.
        """
        check_new(path)
        try:
            path.mkdir(parents=True)
            (path / MARK).write_text(
                f"This run is not finished. Go on with: headstart resume {shlex.quote(str(path))}\n"
            )
            (path / "checkpoints").mkdir()
        except OSError as problem:
            raise BadRun(
                f"run folder {str(path)!r} cannot be made: {problem.strerror}", fix="choose another place with --out"
            ) from problem
        run = cls(path)
        write_json(path / "versions.json", _versions())
        run.write_backbone(backbone)
        write_text(path / "config.toml", to_toml(settings, None))
        write_text(path / "command.txt", settings.command() + "\n")
        run.write_manifest(dataset)
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A finished run, for reading.

        Raises:
            BadRun: there is none at `path`, or it is not finished.
        """
        run = cls.reopen(path)
        if not run.finished:
            raise BadRun(
                f"run {str(path)!r} is not finished", fix=f"go on with: headstart resume {shlex.quote(str(path))}"
            )
        return run

    @classmethod
    def reopen(cls, path: str | Path) -> Run:
        """A run, finished or not.

        Raises:
            BadRun: there is none at `path`.
        """
        run = cls(Path(path))
        if not (run.path / "config.toml").is_file() or not (run.path / "splits.csv").is_file():
            there = "is not a run folder" if run.path.exists() else "does not exist"
            raise BadRun(f"run {str(path)!r} {there}", fix="give the folder that headstart train printed at its end")
        if strange := plain_files.strange(run.path):
            # What a link leads to would come out in a report, or be written to; a pipe would never end.
            raise BadRun(
                f"run {str(path)!r} holds a link or no plain file: {strange!r}",
                fix="copy the run with what it links to, if you trust it: cp -rL",
            )
        return run

    @property
    def finished(self) -> bool:
        """Whether everything is there."""
        return not (self.path / MARK).exists() and (self.path / "evaluation.json").is_file()

    # ---- what was asked, and what will be done

    @property
    def settings(self) -> Settings:
        """What the user asked for."""
        with sound(self.path, "config.toml") as path:
            return from_toml(path.read_text(encoding="utf-8"))

    @property
    def recipe(self) -> Recipe | None:
        """What was decided, once it was."""
        with sound(self.path, "config.toml") as path:
            tables = tomllib.loads(path.read_text(encoding="utf-8")).get("recipe")
            return Recipe.from_tables(tables) if tables else None

    def write_recipe(self, recipe: Recipe) -> None:
        """Put the decided recipe into `config.toml`."""
        write_text(self.path / "config.toml", to_toml(self.settings, recipe.to_tables()))

    @property
    def backbone(self) -> dict[str, Any]:
        """Name, size, weights and licence of the backbone."""
        with sound(self.path, "backbone.json") as path:
            return dict(json.loads(path.read_text(encoding="utf-8")))

    def write_backbone(self, backbone: Mapping[str, Any]) -> None:
        """Say what the run begins with: name, size, fit, weights and licence of the backbone."""
        write_json(self.path / "backbone.json", dict(backbone))

    # ---- the photos

    def write_manifest(self, dataset: Dataset) -> None:
        """Write which photos are used, in which split, and which are not, with their reasons."""
        write_splits(dataset, self.path / "splits.csv")
        write_csv(self.path / "skipped.csv", ("path", "reason"), ((s.path, s.reason) for s in dataset.skipped))
        about = {"root": str(dataset.root), "user_splits": dataset.user_splits, "notes": list(dataset.notes)}
        write_json(self.path / "data.json", about)
        write_text(self.path / "classes.txt", "".join(f"{name}\n" for name in dataset.classes))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the model's outputs."""
        with sound(self.path, "classes.txt") as path:
            return tuple(path.read_text("utf-8", "surrogateescape").splitlines())

    @property
    def dataset(self) -> Dataset:
        """The manifest as it was written; the photos are not looked at."""
        with sound(self.path, "data.json") as path:
            about = dict(json.loads(path.read_text(encoding="utf-8")))
        position = {name: label for label, name in enumerate(self.classes)}
        with sound(self.path, "splits.csv"):
            items = tuple(
                Item(
                    row["id"],
                    row["path"],
                    position[row["label"]],
                    cast(Split, row["split"]),
                    row.get("group") or "",
                    float(row.get("weight") or 1.0),
                )
                for row in read_csv(self.path / "splits.csv")
            )
        with sound(self.path, "skipped.csv"):
            skipped = tuple(Skipped(row["path"], row["reason"]) for row in read_csv(self.path / "skipped.csv"))
        with sound(self.path, "data.json"):
            return Dataset(
                root=Path(about["root"]),
                classes=self.classes,
                items=items,
                skipped=skipped,
                user_splits=about["user_splits"],
                notes=tuple(about.get("notes", ())),
            )

    # ---- what happens

    def append(self, event: Event) -> None:
        """Add one event to `events.jsonl`, where it is of a kind that is kept."""
        if not isinstance(event, STORED):
            return
        log = self.path / "events.jsonl"
        with room_for(log, fix=FREE), log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_json(event)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def events(self) -> list[Event]:
        """What happened so far; a line that was cut off by a crash is left out."""
        events: list[Event] = []
        if not (self.path / "events.jsonl").exists():
            return events
        with sound(self.path, "events.jsonl") as path:
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    events.append(from_json(json.loads(line)))
        return events

    def decision(self, name: str) -> Decision | None:
        """The decision of this name, if it was made before."""
        found = [event for event in self.events if isinstance(event, Decision) and event.name == name]
        return found[-1] if found else None

    def rewind(self, count: int) -> None:
        """Forget the events after the first `count`, since their work will be done again. Decisions stay."""
        events = self.events
        kept = events[:count] + [event for event in events[count:] if isinstance(event, Decision)]
        write_text(self.path / "events.jsonl", "".join(json.dumps(to_json(event)) + "\n" for event in kept))

    # ---- what it was to take, and took

    def write_plan(self, predicted: Forecast, actual: Mapping[str, Any] | None = None) -> None:
        """Write into `plan.json` what was predicted and, at the end, the actual seconds of each phase."""
        write_json(self.path / "plan.json", {"predicted": predicted.to_json(), "actual": actual})

    @property
    def forecast(self) -> Forecast | None:
        """What was predicted when the run began; None before."""
        path = self.path / "plan.json"
        if not path.exists():
            return None
        with sound(self.path, "plan.json"):
            return Forecast.from_json(json.loads(path.read_text(encoding="utf-8"))["predicted"])

    # ---- checkpoints

    def save_checkpoint(self, stage: int, position: Position, state: Mapping[str, np.ndarray], seconds: float) -> None:
        """Replace the checkpoint: the network's state, the stage's position, the events so far, the time used."""
        about = {
            "stage": stage,
            "events": len(self.events),
            "seconds": seconds,
            "position": {key: value for key, value in asdict(position).items() if key != "best"},
        }
        arrays = {f"state/{key}": value for key, value in state.items()}
        arrays |= {f"best/{key}": value for key, value in position.best.items()}
        path = self.path / "checkpoints" / "last.safetensors"
        write_tensors(path, arrays, {"about": json.dumps(about)}, fix=FREE)

    def load_checkpoint(self) -> tuple[dict[str, Any], Position, dict[str, np.ndarray]] | None:
        """What `save_checkpoint` wrote last: its facts, the position and the network's state; or nothing."""
        path = self.path / "checkpoints" / "last.safetensors"
        if not path.exists():
            return None
        with sound(self.path, "checkpoints/last.safetensors", largest=None):
            with safe_open(path, framework="numpy") as file:
                about = json.loads(file.metadata()["about"])
            arrays = load_file(path)
            fields = dict(about["position"])
            for name in ("before", "best_score"):
                fields[name] = Score(**fields[name]) if fields[name] else None
            best = {key[5:]: value for key, value in arrays.items() if key.startswith("best/")}
            state = {key[6:]: value for key, value in arrays.items() if key.startswith("state/")}
            return about, Position(**fields, best=best), state

    # ---- what came out

    def save_model(self, weights: Mapping[str, np.ndarray]) -> None:
        """Write the finished model's weights."""
        about = {"classes": json.dumps(self.classes)}
        write_tensors(self.path / "model.safetensors", weights, about, fix=FREE)

    def model(self) -> dict[str, np.ndarray]:
        """The finished model's weights.

        Raises:
            BadRun: the file is missing or damaged.
        """
        try:
            return load_file(self.path / "model.safetensors")
        except Exception as problem:
            raise BadRun(
                f"model of run {str(self.path)!r} does not load: {problem}", fix="train again, or copy the run again"
            ) from problem

    def save_novelty(self, novelty: Novelty) -> None:
        """Write where the features of the training photos lie, and how far from them is too far."""
        write_tensors(self.path / novelty_file.NAME, *novelty_file.arrays(novelty), fix=FREE)

    @property
    def novelty(self) -> Novelty | None:
        """The same again; None where there were too few photos to tell, or the run is of an older headstart.

        Raises:
            BadRun: the file is damaged.
        """
        return novelty_file.read(self.path / novelty_file.NAME)

    def save_out_of_fold(self, answers: OutOfFold) -> None:
        """Write what the exact heads said of photos that they had not learnt from."""
        write_tensors(self.path / out_of_fold.NAME, *answers.arrays(), fix=FREE)

    @property
    def out_of_fold(self) -> OutOfFold | None:
        """The same again; None where the head was not solved exactly, or the run is of an older headstart.

        Raises:
            BadRun: the file is damaged, or of another run.
        """
        path = self.path / out_of_fold.NAME
        return out_of_fold.read(path, photos=len(self.dataset), classes=len(self.classes)) if path.exists() else None

    def finish(self, evaluation: Evaluation, answers: Sequence[Answer]) -> None:
        """Write the results and declare the run whole."""
        header = ("path", "label", "split", "predicted", "probability", "distance", "unsure")
        rows = (
            (
                *(a.path, a.label, a.split, a.predicted, f"{a.probability:.6f}"),
                "" if a.distance is None else f"{a.distance:.6f}",
                "" if a.unsure is None else str(a.unsure).lower(),
            )
            for a in answers
        )
        write_csv(self.path / "predictions.csv", header, rows)
        write_json(self.path / "evaluation.json", evaluation.to_json())
        (self.path / MARK).unlink(missing_ok=True)

    @property
    def evaluation(self) -> Evaluation:
        """How well the finished model does."""
        with sound(self.path, "evaluation.json") as path:
            return Evaluation.from_json(json.loads(path.read_text(encoding="utf-8")))

    def summary(self) -> dict[str, Any]:
        """The run in a few facts."""
        evaluation, dataset = self.evaluation, self.dataset
        recipe = self.recipe
        notes = [event.text for event in self.events if isinstance(event, Note)]
        report = self.path / REPORT
        return {
            "run": str(self.path),
            "backbone": self.backbone["name"],
            "fit": self.backbone.get("fit", "crop"),
            "quality": self.settings.quality,
            "class_weights": self.settings.class_weights,
            "classes": list(self.classes),
            "photos": {split: len(dataset.only(split)) for split in SPLITS},
            "skipped": len(dataset.skipped),
            "stages": [str(stage) for stage in recipe.stages] if recipe else [],
            "accuracy": evaluation.accuracy,
            "accuracy_interval": list(evaluation.accuracy_interval),
            "test": evaluation.test.to_json(),
            "unsure": told.test.to_json() if (told := evaluation.abstention) and told.test else None,
            "report": str(report) if report.is_file() else None,
            "notes": notes,
            "seconds": max((e.seconds for e in self.events if isinstance(e, PhaseEnded)), default=0.0),
        }


def check_new(path: Path) -> None:
    """Refuse a run folder that exists or that cannot be made, before any work is done.

    Raises:
        BadRun: with the way out.
    """
    if path.exists() or path.is_symlink():
        raise BadRun(f"run folder {str(path)!r} exists already", fix="choose another with --out, or remove it")
    parent = next((folder for folder in path.absolute().parents if folder.exists()), Path(path.anchor))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BadRun(
            f"run folder {str(path)!r} cannot be made: {str(parent)!r} is not a folder one may write to",
            fix="choose another place with --out",
        )


def default_path(data: str, base: Path = Path("runs")) -> Path:
    """`runs/NAME-1`, or the first number that is free."""
    path = Path(data).resolve()
    name = (path.name.partition(".")[0] if path.is_file() else path.name) or "data"
    number = 1
    while (base / f"{name}-{number}").exists():
        number += 1
    return base / f"{name}-{number}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
