"""Write a model as OpenVINO's files, and run them on any processor, several times as fast as a training framework."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BadBundle, BadExport
from headstart.exporting.format import Outputs, on_canvas
from headstart.exporting.formats import openvino_square as square
from headstart.exporting.snippets import python
from headstart.machine import cores
from headstart.runtimes.openvino_conversion import library

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from headstart.exporting.bundle import Bundle, Manifest
    from headstart.exporting.format import Engine, Format, Graph, Precision, Whole

XML, WEIGHTS = "model.xml", "model.bin"
_EXTRA = 'pip install "headstart[openvino]"'
# Full precision: else OpenVINO takes a coarser one wherever the processor has it.
_OPENING = 'graph = openvino.Core().compile_model(bundle / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})'
_TAMPERED = "do not use it, or export it again"


class OpenVinoFormat:
    """`model.xml` and `model.bin`."""

    name = "openvino"
    about = "fast answers on processors, without a training framework"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")

    def refusal(self, engine: Engine, precision: Precision) -> str | None:
        """None: models of each framework can be written in each precision."""
        return None

    def check_installed(self, engine: Engine, precision: Precision) -> None:
        """See `Format.check_installed`."""
        _check_installed(BadExport, precision)

    def write(self, whole: Whole, folder: Path, precision: Precision) -> None:
        """Convert, name inputs and outputs, and write; see `Format.write`."""
        _check_installed(BadExport, precision)
        from headstart.exporting.formats.openvino_writing import converted, quantised

        model = converted(whole)
        square.mark(model, whole.manifest)
        if precision == "int8":
            model = quantised(model, whole)
        # Half of the bytes: only the file's weights are fp16, and answers are computed in full precision.
        library().save_model(model, folder / XML, compress_to_fp16=precision == "fp16")

    def open(self, bundle: Bundle) -> Graph:
        """The graph on this machine's processor; see `Format.open`."""
        bundle.file(WEIGHTS)
        return open_by_openvino(bundle.file(XML), bundle.manifest)

    def snippets(self, manifest: Manifest) -> Mapping[str, str]:
        """One for Python."""
        return {
            "use.py": python(
                needs="openvino",
                imports="import openvino",
                opening=_OPENING,
                answering="answer = graph([pixels])",
            )
        }


FORMAT: Format = OpenVinoFormat()


def open_by_openvino(path: Path, manifest: Manifest) -> Graph:
    """The graph in this file, which may be ONNX too, on this machine's processor.

    Raises:
        BadBundle: OpenVINO is not installed, or the file does not load or takes and gives something else.
    """
    _check_installed(BadBundle)
    graph = _Graph(path, manifest)
    graph.check()
    return graph


class _Graph:
    """Reads the file again for each of its two ways in, and compiles that which is asked for."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.concurrency = cores()
        self._path = path
        self._manifest = manifest
        self._model: Any = None
        self._own = threading.local()
        self._compiling = threading.Lock()

    def photos(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        """Answers for photos of any one size."""
        return self._answer("photos", pixels)

    def squares(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Outputs:
        """Answers for squares, without bringing them to a square again where the graph can be cut there."""
        with self._compiling:
            cut = self._squares
        return self._answer("squares", pictures) if cut else self.photos(on_canvas(pictures, self._manifest))

    def check(self) -> None:
        """Read the file, and refuse a graph that takes and gives something else than its manifest says."""
        self._model = self._read()
        _check_borders(self._model, self._manifest, self._path)

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

    @cached_property
    def _photos(self) -> Any:
        return self._compiled(self._read())

    @cached_property
    def _squares(self) -> Any | None:
        cut = square.cut(self._read())
        return None if cut is None else self._compiled(cut)

    def _compiled(self, model: Any) -> Any:
        settings = {
            # Without it OpenVINO takes bf16 by itself wherever the processor has it.
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": cores(),
            "INFERENCE_NUM_THREADS": cores(),
            "ENABLE_CPU_PINNING": False,
        }
        try:
            return library().Core().compile_model(model, "CPU", settings)
        except RuntimeError as problem:
            raise BadBundle(
                f"graph {str(self._path)!r} cannot be run by OpenVINO here: {last_line(problem)}", fix=_TAMPERED
            ) from problem

    def _answer(self, way: str, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        if not hasattr(self._own, way):
            with self._compiling:
                compiled: Any = self._squares if way == "squares" else self._photos
            setattr(self._own, way, compiled.create_infer_request())  # a request for each thread
        try:
            answered = getattr(self._own, way).infer([np.ascontiguousarray(pixels)])
        except RuntimeError as problem:
            raise BadBundle(
                f"graph {str(self._path)!r} failed on a photo: {last_line(problem)}", fix=_TAMPERED
            ) from problem
        # Copied: the request writes its next answers to the same place.
        return Outputs(**{name: np.array(answered[place]) for place, name in enumerate(self._manifest.outputs)})


def _check_installed(error: type[BadBundle] | type[BadExport], precision: Precision = "fp32") -> None:
    if importlib.util.find_spec("openvino") is None:
        raise error("OpenVINO, which this format needs, is not installed", fix=_EXTRA)
    if precision == "int8" and importlib.util.find_spec("nncf") is None:
        raise error("NNCF, which brings networks to eight bits, is not installed", fix='pip install "headstart[int8]"')


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
