"""Whole runs with Keras backbones: what they hold, who can use it, and what a second one need not compute again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import CLASSES, draw
from tests.keras_file import other_engine, small, this_engine

import headstart as hs
from headstart import cli
from headstart.answering import answerer
from headstart.runs import Run
from headstart.store import Shelf

pytestmark = pytest.mark.keras

OFFICIAL = Path(__file__).parents[3] / "shared" / "weights" / "keras"
MOBILENET = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
SEED = "3"  # puts 23 of the photos into validation, enough to tell whether tuning helps
HEAD = "flatten, dense(16, relu), dropout(0.3)"
NOISE = ("tensorflow", "onednn", "absl", "i0000", "e0000", "w0000", "xla", "cuda", "retracing", "warning", "traceback")
# Probabilities, by another engine and in plain Keras: the order of float32 sums differs.
ALIKE = 1e-5
PLAIN = """
import sys
sys.modules["headstart"] = None
import keras, numpy as np
file, pixels, answers = sys.argv[1:]
np.save(answers, keras.models.load_model(file).predict(np.load(pixels), verbose=0))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 of each class."""
    folder = tmp_path_factory.mktemp("many") / "photos"
    for number, (name, colour) in enumerate(CLASSES.items()):
        for index in range(60):
            draw(folder / name / f"{index:02}.jpg", colour, seed=100 * number + index)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of these tests and their cache are."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HEADSTART_CACHE", str(home / "cache"))


def _process(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HEADSTART_CACHE": str(home / "cache"), "KERAS_BACKEND": this_engine()}
    command = [sys.executable, "-m", "headstart", *map(str, arguments)]
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def trained(photos: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """The command that made `run`: balanced, with a head on the feature map. The file of its backbone is away then."""
    small(home / "small.keras")
    options = ["--backbone", "file/small.keras", "--head", HEAD, "--epochs", "2", "--seed", SEED, "--json"]
    done = _process(home, "train", photos, "--out", "run", *options)
    assert done.returncode == 0, done.stderr
    (home / "small.keras").rename(home / "kept.keras")
    return done


@pytest.fixture(scope="module")
def real(photos: Path, home: Path, trained: object) -> Path:
    """A run of MobileNetV2 with its official weights, which are away then."""
    if this_engine() == "jax":
        pytest.skip("JAX takes a minute to compile depthwise convolutions for a processor")
    if not (OFFICIAL / "models" / MOBILENET).exists():
        pytest.skip("the official MobileNetV2 weights are not at hand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(home / "cache"))
        patch.setenv("KERAS_HOME", str(OFFICIAL))
        run = hs.train(photos, backbone="keras/mobilenetv2_0.35", size=96, quality="fast", out=home / "real")
    assert run.evaluation.accuracy > 0.9
    return Path(run.path)


def _files(photos: Path) -> list[Path]:
    return sorted(photos.glob("*/*0.jpg"))


def _answers(run: Path, photos: Path) -> np.ndarray:
    return np.array([list(answer.probabilities.values()) for answer in hs.predict(run, _files(photos))])


def test_a_run_tells_its_own_story_and_the_engine_none(trained: subprocess.CompletedProcess[str], home: Path) -> None:
    told = trained.stderr.lower()
    assert [word for word in NOISE if word in told] == []
    assert trained.stderr.splitlines()[0] == "run folder run"
    assert "stage head, epoch 1/30" in trained.stderr
    assert "stage tune, epoch 2/2" in trained.stderr
    assert json.loads(trained.stdout)["accuracy"] > 0.8
    assert json.loads((home / "run" / "backbone.json").read_text())["about"]["engine"] == this_engine()


def test_a_run_holds_a_keras_model_with_the_names_of_its_classes(trained: object, home: Path) -> None:
    run = home / "run"
    assert {"evaluation.json", "predictions.csv", "model.keras", "model.safetensors", "config.toml"} <= {
        path.name for path in run.iterdir()
    }
    with zipfile.ZipFile(run / "model.keras") as file:
        assert json.loads(file.read("classes.json")) == sorted(CLASSES)
    assert not (run / "INCOMPLETE").exists()


def test_a_run_predicts_what_it_wrote_down_wherever_it_is_moved(
    trained: object, photos: Path, home: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(home / "run", tmp_path / "elsewhere" / "mine")
    with (moved / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    answers = hs.predict(moved, [photos / row["path"] for row in rows])
    assert [answer.label for answer in answers] == [row["predicted"] for row in rows]
    told = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose([answer.probability for answer in answers], told, atol=ALIKE)


def test_weights_from_elsewhere_are_not_needed_once_a_run_is_made(
    real: Path, photos: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(home / "nothing"))
    monkeypatch.setenv("HEADSTART_KERAS_WEIGHTS", "http://127.0.0.1:9")
    assert _answers(real, photos).argmax(axis=1).tolist() == [
        sorted(CLASSES).index(path.parent.name) for path in _files(photos)
    ]


@pytest.mark.parametrize(
    ("engine", "name"), [("tensorflow", "run"), ("jax", "run"), ("torch", "run"), ("tensorflow", "real")]
)
def test_plain_keras_answers_as_the_run_does(
    engine: str, name: str, trained: object, photos: Path, home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue("real") if name == "real" else home / "run"
    model = answerer(Run.open(run))
    pixels = [model.modality.decode(path.read_bytes(), model.spec, reduced=False) for path in _files(photos)]
    np.save(tmp_path / "pixels.npy", np.stack(pixels))
    (tmp_path / "plain.py").write_text(PLAIN)
    done = subprocess.run(
        [sys.executable, "plain.py", run / "model.keras", "pixels.npy", "answers.npy"],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": engine},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), _answers(run, photos), atol=ALIKE, rtol=0)


def test_evaluate_measures_on_other_photos(
    trained: object, photos: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["evaluate", "run", str(photos), "--json"]) == 0
    printed, told = capfd.readouterr()
    assert json.loads(printed)["test"]["n"] == len(list(photos.glob("*/*")))
    assert "were used to make the model" in told


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The cuts at which features of photos have been computed and kept."""
    cuts: list[str] = []
    add = Shelf.add

    def counted(self: Shelf, *rows: Any, **options: Any) -> None:
        cuts.append(self.about["cut"])
        add(self, *rows, **options)

    monkeypatch.setattr(Shelf, "add", counted)
    return cuts


def test_a_second_run_computes_no_features(trained: object, photos: Path, home: Path, computed: list[str]) -> None:
    again = {
        "backbone": "file/kept.keras",
        "head": HEAD,
        "epochs": 2,
        "seed": int(SEED),
    }  # under another name: the content counts
    second = Path(hs.train(photos, out="second", **again).path)
    assert computed == []
    for name in ("model.safetensors", "predictions.csv", "evaluation.json"):
        assert (second / name).read_bytes() == (home / "run" / name).read_bytes()

    hs.train(photos, out="pooled", backbone="file/kept.keras", quality="fast")
    assert set(computed) == {"pooled"}
    computed.clear()
    hs.train(photos, out="pooled-again", backbone="file/kept.keras", quality="fast")
    assert computed == []


def test_the_other_engines_run_has_features_of_its_own_and_is_answered_here(
    trained: object, photos: Path, home: Path
) -> None:
    before = _engines_of(home / "cache")
    options = ["--backbone", "file/kept.keras", "--quality", "fast", "--framework", other_engine()]
    done = _process(home, "train", photos, "--out", "other", *options)
    assert done.returncode == 0, done.stderr
    assert [word for word in NOISE if word in done.stderr.lower().replace("headstart", "")] == []
    assert _engines_of(home / "cache") == before | {other_engine()}

    with (home / "other" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    answers = hs.predict(home / "other", [photos / row["path"] for row in rows])
    told = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose([answer.probability for answer in answers], told, atol=ALIKE)


def _engines_of(cache: Path) -> set[str]:
    abouts = [json.loads(path.read_text()) for path in cache.rglob("*.json") if path.name == "meta.json"]
    return {name for about in abouts for name in ("tensorflow", "jax") if name in about.get("engine", "")}


def test_a_dry_run_tells_the_rates_and_leaves_nothing(
    trained: object, photos: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--backbone", "file/kept.keras", "--unfreeze", "2", "--lr", "1e-4", "--dry-run"]
    assert cli.run(["train", str(photos), "--out", "dry", *options]) == 0
    printed, told = capfd.readouterr()
    assert told == ""
    assert "block24" in printed
    assert "5e-05" in printed
    assert not (home / "dry").exists()


def test_quality_best_tunes_every_group(trained: object, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--backbone", "file/kept.keras", "--quality", "best", "--epochs", "1", "--seed", SEED]
    assert cli.run(["train", str(photos), "--out", "best", *options]) == 0
    printed, told = capfd.readouterr()
    assert "stage tune-all, epoch 1/1" in told
    assert "accuracy" in printed


def test_one_group_is_tuned_at_the_rate_that_was_asked_for(
    trained: object, photos: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--backbone", "file/kept.keras", "--unfreeze", "1", "--epochs", "2", "--lr", "1e-4"]
    assert cli.run(["train", str(photos), "--out", "tuned", *options]) == 0
    _, told = capfd.readouterr()
    assert "rates head 0.0001, block24_conv 0.0001" in told
