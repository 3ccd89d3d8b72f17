"""Measure what each quality level brings on several sets of photos, over seeds, against a plain logistic regression.

    python benchmarks/quality/five_sets.py FOLDER [FOLDER …] [--seeds 5] [--qualities fast balanced]

Every seed is another split. On each, the levels are trained one after the other, and scikit-learn's logistic
regression (C = 0.01, standardised features, the same backbone, fitted on train and validation) is the floor. The
differences are paired over seeds. Finished measurements are kept in `--rows` and not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import headstart as hs
from headstart.modalities.loading import load_modality
from headstart.store import Store
from headstart.training.sources import Workshop

RESULT = Path(__file__).parents[1] / "results" / "five_sets.json"


def floor(folder: Path, seed: int) -> float:
    """Test accuracy of the plain logistic regression on the same splits and features."""
    data, backbone = hs.load_dataset(folder, seed=seed), hs.load_backbone("bundled")
    network = backbone.build()
    shop = Workshop(
        backbone=backbone,
        network=network,
        modality=load_modality("image"),
        store=Store.default(),
        workers=2,
        seed=seed,
    )
    work = shop.features(data, network.cuts[-1])
    while True:
        try:
            next(work)
        except StopIteration as end:
            features = end.value
            break
    fitted, judged = data.only("train", "validation"), data.test
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    model.fit(features.take([item.id for item in fitted.items]), fitted.labels)
    return float(model.score(features.take([item.id for item in judged.items]), judged.labels))


def measure(folder: Path, seed: int, quality: str) -> dict[str, Any]:
    """Test accuracy and seconds of one run, and whether tuning was kept."""
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        run = hs.train(folder, quality=quality, seed=seed, out=Path(place, "run"))  # type: ignore[arg-type]
        return {
            "accuracy": run.evaluation.accuracy,
            "log_loss": run.evaluation.test.log_loss,
            "calibration_error": run.evaluation.test.calibration_error,
            "seconds": time.monotonic() - began,
            "discarded": any("did not beat" in note for note in run.summary()["notes"]),
        }


def interval(differences: list[float]) -> list[float]:
    """95 % interval of the mean of paired differences, by Student's t."""
    mean, n = statistics.mean(differences), len(differences)
    if n < 2:
        return [float("nan"), float("nan")]
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    return [mean - half, mean + half]


def table(rows: list[dict[str, Any]], qualities: list[str]) -> list[dict[str, Any]]:
    """One line a set and one for their mean."""
    lines = []
    sets = list(dict.fromkeys(row["set"] for row in rows))
    complete = [row for row in rows if all(level in row for level in ("floor", *qualities))]
    for name in [*sets, "mean"]:
        seeds = sorted({row["seed"] for row in complete})
        groups = [[row for row in complete if row["seed"] == seed and name in (row["set"], "mean")] for seed in seeds]
        groups = [group for group in groups if len(group) == (len(sets) if name == "mean" else 1)]
        if not groups:
            continue
        means = {
            level: [statistics.mean(_accuracy(row, level) for row in group) for group in groups]
            for level in ("floor", *qualities)
        }
        line: dict[str, Any] = {"set": name, "seeds": len(groups)}
        for level, values in means.items():
            line[level] = statistics.mean(values)
        for level in qualities:
            line[f"{level} sd"] = statistics.stdev(means[level]) if len(groups) > 1 else None
        for lower, upper in zip(("floor", *qualities[:-1]), qualities, strict=True):
            differences = list(np.subtract(means[upper], means[lower]))
            line[f"{upper} - {lower}"] = statistics.mean(differences)
            line[f"{upper} - {lower}, 95 %"] = interval(differences)
        line["tuning kept"] = sum(not row["balanced"]["discarded"] for g in groups for row in g if "balanced" in row)
        lines.append(line)
    return lines


def _accuracy(row: dict[str, Any], level: str) -> float:
    return float(row[level] if level == "floor" else row[level]["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--qualities", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--rows", type=Path, default=Path("five_sets_rows.json"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.rows.read_text()) if options.rows.exists() else []
    for seed in range(options.seeds):
        for folder in options.folders:
            row = next((r for r in rows if (r["set"], r["seed"]) == (folder.name, seed)), None)
            if row is None:
                row = {"set": folder.name, "seed": seed}
                rows.append(row)
            row.setdefault("floor", None)
            row["floor"] = row["floor"] or floor(folder, seed)
            for quality in options.qualities:
                if quality not in row:
                    row[quality] = measure(folder, seed, quality)
                    options.rows.write_text(json.dumps(rows, indent=1))
                    print(folder.name, seed, row["floor"], quality, row[quality], flush=True)
    result = {
        "benchmark": "Accuracy on five sets of photos",
        "description": (
            "Test accuracy with the default backbone, mean over seeds (another split each), and paired differences "
            "with their 95 % intervals. Floor: scikit-learn's logistic regression, C = 0.01, on the same features and "
            "splits."
        ),
        "limit": "",
        "rows": table(rows, options.qualities),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
