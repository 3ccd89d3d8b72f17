"""One PyTorch module from photos of any size to answers says what the run says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from headstart.answering import Answerer
from headstart.heads import LinearHead
from headstart.modalities.frames import framed
from headstart.modalities.image import ImageModality
from headstart.modalities.spec import Fit, InputSpec
from headstart.networks.torch import TorchNetwork
from headstart.networks.torch_whole import Square, exported
from headstart.novelty import Novelty

SPEC = InputSpec(size=32, crop=0.875, interpolation="bicubic", mean=(110.0, 120.0, 130.0), std=(50.0, 60.0, 70.0))
SIZES = ((90, 60), (37, 91), (300, 200), (32, 32), (37, 37), (7, 5), (1, 1))


def photo(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise, smoothed a little: what resizing has most to do with."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (max(2, size[1] // 2), max(2, size[0] // 2), 3), dtype=np.uint8))
    return np.array(small.resize(size, Image.Resampling.BICUBIC))


def tiny(spec: InputSpec = SPEC) -> TorchNetwork:
    """A network of two layers with a linear head for three classes."""
    torch.manual_seed(0)
    channels = 1 if spec.order == "grey" else 3
    stages = {"stem": nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2), nn.ReLU()), "top": nn.Conv2d(8, 12, 3)}
    network = TorchNetwork(stages, spec=spec)
    rng = np.random.default_rng(1)
    network.set_head(LinearHead(rng.normal(size=(12, 3)), rng.normal(size=3)), 3)
    return network


UNPROJECTED = {"projection": None, "centres": np.random.default_rng(2).normal(size=(20, 12)), "normalise": True}


def novelty(**changes: Any) -> Novelty:
    """Where photos of this network lie, in four dimensions."""
    rng = np.random.default_rng(2)
    made = Novelty(
        mean=rng.normal(size=12),
        projection=rng.normal(size=(12, 4)),
        centres=rng.normal(size=(20, 4)),
        k=3,
        normalise=False,
        threshold=1.0,
        false_alarms=0.05,
    )
    return replace(made, **changes)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("fit", get_args(Fit))
def test_a_photo_of_any_size_becomes_the_square_that_pillow_makes(fit: Fit, interpolation: Any) -> None:
    spec = replace(SPEC, fit=fit, interpolation=interpolation)
    for size in SIZES:
        pixels = photo(size)
        ours = Square(spec)(torch.from_numpy(pixels)[None])[0].permute(1, 2, 0).numpy()
        apart = np.abs(ours - np.asarray(framed(Image.fromarray(pixels), spec)).astype(float))
        # A level where both are as near to the next.
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.02, size


@pytest.mark.parametrize("views", [("plain",), ("plain", "flip"), ("flip",)])
@pytest.mark.parametrize("order", ["rgb", "bgr", "grey"])
def test_it_gives_the_probabilities_of_the_run(order: Any, views: tuple[str, ...]) -> None:
    grey: Any = {"mean": (110.0,) * 3, "std": (50.0,) * 3} if order == "grey" else {}
    spec = replace(SPEC, order=order, **grey)
    network, pixels = tiny(spec), photo((90, 60))
    model = Answerer(network=network, modality=ImageModality(), spec=spec, views=views, temperature=1.7)
    square = np.array(framed(Image.fromarray(pixels), spec))[None]
    [expected] = _probabilities(model, square)
    whole = network.whole(temperature=1.7, views=views, novelty=None, heat=False)
    with torch.inference_mode():
        [given] = whole(torch.from_numpy(pixels)[None])
    assert np.allclose(given[0], expected, atol=2e-3)  # of this network a level of colour makes so much
    squared = whole(torch.from_numpy(_canvas(square, spec)))[0]
    assert np.allclose(squared[0], expected, atol=1e-6)


def _probabilities(model: Answerer, square: np.ndarray) -> np.ndarray:
    from headstart.answering import VIEWS, softmax

    return np.mean(
        [softmax(model.network.logits(VIEWS[view](square)) / model.temperature) for view in model.views], axis=0
    )


def _canvas(square: np.ndarray, spec: InputSpec) -> np.ndarray:
    start = round((spec.resized - spec.size) / 2)
    canvas = np.zeros((1, spec.resized, spec.resized, 3), np.uint8)
    canvas[:, start : start + spec.size, start : start + spec.size] = square
    return canvas


@pytest.mark.parametrize("changes", [{}, {"k": 1}, {"normalise": True}, {"mean": np.full(12, 1000.0)}, UNPROJECTED])
def test_distances_are_those_of_the_run_to_a_thousandth(changes: dict[str, Any]) -> None:
    network, asked = tiny(), novelty(**changes)
    squares = np.stack([photo((32, 32), seed) for seed in range(5)])
    canvas = np.concatenate([_canvas(square[None], SPEC) for square in squares])
    whole = network.whole(temperature=1.0, views=("plain", "flip"), novelty=asked, heat=False)
    given = whole(torch.from_numpy(canvas))[1].numpy()
    expected = asked.distance(network.features(squares, network.cuts[-1]))
    assert np.allclose(given, expected, rtol=1e-3)


def test_distances_survive_centres_that_lie_far_from_zero_and_close_together() -> None:
    network = tiny()
    square = photo((32, 32))[None]
    at = (network.features(square, network.cuts[-1]) - novelty().mean) @ novelty().projection
    close = novelty(centres=at + np.random.default_rng(3).normal(size=(20, 4)) * 1e-2 + 0.0, mean=novelty().mean)
    far = replace(close, mean=close.mean, centres=close.centres)
    whole = network.whole(temperature=1.0, views=("plain",), novelty=far, heat=False)
    given = whole(torch.from_numpy(_canvas(square, SPEC)))[1].numpy()
    assert np.allclose(given, far.distance(network.features(square, network.cuts[-1])), rtol=1e-3)


def test_heat_says_where_and_adds_up_to_the_logits() -> None:
    network, square = tiny(), photo((32, 32))[None]
    whole = network.whole(temperature=1.3, views=("plain", "flip"), novelty=None, heat=True)
    heat = whole(torch.from_numpy(_canvas(square, SPEC)))[1].numpy()
    weights, bias = network.linear_on_mean or pytest.fail("the head is linear on the mean")
    last = network.features(square, network.cuts[-2])
    assert np.allclose(heat, last @ weights / (last.shape[1] * last.shape[2]), atol=1e-5)
    assert np.allclose(heat.sum((1, 2)) + bias, network.logits(square), atol=1e-4)


def test_it_is_traced_once_for_any_number_of_photos_of_any_size() -> None:
    network = tiny()
    whole = network.whole(temperature=1.3, views=("plain", "flip"), novelty=novelty(), heat=True)
    program = exported(whole).module()
    for n, size in ((1, (90, 60)), (3, (37, 91)), (1, (1, 1))):
        pixels = torch.from_numpy(np.stack([photo(size, seed) for seed in range(n)]))
        for given, expected in zip(program(pixels), whole(pixels), strict=True):
            assert torch.allclose(given, expected, atol=1e-5)


def test_making_it_leaves_the_network_as_it_was() -> None:
    network = tiny()
    before = network.weights()
    network.whole(temperature=2.0, views=("plain",), novelty=None, heat=True)
    after = network.weights()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
