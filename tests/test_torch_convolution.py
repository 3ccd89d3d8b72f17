"""Training on a processor takes other ways through convolutions than inference, to the same sums."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstart.backbones.efficientnet_lite import ConvNorm
from headstart.networks import torch_convolution
from headstart.networks.torch_convolution import QuickGradients

# Each way, and some that are left alone: channels in and out, size, kernel, stride, padding, groups, bias.
LAYERS = {
    "pointwise": (8, 16, 7, 1, 1, 0, 1, True),
    "pointwise on a large map": (8, 16, 20, 1, 1, 0, 1, False),
    "pointwise with a stride": (8, 16, 15, 1, 2, 0, 1, True),
    "small map": (8, 16, 7, 3, 1, 1, 1, True),
    "small map with a stride": (8, 16, 15, 3, 2, 1, 1, False),
    "unequal sides": (8, 16, 8, (1, 7), 1, (0, 3), 1, False),
    "a kernel for each channel": (8, 8, 14, 5, 1, 2, 8, True),
    "a kernel for each channel with a stride": (8, 8, 15, 3, 2, 1, 8, False),
    "groups": (8, 16, 9, 3, 1, 1, 2, True),
    "padding by name": (8, 16, 9, 3, 1, "same", 1, True),
}


def gradients(layer: nn.Module, *, quick: bool, bf16: bool) -> list[Tensor]:
    """The result and all gradients of a layer for the same random input."""
    generator = torch.Generator().manual_seed(0)
    weight: Any = next(layer.parameters())
    size = getattr(layer, "size", 9)
    pixels = torch.randn(4, weight.shape[1] * getattr(layer, "groups", 1), size, size, generator=generator)
    pixels = pixels.to(memory_format=torch.channels_last).requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, bf16), QuickGradients() if quick else contextlib.nullcontext():
        found = layer(pixels)
    wanted = torch.randn(found.shape, generator=generator)
    (torch.relu_(found).float() * wanted).sum().backward()  # in place, as many networks go on
    assert found.is_contiguous(memory_format=torch.channels_last)
    every = [pixels.grad, *(parameter.grad for parameter in layer.parameters())]
    return [found.detach().float(), *(gradient for gradient in every if gradient is not None)]


def made(name: str) -> nn.Module:
    taken, given, size, kernel, stride, padding, groups, bias = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer: Any = nn.Conv2d(taken, given, kernel, stride, padding, groups=groups, bias=bias)  # type: ignore[arg-type]
    layer.size = size
    return layer.to(memory_format=torch.channels_last)  # type: ignore[no-any-return]


def furthest(found: list[Tensor], wanted: list[Tensor]) -> float:
    assert len(found) == len(wanted)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_quick_gradients_are_those_of_pytorch(name: str) -> None:
    layer = made(name)
    exact = gradients(layer, quick=False, bf16=False)
    assert furthest(gradients(layer, quick=True, bf16=False), exact) < 1e-5
    usual = furthest(gradients(layer, quick=False, bf16=True), exact)
    assert furthest(gradients(layer, quick=True, bf16=True), exact) < 1.5 * usual


def test_a_wrong_gradient_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made("small map")
    exact = gradients(layer, quick=False, bf16=False)
    seen = torch_convolution._seen
    monkeypatch.setattr(torch_convolution, "_seen", lambda *given: seen(*given).flip(1))
    assert furthest(gradients(layer, quick=True, bf16=True), exact) > 0.1


def test_a_network_that_only_answers_computes_as_ever() -> None:
    layer = made("pointwise with a stride")
    pixels = torch.randn(2, 8, 15, 15)
    with torch.inference_mode():
        usual = layer(pixels)
        with QuickGradients():
            assert torch.equal(layer(pixels), usual)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_of_the_bundled_network_has_the_gradients_of_its_formula(stride: int) -> None:
    """Its padding and its ReLU6 take other ways in training than in inference."""
    layer = ConvNorm(8, 8, kernel=3, stride=stride, groups=8).eval()
    pixels = (3 * torch.randn(2, 8, 10, 10)).requires_grad_()
    with torch.inference_mode():
        answered = layer(pixels)
    trained = layer(pixels)
    assert torch.allclose(answered, trained, atol=1e-5)
    sides = (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)
    normal = layer.norm(
        nn.functional.conv2d(nn.functional.pad(pixels, sides), layer.conv.weight, None, stride, groups=8)
    )
    plain = normal.clamp(0, 6)
    wanted = torch.autograd.grad(plain.square().sum(), [pixels, *layer.parameters()])
    found = torch.autograd.grad(trained.square().sum(), [pixels, *layer.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(found, wanted, strict=True))
