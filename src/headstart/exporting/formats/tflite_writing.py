"""Convert a Keras whole model to TFLite: in full precision, with weights of 16 bits, or with large convolutions in 8.

All of it runs where Keras has TensorFlow, in a process of its own; see `keras_process`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headstart.errors import BadExport
from headstart.exporting.formats import saved_model
from headstart.machine import cores

CALIBRATED = 64  # photos that eight bits are fitted to
FEWEST = 8  # the ranges of activations that fewer show are those of these photos
# Convolutions with fewer weights stay in floats: among few channels every digit counts, and they hardly weigh anything.
# In MobileNetV2 (alpha .35) they are 16 % of the weights; with all in eight bits probabilities differ by up to .20,
# without them by up to .06. All that is no convolution stays in floats too: the way to the square needs exact levels of
# colour, and probabilities, distance and heat their digits.
FEWEST_WEIGHTS = 4096


def write(path: str, target: str, precision: str) -> None:
    """Write the TFLite file of a `.keras` file in `fp32`, or with weights in `fp16`."""
    import tensorflow

    with TemporaryDirectory(prefix="headstart-") as folder:
        converter = _converter(path, folder)
        if precision == "fp16":
            converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tensorflow.float16]
        Path(target).write_bytes(converter.convert())


def write_int8(path: str, target: str, photos: str) -> None:
    """Write the TFLite file of a `.keras` file with its large convolutions in eight bits, by the photos in a folder."""
    from ai_edge_quantizer.quantizer import Quantizer

    with TemporaryDirectory(prefix="headstart-") as folder:
        floats = _converter(path, folder).convert()
    quantizer = Quantizer(floats, _recipe(floats))
    examples = [{"pixels": np.load(photo)} for photo in sorted(Path(photos).iterdir())]
    seen = quantizer.calibrate({"serving_default": examples}, num_threads=cores())
    Path(target).write_bytes(quantizer.quantize(seen).quantized_model)


def keep(photos: Iterator[UInt8[np.ndarray, "1 h w 3"]], folder: Path) -> None:
    """Put photos into a folder, for the other process.

    Raises:
        BadExport: there are too few.
    """
    count = 0
    for count, pixels in enumerate(islice(photos, CALIBRATED), start=1):
        np.save(folder / f"{count:04}.npy", pixels)
    if count < FEWEST:
        raise BadExport(
            f"eight bits need at least {FEWEST} photos to be fitted to, and {count} can be read",
            fix="export it with --precision fp16",
        )


def _converter(path: str, folder: str) -> Any:
    import tensorflow

    saved_model.write(path, folder)
    converter = tensorflow.lite.TFLiteConverter.from_saved_model(folder)
    converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def _recipe(floats: bytes) -> Any:
    """Weights and activations of the large convolutions in eight bits, each channel by its own scale."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator, ModelT
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    model, recipe = ModelT.InitFromPackedBuf(floats, 0), RecipeManager()
    convolutions = {
        BuiltinOperator.CONV_2D: TFLOperationName.CONV_2D,
        BuiltinOperator.DEPTHWISE_CONV_2D: TFLOperationName.DEPTHWISE_CONV_2D,
    }
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = convolutions.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
            if kind is not None and math.prod(graph.tensors[operator.inputs[1]].shape) >= FEWEST_WEIGHTS:
                name = re.escape(graph.tensors[operator.outputs[0]].name.decode())
                recipe.add_static_config(f"^{name};?$", kind, activation_num_bits=8, weight_num_bits=8)
    if not recipe.get_quantization_recipe():
        raise BadExport(
            f"eight bits are for convolutions with {FEWEST_WEIGHTS} weights or more, and this network has none",
            fix="export it with --precision fp16",
        )
    return recipe.get_quantization_recipe()
