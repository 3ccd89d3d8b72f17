"""What every network must do, as checks that raise AssertionError; and the networks that they are run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headstart.backbones.loading import load_backbone
from headstart.errors import BadSetting
from headstart.heads import Dense, Dropout, Flatten, Head, LinearHead, Pool
from headstart.modalities.spec import InputSpec
from headstart.networks.keras_backend import engines
from headstart.networks.network import HEAD, Batch, Network, Optimization
from headstart.networks.torch import TorchNetwork

SPEC = InputSpec(size=32, crop=0.875, interpolation="bicubic", mean=(127.0,) * 3, std=(128.0,) * 3)
PLAN = Optimization(weight_decay=0.1, label_smoothing=0.1, average=0.9)
CLASSES = 3


class Nested(nn.Module):
    """A block whose normalisation sits two levels down, beside a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(maps)) + maps


def stages() -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        top = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        parts = {"stem": stem, "block1": Nested(8), "block2": Nested(8), "top": top}
        for norm in [m for part in parts.values() for m in part.modules() if isinstance(m, nn.BatchNorm2d)]:
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return parts


def small_torch_network(kind: type[TorchNetwork] = TorchNetwork) -> TorchNetwork:
    return kind(stages(), spec=SPEC, channels=16)


class Body(nn.Module):
    """The same layers as a user would write them: one module, whose forward says the order."""

    def __init__(self, *, traceable: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(stages())
        self.traceable = traceable

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if not self.traceable and pixels.mean() > 1e9:  # a choice by a value
            return pixels
        for layer in self.layers.values():
            pixels = layer(pixels)
        return pixels


def traced() -> Network:
    return TorchNetwork.of(Body(traceable=True), spec=SPEC, group_of=lambda name: name.split(".")[1])


def whole() -> Network:
    return TorchNetwork.of(Body(traceable=False), spec=SPEC, group_of=lambda name: name.split(".")[1])


class Remembering(nn.Module):
    """Out of training mode it keeps what it once made of its weights, as the attention of LeViT and its like does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention_biases = nn.Parameter(torch.zeros(channels, 1, 1))
        self.attention_bias_cache: dict[str, torch.Tensor] = {}

    def _apply(self, fn: Any, *rest: Any, **more: Any) -> Any:
        self.attention_bias_cache = {}
        return super()._apply(fn, *rest, **more)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        key = str(maps.device)
        if key not in self.attention_bias_cache:
            self.attention_bias_cache[key] = 2 * self.attention_biases
        return maps + self.attention_bias_cache[key]


def peculiar() -> Network:
    """A layer that two groups share, and two that remember."""
    parts: dict[str, Any] = stages()
    parts["block2"].inner[0][0] = parts["block1"].inner[0][0]
    parts["block2"] = nn.Sequential(parts["block2"], Remembering(8))
    parts["top"] = nn.Sequential(parts["top"], Remembering(16))
    return TorchNetwork(parts, spec=SPEC)


def bundled() -> Network:
    return load_backbone("bundled", size=SPEC.size).build()


def keras_network() -> Network:
    from .keras_networks import small_keras_network

    return small_keras_network(SPEC)


NETWORKS: dict[str, Callable[[], Network]] = {
    "torch": small_torch_network,
    "traced": traced,
    "whole": whole,
    "peculiar": peculiar,
    "bundled": bundled,
}
if engines():
    NETWORKS["keras"] = keras_network


def pictures(n: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SPEC.size, SPEC.size, 3), dtype=np.uint8)


def batch(seed: int = 0, n: int = 8) -> Batch:
    labels = np.random.default_rng(seed).integers(0, CLASSES, n)
    return Batch(pictures(n, seed), labels, np.full(n, 1 / n))


LAYERS = Head((Pool(), Dense(8), Dropout(0.5)))


def with_head(network: Network, head: Head = LAYERS) -> Network:
    network.set_head(head, CLASSES, seed=1)
    network.prepare(PLAN)
    return network


def steps(network: Network, count: int, first: int = 0) -> list[float]:
    return network.read([network.step(batch(i), scale=1.0, key=i) for i in range(first, first + count)])


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {key for key in before if before[key].tobytes() != after[key].tobytes()}


def check_only_thawed_groups_move(network: Network) -> None:
    """Frozen parameters and all stored statistics keep their bits, though their neighbours above train."""
    with_head(network)
    network.thaw({HEAD: 1e-2, "top": 1e-2, "block2": 1e-3})
    before = network.weights()
    steps(network, 3)
    live = {key for g in network.groups if g.name in ("top", "block2") for key in g.parameters}
    moved = changed(before, network.weights())
    assert {key for key in moved if not key.startswith("head")} == live, "the moving tensors are not the thawed ones"
    assert any(key.startswith("head") for key in moved), "the head did not move"


def check_head_only_stage_leaves_the_backbone_alone(network: Network) -> None:
    with_head(network)
    network.thaw({HEAD: 1e-2})
    before = network.weights()
    steps(network, 2)
    assert all(key.startswith("head") for key in changed(before, network.weights()))


def check_weights_that_are_put_in_count(network: Network) -> None:
    """Some of every group, also after pictures have gone through with others."""
    images = pictures(2)
    before, weights = network.features(images, network.cuts[-1]), network.weights()
    for key in [key for group in network.groups for key in group.parameters[-2:]]:
        value = weights[key]
        draw = np.random.default_rng(0).normal(1, 1, value.shape).astype(value.dtype)
        same = [other for other in weights if np.array_equal(weights[other], value)]  # names of one tensor
        network.load_weights(weights | dict.fromkeys(same, value + draw))
        after = network.features(images, network.cuts[-1])
        assert not np.array_equal(after, before), f"{key} does not count"
    network.load_weights(weights)
    np.testing.assert_array_equal(network.features(images, network.cuts[-1]), before)


def check_refreezing_stops_momentum_and_decay(network: Network) -> None:
    with_head(network)
    network.thaw({HEAD: 1e-2, "top": 1e-2})
    steps(network, 2)
    network.thaw({HEAD: 1e-2})
    before = network.weights()
    steps(network, 2, first=2)
    assert all(key.startswith("head") for key in changed(before, network.weights()))


def check_unfreezing_keeps_the_slots_of_what_was_training(network: Network) -> None:
    with_head(network)
    network.thaw({HEAD: 1e-2})
    steps(network, 3)
    before = {key: value for key, value in network.state().items() if "slot" in key}
    network.thaw({HEAD: 1e-2, "top": 1e-3})
    after = network.state()
    assert before, "there are no slots"
    assert not changed(before, {key: after[key] for key in before})


def check_a_late_group_starts_at_its_own_first_step(network: Network) -> None:
    """Adam's first update is about the rate itself; with another group's step count it would be several times that."""
    with_head(network)
    network.thaw({HEAD: 1e-3})
    steps(network, 20)
    network.thaw({HEAD: 1e-3, "top": 1e-3})
    before = network.weights()
    steps(network, 1, first=20)
    after = network.weights()
    keys = next(g.parameters for g in network.groups if g.name == "top")
    largest = max(float(np.abs(after[key] - before[key]).max()) for key in keys)
    assert largest <= 1e-3 * 1.2, f"first update {largest:.2g} at a rate of 1e-3"


def check_rates_hold_per_group(network: Network) -> None:
    with_head(network)
    network.thaw({HEAD: 1e-3, "top": 1e-4, "block2": 1e-5})
    before = network.weights()
    steps(network, 1)
    after = network.weights()
    for name, rate in (("top", 1e-4), ("block2", 1e-5)):
        keys = next(g.parameters for g in network.groups if g.name == name)
        largest = max(float(np.abs(after[key] - before[key]).max()) for key in keys)
        assert 0.5 * rate < largest < 1.5 * rate, f"{name} moved {largest:.2g} at a rate of {rate:g}"


def check_resuming_equals_not_stopping(make: Callable[[], Network]) -> None:
    """Also across an unfreezing, with slots, step counts, dropout and the average of the weights."""
    whole = with_head(make())
    whole.thaw({HEAD: 1e-2})
    steps(whole, 2)
    whole.thaw({HEAD: 1e-2, "top": 1e-3})
    steps(whole, 1, first=2)
    state = whole.state()
    steps(whole, 3, first=3)

    resumed = with_head(make())
    resumed.load_state(state)
    resumed.thaw({HEAD: 1e-2, "top": 1e-3})
    steps(resumed, 3, first=3)
    assert not changed(whole.weights(), resumed.weights())
    assert not changed(whole.state(), resumed.state())


def check_rows_do_not_depend_on_each_other(network: Network) -> None:
    images = pictures(16)
    together = network.features(images, network.cuts[-1])
    shuffled = network.features(images[::-1].copy(), network.cuts[-1])[::-1]
    assert together.tobytes() == shuffled.tobytes()


def check_cuts_compose(network: Network) -> None:
    """Going on from any cut gives what going through in one go gives."""
    with_head(network)
    images = pictures(4)
    whole = network.logits(images)
    for cut in network.cuts:
        crossing = network.features(images, cut) if cut.after else images
        np.testing.assert_allclose(network.logits(crossing, cut), whole, atol=1e-5, err_msg=cut.name)


def check_a_solved_head_is_taken_as_it_is(network: Network) -> None:
    rng = np.random.default_rng(0)
    features = network.features(pictures(), network.cuts[-1])
    head = LinearHead(rng.normal(size=(features.shape[1], CLASSES)), rng.normal(size=CLASSES))
    network.set_head(head, CLASSES)
    np.testing.assert_allclose(network.logits(pictures()), features @ head.weights + head.bias, rtol=1e-4, atol=1e-4)


def check_padding_weighs_nothing(make: Callable[[], Network]) -> None:
    """In a batch padded with another photo at weight 0, that photo does not steer the step."""
    results = []
    for filler in (0, 1):
        network = with_head(make(), Head((Pool(), Dense(8))))
        network.thaw({HEAD: 1e-2, "top": 1e-2})
        images = np.concatenate([pictures(4), pictures(2, seed=filler + 5)])
        weights = np.array([0.25] * 4 + [0.0] * 2)
        network.step(Batch(images, np.array([0, 1, 2, 0, filler, filler]), weights), scale=1.0, key=0)
        results.append(network.weights())
    for key in results[0]:
        np.testing.assert_allclose(results[0][key], results[1][key], atol=1e-7, err_msg=key)


def check_the_average_stands_in_and_goes_away(network: Network) -> None:
    with_head(network)
    network.thaw({HEAD: 1e-2, "top": 1e-2})
    steps(network, 4)
    before, plain = network.weights(), network.logits(pictures())
    with network.averaged():
        average = network.logits(pictures())
    assert not np.allclose(plain, average)
    assert not changed(before, network.weights())


def check_a_rehearsal_leaves_no_trace(make: Callable[[], Network]) -> None:
    """In each precision, of what is live and of what is not, before the first stage and within one."""
    rehearsed, other = with_head(make()), with_head(make())
    live = {HEAD: 1e-2, "top": 1e-2}
    for rates, first in (({HEAD: 1e-2}, 0), (live, 2), ({HEAD: 1e-2}, 4)):
        for precision in rehearsed.precisions:
            seconds = rehearsed.rehearse(batch(0), {**live, "block2": 1e-3}, precision=precision)
            assert seconds > 0
        for network in (rehearsed, other):
            network.thaw(rates)
            steps(network, 1, first=first)
        _same(rehearsed, other)
        drawn = [np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()]  # type: ignore[index,union-attr]
        for precision in rehearsed.precisions:
            rehearsed.rehearse(batch(1), precision=precision)
        assert drawn == [np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()]  # type: ignore[index,union-attr]
        _same(rehearsed, other)
        for network in (rehearsed, other):
            steps(network, 1, first=first + 1)
        _same(rehearsed, other)


def check_a_stage_trains_in_its_precision_also_when_resumed(make: Callable[[], Network]) -> None:
    """It is asked for at each thawing, also after the state is loaded; one that is not there is refused."""
    live = {HEAD: 1e-2, "top": 1e-3}
    found = {}
    for precision in make().precisions:
        whole = with_head(make())
        whole.thaw(live, precision=precision)
        steps(whole, 2)
        state = whole.state()
        steps(whole, 1, first=2)
        resumed = with_head(make())
        resumed.load_state(state)
        resumed.thaw(live, precision=precision)
        steps(resumed, 1, first=2)
        assert not changed(whole.weights(), resumed.weights())
        found[precision] = whole.weights()
    if "bf16" in found:
        assert changed(found["fp32"], found["bf16"]), "bf16 was asked for and fp32 was used"
        far = [float(np.abs(found["fp32"][key] - found["bf16"][key]).max()) for key in found["fp32"]]
        assert max(far) < 0.1
    else:
        with pytest.raises(BadSetting, match="bf16"):
            whole.thaw(live, precision="bf16")


def check_a_rehearsal_leaves_learnt_statistics(network: Network) -> None:
    network.set_head(LAYERS, CLASSES, seed=1)
    network.prepare(LEARNING)
    network.thaw({HEAD: 1e-2, "top": 1e-2})
    steps(network, 1)
    weights, state = network.weights(), network.state()
    network.rehearse(batch(1), {HEAD: 1e-2, "top": 1e-2, "block2": 1e-2}, precision="fp32")
    assert not changed(weights, network.weights())
    assert state.keys() == network.state().keys()
    assert not changed(state, network.state())


def _same(network: Network, other: Network) -> None:
    assert network.moved == other.moved
    assert not changed(other.weights(), network.weights())
    assert network.state().keys() == other.state().keys()
    assert not changed(other.state(), network.state())
    with network.averaged(), other.averaged():
        assert not changed(other.weights(), network.weights())


LEARNING = Optimization(weight_decay=0.1, statistics="batch")


def check_statistics_are_learnt_in_live_groups_alone(network: Network) -> None:
    network.set_head(LAYERS, CLASSES, seed=1)
    network.prepare(LEARNING)
    network.thaw({HEAD: 1e-2, "top": 1e-2})
    before = network.weights()
    steps(network, 2)
    moved = {key for key in changed(before, network.weights()) if not key.startswith("head")}
    top = next(group for group in network.groups if group.name == "top")
    assert moved >= set(top.parameters)
    assert moved <= {*top.parameters, *top.buffers}
    assert moved & set(top.buffers), "no statistics were learnt"


def check_learnt_statistics_resume(make: Callable[[], Network]) -> None:
    """And they are used while training, not in answers: those do not depend on their neighbours."""
    network, resumed = make(), make()
    for each in (network, resumed):
        each.set_head(LAYERS, CLASSES, seed=1)
        each.prepare(LEARNING)
    network.thaw({HEAD: 1e-2, "top": 1e-2})
    steps(network, 2)
    resumed.load_state(network.state())
    resumed.thaw({HEAD: 1e-2, "top": 1e-2})
    for each in (network, resumed):
        steps(each, 1, first=2)
    assert not changed(network.weights(), resumed.weights())
    images = pictures(8)
    np.testing.assert_allclose(network.logits(images[:4]), network.logits(images)[:4], atol=1e-5)


def check_the_average_goes_on_from_weights_that_are_put_in(network: Network) -> None:
    """Or else a group that is frozen afterwards would be judged by what it was before."""
    with_head(network)
    network.thaw({HEAD: 1e-2, "top": 1e-2})
    pretrained = network.weights()
    steps(network, 4)
    network.load_weights(pretrained)
    network.thaw({HEAD: 1e-2})
    with network.averaged():
        assert not changed(pretrained, network.weights())


def check_training_lowers_the_loss(make: Callable[[], Network]) -> None:
    """At one of two rates: what moves a small network from scratch in 40 steps ruins a large pre-trained one."""
    for rate in (1e-3, 1e-2):  # the large one's first: its steps take long
        network = with_head(make(), Head((Pool(), Dense(8))))
        network.thaw({HEAD: 1e-2, **{group.name: rate for group in network.groups}})
        losses = network.read([network.step(batch(0), scale=1.0, key=0) for _ in range(40)])
        if losses[-1] < 0.7 * losses[0]:
            return
    raise AssertionError(f"from {losses[0]:.3g} to {losses[-1]:.3g} at the last of the rates")


def check_gradients_are_those_of_the_logit(network: Network) -> None:
    """Of each picture's own class, at the last map: compared with what the logits do when the map is changed."""
    network.set_head(Head((Pool(), Dense(8, "tanh"))), CLASSES, seed=1)
    images, labels = pictures(4), np.array([0, 1, 2, 0])
    maps, gradient = network.gradients(images, labels)
    last = network.cuts[-2]
    np.testing.assert_allclose(maps, network.features(images, last), atol=1e-5)
    assert gradient.shape == maps.shape
    assert gradient.dtype == maps.dtype == np.float32
    draw = np.random.default_rng(0).normal(size=maps.shape).astype(np.float32)
    changed = [network.logits(maps + step * draw, last)[np.arange(4), labels] for step in (1e-2, -1e-2)]
    wanted = (changed[0] - changed[1]) / 2e-2
    np.testing.assert_allclose((gradient * draw).sum(axis=(1, 2, 3)), wanted, rtol=2e-2, atol=2e-3)


def check_gradients_are_told_at_every_cut(network: Network) -> None:
    network.set_head(Head((Pool(), Dense(8))), CLASSES, seed=1)
    images = pictures(2)
    for cut in network.cuts[1:]:
        crossing, gradient = network.gradients(images, np.array([0, 1]), cut)
        np.testing.assert_allclose(crossing, network.features(images, cut), atol=1e-5, err_msg=cut.name)
        assert gradient.shape == crossing.shape
        assert gradient.any(), cut.name


def check_gradients_leave_no_trace(make: Callable[[], Network]) -> None:
    """Before the head is prepared, between steps, and with live groups: training goes on to the same bits."""
    asked, other = make(), make()
    for network in (asked, other):
        network.set_head(LAYERS, CLASSES, seed=1)
    flags = _flags(asked)
    asked.gradients(pictures(4), np.zeros(4, int))
    assert _flags(asked) == flags
    for network in (asked, other):
        network.prepare(PLAN)
    for first, rates in enumerate(({HEAD: 1e-2}, {HEAD: 1e-2, "top": 1e-2, "block2": 1e-3})):
        for network in (asked, other):
            network.thaw(rates)
            steps(network, 1, first=2 * first)
        drawn = [np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()]  # type: ignore[index,union-attr]
        flags = _flags(asked)
        for cut in (None, asked.cuts[1]):
            asked.gradients(pictures(4), np.array([0, 1, 2, 0]), cut)
        assert drawn == [np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()]  # type: ignore[index,union-attr]
        assert _flags(asked) == flags, "what trains, or the mode, is another"
        _same(asked, other)
        for network in (asked, other):
            steps(network, 1, first=2 * first + 1)
        _same(asked, other)


def _flags(network: Network) -> list[Any]:
    """What the framework's own model says of its parts: what is live, modes, gradients that are kept."""
    native = network.native
    if not isinstance(native, nn.Module):
        return [(layer.trainable, [variable.trainable for variable in layer.variables]) for layer in native.layers]
    kept = [(parameter.requires_grad, parameter.grad is None) for parameter in native.parameters()]
    return [*kept, *(module.training for module in native.modules())]


def check_a_linear_head_on_the_mean_is_told(network: Network) -> None:
    """With its weights the mean of the last map gives the logits; also when its group has trained."""
    heads = (Head(), Head((Pool(), Dense(8, "linear"), Dropout(0.5))))
    for head in heads:
        with_head(network, head)
        network.thaw({HEAD: 1e-2, "top": 1e-2})
        steps(network, 2)
        linear = network.linear_on_mean
        assert linear is not None
        maps = network.features(pictures(), network.cuts[-2])
        wanted = network.logits(pictures())
        np.testing.assert_allclose(maps.mean(axis=(1, 2)) @ linear[0] + linear[1], wanted, atol=1e-4)
    for other in (LAYERS, Head((Flatten(), Dense(8, "linear")))):
        network.set_head(other, CLASSES)
        assert network.linear_on_mean is None, str(other)


ON_ONE = (
    check_only_thawed_groups_move,
    check_weights_that_are_put_in_count,
    check_head_only_stage_leaves_the_backbone_alone,
    check_refreezing_stops_momentum_and_decay,
    check_unfreezing_keeps_the_slots_of_what_was_training,
    check_a_late_group_starts_at_its_own_first_step,
    check_rates_hold_per_group,
    check_rows_do_not_depend_on_each_other,
    check_cuts_compose,
    check_a_solved_head_is_taken_as_it_is,
    check_the_average_stands_in_and_goes_away,
    check_the_average_goes_on_from_weights_that_are_put_in,
    check_statistics_are_learnt_in_live_groups_alone,
    check_a_rehearsal_leaves_learnt_statistics,
    check_gradients_are_those_of_the_logit,
    check_gradients_are_told_at_every_cut,
    check_a_linear_head_on_the_mean_is_told,
)
ON_SEVERAL = (
    check_gradients_leave_no_trace,
    check_resuming_equals_not_stopping,
    check_learnt_statistics_resume,
    check_padding_weighs_nothing,
    check_training_lowers_the_loss,
    check_a_rehearsal_leaves_no_trace,
    check_a_stage_trains_in_its_precision_also_when_resumed,
)
