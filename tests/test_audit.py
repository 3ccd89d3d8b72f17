"""Safe splits from a folder to the notes, and the audit that tells everything."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart import api, cli
from headstart.audit_text import audit_text
from headstart.auditing import Audit
from headstart.data.dataset import Dataset
from headstart.data.loading import load_dataset
from headstart.data.splits import write_splits
from headstart.errors import BadData

from .test_duplicates import EDITS, saved, scene

PER_CLASS = 12


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def copy(seed: int, edit: str = "a quarter as large") -> bytes:
    return EDITS[edit](scene(seed))


def fill(root: Path, *classes: str) -> Path:
    """A dozen different photos a class; number n of class c is scene 100 c + n."""
    for place, name in enumerate(classes):
        for number in range(PER_CLASS):
            put(root / name / f"{number:02}.jpg", saved(scene(100 * place + number), quality=92))
    return root


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("drawn") / "pets", "cat", "dog")


@pytest.fixture
def pets(drawn: Path, tmp_path: Path) -> Path:
    for path in drawn.rglob("*.jpg"):
        put(tmp_path / "pets" / path.relative_to(drawn), path.read_bytes())
    return tmp_path / "pets"


def sides(dataset: Dataset) -> dict[str, str]:
    return {item.path: item.split for item in dataset.items}


def groups(dataset: Dataset) -> dict[str, str]:
    return {item.path: item.group for item in dataset.items if item.group}


def told(dataset: Dataset, part: str) -> str:
    return next((note for note in dataset.notes if part in note), "")


def test_a_copy_goes_where_the_original_is_and_the_others_stay(pets: Path) -> None:
    before = sides(load_dataset(pets))
    for number in range(PER_CLASS):
        put(pets / "cat" / f"{number:02} small.jpg", copy(number))
    after = load_dataset(pets)
    for number in range(PER_CLASS):
        assert sides(after)[f"cat/{number:02} small.jpg"] == before[f"cat/{number:02}.jpg"]
    assert {path: side for path, side in sides(after).items() if path in before} == before
    ids = {item.path: item.id for item in after.items}
    assert groups(after)["cat/03 small.jpg"] == groups(after)["cat/03.jpg"] == ids["cat/03.jpg"]
    assert told(after, "24 photos are near-duplicates of others")


def test_the_splits_file_keeps_families(pets: Path, tmp_path: Path) -> None:
    put(pets / "cat" / "copy.jpg", copy(3))
    write_splits(load_dataset(pets), tmp_path / "splits.csv")
    with (tmp_path / "splits.csv").open(newline="") as file:
        rows = {row["path"]: row["group"] for row in csv.DictReader(file)}
    assert rows["cat/copy.jpg"] == rows["cat/03.jpg"] != ""


def test_a_newcomer_joins_the_listed_side_of_its_elder(pets: Path, tmp_path: Path) -> None:
    first = load_dataset(pets, seed=5)
    write_splits(first, tmp_path / "splits.csv")
    for number in range(PER_CLASS):
        put(pets / "dog" / f"{number:02} large.png", EDITS["saved as PNG"](scene(100 + number).resize((480, 360))))
    again = load_dataset(pets, seed=0, splits=tmp_path / "splits.csv")
    for number in range(PER_CLASS):
        assert sides(again)[f"dog/{number:02} large.png"] == sides(first)[f"dog/{number:02}.jpg"]
    assert not told(again, "leak")


def listed(path: Path, rows: dict[str, str]) -> Path:
    path.write_text("path,split\n" + "".join(f"{name},{split}\n" for name, split in rows.items()))
    return path


def test_a_newcomer_that_bridges_two_sides_trains_and_is_told(pets: Path, tmp_path: Path) -> None:
    put(pets / "cat" / "00 again.jpg", copy(0, "saved worse"))
    rows = dict.fromkeys((f"{name}/{number:02}.jpg" for name in ("cat", "dog") for number in range(PER_CLASS)), "train")
    rows |= {"cat/00.jpg": "test", "dog/00.jpg": "test", "dog/01.jpg": "validation", "cat/00 again.jpg": "train"}
    put(pets / "cat" / "newcomer.jpg", copy(0, "a quarter as large"))
    data = load_dataset(pets, splits=listed(tmp_path / "splits.csv", rows))
    assert sides(data)["cat/newcomer.jpg"] == "train"
    assert sides(data)["cat/00.jpg"] == "test", "what the user listed never moves"
    assert told(data, "go to train: 'cat/newcomer.jpg'")
    assert told(data, "they leak")


def in_splits(root: Path, pets: Path) -> Path:
    for path in pets.rglob("*.jpg"):
        number = int(path.stem)
        side = "test" if number < 2 else "val" if number < 4 else "train"
        put(root / side / path.relative_to(pets), path.read_bytes())
    return root


def test_leaks_across_the_users_own_folders_are_told_and_nothing_is_moved(pets: Path, tmp_path: Path) -> None:
    root = in_splits(tmp_path / "split", pets)
    clean = sides(load_dataset(root))
    assert load_dataset(root).notes == ()
    for number in range(2):
        put(root / "train" / "cat" / f"copy {number}.jpg", copy(number, "other light"))
    data = load_dataset(root)
    assert {path: side for path, side in sides(data).items() if path in clean} == clean
    assert sides(data)["train/cat/copy 0.jpg"] == "train"
    note = told(data, "they leak")
    assert "2 pairs" in note
    assert "train/cat/copy 0.jpg' (train)" in note
    assert "test/cat/00.jpg' (test)" in note


def test_a_class_of_one_family_trains_and_it_is_told_that_nothing_tests_it(pets: Path) -> None:
    for number in range(4):
        image = scene(700)
        put(pets / "fox" / f"{number}.jpg", saved(image, quality=40 + 15 * number))
    data = load_dataset(pets)
    assert {side for path, side in sides(data).items() if path.startswith("fox")} == {"train"}
    assert told(data, "no test photo in 'fox'")


def test_data_of_nothing_but_copies_is_refused(tmp_path: Path) -> None:
    for name, seed in (("cat", 1), ("dog", 2)):
        for quality in (40, 60, 80):
            put(tmp_path / "pets" / name / f"{quality}.jpg", saved(scene(seed), quality=quality))
    with pytest.raises(BadData, match="nothing is left to test on"):
        load_dataset(tmp_path / "pets")


def test_nearly_the_same_picture_in_two_classes_is_told_and_stays_on_one_side(pets: Path) -> None:
    put(pets / "dog" / "wrong.jpg", copy(4, "a text on it"))
    data = load_dataset(pets)
    assert sides(data)["dog/wrong.jpg"] == sides(data)["cat/04.jpg"]
    assert told(data, "near-duplicates in different classes: 'cat/04.jpg' and 'dog/wrong.jpg'")


def test_photos_of_a_group_stay_on_one_side_and_leaks_of_groups_are_told(pets: Path, tmp_path: Path) -> None:
    def table(path: Path, split: bool) -> Path:
        rows = [
            (f"pets/{name}/{number:02}.jpg", name, f"{name} {number // 3}", "test" if number % 6 == 0 else "train")
            for name in ("cat", "dog")
            for number in range(PER_CLASS)
        ]
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "group", *["split"] * split))
            writer.writerows(row if split else row[:3] for row in rows)
        return path

    data = load_dataset(table(tmp_path / "photos.csv", split=False))
    together: dict[str, set[str]] = {}
    for item in data.items:
        together.setdefault(item.group, set()).add(item.split)
    assert len(together) == 8
    assert all(len(found) == 1 for found in together.values())
    given = load_dataset(table(tmp_path / "given.csv", split=True))
    assert "4 pairs" in told(given, "they leak")


def audited(*arguments: object) -> Audit:
    return api.audit(*arguments)  # type: ignore[arg-type]


def test_the_audit_finds_what_is_wrong(pets: Path) -> None:
    put(pets / "cat" / "copy.jpg", copy(3))
    put(pets / "cat" / "mirrored.jpg", copy(5, "mirrored"))
    put(pets / "dog" / "wrong.jpg", copy(4, "saved worse"))
    put(pets / "dog" / "same.jpg", (pets / "dog" / "02.jpg").read_bytes())
    put(pets / "dog" / "cut.jpg", (pets / "dog" / "02.jpg").read_bytes()[:900])
    put(pets / "dog" / "text.jpg", b"hello")
    put(pets / "dog" / "white.png", saved(Image.new("RGB", (90, 90), "white"), "PNG"))
    dark = Image.fromarray((np.asarray(scene(30)) // 8).astype(np.uint8))
    put(pets / "dog" / "dark.jpg", saved(dark, quality=95))
    put(pets / "dog" / "blurred.jpg", saved(scene(31).resize((12, 9)).resize((240, 180)), quality=95))
    put(pets / "dog" / "long.jpg", saved(scene(32, (400, 50)), quality=95))
    found = audited(pets)
    assert {frozenset((each.one, each.other)) for each in found.near_duplicates} == {
        frozenset(("cat/03.jpg", "cat/copy.jpg")),
        frozenset(("cat/05.jpg", "cat/mirrored.jpg")),
        frozenset(("cat/04.jpg", "dog/wrong.jpg")),
    }
    assert found.equal == (("dog/02.jpg", "dog/same.jpg"),)
    assert set(found.skipped_files) == {"dog/cut.jpg", "dog/text.jpg"}
    assert [(each.one, each.other, each.equal) for each in found.conflicts] == [("cat/04.jpg", "dog/wrong.jpg", False)]
    assert found.blank == ("dog/white.png",)
    assert [each.path for each in found.dark] == ["dog/dark.jpg"]
    assert [each.path for each in found.blurred] == ["dog/blurred.jpg"]
    assert [each.path for each in found.long] == ["dog/long.jpg"]
    assert [each.path for each in found.small] == ["cat/copy.jpg", "dog/long.jpg"]
    assert found.leaks == ()
    assert set(found.few) == {"cat", "dog"}
    assert {each.name: each.photos for each in found.classes} == {"cat": 14, "dog": 18}
    assert found.sizes["width"]["most"] == 400
    text = audit_text(found)
    for part in ("cat/copy.jpg", "mirrored", "2 files not used", "wrong.jpg (nearly the same)", "blank", "(few)"):
        assert part in text


def test_the_audit_also_tells_of_data_that_training_refuses(pets: Path) -> None:
    put(pets / "fox" / "alone.jpg", saved(scene(900)))
    found = audited(pets)
    assert found.refusal is not None
    assert "'fox' (1)" in found.refusal
    assert "refuses" in audit_text(found)


def test_the_command_prints_a_table_or_json(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(pets / "cat" / "copy.jpg", copy(3))
    assert cli.run(["audit", str(pets)]) == 0
    assert "1 pair of near-duplicates" in capsys.readouterr().out
    assert cli.run(["audit", str(pets), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["photos"] == 2 * PER_CLASS + 1
    assert facts["near_duplicates"][0]["one"] == "cat/03.jpg"
    assert facts["classes"][0]["splits"].keys() == {"train", "validation", "test"}


def test_a_place_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["audit", "nowhere"]) == 1
    assert "does not exist" in capsys.readouterr().err
