"""Measure whether explanations tell what an answer hangs on: Grad-CAM beside the exact map, and what hiding costs.

    python benchmarks/quality/explanations.py [FOLDER] [--backbone NAME] [--weights FILE] [--photos 100]

A fast run is trained, and photos that it has not learnt from are explained. Where the head is linear on the mean of
the last map, Grad-CAM and the class activation map are the same up to rounding: a correlation below 1 is our mistake.
Hiding the hottest third of what a network sees should cost the answer more than hiding a random third; hiding the
coldest third should cost it least.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import headstart as hs
from headstart.answering import Answerer, answerer
from headstart.evaluation.calibration import softmax
from headstart.explaining.heat import by_gradient, heat_of
from headstart.explaining.occlusion import nothing, occlusion
from headstart.runs import Run

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "hymenoptera"
RESULT = Path(__file__).parents[1] / "results" / "explanations.json"
COMPARED = 50  # photos on which the two maps are compared
BY_HIDING = 20  # photos that occlusion explains: each takes 49 passes
SHARE = 3  # a third is hidden


def measured(run: Run, model: Answerer, count: int) -> list[dict[str, Any]]:
    """A row a method, on photos that the model has not learnt from."""
    photos = [item for item in run.dataset.items if item.split != "train"][:count]
    squares = np.stack(
        [model.modality.decode((run.dataset.root / each.path).read_bytes(), model.spec) for each in photos]
    )
    labels = np.concatenate([model.network.logits(part) for part in parts(squares)]).argmax(axis=1)
    heat, method = heat_of(model.network, model.spec, squares, labels)
    found = by_gradient(*gradients(model, squares[:COMPARED], labels[:COMPARED]))
    assert found is not None
    pairs = zip(heat[:COMPARED], found[0], strict=True)
    agreement = float(np.mean([np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs]))
    by_hiding = [
        occlusion(lambda shown: softmax(model.network.logits(shown)), square, int(label), model.spec)
        for square, label in zip(squares[:BY_HIDING], labels, strict=False)
    ]
    return [
        {"method": method, **deletion(model, squares, labels, heat)},
        {
            "method": found[1],
            **deletion(model, squares[:COMPARED], labels[:COMPARED], found[0]),
            "correlation with the exact map": agreement,
        },
        {"method": "occlusion", **deletion(model, squares[:BY_HIDING], labels[:BY_HIDING], np.stack(by_hiding))},
    ]


def gradients(model: Answerer, squares: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map and gradient of these pictures, a part at a time."""
    each = [model.network.gradients(*pair) for pair in zip(parts(squares), parts(labels), strict=True)]
    return np.concatenate([maps for maps, _ in each]), np.concatenate([slopes for _, slopes in each])


def deletion(model: Answerer, squares: np.ndarray, labels: np.ndarray, heat: np.ndarray) -> dict[str, Any]:
    """Mean probability of the answer as it is, and without the hottest, a random and the coldest third of places."""
    random = np.random.default_rng(0).random(heat.shape)
    plain = answer(model, squares, labels)
    hidden = {
        what: answer(model, without(model, squares, order), labels)
        for what, order in (("hottest", heat), ("random", random), ("coldest", -heat))
    }
    gap = hidden["random"] - hidden["hottest"]
    return {
        "photos": len(squares),
        "as it is": float(plain.mean()),
        **{f"{what} third hidden": float(each.mean()) for what, each in hidden.items()},
        "random - hottest": float(gap.mean()),
        "standard error": float(gap.std() / len(gap) ** 0.5),
    }


def without(model: Answerer, squares: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The squares with their hottest places in the colour of nothing."""
    changed = squares.copy()
    rows, columns = heat.shape[1:]
    edges = [np.linspace(0, squares.shape[1], count + 1).round().astype(int) for count in (rows, columns)]
    for square, own in zip(changed, heat, strict=True):
        for place in np.argsort(-own, axis=None)[: own.size // SHARE]:
            row, column = divmod(int(place), columns)
            square[edges[0][row] : edges[0][row + 1], edges[1][column] : edges[1][column + 1]] = nothing(model.spec)
    return changed


def answer(model: Answerer, squares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probability of each label."""
    found = np.concatenate([softmax(model.network.logits(part)) for part in parts(squares)])
    probabilities: np.ndarray = found[np.arange(len(labels)), labels]
    return probabilities


def parts(rows: np.ndarray) -> list[np.ndarray]:
    """Sixteen rows at a time."""
    return [rows[start : start + 16] for start in range(0, len(rows), 16)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--backbone", default="bundled")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        run = hs.train(
            arguments.folder,
            backbone=arguments.backbone,
            weights=arguments.weights,
            quality="fast",
            out=Path(place) / "run",
            report="off",
        )
        model = answerer(run)
        rows = [{"set": arguments.folder.name, **row} for row in measured(run, model, arguments.photos)]
    table = {
        "benchmark": "Explanations",
        "description": "Mean probability of the answer for photos that were not learnt from, as they are and with a "
        "third of the places of the network's square hidden: those that an explanation calls hottest, random ones, "
        "and the coldest. Backbone " + arguments.backbone + ", exact linear head.",
        "limit": "hiding the hottest third costs more than hiding a random one; correlation 1",
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
