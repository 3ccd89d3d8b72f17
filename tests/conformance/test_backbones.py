"""What every backbone of every source must do; a new source passes by being installed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from headstart.backbones.backbone import Entry
from headstart.backbones.loading import list_backbones, load_backbone
from headstart.networks.network import INPUT, Network

pytest.importorskip("headstart.networks.torch", reason="no network that runs PyTorch yet")

# The weights of others are not on this machine; runs are whatever lies in this folder, and have tests of their own.
ENTRIES = [entry for entry in list_backbones() if entry.available and not entry.name.startswith("run/")]


@pytest.fixture(scope="module", params=ENTRIES, ids=[entry.name for entry in ENTRIES])
def entry(request: pytest.FixtureRequest) -> Entry:
    found: Entry = request.param
    return found


@pytest.fixture(scope="module")
def network(entry: Entry) -> Network:
    return load_backbone(entry.name).build()


def pictures(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def test_features_are_finite_and_as_wide_as_the_catalogue_says(entry: Entry, network: Network) -> None:
    features = network.features(pictures(entry.size), network.cuts[-1])
    assert features.shape == (2, entry.width)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert features.std() > 0


def test_groups_cover_all_weights_once(network: Network) -> None:
    named = [name for group in network.groups for name in (*group.parameters, *group.buffers)]
    assert len(named) == len(set(named))
    assert set(named) == set(network.weights())


def test_going_from_cut_to_cut_gives_the_same_features_as_going_at_once(entry: Entry, network: Network) -> None:
    inputs, last = pictures(entry.size), network.cuts[-1]
    crossing: np.ndarray = inputs
    for start, upto in pairwise(network.cuts):
        crossing = network.features(crossing, upto, start)
    np.testing.assert_allclose(crossing, network.features(inputs, last), atol=1e-4)


def test_cuts_start_at_the_input_and_end_pooled(network: Network) -> None:
    assert network.cuts[0] == INPUT
    assert network.cuts[-1].name == "pooled"


def test_two_builds_are_equal_and_independent(entry: Entry, network: Network) -> None:
    other = load_backbone(entry.name).build()
    ours, theirs = network.weights(), other.weights()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    other.load_weights({name: np.zeros_like(values) for name, values in theirs.items()})
    assert all(np.array_equal(ours[name], values) for name, values in network.weights().items())


def test_another_size_gives_features_of_the_same_width(entry: Entry) -> None:
    size = entry.size - 32
    small = load_backbone(entry.name, size=size).build()
    assert small.features(pictures(size), small.cuts[-1]).shape == (2, entry.width)


def test_the_catalogue_counts_the_parameters(entry: Entry, network: Network) -> None:
    weights = network.weights()
    assert entry.parameters == sum(weights[name].size for group in network.groups for name in group.parameters)
