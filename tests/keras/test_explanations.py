"""Keras networks tell what their answers hang on, whatever they are nested in and whoever made their heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from headstart.explaining.heat import heat_of
from headstart.explaining.methods import EXACT, GRAD_CAM
from headstart.heads import Native, taken

from ..conformance.keras_networks import small_keras_network
from ..conformance.networks import SPEC, pictures
from .models import KerasNetwork, keras

pytestmark = pytest.mark.keras

L = keras.layers
LABELS = np.array([0, 1, 2, 0])


def nested(head: Any) -> KerasNetwork:
    """Normalisation sits in models inside the model, which is where explanations of Keras networks mostly fail."""
    network = small_keras_network(SPEC)
    network.set_head(taken(head), 3)
    return network


def learnt(layer: Any) -> Any:
    """A normalisation with statistics that are not those of a fresh one."""
    rng = np.random.default_rng(0)
    layer.build((None, 16))
    layer.set_weights([rng.uniform(0.5, 1.5, 16) for _ in layer.get_weights()])
    return layer


LINEAR: dict[str, Sequence[Any]] = {
    "pooled": [L.Dense(3, activation="softmax")],
    "map": [L.GlobalAveragePooling2D(), L.Dropout(0.5), L.Dense(8), L.Dense(3, use_bias=False)],
    "kept sides": [L.GlobalAveragePooling2D(keepdims=True), L.Flatten(), L.Dense(3)],
    "normalised": [L.GlobalAveragePooling2D(), learnt(L.BatchNormalization()), L.Dense(3)],
}
OTHERS: dict[str, Sequence[Any]] = {
    "flat": [L.Flatten(), L.Dense(8, activation="relu"), L.Dense(3)],
    "bent": [L.GlobalAveragePooling2D(), L.Dense(8, activation="relu"), L.Dense(3)],
    "largest": [L.GlobalMaxPooling2D(), L.Dense(3)],
    "by row": [L.GlobalAveragePooling2D(), L.LayerNormalization(), L.Dense(3)],
}


@pytest.mark.parametrize("head", LINEAR)
def test_places_of_a_head_that_comes_to_one_linear_layer_sum_to_the_logit(head: str) -> None:
    network = nested(Native(tuple(LINEAR[head])))
    heat, method = heat_of(network, SPEC, pictures(4), LABELS)
    assert method == EXACT
    assert network.linear_on_mean is not None
    logits = network.logits(pictures(4))[np.arange(4), LABELS]
    np.testing.assert_allclose(heat.sum(axis=(1, 2)) + network.linear_on_mean[1][LABELS], logits, atol=1e-4)


@pytest.mark.parametrize("head", OTHERS)
def test_other_heads_get_grad_cam(head: str) -> None:
    network = nested(Native(tuple(OTHERS[head])))
    heat, method = heat_of(network, SPEC, pictures(4), LABELS)
    assert method == GRAD_CAM
    assert network.linear_on_mean is None
    assert heat.shape == (4, 8, 8)
    assert heat.any()
