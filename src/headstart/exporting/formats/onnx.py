"""Write a model as one ONNX file, and run it: the format that the most other programs read."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BadBundle, BadExport
from headstart.exporting.format import Outputs, on_canvas
from headstart.exporting.formats import onnx_file
from headstart.exporting.formats.onnx_snippets import snippets
from headstart.machine import cores

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from headstart.exporting.bundle import Bundle, Manifest
    from headstart.exporting.format import Engine, Format, Graph, Precision, Whole

FILE = "model.onnx"
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
_EXTRA = 'pip install "headstart[onnx]"'
_TAMPERED = "do not use it, or export it again"
_LARGEST = (1 << 31) - 1  # bytes of one file; beyond it weights would have to lie elsewhere
_QUIET = 4  # of ONNX Runtime's log: fatal errors alone


class OnnxFormat:
    """`model.onnx`, with everything inside."""

    name = "onnx"
    about = "one file for ONNX Runtime, browsers, Java, C#, phones and most accelerators"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")

    def refusal(self, engine: Engine, precision: Precision) -> str | None:
        """None: models of each framework can be written in each precision."""
        return None

    def check_installed(self, engine: Engine, precision: Precision) -> None:
        """See `Format.check_installed`."""
        missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        if missing:
            raise BadExport(f"to write onnx, {' and '.join(missing)} must be installed", fix=_EXTRA)

    def write(self, whole: Whole, folder: Path, precision: Precision) -> None:
        """Export, name, check and write; see `Format.write`."""
        from headstart.exporting.formats import onnx_precision, onnx_writing

        path = folder / FILE
        model = onnx_writing.named(onnx_writing.converted(whole), whole.manifest)
        if precision == "fp16":
            model = onnx_precision.halved(model)
        elif precision == "int8":
            model = onnx_precision.quantised(model, whole)
        onnx_writing.save(onnx_writing.labelled(model, _facts(whole.manifest, precision)), path, _LARGEST)

    def open(self, bundle: Bundle) -> Graph:
        """The graph in ONNX Runtime, or in OpenVINO where that alone is installed; see `Format.open`."""
        path = bundle.file(FILE)
        onnx_file.check(path)
        if importlib.util.find_spec("onnxruntime") is not None:
            return _Graph(path, bundle.manifest)
        if importlib.util.find_spec("openvino") is not None:
            from headstart.exporting.formats.openvino_graph import open_by_openvino

            return open_by_openvino(path, bundle.manifest)
        raise BadBundle("to run an onnx bundle, onnxruntime must be installed", fix=_EXTRA)

    def snippets(self, manifest: Manifest) -> Mapping[str, str]:
        """For Python, for JavaScript and for a browser's page."""
        return snippets(manifest)


FORMAT: Format = OnnxFormat()


def _facts(manifest: Manifest, precision: str) -> dict[str, str]:
    """What the file says of itself, for whoever has nothing but it."""
    facts = {
        "classes": list(manifest.classes),
        "temperature": manifest.temperature,
        "threshold": manifest.threshold,
        "spec": asdict(manifest.spec),
        "backbone": dict(manifest.backbone),
        "licence": manifest.backbone.get("licence", ""),
        "precision": precision,
        "headstart": manifest.headstart,
    }
    return {
        name: fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False) for name, fact in facts.items()
    }


class _Graph:
    """A session of ONNX Runtime, which several threads may call. One call already takes all cores."""

    concurrency = 1

    def __init__(self, path: Path, manifest: Manifest) -> None:
        import onnxruntime

        self._manifest = manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.log_severity_level = _QUIET
        # Threads that spin while they wait take the cores from whoever decodes the next photo.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # of the library's own kinds, one for each way in which a file can be wrong
            raise BadBundle(
                f"graph {str(path)!r} does not load in ONNX Runtime: {_said(problem)}", fix=_TAMPERED
            ) from problem
        _check_borders(self._session, manifest, path)

    def photos(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        """Answers for photos of any one size."""
        try:
            answers = self._session.run(list(self._manifest.outputs), {"pixels": np.ascontiguousarray(pixels)})
        except Exception as problem:
            raise BadBundle(f"graph failed on a photo in ONNX Runtime: {_said(problem)}", fix=_TAMPERED) from problem
        return Outputs(**dict(zip(self._manifest.outputs, answers, strict=True)))

    def squares(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Outputs:
        """Answers for squares, which the graph's own preprocessing leaves as they are."""
        return self.photos(on_canvas(pictures, self._manifest))


def _check_borders(session: Any, manifest: Manifest, path: Path) -> None:
    """Refuse a graph that takes or gives something else than its manifest says."""
    taken = [(put.name, put.type, len(put.shape)) for put in session.get_inputs()]
    given = {put.name for put in session.get_outputs()}
    if taken != [("pixels", "tensor(uint8)", 4)] or not set(manifest.outputs) <= given:
        raise BadBundle(
            f"graph {str(path)!r} does not take photos and give {', '.join(manifest.outputs)}", fix=_TAMPERED
        )


def _said(problem: Exception) -> str:
    """The first line of what the library says about a problem."""
    return next(iter(str(problem).splitlines()), type(problem).__name__)[:200].rstrip(".:")
