"""Run a graph that OpenVINO reads, on any processor: photos of any size, or the backbone's squares."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BadBundle, BadExport
from headstart.exporting.format import Outputs, on_canvas
from headstart.exporting.formats import openvino_square as square
from headstart.machine import cores
from headstart.runtimes.openvino_conversion import library

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from headstart.exporting.bundle import Manifest
    from headstart.exporting.format import Graph

# Full precision: else OpenVINO takes bf16 by itself wherever the processor has it.
PRECISELY = {"INFERENCE_PRECISION_HINT": "f32"}
# Squares that a graph of a fixed length takes: with a length that is left open, small networks take a fifth longer.
TOGETHER = 2
# Bytes of weights above which the length stays open all the same: large networks gain nothing, and each length would
# hold the weights once more.
SMALL = 32 << 20
_PHOTOS, _ANY = 0, -1  # ways in, beside the lengths that are fixed
_EXTRA = 'pip install "headstart[openvino]"'
_TAMPERED = "do not use it, or export it again"


def open_by_openvino(path: Path, manifest: Manifest) -> Graph:
    """The graph in this file, which may be ONNX too, on this machine's processor.

    Raises:
        BadBundle: OpenVINO is not installed, or the file does not load or takes and gives something else.
    """
    check_installed(BadBundle)
    return _Graph(path, manifest)


def check_installed(error: type[BadBundle] | type[BadExport]) -> None:
    """Refuse where OpenVINO is missing.

    Raises:
        HeadstartError: of the kind that is given.
    """
    if importlib.util.find_spec("openvino") is None:
        raise error("OpenVINO, which this format needs, is not installed", fix=_EXTRA)


class _Graph:
    """Compiles each of its ways in when it is first asked for, and reads the file again for it."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Read the file, and refuse a graph that takes and gives something else than its manifest says."""
        self.concurrency = cores()
        self._path = path
        self._manifest = manifest
        self._model: Any = None
        self._compiled: dict[int, Any] = {}
        self._compiling = threading.Lock()
        self._own = threading.local()
        model = self._read()
        _check_borders(model, manifest, path)
        self._has_square = bool(square.found(model))
        self._fixed = _bytes_of_weights(model) <= SMALL
        self._model = model

    def photos(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        """Answers for photos of any one size."""
        return self._answer(_PHOTOS, pixels)

    def squares(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Outputs:
        """Answers for squares, without bringing them to a square again where the graph can be cut there."""
        if not self._has_square:
            return self.photos(on_canvas(pictures, self._manifest))
        if not self._fixed or not len(pictures):
            return self._answer(_ANY, pictures)
        parts = [pictures[first : first + TOGETHER] for first in range(0, len(pictures), TOGETHER)]
        return _joined([self._answer(len(part), part) for part in parts])

    def _answer(self, way: int, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        try:
            answered = self._request(way).infer([np.ascontiguousarray(pixels)])
        except RuntimeError as problem:
            raise BadBundle(
                f"graph {str(self._path)!r} failed on a photo: {last_line(problem)}", fix=_TAMPERED
            ) from problem
        # Copied: the request writes its next answers to the same place.
        return Outputs(**{name: np.array(answered[place]) for place, name in enumerate(self._manifest.outputs)})

    def _request(self, way: int) -> Any:
        """One of the calling thread's own: requests serve one thread at a time."""
        requests: dict[int, Any] = self._own.__dict__.setdefault("requests", {})
        if way not in requests:
            with self._compiling:
                if way not in self._compiled:
                    self._compiled[way] = self._compile(way)
            requests[way] = self._compiled[way].create_infer_request()
        return requests[way]

    def _compile(self, way: int) -> Any:
        settings = {
            **PRECISELY,
            "NUM_STREAMS": cores(),
            "INFERENCE_NUM_THREADS": cores(),
            "ENABLE_CPU_PINNING": False,
        }
        model = self._read()
        try:
            asked = model if way == _PHOTOS else square.cut(model, way)
            return library().Core().compile_model(asked, "CPU", settings)
        except RuntimeError as problem:
            raise BadBundle(
                f"graph {str(self._path)!r} cannot be run by OpenVINO here: {last_line(problem)}", fix=_TAMPERED
            ) from problem

    def _read(self) -> Any:
        """The model as the file has it: the one that was checked, where it was not used up yet."""
        known, self._model = self._model, None
        if known is not None:
            return known
        try:
            return _in_order(library().Core().read_model(self._path), self._manifest)
        except (RuntimeError, ValueError) as problem:
            raise BadBundle(
                f"graph {str(self._path)!r} does not load in OpenVINO: {last_line(problem)}", fix=_TAMPERED
            ) from problem


def _joined(parts: Sequence[Outputs]) -> Outputs:
    """The answers of all parts one after another."""
    if len(parts) == 1:
        return parts[0]
    rows = {
        each.name: [getattr(part, each.name) for part in parts]
        for each in fields(Outputs)
        if getattr(parts[0], each.name) is not None
    }
    return Outputs(**{name: np.concatenate(values) for name, values in rows.items()})


def _bytes_of_weights(model: Any) -> int:
    return sum(int(node.get_byte_size()) for node in model.get_ops() if node.get_type_name() == "Constant")


def _in_order(model: Any, manifest: Manifest) -> Any:
    """The model with its outputs in the manifest's order: a SavedModel has them in that of their names."""
    known = {name: output.get_node() for output in model.outputs for name in output.get_names()}
    if not set(manifest.outputs) <= known.keys() or len(manifest.outputs) != len(model.outputs):
        return model  # another one than the manifest tells of, which is found out next
    wanted = [known[name] for name in manifest.outputs]
    order = [result.get_friendly_name() for result in wanted]
    if order == [result.get_friendly_name() for result in model.get_results()]:
        return model
    return library().Model(wanted, model.get_parameters(), "headstart")


def _check_borders(model: Any, manifest: Manifest, path: Path) -> None:
    """Refuse a graph whose inputs and outputs are not those that its manifest tells of."""
    names = [sorted(output.get_names()) for output in model.outputs]
    fits = (
        len(model.inputs) == 1
        and model.inputs[0].get_element_type().get_type_name() == "u8"
        and len(names) == len(manifest.outputs)
        and all(name in known for name, known in zip(manifest.outputs, names, strict=True))
        and all(output.get_element_type().get_type_name() == "f32" for output in model.outputs)
        and _last_side(model.outputs[0]) in (None, len(manifest.classes))
    )
    if not fits:
        raise BadBundle(f"graph {str(path)!r} is not the one that its manifest describes", fix=_TAMPERED)


def _last_side(output: Any) -> int | None:
    shape = output.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) == 0 or shape[len(shape) - 1].is_dynamic:
        return None
    return int(shape[len(shape) - 1].get_length())


def last_line(problem: Exception) -> str:
    """What a library says at the end, after where in its own sources it says so."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1] if lines else type(problem).__name__
