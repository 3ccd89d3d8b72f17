"""Small Keras networks for the suite, on whichever engine Keras runs: KERAS_BACKEND says, by default TensorFlow."""

from __future__ import annotations

import numpy as np

from headstart.modalities.spec import InputSpec
from headstart.networks.keras_backend import choose

choose()

import keras  # noqa: E402  not before the engine is chosen
from keras import layers  # noqa: E402

from headstart.networks.keras import KerasNetwork  # noqa: E402


def small_keras_network(spec: InputSpec, kind: type[KerasNetwork] = KerasNetwork) -> KerasNetwork:
    """A stem, two blocks whose normalisation sits in a model of its own beside a skip connection, and a top."""
    source = keras.Input((spec.size, spec.size, 3))
    maps = normalised(layers.Conv2D(8, 3, strides=4, padding="same", name="stem_conv")(source), "stem")
    for name in ("block1", "block2"):
        inside = keras.Input(maps.shape[1:])
        changed = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(inside))
        block = keras.Model(inside, changed, name=f"{name}_inner")
        # `training=False` stored in the graph is how tutorials freeze a base; it must not hide from us what is inside.
        maps = layers.Add(name=f"{name}_add")([layers.ReLU(name=f"{name}_relu")(block(maps, training=False)), maps])
    maps = normalised(layers.Conv2D(16, 1, name="top_conv")(maps), "top")
    model = keras.Model(source, maps)
    drawn(model)
    return kind(model, spec=spec, groups=r"stem|block\d|top")


def normalised(maps: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(maps))


def drawn(model: keras.Model) -> None:
    """Weights that do not hang on the engine, and statistics that are not those of a fresh layer."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name == "kernel":
            spread = np.sqrt(2 / np.prod(variable.shape[:-1]))
            variable.assign(rng.normal(0, spread, variable.shape))
        elif variable.name == "moving_mean":
            variable.assign(rng.normal(0, 0.1, variable.shape))
        elif variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
