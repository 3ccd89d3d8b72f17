"""Measure what the temperature of a frozen head does for photos that neither it nor the head has seen.

    python benchmarks/quality/calibration.py [FOLDER ...] [--seeds 5]

Of each data set some photos are drawn, the exact head is fitted on them and the temperature on its answers out of fold,
as `headstart train` does; all other photos are answered before and after. Beside the calibration error stands what it
would be by chance, if each answer were right just as often as it says: what lies above that is real. It takes about a
minute of one core, and a minute more the first time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from embedded import Embedded, embedded

from headstart.evaluation.calibration import cooled, fit_temperature, reliability
from headstart.outcome import outcome
from headstart.probe import probe
from headstart.report.more_labels import part

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "calibration.json"
DATA = REPOSITORY.parent / "shared" / "data"
SETS = ("hymenoptera", "flowers5", "trashnet", "clothing-small", "caltech101-20")
SIZES = (40, 160, 640)


def trial(photos: Embedded, size: int, seed: int) -> dict[str, float]:
    """What the other photos say of a head that is fitted on about so many."""
    every = np.ones(len(photos.labels), bool)
    known = part(photos.labels, photos.paths, every, size / len(every), seed=seed)
    others = np.setdiff1d(np.flatnonzero(every), known)
    labels, names = photos.labels[known], [photos.paths[row] for row in known]
    solved = outcome(probe(photos.features[known], labels, names, int(photos.labels.max()) + 1, seed=seed))
    with np.errstate(divide="ignore"):
        temperature = fit_temperature(labels, np.log(solved.out_of_fold)[:, None])
    logits = (photos.features[others] @ solved.head.weights + solved.head.bias)[:, None]
    before, after = (reliability(photos.labels[others], cooled(logits, each)) for each in (1.0, temperature))
    return {
        "temperature": temperature,
        "error before, %": 100 * before.calibration_error,
        "after, %": 100 * after.calibration_error,
        "after, by chance, %": 100 * (after.by_chance or 0.0),
        "log loss before": before.log_loss,
        "log loss after": after.log_loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[DATA / name for name in SETS])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for folder in options.folders:
        photos = embedded(folder)
        for size in (size for size in SIZES if size < 0.8 * len(photos.labels)):
            trials = [trial(photos, size, seed) for seed in range(options.seeds)]
            helped = sum(each["log loss after"] <= each["log loss before"] for each in trials)
            means = {name: float(np.mean([each[name] for each in trials])) for name in trials[0]}
            rows.append({"photos": folder.name, "learnt from": size, **means, "helped": f"{helped} of {len(trials)}"})
            print(rows[-1], flush=True)
    result = {
        "benchmark": "Calibration",
        "description": "Calibration error (15 bins) and log loss of photos that were never seen, by an exact head on "
        "the frozen default backbone, at temperature 1 and at the one fitted out of fold. Means over "
        f"{options.seeds} draws.",
        "limit": "the error by chance; few photos to fit the temperature on",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
