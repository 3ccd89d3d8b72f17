"""A stage on Keras counts photos by their weights, also with a loss of the user's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headstart.errors import BadSetting
from headstart.heads import Head
from headstart.networks.network import HEAD, Batch, Optimization, Own
from headstart.training.batches import Order

from ..conformance.networks import CLASSES, batch
from . import models
from .models import keras, network_of

pytestmark = pytest.mark.keras


def own(labels: Any, answers: Any) -> Any:
    return keras.losses.categorical_focal_crossentropy(labels, answers)


def own_mean(labels: Any, answers: Any) -> Any:
    return keras.ops.mean(own(labels, answers))


def of(rows: list[int], weights: np.ndarray) -> Batch:
    whole = batch(n=8)
    return replace(whole, inputs=whole.inputs[rows], labels=whole.labels[rows], weights=weights)


def stepped(loss: Any, seen: Batch) -> dict[str, np.ndarray]:
    network = network_of(models.residual)
    network.set_head(Head(), CLASSES, seed=1)
    network.prepare(Optimization(weight_decay=0.0, clip=0.0), Own(optimizer=keras.optimizers.SGD(), loss=loss))
    network.thaw({HEAD: 1e-2})
    [value] = network.read([network.step(seen, scale=1.0, key=0)])
    return {"loss": np.array(value), **{k: v for k, v in network.weights().items() if k.startswith("head")}}


@pytest.mark.parametrize("loss", [None, own, "categorical_crossentropy", "SparseCategoricalCrossentropy"])
def test_a_photo_of_weight_two_is_two_photos(loss: Any) -> None:
    order = Order(n=8, batch_size=8, seed=0, stage="s", weights=np.array([1.4, *[1.0] * 6, 0.6]))
    [part] = order.epoch(0)
    weighted = stepped(loss, of(part.rows.tolist(), part.weights))
    tenths = np.repeat(np.arange(8), [14, *[10] * 6, 6])
    repeated = stepped(loss, of(tenths.tolist(), np.full(80, 1 / 80)))
    plain = stepped(loss, of(list(range(8)), np.full(8, 1 / 8)))
    for name in weighted:
        np.testing.assert_allclose(weighted[name], repeated[name], atol=1e-5, err_msg=name)
    assert abs(weighted["loss"] - plain["loss"]) > 1e-3, "weights changed nothing"


def test_a_loss_of_one_number_for_all_is_refused_where_weights_differ() -> None:
    stepped(own_mean, of(list(range(8)), np.full(8, 1 / 8)))
    with pytest.raises(BadSetting, match="one number for a whole batch"):
        stepped(own_mean, of(list(range(8)), np.arange(1, 9) / 36))
