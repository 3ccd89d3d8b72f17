"""The main job on real photos, from the command line: train, evaluate, predict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.conftest import Headstart

REAL = Path(__file__).parents[3] / "shared" / "data" / "hymenoptera"
pytestmark = pytest.mark.skipif(not REAL.exists(), reason="the real photos are not at hand")


def test_ants_and_bees(headstart: Headstart, tmp_path: Path) -> None:
    photos = tmp_path / "insects"
    shutil.copytree(REAL, photos)
    truncated = photos / "bees" / "truncated.jpg"
    truncated.write_bytes(sorted((REAL / "bees").iterdir())[0].read_bytes()[:5000])
    (photos / "ants" / "notes.txt").write_text("not a photo")

    trained = headstart("train", photos, "--quality", "fast", "--out", "run", "--json")
    assert trained.returncode == 0, trained.stderr
    summary = json.loads(trained.stdout)
    low, high = summary["accuracy_interval"]
    assert low < summary["accuracy"] <= high
    assert summary["accuracy"] > 0.88  # 0.9575 on average over splits; a fifth of the photos is a small test
    assert summary["skipped"] == 2
    skipped = (tmp_path / "run" / "skipped.csv").read_text()
    assert "bees/truncated.jpg" in skipped
    assert "ants/notes.txt" in skipped

    # The run needs only its path from here on: the photos and the cache may go.
    shutil.rmtree(photos)
    shutil.rmtree(tmp_path / "cache")
    some = sorted((REAL / "ants").iterdir())[:20]
    answered = headstart("predict", "run", *some, "--format", "json")
    assert answered.returncode == 0, answered.stderr
    answers = json.loads(answered.stdout)
    assert [answer["path"] for answer in answers] == [str(path) for path in some]
    assert sum(answer["label"] == "ants" for answer in answers) >= 17
    assert all(abs(sum(answer["probabilities"].values()) - 1) < 1e-6 for answer in answers)

    judged = headstart("evaluate", "run", REAL, "--json")
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout)["test"]["accuracy"] > 0.93
    assert "used to make the model" in judged.stderr


def test_the_answers_of_predict_are_those_of_the_run(headstart_here: Headstart, tmp_path: Path) -> None:
    """Photos judged at the end of training get the same probabilities from `predict`, from file bytes."""
    for folder in sorted(REAL.iterdir()):
        (tmp_path / "some" / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:60]:
            shutil.copy(path, tmp_path / "some" / folder.name)
    assert headstart_here("train", "some", "--quality", "fast", "--size", "96", "--out", "run").returncode == 0
    rows = (tmp_path / "run" / "predictions.csv").read_text().splitlines()[1:]
    told = {row.split(",")[0]: row.split(",")[3:5] for row in rows}
    answered = headstart_here("predict", "run", *[f"some/{path}" for path in told], "--format", "json")
    for answer, (label, probability) in zip(json.loads(answered.stdout), told.values(), strict=True):
        assert answer["label"] == label
        assert answer["probability"] == pytest.approx(float(probability), abs=1e-5)
