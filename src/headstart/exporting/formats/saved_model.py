"""Write a model as TensorFlow's SavedModel, and run it: for TensorFlow Serving, and programs in TensorFlow."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BadBundle
from headstart.exporting.format import Outputs, on_canvas
from headstart.exporting.formats import keras_process, keras_refusals, saved_model_file
from headstart.exporting.snippets import python
from headstart.machine import cores

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from headstart.exporting.bundle import Bundle, Manifest
    from headstart.exporting.format import Engine, Format, Graph, Precision, Whole

FOLDER = "saved_model"
SIGNATURE = "serving_default"
_PRECISIONS: dict[str, str] = {
    "fp16": "TensorFlow computes in the type of the weights, and halves are slow on processors; take tflite",
    "int8": "TensorFlow runs SavedModels in floats; take tflite, openvino or onnx",
}


class SavedModelFormat:
    """`saved_model/`, with a signature from `pixels` to the outputs."""

    name = "saved_model"
    about = "a folder for TensorFlow, TensorFlow Serving and what reads their graphs"
    precisions: tuple[Precision, ...] = ("fp32",)

    def refusal(self, engine: Engine, precision: Precision) -> str | None:
        """Networks of PyTorch are refused, and fewer bits."""
        return keras_refusals.NO_GRAPH if engine == "torch" else _PRECISIONS.get(precision)

    def check_installed(self, engine: Engine, precision: Precision) -> None:
        """TensorFlow, also for what JAX has trained; see `Format.check_installed`."""
        keras_process.check_tensorflow(self.name)

    def write(self, whole: Whole, folder: Path, precision: Precision) -> None:
        """Let Keras on TensorFlow write it, in a process of its own; see `Format.write`."""
        what = "this network cannot be written as a SavedModel"
        keras_process.call_with(whole, write, str(folder / FOLDER), what=what)

    def open(self, bundle: Bundle) -> Graph:
        """The graph in OpenVINO, or in TensorFlow where that alone is installed; see `Format.open`."""
        folder = bundle.path / FOLDER
        for name in saved_model_file.FILES:
            bundle.file(f"{FOLDER}/{name}")
        saved_model_file.check(folder)
        if importlib.util.find_spec("openvino") is not None:
            from headstart.exporting.formats.openvino_graph import open_by_openvino

            return open_by_openvino(folder, bundle.manifest)
        if importlib.util.find_spec("tensorflow") is not None:
            return TensorFlowGraph(folder, bundle.manifest)
        raise BadBundle(
            "to run a saved_model bundle, OpenVINO or TensorFlow must be installed",
            fix='pip install "headstart[openvino]"',
        )

    def snippets(self, manifest: Manifest) -> Mapping[str, str]:
        """One for Python."""
        own = python(
            needs="tensorflow",
            imports="import tensorflow",
            opening=f'model = tensorflow.saved_model.load(bundle / "{FOLDER}").signatures["{SIGNATURE}"]',
            answering="answer = model(pixels=tensorflow.constant(pixels))",
        )
        return {"use.py": own}


FORMAT: Format = SavedModelFormat()


def write(path: str, folder: str) -> None:
    """Write the SavedModel of a `.keras` file, on TensorFlow."""
    import tensorflow

    model = keras_process.opened(path)

    def answer(pixels: Any) -> Any:
        return model(pixels, training=False)

    # Not `model.export`, which writes every weight twice: Keras's own variables, and TensorFlow's inside of them.
    module = tensorflow.Module()
    module.weights = [variable.value for variable in model.variables]
    pixels = tensorflow.TensorSpec((None, None, None, 3), tensorflow.uint8, name="pixels")
    module.answer = tensorflow.function(answer, input_signature=[pixels], autograph=False)
    tensorflow.saved_model.save(module, folder, signatures=module.answer)


class TensorFlowGraph:
    """A signature of a SavedModel in TensorFlow, which several threads may call."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow

        self.concurrency = cores()
        self._manifest, self._constant = manifest, tensorflow.constant
        try:
            self._model = tensorflow.saved_model.load(str(folder))  # kept: the signature does not hold its weights
            self._signature = self._model.signatures[SIGNATURE]
            _, taken = self._signature.structured_input_signature
            given = set(self._signature.structured_outputs)
        # TensorFlow raises nearly every built-in error for a folder that is not as it should be.
        except Exception as problem:
            raise keras_refusals.unloadable(folder, "TensorFlow", problem) from problem
        if set(taken) != {"pixels"} or not set(manifest.outputs) <= given:
            raise keras_refusals.another(folder)

    def photos(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        """Answers for photos of any one size."""
        given = self._signature(pixels=self._constant(pixels))
        return Outputs(**{name: given[name].numpy() for name in self._manifest.outputs})

    def squares(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Outputs:
        """Answers for squares, which the graph's own preprocessing leaves as they are."""
        return self.photos(on_canvas(pictures, self._manifest))
