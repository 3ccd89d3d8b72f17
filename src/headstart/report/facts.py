"""Gather all that a report says about a run, as plain facts: those of report.json, of the page and of the card.

Numbers are in full, shares and accuracies in [0, 1], times in seconds; None or an empty list: not known of this run.
docs/report.md says what each part means; `SCHEMA` counts up when a part changes its meaning.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

from headstart.data.dataset import SPLITS, Dataset
from headstart.errors import HeadstartError
from headstart.evaluation.evaluation import Evaluation
from headstart.evaluation.metrics import Metrics, wilson
from headstart.events import Accuracy, Decision, EpochEnded, Event, Note, StageEnded, StageStarted
from headstart.report.answers import above, chosen, tested
from headstart.report.costs import costs
from headstart.report.label_errors import suspected
from headstart.report.more_labels import more_labels
from headstart.run_files import sound
from headstart.runs import Run
from headstart.training.recipe import Recipe

SCHEMA = 1
PAIRS = 15  # of classes that are taken for each other
LONGEST = 1 << 17  # bytes of a command: more than a system takes
EXAMPLES = 3  # files for each reason of being skipped
Facts = dict[str, Any]
Result = TypeVar("Result")


def gather(run: Run) -> Facts:
    """Everything there is to say about a finished run, out of its files; what an older run lacks is empty."""
    dataset, evaluation, events = run.dataset, run.evaluation, run.events
    answers, photos = tested(run), dataset.test
    test = evaluation.test
    remarks: list[str] = []
    facts = {
        "schema": SCHEMA,
        "name": data_name(run.settings.data),
        "run": _run(run),
        "asked": _asked(run, dataset),
        "result": _result(evaluation, run.recipe, dataset, events),
        "data": _data(dataset),
        "training": _training(run.recipe, events),
        "confusion": {"classes": list(run.classes), "matrix": [list(row) for row in test.confusion]},
        "confused": _confused(test),
        "classes": _classes(test),
        "calibration": evaluation.calibration.to_json() if evaluation.calibration else None,
        "abstention": evaluation.abstention.to_json() if evaluation.abstention else None,
        "answers": chosen(answers),
        "sure": above(answers, {item.path: family for item, family in zip(photos.items, photos.families, strict=True)}),
        "label_errors": _told(lambda: suspected(run), "suspected label errors", remarks),
        "more_labels": _told(lambda: more_labels(run), "accuracy with more labels", remarks),
        "costs": _told(lambda: costs(run), "time and cost", remarks),
        "settings": {key: value for key, value in asdict(run.settings).items() if value is not None},
        "recipe": run.recipe.to_tables() if run.recipe else None,
        "backbone": run.backbone,
        "decisions": [
            {"name": event.name, "value": event.value, "reason": event.reason}
            for event in events
            if isinstance(event, Decision)
        ],
        "notes": list(dict.fromkeys(event.text for event in events if isinstance(event, Note))),
        "versions": _json(run.path / "versions.json"),
        "remarks": remarks,
    }
    return cast(Facts, _plain(facts))


def data_name(data: str) -> str:
    """What people call the photos: the last part of where they lie."""
    return Path(data).name or data


def _run(run: Run) -> Facts:
    took = _json(run.path / "plan.json").get("actual")
    seconds, ended = (took.get("seconds"), took.get("ended")) if isinstance(took, dict) else (None, None)
    return {
        "path": str(run.path.absolute()),
        "command": _command(run.path),
        "seconds": seconds if isinstance(seconds, int | float) else None,
        "ended": ended if isinstance(ended, str) else None,
        "headstart": _json(run.path / "versions.json").get("headstart"),
    }


def _command(folder: Path) -> str:
    path = folder / "command.txt"
    if not path.is_file():
        return ""
    with sound(folder, path.name, largest=LONGEST):
        return path.read_text("utf-8", "surrogateescape").strip()


def _asked(run: Run, dataset: Dataset) -> Facts:
    settings = run.settings
    return {
        "data": settings.data,
        "classes": len(dataset.classes),
        "names": list(dataset.classes),
        "photos": len(dataset),
        "backbone": run.backbone["name"],
        "framework": run.backbone.get("about", {}).get("engine") or run.backbone.get("framework"),
        "quality": settings.quality,
        "head": settings.head,
        "from_scratch": settings.from_scratch,
        "time_limit": settings.time_limit,
    }


# ---- what came out


def _result(evaluation: Evaluation, recipe: Recipe | None, dataset: Dataset, events: Sequence[Event]) -> Facts:
    test = evaluation.test
    figures = {name: value for name, value in test.to_json().items() if name not in ("classes", "confusion")}
    return {
        **figures,
        "right": round(test.accuracy * test.n),
        "majority": _majority(dataset, test),
        "frozen": _frozen(events),
        "shipped": _shipped(recipe, events),
        "validation": _validation(evaluation.validation, evaluation.validation_method),
        "fitted_on_validation": list(evaluation.fitted_on_validation),
    }


def _majority(dataset: Dataset, test: Metrics) -> Facts:
    """What one would get by always answering the class that is most frequent among the photos to learn from."""
    learnt = Counter(item.label for item in dataset.only("train", "validation").items)
    frequent = max(learnt, key=lambda label: (learnt[label], -label), default=0)
    right = test.classes[frequent].n
    return {"name": dataset.classes[frequent], "accuracy": right / test.n, "interval": list(wilson(right, test.n))}


def _frozen(events: Sequence[Event]) -> Facts | None:
    """The exact head on the untouched backbone, cross-validated before anything was tuned."""
    probes = [event for event in events if isinstance(event, Accuracy) and event.name == "probe"]
    if not probes:
        return None
    return {"accuracy": probes[-1].value, "interval": list(probes[-1].interval), "n": probes[-1].n}


def _shipped(recipe: Recipe | None, events: Sequence[Event]) -> str:
    """`frozen`: the backbone as it was, with an exact head; `tuned`: layers of it, or of the head, learnt by steps."""
    stepped = any(isinstance(event, StageEnded) and event.best > 0 for event in events)
    return "tuned" if stepped or (recipe is not None and not recipe.probe) else "frozen"


def _validation(metrics: Metrics | None, method: str) -> Facts | None:
    if metrics is None:
        return None
    names = ("n", "accuracy", "accuracy_interval", "log_loss", "calibration_error")
    row = metrics.to_json()
    return {"method": method, **{name: row[name] for name in names}}


def _confused(test: Metrics) -> list[Facts]:
    """Which classes are taken for which, the most frequent confusion first."""
    names = [each.name for each in test.classes]
    pairs: list[Facts] = [
        {"truth": names[truth], "answer": names[answer], "photos": number, "of": sum(row)}
        for truth, row in enumerate(test.confusion)
        for answer, number in enumerate(row)
        if number and truth != answer
    ]
    return sorted(pairs, key=lambda pair: (-pair["photos"], pair["of"]))[:PAIRS]


def _classes(test: Metrics) -> list[Facts]:
    """Each class with its figures, and the 95 % interval of its recall."""
    return [
        {
            **asdict(each),
            "right": test.confusion[label][label],
            "recall_interval": list(wilson(test.confusion[label][label], each.n)) if each.n else None,
        }
        for label, each in enumerate(test.classes)
    ]


# ---- what it was made of, and how


def _data(dataset: Dataset) -> Facts:
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for item in dataset.items:
        counts[item.label][item.split] += 1
    families, copies = Counter(item.group for item in dataset.items if item.group), Counter(i.id for i in dataset.items)
    reasons: dict[str, list[str]] = defaultdict(list)
    for skipped in dataset.skipped:
        reasons[skipped.reason].append(skipped.path)
    return {
        "root": str(dataset.root),
        "photos": {split: sum(each[split] for each in counts.values()) for split in SPLITS},
        "classes": [
            {"name": name, **{split: counts[label][split] for split in SPLITS}, "all": counts[label].total()}
            for label, name in enumerate(dataset.classes)
        ],
        "user_splits": dataset.user_splits,
        "families": {
            "families": sum(members > 1 for members in families.values()),
            "photos": sum(members for members in families.values() if members > 1),
        },
        "copies": {
            "photos": sum(members for members in copies.values() if members > 1),
            "contents": sum(members > 1 for members in copies.values()),
        },
        "skipped": [
            {"reason": reason, "files": len(paths), "examples": paths[:EXAMPLES]}
            for reason, paths in sorted(reasons.items(), key=lambda pair: (-len(pair[1]), pair[0]))
        ],
        "notes": list(dataset.notes),
    }


def _training(recipe: Recipe | None, events: Sequence[Event]) -> Facts:
    planned = {str(stage): stage for stage in recipe.stages} if recipe else {}
    stages: dict[str, Facts] = {}
    for event in events:
        match event:
            case StageStarted():
                stage = planned.get(event.stage)
                stages[event.stage] = {
                    "name": event.stage,
                    "epochs": event.epochs,
                    "rates": event.rates,
                    "batch_size": stage.batch_size if stage else None,
                    "lora": stage.lora if stage else 0,
                    "augment": stage.augment if stage else None,
                    "history": [],
                    "best": None,
                    "reason": "",
                }
            case EpochEnded() if event.stage in stages:
                row = {name: value for name, value in asdict(event).items() if name not in ("stage", "epochs")}
                history: list[Facts] = stages[event.stage]["history"]
                history[:] = [epoch for epoch in history if epoch["epoch"] < event.epoch] + [row]
            case StageEnded() if event.stage in stages:
                stages[event.stage] |= {"best": event.best, "reason": event.reason}
            case _:
                pass
    return {"head": "exact" if recipe is None or recipe.probe else "by steps", "stages": list(stages.values())}


# ---- what others find out


def _told(analysis: Callable[[], Any], what: str, remarks: list[str]) -> Facts | None:
    """An analysis as plain facts; one that fails must not take the report with it, and is named in it."""
    try:
        found = analysis()
    except HeadstartError as problem:
        remarks.append(f"{what}: {problem.what}")
        return None
    return None if found is None else asdict(found)


def _plain(value: Any) -> Any:
    """Dictionaries, lists, texts and finite numbers: what JSON has."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _json(path: Path) -> Facts:
    if not path.is_file():
        return {}
    with sound(path.parent, path.name):
        return dict(json.loads(path.read_text(encoding="utf-8")))
