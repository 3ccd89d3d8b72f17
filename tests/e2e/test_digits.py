"""The demonstration's way, from digits in an array to a tested model, on a part of them."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "digits.py"
PER_CLASS = 20


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All digits, as the demonstration writes them."""
    spec = importlib.util.spec_from_file_location("digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("demo data") / "digits"
    assert module.write_digits(folder) == 1797
    before = [(path, path.stat().st_mtime_ns) for path in sorted(folder.glob("*/*"))]
    assert module.write_digits(folder) == 1797
    assert before == [(path, path.stat().st_mtime_ns) for path in sorted(folder.glob("*/*"))]
    return folder


def test_digits_are_written_as_class_folders_of_pngs(digits: Path) -> None:
    from sklearn.datasets import load_digits

    assert sorted(path.name for path in digits.iterdir()) == [str(digit) for digit in range(10)]
    assert len(list(digits.glob("*/*.png"))) == 1797
    assert [path.name for path in digits.parent.iterdir()] == ["digits"]
    first = load_digits()
    with Image.open(digits / str(first.target[0]) / "0000.png") as image:
        assert image.size == (8, 8)
        assert image.getpixel((2, 0)) == round(first.images[0][0, 2] * 255 / 16)


def test_digits_are_learnt_and_the_run_holds_what_it_promises(
    digits: Path, tmp_path: Path, headstart_here: Any
) -> None:
    for number in range(10):
        (tmp_path / "few" / str(number)).mkdir(parents=True)
        for path in sorted((digits / str(number)).iterdir())[:PER_CLASS]:
            shutil.copy(path, tmp_path / "few" / str(number))

    done = headstart_here("train", "few", "--quality", "fast")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "few-1"
    test = json.loads((run / "evaluation.json").read_text())["test"]
    low, high = test["accuracy_interval"]
    assert f"{test['accuracy']:.3f}" in done.stdout
    assert f"{low:.3f} to {high:.3f}" in done.stdout
    assert "runs/few-1" in done.stdout
    assert "first accuracy" in done.stderr

    # Ten classes: guessing gives 0.1. A logistic regression of scikit-learn's on the same features and splits gets 0.73
    # to 0.90 on these 29 to 45 photos, by the seed; so few cannot carry a bound that is tighter than this.
    assert low > 0.5
    assert low < test["accuracy"] < high or test["accuracy"] == 1
    with (run / "predictions.csv").open(newline="") as file:
        answers = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert len(answers) == test["n"]
    assert sum(row["label"] == row["predicted"] for row in answers) / len(answers) == pytest.approx(test["accuracy"])
    assert all(row["path"].startswith(f"{row['label']}/") for row in answers)
    with (run / "splits.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 10 * PER_CLASS

    answered = headstart_here("predict", run, tmp_path / "few" / "7", "--json")
    assert answered.returncode == 0, answered.stderr
    predicted = json.loads(answered.stdout)
    assert sum(row["label"] == "7" for row in predicted) >= 0.8 * PER_CLASS
