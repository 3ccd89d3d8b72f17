"""Name the weights of Keras layers as files know them, freeze and thaw them, and read and copy them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from headstart.networks.keras_graph import Piece, variables


@dataclass(frozen=True, eq=False)
class Named:
    """A weight or statistic under the name that it has in files. Layers' own names count up within a process."""

    name: str
    group: str
    variable: keras.Variable
    parameter: bool  # whether training may move it; statistics are not moved by gradients


def named_in(prefix: str, piece: Piece) -> list[Named]:
    """The piece's variables under names that do not hang on how many layers the process has made before."""
    found: list[Named] = []
    for place, layer in enumerate(_once_each(piece.layers)):
        switch([layer], True)
        moving = {id(variable) for variable in layer.trainable_variables}
        for variable in variables(layer):
            name = f"{prefix}.{place:02}.{variable.name}"
            twins = sum(named.name == name or named.name.startswith(f"{name}~") for named in found)
            full = f"{name}~{twins + 1}" if twins else name
            found.append(Named(full, piece.name, variable, id(variable) in moving))
    return found


def _once_each(layers: Sequence[Any]) -> list[Any]:
    return list({id(layer): layer for layer in layers if variables(layer)}.values())


def switch(layers: Sequence[Any], live: bool) -> None:
    """Freeze these layers, or let them train.

    Layer by layer and weight by weight: on TensorFlow a layer ignores being told what it believes already, and would
    pass nothing on to the layers and weights within.
    """
    for layer in (layer for layer in layers if isinstance(layer, keras.Layer)):
        for part in layer._flatten_layers():
            part.trainable = live
            for variable in part._trainable_variables:
                variable.trainable = live


def thaw(layers: Sequence[Any]) -> None:
    """Let these layers train, in `fit` too; a normalisation with statistics keeps them, and moves its other weights."""
    switch(layers, True)
    for layer in parts(layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
            for variable in layer._trainable_variables:
                variable.trainable = True


def parts(layers: Sequence[Any]) -> list[Any]:
    """These layers and all layers within them; operations have none."""
    return [part for layer in layers if isinstance(layer, keras.Layer) for part in layer._flatten_layers()]


def value_of(variable: keras.Variable) -> Any:
    """What the variable holds, as an array of its own."""
    value = variable.value
    return np.array(value.numpy() if hasattr(value, "numpy") else value)  # TensorFlow's, or JAX's


def copy_of(variable: keras.Variable) -> keras.Variable:
    """Another variable with the same values."""
    return keras.Variable(value_of(variable), trainable=False, aggregation="mean")
