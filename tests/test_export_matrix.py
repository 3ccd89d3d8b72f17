"""What the page of formats promises for PyTorch, cell by cell: what is written agrees, what is refused says why."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from torch import nn

import headstart
from headstart.errors import BadExport
from headstart.exporting.bundle import Bundle
from headstart.exporting.exporting import check_possible
from headstart.exporting.format import FORMATS, Precision, Whole, named, on_canvas
from headstart.exporting.parity import compare
from headstart.outcome import outcome

from . import small_bundle
from .test_parity import labelled
from .test_torch_whole import SPEC

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CELLS = [(name, precision) for name in sorted(FORMATS.loadable()) for precision in PRECISIONS]
# As in docs/formats.md; a change there is a change here.
WRITTEN = {(name, precision) for name in ("onnx", "openvino") for precision in PRECISIONS} | {("torch", "fp32")}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "torch": ()}


def possible(name: str, precision: Precision) -> bool:
    form = named(name)
    return precision in form.precisions and form.refusal("torch", precision) is None


def test_the_cells_that_are_written_are_those_of_the_page() -> None:
    assert {cell for cell in CELLS if possible(*cell)} == WRITTEN


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """Graphs that were converted before, by their format."""
    return {}


@pytest.fixture
def converted(known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Converts as both formats do, and each of them once: all precisions begin with the same graph."""

    def once(module: ModuleType, copied: Callable[[Any], Any]) -> Callable[[Whole], Any]:
        convert = module.converted

        def graph(whole: Whole) -> Any:
            if module.__name__ not in known:
                known[module.__name__] = convert(whole)
            return copied(known[module.__name__])

        return graph

    for name, copied in {"onnx": copy.deepcopy, "openvino": lambda model: model.clone()}.items():
        if not missing(name, "fp32"):
            module = importlib.import_module(f"headstart.exporting.formats.{name}_writing")
            monkeypatch.setattr(module, "converted", once(module, copied))


def missing(name: str, precision: Precision) -> list[str]:
    needed = [*NEEDED[name], *(["nncf"] if (name, precision) == ("openvino", "int8") else [])]
    return [library for library in needed if importlib.util.find_spec(library) is None]


# These are written of another tiny network by tests of their own format.
ALREADY = {("openvino", "fp16"), ("openvino", "int8")}


@pytest.mark.usefixtures("converted")
@pytest.mark.parametrize(
    ("name", "precision"),
    [pytest.param(*cell, marks=[pytest.mark.slow] if cell in ALREADY else []) for cell in sorted(WRITTEN)],
)
def test_what_is_written_agrees_with_its_network(
    name: str, precision: Precision, drawn_photos: Path, tmp_path: Path
) -> None:
    if lacking := missing(name, precision):
        pytest.skip(f"{lacking[0]} is not installed")
    asked = labelled(drawn_photos)
    model = asked.model
    assert model.novelty is not None
    manifest = replace(
        small_bundle.manifest(name),
        precision=precision,
        spec=SPEC,
        classes=asked.photos.classes,
        outputs=("probabilities", "distance", "heat"),
        temperature=model.temperature,
        threshold=model.novelty.threshold,
    )
    made = model.network.whole(temperature=model.temperature, views=model.views, novelty=model.novelty, heat=True)
    samples = (on_canvas(model.modality.decode(file.read_bytes(), SPEC)[None], manifest) for file in asked.photos.files)
    named(name).write(Whole(engine="torch", model=made, manifest=manifest, samples=samples), tmp_path, precision)
    graph = named(name).open(Bundle.seal(tmp_path, manifest))
    parity = outcome(compare(asked, graph, precision))
    parity.check()
    assert parity.agreeing >= 0.9 * parity.n


@pytest.mark.parametrize(("name", "precision"), [cell for cell in CELLS if cell not in WRITTEN])
def test_what_is_refused_says_why_and_where_to_go(name: str, precision: Precision) -> None:
    form = named(name)
    with pytest.raises(BadExport) as refused:
        check_possible(form, "torch", precision)
    why = form.refusal("torch", precision) if precision in form.precisions else f"not written in {precision}"
    assert str(why) in refused.value.what
    ways = [other for other, kind in WRITTEN if kind == precision]
    assert all(way in refused.value.fix for way in ways), refused.value.fix
    others = {other for other, _ in CELLS} - set(ways) - {name}
    assert not [other for other in others if f" {other}" in refused.value.fix], "each way out is one"


class Own(nn.Module):
    """A network of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.top(self.stem(pictures))


@pytest.fixture(scope="module")
def own(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of a network that only its file knows."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    lengths = ({0: torch.export.Dim("n")},)
    program = torch.export.export(Own().eval(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=lengths)
    torch.export.save(program, folder / "own.pt2")
    return headstart.train(
        drawn_photos, backbone=f"file/{folder / 'own.pt2'}", out=folder / "run", quality="fast", report="off"
    )


@pytest.mark.parametrize(
    "name", [pytest.param("onnx", marks=pytest.mark.slow), pytest.param("openvino", marks=pytest.mark.slow), "torch"]
)
def test_a_network_of_the_users_own_goes_where_ours_go(own: Any, name: str, tmp_path: Path) -> None:
    for needed in NEEDED[name]:
        pytest.importorskip(needed)
    bundle = headstart.export(own, to=name, out=tmp_path / name)
    assert bundle.manifest.parity["agreeing"] == bundle.manifest.parity["n"]
