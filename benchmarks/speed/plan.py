"""Compare what `headstart train` says beforehand that it will take with what it takes.

    python benchmarks/speed/plan.py [--rounds 1] [--only NAME] [--list]

Each row is a whole process with an empty cache, and one more with what the first has left there. Real weights of Keras
come from ../shared/weights, photos from ../shared/data; what is absent is left out. Run it on a machine that does
nothing else: a plan cannot know what others will want.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared"
RESULT = REPOSITORY / "benchmarks" / "results" / "plan.json"
KERAS = SHARED / "weights" / "keras" / "models"
VGG16 = KERAS / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
MOBILENET = KERAS / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
RESNET = "import torch, torchvision, sys; torch.manual_seed(0); \
torch.save(torchvision.models.resnet50().state_dict(), sys.argv[1])"
GOAL = 0.3  # |predicted / actual - 1|


@dataclass(frozen=True)
class Case:
    """A training: of what, on how many photos of which set."""

    name: str
    photos: int
    data: str
    options: tuple[str, ...]
    weights: Path | None = None  # a file that must be there; for ResNet50 it is made


CASES = (
    Case("lite0 fast", 600, "flowers5", ("--quality", "fast")),
    Case("lite0 balanced", 600, "flowers5", ()),
    Case("lite0 fast", 600, "trashnet", ("--quality", "fast")),
    Case("lite0 balanced", 600, "trashnet", ()),
    Case("VGG16 fast", 200, "flowers5", ("--quality", "fast", "--backbone", "keras/vgg16"), VGG16),
    Case("MobileNetV2 0.35 balanced", 600, "flowers5", ("--backbone", "keras/mobilenetv2_0.35"), MOBILENET),
    Case(
        "ResNet50 (random weights) last group",
        300,
        "flowers5",
        ("--backbone", "torchvision/resnet50", "--unfreeze", "1"),
        Path("resnet50.pt"),
    ),
)


def subset(data: str, photos: int, place: Path) -> Path:
    """So many photos of a set, evenly from its classes, the same each time."""
    target = place / f"{data}-{photos}"
    folders = sorted(folder for folder in (SHARED / "data" / data).iterdir() if folder.is_dir())
    for folder in folders if not target.exists() else ():
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for file in files[:: max(1, len(files) * len(folders) // photos)][: photos // len(folders)]:
            (target / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target / folder.name)
    return target


def weights(case: Case, place: Path) -> list[str] | None:
    """The options that name the weights; None where they cannot be had."""
    if case.weights is None:
        return []
    if case.weights.is_absolute():
        return ["--weights", str(case.weights)] if case.weights.exists() else None
    made = place / case.weights
    if not made.exists() and subprocess.run([sys.executable, "-c", RESNET, made], capture_output=True).returncode:
        return None
    return ["--weights", str(made)]


def run(case: Case, place: Path, options: list[str]) -> Iterator[dict[str, object]]:
    """A cold and a warm run: what was predicted and what it took, whole and by phase."""
    folder = subset(case.data, case.photos, place)
    cache = Path(tempfile.mkdtemp(dir=place))
    for state in ("empty", "full"):
        out = cache / state
        command = [sys.executable, "-m", "headstart", "train", str(folder), "--out", str(out), *case.options, *options]
        began = time.monotonic()
        subprocess.run(
            command, check=True, capture_output=True, env={**os.environ, "HEADSTART_CACHE": str(cache / "c")}
        )
        process = time.monotonic() - began
        told = json.loads((out / "plan.json").read_text())
        predicted, actual = told["predicted"], told["actual"]
        parts = {phase["name"]: phase["seconds"] for phase in predicted["phases"] if not phase["done"]}
        yield {
            "training": case.name,
            "photos": f"{case.photos} of {case.data}",
            "cache": state,
            "process": process,
            "predicted": predicted["seconds"],
            "actual": actual["seconds"],
            "measured": predicted["measured"],
            "parts": {name: (seconds, actual["phases"].get(name, 0.0)) for name, seconds in parts.items()},
        }
    shutil.rmtree(cache)


def row(runs: list[dict[str, object]]) -> dict[str, object]:
    """One row of the table from the rounds of a case."""

    def middle(name: str) -> float:
        return statistics.median(float(str(run[name])) for run in runs)

    ratio = statistics.median(float(str(run["predicted"])) / float(str(run["actual"])) for run in runs)
    parts: dict[str, tuple[float, float]] = runs[-1]["parts"]  # type: ignore[assignment]
    shown = {name: both for name, both in parts.items() if max(both) >= 0.5}
    return {
        "training": runs[0]["training"],
        "photos": runs[0]["photos"],
        "cache": runs[0]["cache"],
        "predicted, s": middle("predicted"),
        "actual, s": middle("actual"),
        "predicted / actual": ratio,
        "within 30 %": abs(ratio - 1) <= GOAL,
        "whole process, s": middle("process"),
        "measuring, s": middle("measured"),
        "parts, predicted : actual": "; ".join(f"{name} {a:.1f} : {b:.1f}" for name, (a, b) in shown.items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", help="part of the name of a training")
    parser.add_argument("--list", action="store_true", help="only name the trainings")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.only or options.only.lower() in f"{case.name} {case.data}".lower()]
    if options.list:
        print("\n".join(f"{case.name}, {case.photos} of {case.data}" for case in cases))
        return
    found: dict[tuple[Case, str], list[dict[str, object]]] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for _ in range(options.rounds):
            for case in cases:
                given = weights(case, place)
                if given is None or not (SHARED / "data" / case.data).exists():
                    print(f"{case.name}: left out, its weights or photos are not here", file=sys.stderr)
                    continue
                for told in run(case, place, given):
                    found.setdefault((case, str(told["cache"])), []).append(told)
                    print(row([told]), flush=True)
                    store([row(runs) for runs in found.values()], options.rounds)


def store(rows: list[dict[str, object]], rounds: int) -> None:
    """Write what is measured so far, beside the rows of trainings that are not measured this time."""
    before = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    known = {tuple(told[name] for name in ("training", "photos", "cache")): told for told in [*before, *rows]}
    result = {
        "benchmark": "What a run says that it will take, and what it takes",
        "description": "`headstart train`, whole processes; predicted before the work begins. "
        f"Medians of {rounds} rounds; parts of half a second and more, of the last round.",
        "limit": "predicted / actual = 1; goal: within 30 %",
        "rows": list(known.values()),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
