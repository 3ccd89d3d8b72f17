"""Measure by how much copies that stand on both sides flatter a test, and whether safe splits prevent it.

    python benchmarks/quality/leaks.py [--data clothing-small] [--share 0.3] [--seeds 5]

Three tenths of the photos are put away: what a model gets right of them is the truth. Of the others a share is copied,
each copy edited in one of the ways of near_duplicates.py. The whole is then split once by content alone (naive) and
once by families (safe), a linear head is fitted to each training side, and its test accuracy is compared with the
truth.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from near_duplicates import EDITS, REPOSITORY
from PIL import Image

from headstart.backbones.loading import load_backbone
from headstart.data.dataset import Dataset
from headstart.data.loading import load_dataset, load_labelled
from headstart.data.splits import assign
from headstart.features import Features, extract
from headstart.heads import LinearHead
from headstart.modalities.image import ImageModality
from headstart.probe import Probe, probe
from headstart.store import Store

RESULT = REPOSITORY / "benchmarks" / "results" / "leaks.json"
KINDS = [name for name in EDITS if not name.startswith(("burst", "90 %", "70 %"))]


def drained(work: Generator[Any, None, Any]) -> Any:
    """What the work gives in the end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def lay_out(source: Path, root: Path, share: float, seed: int) -> None:
    """Folders `away` and `user`: three tenths of the photos, and the others with edited copies of some."""
    rng = random.Random(seed)
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        photos = sorted(folder.glob("*.jpg"))
        rng.shuffle(photos)
        away = len(photos) * 3 // 10
        for place, photo in enumerate(photos):
            target = root / ("away" if place < away else "user") / folder.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, target / photo.name)
            if place >= away and rng.random() < share:
                copy = EDITS[rng.choice(KINDS)](Image.open(photo).convert("RGB"), rng)
                (target / f"copy of {photo.name}").write_bytes(copy)


def accuracy(head: LinearHead, features: Features, data: Dataset) -> float:
    """The share of these photos that the head names rightly."""
    rows = features.take([item.id for item in data.items])
    return float(np.mean((rows @ head.weights + head.bias).argmax(1) == data.labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--data", default="clothing-small")
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()

    backbone = load_backbone("bundled")
    network = backbone.build()
    told: dict[str, list[tuple[float, float]]] = {"naive": [], "safe": []}
    apart = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            lay_out(arguments.shared / arguments.data, Path(folder), arguments.share, seed)
            safe = load_dataset(Path(folder) / "user", seed=seed)
            away = load_labelled(Path(folder) / "away", classes=safe.classes)
            sides = assign([item.id for item in safe.items], safe.labels.tolist(), seed=seed)
            both = zip(safe.items, sides, strict=True)
            naive = safe.with_items(type(item)(item.id, item.path, item.label, side) for item, side in both)
            shop = (backbone, network, network.cuts[-1])
            how = {"modality": ImageModality(), "store": Store.default()}
            features = drained(extract(safe, *shop, **how))
            truth = drained(extract(away, *shop, **how))
        for name, data in (("naive", naive), ("safe", safe)):
            train = data.only("train", "validation")
            rows = features.take([item.id for item in train.items])
            solved: Probe = drained(probe(rows, train.labels, train.families, len(train.classes), seed=seed))
            told[name].append((accuracy(solved.head, features, data.test), accuracy(solved.head, truth, away)))
        where = {item.path: item.split for item in naive.items}
        copied = [path for path in where if "/copy of " in path]
        apart.append(np.mean([where[path] != where[path.replace("copy of ", "")] for path in copied]))
        print(seed, {name: values[-1] for name, values in told.items()}, flush=True)
    rows_ = [
        {
            "splits": name,
            "test accuracy": float(np.mean([measured for measured, _ in values])),
            "accuracy on photos put away": float(np.mean([real for _, real in values])),
            "overstated by": float(np.mean([measured - real for measured, real in values])),
            "standard error": float(np.std([m - r for m, r in values], ddof=1) / len(values) ** 0.5),
        }
        for name, values in told.items()
    ]
    result = {
        "benchmark": "leaks",
        "description": f"{arguments.data}, of which three tenths are put away, and an edited copy is added of "
        f"{arguments.share:.0%} of the rest; a linear head on the bundled network; means over {arguments.seeds} seeds. "
        f"By content alone, {np.mean(apart):.0%} of the copies stand on another side than their originals.",
        "rows": rows_,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
