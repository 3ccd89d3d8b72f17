"""Losses and metrics of Keras, by name, as objects or functions: each gets labels and answers in the form it wants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headstart.errors import BadSetting
from headstart.heads import Head
from headstart.networks.network import HEAD, Optimization, Own

from ..conformance.networks import batch
from . import models
from .models import cross_entropy, given, keras, measures, network_of

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 12)
LOGITS = RNG.normal(size=(12, 4)).astype(np.float32)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
ONE_HOT = np.eye(4, dtype=np.float32)[LABELS]


def own_function(labels: Any, answers: Any) -> Any:
    return keras.losses.categorical_crossentropy(labels, answers)


def own_mean(labels: Any, answers: Any) -> Any:
    return keras.ops.mean(keras.losses.categorical_crossentropy(labels, answers))


def values(loss: Any) -> np.ndarray:
    found = keras.ops.convert_to_numpy(given(loss)(keras.ops.convert_to_tensor(LABELS), LOGITS))
    return np.broadcast_to(found, LABELS.shape)


CROSS_ENTROPIES = [
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "CategoricalCrossentropy",
    "SparseCategoricalCrossentropy",
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy(from_logits=True),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True, name="mine"),
    keras.losses.CategoricalCrossentropy(from_logits=False),
    own_function,
]


@pytest.mark.parametrize("loss", CROSS_ENTROPIES, ids=range(len(CROSS_ENTROPIES)))
def test_every_way_to_say_cross_entropy_gives_ours(loss: Any) -> None:
    ours = keras.ops.convert_to_numpy(cross_entropy(0.0)(LABELS, LOGITS))
    np.testing.assert_allclose(values(loss), ours, atol=2e-6)
    np.testing.assert_allclose(ours, -np.log(PROBABILITIES[np.arange(12), LABELS]), atol=2e-6)


def test_a_function_that_gives_one_number_for_all_is_taken_too() -> None:
    assert values(own_mean)[0] == pytest.approx(-np.log(PROBABILITIES[np.arange(12), LABELS]).mean(), rel=1e-5)


def test_smoothing_is_that_of_keras() -> None:
    smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    ours = keras.ops.convert_to_numpy(cross_entropy(0.2)(LABELS, LOGITS))
    np.testing.assert_allclose(values(smooth), ours, atol=2e-6)


@pytest.mark.parametrize("from_logits", [False, True])
def test_focal_loss_is_that_of_its_paper(from_logits: bool) -> None:
    right = PROBABILITIES[np.arange(12), LABELS]
    focal = keras.losses.CategoricalFocalCrossentropy(from_logits=from_logits)
    np.testing.assert_allclose(values(focal), -0.25 * (1 - right) ** 2 * np.log(right), atol=2e-6)


@pytest.mark.parametrize("name", ["kl_divergence", "mean_squared_error", "categorical_hinge", "poisson"])
def test_other_losses_get_one_hot_labels_and_probabilities(name: str) -> None:
    expected = keras.ops.convert_to_numpy(keras.losses.get(name)(ONE_HOT, PROBABILITIES))
    np.testing.assert_allclose(values(name), expected, atol=2e-6)


@pytest.mark.parametrize("loss", ["nosuch", 3])
def test_what_is_no_loss_is_refused(loss: Any) -> None:
    with pytest.raises(BadSetting, match="is not one of Keras's"):
        given(loss)


def test_a_step_by_kerass_cross_entropy_is_a_step_by_ours() -> None:
    after = []
    for loss in (None, "categorical_crossentropy"):
        network = network_of(models.residual)
        network.set_head(Head(), 3, seed=1)
        network.prepare(Optimization(weight_decay=0.0), Own(loss=loss))
        network.thaw({HEAD: 1e-2})
        [value] = network.read([network.step(batch(), scale=1.0, key=0)])
        after.append({"loss": np.array(value), **network.weights()})
    for name in after[0]:
        np.testing.assert_allclose(after[0][name], after[1][name], atol=1e-6, err_msg=name)


# ---- metrics


def own_metric(labels: Any, answers: Any) -> Any:
    return keras.ops.sum(labels * answers, axis=-1)


METRICS = [
    ("accuracy", "accuracy", (LOGITS.argmax(1) == LABELS).mean()),
    ("acc", "acc", (LOGITS.argmax(1) == LABELS).mean()),
    ("categorical_accuracy", "categorical_accuracy", (LOGITS.argmax(1) == LABELS).mean()),
    (keras.metrics.SparseCategoricalAccuracy(name="hit"), "hit", (LOGITS.argmax(1) == LABELS).mean()),
    (
        keras.metrics.TopKCategoricalAccuracy(k=2, name="two"),
        "two",
        (np.argsort(-LOGITS)[:, :2] == LABELS[:, None]).any(1).mean(),
    ),
    (own_metric, "own_metric", PROBABILITIES[np.arange(12), LABELS].mean()),
    (keras.metrics.CategoricalCrossentropy(name="nll"), "nll", -np.log(PROBABILITIES[np.arange(12), LABELS]).mean()),
]


@pytest.mark.parametrize(("metric", "name", "expected"), METRICS, ids=[name for _, name, _ in METRICS])
def test_a_metric_is_measured_under_the_name_that_keras_gives_it(metric: Any, name: str, expected: float) -> None:
    [(called, measure)] = measures((metric,)).items()
    assert called == name
    assert measure(LABELS, LOGITS) == pytest.approx(expected, rel=1e-5)


def test_a_metric_does_not_remember_what_it_measured_before() -> None:
    [measure] = measures((keras.metrics.CategoricalAccuracy(),)).values()
    first = measure(LABELS, LOGITS)
    measure(LOGITS.argmin(1), LOGITS)
    assert measure(LABELS, LOGITS) == first


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(BadSetting, match="'nosuch' is not one of Keras's"):
        measures(("nosuch",))
