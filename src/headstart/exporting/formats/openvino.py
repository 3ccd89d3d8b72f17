"""Write a model as OpenVINO's files, and run them on any processor, several times as fast as a training framework."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import BadBundle, BadExport
from headstart.exporting.format import named
from headstart.exporting.formats import openvino_square as square
from headstart.exporting.formats.openvino_graph import PRECISELY, check_installed, open_by_openvino
from headstart.exporting.snippets import python
from headstart.runtimes.openvino_conversion import library

if TYPE_CHECKING:
    from headstart.exporting.bundle import Bundle, Manifest
    from headstart.exporting.format import Engine, Format, Graph, Precision, Whole

XML, WEIGHTS = "model.xml", "model.bin"
_OPENING = f'graph = openvino.Core().compile_model(bundle / "model.xml", "CPU", {json.dumps(PRECISELY)})'
_TAMPERED = "do not use it, or export it again"
_START = b"<?xml"  # of every file that OpenVINO writes


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
        _check_installed(precision)
        if engine == "jax":  # whose programs OpenVINO cannot read: they come by way of ONNX
            named("onnx").check_installed(engine, precision)

    def write(self, whole: Whole, folder: Path, precision: Precision) -> None:
        """Convert, name inputs and outputs, and write; see `Format.write`."""
        _check_installed(precision)
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
        path = bundle.file(XML)
        with path.open("rb") as file:
            start = file.read(len(_START))
        if start != _START:
            # OpenVINO goes by the content: it would take an ONNX file of this name, and what that names beside it.
            raise BadBundle(f"graph {str(path)!r} does not load in OpenVINO: it is of another kind", fix=_TAMPERED)
        return open_by_openvino(path, bundle.manifest)

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


def _check_installed(precision: Precision) -> None:
    check_installed(BadExport)
    if precision == "int8" and importlib.util.find_spec("nncf") is None:
        raise BadExport(
            "NNCF, which brings networks to eight bits, is not installed", fix='pip install "headstart[int8]"'
        )
