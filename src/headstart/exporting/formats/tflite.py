"""Write a model as one TFLite file, and run it: for phones and small machines, by LiteRT."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BadBundle, BadExport
from headstart.exporting.format import Outputs, on_canvas
from headstart.exporting.formats import keras_process, keras_refusals, tflite_file
from headstart.exporting.snippets import python
from headstart.machine import cores
from headstart.networks.keras_backend import without_lines

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from headstart.exporting.bundle import Bundle, Manifest
    from headstart.exporting.format import Engine, Format, Graph, Precision, Whole

FILE = "model.tflite"
_NOTICES = (b"INFO: Created TensorFlow Lite",)


class TfliteFormat:
    """`model.tflite`, of TFLite's own operations alone."""

    name = "tflite"
    about = "one file for LiteRT on phones and small machines"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")

    def refusal(self, engine: Engine, precision: Precision) -> str | None:
        """Networks of PyTorch are refused."""
        return keras_refusals.NO_GRAPH if engine == "torch" else None

    def check_installed(self, engine: Engine, precision: Precision) -> None:
        """TensorFlow, also for what JAX has trained, and what makes eight bits; see `Format.check_installed`."""
        keras_process.check_tensorflow(self.name)
        if precision == "int8" and importlib.util.find_spec("ai_edge_quantizer") is None:
            raise BadExport(
                "to export to tflite in int8, ai-edge-quantizer must be installed",
                fix='pip install "headstart[tflite-int8]", or leave --precision out',
            )

    def write(self, whole: Whole, folder: Path, precision: Precision) -> None:
        """Convert it by TensorFlow, in a process of its own; see `Format.write`."""
        from headstart.exporting.formats import tflite_writing

        target, what = str(folder / FILE), "this network cannot be written as TFLite"
        if precision != "int8":
            keras_process.call_with(whole, tflite_writing.write, target, precision, what=what)
            return
        with TemporaryDirectory(prefix="headstart-") as photos:
            tflite_writing.keep(whole.samples, Path(photos))
            keras_process.call_with(whole, tflite_writing.write_int8, target, photos, what=what)

    def open(self, bundle: Bundle) -> Graph:
        """The graph in LiteRT, or in TensorFlow's own interpreter; see `Format.open`."""
        path = bundle.file(FILE)
        tflite_file.check(path)
        return _Graph(path, bundle.manifest)

    def snippets(self, manifest: Manifest) -> Mapping[str, str]:
        """One for Python."""
        own = python(
            needs="ai-edge-litert",
            imports="from ai_edge_litert.interpreter import Interpreter",
            opening=f'model = Interpreter(str(bundle / "{FILE}")).get_signature_runner()',
            answering="answer = model(pixels=pixels)",
        )
        return {"use.py": own}


FORMAT: Format = TfliteFormat()


class _Graph:
    """An interpreter, for one thread at a time: each call takes all cores."""

    concurrency = 1

    def __init__(self, path: Path, manifest: Manifest) -> None:
        interpreter = _interpreter()
        self._manifest = manifest
        self._calling = threading.Lock()
        try:
            with warnings.catch_warnings(), without_lines(_NOTICES):
                warnings.simplefilter("ignore")  # of TensorFlow's, about where its interpreter has moved
                self._model = interpreter(str(path), num_threads=cores())
                self._model.allocate_tensors()
            self._runner = self._model.get_signature_runner()
            taken, given = self._runner.get_input_details(), self._runner.get_output_details()
        except (RuntimeError, ValueError) as problem:
            raise keras_refusals.unloadable(path, "LiteRT", problem) from problem
        if set(taken) != {"pixels"} or taken["pixels"]["dtype"] != np.uint8 or not set(manifest.outputs) <= set(given):
            raise keras_refusals.another(path)

    def photos(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        """Answers for photos of any one size."""
        with self._calling:
            given = self._runner(pixels=pixels)
            return Outputs(**{name: np.array(given[name]) for name in self._manifest.outputs})

    def squares(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Outputs:
        """Answers for squares, which the graph's own preprocessing leaves as they are."""
        return self.photos(on_canvas(pictures, self._manifest))


def _interpreter() -> Any:
    if importlib.util.find_spec("ai_edge_litert") is not None:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    if importlib.util.find_spec("tensorflow") is not None:
        import tensorflow

        return tensorflow.lite.Interpreter
    raise BadBundle("to run a tflite bundle, LiteRT must be installed", fix='pip install "headstart[tflite]"')
