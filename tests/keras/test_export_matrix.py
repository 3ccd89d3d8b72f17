"""A run of a small Keras network goes where the page of formats says, and is told why where it cannot go.

Each export is compared with its run, photo by photo, before it is kept; so that it is there says that both agree.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

import headstart
from headstart.errors import BadExport
from headstart.exporting.format import Precision, named

from .models import keras

pytestmark = pytest.mark.keras

ENGINE = keras.backend.backend()
FORMATS = ("onnx", "openvino", "torch", "keras", "saved_model", "tflite")
CELLS = list(itertools.product(FORMATS, get_args(Precision)))
YES = [(to, precision) for to, precision in CELLS if named(to).refusal(ENGINE, precision) is None]
# Graphs are made of the same `.keras` file on every engine. In eight bits a TFLite file is made of that in floats.
QUICK = {"tensorflow": {("keras", "fp32"), ("onnx", "fp32"), ("tflite", "int8")}, "jax": {("keras", "fp32")}}[ENGINE]
NEEDS = {
    "onnx": ("onnx", "onnxruntime", "torch"),
    "openvino": ("openvino", "onnx", "torch"),
    "saved_model": ("tensorflow",),
    "tflite": ("tensorflow", "ai_edge_litert", "ai_edge_quantizer"),
}
FURTHER = {("openvino", "int8"): ("nncf",)}


@pytest.fixture(scope="module")
def run(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Read it, do not change it."""
    folder = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(1)
    layers = keras.layers
    pixels = keras.Input((32, 32, 3))
    low = layers.Conv2D(16, 3, strides=4, activation="relu")(layers.Rescaling(1 / 127.5, -1)(pixels))
    high = layers.Conv2D(32, 3, padding="same", activation="relu")(low)  # large enough for eight bits
    top = layers.Dense(10)(layers.GlobalAveragePooling2D()(high))
    keras.Model(pixels, top).save(folder / "my-model.keras")
    out = folder / "photos"
    headstart.train(drawn_photos, backbone=f"file/{folder / 'my-model.keras'}", out=out, quality="fast")
    return out


def by_its_own_program(bundle: Path, photo: Path, folder: Path) -> tuple[str, float]:
    """What the program in the bundle says first, started from another folder, where no headstart can be imported."""
    (folder / "headstart.py").write_text("raise ImportError('this program has no headstart')")
    command = [sys.executable, str(bundle / "use.py"), str(photo)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    label, probability = done.stdout.splitlines()[0].rsplit(" ", 1)
    return label, float(probability)


@pytest.mark.parametrize(
    ("to", "precision"), [each if each in QUICK else pytest.param(*each, marks=pytest.mark.slow) for each in YES]
)
def test_a_run_goes_where_the_page_says(
    to: str, precision: Precision, run: Path, drawn_photos: Path, tmp_path: Path
) -> None:
    missing = [name for name in (*NEEDS.get(to, ()), *FURTHER.get((to, precision), ())) if find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    bundle = headstart.export(run, to=to, out=tmp_path / "bundle", precision=precision)
    parity = bundle.manifest.parity
    assert parity["n"] > 0
    assert parity["agreeing"] + parity["ties"] == parity["n"]
    assert parity["largest"] < {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.1}[precision]
    photo = drawn_photos / "grass" / "00.jpg"
    [answer] = headstart.predict(bundle.path, [photo])
    label, probability = by_its_own_program(bundle.path, photo, tmp_path)
    assert label == answer.label
    assert probability == pytest.approx(answer.probability, abs=1e-3)


@pytest.mark.parametrize(("to", "precision"), [each for each in CELLS if each not in YES])
def test_where_it_cannot_go_it_is_told_why_and_what_to_take(
    to: str, precision: Precision, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadExport) as refused:
        headstart.export(run, to=to, out=tmp_path / "bundle", precision=precision)
    assert str(named(to).refusal(ENGINE, precision)) in refused.value.what
    assert "use --" in refused.value.fix
    assert not any(tmp_path.iterdir())
