"""Measure what cropping, padding and squashing photos to the backbone's square do to the accuracy of a frozen probe.

    python benchmarks/quality/fit.py FOLDER [FOLDER …] [--backbone bundled]

Every photo of a folder is judged by a head that was not fitted on it: the same figures that `--fit best` chooses by,
here on all photos instead of the training ones. Features are kept in the cache, so a second run is quick.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

import headstart as hs
from headstart.framing import FITS, choose, fitted, right_out_of_fold
from headstart.machine import cores
from headstart.modalities.loading import load_modality
from headstart.store import Store
from headstart.training.sources import Workshop

RESULT = Path(__file__).parents[1] / "results" / "fit.json"


def row(folder: Path, name: str) -> dict[str, Any]:
    """The three accuracies on one set of photos, and what `--fit best` would take."""
    data, backbone = hs.load_dataset(folder), hs.load_backbone(name)
    network = backbone.build()
    rights = {}
    for fit in FITS:
        shop = Workshop(
            backbone=fitted(backbone, fit),
            network=network,
            modality=load_modality("image"),
            store=Store.default(),
            workers=cores(),
            seed=0,
        )
        features = result(shop.features(data, network.cuts[-1]))
        if not rights:
            data = data.with_items(item for item in data.items if item.id in set(features.ids))
        rights[fit] = right_out_of_fold(features, data, None, 0)
        print(folder.name, fit, rights[fit].mean(), flush=True)
    chosen, _ = choose(rights, backbone.spec.fit)
    best = max(rights, key=lambda fit: rights[fit].mean())
    gains = rights[best].astype(float) - rights[backbone.spec.fit]
    return {
        "set": folder.name,
        "photos": len(data),
        **{fit: float(right.mean()) for fit, right in rights.items()},
        "best - its own": float(gains.mean()),
        "standard error": float(gains.std() / len(gains) ** 0.5),
        "--fit best takes": chosen,
    }


def result(work: Generator[Any, None, Any]) -> Any:
    """What the work returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--backbone", default="bundled")
    arguments = parser.parse_args()
    rows = [row(folder, arguments.backbone) for folder in arguments.folders]
    taken = [each[str(each["--fit best takes"])] for each in rows]
    mean: dict[str, Any] = {"set": "mean", "photos": sum(each["photos"] for each in rows)}
    mean |= {fit: float(np.mean([each[fit] for each in rows])) for fit in FITS}
    mean |= {"--fit best takes": f"{np.mean(taken):.4f}"}
    table = {
        "benchmark": "Fit to the frame",
        "description": "Accuracy of the exact linear head on the frozen default backbone, out of fold over all "
        "photos of a set, with the photos cropped, padded or squashed to its square. The backbone's own fit is crop; "
        "`--fit best` takes another where that is better by more than the standard error.",
        "limit": "",
        "rows": [*rows, mean],
    }
    RESULT.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
