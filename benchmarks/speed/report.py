"""Measure how long the report of a run takes, and how large it is: python benchmarks/speed/report.py [RUN]

RUN is any finished run; 2,000 photos are what the goal is set for. Without one, a run is made of --data first, of
2,524 photos by default. Two minutes with two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "trashnet"
RESULT = Path(__file__).parents[1] / "results" / "report.json"
GOAL_SECONDS, GOAL_BYTES = 20.0, 5e6


def parts(run: Path) -> dict[str, float]:
    """Seconds of each part of making a report, in this process."""
    from headstart.outcome import outcome
    from headstart.report.card import card
    from headstart.report.costs import costs
    from headstart.report.facts import gather
    from headstart.report.label_errors import suspected
    from headstart.report.more_labels import more_labels
    from headstart.report.page import page
    from headstart.report.pictures import pictures
    from headstart.runs import Run

    opened = Run.open(run)
    taken: dict[str, float] = {}

    def timed(name: str, work):
        began = time.perf_counter()
        result = work()
        taken[name] = time.perf_counter() - began
        return result

    timed("suspected label errors", lambda: suspected(opened))
    timed("accuracy with more labels", lambda: more_labels(opened))
    timed("costs", lambda: costs(opened))
    facts = timed("all facts, these three among them", lambda: gather(opened))
    shown = timed("pictures and heat maps", lambda: outcome(pictures(opened, facts)))
    timed("charts and page", lambda: page(facts, shown))
    timed("card", lambda: card(facts))
    return taken


def whole(run: Path) -> tuple[float, int]:
    """Seconds of the command, as a process of its own, and bytes of the page."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "headstart", "report", str(run), "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began, Path(folder, "report.html").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=PHOTOS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or trained(options.data, Path(folder, "run"))
        result = measured(run, options.rounds)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in result["rows"]:
        print(row)


def trained(data: Path, out: Path) -> Path:
    """A run of these photos without its report."""
    command = [sys.executable, "-m", "headstart", "train", str(data), "--quality", "fast", "--report", "off"]
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    return out


def measured(run: Path, times: int) -> dict[str, object]:
    """The result, as it is stored."""
    wholes, sizes, rounds = [], [], []
    for _ in range(times):
        seconds, size = whole(run)
        wholes.append(seconds)
        sizes.append(size)
        rounds.append(parts(run))
    rows = [
        {"part": "headstart report, as a process", "seconds": statistics.median(wholes), "goal": GOAL_SECONDS},
        *({"part": name, "seconds": statistics.median(each[name] for each in rounds)} for name in rounds[0]),
        {"part": "report.html", "megabytes": max(sizes) / 1e6, "goal": GOAL_BYTES / 1e6},
    ]
    photos = sum(1 for _ in (run / "splits.csv").open(encoding="utf-8", errors="replace")) - 1
    return {
        "benchmark": "Report of a run",
        "description": f"A run of {photos:,} photos; medians of {times} rounds. Parts are of a warm process.",
        "limit": "",
        "rows": rows,
    }


if __name__ == "__main__":
    main()
