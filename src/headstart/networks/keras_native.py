"""Join preprocessing, backbone and head to one plain Keras model, and write it as a file that Keras alone can load."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from headstart.modalities.spec import InputSpec
from headstart.networks.keras_alone import without_tensorflow

FILE = "model.keras"
CLASSES = "classes.json"  # within that file: the names of the outputs, in order
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601: the same grey as in a photo that is read as grey


def preprocessing(spec: InputSpec) -> keras.Model:
    """From uint8 pixels `[n h w 3]` to what the backbone was trained on: channels in its order, then mean and std.

    Made of Keras's own layers and operations alone, so that it becomes part of the model's file.
    """
    pixels = keras.Input((spec.size, spec.size, 3), dtype="uint8")
    result = ops.cast(pixels, "float32")
    if spec.order == "bgr":
        result = ops.flip(result, axis=-1)
    if spec.order == "grey":
        grey = keras.layers.Dense(1, use_bias=False, trainable=False, name="grey")
        result = grey(result)
        grey.set_weights([np.array(LUMA, np.float32)[:, None]])
    if set(spec.mean) != {0.0} or set(spec.std) != {1.0}:
        channels = result.shape[-1]
        variance = [float(np.square(std)) for std in spec.std[:channels]]
        result = keras.layers.Normalization(mean=spec.mean[:channels], variance=variance)(result)
    return keras.Model(pixels, result, name="preprocessing")


def joined(
    spec: InputSpec,
    logits: Callable[[Any], Any],
    *,
    temperature: float = 1.0,
    views: Sequence[str] = ("plain",),
) -> keras.Model:
    """A model from uint8 pixels `[n h w 3]` to probabilities `[n k]`, averaged over views of a picture."""
    pixels = keras.Input((spec.size, spec.size, 3), dtype="uint8", name="pixels")
    turned = {"plain": pixels, **({"flip": ops.flip(pixels, axis=2)} if "flip" in views else {})}
    cool = keras.layers.Rescaling(1 / temperature, name="temperature") if temperature != 1 else None
    softmax = keras.layers.Softmax(name="probabilities")
    each = []
    for view in views:
        found = logits(turned[view])
        each.append(softmax(cool(found) if cool else found))
    return keras.Model(pixels, keras.layers.Average(name="views")(each) if len(each) > 1 else each[0], name="headstart")


def write(model: keras.Model, path: Path, classes: Sequence[str]) -> None:
    """Write the model as a `.keras` file with the names of its classes inside."""
    named = path.with_name(f"{path.name}.keras")  # Keras goes by the ending
    try:
        with without_tensorflow():
            model.save(named)
        with zipfile.ZipFile(named, "a") as file:
            file.writestr(CLASSES, json.dumps(list(classes), ensure_ascii=False))
        named.replace(path)
    finally:
        named.unlink(missing_ok=True)
