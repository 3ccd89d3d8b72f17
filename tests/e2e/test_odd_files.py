"""Damaged and odd files among good photos: training finishes, each is used or listed, and none is touched."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from tests.conftest import CLASSES
from tests.kinds import kinds

# The files that nobody can use by their place in the file system, with their reasons.
MISPLACED = {"brick/nowhere.jpg": "a link that leads nowhere", "grass/pipe.jpg": "not a regular file"}
OUTSIDE = "readme.txt"


def good(folder: Path, count: int, *, side: int) -> None:
    """So many different photos of sorts, in three classes."""
    for number in range(count):
        name, colour = list(CLASSES.items())[number % len(CLASSES)]
        rng = np.random.default_rng(number)
        coarse = rng.normal(0, 40, (6, 8, 3)) + colour
        image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((side * 4 // 3, side))
        (folder / name).mkdir(parents=True, exist_ok=True)
        image.save(folder / name / f"good-{number:05}.jpg", quality=90)


def odd(folder: Path, count: int) -> tuple[set[str], dict[str, str]]:
    """So many files of all kinds, spread over the classes: those that can be used, and the others' reasons."""
    usable: set[str] = set()
    reasons: dict[str, str] = {}
    every = [kind for kind in kinds().values() if not kind.needs or features.check(kind.needs)]
    # One file of each kind, then the second of each, and so on, until there are enough.
    turns = [(kind, turn) for turn in range(count) for kind in every if kind.files]
    for number, (kind, turn) in enumerate(turns[:count]):
        path = f"{list(CLASSES)[number % len(CLASSES)]}/odd-{number:03}.jpg"
        (folder / path).write_bytes(kind.files[turn % len(kind.files)])
        if kind.reason:
            reasons[path] = kind.reason
        else:
            usable.add(path)
    return usable, reasons


def misplace(folder: Path) -> dict[str, str]:
    """What is no file, or lies in no class."""
    (folder / "brick/nowhere.jpg").symlink_to(folder / "gone.jpg")
    os.mkfifo(folder / "grass/pipe.jpg")
    (folder / OUTSIDE).write_text("These are my photos.")
    return {**MISPLACED, OUTSIDE: "not in a class folder"}


def hashes(folder: Path) -> dict[str, str]:
    """The content of every regular file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def column(path: Path, key: str, value: str) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row[key]: row[value] for row in csv.DictReader(file)}


def check(folder: Path, run: Path, usable: set[str], reasons: dict[str, str], before: dict[str, str]) -> None:
    """Everything is used or listed with its reason, and is still what it was."""
    used, skipped = column(run / "splits.csv", "path", "id"), column(run / "skipped.csv", "path", "reason")
    assert not set(used) & set(skipped)
    assert set(used) | set(skipped) == set(before) | set(MISPLACED)  # none lost
    assert set(skipped) == set(reasons)
    assert usable <= set(used)
    for path, reason in reasons.items():
        assert reason in skipped[path], f"{path}: {skipped[path]}"
    assert hashes(folder) == before  # none touched
    assert all(before[path] == id for path, id in used.items())  # none replaced
    answered = column(run / "predictions.csv", "path", "split")
    splits = column(run / "splits.csv", "path", "split")
    assert answered == {path: split for path, split in splits.items() if split != "train"}


@pytest.mark.parametrize(
    ("photos", "strange", "side", "options"),
    [
        pytest.param(300, 60, 48, ("--size", "64"), id="few"),
        pytest.param(2000, 200, 240, (), id="many", marks=pytest.mark.slow),
    ],
)
def test_odd_files_among_good_photos_are_used_or_listed_with_their_reasons(
    photos: int, strange: int, side: int, options: tuple[str, ...], tmp_path: Path, headstart_here: Any
) -> None:
    folder = tmp_path / "photos"
    good(folder, photos, side=side)
    usable, reasons = odd(folder, strange)
    assert len(usable) + len(reasons) == strange
    assert len(set(reasons.values())) > 10
    reasons |= misplace(folder)
    before = hashes(folder)
    assert len(before) == photos + strange + 1

    done = headstart_here("train", "photos", "--quality", "fast", *options)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    check(folder, tmp_path / "runs" / "photos-1", usable, reasons, before)
    assert f"{len(reasons)} skipped, see skipped.csv" in done.stdout

    some = sorted(usable)[:3] + sorted(set(reasons) & set(before))[:5]
    answers = headstart_here("predict", "runs/photos-1", *(folder / path for path in some), "--format", "csv")
    assert answers.returncode == 0, answers.stderr
    rows = list(csv.DictReader(io.StringIO(answers.stdout)))
    assert [bool(row["error"]) for row in rows] == [path in reasons for path in some]


def test_a_lost_or_replaced_file_would_be_found(tmp_path: Path) -> None:
    """The check itself, on runs that are wrong."""
    folder, run = tmp_path / "photos", tmp_path / "run"
    (folder / "brick").mkdir(parents=True)
    run.mkdir()
    for name in "abc":
        (folder / "brick" / name).write_text(name)
    before = hashes(folder)
    used = {path: id for path, id in before.items() if path != "brick/c"}
    reasons = {"brick/c": "empty file", **MISPLACED}

    def write(ids: dict[str, str], listed: dict[str, str]) -> None:
        (run / "splits.csv").write_text("id,path,split\n" + "".join(f"{id},{path},test\n" for path, id in ids.items()))
        rows = "".join(f"{path},{reason}\n" for path, reason in listed.items())
        (run / "skipped.csv").write_text("path,reason\n" + rows)
        (run / "predictions.csv").write_text("path,split\n" + "".join(f"{path},test\n" for path in ids))

    write(used, reasons)
    check(folder, run, {"brick/a"}, reasons, before)
    wrong: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"brick/a": used["brick/a"]}, reasons),  # one is lost
        ({**used, "brick/b": used["brick/a"]}, reasons),  # one is another's
        (used, {**reasons, "brick/c": "unknown"}),
        (used, {path: reason for path, reason in reasons.items() if path != "brick/c"}),
    ]
    for ids, listed in wrong:
        write(ids, listed)
        with pytest.raises(AssertionError):
            check(folder, run, {"brick/a"}, reasons, before)
