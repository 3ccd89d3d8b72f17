"""Convert a Keras whole model to TFLite: in full precision, with weights of 16 bits, or with convolutions in 8.

All of it runs where Keras has TensorFlow, in a process of its own; see `keras_process`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headstart.errors import BadExport
from headstart.exporting.formats import keras_process

CALIBRATED = 64  # photos that eight bits are fitted to
FEWEST = 8  # the ranges of activations that fewer show are those of these photos
# What is computed in eight bits. All else stays in floats: the way to the square needs exact levels of colour, and
# probabilities, distance and heat their digits. With everything in eight bits the interpreter ends its process.
IN_EIGHT_BITS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


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
    """Write the TFLite file of a `.keras` file with its convolutions in eight bits, by the photos in a folder."""
    import tensorflow

    def examples() -> Iterator[dict[str, Any]]:
        for photo in sorted(Path(photos).iterdir()):
            yield {"pixels": np.load(photo)}

    with TemporaryDirectory(prefix="headstart-") as folder:
        converter = _converter(path, folder)
        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        converter.representative_dataset = examples
        # TensorFlow's only way to leave kinds of operation in floats; nothing is debugged.
        options = tensorflow.lite.experimental.QuantizationDebugOptions(denylisted_ops=_in_floats())
        debugger = tensorflow.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=examples, debug_options=options
        )
        Path(target).write_bytes(debugger.get_nondebug_quantized_model())


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

    keras_process.opened(path).export(folder, format="tf_saved_model", verbose=False)
    converter = tensorflow.lite.TFLiteConverter.from_saved_model(folder)
    converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def _in_floats() -> list[str]:
    """Every kind of operation that TFLite has, but those in eight bits."""
    from tensorflow.lite.python.schema_py_generated import BuiltinOperator

    return [name for name in vars(BuiltinOperator) if name.isupper() and name not in IN_EIGHT_BITS]
