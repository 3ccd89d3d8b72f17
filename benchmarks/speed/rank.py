"""Measure `headstart rank` against training with every backbone: how much of the time, and whether it finds the best.

    python benchmarks/speed/rank.py KERAS_WEIGHTS [FOLDER ...] [--most 1500]

KERAS_WEIGHTS is a folder with VGG16's and MobileNetV2 0.35's files of weights without a top. For each FOLDER (flowers5
and trashnet; a fixed subset of at most so many photos): `headstart rank` over five backbones of both frameworks, then
`headstart train --quality fast` with each. All are whole processes, each with an empty cache; fast is the harder
comparison, since tuning takes longer. The truth is the out-of-fold accuracy of each backbone on all training photos,
paired, from the features that the trainings have left; and the test accuracy of the trained models.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "rank.json"
PHOTOS = REPOSITORY.parent / "shared" / "data"
BACKBONES = {
    "bundled/efficientnet_lite0": "",
    "bundled/efficientnet_lite1": "",
    "bundled/efficientnet_lite2": "",
    "keras/mobilenetv2_0.35": "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5",
    "keras/vgg16": "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
}
GOAL = 0.4


def subset(folder: Path, place: Path, most: int) -> Path:
    """The same photos every time, of each class its share."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = np.random.default_rng(0).permutation(len(files))[:most]
    for file in (files[position] for position in chosen):
        (place / file.parent.name).mkdir(parents=True, exist_ok=True)
        (place / file.parent.name / file.name).symlink_to(file)
    return place


def headstart(*arguments: str, cache: Path) -> tuple[dict[str, Any], float, float]:
    """What a whole process says, its seconds, and those of processors."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "headstart", *arguments, "--json"],
        env={**os.environ, "HEADSTART_CACHE": str(cache), "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout), seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def truth(folder: Path, weights: Path, caches: list[Path], place: Path) -> dict[str, Any]:
    """By the features that are there already: accuracies on all training photos, and differences to the best."""
    for cache in caches:
        shutil.copytree(cache, place, dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, __file__, str(weights), str(folder), "--judge"],
        env={**os.environ, "HEADSTART_CACHE": str(place), "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def judge(folder: Path, weights: Path) -> dict[str, Any]:
    """The same in this process."""
    from headstart.config import Settings
    from headstart.data.loading import load_dataset
    from headstart.outcome import outcome
    from headstart.ranking import candidates
    from headstart.ranking.entrant import Entrant, Stable
    from headstart.ranking.entrant import judge as judged
    from headstart.ranking.pairs import difference

    settings = Settings(data=str(folder))
    named = candidates.named(list(BACKBONES), {n: str(weights / file) for n, file in BACKBONES.items() if file})
    photos, stable = load_dataset(folder).train, Stable(settings)
    found = {}
    for ready in outcome(candidates.ready(named, settings)):
        entrant = Entrant(ready)
        found[entrant.name] = outcome(judged(entrant, photos, stable.shop(entrant), photos))
    best = max(found, key=lambda name: found[name].accuracy)
    gaps = {name: difference(each.right, found[best].right, photos.families) for name, each in found.items()}
    return {
        "best": best,
        "accuracy": {name: each.accuracy for name, each in found.items()},
        "difference": {name: gap.value for name, gap in gaps.items()},
        "interval": {name: gap.interval for name, gap in gaps.items()},
    }


def measure(folder: Path, weights: Path, most: int, place: Path) -> list[dict[str, Any]]:
    """A row for the ranking, and one for each training."""
    photos = subset(folder, place / folder.name, most)
    files = {name: ["--weights", str(weights / file)] if file else [] for name, file in BACKBONES.items()}
    named = [word for name, file in BACKBONES.items() if file for word in ("--weights", f"{name}={weights / file}")]
    ranking, seconds, processor = headstart(
        "rank", str(photos), "--backbones", ",".join(BACKBONES), *named, cache=place / "rank"
    )
    rows: list[dict[str, Any]] = []
    caches = []
    for name, file in files.items():
        caches.append(place / name)
        out = ["--out", str(place / f"run-{name.replace('/', '-')}")]
        run, took, worked = headstart(
            "train", str(photos), "--backbone", name, *file, "--quality", "fast", *out, cache=caches[-1]
        )
        rows.append({"set": folder.name, "what": f"train {name}", "s": took, "CPU s": worked, "test": run["accuracy"]})
        print(rows[-1], file=sys.stderr, flush=True)
    true = truth(photos, weights, caches, place / "all")
    for row in rows:
        row["out of fold"] = true["accuracy"][row["what"].removeprefix("train ")]
    best, tests = ranking["best"], {row["what"]: row["test"] for row in rows}
    trained, worked = sum(row["s"] for row in rows), sum(row["CPU s"] for row in rows)
    tuned = trained + 60 * sum(each["tune_minutes"] for each in ranking["ranked"])
    computed = sum(each["computed"] for each in ranking["ranked"])
    whole = {
        "set": folder.name,
        "what": f"rank: {best}",
        "s": seconds,
        "CPU s": processor,
        "of training all": seconds / trained,
        "of its CPU s": processor / worked,
        "of tuning all (predicted)": seconds / tuned,
        "features computed": computed / (len(BACKBONES) * ranking["photos"]),
        "out of fold": true["accuracy"][best],
        "test": tests[f"train {best}"],
        "truly best": true["best"],
        "behind it": true["difference"][best],
        "behind it, 95 %": true["interval"][best],
        "within noise": best == true["best"] or true["interval"][best][1] >= 0,
        "goal reached": seconds <= GOAL * trained and (best == true["best"] or true["interval"][best][1] >= 0),
    }
    print(whole, [(each["backbone"], each["photos"]) for each in ranking["ranked"]], file=sys.stderr, flush=True)
    return [whole, *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folders", nargs="*", type=Path, default=[PHOTOS / "flowers5", PHOTOS / "trashnet"])
    parser.add_argument("--most", type=int, default=1500)
    parser.add_argument("--judge", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.judge:
        print(json.dumps(judge(options.folders[0], options.weights)))
        return
    rows: list[dict[str, Any]] = []
    for folder in options.folders:
        with tempfile.TemporaryDirectory() as place:
            rows += measure(folder.resolve(), options.weights.resolve(), options.most, Path(place))
    result = {
        "benchmark": "Ranking backbones",
        "description": (
            "`headstart rank` over five backbones, against `headstart train --quality fast` with each; whole "
            f"processes, empty caches, at most {options.most} photos of each set. Out of fold: of the exact head on "
            "all training photos; the truly best is best by it. Tuning all: training all, and the minutes that rank "
            "predicts for tuning each. Features computed: of those that all backbones would need for all photos."
        ),
        "limit": f"at most {GOAL:.0%} of the time of training all, and the best or one within noise of it",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
