"""A training step is compiled once for each set of live groups and each cut it starts from, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from headstart.heads import Dense, Dropout, Head
from headstart.networks.network import HEAD, INPUT, Batch, Cut, Optimization

from ..conformance.networks import SPEC, batch, pictures
from . import models
from .models import KerasNetwork, engine

pytestmark = pytest.mark.keras


class Counting(type(engine())):  # type: ignore[misc]
    """The engine, which counts how often each kind of function is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.traces: list[str] = []

    def compile(self, function: Callable[..., Any], *, shared: int = 0, **variables: Sequence[Any]) -> Any:
        def counted(*arguments: Any) -> Any:
            self.traces.append("step" if shared else "answer")
            return function(*arguments)

        return super().compile(counted, shared=shared, **variables)


@pytest.fixture
def network() -> KerasNetwork:
    network = KerasNetwork(models.made(models.residual), spec=SPEC, on=Counting())
    network.set_head(Head((Dense(4), Dropout(0.5))), 3, seed=1)
    network.prepare(Optimization(average=0.9))
    return network


def steps(network: KerasNetwork, count: int = 2, start: Cut = INPUT, scale: float = 1.0, n: int = 8) -> None:
    inputs = network.features(batch(0, n).inputs, start) if start != INPUT else batch(0, n).inputs
    for key in range(count):
        network.step(Batch(inputs, batch(0, n).labels, batch(0, n).weights, start), scale=scale * (key + 1), key=key)


def test_a_step_is_compiled_once_for_each_set_of_live_groups(network: KerasNetwork) -> None:
    last = network.groups[-1].name
    stages = [
        ({HEAD: 1e-2}, 1),
        ({HEAD: 1e-3}, 1),  # another rate
        ({HEAD: 1e-3, last: 1e-4}, 2),
        ({HEAD: 1e-4, last: 1e-3}, 2),
        ({HEAD: 1e-2}, 2),  # back again
        ({last: 1e-3, HEAD: 1e-2}, 2),  # said in another order
    ]
    for rates, expected in stages:
        network.thaw(rates)
        for scale in (1.0, 0.1):
            steps(network, scale=scale)
        assert network.traces == expected, rates


def test_another_start_is_compiled_once_more(network: KerasNetwork) -> None:
    network.thaw({HEAD: 1e-2})
    for _ in range(2):
        for start in (INPUT, network.cuts[-1]):
            steps(network, start=start)
    assert network.traces == 2


def test_saving_averaging_and_resuming_compile_nothing(network: KerasNetwork) -> None:
    network.thaw({HEAD: 1e-2})
    steps(network)
    state, weights = network.state(), network.weights()
    with network.averaged():
        network.logits(pictures())
    network.load_weights(weights)
    network.load_state(state)
    network.thaw({HEAD: 1e-2})
    steps(network)
    assert network.traces == 1
    assert network._engine.traces.count("answer") == 1


def test_features_and_answers_are_compiled_once_a_shape_whatever_trains(network: KerasNetwork) -> None:
    cut = network.cuts[2]
    for rates in ({HEAD: 1e-2}, {HEAD: 1e-2, network.groups[-1].name: 1e-3}):
        network.thaw(rates)
        for n in (8, 8, 5, 8, 5):
            network.features(pictures(n), cut)
            network.logits(pictures(n))
    assert network._engine.traces.count("answer") == 4  # two functions, two shapes


def test_a_new_head_compiles_no_features_anew(network: KerasNetwork) -> None:
    network.features(pictures(), network.cuts[-1])
    network.set_head(Head(), 3)
    network.features(pictures(), network.cuts[-1])
    assert network._engine.traces == ["answer"]


def test_compiled_answers_follow_the_weights(network: KerasNetwork) -> None:
    """Compiled answers read the weights; they do not remember those from when they were compiled."""
    before = network.logits(pictures())
    network.thaw({HEAD: 1e-2, network.groups[0].name: 1e-2})
    steps(network)
    assert not np.allclose(before, network.logits(pictures()), atol=1e-4)
