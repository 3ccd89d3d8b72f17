"""Training on a table and on a zip comes to the same as training on the folder."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "hymenoptera"
EACH = 14


@pytest.fixture
def insects(tmp_path: Path) -> Path:
    """A few real photos of two classes."""
    if not PHOTOS.is_dir():
        pytest.skip("the shared photos are not here")
    for name in ("ants", "bees"):
        (tmp_path / "insects" / name).mkdir(parents=True)
        for photo in sorted((PHOTOS / name).iterdir())[:EACH]:
            shutil.copy(photo, tmp_path / "insects" / name)
    return tmp_path / "insects"


def results(run: Path) -> tuple[Any, dict[str, str]]:
    """What the run's test came to, and the split of each photo by content."""
    with (run / "splits.csv").open() as file:
        splits = {row["id"]: row["split"] for row in csv.DictReader(file)}
    return json.loads((run / "evaluation.json").read_text())["test"], splits


def test_a_table_and_a_zip_come_to_the_same_as_the_folder(insects: Path, tmp_path: Path, headstart_here: Any) -> None:
    done = headstart_here("train", "insects", "--quality", "fast", "--out", "folder")
    assert done.returncode == 0, done.stderr
    expected = results(tmp_path / "folder")

    with zipfile.ZipFile(tmp_path / "insects.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for photo in sorted(insects.glob("*/*")):
            packed.write(photo, f"wrapped/{photo.relative_to(insects)}")
    done = headstart_here("train", "insects.zip", "--quality", "fast", "--out", "zip")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "zip") == expected

    with (tmp_path / "folder" / "splits.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(("photo", "species", "fold", "patient"))
        writer.writerows((f"insects/{row['path']}", row["label"], row["split"], row["id"]) for row in rows)
        writer.writerow(("insects/gone.jpg", "ants", "train", ""))
    done = headstart_here("train", "list.csv", "--quality", "fast", "--out", "table")
    assert done.returncode == 0, done.stderr
    assert "path=photo, label=species, split=fold, group=patient" in done.stdout
    assert results(tmp_path / "table") == expected
    assert "line 30 of table 'list.csv': does not exist" in (tmp_path / "table" / "skipped.csv").read_text()

    done = headstart_here("evaluate", "zip", "list.csv", "--json", "--columns", "label=species")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test"]["n"] == 2 * EACH
    done = headstart_here("predict", "table", "insects.zip", "--json")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 2 * EACH
    assert answers[0]["path"] == "insects.zip/wrapped/ants/" + sorted(insects.glob("ants/*"))[0].name
    done = headstart_here("train", "list.csv", "--columns", "label=specie")
    assert done.returncode == 1
    assert "did you mean 'species'?" in done.stderr
