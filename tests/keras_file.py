"""A tiny Keras network in a file, and the engines to train it with, for tests of the whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

SIZE = 32  # pixels


def small(path: Path, *, code: bool = False) -> Path:
    """Write a network of three blocks with a classifier: a map of 4 x 4 x 24. With `code`, its scaling is a Lambda."""
    from headstart.networks import keras_backend

    keras_backend.choose()
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(1)
    scaling: Any = layers.Lambda(lambda pixels: pixels / 255) if code else layers.Rescaling(1 / 255)
    blocks = []
    for width in (8, 16, 24):
        name = f"block{width}"
        convolution = layers.Conv2D(width, 3, strides=2, padding="same", name=f"{name}_conv")
        blocks += [convolution, layers.BatchNormalization(name=f"{name}_bn"), layers.ReLU(name=f"{name}_relu")]
    top = [layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")]
    keras.Sequential([keras.Input((SIZE, SIZE, 3)), scaling, *blocks, *top]).save(path)
    return path


def this_engine() -> str:
    """The engine that commands without `--framework` use in these tests."""
    return os.environ.get("KERAS_BACKEND") or "tensorflow"


def other_engine() -> str:
    """The one of the two that they do not use."""
    return "jax" if this_engine() == "tensorflow" else "tensorflow"
