"""Features in eight bits: near the framework's, the same every time, refused in one sentence where they cannot be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headstart.errors import BadRuntime
from headstart.networks.network import Network
from headstart.networks.torch import TorchNetwork
from headstart.runtimes import openvino, openvino_int8
from headstart.runtimes.runtime import Offer

from .conformance.networks import SPEC, small_torch_network

pytestmark = [
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("openvino", "nncf")),
        reason='needs pip install "headstart[int8]"',
    ),
    # NNCF's and OpenVINO's own, in their own modules.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def network() -> TorchNetwork:
    return small_torch_network()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    return tmp_path


def photos(count: int, *, seed: int = 0) -> np.ndarray:
    """Smooth pictures: noise alone shows a network the same picture again and again."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def offer(network: Network) -> Offer:
    (found,) = openvino_int8.offers(network)
    return found


def features(network: Network, pictures: np.ndarray, **how: Any) -> np.ndarray:
    runner = openvino_int8.open(network, offer(network), network.cuts[-1], **how)
    chunks = [runner(pictures[first : first + runner.chunk]) for first in range(0, len(pictures), runner.chunk)]
    return np.concatenate(chunks)


def gap(network: Network, found: np.ndarray, pictures: np.ndarray) -> float:
    true = network.features(pictures, network.cuts[-1])
    return float(np.linalg.norm(found - true) / np.linalg.norm(true - true.mean(0)))


def test_features_in_eight_bits_are_near_the_frameworks_and_not_the_same(network: TorchNetwork) -> None:
    pictures = photos(16, seed=1)
    assert 1e-4 < gap(network, features(network, pictures, sample=lambda: photos(32)), pictures) < 0.1


def test_photos_unlike_those_that_will_come_spoil_the_features(network: TorchNetwork) -> None:
    # What the check above would let through if the sample did nothing.
    pictures = photos(16, seed=1)
    dark = np.zeros((32, 32, 32, 3), np.uint8)
    assert gap(network, features(network, pictures, sample=lambda: dark), pictures) > 0.1


def test_the_same_photos_give_the_same_bits_in_two_quantisations(network: TorchNetwork) -> None:
    pictures = photos(8, seed=1)
    first, second = (features(network, pictures, sample=lambda: photos(32)) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_network_is_quantised_once_and_then_read(
    network: TorchNetwork, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = photos(8, seed=1)
    first = features(network, pictures, sample=lambda: photos(32), identity="these weights")

    def again(*_: object) -> None:
        raise AssertionError("quantised again")

    monkeypatch.setattr(openvino_int8, "quantised", again)
    assert np.array_equal(first, features(network, pictures, sample=lambda: photos(32), identity="these weights"))
    for other in ({"identity": "other weights"}, {"sample": lambda: photos(32, seed=5)}):
        with pytest.raises(AssertionError, match="quantised again"):
            features(network, pictures, **{"sample": lambda: photos(32), "identity": "these weights", **other})


def test_the_first_and_the_depthwise_layers_stay_out_of_eight_bits() -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 1),
        nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2),
    )  # fmt: skip
    model = openvino.converted(
        TorchNetwork({"all": layers}, spec=SPEC), TorchNetwork({"all": layers}, spec=SPEC).cuts[-1], 4
    )
    kinds = [node.get_type_name() for node in model.get_ordered_ops() if "Convolution" in node.get_type_name()]
    assert kinds == ["Convolution", "GroupConvolution", "Convolution", "GroupConvolution"]
    named = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    assert [named[name].get_type_name() for name in openvino_int8.delicate(model)] == [
        "Convolution",
        "GroupConvolution",
    ]


def test_too_few_photos_are_refused_with_their_number(network: TorchNetwork) -> None:
    with pytest.raises(BadRuntime, match=r"at least 8 photos .* and 3 can be read"):
        openvino_int8.open(network, offer(network), network.cuts[-1], sample=lambda: photos(3))
    with pytest.raises(BadRuntime, match="0 can be read"):
        openvino_int8.open(network, offer(network), network.cuts[-1])


def test_without_nncf_the_extra_is_named(network: TorchNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_int8, "installed", lambda: False)
    assert openvino_int8.offers(network) == ()
    lack = openvino_int8.lacks(network, "int8")
    assert lack is not None
    assert "NNCF" in lack.what
    assert lack.fix == 'pip install "headstart[int8]"'
    assert openvino_int8.lacks(network, "bf16") is None


def test_what_identifies_features_names_the_version_of_nncf(network: TorchNetwork) -> None:
    from importlib.metadata import version

    assert f"nncf-{version('nncf')}" in offer(network).engine


def test_quantising_writes_nothing_and_tells_nobody(network: TorchNetwork, capfd: pytest.CaptureFixture[str]) -> None:
    features(network, photos(8), sample=lambda: photos(16))
    assert capfd.readouterr() == ("", "")


def test_a_network_that_cannot_be_quantised_is_refused_in_one_sentence(
    network: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nncf

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such layer\nand more")

    monkeypatch.setattr(nncf, "quantize", broken)
    with pytest.raises(BadRuntime, match=r"cannot be brought to eight bits \(no such layer\)"):
        features(network, photos(8), sample=lambda: photos(16))


def test_threads_side_by_side_get_what_one_gets(network: TorchNetwork) -> None:
    from concurrent.futures import ThreadPoolExecutor

    pictures = photos(32, seed=1)
    runner = openvino_int8.open(network, offer(network), network.cuts[-1], sample=lambda: photos(16))
    chunks = [pictures[first : first + 4] for first in range(0, 32, 4)]
    with ThreadPoolExecutor(4) as pool:
        assert np.array_equal(np.concatenate(list(pool.map(runner, chunks))), np.concatenate([*map(runner, chunks)]))


def test_a_network_on_a_gpu_is_left_to_the_gpu(network: TorchNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "device", torch.device("cuda"))
    assert openvino_int8.offers(network) == ()
    assert openvino_int8.lacks(network, "int8") is None
