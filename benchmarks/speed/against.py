"""Measure headstart against what people use, whole processes in turn: the same photos, split and weights.

    python benchmarks/speed/against.py [--only pytorch|fastai|sklearn|keras] [--photos 600] [--rounds 3]

Opponents run in environments of their own (`environments.py`), which are made at the first time. A subset of FOLDER
(flowers5) is laid out, four fifths of it to train on and the rest to test on, with a CSV file that says which, and all
read that. A process's time goes from the start of its interpreter to the test; the photos that are left of the set test
all of them once more, after that time. Slow ways, and `--quality balanced` beside scikit-learn, are measured in the
first round alone. Everything takes about thirteen minutes on two quiet cores, one part about five; what a part measures
takes the place of its rows in the results. `keras` is the VGG16 tutorial (`vgg16_tutorial.py`), which takes ten minutes
itself, and is left out unless it is asked for.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import vgg16_tutorial
from environments import OPPONENTS, REPOSITORY, python_of

from headstart.backbones.loading import load_backbone
from headstart.evaluation.metrics import wilson
from headstart.machine import cores
from headstart.modalities.loading import load_modality

RESULT = REPOSITORY / "benchmarks" / "results" / "opponents.json"
SHARED = REPOSITORY.parent / "shared"
TRAINED_ON = 0.8
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Opponent:
    """A way that others go. `goal`: how many times as long as headstart's first run it is to take."""

    part: str
    environment: str
    script: str
    arguments: tuple[str, ...] = ()
    goal: float | None = None
    slow: bool = False


COLD, WARM, BALANCED = (
    "headstart --quality fast, empty cache",
    "headstart --quality fast, warm cache",
    "headstart --quality balanced, empty cache",
)
RUNS = {COLD: ("fast", "cache"), WARM: ("fast", "cache"), BALANCED: ("balanced", "cache of its own")}
OPPONENT_OF = {
    "PyTorch's tutorial, frozen, 5 epochs": Opponent("pytorch", "pytorch", "pytorch_tutorial", ("frozen",), 5),
    "PyTorch's tutorial, all trained, 5 epochs": Opponent(
        "pytorch", "pytorch", "pytorch_tutorial", ("full",), slow=True
    ),
    "fastai, frozen, fit_one_cycle(5)": Opponent("fastai", "fastai", "fastai_learner", ("fit_one_cycle",), 5),
    "fastai, fine_tune(5)": Opponent("fastai", "fastai", "fastai_learner", ("fine_tune",), slow=True),
    "scikit-learn on PyTorch's features": Opponent("sklearn", "pytorch", "sklearn_features", (), 1),
}


@dataclass(frozen=True, slots=True)
class Photos:
    """Where the photos are: those to learn from with their splits, and more to test on afterwards."""

    folder: Path
    splits: Path
    more: Path
    count: int
    tested: int
    tested_more: int


def lay_out(source: Path, place: Path, photos: int) -> Photos:
    """The subset, the same every time: as many photos of every class."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    each = photos // len(classes)
    lines, more = [], 0
    for own in classes:
        files = sorted(own.iterdir())
        files = [files[position] for position in np.random.default_rng(0).permutation(len(files))]
        for number, file in enumerate(files):
            laid = place / ("photos" if number < each else "more") / own.name / file.name
            laid.parent.mkdir(parents=True, exist_ok=True)
            laid.symlink_to(file)
            if number < each:
                side = "train" if number < TRAINED_ON * each else "test"
                lines.append((f"{own.name}/{file.name}", own.name, side))
            else:
                more += 1
    with (place / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *lines])
    tested = sum(side == "test" for *_, side in lines)
    return Photos(place / "photos", place / "splits.csv", place / "more", len(lines), tested, more)


def of_opponent(opponent: Opponent, photos: Photos, seed: int) -> dict[str, float]:
    """What the opponent's process tells."""
    paths = map(str, (photos.folder, photos.splits, photos.more))
    script = OPPONENTS / f"{opponent.script}.py"
    began = time.time()
    command = [str(python_of(opponent.environment)), str(script), *opponent.arguments, str(seed), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    first, second = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    return {**first, "seconds": first["now"] - began, "more": second["more"]}


def of_headstart(quality: str, photos: Photos, seed: int, cache: Path, out: Path) -> dict[str, float]:
    """What a run from the command line took and reached."""
    options = ["--splits", str(photos.splits), "--quality", quality, "--seed", str(seed), "--out", str(out)]
    environment = {**os.environ, "HEADSTART_CACHE": str(cache)}
    base = [sys.executable, "-m", "headstart"]
    began = time.time()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(
            [*base, "train", str(photos.folder), *options], stdout=nowhere, stderr=nowhere, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.time() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"headstart failed: run it yourself on {photos.folder}")
    command = [*base, "evaluate", str(out), str(photos.more), "--json"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    return {
        "seconds": seconds,
        "processor": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss / 1e3,
        "test": json.loads((out / "evaluation.json").read_text())["test"]["accuracy"],
        "more": json.loads(told.stdout)["test"]["accuracy"],
    }


def measure_round(parts: set[str], photos: Photos, seed: int, *, quick: bool) -> Iterator[tuple[str, dict[str, float]]]:
    """Each process once, in turn; slow ones in the first round alone, or not at all where it is to be quick."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for out, (name, (quality, cache)) in enumerate(RUNS.items()):
            if name != BALANCED or (seed == 0 and "sklearn" in parts):  # the shortcut that accuracy is compared with
                yield name, of_headstart(quality, photos, seed, place / cache, place / str(out))
    for name, opponent in OPPONENT_OF.items():
        if opponent.part in parts and not (opponent.slow and (seed or quick)):
            yield name, of_opponent(opponent, photos, seed)


def rows(measured: list[dict[str, dict[str, float]]], photos: Photos) -> list[dict[str, Any]]:
    """A row for each process that was measured."""
    table = []
    for name in (*RUNS, *OPPONENT_OF):
        found = [row for row in measured if name in row]
        if not found:
            continue
        ratios = {
            own: [row[name]["seconds"] / row[own]["seconds"] for row in found if own in row] for own in (COLD, WARM)
        }
        theirs = name not in RUNS
        row: dict[str, Any] = {
            "process": name,
            "rounds": len(found),
            "seconds": statistics.median(row[name]["seconds"] for row in found),
            "headstart's first run is faster by": statistics.median(ratios[COLD]) if theirs else None,
            "lowest": min(ratios[COLD]) if theirs else None,
            "goal": OPPONENT_OF[name].goal if theirs else None,
            "its second run by": statistics.median(ratios[WARM]) if theirs else None,
        }
        for told, key, n in (("test", "test", photos.tested), ("more", "more", photos.tested_more)):
            if n:
                accuracy = statistics.mean(row[name][key] for row in found)
                row[f"{told}: accuracy on {n}"] = accuracy
                row[f"{told}: 95 %"] = wilson(round(accuracy * n), n)
        row["photos/s"] = photos.count / row["seconds"]
        row["processor s"] = statistics.median(row[name]["processor"] for row in found)
        row["peak memory, MB"] = max(row[name]["memory"] for row in found)
        table.append(row)
    return table


def limit(photos: Photos) -> str:
    """What one pass over the photos costs at least: its FLOPs at this machine's best, and decoding alone."""
    told = subprocess.run([python_of("pytorch"), OPPONENTS / "limits.py"], check=True, capture_output=True, text=True)
    found = json.loads(told.stdout.splitlines()[-1])
    spec = load_backbone("bundled/efficientnet_lite0").spec
    decode = load_modality("image").decode
    files = [file for file in photos.folder.rglob("*") if file.is_file()]
    began = time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(lambda file: decode(file.read_bytes(), spec, reduced=True), files):
            pass
    decoding = time.perf_counter() - began
    total = found["flops"] * photos.count
    passes = {name: total / found[name] for name in ("fp32", "bf16")}
    peaks = {name: found[name] / 1e9 for name in ("fp32", "bf16")}
    return (
        f"one pass over {photos.count} photos is {total / 1e9:.0f} GFLOP: {passes['fp32']:.1f} s in fp32 and "
        f"{passes['bf16']:.1f} s in bf16 at the rate of this machine's large matrix products ({peaks['fp32']:.0f} and "
        f"{peaks['bf16']:.0f} GFLOP/s); decoding alone takes {decoding:.1f} s"
    )


def store(measured: list[dict[str, dict[str, float]]], photos: Photos, told: str, source: str) -> None:
    """Write what is measured so far, beside the rows of parts that are not measured this time."""
    trained = photos.count - photos.tested
    description = (
        f"EfficientNet-Lite0 with the same weights; {trained} photos of {source} to train on, "
        f"{photos.tested} to test on and {photos.tested_more} more that are tested outside the time, the same for all. "
        "Whole processes in turn, from the start of the interpreter to the test, medians of the rounds; accuracies are "
        "means over seeds with the interval of one test. PyTorch's tutorial takes its best epoch by the test photos "
        "themselves; the others do not. A ratio is of the same round. Peak memory is that of the largest process."
    )
    new = rows(measured, photos)
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    same = before.get("description") == description  # other photos give rows that cannot stand beside these
    order, now = [*RUNS, *OPPONENT_OF], {row["process"] for row in new}
    kept = [row for row in before["rows"] if row["process"] in set(order) - now] if same else []
    result = {
        "benchmark": "Opponents",
        "description": description,
        "limit": told,
        "rows": sorted([*kept, *new], key=lambda row: order.index(row["process"])),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=SHARED / "data" / "flowers5")
    parts = sorted({opponent.part for opponent in OPPONENT_OF.values()})
    parser.add_argument("--only", choices=[*parts, "keras"], help="measure against this one alone")
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="without those that train all layers")
    options = parser.parse_args()
    if options.only == "keras":
        vgg16_tutorial.main([])
        return
    wanted = {options.only} if options.only else set(parts)
    for opponent in OPPONENT_OF.values():
        if opponent.part in wanted:
            python_of(opponent.environment)
    measured: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as place:
        photos = lay_out(options.folder.resolve(), Path(place), options.photos)
        told = limit(photos)
        print(told, flush=True)
        for seed in range(options.rounds):
            measured.append({})
            for name, found in measure_round(wanted, photos, seed, quick=options.quick):
                print(seed, name, found, flush=True)
                measured[-1][name] = found
            store(measured, photos, told, options.folder.name)


if __name__ == "__main__":
    main()
