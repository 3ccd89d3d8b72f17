"""Measure how well a part of the labelled photos tells what all of them would give.

    python benchmarks/quality/more_labels.py [FOLDER ...] [--seeds 4]

Of the photos of a data set a half, or a quarter, is drawn and given to what `headstart report` predicts with. What it
says of heads that learn from 1.6 or 3.2 times as many photos is compared with heads that learn from four fifths of all
the photos, each asked about photos that it had not seen. The interval should hold 95 of 100 such answers. Parts of one
data set share photos, so the trials are fewer than they look. It takes about two minutes of one core, and a minute more
the first time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from embedded import embedded

from headstart.out_of_fold import OutOfFold
from headstart.outcome import outcome
from headstart.probe import Probe, probe
from headstart.report.more_labels import FOLDS, part, tried
from headstart.report.power_law import extrapolated

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "more_labels.json"
DATA = REPOSITORY.parent / "shared" / "data"
SETS = ("flowers5", "trashnet", "hymenoptera", "clothing-small", "caltech101-20")
PARTS = (0.5, 0.25)


def solved(features: np.ndarray, labels: np.ndarray, paths: list[str], seed: int) -> Probe:
    """The exact head, with its answers out of fold."""
    return outcome(probe(features, labels, paths, int(labels.max()) + 1, seed=seed))


def trial(
    features: np.ndarray, labels: np.ndarray, paths: list[str], share: float, seed: int, truth: float
) -> dict[str, float]:
    """What a part of the photos predicts for all of them, beside the truth; accuracies in per cent."""
    rows = part(labels, paths, np.ones(len(labels), bool), share, seed=1000 + seed)
    few, names = labels[rows], [paths[row] for row in rows]
    known = solved(features[rows], few, names, seed)
    answers = OutOfFold(
        ids=tuple(names), labels=few, probabilities=known.out_of_fold, features="", strength=known.strength
    )
    trials = tried(features[rows], answers, names, seed=seed)
    whole = np.array([len(labels) * (1 - 1 / FOLDS)])
    bands = extrapolated(trials.sizes, trials.right, names, whole, rng=np.random.default_rng(seed))
    low, high = bands.fitted.low[0], bands.fitted.high[0]
    return {
        "now": 100 * bands.measured.middle[-1],
        "predicted": 100 * bands.fitted.middle[0],
        "truth": 100 * truth,
        "within": float(low <= truth <= high),
        "width": 100 * (high - low),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[DATA / name for name in SETS])
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    rows = []
    for folder in options.folders:
        photos = embedded(folder)
        features, labels, paths = photos.features, photos.labels, photos.paths
        answers = solved(features, labels, paths, seed=0).out_of_fold
        truth = float((answers.argmax(axis=1) == labels).mean())
        for share in PARTS:
            trials = [trial(features, labels, paths, share, seed, truth) for seed in range(options.seeds)]
            means = {name: float(np.mean([each[name] for each in trials])) for name in trials[0]}
            misses = [abs(each["predicted"] - each["truth"]) for each in trials]
            unmoved = [abs(each["now"] - each["truth"]) for each in trials]
            rows.append(
                {
                    "photos": folder.name,
                    "of them known": f"{100 * share:g} %",
                    "accuracy of these, %": means["now"],
                    "predicted for all, %": means["predicted"],
                    "of all, %": means["truth"],
                    "mean miss, points": float(np.mean(misses)),
                    "if nothing changed, points": float(np.mean(unmoved)),
                    "width of the interval, points": means["width"],
                    "truth within it": f"{sum(each['within'] for each in trials):.0f} of {options.seeds}",
                }
            )
            print(rows[-1], flush=True)
    result = {
        "benchmark": "More labels",
        "description": "A part of the photos predicts what all of them give; frozen default backbone, exact head. "
        f"Means over {options.seeds} seeds, each with another part.",
        "limit": "chance: which photos are in the part, and which are asked",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
