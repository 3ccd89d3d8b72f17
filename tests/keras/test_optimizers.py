"""Keras's optimizers under rates of our own: each moves a group as it would by itself at that group's rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headstart.errors import BadSetting
from headstart.heads import Head
from headstart.networks.network import HEAD, Optimization, Own

from ..conformance.networks import batch, changed
from . import models
from .models import engine, keras, network_of, rated

pytestmark = pytest.mark.keras

optimizers = keras.optimizers
OPTIMIZERS = [
    optimizers.SGD(),
    optimizers.SGD(momentum=0.9, nesterov=True),
    optimizers.SGD(momentum=0.9, weight_decay=0.1),
    optimizers.Adam(),
    optimizers.Adam(amsgrad=True, epsilon=1e-4),
    optimizers.AdamW(weight_decay=0.1, beta_2=0.9),
    optimizers.RMSprop(momentum=0.5, centered=True),
    optimizers.Adagrad(),
    optimizers.Adadelta(),
    optimizers.Adamax(),
    optimizers.Nadam(),
    optimizers.Lion(),
    optimizers.Lamb(),
    optimizers.Ftrl(),
    optimizers.Adafactor(),
    optimizers.SGD(clipvalue=0.5),
    optimizers.SGD(clipnorm=0.1),
]
RATES = (0.1, 0.001)


def fresh(seed: int) -> list[keras.Variable]:
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.normal(size=shape), dtype="float32") for shape in ((4, 3), (3, 2))]


def gradients(step: int) -> list[Any]:
    rng = np.random.default_rng(100 + step)
    return [keras.ops.convert_to_tensor(rng.normal(size=shape), "float32") for shape in ((4, 3), (3, 2))]


def numpy(variable: keras.Variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable.value))


def described(optimizer: Any) -> str:
    config = optimizer.get_config()
    plain = type(optimizer)().get_config()
    return " ".join([type(optimizer).__name__, *(k for k in config if config[k] != plain[k] and k != "name")])


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=described)
def test_each_group_moves_as_by_the_optimizer_itself_at_its_rate(optimizer: Any) -> None:
    ours = fresh(0)
    ours_moves = rated(optimizer, ours, [0, 1], adam=engine().adam)
    alone = []
    for place, rate in enumerate(RATES):
        variable = fresh(0)[place]
        own = type(optimizer).from_config({**optimizer.get_config(), "learning_rate": rate})
        for step in range(4):
            own.apply([gradients(step)[place]], [variable])
        alone.append(numpy(variable))
    for step in range(4):
        ours_moves.pace.rates = keras.ops.convert_to_tensor(RATES, "float32")
        ours_moves.pace.counts = keras.ops.convert_to_tensor([step, step], "float32")
        ours_moves.apply(gradients(step), ours)
    for variable, expected, start in zip(ours, alone, fresh(0), strict=True):
        # TensorFlow's own Adam computes 1 - 0.999 in single precision: 3e-5 of the rate.
        np.testing.assert_allclose(numpy(variable), expected, atol=5e-6)
        assert np.abs(expected - numpy(start)).max() > 1e-6


def test_a_group_that_joins_late_moves_as_one_that_has_just_begun() -> None:
    ours, alone = fresh(0), fresh(0)[1]
    late = rated(optimizers.Adam(), ours, [0, 1], adam=engine().adam)
    for step in range(6):
        late.pace.rates = keras.ops.convert_to_tensor(RATES, "float32")
        late.pace.counts = keras.ops.convert_to_tensor([step, step - 5], "float32")
        live = slice(0, 2 if step == 5 else 1)
        late.apply(gradients(step)[live], ours[live])
    optimizers.Adam(RATES[1]).apply([gradients(5)[1]], [alone])
    np.testing.assert_allclose(numpy(ours[1]), numpy(alone), atol=1e-7)


def with_optimizer(optimizer: Any) -> Any:
    network = network_of(models.residual)
    network.set_head(Head(), 3, seed=1)
    network.prepare(Optimization(average=0.9), Own(optimizer=optimizer))
    return network


def test_by_plain_descent_a_step_is_rate_times_gradient_in_each_group() -> None:
    moves = []
    for rates in ((0.2, 0.01), (0.1, 0.03)):
        network = with_optimizer(optimizers.SGD())
        last = network.groups[-1].name
        before = network.weights()
        network.thaw({HEAD: rates[0], last: rates[1]})
        network.step(batch(), scale=0.5, key=0)
        after = network.weights()
        moves.append({name: after[name] - before[name] for name in changed(before, after)})
    for name, move in moves[0].items():
        ratio = 0.2 / 0.1 if name.startswith(HEAD) else 0.01 / 0.03
        np.testing.assert_allclose(move, ratio * moves[1][name], rtol=1e-2, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("optimizer", [optimizers.Nadam(), optimizers.Adafactor()], ids=described)
def test_what_an_optimizer_keeps_beside_slots_survives_a_restart(optimizer: Any) -> None:
    asked = str(optimizer.get_config())
    first = with_optimizer(optimizer)
    first.thaw({HEAD: 1e-2})
    first.step(batch(0), scale=1.0, key=0)
    second = with_optimizer(optimizer)
    second.load_state(first.state())
    for network in (first, second):
        network.thaw({HEAD: 1e-2})
        network.step(batch(1), scale=1.0, key=1)
    assert not changed(first.weights(), second.weights())
    assert not changed(first.state(), second.state())
    assert str(optimizer.get_config()) == asked
    assert not optimizer.built


@pytest.mark.parametrize(
    ("optimizer", "what"),
    [
        (optimizers.Adam(optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)), "it has a schedule of rates"),
        (optimizers.Adam(use_ema=True), "averages weights"),
        (optimizers.Adam(gradient_accumulation_steps=2), "collects gradients"),
        ("nosuch", "nosuch"),
        (3, "3"),
    ],
    ids=["schedule", "average", "accumulation", "name", "number"],
)
def test_an_optimizer_that_cannot_be_followed_is_refused_in_a_sentence(optimizer: Any, what: str) -> None:
    with pytest.raises(BadSetting, match=what) as refusal:
        with_optimizer(optimizer)
    assert "\n" not in refusal.value.what
