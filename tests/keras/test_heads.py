"""Layers of Keras as a head: taken as they are, trained with all that belongs to them, refused where they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from headstart.errors import BadSetting
from headstart.heads import Native, taken
from headstart.networks.network import HEAD, Optimization, Own

from ..conformance.networks import SPEC, batch, changed, pictures
from .models import KerasNetwork, keras

pytestmark = pytest.mark.keras

L = keras.layers
CLASSES = 3


def small(head: Any, **own: Any) -> KerasNetwork:
    """A convolution and this head; a map of 8 x 8 x 4 crosses in between."""
    source = keras.Input((SPEC.size, SPEC.size, 3))
    network = KerasNetwork(keras.Model(source, L.Conv2D(4, 3, strides=4, padding="same")(source)), spec=SPEC)
    network.set_head(taken(head), CLASSES)
    network.prepare(Optimization(weight_decay=0.0), Own(**own))
    return network


def trained(head: Any, steps: int = 1, rate: float = 1e-2, **own: Any) -> tuple[KerasNetwork, list[float]]:
    network = small(head, **own)
    network.thaw({HEAD: rate})
    return network, network.read([network.step(batch(), scale=1.0, key=number) for number in range(steps)])


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def tutorial() -> Sequence[Any]:
    return [L.Flatten(), L.Dense(32, activation="relu"), L.Dense(CLASSES, activation="softmax")]


def normalising() -> Sequence[Any]:
    return [L.Dense(8), L.BatchNormalization(), L.Activation("relu"), L.Dropout(0.5), L.Dense(CLASSES), L.Softmax()]


def a_model() -> keras.Model:
    source = keras.Input((8, 8, 4))
    return keras.Model(source, L.Dense(CLASSES, activation="softmax")(L.GlobalMaxPooling2D()(L.Conv2D(4, 1)(source))))


HEADS = [(tutorial, "map"), (normalising, "pooled"), (a_model, "map")]


@pytest.mark.parametrize(("make", "cut"), HEADS, ids=lambda value: getattr(value, "__name__", value))
def test_a_head_of_own_layers_trains_and_all_of_it_moves(make: Callable[[], Any], cut: str) -> None:
    network = small(make())
    assert network.head_cut.name == cut
    before = network.weights()
    network.thaw({HEAD: 1e-2})
    losses = network.read([network.step(batch(), scale=1.0, key=number) for number in range(25)])
    assert min(losses[-3:]) < losses[0]
    assert changed(before, network.weights()) == {name for name in before if name.startswith(HEAD)}
    answers = network.native.predict(pictures(), verbose=0)
    np.testing.assert_allclose(answers, softmax(network.logits(pictures())), atol=1e-5)


@pytest.mark.parametrize(
    "ending",
    [
        lambda: [L.Dense(CLASSES, activation="softmax")],
        lambda: [L.Dense(CLASSES, activation=keras.ops.softmax)],
        lambda: [L.Dense(CLASSES), L.Softmax()],
        lambda: [L.Dense(CLASSES), L.Activation("softmax")],
        lambda: [keras.Sequential([L.Dense(CLASSES), L.Activation("softmax")])],
        lambda: [L.Dense(CLASSES)],
    ],
    ids=["in the layer", "as an operation", "a layer", "an activation", "within a model", "none"],
)
def test_softmax_is_applied_once_however_it_is_said(ending: Callable[[], list[Any]]) -> None:
    network = small(ending())
    kernel, bias = (network.weights()[f"head.00.{name}"] for name in ("kernel", "bias"))
    features = network.features(pictures(), network.cuts[-1])
    np.testing.assert_allclose(network.logits(pictures()), features @ kernel + bias, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_layer_that_has_weights_already_keeps_them(activation: str | None) -> None:
    dense = L.Dense(CLASSES, activation=activation)
    dense.build((None, 4))
    kernel = np.arange(12, dtype=np.float32).reshape(4, 3)
    dense.set_weights([kernel, np.ones(3, np.float32)])
    assert np.array_equal(small([dense]).weights()["head.00.kernel"], kernel)


def test_penalties_of_layers_enter_the_loss() -> None:
    kernel = keras.initializers.Constant(0.1)
    plain = [L.Dense(5, kernel_initializer=kernel), L.Dense(CLASSES, kernel_initializer=kernel)]
    weighed = [
        L.Dense(5, kernel_initializer=kernel, kernel_regularizer=keras.regularizers.L2(0.3)),
        L.ActivityRegularization(l1=0.01),
        L.Dense(CLASSES, kernel_initializer=kernel),
    ]
    (_, [without]), (network, [loss, *_]) = trained(plain), trained(weighed, 2, rate=0.0)
    hidden = network.features(batch().inputs, network.cuts[-1]) @ np.full((4, 5), 0.1)
    # Keras takes the mean of an activity's penalty over the batch.
    expected = 0.3 * 20 * 0.1**2 + 0.01 * np.abs(hidden).sum() / len(hidden)
    assert loss - without == pytest.approx(expected, rel=1e-4)


def test_a_frozen_head_is_not_penalised_and_keeps_its_statistics() -> None:
    layers = [L.Dense(5, kernel_regularizer="l2"), L.BatchNormalization(), L.Dense(CLASSES)]
    network = small(layers)
    network.thaw({network.groups[0].name: 1e-3})
    before = network.weights()
    [loss] = network.read([network.step(batch(), scale=1.0, key=0)])
    moved = changed(before, network.weights())
    assert moved == set(network.groups[0].parameters)
    probabilities = softmax(before_step(layers, before))
    assert loss == pytest.approx(-np.log(probabilities[np.arange(8), batch().labels]).mean(), rel=1e-3)


def before_step(layers: Sequence[Any], weights: dict[str, np.ndarray]) -> np.ndarray:
    """The logits of a network with these weights."""
    network = small([type(layer).from_config(layer.get_config()) for layer in layers])
    named = dict(zip(network.weights(), weights.values(), strict=True))
    network.load_weights(named)
    return network.logits(batch().inputs)


def test_dropout_in_the_head_is_on_in_training_alone() -> None:
    network, _ = trained([L.Dropout(0.9), L.Dense(CLASSES)], rate=0.0)
    assert np.array_equal(network.logits(pictures()), network.logits(pictures()))
    losses = network.read([network.step(batch(), scale=1.0, key=key) for key in (0, 0, 1)])
    assert losses[0] == losses[1] != losses[2]


def test_a_constraint_holds_after_each_step() -> None:
    constraint = keras.constraints.MaxNorm(0.5, axis=0)
    network, _ = trained([L.Dense(CLASSES, kernel_constraint=constraint)], 2, rate=1.0)
    assert np.linalg.norm(network.weights()["head.00.kernel"], axis=0).max() <= 0.5 + 1e-5


@pytest.mark.parametrize(
    ("layers", "what", "fix"),
    [
        (
            lambda: [L.Flatten(), L.Dense(5, activation="softmax")],
            "gives 5 outputs, but there are 3 classes",
            "Dense(3",
        ),
        (lambda: [], "has no layers", "Dense(3"),
        (lambda: [L.Flatten, L.Dense(3)], "is not a Keras layer", "keras.layers.Flatten()"),
        (lambda: ["dense"], "is not a Keras layer", "keras.layers.Flatten()"),
        (lambda: [L.Lambda(lambda value: value), L.Dense(3)], "is a Lambda", "Rescaling"),
        (lambda: [L.LeakyReLU(), L.Dense(3)], "an array of shape (8, 8, 3)", "Flatten()"),
        (lambda: [L.Dense(8), L.Conv2D(3, 1), L.Dense(3)], "do not fit features of shape (4,)", "Flatten"),
    ],
)
def test_layers_that_cannot_be_a_head_are_refused_in_a_sentence(
    layers: Callable[[], list[Any]], what: str, fix: str
) -> None:
    with pytest.raises(BadSetting) as refusal:
        small(Native(tuple(layers())))
    assert what in refusal.value.what
    assert "\n" not in refusal.value.what
    assert fix in refusal.value.fix
