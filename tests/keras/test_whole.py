"""A whole Keras model takes photos of any size and gives the run's answers: on each engine, and in each format."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.exporting.bundle import Bundle, Manifest
from headstart.exporting.format import Whole, named, on_canvas
from headstart.heads import Dense, Flatten, Head, LinearHead
from headstart.modalities.frames import framed
from headstart.modalities.spec import InputSpec
from headstart.networks.keras_alone import without_tensorflow
from headstart.networks.network import OUTPUTS
from headstart.novelty import Novelty

from ..conformance.networks import SPEC
from . import models
from .models import KerasNetwork, keras
from .processes import run_python

pytestmark = pytest.mark.keras

from headstart.networks.keras_whole import squaring  # noqa: E402  after the check that Keras is there

ENGINE = keras.backend.backend()
# The suite runs on each of both once; then each has read the other's files, and PyTorch those of one of them.
OTHERS = {"tensorflow": ("jax", "torch"), "jax": ("tensorflow",)}[ENGINE]
CLASSES = ("brick", "grün", "water's edge")
TOLERANCE = 1e-5  # of probabilities, between engines
LEVEL = 1 / 4000  # of probabilities: a few pixels may differ by one level of 256 from Pillow's
SIZES = ((41, 30), (30, 67), (20, 150), (90, 33), (224, 200))  # width and height, small and large, wide and tall


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours with some noise, so that a wrong place or order would show."""
    rng = np.random.default_rng(width * height)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))
    return Image.fromarray((np.asarray(coarse) * 0.8 + rng.integers(0, 50, (height, width, 3))).astype(np.uint8))


FRAMES = list(itertools.product(("crop", "pad", "squash"), ("bilinear", "bicubic", "lanczos")))
if ENGINE == "jax":
    FRAMES = [("crop", "bicubic"), ("pad", "lanczos")]  # it compiles for each size; the operations are the same


@pytest.mark.parametrize(("fit", "interpolation"), FRAMES)
def test_photos_of_any_shape_come_to_the_square_that_pillow_makes(fit: Any, interpolation: Any) -> None:
    spec = replace(SPEC, crop=0.8, fit=fit, interpolation=interpolation)
    square = squaring(spec)
    for size in SIZES[: 2 if ENGINE == "jax" else None]:
        image = photo(*size)
        wanted = np.asarray(framed(image, spec)).astype(int)
        found = keras.ops.convert_to_numpy(square(np.asarray(image)[None]))[0].astype(int)
        assert np.abs(found - wanted).max() <= 2, size
        assert (found != wanted).mean() < 0.08, size  # in Pillow weights are whole numbers, which moves halves


def test_the_check_would_find_a_square_that_lies_elsewhere() -> None:
    image = photo(90, 33)
    wanted = np.asarray(framed(image, SPEC)).astype(int)
    beside = np.asarray(framed(image.crop((1, 0, 90, 33)), SPEC)).astype(int)
    assert (beside != wanted).mean() > 0.5


LINEAR = LinearHead(np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32) * 3, np.zeros(3, np.float32))


@dataclass(frozen=True)
class Case:
    """A model to ship."""

    spec: InputSpec = SPEC
    backbone: Callable[[], Any] = models.residual
    head: LinearHead | Head = LINEAR
    temperature: float = 1.0
    views: tuple[str, ...] = ("plain",)
    k: int = 0  # neighbours that tell what is new; 0: none
    projected: bool = True  # as in runs of older versions
    normalise: bool = False

    @property
    def novelty(self) -> Novelty | None:
        rng = np.random.default_rng(2)
        if not self.k:
            return None
        return Novelty(
            mean=rng.normal(size=8),
            projection=rng.normal(size=(8, 4)) if self.projected else None,
            centres=rng.normal(size=(9, 4 if self.projected else 8)),
            k=self.k,
            normalise=self.normalise,
            threshold=1.0,
            false_alarms=0.05,
        )


CASES = {
    "all outputs": Case(temperature=1.7, views=("plain", "flip"), k=3, normalise=True),
    "flip alone": Case(views=("flip",), k=1, projected=False),
    "squashed grey on its map": Case(
        # Not bilinear: photos of some sizes come to halves of a level, which engines may round differently.
        spec=replace(SPEC, order="grey", fit="squash"),
        backbone=lambda: keras.Sequential([keras.Input((32, 32, 1)), models.Conv2D(8, 3, strides=8, padding="same")]),
        head=Head((Flatten(), Dense(5))),
    ),
    "padded bgr": Case(
        spec=replace(SPEC, order="bgr", fit="pad", interpolation="lanczos", mean=(103.0, 116.0, 123.0)), temperature=0.7
    ),
}


@dataclass
class Made:
    """A whole model, and what the run says of photos."""

    model: Any
    manifest: Manifest
    expected: list[dict[str, np.ndarray]]


def photos() -> list[np.ndarray]:
    return [np.asarray(photo(*size))[None] for size in SIZES[:3]]


def seen_elsewhere(name: str) -> int:
    """How many of these photos other engines get: JAX compiles each model anew for each size."""
    return 2 if name == "all outputs" else 1


def made(case: Case) -> Made:
    network = KerasNetwork(models.made(case.backbone), spec=case.spec)
    network.set_head(case.head, len(CLASSES), seed=1)
    heat, novelty = network.linear_on_mean, case.novelty
    model = network.whole(temperature=case.temperature, views=case.views, novelty=novelty, heat=heat is not None)
    expected = [answers(case, network, pixels) for pixels in photos()]
    outputs = tuple(name for name in OUTPUTS if name in expected[0])
    return Made(model, manifest(case, outputs), expected)


def answers(case: Case, network: KerasNetwork, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """By the run's own way: Pillow's square, then the network's parts."""
    plain = np.asarray(framed(Image.fromarray(pixels[0]), case.spec))[None]
    turned = {"plain": plain, "flip": np.ascontiguousarray(plain[:, :, ::-1])}
    each = [np.exp(network.logits(turned[view]) / case.temperature) for view in case.views]
    found = {"probabilities": np.mean([powers / powers.sum(1, keepdims=True) for powers in each], axis=0)}
    if case.novelty is not None:
        found["distance"] = case.novelty.distance(network.features(plain, network.cuts[-1]))
    if network.linear_on_mean is not None:
        last = network.features(plain, network.cuts[-2])
        found["heat"] = last @ network.linear_on_mean[0] / np.prod(last.shape[1:3])
    return found


def manifest(case: Case, outputs: tuple[str, ...]) -> Manifest:
    return Manifest(
        format="keras",
        precision="fp32",
        classes=CLASSES,
        spec=case.spec,
        outputs=outputs,
        temperature=case.temperature,
        threshold=1.0 if case.k else None,
        false_alarms=0.05 if case.k else None,
        backbone={"name": "test/residual", "licence": "none", "framework": "keras"},
        max_pixels=10_000_000,
        created="2026-01-01T00:00:00Z",
    )


def close(found: dict[str, Any], wanted: dict[str, np.ndarray], tolerance: float) -> None:
    assert {name for name in found if found[name] is not None} == set(wanted)
    np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], atol=tolerance)
    for name in ("distance", "heat"):
        if name in wanted:
            scale = np.abs(wanted[name]).max()
            np.testing.assert_allclose(found[name] / scale, wanted[name] / scale, atol=max(5e-3, 2 * tolerance))


# No `headstart` can be imported: what a file needed of ours would fail here.
LOAD = """
import sys
from pathlib import Path
sys.modules["headstart"] = None
import keras, numpy as np
for folder in [Path(folder) for folder in sys.argv[1:]]:
    model = keras.models.load_model(folder / "model.keras", safe_mode=True)
    for place in range(len(list(folder.glob("photo*.npy")))):
        answers = model.predict_on_batch(np.load(folder / f"photo{place}.npy"))
        np.savez(folder / f"{keras.backend.backend()}{place}.npz", **{n: np.asarray(a) for n, a in answers.items()})
"""


@pytest.fixture(scope="module")
def whole() -> dict[str, Made]:
    return {name: made(case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def loaded(whole: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case with a file of its model, and what Keras answers by it, on each engine."""
    folder = tmp_path_factory.mktemp("whole")
    for name, each in whole.items():
        (folder / name).mkdir()
        with without_tensorflow():
            each.model.save(folder / name / "model.keras")
        for place, pixels in enumerate(photos()[: seen_elsewhere(name)]):
            np.save(folder / name / f"photo{place}.npy", pixels)
    with ThreadPoolExecutor() as threads:
        here = [engine for engine in OTHERS if find_spec(engine)]
        list(threads.map(lambda engine: run_python(LOAD, *folder.iterdir(), KERAS_BACKEND=engine), here))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_whole_model_gives_the_runs_answers(name: str, whole: dict[str, Made]) -> None:
    each = whole[name]
    spread = np.ptp([wanted["probabilities"][0] for wanted in each.expected], axis=0).max()
    assert spread > 20 * LEVEL, "the answers do not hang on the photos"
    for pixels, wanted in zip(photos(), each.expected, strict=True):
        found = {name: keras.ops.convert_to_numpy(value) for name, value in each.model(pixels, training=False).items()}
        close(found, wanted, LEVEL)


@pytest.mark.parametrize(("name", "engine"), list(itertools.product(CASES, OTHERS)))
def test_keras_alone_gives_them_on_every_engine(name: str, engine: str, whole: dict[str, Made], loaded: Path) -> None:
    if not find_spec(engine):
        pytest.skip(f"{engine} is not installed")
    for place, (pixels, wanted) in enumerate(zip(photos(), whole[name].expected, strict=True)):
        if place == seen_elsewhere(name):
            break
        with np.load(loaded / name / f"{engine}{place}.npz") as file:
            found = dict(file)
        close(found, wanted, LEVEL)
        here = whole[name].model(pixels, training=False)["probabilities"]
        np.testing.assert_allclose(found["probabilities"], keras.ops.convert_to_numpy(here), atol=TOLERANCE)


def test_the_distance_is_novelty_s_in_floats() -> None:
    from headstart.networks.keras_whole import _distance

    features = np.random.default_rng(3).normal(size=(20, 8)).astype(np.float32)
    for k, normalise in ((1, False), (4, True)):
        novelty = Case(k=k, normalise=normalise).novelty
        assert novelty is not None
        found = keras.ops.convert_to_numpy(_distance(novelty)(features))
        np.testing.assert_allclose(found, novelty.distance(features), rtol=1e-3)


# ---- formats

NEEDS = {
    "keras": "keras",
    "saved_model": "tensorflow",
    "tflite": "tensorflow",
    "onnx": "onnxruntime",
    "openvino": "openvino",
}
CELLS = [
    ("keras", "fp32"),
    # Slow, as each starts another process: test_export_matrix.py has a quick one of each way out of Keras.
    *(
        pytest.param(to, precision, marks=pytest.mark.slow)
        for to, precision in (
            ("tflite", "fp32"),
            ("tflite", "fp16"),
            ("onnx", "fp32"),
            ("saved_model", "fp32"),
            ("openvino", "fp32"),
        )
    ),
]
ALLOWED = {"fp32": LEVEL, "fp16": 2e-3}


@pytest.mark.parametrize(("to", "precision"), CELLS)
def test_a_bundle_answers_as_its_run(to: str, precision: Any, whole: dict[str, Made], tmp_path: Path) -> None:
    if not find_spec(NEEDS[to]):
        pytest.skip(f"{NEEDS[to]} is not installed")
    each, form = whole["all outputs"], named(to)
    assert form.refusal(ENGINE, precision) is None
    shipped = replace(each.manifest, format=to, precision=precision)
    form.write(Whole(engine=ENGINE, model=each.model, manifest=shipped, samples=iter([])), tmp_path, precision)
    graph = form.open(Bundle.seal(tmp_path, shipped))
    for pixels, wanted in zip(photos(), each.expected, strict=True):
        close(vars_of(graph.photos(pixels)), wanted, ALLOWED[precision])
    squares = np.stack([np.asarray(framed(Image.fromarray(pixels[0]), SPEC)) for pixels in photos()])
    together = {name: np.concatenate([wanted[name] for wanted in each.expected]) for name in each.expected[0]}
    close(vars_of(graph.squares(squares)), together, ALLOWED[precision])


def vars_of(outputs: Any) -> dict[str, Any]:
    return {name: getattr(outputs, name) for name in OUTPUTS}


def test_a_picture_on_its_canvas_comes_out_as_it_was() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    canvas = on_canvas(pictures, manifest(Case(), ("probabilities",)))
    assert np.array_equal(keras.ops.convert_to_numpy(squaring(SPEC)(canvas)), pictures)
