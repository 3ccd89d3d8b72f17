"""The OpenVINO format: a PyTorch model is written so that photos of any size and squares have its own answers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.errors import BadExport
from headstart.exporting.bundle import Bundle
from headstart.exporting.format import Graph, Whole, named, on_canvas
from headstart.exporting.formats import openvino_graph, openvino_square

from . import small_bundle

torch = pytest.importorskip("torch", reason="needs PyTorch, whose model is written")
pytest.importorskip("openvino", reason="needs OpenVINO, which writes it")

SIZE = 16
MANIFEST = replace(
    small_bundle.manifest("openvino"), spec=replace(small_bundle.SPEC, size=SIZE, crop=0.5), outputs=("probabilities",)
)
MANIFEST = replace(MANIFEST, threshold=None, false_alarms=None)


class Small(torch.nn.Module):  # type: ignore[misc]
    """The middle of a photo that is brought to 32 pixels, two convolutions, three classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 20, 3), torch.nn.ReLU(), torch.nn.Conv2d(20, 20, 3), torch.nn.AdaptiveAvgPool2d(1)
        )
        self.head = torch.nn.Linear(20, 3)

    def forward(self, pixels: Any) -> tuple[Any]:
        def rows(side: int) -> Any:
            places = torch.arange(side, dtype=torch.float32) * (2 * SIZE) / side
            wanted = torch.arange(SIZE, dtype=torch.float32)[:, None] + SIZE // 2
            near = ((places[None] - wanted).abs() < 0.5).float()
            return near / near.sum(1, keepdim=True).clamp(min=1.0)

        photos = pixels.permute(0, 3, 1, 2).float()
        square = torch.floor(rows(pixels.shape[1]) @ photos @ rows(pixels.shape[2]).T + 0.5).clamp(0.0, 255.0)
        return (torch.softmax(self.head(self.layers(square / 255).flatten(1)), 1),)


def written(folder: Path, precision: Any = "fp32", samples: int = 16) -> Graph:
    rng = np.random.default_rng(0)
    photos = (rng.integers(0, 256, (1, 40, 50, 3), np.uint8) for _ in range(samples))
    folder.mkdir()
    manifest = replace(MANIFEST, precision=precision)
    named("openvino").write(Whole(engine="torch", model=Small(), manifest=manifest, samples=photos), folder, precision)
    return named("openvino").open(Bundle.seal(folder, manifest))


def expected(pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(Small()(torch.from_numpy(pixels))[0])


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return written(tmp_path_factory.mktemp("written") / "fp32")


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 96), (2, 33, 200)])
def test_photos_of_any_size_have_the_models_answers(shape: tuple[int, int, int], graph: Graph) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_allclose(graph.photos(pixels).probabilities, expected(pixels), atol=1e-5)


def test_squares_enter_behind_the_preprocessing_and_have_the_same_answers(graph: Graph) -> None:
    pictures = np.random.default_rng(2).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    assert graph._has_square, "the graph has a square to cut it at"  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        graph.squares(pictures).probabilities, expected(on_canvas(pictures, MANIFEST)), atol=1e-5
    )


def test_the_graph_of_a_run_with_all_that_it_says_is_cut_at_its_square(tmp_path: Path) -> None:
    from . import test_torch_whole as real

    model = real.tiny().whole(temperature=0.7, views=("plain", "flip"), novelty=real.novelty(), heat=True)
    outputs = ("probabilities", "distance", "heat")
    manifest = replace(MANIFEST, spec=real.SPEC, outputs=outputs, threshold=1.0, false_alarms=0.05)
    (folder := tmp_path / "written").mkdir()
    named("openvino").write(Whole(engine="torch", model=model, manifest=manifest, samples=iter(())), folder, "fp32")
    graph = named("openvino").open(Bundle.seal(folder, manifest))
    pictures = np.random.default_rng(2).integers(0, 256, (3, real.SPEC.size, real.SPEC.size, 3), np.uint8)
    assert graph._has_square, "the graph has a square to cut it at"  # type: ignore[attr-defined]
    for name in outputs:
        whole, cut = getattr(graph.photos(on_canvas(pictures, manifest)), name), getattr(graph.squares(pictures), name)
        np.testing.assert_allclose(cut, whole, atol=1e-5)


def test_every_number_of_squares_has_the_answers_that_each_has_alone(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = np.random.default_rng(2).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    alone = np.concatenate([graph.squares(picture[None]).probabilities for picture in pictures])
    for n in range(1, 6):
        np.testing.assert_allclose(graph.squares(pictures[:n]).probabilities, alone[:n], atol=1e-6)
    assert graph.squares(pictures[:0]).probabilities.shape == (0, 3)
    monkeypatch.setattr(openvino_graph, "SMALL", 0)  # a large network is not compiled for each number
    large = named("openvino").open(Bundle.open(graph._path.parent))  # type: ignore[attr-defined]
    np.testing.assert_allclose(large.squares(pictures).probabilities, alone, atol=1e-6)


def test_a_graph_without_a_square_answers_by_way_of_a_canvas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: Graph
) -> None:
    monkeypatch.setattr(openvino_square, "mark", lambda model, manifest: None)
    pictures = np.random.default_rng(2).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    other = written(tmp_path / "plain").squares(pictures)
    np.testing.assert_allclose(other.probabilities, graph.squares(pictures).probabilities, atol=1e-5)


def test_halves_take_half_of_the_bytes_and_eight_bits_are_near(tmp_path: Path, graph: Graph) -> None:
    pytest.importorskip("nncf", reason="needs NNCF, which quantises")
    pixels = np.random.default_rng(3).integers(0, 256, (4, 40, 50, 3), np.uint8)
    wanted = graph.photos(pixels).probabilities
    for precision in ("fp16", "int8"):
        found = written(tmp_path / precision, precision).photos(pixels).probabilities
        np.testing.assert_allclose(found, wanted, atol=0.02)
        assert not np.array_equal(found, wanted), "else nothing was made smaller"


@pytest.mark.slow
def test_layers_of_few_channels_stay_out_of_eight_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf", reason="needs NNCF, which quantises")

    def eight_bit_weights(folder: Path) -> int:
        written(folder, "int8")
        return (folder / "model.xml").read_text().count('element_type="i8"')

    from headstart.exporting.formats import openvino_writing

    wide = eight_bit_weights(tmp_path / "wide")
    monkeypatch.setattr(openvino_writing, "NARROW", 20)
    assert (wide, eight_bit_weights(tmp_path / "narrow")) == (1, 0)


def test_eight_bits_need_a_few_photos(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs NNCF, which quantises")
    with pytest.raises(BadExport, match="eight bits need at least 8 photos to be fitted to, and 3 can be read"):
        written(tmp_path / "few", "int8", samples=3)


def test_a_missing_library_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_graph.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadExport, match="OpenVINO, which this format needs, is not installed") as caught:
        written(tmp_path / "none")
    assert caught.value.fix == 'pip install "headstart[openvino]"'
    shutil.rmtree(tmp_path / "none")
