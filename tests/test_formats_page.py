"""The page of formats says what the code says, and each framework gets the formats that it was promised."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from headstart.exporting.format import named

PAGES = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_formats", PAGES / "formats" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_formats_is_as_it_is_drawn(draw: ModuleType) -> None:
    assert (PAGES / "formats.md").read_text(encoding="utf-8") == draw.page(), "run python docs/formats/draw.py"


def test_onnx_and_openvino_take_every_framework_in_every_precision(draw: ModuleType) -> None:
    for name in ("onnx", "openvino"):
        assert {draw.reason(name, engine, precision) for engine in draw.ENGINES for precision in draw.PRECISIONS} == {
            None
        }


@pytest.mark.parametrize("engine", ["tensorflow", "jax"])
def test_keras_networks_go_to_the_formats_of_keras(engine: str, draw: ModuleType) -> None:
    assert [name for name in draw.FORMATS if draw.reason(name, engine, "fp32") is None] == [
        "onnx", "openvino", "keras", "saved_model", "tflite",
    ]  # fmt: skip


def test_a_network_of_pytorch_is_told_why_it_has_no_keras_file_and_what_to_take() -> None:
    for name in ("keras", "saved_model", "tflite"):
        said = named(name).refusal("torch", "fp32")
        assert said is not None
        assert "PyTorch network" in said
        assert "onnx" in said


def test_what_was_measured_is_on_the_page_and_what_failed_too(draw: ModuleType, tmp_path: Path) -> None:
    draw.RESULTS = tmp_path / "results.json"
    common = {"backbone": "keras/vgg16", "engine": "jax", "format": "tflite"}
    draw.keep({**common, "precision": "int8", "failed": "it cannot"})
    draw.keep({**common, "precision": "fp32", "n": 9, "agreeing": 9, "largest": 2e-7, "mb": 1.5, "seconds": 7.4})
    *_, first, second = draw.measured()
    assert first == "| keras/vgg16 | jax | `tflite` | fp32 | 9 | 9 | 2.0e-07 | 1.5 | 7 |"
    assert second == "| keras/vgg16 | jax | `tflite` | int8 | - | - | - | - | it cannot |"
