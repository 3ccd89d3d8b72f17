"""Make the new top of a Keras network: layers from a `Head`, the exact linear solution, or a user's own layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    first = next(_chain(head.layers), None)
    return "pooled" if type(first).__name__ in ON_VECTORS else "map"


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
        model.add(keras.layers.Dense(classes, kernel_initializer="zeros"))  # what is drawn would be thrown away
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


def seeds_of(head: Any) -> list[keras.Variable]:
    """What its dropout draws from; nothing, where there is no head yet."""
    found = head.variables if head is not None else []
    return [variable for variable in found if variable.name == "seed_generator_state"]


def _draw(dense: Any, rng: np.random.Generator) -> None:
    """Glorot's uniform weights (2010), drawn here: each engine's own generator would start elsewhere."""
    taken, given = dense.kernel.shape
    reach = np.sqrt(6 / (taken + given))
    kernel = rng.uniform(-reach, reach, (taken, given)).astype(np.float32)
    dense.set_weights([kernel, np.zeros(given, np.float32)])


def _own(head: Native, shape: Sequence[int], classes: int) -> keras.Sequential:
    layers = list(_chain(head.layers))
    if not layers:
        raise BadSetting("the head has no layers", fix=f"give at least Dense({classes}, activation='softmax')")
    last = layers[-1]
    if isinstance(last, keras.layers.Softmax) or (isinstance(last, keras.layers.Activation) and _is_softmax(last)):
        layers.pop()
    elif isinstance(last, keras.layers.Dense) and _is_softmax(last):
        layers[-1] = _linear(last)
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
    if len(given) > 1:
        raise BadSetting(
            f"the head gives an array of shape {given} for each picture, not one output a class",
            fix="begin it with Flatten() or GlobalAveragePooling2D()",
        )
    if given != (classes,):
        raise BadSetting(
            f"the head gives {given[0]} outputs, but there are {classes} classes",
            fix=f"end it in Dense({classes}, activation='softmax')",
        )
    return model


def _chain(layers: Sequence[Any]) -> Iterator[Any]:
    """The layers one by one, those of sequential models among them in their place; inputs are left out.

    Raises:
        BadSetting: one is no layer, or is code, which Keras refuses to load from the model's file.
    """
    for layer in layers:
        if isinstance(layer, keras.Sequential):
            yield from _chain(layer.layers)
        elif isinstance(layer, keras.layers.Lambda):
            raise BadSetting(
                f"head layer {layer.name!r} is a Lambda: it is code, which Keras refuses to load from a file",
                fix="use Rescaling, Activation or another layer of Keras in its place",
            )
        elif not isinstance(layer, keras.Layer):
            raise BadSetting(
                f"head layer {layer!r} is not a Keras layer",
                fix="give layers such as keras.layers.Flatten(), keras.layers.Dense(10, activation='softmax')",
            )
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def _is_softmax(layer: Any) -> bool:
    """Whether the layer's activation is softmax, also as `tf.nn.softmax` or `keras.ops.softmax`."""
    return getattr(layer.activation, "__name__", "") in ("softmax", "softmax_v2")


def _linear(dense: Any) -> Any:
    """The same layer without its softmax: training wants logits, and the model adds its softmax itself."""
    copy = keras.layers.Dense.from_config({**dense.get_config(), "activation": "linear"})
    if dense.built:
        copy.build((None, dense.kernel.shape[0]))
        copy.set_weights(dense.get_weights())
    return copy
