"""`model.keras` of a run is loaded by Keras alone, on each of its engines, and gives the run's probabilities."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.heads import Dense, Dropout, Head, Native, Pool
from headstart.modalities.spec import InputSpec

from ..conformance.networks import SPEC
from . import models
from .models import KerasNetwork, keras
from .processes import run_python

pytestmark = pytest.mark.keras

TOLERANCE = 1e-5  # of probabilities; measured: up to 2e-7 on the small models and 8e-7 on the real ones
# The suite runs on each of both once; then each has read the other's files, and PyTorch those of one of them.
ENGINES = {"tensorflow": ("jax", "torch"), "jax": ("tensorflow",)}[keras.backend.backend()]
CLASSES = ("brick", "grün", "water's edge")
WEIGHTS = Path(__file__).parents[2].parent / "shared" / "weights" / "keras" / "models"
VGG16 = WEIGHTS / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
MOBILENET = WEIGHTS / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
LAYERS = Head((Pool(), Dense(8), Dropout(0.5)))


@dataclass(frozen=True)
class Case:
    """A network to save, and how."""

    backbone: Callable[[], keras.Model]
    spec: InputSpec = SPEC
    head: Callable[[], Any] = lambda: LAYERS
    temperature: float = 1.0
    views: tuple[str, ...] = ("plain",)
    needs: Path | None = None
    loaded_on: tuple[str, ...] = ENGINES


def grey() -> keras.Model:
    source = keras.Input((SPEC.size, SPEC.size, 1))
    return keras.Model(source, models.Conv2D(8, 3, strides=4, padding="same")(source))


def scaling_inside() -> keras.Model:
    return keras.Sequential([keras.Input(models.SHAPE), keras.layers.Rescaling(1 / 127.5, -1), models.nested()])


def own_layers() -> Native:
    layers = keras.layers
    # Small weights, or one class would take all of the probability whatever the picture.
    small = keras.initializers.RandomUniform(-0.02, 0.02, seed=1)
    dense = layers.Dense(8, kernel_regularizer="l2", kernel_initializer=small)
    return Native((layers.Flatten(), dense, layers.BatchNormalization(), layers.Dense(3, activation="softmax")))


def vgg16() -> keras.Model:
    return keras.applications.VGG16(include_top=False, weights=VGG16, input_shape=(96, 96, 3))


def mobilenet() -> keras.Model:
    return keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=MOBILENET, input_shape=(96, 96, 3))


CAFFE = replace(SPEC, size=96, mean=(103.939, 116.779, 123.68), std=(1.0,) * 3, order="bgr")
INCEPTION = replace(SPEC, size=96, mean=(127.5,) * 3, std=(127.5,) * 3)
CASES = {
    "rgb": Case(models.residual, temperature=1.7, views=("plain", "flip")),
    "bgr": Case(models.residual, replace(SPEC, mean=(103.939, 116.779, 123.68), std=(50.0, 60.0, 70.0), order="bgr")),
    "grey": Case(grey, replace(SPEC, order="grey"), views=("plain", "flip")),
    "identity": Case(scaling_inside, replace(SPEC, mean=(0.0,) * 3, std=(1.0,) * 3), temperature=0.5),
    "own layers": Case(models.stored_as_frozen, head=own_layers),
    "recurrent": Case(models.bidirectional),
}
if keras.backend.backend() != "jax":
    # JAX takes half a minute to draw the weights that those of the files then replace.
    CASES |= {
        "vgg16": Case(vgg16, CAFFE, temperature=1.7, views=("plain", "flip"), needs=VGG16, loaded_on=("torch",)),
        "mobilenet": Case(mobilenet, INCEPTION, needs=MOBILENET, loaded_on=("torch",)),
    }
# No `headstart` can be imported: what it needed of ours would fail here.
LOAD = """
import sys
from pathlib import Path
sys.modules["headstart"] = None
import keras, numpy as np
for folder in [Path(folder) for folder in sys.argv[1:]]:
    model, pixels = keras.models.load_model(folder / "model.keras"), np.load(folder / "pixels.npy")
    np.save(folder / f"{keras.backend.backend()}.npy", model.predict(pixels, verbose=0))
    if folder.name == "own layers":
        before = [np.array(keras.ops.convert_to_numpy(v.value)) for v in model.trainable_variables]
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(pixels, np.arange(len(pixels)) % 3, epochs=2, verbose=0).history["loss"]
        after = [keras.ops.convert_to_numpy(v.value) for v in model.trainable_variables]
        assert np.isfinite(history).all() and len(before) > 3
        assert all((a != b).any() for a, b in zip(before, after))
        print("fitted")
"""


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def network_of(case: Case) -> KerasNetwork:
    model = case.backbone() if case.needs else models.made(case.backbone)
    network = KerasNetwork(model, spec=case.spec)
    network.set_head(case.head(), len(CLASSES), seed=1)
    return network


def save(name: str, folder: Path) -> None:
    """The model of this case, pictures for it, and the answers that it has to give."""
    case = CASES[name]
    network = network_of(case)
    folder.mkdir()
    network.save(folder, classes=CLASSES, temperature=case.temperature, views=case.views)
    size = case.spec.size
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    turned = {"plain": pixels, "flip": np.ascontiguousarray(pixels[:, :, ::-1])}
    answers = [softmax(network.logits(turned[view]) / case.temperature) for view in case.views]
    np.save(folder / "pixels.npy", pixels)
    np.save(folder / "expected.npy", np.mean(answers, axis=0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case, with what each engine's Keras answered: all are asked at the same time."""
    folder = tmp_path_factory.mktemp("models")
    for name, case in CASES.items():
        if case.needs is None or case.needs.exists():
            save(name, folder / name)

    def load(engine: str) -> str:
        wanted = [folder / name for name, case in CASES.items() if engine in case.loaded_on]
        return run_python(LOAD, *filter(Path.exists, wanted), KERAS_BACKEND=engine)

    with ThreadPoolExecutor() as threads:
        assert all("fitted" in each for each in threads.map(load, filter(find_spec, ENGINES)))
    return folder


@pytest.mark.parametrize(
    ("name", "engine"), [(name, engine) for name in CASES for engine in ENGINES if engine in CASES[name].loaded_on]
)
def test_keras_alone_gives_the_runs_probabilities_from_raw_pixels(name: str, engine: str, saved: Path) -> None:
    needed = CASES[name].needs
    if needed is not None and not needed.exists():
        pytest.skip(f"{needed.name} is not beside this checkout")
    if not find_spec(engine):
        pytest.skip(f"{engine} is not installed")
    answers = np.load(saved / name / f"{engine}.npy")
    expected = np.load(saved / name / "expected.npy")
    assert np.ptp(expected, axis=0).max() > 1e-3, "the answers do not hang on the pictures"
    np.testing.assert_allclose(answers, expected, atol=TOLERANCE)


def test_the_file_holds_the_names_of_the_classes_in_order(saved: Path) -> None:
    with zipfile.ZipFile(saved / "rgb" / "model.keras") as file:
        assert tuple(json.loads(file.read("classes.json"))) == CLASSES
        assert file.testzip() is None


def test_nothing_else_is_left_in_the_folder(saved: Path) -> None:
    names = {path.name for path in (saved / "rgb").iterdir()}
    assert names - {f"{engine}.npy" for engine in ENGINES} == {"model.keras", "pixels.npy", "expected.npy"}


@cache
def expected_again(name: str, spec: InputSpec) -> np.ndarray:
    network = network_of(replace(CASES[name], spec=spec))
    pixels = np.random.default_rng(0).integers(0, 256, (4, spec.size, spec.size, 3), dtype=np.uint8)
    return softmax(network.logits(pixels))


def test_the_check_would_find_channels_in_the_wrong_order_and_scaling_done_twice() -> None:
    case = CASES["bgr"]
    right = expected_again("bgr", case.spec)
    for wrong in (replace(case.spec, order="rgb"), replace(case.spec, std=(100.0, 120.0, 140.0))):
        assert np.abs(right - expected_again("bgr", wrong)).max() > 10 * TOLERANCE
