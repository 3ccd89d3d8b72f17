"""Several devices share a batch: the weights come out as on one, whatever the batch divides into."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.heads import Dense, Dropout, Head, Native
from headstart.networks.network import HEAD, Batch, Optimization, Own

from ..conformance.networks import SPEC, batch, pictures
from . import models
from .models import KerasNetwork, keras
from .processes import run_python

pytestmark = pytest.mark.keras

# Of weights, slots and logits after three steps: the devices' sums are rounded in another order. Measured: 1e-6.
TOLERANCE = 1e-5
# Without a second graphics card, the processor is told to be two devices: before anything else is done with it.
TWO_DEVICES = """
import sys
import keras
if keras.backend.backend() == "jax":
    from headstart.networks.keras_jax import JaxEngine
    engine = JaxEngine(devices=["cpu:0", "cpu:1"])
else:
    import tensorflow as tf
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)
    from headstart.networks.keras_tensorflow import TensorFlowEngine
    engine = TensorFlowEngine(devices=["CPU:0", "CPU:1"])
from tests.keras import test_devices
test_devices.write(sys.argv[1], engine)
"""


def own_layers() -> Native:
    """With a penalty, which counts once, not once a device, and a constraint."""
    dense = partial(keras.layers.Dense, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    return Native((dense(4, kernel_regularizer="l2", kernel_constraint="max_norm"), dense(3, activation="softmax")))


CASES: dict[str, tuple[Any, Own, Optimization]] = {
    "all of ours": (
        lambda: Head((Dense(8),)),
        Own(),
        Optimization(weight_decay=0.1, clip=0.05, average=0.9, label_smoothing=0.1),
    ),
    "own": (
        own_layers,
        Own(optimizer=keras.optimizers.SGD(momentum=0.9, global_clipnorm=0.2), loss="categorical_crossentropy"),
        Optimization(average=0.9),
    ),
}


def trained(case: str, engine: Any = None) -> dict[str, np.ndarray]:
    """Everything there is to know after three steps in two stages; the last batch does not divide by two."""
    head, own, plan = CASES[case]
    network = KerasNetwork(models.made(models.residual), spec=SPEC, on=engine)
    network.set_head(head(), 3, seed=1)
    network.prepare(plan, own)
    names = [group.name for group in network.groups]
    losses = []
    for number, (live, n) in enumerate([(1, 8), (1, 8), (2, 7)]):
        network.thaw({HEAD: 1e-2, **dict.fromkeys(names[-live:], 1e-3)})
        losses.append(network.step(batch(number, n), scale=1.0, key=number))
    found = {"losses": np.array(network.read(losses)), **network.weights(), **network.state()}
    network.load_weights(network.weights())
    network.load_state(network.state())
    with network.averaged():
        found["logits of the average"] = network.logits(pictures(5))
    found["features"] = network.features(pictures(5), network.cuts[-1])
    return found


def loss_with_dropout(images: np.ndarray, engine: Any = None) -> float:
    network = KerasNetwork(models.made(models.residual), spec=SPEC, on=engine)
    network.set_head(Head((Dropout(0.5),)), 3, seed=1)
    network.thaw({HEAD: 1e-2})
    n = len(images)
    return network.read([network.step(Batch(images, np.zeros(n, int), np.full(n, 1 / n)), scale=1.0, key=0)])[0]


def write(folder: str, engine: Any) -> None:
    assert engine.devices == 2
    for case in CASES:
        np.savez(Path(folder) / case, **trained(case, engine))
    twice = np.concatenate([pictures(4)] * 2)
    np.savez(Path(folder) / "dropout", loss=loss_with_dropout(twice, engine))


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("two")
    run_python(TWO_DEVICES, folder, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    return {case: np.load(folder / f"{case}.npz") for case in (*CASES, "dropout")}


@pytest.mark.parametrize("case", CASES)
def test_two_devices_train_to_the_weights_of_one(case: str, on_two: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    one, two = trained(case), on_two[case]
    assert set(one) == set(two)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)


def test_each_device_drops_other_units(on_two: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Two devices that see the same pictures would otherwise lose what one loses."""
    one, two = loss_with_dropout(pictures(4)), float(on_two["dropout"]["loss"])
    assert np.isfinite(two)
    assert abs(one - two) > 1e-3
