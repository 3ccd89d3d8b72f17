"""Measure what class weights bring on photos of which some classes are rare.

    python benchmarks/quality/imbalance.py [--seeds 5]

The photos of each class are thinned out along a long tail: the first class keeps all, the last one in `--ratio`. The
test photos, a fifth of each class, are taken out before and keep all classes equally frequent. Heads are solved exactly
on frozen features, once counting photos and once counting classes alike (`class_weight="balanced"`).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np

import headstart as hs
from headstart.evaluation.metrics import measure

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "imbalance.json"
DATA = REPOSITORY.parent / "shared" / "data"
FIGURES = ("accuracy", "balanced accuracy", "recall of the worst class", "log loss")


def parts(folder: Path, ratio: float, seed: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Training photos along a long tail, and test photos of which every class has as many."""
    shuffle = random.Random(seed)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    shuffle.shuffle(classes)
    photos = {path.name: shuffle.sample(files := sorted(path.glob("*.jpg")), len(files)) for path in classes}
    each = min(map(len, photos.values())) // 5
    train, test = [], []
    for place, (name, files) in enumerate(photos.items()):
        kept = round((min(map(len, photos.values())) - each) * ratio ** (-place / (len(photos) - 1)))
        test += [(str(file), name) for file in files[:each]]
        train += [(str(file), name) for file in files[each : each + kept]]
    return train, test


def figures(model: hs.TransferClassifier, test: list[tuple[str, str]], seed: int) -> list[float]:
    X, y = zip(*test, strict=True)
    names = model.classes_.tolist()
    labels = np.array([names.index(label) for label in y])
    found = measure(labels, model.predict_proba(list(X)), names, seed=seed)
    worst = min(one.recall or 0.0 for one in found.classes)
    return [found.accuracy, found.balanced_accuracy, worst, found.log_loss]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[DATA / "trashnet", DATA / "flowers5"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ratio", type=float, default=20.0)
    options = parser.parse_args()
    rows = []
    for folder in options.folders:
        found: dict[str, list[list[float]]] = {"none": [], "balanced": []}
        for seed in range(options.seeds):
            train, test = parts(folder, options.ratio, seed)
            X, y = zip(*train, strict=True)
            for name in found:
                model = hs.TransferClassifier(class_weight=None if name == "none" else name, random_state=seed)
                found[name].append(figures(model.fit(list(X), list(y)), test, seed))
            print(folder.name, seed, len(train), found["none"][-1], found["balanced"][-1], flush=True)
        for name, each in found.items():
            means = np.mean(each, axis=0)
            rows.append({"photos": folder.name, "class weights": name, **dict(zip(FIGURES, means, strict=True))})
        gains = np.array(found["balanced"])[:, 1] - np.array(found["none"])[:, 1]
        rows[-1]["balanced accuracy gained"] = float(gains.mean())
        rows[-1]["lowest gain of a seed"] = float(gains.min())
    result = {
        "benchmark": "Rare classes",
        "description": "Frozen default backbone, exact head; the rarest class has one photo for "
        f"{options.ratio:g} of the commonest, test photos are equally frequent. Means over {options.seeds} seeds, "
        "each with another order of the classes along the tail.",
        "limit": "how far a few photos of a class speak for it: weights add none",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
