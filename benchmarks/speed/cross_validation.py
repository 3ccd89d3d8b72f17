"""Measure what five-fold cross-validation of `TransferClassifier` costs, as a share of a single fit.

    python benchmarks/speed/cross_validation.py [FOLDER ...] [--rounds 3] [--photos 600]

Each round runs whole processes in turn, each with an empty cache of its own: one that fits once on all photos, and one
that calls scikit-learn's `cross_val_score` with five folds. In both the head's penalty is chosen within each fit. Times
are told by the clock on the wall, from before Python starts until after it ends, and by the processors: where other
programs run at the same time, only the latter can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "cross_validation.json"
DATA = REPOSITORY.parent / "shared" / "data"
GOAL = 1.3

LOAD = """
import sys
from pathlib import Path
from sklearn.model_selection import cross_val_score  # by both, since loading scikit-learn is no part of folds
import headstart as hs
folder, most = Path(sys.argv[1]), int(sys.argv[2])
photos = sorted(folder.glob("*/*.jpg"))
photos = photos[:: max(1, round(len(photos) / most))]
X, y = [str(photo) for photo in photos], [photo.parent.name for photo in photos]
"""
ONE_FIT = LOAD + "model = hs.TransferClassifier().fit(X, y)\nprint(len(X), model.C_)"
FIVE_FOLDS = LOAD + "print(len(X), cross_val_score(hs.TransferClassifier(), X, y, cv=5).mean())"


def seconds(code: str, folder: Path, most: int) -> tuple[float, float, list[str]]:
    """How long a process takes with a cache that is empty, by the wall and by the processors, and what it printed."""
    with tempfile.TemporaryDirectory() as cache:
        own = {**os.environ, "HEADSTART_CACHE": cache}
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder), str(most)], check=True, capture_output=True, text=True, env=own
        )
        took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return took, busy, done.stdout.split()


def measure(folder: Path, rounds: int, most: int) -> dict[str, object]:
    """One row of the table."""
    fits: list[tuple[float, float]] = []
    folds: list[tuple[float, float]] = []
    for number in range(rounds):
        order = [(ONE_FIT, fits), (FIVE_FOLDS, folds)]
        for code, times in order if number % 2 == 0 else order[::-1]:
            took, busy, printed = seconds(code, folder, most)
            times.append((took, busy))
        print(folder.name, fits[-1], folds[-1], flush=True)
    return row(f"{folder.name}, {printed[0]}", fits, folds)


def row(photos: str, fits: list[tuple[float, float]], folds: list[tuple[float, float]]) -> dict[str, object]:
    """One row of the table, from seconds by the wall and by the processors."""
    wall, busy = ([five[k] / one[k] for one, five in zip(fits, folds, strict=True)] for k in (0, 1))
    return {
        "photos": photos,
        "one fit, processor s": statistics.median(used for _, used in fits),
        "five folds, processor s": statistics.median(used for _, used in folds),
        "five folds / one fit": statistics.median(busy),
        "highest": max(busy),
        "goal": GOAL,
        "one fit, s": statistics.median(took for took, _ in fits),
        "five folds, s": statistics.median(took for took, _ in folds),
        "ratio, by the wall": statistics.median(wall),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[DATA / "hymenoptera", DATA / "flowers5"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=750, help="about so many of each folder, evenly taken")
    options = parser.parse_args()
    rows = [measure(folder, options.rounds, options.photos) for folder in options.folders]
    result = {
        "benchmark": "Five folds in scikit-learn",
        "description": "`cross_val_score` of `TransferClassifier(quality='fast')` with five folds against one fit, "
        "whole processes in turn with empty caches; the penalty is chosen in each fit. "
        f"Medians of {options.rounds} rounds. Ratios are of processor time: other programs ran beside these.",
        "limit": "one pass over the photos through the network; what five folds add is five small heads for one",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
