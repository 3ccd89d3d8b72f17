"""Measure how many wrong labels are found, and how many right ones are doubted for nothing.

    python benchmarks/quality/label_errors.py [--seeds 3]

Of the labels of real photos a share is replaced by another class, drawn at random. What `headstart report` would doubt
is compared with what was replaced, and with the plain way: to doubt each photo that is held for another class.
The photos have wrong labels of their own, which count as doubted for nothing here: precision is a lower bound.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from embedded import embedded

from headstart.outcome import outcome
from headstart.probe import probe
from headstart.report.label_errors import calibrated, doubted

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "label_errors.json"
DATA = REPOSITORY.parent / "shared" / "data"
RATES = (0.0, 0.03, 0.08)
TOP = 20


def flipped(labels: np.ndarray, classes: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """The labels with this share replaced by another class."""
    wrong = rng.choice(len(labels), round(rate * len(labels)), replace=False)
    given = labels.copy()
    given[wrong] = (given[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return given


def trial(features: np.ndarray, paths: list[str], labels: np.ndarray, rate: float, seed: int) -> dict[str, float]:
    """What is doubted of one drawing."""
    classes = int(labels.max()) + 1
    given = flipped(labels, classes, rate, np.random.default_rng(seed))
    found = outcome(probe(features, given, paths, classes, seed=seed))
    answers = calibrated(given, found.out_of_fold)
    rows, expected = doubted(given, answers)
    wrong = given != labels
    other = answers.argmax(axis=1) != given
    figures = {"wrong labels": float(wrong.sum()), "expected": float(expected), "doubted": float(len(rows))}
    if rate:
        figures |= {
            "precision": float(wrong[rows].mean()),
            "recall": float(wrong[rows].sum() / wrong.sum()),
            f"precision of the first {TOP}": float(wrong[rows[:TOP]].mean()),
            "precision of every disagreement": float(wrong[other].mean()),
            "recall of every disagreement": float(wrong[other].sum() / wrong.sum()),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[DATA / "flowers5", DATA / "trashnet"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for folder in options.folders:
        photos = embedded(folder)
        features, labels, paths = photos.features, photos.labels, photos.paths
        for rate in RATES:
            trials = [trial(features, paths, labels, rate, seed) for seed in range(options.seeds)]
            means = {name: float(np.mean([each[name] for each in trials])) for name in trials[0]}
            print(folder.name, rate, means, flush=True)
            rows.append({"photos": folder.name, "replaced": f"{100 * rate:g} %", **means})
    result = {
        "benchmark": "Wrong labels",
        "description": f"Labels replaced at random; frozen default backbone, exact head. Means over {options.seeds} "
        "seeds. The photos' own wrong labels count as doubted for nothing, so precision is a lower bound.",
        "limit": "photos that are hard or show two classes: a head cannot tell them from wrong labels",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
