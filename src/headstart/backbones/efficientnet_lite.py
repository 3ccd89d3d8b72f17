"""Build EfficientNet-Lite0, 1 or 2 in PyTorch, and read the published weights into it.

The Lite family (Liu 2020, after Tan and Le 2019) is EfficientNet for small devices: ReLU6 instead of swish, no
squeeze-and-excitation, and a stem and a top that do not grow with the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

WIDTH = 1280  # channels of the feature map, the same for the whole family
STEM = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much wider and deeper than Lite0 a member of the family is."""

    width: float
    depth: float


SCALES = {
    "efficientnet_lite0": Scale(width=1.0, depth=1.0),
    "efficientnet_lite1": Scale(width=1.0, depth=1.1),
    "efficientnet_lite2": Scale(width=1.1, depth=1.2),
}


@dataclass(frozen=True, slots=True)
class Stack:
    """Several blocks in a row with the same number of channels; the first one changes resolution and channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STACKS = (
    Stack(1, 3, 1, 1, 16),
    Stack(2, 3, 2, 6, 24),
    Stack(2, 5, 2, 6, 40),
    Stack(3, 3, 2, 6, 80),
    Stack(3, 5, 1, 6, 112),
    Stack(4, 5, 2, 6, 192),
    Stack(1, 3, 1, 6, 320),
)


def scaled(stacks: tuple[Stack, ...], scale: Scale) -> tuple[Stack, ...]:
    """The stacks of a larger member: all grow in channels, all but the first and the last in depth."""
    last = len(stacks) - 1
    return tuple(
        Stack(
            stack.repeats if index in (0, last) else math.ceil(stack.repeats * scale.depth),
            stack.kernel,
            stack.stride,
            stack.expansion,
            rounded(stack.channels * scale.width),
        )
        for index, stack in enumerate(stacks)
    )


def rounded(channels: float) -> int:
    """The nearest multiple of 8, but never less than nine tenths of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: so many zeros before and after that `ceil(length / stride)` values come out.

    The odd zero goes to the end; PyTorch's symmetric padding would shift every later layer by half a pixel.
    """
    total = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


class ConvNorm(nn.Module):
    """A convolution with SAME padding, its normalisation, and ReLU6 where `active`."""

    def __init__(
        self, taken: int, given: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.active = active
        self.conv = nn.Conv2d(taken, given, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(given, eps=1e-3, momentum=0.01)

    def forward(self, pixels: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d h2 w2"]:
        """The map after this layer."""
        norm = self.norm
        if norm.training:
            normal = norm(same_conv(pixels, self.conv, self.conv.weight, None))
        else:
            # With stored statistics the normalisation is linear: folded into the kernel it has the same gradients
            # and saves a pass over the map.
            stored_mean, stored_variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            scale = norm.weight * torch.rsqrt(stored_variance + norm.eps)
            kernel = self.conv.weight * scale[:, None, None, None]
            normal = same_conv(pixels, self.conv, kernel, norm.bias - stored_mean * scale)
        return relu6(normal) if self.active else normal

    def folded(self) -> FoldedConvNorm:
        """The same layer with its normalisation in the kernel for good, of operations that every format knows."""
        return FoldedConvNorm(self)


class FoldedConvNorm(nn.Module):
    """A `ConvNorm` that learns no more."""

    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        self.active = layer.active
        self.conv = fuse_conv_bn_eval(layer.conv, layer.norm)

    def forward(self, pixels: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d h2 w2"]:
        """The map after this layer."""
        conv = self.conv
        (top, bottom), (left, right) = (padding(s, conv.kernel_size[0], conv.stride[0]) for s in pixels.shape[-2:])
        even = (top, left) == (bottom, right)
        given = pixels if even else F.pad(pixels, (left, right, top, bottom))
        given = F.conv2d(given, conv.weight, conv.bias, conv.stride, (top, left) if even else 0, groups=conv.groups)
        return F.relu6(given) if self.active else given


def relu6(values: torch.Tensor) -> torch.Tensor:
    """Values kept between 0 and 6, in place."""
    if torch.is_grad_enabled() and values.requires_grad:
        clipped: torch.Tensor = _Relu6.apply(values)  # type: ignore[no-untyped-call]
        return clipped
    return F.relu6(values, inplace=True)


class _Relu6(torch.autograd.Function):
    """In place while training too, where PyTorch's own would keep a copy of what comes in."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(values)
        F.relu6(values, inplace=True)
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (values,) = ctx.saved_tensors
        # Where 0 or 6 came out nothing passes, whatever came in.
        passed: torch.Tensor = torch.ops.aten.hardtanh_backward(gradient, values, 0.0, 6.0)
        return passed


def same_conv(pixels: torch.Tensor, conv: nn.Conv2d, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The convolution with TensorFlow's SAME padding, in inference without a padded copy of the map.

    Where the padding is uneven, one more stride of zeros all around and the first row or column of the result dropped
    gives the same values: twice as fast in the wide early layers. But its gradient is three times slower than that of
    a padded copy.
    """
    sides = [padding(length, conv.kernel_size[0], conv.stride[0]) for length in (pixels.shape[-2], pixels.shape[-1])]
    uneven = [before != after for before, after in sides]
    if any(uneven) and torch.is_grad_enabled() and kernel.requires_grad:
        (top, bottom), (left, right) = sides
        padded = F.pad(pixels, (left, right, top, bottom))
        return F.conv2d(padded, kernel, bias, conv.stride, groups=conv.groups)
    zeros = [before + conv.stride[0] * odd for (before, _), odd in zip(sides, uneven, strict=True)]
    given = F.conv2d(pixels, kernel, bias, conv.stride, zeros, groups=conv.groups)
    return given[:, :, int(uneven[0]) :, int(uneven[1]) :] if any(uneven) else given


class Block(nn.Module):
    """A mobile inverted bottleneck: widen, filter each channel, narrow; added to its input where the shapes agree."""

    def __init__(self, taken: int, given: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = taken * expansion
        self.skips = stride == 1 and taken == given
        self.expand = ConvNorm(taken, inner) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel=kernel, stride=stride, groups=inner)
        self.project = ConvNorm(inner, given, active=False)

    def forward(self, pixels: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d h2 w2"]:
        """The map after this block."""
        changed: torch.Tensor = self.project(self.depthwise(self.expand(pixels)))
        return changed + pixels if self.skips else changed


class EfficientNetLite(nn.Sequential):
    """Normalised pixels `[n 3 h w]` to a feature map `[n 1280 h/32 w/32]`.

    Its children are its groups in order, `stem`, `block1` to `block7`, `top`, and a single tensor goes from each to
    the next.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module("stem", ConvNorm(3, STEM, kernel=3, stride=2))
        channels = STEM
        for index, stack in enumerate(scaled(STACKS, SCALES[name]), start=1):
            self.add_module(f"block{index}", _blocks(stack, channels))
            channels = stack.channels
        self.add_module("top", ConvNorm(channels, WIDTH))


def _blocks(stack: Stack, taken: int) -> nn.Sequential:
    kernel, expansion = stack.kernel, stack.expansion
    first = Block(taken, stack.channels, kernel=kernel, stride=stack.stride, expansion=expansion)
    others = (
        Block(stack.channels, stack.channels, kernel=kernel, stride=1, expansion=expansion)
        for _ in range(stack.repeats - 1)
    )
    return nn.Sequential(first, *others)


def renamed(name: str, published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published weights under our names, without the ImageNet classifier (`_fc`).

    Published: `_conv_stem`, `_bn0`; then per block, counted through, `_expand_conv`, `_bn0`, `_depthwise_conv`, `_bn1`,
    `_project_conv`, `_bn2`; then `_conv_head`, `_bn1`.
    """
    places = [
        f"block{index}.{position}"
        for index, stack in enumerate(scaled(STACKS, SCALES[name]), start=1)
        for position in range(stack.repeats)
    ]
    return {_ours(key, places): tensor for key, tensor in published.items() if not key.startswith("_fc.")}


_OUTSIDE = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "top.conv", "_bn1": "top.norm"}
_INSIDE = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def _ours(key: str, places: list[str]) -> str:
    match = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(\w+)\.(\w+)", key)
    if match is None:
        raise KeyError(key)
    block, layer, tensor = match.groups()
    if block is None:
        return f"{_OUTSIDE[layer]}.{tensor}"
    return f"{places[int(block)]}.{_INSIDE[layer]}.{tensor}"


def pretrained(name: str, published: Mapping[str, torch.Tensor]) -> EfficientNetLite:
    """A network of its own with the published weights, in inference mode.

    Raises:
        RuntimeError, KeyError: the weights are not those of this member.
    """
    # Built without memory and without random numbers, which would be thrown away at once.
    with torch.device("meta"):
        network = EfficientNetLite(name)
    weights = {key: tensor.clone() for key, tensor in renamed(name, published).items()}
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval()


def blank(name: str, *, seed: int = 0) -> EfficientNetLite:
    """A network with fresh weights, to be trained from scratch: kernels as for EfficientNet, the same for each seed.

    Normal numbers whose variance keeps that of the gradients (He et al. 2015, by what a kernel gives), without the
    truncation that has no effect at this depth; normalisations begin as the identity.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        network = EfficientNetLite(name)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_out), generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network.eval()
