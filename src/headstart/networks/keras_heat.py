"""Say what a Keras head comes to where it is linear on the mean over the places of the last map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from jaxtyping import Float

from headstart.networks.keras_weights import value_of

_LAYERS = keras.layers
_SILENT = (
    *(_LAYERS.InputLayer, _LAYERS.Dropout, _LAYERS.GaussianNoise, _LAYERS.GaussianDropout, _LAYERS.Identity),
    _LAYERS.ActivityRegularization,
)  # out of training mode they do nothing

Linear = tuple[Float[np.ndarray, "d k"], Float[np.ndarray, "k"]]


def linear(layers: Sequence[Any], shape: Sequence[int]) -> Linear | None:
    """Weights and bias of the one linear layer that these layers come to, on rows or maps of this shape.

    None where they do more; on maps they have to begin with the mean. A normalisation that uses its statistics is
    linear too.
    """
    layers = [layer for layer in layers if not isinstance(layer, _SILENT)]
    if len(shape) == 3:
        if not layers or not isinstance(layers[0], _LAYERS.GlobalAveragePooling2D) or _channels_first(layers[0]):
            return None
        layers = layers[1:]
    elif len(shape) != 1:
        return None
    weights, bias = np.eye(shape[-1]), np.zeros(shape[-1])
    for layer in layers:
        found = _affine(layer)
        if found is None:
            return None
        weights, bias = weights @ found[0], bias @ found[0] + found[1]
    return weights.astype(np.float32), bias.astype(np.float32)


def _affine(layer: Any) -> Linear | None:
    """Matrix and offset of one layer on rows; None where it is no such thing."""
    if isinstance(layer, _LAYERS.Flatten):
        width = layer.output.shape[-1]  # of rows: the mean's sides of one pixel, where they are kept
        return np.eye(width), np.zeros(width)
    if isinstance(layer, _LAYERS.Activation) and layer.activation is keras.activations.linear:
        width = layer.output.shape[-1]
        return np.eye(width), np.zeros(width)
    if isinstance(layer, _LAYERS.Dense) and layer.activation is keras.activations.linear:
        kernel = _array(layer.kernel)
        return kernel, _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[1])
    if isinstance(layer, _LAYERS.BatchNormalization):
        scale = 1 / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
        scale = scale * _array(layer.gamma) if layer.scale else scale
        shift = -_array(layer.moving_mean) * scale
        return np.diag(scale), shift + _array(layer.beta) if layer.center else shift
    return None


def _channels_first(layer: Any) -> bool:
    return bool(layer.data_format == "channels_first")


def _array(variable: keras.Variable) -> Float[np.ndarray, "..."]:
    return np.asarray(value_of(variable), np.float64)
