"""Measure how much sooner a second run on the same photos has its features and its first accuracy.

    python benchmarks/speed/second_run.py [FOLDER] [--rounds 3]

Each round is a first run with an empty cache and a second one, whole processes, one after the other. Times count from
the finished manifest, as the run itself tells them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "second_run.json"


def times(folder: Path, place: Path, name: str) -> tuple[float, float]:
    """Seconds until the features are ready, and until the first accuracy."""
    command = [sys.executable, "-m", "headstart", "train", str(folder), "--quality", "fast", "--out", str(place / name)]
    own = {**os.environ, "HEADSTART_CACHE": str(place / "cache")}
    subprocess.run(command, check=True, capture_output=True, env=own)
    rows = [json.loads(line) for line in (place / name / "events.jsonl").read_text().splitlines()]
    features = next(row["seconds"] for row in rows if row["event"] == "phase" and row["name"] == "features")
    first = next(row["seconds"] for row in rows if row["event"] == "accuracy" and row["name"] == "first")
    return features, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY.parent / "shared" / "data" / "flowers5")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    firsts, seconds = [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as place:
            firsts.append(times(options.folder, Path(place), "first"))
            seconds.append(times(options.folder, Path(place), "second"))
            print(firsts[-1], seconds[-1], flush=True)
    rows = []
    for position, what in enumerate(("features ready", "first accuracy")):
        ratios = [first[position] / second[position] for first, second in zip(firsts, seconds, strict=True)]
        rows.append(
            {
                "until": what,
                "first run, s": statistics.median(first[position] for first in firsts),
                "second run, s": statistics.median(second[position] for second in seconds),
                "times sooner": statistics.median(ratios),
                "lowest": min(ratios),
                "goal": (50, 15)[position],
            }
        )
    result = {
        "benchmark": "A second run on the same photos",
        "description": f"`--quality fast` on {options.folder.name}, seconds from the finished manifest, "
        f"medians of {options.rounds} pairs of whole processes.",
        "limit": "the second run decodes and computes nothing: what is left is to look the features up and solve",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
