"""Measure what bf16 and int8 features cost in accuracy and bring in speed: backbone x set x precision.

    python benchmarks/quality/precision.py [--only lite0] [--photos N] [--data FOLDER] [--weights FOLDER] [--out FILE]

The exact head is solved and judged out of fold on the features of each precision, and once more solved on them and
judged on fp32 features, which is what a finished model is asked with. Differences to fp32 are paired photo by photo.
Int8 is fitted to photos of the set at hand. Rates are interleaved: a round measures each precision once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import load_backbone
from headstart.data.dataset import Dataset
from headstart.data.loading import load_dataset
from headstart.features import decoded
from headstart.machine import cores
from headstart.modalities.image import ImageModality
from headstart.networks.network import Network
from headstart.outcome import outcome
from headstart.probe import assign_folds, fit, probe
from headstart.runtimes import framework
from headstart.runtimes.opening import offers, open_runner
from headstart.runtimes.runtime import CALIBRATION, Offer, Runner

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared"
RESULT = REPOSITORY / "benchmarks" / "results" / "precision.json"
SETS = ("hymenoptera", "flowers5", "trashnet", "clothing-small", "caltech101-20")
SEED, FOLDS, ROUNDS = 0, 5, 5
PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class Subject:
    """A backbone, the file of its weights, photos of each set, and the PyTorch network whose speed is compared."""

    backbone: str
    weights: str
    photos: int
    eager: str


SUBJECTS = {
    "lite0": Subject("bundled", "", 500, "bundled"),
    "mobilenetv2": Subject("keras/mobilenetv2_0.35", "mobilenet_v2_*0.35*.h5", 500, ""),
    "vgg16": Subject("keras/vgg16", "vgg16_*.h5", 200, "torchvision/vgg16"),
}


def loaded(subject: Subject, weights: Path) -> Backbone:
    """The backbone with its real weights."""
    if not subject.weights:
        return load_backbone(subject.backbone)
    return load_backbone(subject.backbone, weights=next(iter(sorted(weights.glob(subject.weights)))))


def ways(network: Network) -> dict[str, Offer]:
    """The ways that OpenVINO offers, by precision; without bf16 on a processor that has none."""
    found = {offer.precision: offer for offer in offers(network) if offer.runtime != framework.NAME}
    return {precision: found[precision] for precision in PRECISIONS if precision in found}


def photos_of(dataset: Dataset, backbone: Backbone, most: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pictures, labels and ids of so many photos, drawn by the hash that is their id."""
    labels = {item.id: item.label for item in dataset.items}
    ids = sorted(labels)[:most]
    pictures = decoded(dataset, ids, backbone, ImageModality(), most=most)
    assert len(pictures) == len(ids), "a photo cannot be read"
    return pictures, np.array([labels[id] for id in ids]), ids


def through(runner: Runner, pictures: np.ndarray) -> np.ndarray:
    """The features of all pictures, a thread a core."""
    size = runner.chunk
    pieces = [pictures[first : first + size] for first in range(0, len(pictures), size)]
    pieces[-1] = np.concatenate([pieces[-1], *[pieces[-1][-1:]] * (size - len(pieces[-1]))])
    with runner.concurrent(runner.concurrency), ThreadPoolExecutor(runner.concurrency) as pool:
        return np.concatenate(list(pool.map(runner, pieces)))[: len(pictures)]


def right(features: np.ndarray, labels: np.ndarray, ids: list[str], judged: np.ndarray) -> tuple[np.ndarray, ...]:
    """Whether each photo was answered rightly out of fold: on these features, and on others with the same heads."""
    classes = int(labels.max()) + 1
    found = outcome(probe(features, labels, ids, classes, seed=SEED, folds=FOLDS))
    fold = assign_folds(labels, ids, seed=SEED, folds=FOLDS)
    shipped = np.zeros(len(labels), bool)
    for number in range(FOLDS):
        out = fold == number
        head = fit(features[~out], labels[~out], classes, strength=found.strength)
        shipped[out] = (judged[out] @ head.weights + head.bias).argmax(1) == labels[out]
    return found.out_of_fold.argmax(1) == labels, shipped


def points(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The mean difference in percentage points, and its standard error."""
    differences = 100 * (one.astype(float) - other)
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)


def measured(subject: Subject, backbone: Backbone, network: Network, data: Path) -> Iterator[dict[str, Any]]:
    """A row for each set and precision."""
    for name in SETS:
        dataset = load_dataset(data / name)
        pictures, labels, ids = photos_of(dataset, backbone, subject.photos)
        sample = partial(lambda all: all[:CALIBRATION], pictures)
        truth, base = None, None
        for precision, offer in ways(network).items():
            runner = open_runner(network, offer, network.cuts[-1], sample=sample)
            features = through(runner, pictures)
            truth = features if truth is None else truth
            answers, shipped = right(features, labels, ids, truth)
            base = answers if base is None else base
            row = {"backbone": backbone.name, "set": name, "photos": len(ids), "precision": precision}
            yield row | figures(features, truth) | verdict(answers, shipped, base)


def figures(features: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How far features are from those in fp32, over their norm and over how much they differ between photos."""
    gap = float(np.linalg.norm(features - truth))
    return {
        "features differ by": gap / float(np.linalg.norm(truth)),
        "of their spread": gap / float(np.linalg.norm(truth - truth.mean(0))),
    }


def verdict(answers: np.ndarray, shipped: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Accuracy out of fold, and what it differs by from fp32, in points with a standard error."""
    (difference, error), (later, error_later) = points(answers, base), points(shipped, base)
    return {
        "accuracy": float(answers.mean()),
        "points against fp32": difference,
        "standard error": error,
        "judged on fp32 features": later,
        "its standard error": error_later,
    }


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each precision: the mean over sets, and the standard error of that."""
    found = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = [row for row in rows if row["precision"] == precision]
        numbers = [key for key, value in own[0].items() if isinstance(value, float)]
        line = {key: statistics.fmean(row[key] for row in own) for key in numbers}
        for key in ("standard error", "its standard error"):
            line[key] = sum(row[key] ** 2 for row in own) ** 0.5 / len(own)
        photos = sum(row["photos"] for row in own)
        found.append({**own[0], "set": "mean of the sets", "photos": photos, "precision": precision, **line})
    return found


def rates(subject: Subject, backbone: Backbone, network: Network, data: Path) -> dict[str, float]:
    """Photos a second of each precision and of PyTorch eager, medians of interleaved rounds."""
    pictures, _, _ = photos_of(load_dataset(data / SETS[0]), backbone, CALIBRATION)
    runners = {
        precision: open_runner(network, offer, network.cuts[-1], sample=lambda: pictures)
        for precision, offer in ways(network).items()
    }
    if subject.eager:
        eager = load_backbone(subject.eager, **({} if subject.eager == "bundled" else {"weights": "none"})).build()
        runners["eager"] = framework.open(eager, framework.offer_of(eager), eager.cuts[-1])
    some = pictures[: 8 * cores()]
    told: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(ROUNDS + 1):
        for name, runner in runners.items():
            began = time.perf_counter()
            through(runner, some)
            if number:  # the first round warms up
                told[name].append(len(some) / (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in told.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--photos", type=int, help="of each set, in place of each backbone's own number")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights" / "keras" / "models")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for name in arguments.only:
        subject = SUBJECTS[name]
        if arguments.photos:
            subject = Subject(subject.backbone, subject.weights, arguments.photos, subject.eager)
        backbone = loaded(subject, arguments.weights)
        network = backbone.build()
        rows = []
        for row in measured(subject, backbone, network, arguments.data):
            rows.append(row)
            print(
                {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
        rate = rates(subject, backbone, network, arguments.data)
        print({key: round(value, 1) for key, value in rate.items()}, flush=True)
        summary = means(rows)
        for row in summary:
            row["photos/s"] = rate[row["precision"]]
            row["times fp32"] = rate[row["precision"]] / rate["fp32"]
            if "eager" in rate:
                row["times PyTorch eager"] = rate[row["precision"]] / rate["eager"]
        lines += rows + summary
    result = {
        "benchmark": "precision of features",
        "description": "What features in bf16 and int8 cost: the exact head's accuracy out of fold (5 folds, one seed) "
        "on each precision's features, the paired difference to fp32 in points with its standard error, and the same "
        "for heads that are solved on these features and judged on fp32 ones. Rates are forward passes alone, on all "
        "cores, medians of interleaved rounds; PyTorch eager is fp32, channels last. Goal: int8 loses at most 0.5 "
        "points on the mean of the sets, and runs VGG16 at least 3.5 times as fast as PyTorch eager.",
        "limit": "",
        "rows": lines,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
