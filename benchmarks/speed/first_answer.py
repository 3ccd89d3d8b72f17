"""Measure how long the first answer of a bundle takes, process start included: python benchmarks/speed/first_answer.py.

    python benchmarks/speed/first_answer.py [--bundle FOLDER] [--photo FILE] [--rounds 9]

Without a bundle, a run is trained on a few drawn photos and exported, which takes a minute. Whole processes take turns:
the prediction by the bundle, by the run, and an interpreter that imports what a bundle needs and does nothing. Half a
minute on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import headstart

RESULT = Path(__file__).parents[1] / "results" / "first_answer.json"
GOAL = 1.0  # seconds
IMPORTS = "import numpy, PIL.Image; from headstart.runtimes.openvino_conversion import library; library()"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        photo = asked.photo or drawn(folder / "photos")
        run = asked.run or (None if asked.bundle else headstart.train(folder / "photos", out=folder / "run").path)
        bundle = asked.bundle or headstart.export(run, to="openvino", out=folder / "bundle").path
        ways = {"bundle": ["-m", "headstart", "predict", str(bundle), str(photo)], "imports alone": ["-c", IMPORTS]}
        if run is not None:
            ways["run"] = ["-m", "headstart", "predict", str(run), str(photo)]
        took: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(asked.rounds):
            for way, arguments in ways.items():
                took[way].append(timed(arguments))
    rows = [row(way, times) for way, times in took.items()]
    result = {
        "benchmark": "The first answer, process start included",
        "description": "`headstart predict` of one photo by an OpenVINO bundle of EfficientNet-Lite0, by its run, "
        "and a process that only imports OpenVINO, NumPy and Pillow; processes in turn.",
        "limit": f"by a bundle, less than {GOAL:g} s",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(rows, indent=2))


def drawn(folder: Path) -> Path:
    """A photo of 500 x 375 pixels out of two classes of drawn ones."""
    rng = np.random.default_rng(0)
    for name, colour in {"grass": (60, 140, 60), "water": (50, 90, 170)}.items():
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.array(colour) + rng.normal(0, 30, (375, 500, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.jpg")
    return folder / "water" / "0.jpg"


def timed(arguments: list[str]) -> tuple[float, float]:
    """Seconds on the clock, and of all cores."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


def row(way: str, times: list[tuple[float, float]]) -> dict[str, str | float]:
    """One line of the table."""
    seconds, busy = zip(*times, strict=True)
    return {
        "by": way,
        "seconds, median": round(statistics.median(seconds), 2),
        "lowest": round(min(seconds), 2),
        "processor seconds, lowest": round(min(busy), 2),
        "rounds": len(times),
    }


if __name__ == "__main__":
    main()
