"""Make the new top of a Keras network: layers from a `Head`, the exact linear solution, or a user's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from headstart.errors import BadSetting
from headstart.heads import Dense, Dropout, Flatten, Head, LinearHead, Native

# Own layers that begin with one of these take pooled features; all others begin on the feature map.
ON_VECTORS = ("Dense", "Dropout", "Activation", "BatchNormalization", "LayerNormalization", "ReLU", "GaussianNoise")


def input_of(head: Head | LinearHead | Native) -> Literal["map", "pooled"]:
    """The cut that a head stands on."""
    if isinstance(head, LinearHead):
        return "pooled"
    if isinstance(head, Head):
        return head.input
    first = type(head.layers[0]).__name__ if head.layers else ""
    return "pooled" if first in ON_VECTORS else "map"


def top(head: Head | LinearHead | Native, shape: Sequence[int], classes: int, *, seed: int) -> keras.Sequential:
    """The layers from what crosses the head's cut, rows of this shape, to logits `[n k]`.

    Raises:
        BadSetting: a user's own layers do not end in one output a class.
    """
    if isinstance(head, Native):
        return _own(head, shape, classes)
    rng = np.random.default_rng(seed)
    model = keras.Sequential([keras.Input(tuple(shape))], name="head")
    if isinstance(head, LinearHead):
        model.add(keras.layers.Dense(classes))
        model.layers[-1].set_weights([head.weights.astype(np.float32), head.bias.astype(np.float32)])
        return model
    for layer in (*head.layers, Dense(classes, "linear")):
        match layer:
            case Flatten():
                model.add(keras.layers.Flatten())
            case Dropout(rate):
                model.add(keras.layers.Dropout(rate))
            case Dense(units, activation):
                model.add(keras.layers.Dense(units, activation=activation))
                _draw(model.layers[-1], rng)
    return model


def _draw(dense: Any, rng: np.random.Generator) -> None:
    """Glorot's uniform weights (2010), drawn here: each engine's own generator would start elsewhere."""
    taken, given = dense.kernel.shape
    reach = np.sqrt(6 / (taken + given))
    kernel = rng.uniform(-reach, reach, (taken, given)).astype(np.float32)
    dense.set_weights([kernel, np.zeros(given, np.float32)])


def _own(head: Native, shape: Sequence[int], classes: int) -> keras.Sequential:
    layers = list(head.layers)
    for layer in layers:
        if not isinstance(layer, keras.Layer):
            raise BadSetting(
                f"head layer {layer!r} is not a Keras layer",
                fix="give layers such as keras.layers.Flatten(), keras.layers.Dense(10, activation='softmax')",
            )
    if layers and _is_softmax(layers[-1]):
        layers.pop()
    elif layers and isinstance(layers[-1], keras.layers.Dense) and layers[-1].activation is keras.activations.softmax:
        layers[-1] = _linear(layers[-1])
    model = keras.Sequential([keras.Input(tuple(shape))], name="head")
    try:
        for layer in layers:
            model.add(layer)
    except (ValueError, TypeError) as problem:
        reason = str(problem).splitlines()[0]
        raise BadSetting(
            f"head layers {head} do not fit features of shape {tuple(shape)}: {reason}",
            fix="begin with Flatten or GlobalAveragePooling2D on a feature map, with Dense on pooled features",
        ) from problem
    given = tuple(model.output_shape[1:])
    if given != (classes,):
        outputs = given[0] if len(given) == 1 else given
        raise BadSetting(
            f"the head gives {outputs} outputs, but there are {classes} classes",
            fix=f"end it in Dense({classes}, activation='softmax')",
        )
    return model


def _is_softmax(layer: Any) -> bool:
    plain = isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.softmax
    return plain or isinstance(layer, keras.layers.Softmax)


def _linear(dense: Any) -> Any:
    """The same layer without its softmax: training wants logits, and the model adds its softmax itself."""
    copy = keras.layers.Dense.from_config({**dense.get_config(), "activation": "linear"})
    if dense.built:
        copy.build((None, dense.kernel.shape[0]))
        copy.set_weights(dense.get_weights())
    return copy
