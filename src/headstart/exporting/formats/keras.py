"""Write a model as one `.keras` file, and run it: for programs in Keras, on TensorFlow, JAX or PyTorch."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.backbones.keras_architecture import brief
from headstart.errors import BadBundle, BadExport
from headstart.exporting.format import Outputs
from headstart.exporting.formats import keras_archive, keras_refusals
from headstart.exporting.snippets import python
from headstart.networks import keras_backend

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from headstart.exporting.bundle import Bundle, Manifest
    from headstart.exporting.format import Engine, Format, Graph, Precision, Whole

FILE = "model.keras"
SQUARE = "square"  # the layer that brings photos to the square that the network takes
_PRECISIONS: dict[str, str] = {
    "fp16": "Keras computes in the type of its weights, and halves are slow on processors; take tflite or openvino",
    "int8": "Keras quantises dense layers and not convolutions; take openvino or onnx",
}


class KerasFormat:
    """`model.keras`, of Keras's own layers and operations alone."""

    name = "keras"
    about = "one file for Keras on TensorFlow, JAX or PyTorch, with layers to look into"
    precisions: tuple[Precision, ...] = ("fp32",)

    def refusal(self, engine: Engine, precision: Precision) -> str | None:
        """Networks of PyTorch are refused, and fewer bits."""
        return keras_refusals.NO_GRAPH if engine == "torch" else _PRECISIONS.get(precision)

    def check_installed(self, engine: Engine, precision: Precision) -> None:
        """Nothing: a run of Keras cannot be opened without it."""

    def write(self, whole: Whole, folder: Path, precision: Precision) -> None:
        """Let Keras write it, with the names of the classes inside; see `Format.write`."""
        from headstart.networks.keras_native import write

        try:
            write(whole.model, folder / FILE, whole.manifest.classes)
        except (ValueError, TypeError, NotImplementedError) as problem:
            raise BadExport(
                f"this network cannot be written as a Keras file: {brief(problem)}",
                fix="export it to another format, see docs/formats.md",
            ) from problem

    def open(self, bundle: Bundle) -> Graph:
        """The model in Keras, on the engine that this process has or can have; see `Format.open`."""
        path = bundle.file(FILE)
        start_keras()
        keras_archive.check(path)
        return _Graph(_loaded(path), bundle.manifest, path)

    def snippets(self, manifest: Manifest) -> Mapping[str, str]:
        """One for Python."""
        own = python(
            needs="keras and one of tensorflow, jax and torch",
            imports="import keras",
            opening='model = keras.models.load_model(bundle / "model.keras", compile=False)',
            answering="answer = {name: np.asarray(given) for name, given in model.predict(pixels, verbose=0).items()}",
        )
        return {"use.py": own}


FORMAT: Format = KerasFormat()


def start_keras() -> None:
    """Import Keras on some engine: which one is all the same to a `.keras` file.

    Raises:
        BadBundle: Keras, or every engine for it, is missing.
    """
    if "keras" in sys.modules:
        return
    engines = [*keras_backend.engines(), *(["torch"] if importlib.util.find_spec("torch") else [])]
    if importlib.util.find_spec("keras") is None or not engines:
        raise BadBundle(
            "to run a keras bundle, Keras and TensorFlow, JAX or PyTorch must be installed",
            fix='pip install "headstart[tensorflow]"',
        )
    if os.environ.get("KERAS_BACKEND", engines[0]) not in keras_backend.ENGINES:
        importlib.import_module("keras")
        return
    if "KERAS_BACKEND" not in os.environ and engines[0] == "torch":
        os.environ["KERAS_BACKEND"] = "torch"
        importlib.import_module("keras")
        return
    keras_backend.choose()


def _loaded(path: Path) -> Any:
    import keras

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how another version of Keras writes its files
            return keras.models.load_model(path, compile=False, safe_mode=True)
    # Keras raises nearly every built-in error for a file that is not as it should be.
    except Exception as problem:
        raise keras_refusals.unloadable(path, "Keras", problem) from problem


class _Graph:
    """A Keras model, for one thread at a time: each call takes all cores.

    It is parted at the backbone's square: JAX compiles anew for photos of another size, and the network takes it long.
    """

    concurrency = 1

    def __init__(self, model: Any, manifest: Manifest, path: Path) -> None:
        import keras

        if not _as_told(model, manifest):
            raise keras_refusals.another(path)
        self._manifest = manifest
        self._squaring = model.get_layer(SQUARE)
        self._answering = keras.Model(self._squaring._inbound_nodes[-1].outputs[0], model.output)
        self._calling = threading.Lock()
        # JAX compiles for each number of photos too; of powers of two there are few.
        self._padded = keras.backend.backend() == "jax"

    def photos(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        """Answers for photos of any one size."""
        with self._calling:
            pictures = np.asarray(self._squaring.predict_on_batch(pixels))
        return self.squares(pictures)

    def squares(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Outputs:
        """Answers for squares."""
        n = len(pictures)
        if self._padded:
            missing = (1 << max(n - 1, 0).bit_length()) - n
            pictures = np.concatenate([pictures, np.repeat(pictures[-1:], missing, axis=0)])
        with self._calling:
            given = self._answering.predict_on_batch(pictures)
        return Outputs(**{name: np.asarray(given[name])[:n] for name in self._manifest.outputs})


def _as_told(model: Any, manifest: Manifest) -> bool:
    """Whether a model takes photos and gives what its manifest says, by way of a square."""
    taken = [tuple(source.shape) for source in getattr(model, "inputs", ())]
    given, names = getattr(model, "output", None), [layer.name for layer in getattr(model, "layers", ())]
    outputs = isinstance(given, dict) and set(given) == set(manifest.outputs)
    return taken == [(None, None, None, 3)] and outputs and SQUARE in names
