"""Turn a Keras whole model into an ONNX graph, whatever engine it was trained on.

Keras has a way out to ONNX for each engine; that of PyTorch alone makes plain graphs and leaves the sides of photos
open. It runs in a process of its own, on the `.keras` file of the model: so those of TensorFlow and JAX take it too.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from headstart.errors import BadExport
from headstart.exporting.formats import keras_process
from headstart.networks.network import OUTPUTS

# Ways out of Keras: the engine that it must run on, and what must be installed for it, the better one first.
WAYS = {"torch": ("torch", "onnx"), "tensorflow": ("tensorflow", "tf2onnx")}


def onnx_of_keras(path: Path) -> bytes:
    """The ONNX graph of the whole model in this `.keras` file, with its outputs in the manifest's order.

    Raises:
        BadExport: neither PyTorch nor TensorFlow with tf2onnx is installed, or it cannot be converted.
    """
    engine = next((engine for engine, needs in WAYS.items() if all(map(importlib.util.find_spec, needs))), None)
    if engine is None:
        raise BadExport(
            "Keras turns models into ONNX by PyTorch, or by TensorFlow with tf2onnx, and neither is installed",
            fix='pip install "headstart[onnx]" torch',
        )
    with TemporaryDirectory(prefix="headstart-") as folder:
        target = Path(folder) / "whole.onnx"
        what = "this network cannot be written as ONNX"
        keras_process.call(write, str(path), str(target), engine=engine, what=what)
        return target.read_bytes()


def write(path: str, target: str) -> None:
    """Write the graph of a `.keras` file, on the engine that this process has."""
    import keras

    whole = keras_process.opened(path)
    pixels = keras.InputSpec(shape=(None, None, None, 3), dtype="uint8", name="pixels")
    in_order(whole).export(target, format="onnx", verbose=False, input_signature=[pixels])


def in_order(whole: Any) -> Any:
    """The same model with its outputs in the manifest's order: Keras sorts those of a dictionary by their names."""
    import keras

    return keras.Model(whole.inputs[0], [whole.output[name] for name in OUTPUTS if name in whole.output])
