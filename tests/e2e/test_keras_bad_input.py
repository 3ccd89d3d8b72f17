"""What a user of Keras backbones gets who errs or has bad luck: a sentence, a hint, exit code 1, no run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.keras_file import SIZE, small

from headstart import cli

OFFICIAL = Path(__file__).parents[3] / "shared" / "weights" / "keras" / "models"
MOBILENET = OFFICIAL / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
HIDING = """
import os, sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in os.environ["HIDDEN"].split(",") else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""

Refused = Callable[..., None]


@pytest.fixture
def here(drawn_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: no weights of Keras's, none to be had, and files that are no good."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADSTART_KERAS_WEIGHTS", "http://127.0.0.1:9")  # where nobody answers
    (tmp_path / "photos").symlink_to(drawn_photos)
    (tmp_path / "letter.h5").write_text("Dear Keras")
    (tmp_path / "letter.txt").write_text("Dear Keras")
    (tmp_path / "nothing.keras").touch()
    return tmp_path


@pytest.fixture
def refused(here: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Asserts that `headstart train photos` with these options says one sentence and a hint that hold the words."""

    def check(*options: object, words: tuple[str, ...]) -> None:
        capfd.readouterr()
        code = cli.run(["train", "photos", "--out", "run", *map(str, options)])
        printed, told = capfd.readouterr()
        assert code == 1, told
        _assert_told(printed, told, *words)
        assert not (here / "run").exists()

    return check


def _assert_told(printed: str, told: str, *words: str) -> None:
    assert printed == ""
    assert "unexpectedly" not in told
    error, hint = told.splitlines()  # nothing else: no notices, no warnings, no traceback
    assert error.startswith("error: "), told
    assert hint.startswith("hint: "), told
    for word in words:
        assert word in told, told


# ---- names, engines, settings


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("keras/vg16", ("'keras/vg16' is not known", "did you mean 'keras/vgg16'")),
        ("keras/", ("headstart backbones keras",)),
        ("vgg61", ("'vgg61' is not known", "did you mean 'keras/vgg")),
        ("kears/vgg16", ("'kears/vgg16' is not known", "did you mean 'keras/vgg16'")),
    ],
)
def test_an_unknown_name_gets_the_one_that_was_meant(name: str, words: tuple[str, ...], refused: Refused) -> None:
    refused("--backbone", name, words=words)


def test_an_engine_that_is_not_the_backbones(refused: Refused, here: Path) -> None:
    small(here / "small.keras")
    for engine in ("jax", "tensorflow"):
        refused("--framework", engine, words=("runs on PyTorch", engine, "keras/vgg16 for instance"))
    for name in ("keras/vgg16", "file/small.keras"):
        refused("--backbone", name, "--framework", "torch", words=("TensorFlow or JAX", "PyTorch backbone"))


def test_too_small_a_picture(refused: Refused) -> None:
    refused("--backbone", "keras/xception", "--size", "48", words=("size 48", "keras/xception", "71 pixels or more"))


def test_a_cut_where_there_is_no_top(refused: Refused) -> None:
    refused("--backbone", "keras/vgg16", "--cut", "block3_pool", words=("no top to cut", "leave the cut out"))


def test_heads_groups_and_devices_that_are_not_there(refused: Refused, here: Path) -> None:
    backbone = ("--backbone", f"file/{small(here / 'small.keras')}")
    refused(*backbone, "--head", "flatten dense(16)", words=("'flatten dense(16)'", "separated by commas"))
    refused(*backbone, "--unfreeze", "9", words=("unfreezes 9 groups", "from 0 to 3"))
    refused(*backbone, "--device", "mps", words=("'mps'", "leave the device out"))


# ---- engines that are not installed: each in a process of its own, where they are hidden


@pytest.mark.parametrize(
    ("hidden", "asked", "words"),
    [
        ("tensorflow,jax", "", ("neither is installed", "pip install 'headstart[tensorflow]'", "'headstart[jax]'")),
        ("tensorflow", "tensorflow", ("tensorflow is not installed", "pip install 'headstart[tensorflow]'", "jax")),
        ("jax", "jax", ("jax is not installed", "pip install 'headstart[jax]'", "tensorflow")),
        ("keras", "", ("Keras is not installed", "pip install 'headstart[")),
        ("", "torch", ("TensorFlow or JAX", "KERAS_BACKEND=torch")),
        ("", "nonsense", ("TensorFlow or JAX", "KERAS_BACKEND=nonsense")),
    ],
)
def test_an_engine_that_cannot_be_had(
    hidden: str, asked: str, words: tuple[str, ...], here: Path, headstart: Any
) -> None:
    (here / "path").mkdir()
    (here / "path" / "sitecustomize.py").write_text(HIDING)
    (here / "any.keras").touch()
    env = {"PYTHONPATH": str(here / "path"), "HIDDEN": hidden, "KERAS_BACKEND": asked}
    done = headstart("train", "photos", "--backbone", "file/any.keras", env=env)
    assert done.returncode == 1
    _assert_told(done.stdout, done.stderr, *words)
    assert not (here / "runs").exists()


def test_the_engine_that_is_installed_is_taken(here: Path, headstart: Any) -> None:
    (here / "path").mkdir()
    (here / "path" / "sitecustomize.py").write_text(HIDING)
    small(here / "small.keras")
    env = {"PYTHONPATH": str(here / "path"), "HIDDEN": "tensorflow", "KERAS_BACKEND": ""}
    done = headstart("train", "photos", "--backbone", "file/small.keras", "--quality", "fast", env=env)
    assert done.returncode == 0, done.stderr
    assert '"jax"' in (here / "runs" / "photos-1" / "backbone.json").read_text()


# ---- weights


@pytest.mark.skipif(not MOBILENET.exists(), reason="the official MobileNetV2 weights are not at hand")
def test_weights_that_are_not_the_backbones(refused: Refused, here: Path) -> None:
    (here / "half.h5").write_bytes(MOBILENET.read_bytes()[:500_000])
    small(here / "small.keras")
    own = "not those of keras/mobilenetv2_0.35"
    for name, given, words in (
        ("vgg16", MOBILENET, ("not those of keras/vgg16", "Layer count mismatch")),
        ("mobilenetv2_0.5", MOBILENET, ("not those of keras/mobilenetv2_0.5", "Shape mismatch")),
        ("mobilenetv2_0.35", "half.h5", ("'half.h5'", own, "truncated")),
        ("mobilenetv2_0.35", "letter.h5", ("'letter.h5'", own)),
        ("mobilenetv2_0.35", "small.keras", ("'small.keras'", own)),
        ("mobilenetv2_0.35", "letter.txt", ("'letter.txt'", "not in a format of Keras")),
        ("mobilenetv2_0.35", "absent.h5", ("'absent.h5'", "No such file")),
    ):
        refused("--backbone", f"keras/{name}", "--size", "96", "--weights", given, words=words)


def test_a_download_without_a_network(refused: Refused, here: Path) -> None:
    file = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    refused(
        "--backbone", "keras/vgg16", words=(file, "http://127.0.0.1:9/", str(here / "home" / "models"), "--weights")
    )
    assert not list((here / "home").rglob("*.*"))


# ---- files of the user's own


def test_a_file_that_is_no_model(refused: Refused, here: Path) -> None:
    small(here / "small.keras")
    import keras

    keras.models.load_model(here / "small.keras").save_weights(here / "small.weights.h5")
    whole = 'model.save("model.keras")'
    for name, words in (
        ("small.weights.h5", ("holds weights but no model", whole)),
        ("nothing.keras", ("is empty", whole)),
        ("letter.h5", ("is not an HDF5 file",)),
        ("letter.txt", ("not of a kind that is known", ".keras, .h5")),
        ("smal.keras", ("does not exist", "did you mean 'small.keras'")),
    ):
        refused("--backbone", f"file/{name}", words=(repr(name), *words))
    refused("--backbone", "small.keras", words=("is a file, not a name", "file/small.keras"))


def test_a_layer_or_a_size_that_the_file_does_not_have(refused: Refused, here: Path) -> None:
    backbone = ("--backbone", f"file/{small(here / 'small.keras')}")
    refused(*backbone, "--cut", "block17_relu", words=("no layer 'block17_relu'", "did you mean 'block16_relu'"))
    refused(*backbone, "--size", "48", words=(f"pictures of {SIZE} pixels", "leave the size out"))


def test_code_in_a_file_runs_only_where_the_user_says_so(
    refused: Refused, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small(here / "code.keras", code=True)
    refused("--backbone", "file/code.keras", words=("holds a Lambda layer", "--allow-code"))
    options = ["--backbone", "file/code.keras", "--allow-code", "--quality", "fast"]
    code = cli.run(["train", "photos", "--out", "run", *options])
    printed, told = capfd.readouterr()
    assert code == 0, told
    assert "cannot be opened or resumed" in printed

    code = cli.run(["predict", "run", "photos"])
    printed, told = capfd.readouterr()
    assert code == 1
    _assert_told(printed, told, "code is never taken out of a run", "model.keras")


def test_a_run_without_its_model_or_with_code_put_into_it_is_refused(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small(here / "small.keras")
    options = ["--backbone", "file/small.keras", "--quality", "fast"]
    assert cli.run(["train", "photos", "--out", "run", *options]) == 0
    shutil.copytree("run", "damaged")
    told = Path("damaged", "backbone.json")
    told.write_text(told.read_text().replace("Rescaling", "Lambda"))
    capfd.readouterr()
    assert cli.run(["predict", "damaged", "photos"]) == 1
    _assert_told(*capfd.readouterr(), "code is never taken out of a run")
    Path("run", "model.safetensors").unlink()
    assert cli.run(["predict", "run", "photos"]) == 1
    _assert_told(*capfd.readouterr(), "model.safetensors")


# ---- from Python


def test_parts_of_ones_own_that_do_not_fit(here: Path) -> None:
    small(here / "small.keras")
    import keras

    import headstart as hs

    data = hs.load_dataset("photos")
    backbone = hs.load_backbone("file/small.keras")
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(hs.HeadstartError) as refusal:
        hs.Model(backbone, classes=data.classes, optimizer=keras.optimizers.Adam(schedule))
    assert "schedule of rates" in str(refusal.value)

    with pytest.raises(hs.HeadstartError) as refusal:
        hs.Model(backbone, head=[keras.layers.Dense(5, activation="softmax")], classes=data.classes)
    assert "5 outputs, but there are 3 classes" in str(refusal.value)
    assert "Dense(3, activation='softmax')" in refusal.value.fix

    with pytest.raises(hs.HeadstartError) as refusal:
        hs.Model(backbone, classes=data.classes, loss="categorical_crosentropy")
    assert "'categorical_crosentropy'" in str(refusal.value)


def test_a_tensorflow_data_set_without_labels(here: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    import numpy as np

    import headstart as hs

    pictures = np.zeros((8, 32, 32, 3), np.uint8)
    with pytest.raises(hs.HeadstartError) as refusal:
        hs.load_dataset(tf.data.Dataset.from_tensor_slices(pictures).batch(4))
    assert "label" in str(refusal.value)
    assert refusal.value.fix
