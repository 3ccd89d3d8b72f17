"""Measure headstart against the VGG16 tutorial in plain Keras on TensorFlow, whole processes in turn.

    python benchmarks/speed/vgg16_tutorial.py [WEIGHTS] [FOLDER] [--seeds 1] [--own 0] [--tested N]

A fixed subset of FOLDER (flowers5): 96 photos a class to train, 24 to validate, the rest to test. Each seed is a round:
the tutorial; what its work amounts to at least; headstart with the same head, optimizer and epochs, with an empty cache
and then with a warm one; and headstart's own recipe. A process's time goes from its start to the end of training; all
are tested afterwards, on the same photos, except that headstart's own recipe has its test within its time. Processor
time is told beside it, since it hangs less on what else the machine does. Plain Keras runs in an environment of its own
(`environments.py`). A round takes about fifteen minutes on two cores, most of them the tutorial's.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from environments import REPOSITORY, python_of

from headstart.evaluation.metrics import wilson

RESULT = REPOSITORY / "benchmarks" / "results" / "vgg16_tutorial.json"
SCRIPTS = Path(__file__).parent / "tutorial"
SHARED = REPOSITORY.parent / "shared"
WEIGHTS = SHARED / "weights" / "keras" / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
PARTS = {"train": 96, "validation": 24}
SCRIPT_OF = {
    "tutorial": "keras_vgg16",
    "limit": "limit_vgg16",
    "same": "headstart_vgg16",
    "again": "headstart_vgg16",
}
NAMES = {  # with the goal, in times faster than the tutorial
    "tutorial": ("plain Keras, the tutorial", None),
    "limit": ("plain Keras, one pass and ten epochs of the head alone", None),
    "same": ("headstart, same head and epochs, empty cache", 10),
    "again": ("headstart, the same again, warm cache", 25),
    "own": ("headstart, its own recipe, test included", 1),
}


def lay_out(folder: Path, place: Path, tested: int | None) -> Path:
    """The subset as train, validation and test folders, the same every time; `tested` photos a class, or the rest."""
    for photos in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(photos.iterdir())
        files = [files[position] for position in np.random.default_rng(0).permutation(len(files))]
        bounds = np.cumsum(list(PARTS.values()))
        for split, part in zip((*PARTS, "test"), np.split(np.array(files), bounds), strict=True):
            (place / split / photos.name).mkdir(parents=True)
            for file in part[:tested] if split == "test" else part:
                (place / split / photos.name / file.name).symlink_to(file)
    return place


def run(command: list[str], cache: Path) -> dict[str, Any]:
    """What a process tells, with its seconds to the end of training, and those that processors worked for it."""
    began = time.time()
    own = {**os.environ, "HEADSTART_CACHE": str(cache), "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=own)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        lines, problem = out.read().splitlines(), err.read()
    if process.returncode:
        sys.exit(problem)
    found: dict[str, Any] = {}
    for line in lines:
        found |= json.loads(line) if line.startswith("{") else {}
    whole = {"processor": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss / 1e3}
    return {**whole, **found, "seconds": found.pop("trained", time.time()) - began}


def own_recipe(data: Path, weights: Path, seed: int, place: Path) -> dict[str, float]:
    """headstart's default recipe from the command line, with its test."""
    out = place / "run"
    options = ["--backbone", "keras/vgg16", "--weights", str(weights), "--seed", str(seed), "--out", str(out)]
    found = run([sys.executable, "-m", "headstart", "train", str(data), *options], place / "own")
    evaluation = json.loads((out / "evaluation.json").read_text())
    return {**found, "test": evaluation["test"]["accuracy"], "validation": evaluation["validation"]["accuracy"]}


def rounds(data: Path, weights: Path, seeds: int, own: int) -> Iterator[dict[str, dict[str, float]]]:
    """What was measured with each seed; headstart's own recipe with the first `own` of them."""
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary)
            asked = [str(data), str(weights), str(seed)]
            row = {}
            for name, script in SCRIPT_OF.items():
                if seed == 0 or name != "limit":  # which is told for scale alone
                    python = sys.executable if name in ("same", "again") else str(python_of("tensorflow"))
                    row[name] = run([python, str(SCRIPTS / f"{script}.py"), *asked], place / "cache")
                    print(seed, name, row[name], flush=True)
            if seed < own:
                row["own"] = own_recipe(data, weights, seed, place)
                print(seed, "own", row["own"], flush=True)
            yield row


def _interval(found: list[dict[str, float]], split: str, counts: dict[str, int]) -> tuple[float, float]:
    """That of one test at the mean accuracy: other seeds are tested on the same photos."""
    n = counts[split]
    return wilson(round(statistics.mean(row[split] for row in found) * n), n)


def rows(measured: list[dict[str, dict[str, float]]], counts: dict[str, int]) -> list[dict[str, Any]]:
    """A row for each process; `counts`: photos of each split."""
    table = []
    for name, (called, goal) in NAMES.items():
        found = [row for row in measured if name in row]
        if not found:
            continue
        pairs = [(row["tutorial"], row[name]) for row in found]
        ratios = [theirs["seconds"] / ours["seconds"] for theirs, ours in pairs]
        told = [split for split in ("validation", "test") if split in found[0][name]]
        table.append(
            {
                "process": called,
                "seeds": len(found),
                "seconds": statistics.median(row[name]["seconds"] for row in found),
                "times faster": statistics.median(ratios),
                "lowest": min(ratios),
                "goal": goal,
                "by processor time": statistics.median(
                    theirs["processor"] / ours["processor"] for theirs, ours in pairs
                ),
                **{f"{split} accuracy": statistics.mean(row[name][split] for row in found) for split in told},
                **{f"{split}, 95 %": _interval([row[name] for row in found], split, counts) for split in told},
                "photos/s": sum(counts[split] for split in PARTS)
                / statistics.median(row[name]["seconds"] for row in found),
                "peak memory, MB": max(row[name]["memory"] for row in found),
                **{f"{split}, by seed": ", ".join(f"{row[name][split]:.3f}" for row in found) for split in told},
            }
        )
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", type=Path, default=WEIGHTS, help="VGG16's official weights without top")
    parser.add_argument("folder", nargs="?", type=Path, default=SHARED / "data" / "flowers5")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--own", type=int, default=0, help="seeds to measure headstart's own recipe with")
    parser.add_argument("--tested", type=int, help="photos a class to test on afterwards; default: all the others")
    options = parser.parse_args(arguments)
    measured: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as place:
        data = lay_out(options.folder.resolve(), Path(place), options.tested)
        counts = {split: sum(1 for _ in (data / split).glob("*/*")) for split in (*PARTS, "test")}
        for row in rounds(data, options.weights.resolve(), options.seeds, options.own):
            measured.append(row)
            store(measured, options.folder.name, counts)


def store(measured: list[dict[str, dict[str, float]]], folder: str, counts: dict[str, int]) -> None:
    """Write what is measured so far."""
    passes = statistics.median(row["limit"]["pass"] for row in measured if "limit" in row)
    head = statistics.median(row["limit"]["head"] for row in measured if "limit" in row)
    result = {
        "benchmark": "The VGG16 tutorial",
        "description": f"VGG16 frozen, flatten, dense(1024), Adam, 10 epochs on TensorFlow; {folder}, 480 "
        f"photos to train and 120 to validate; whole processes in turn, medians of {len(measured)} seeds, accuracies "
        "their means. Validation accuracy is that of the model that training leaves: the last epoch's, with headstart "
        "the best's.",
        "limit": f"one forward pass of 600 photos ({passes:.1f} s) and ten epochs of the head ({head:.1f} s), in plain "
        "Keras; its row has the process and its imports too",
        "rows": rows(measured, counts),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
