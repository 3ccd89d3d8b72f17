"""What a Keras model of any build keeps and moves when it is trained, and what of it goes through a restart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.heads import Dense, Dropout, Head
from headstart.networks.network import HEAD, INPUT, Batch, Cut, Optimization

from ..conformance.networks import SPEC, batch, changed, pictures
from . import models
from .models import KerasNetwork, keras, network_of
from .processes import run_python

pytestmark = pytest.mark.keras

HIDDEN = Head((Dense(8), Dropout(0.5)))
TRAINED = (models.stored_as_frozen, models.branching, models.sharing)  # compiling takes seconds: not every build


def name_of(make: Callable[[], Any]) -> str:
    return make.__name__


def ready(network: KerasNetwork, plan: Optimization | None = None) -> KerasNetwork:
    network.set_head(HIDDEN, 3, seed=1)
    network.prepare(plan or Optimization(average=0.9))
    return network


def steps(network: KerasNetwork, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        network.step(batch(number), scale=1.0, key=number)


def moved_by(network: KerasNetwork, act: Callable[[], None]) -> set[str]:
    """The names of the backbone's weights and statistics that this changes."""
    before = network.weights()
    act()
    return {name for name in changed(before, network.weights()) if name.startswith("backbone")}


def parameters(network: KerasNetwork, *names: str) -> set[str]:
    return {key for group in network.groups if group.name in names for key in group.parameters}


def check_frozen_through_a_stage(network: KerasNetwork) -> None:
    """Nothing but the last group's parameters moves: no statistic, nothing below, in two steps."""
    last = network.groups[-1].name
    ready(network).thaw({HEAD: 1e-2, last: 1e-3})
    moved = moved_by(network, lambda: steps(network, 2))
    assert moved == parameters(network, last), "the moving tensors are not the thawed ones"


def check_frozen_through_fit(network: KerasNetwork) -> None:
    """The same under the framework's own `fit`, which calls the whole model in training mode."""
    last = network.groups[-1].name
    ready(network).thaw({HEAD: 1e-2, last: 1e-3})
    native = network.native
    native.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    moved = moved_by(network, lambda: native.fit(pictures(), batch().labels, verbose=0))
    assert moved == parameters(network, last), "the moving tensors are not the thawed ones"


# ---- how a model is taken apart


@pytest.mark.parametrize("make", models.MODELS, ids=name_of)
def test_taken_apart_a_model_gives_what_it_gave_and_groups_cover_it_once(make: Callable[[], keras.Model]) -> None:
    model = models.made(make)
    network = KerasNetwork(model, spec=SPEC)
    names = [key for group in network.groups for key in (*group.parameters, *group.buffers)]
    assert len(names) == len(set(names))
    assert set(names) == set(network.weights())
    assert len(names) == sum(variable.name != "seed_generator_state" for variable in model.variables)
    assert len({group.name for group in network.groups}) == len(network.groups)
    assert all(group.flops > 0 for group in network.groups)
    images = half_blank()
    expected = model.predict(models.normalised(images), verbose=0)
    np.testing.assert_allclose(network.features(images, network.cuts[-2]), expected, atol=1e-5)


def half_blank() -> np.ndarray:
    """Pictures whose last rows are zero to the model: one model is told not to look at such."""
    images = pictures(4)
    images[:, 20:] = SPEC.mean[0]
    return images


@pytest.mark.parametrize("make", [models.branching, models.masking, models.sharing], ids=name_of)
def test_going_on_from_any_cut_gives_what_one_pass_gives(make: Callable[[], keras.Model]) -> None:
    network = network_of(make)
    whole = network.features(half_blank(), network.cuts[-1])
    for cut in network.cuts[1:-1]:
        crossing = network.features(half_blank(), cut)
        np.testing.assert_allclose(network.features(crossing, network.cuts[-1], cut), whole, atol=1e-5)


def test_no_cut_parts_a_sequence_from_its_mask() -> None:
    network = network_of(models.masking)
    assert [cut.name for cut in network.cuts] == ["input", "map", "pooled"]


def test_a_layer_that_is_used_twice_is_in_one_group_with_all_in_between() -> None:
    groups = network_of(models.sharing).groups
    assert [len(group.parameters) for group in groups] == [2, 4, 2]


def test_branches_are_grouped_by_name_though_no_cut_parts_them() -> None:
    network = network_of(models.branching)
    assert [group.name for group in network.groups] == ["stem", "narrow1", "wide1", "narrow2", "wide2"]
    assert [cut.name for cut in network.cuts] == ["input", "stem", "wide1", "map", "pooled"]


def test_a_layer_without_a_matching_name_that_is_used_twice_is_in_one_group() -> None:
    source = keras.Input(models.SHAPE)
    twice = models.Conv2D(8, 1, name="twice")
    maps = models.stem(source)
    one = twice(models.Conv2D(8, 1, name="block1")(maps))
    other = twice(models.Conv2D(8, 1, name="block2")(maps))
    model = keras.Model(source, keras.layers.Add()([one, other]))
    network = KerasNetwork(model, spec=SPEC, groups=r"block\d")
    assert sum(len(group.parameters) for group in network.groups) == len(model.weights)


def test_groups_named_like_the_head_or_a_cut_get_another_name() -> None:
    source = keras.Input(models.SHAPE)
    maps = source
    for name in ("input", "map", "pooled", "head", "a_b"):
        maps = models.Conv2D(4, 3, strides=2, padding="same", name=name)(maps)
    network = KerasNetwork(keras.Model(source, maps, name="head"), spec=SPEC)
    assert [group.name for group in network.groups] == ["input_2", "map_2", "pooled_2", "head_2", "a_b"]
    assert len({cut.name for cut in network.cuts}) == len(network.cuts)
    ready(network).thaw({HEAD: 1e-2})
    assert not moved_by(network, lambda: steps(network, 1))
    assert network.native.output_shape == (None, 3)


def test_flops_of_recurrent_layers_count_every_step() -> None:
    plain, both = network_of(models.lstm).groups[1], network_of(models.bidirectional).groups[0]
    assert plain.flops == SPEC.size * 2 * (8 * 32 + 8 * 32)
    assert both.flops == SPEC.size * 2 * 2 * (3 * SPEC.size * 24 + 6 * 24)


# ---- what stays as it is


@pytest.mark.parametrize("make", TRAINED, ids=name_of)
def test_what_is_frozen_keeps_its_bits_while_what_is_above_it_trains(make: Callable[[], keras.Model]) -> None:
    check_frozen_through_a_stage(network_of(make))


@pytest.mark.parametrize("make", [models.nested, models.distributed_in_time], ids=name_of)
def test_what_is_frozen_keeps_its_bits_in_fit_as_well(make: Callable[[], keras.Model]) -> None:
    check_frozen_through_fit(network_of(make))


class InTrainingMode(KerasNetwork):
    """The fault of many: the backbone is called as `fit` calls it."""

    def _between(self, inputs: Any, start: int, stop: int) -> Any:
        for place in range(start, stop):
            step = self._steps[place]
            if place == 0:
                inputs = self._preprocess(inputs)
                inputs = keras.Model(self.backbone.inputs[0], self._pieces[0].crossing)(inputs, training=True)
            else:
                inputs = getattr(step, "func", step)(inputs, training=True)
        return inputs

    def _training_answer(self, inputs: Any, start: int) -> Any:
        return self._head(self._between(inputs, start, self._head_input), training=True)


class NeverFrozen(KerasNetwork):
    """`thaw` switches on and nothing off."""

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, **more: Any) -> None:
        super().thaw({group.name: rates.get(group.name, 1e-3) for group in self.groups} | dict(rates))


class ThawedAsAWhole(KerasNetwork):
    """A thawed group's normalisations are thawed with it."""

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, **more: Any) -> None:
        super().thaw(rates)
        for piece in self._pieces:
            for layer in piece.layers if piece.name in rates else ():
                layer.trainable = True


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (NeverFrozen, check_frozen_through_a_stage),
        (ThawedAsAWhole, check_frozen_through_fit),
    ],
)
def test_the_checks_find_the_fault(fault: type[KerasNetwork], check: Callable[[KerasNetwork], None]) -> None:
    with pytest.raises(AssertionError, match="not the thawed ones"):
        check(network_of(models.residual, fault))


def test_in_training_mode_a_frozen_network_would_answer_otherwise() -> None:
    """What `training=False` within is for: a live normalisation would use the batch's statistics."""
    losses = []
    for kind in (KerasNetwork, InTrainingMode):
        network = ready(network_of(models.residual, kind))
        network.thaw({HEAD: 0.0})
        for piece in network._pieces:
            for layer in piece.layers:
                layer.trainable = kind is InTrainingMode or layer.trainable
        losses += network.read([network.step(batch(), scale=1.0, key=0)])
    assert abs(losses[0] - losses[1]) > 1e-3


# ---- chance


def trained(seed_of_keys: int, start: Cut = INPUT) -> dict[str, np.ndarray]:
    network = ready(network_of(models.residual))
    network.thaw({HEAD: 1e-2})
    for number in range(2):
        network.step(batch(number), scale=1.0, key=seed_of_keys + number)
    return network.weights()


def test_equal_keys_give_equal_bits_and_other_keys_other_dropout() -> None:
    first, again, other = trained(0), trained(0), trained(7)
    assert not changed(first, again)
    assert changed(first, other)


RESUME = """
import sys
import numpy as np
from tests.keras.test_network import half
state, = sys.argv[1:]
half(state, second=True)
"""


def half(path: str, *, second: bool) -> KerasNetwork:
    """Two steps with dropout and an average of the weights, and their state in a file; or, from there, two more."""
    network = ready(network_of(models.stored_as_frozen), Optimization(average=0.9, label_smoothing=0.1))
    rates = {HEAD: 1e-2, network.groups[-1].name: 1e-3}
    if second:
        with np.load(path) as state:
            network.load_state(dict(state))
    network.thaw(rates)
    steps(network, 2, first=2 * second)
    np.savez(path, **network.state())
    return network


def test_resuming_in_another_process_continues_to_the_same_bits(tmp_path: Path) -> None:
    path = str(tmp_path / "state.npz")
    network = half(path, second=False)
    run_python(RESUME, path)
    steps(network, 2, first=2)
    with np.load(path) as resumed:
        assert not changed(network.state(), dict(resumed))


@pytest.mark.parametrize("make", [models.bidirectional, models.attention], ids=name_of)
def test_weights_and_state_go_into_another_network_of_the_same_build(make: Callable[[], keras.Model]) -> None:
    first, second = ready(network_of(make)), ready(network_of(make))
    last = first.groups[-1].name
    first.thaw({HEAD: 1e-2, last: 1e-3})
    assert moved_by(first, lambda: steps(first, 1)) == parameters(first, last)
    second.load_weights(first.weights())
    second.load_state(first.state())
    second.thaw({HEAD: 1e-2, last: 1e-3})
    assert not changed(first.weights(), second.weights())
    assert not changed(first.state(), second.state())


def test_padding_a_batch_in_other_hands_weighs_nothing() -> None:
    network = ready(network_of(models.residual))
    network.thaw({HEAD: 0.0})
    plain = batch(0, 4)
    twice = (np.concatenate([a, a]) for a in (plain.inputs, plain.labels))
    padded = Batch(*twice, np.append(plain.weights, np.zeros(4)))
    head = Head((Dense(8),))
    losses = []
    for each in (plain, padded):
        network.set_head(head, 3, seed=1)
        network.thaw({HEAD: 1e-2})
        losses += network.read([network.step(each, scale=1.0, key=0)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_backbone_that_augments_does_not_in_features_and_predictions() -> None:
    network = network_of(models.augmenting)
    images = pictures()
    ready(network)
    logits = network.logits(images)
    assert np.array_equal(logits, network.logits(images))
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(network.native.predict(images, verbose=0), expected, atol=1e-5)
