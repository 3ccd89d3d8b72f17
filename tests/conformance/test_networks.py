"""Every network passes the same suite; and networks with a known fault do not."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headstart.networks import torch as torch_networks
from headstart.networks import torch_heat
from headstart.networks.network import HEAD
from headstart.networks.torch import TorchNetwork

from . import networks as suite

# What runs on Keras is run once on each of its engines: see scripts/test.
NAMES = [pytest.param(name, marks=[pytest.mark.keras] * (name == "keras")) for name in suite.NETWORKS]


@pytest.mark.parametrize("check", suite.ON_ONE, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", NAMES)
def test_network(name: str, check: Any) -> None:
    check(suite.NETWORKS[name]())


@pytest.mark.parametrize("check", suite.ON_SEVERAL, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", NAMES)
def test_networks(name: str, check: Any) -> None:
    check(suite.NETWORKS[name])


@pytest.mark.parametrize("name", NAMES)
def test_groups_cover_every_tensor_of_the_backbone_once(name: str) -> None:
    network = suite.NETWORKS[name]()
    covered = [key for group in network.groups for key in (*group.parameters, *group.buffers)]
    assert len(covered) == len(set(covered))
    assert set(covered) == set(network.weights())


class TrainingMode(TorchNetwork):
    """The fault of many: thawing a part puts the whole model into training mode."""

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, **more: Any) -> None:
        super().thaw(rates)
        self.model.train()


class ParentInTrainingMode(TorchNetwork):
    """Subtler: only the thawed groups are put into training mode."""

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, **more: Any) -> None:
        super().thaw(rates)
        for name in rates:
            (self.model.head if name == HEAD else self.model.backbone[name]).train()


class NothingFrozen(TorchNetwork):
    """`requires_grad` is forgotten, and the rate with it."""

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, **more: Any) -> None:
        super().thaw({name: rates.get(name, 1e-3) for name in (*self.model.backbone, *rates)})


class FreshOptimizer(TorchNetwork):
    """Unfreezing makes a new optimizer."""

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, **more: Any) -> None:
        self.prepare(suite.PLAN)
        super().thaw(rates)


class ForgetfulState(TorchNetwork):
    """The state leaves out the step counts."""

    def state(self) -> dict[str, np.ndarray]:
        return {key: value for key, value in super().state().items() if "/step/" not in key}


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (TrainingMode, suite.check_only_thawed_groups_move),
        (TrainingMode, suite.check_head_only_stage_leaves_the_backbone_alone),
        (ParentInTrainingMode, suite.check_only_thawed_groups_move),
        (NothingFrozen, suite.check_only_thawed_groups_move),
        (NothingFrozen, suite.check_refreezing_stops_momentum_and_decay),
        (FreshOptimizer, suite.check_unfreezing_keeps_the_slots_of_what_was_training),
    ],
)
def test_the_suite_finds_the_fault(fault: type[TorchNetwork], check: Any) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check(suite.small_torch_network(fault))


class Rehearsed(TorchNetwork):
    """A rehearsal that trains."""

    def rehearse(self, batch: Any, rates: Any = None, *, precision: Any) -> float:
        if rates is not None:
            self.thaw(rates)
        self.read([self.step(batch, scale=1.0, key=0)])
        return 1.0


class AlwaysFull(TorchNetwork):
    """The precision of a stage is forgotten."""

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, **more: Any) -> None:
        super().thaw(rates, adapter)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (Rehearsed, suite.check_a_rehearsal_leaves_no_trace),
        (AlwaysFull, suite.check_a_stage_trains_in_its_precision_also_when_resumed),
    ],
)
def test_the_suite_finds_the_fault_in_several(fault: type[TorchNetwork], check: Any) -> None:
    if "bf16" not in suite.small_torch_network().precisions:
        pytest.skip("this processor has no bf16")
    with pytest.raises(AssertionError):
        check(lambda: suite.small_torch_network(fault))


class Backward(TorchNetwork):
    """The fault of many: every weight is asked for its gradient, which stays with it."""

    def gradients(self, pictures: Any, classes: Any, cut: Any = None) -> Any:
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        self.model(self._tensor(pictures))[:, 0].sum().backward()
        return super().gradients(pictures, classes, cut)


class InTrainingMode(TorchNetwork):
    """Statistics of the pictures that are explained go into the network."""

    def gradients(self, pictures: Any, classes: Any, cut: Any = None) -> Any:
        self.model.train()
        try:
            return super().gradients(pictures, classes, cut)
        finally:
            self.model.eval()


class OfTheFirstClass(TorchNetwork):
    """The labels are forgotten."""

    def gradients(self, pictures: Any, classes: Any, cut: Any = None) -> Any:
        return super().gradients(pictures, np.zeros_like(classes), cut)


@pytest.mark.parametrize("fault", [Backward, InTrainingMode])
def test_the_suite_finds_gradients_that_leave_a_trace(fault: type[TorchNetwork]) -> None:
    with pytest.raises(AssertionError):
        suite.check_gradients_leave_no_trace(lambda: suite.small_torch_network(fault))


def test_the_suite_finds_gradients_of_another_class() -> None:
    with pytest.raises(AssertionError):
        suite.check_gradients_are_those_of_the_logit(suite.small_torch_network(OfTheFirstClass))


def test_the_suite_finds_a_head_that_is_not_linear_on_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    heat = torch_heat.linear
    monkeypatch.setattr(torch_networks, "linear", lambda head: heat(nn.Sequential(*list(head)[-1:])))
    with pytest.raises(AssertionError):
        suite.check_a_linear_head_on_the_mean_is_told(suite.small_torch_network())


def test_the_suite_finds_a_state_without_step_counts() -> None:
    with pytest.raises((AssertionError, KeyError)):
        suite.check_resuming_equals_not_stopping(lambda: suite.small_torch_network(ForgetfulState))


@pytest.mark.parametrize("check", [suite.check_only_thawed_groups_move, suite.check_weights_that_are_put_in_count])
def test_the_suite_finds_what_layers_remember(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_networks, "forgetful", lambda model: None)
    with pytest.raises(AssertionError):
        check(suite.peculiar())


def test_layers_remember_nothing_after_a_move_and_beside_other_threads() -> None:
    network = suite.peculiar()
    network.to("cpu")
    images = suite.pictures(2)
    before = network.features(images, network.cuts[-1])
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: network.features(images, network.cuts[-1]), range(64)))
    assert all(np.array_equal(each, before) for each in found)
    suite.check_weights_that_are_put_in_count(network)


def test_a_network_without_sensible_weights_is_taken_apart_as_one_with_them() -> None:
    """As it is when it is built for a run's weights to be put in."""
    body = suite.Body(traceable=True)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.fill_(float("nan"))
    made = TorchNetwork.of(body, spec=suite.SPEC, group_of=lambda name: name.split(".")[1])
    assert made.cuts == suite.traced().cuts


class StatisticsLeftOut(TorchNetwork):
    """The state leaves out the statistics that were learnt."""

    def state(self) -> dict[str, np.ndarray]:
        return {key: value for key, value in super().state().items() if not key.startswith("buffer/")}


def test_the_suite_finds_a_state_without_learnt_statistics() -> None:
    with pytest.raises((AssertionError, KeyError)):
        suite.check_learnt_statistics_resume(lambda: suite.small_torch_network(StatisticsLeftOut))


def test_a_body_that_cannot_be_traced_stays_whole_and_one_that_can_is_taken_apart() -> None:
    assert [cut.name for cut in suite.whole().cuts] == ["input", "map", "pooled"]
    assert [cut.name for cut in suite.traced().cuts] == ["input", "stem", "block1", "block2", "map", "pooled"]
    counted = [{group.name: group.flops for group in make().groups} for make in (suite.whole, suite.traced)]
    assert counted[0] == counted[1]


def test_no_module_of_a_network_is_ever_in_training_mode() -> None:
    network = suite.with_head(suite.small_torch_network())
    network.thaw({"head": 1e-3, "top": 1e-3})
    suite.steps(network, 1)
    native: nn.Module = network.native
    assert not any(module.training for module in native.modules())
