"""Convolve on a processor so that the gradients are fast too: the same sums, by the kernels that do them fastest.

oneDNN's forward passes are near the peak of the processor. Its gradients often are not: those of a 1x1 kernel with a
stride are five times slower than the product of matrices that they are, in bf16 those of a 5x5 kernel for each channel
ten times slower than in fp32. See docs/decisions/0023-the-training-step.md for what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]

# Places of a map up to which it is faster to multiply matrices: for 1x1 kernels in fp32 and in bf16, and in bf16 for
# larger ones, whose input is copied once for each place of the kernel.
FLAT, FLAT_BF16, UNFOLDED = 7 * 7, 14 * 14, 8 * 8


class QuickGradients(TorchFunctionMode):
    """While it is open, `torch.conv2d` on a processor takes the ways that are fast in both directions."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What `func` gives."""
        if func is torch.conv2d and torch.is_grad_enabled():
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or _pair(dilation) != (1, 1) or input.ndim != 4 or input.device.type != "cpu":
        return functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
    steps, zeros = _pair(stride), _pair(padding)
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    places = math.prod(
        (length + 2 * zero - taps) // step + 1
        for length, zero, taps, step in zip(input.shape[2:], zeros, kernel, steps, strict=True)
    )
    bf16 = torch.is_autocast_enabled("cpu")
    if kernel == (1, 1) and zeros == (0, 0) and groups == 1:
        # With a stride, for those places alone that it sees.
        seen = input if steps == (1, 1) else input[:, :, :: steps[0], :: steps[1]]
        if places > (FLAT_BF16 if bf16 else FLAT):
            return torch.conv2d(seen, weight, bias)
        return _applied(_Product, (seen, weight, bias), (1, 1), zeros, bf16=bf16)
    if bf16 and groups == 1 and places <= UNFOLDED:
        return _applied(_Product, (input, weight, bias), steps, zeros, bf16=bf16)
    if bf16 and groups == input.shape[1] == weight.shape[0]:
        return _applied(_Depthwise, (input, weight, bias), steps, zeros, bf16=bf16)
    return torch.conv2d(input, weight, bias, steps, zeros, groups=groups)


def _applied(way: Any, tensors: Sequence[Tensor | None], steps: Pair, zeros: Pair, *, bf16: bool) -> Tensor:
    cast = [tensor.to(torch.bfloat16) if bf16 and tensor is not None else tensor for tensor in tensors]
    found: Tensor = way.apply(*cast, steps, zeros)
    return found


def _pair(given: int | Sequence[int]) -> Pair:
    return (given, given) if isinstance(given, int) else (int(given[0]), int(given[-1]))


class _Product(torch.autograd.Function):
    """A convolution as a product of the kernels with what they see at each place: fast for small maps."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, steps: Pair, zeros: Pair) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.steps, ctx.zeros, ctx.biased = steps, zeros, bias is not None
        seen = _seen(input, _kernel(weight), steps, zeros)
        found = _like_map(seen, len(weight))
        kernels = weight.permute(0, 2, 3, 1).flatten(1).t()
        if bias is None:
            torch.mm(seen.flatten(0, 2), kernels, out=_rows(found))
        else:
            torch.addmm(bias, seen.flatten(0, 2), kernels, out=_rows(found))
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        rows = _rows(gradient)
        of_input = of_weight = of_bias = None
        if ctx.needs_input_grad[0] and _kernel(weight) == (1, 1):
            of_input = torch.empty_like(input, memory_format=torch.channels_last)
            torch.mm(rows, weight.flatten(1), out=_rows(of_input))
        elif ctx.needs_input_grad[0]:
            of_input = _gradient(gradient, input, weight, ctx.steps, ctx.zeros, groups=1, of=0)
        if ctx.needs_input_grad[1]:
            seen = _seen(input, _kernel(weight), ctx.steps, ctx.zeros)  # again: kept, it would take 9 times the map
            found = rows.t() @ seen.flatten(0, 2)
            of_weight = found.view(len(weight), *_kernel(weight), -1).permute(0, 3, 1, 2)
        if ctx.biased and ctx.needs_input_grad[2]:
            of_bias = rows.sum(dim=0)
        return of_input, of_weight, of_bias, None, None


def _like_map(seen: Tensor, channels: int) -> Tensor:
    """Room for `[n c h w]`, a tensor of its own: layers that work in place would copy what is a view of another."""
    n, height, width = seen.shape[:3]
    return torch.empty((n, channels, height, width), dtype=seen.dtype, memory_format=torch.channels_last)


def _rows(maps: Tensor) -> Tensor:
    """A map in channels_last as `[n*h*w c]`, the same memory."""
    return maps.permute(0, 2, 3, 1).view(-1, maps.shape[1])


def _kernel(weight: Tensor) -> Pair:
    return (int(weight.shape[2]), int(weight.shape[3]))


def _seen(input: Tensor, kernel: Pair, steps: Pair, zeros: Pair) -> Tensor:
    """`[n c h w]` to `[n h2 w2 k*k*c]`: what the kernel sees at each place, rows of it first."""
    last = input.permute(0, 2, 3, 1)
    if kernel == (1, 1):
        return last.contiguous()
    padded = functional.pad(last, (0, 0, zeros[1], zeros[1], zeros[0], zeros[0])).contiguous()
    n, height, width, channels = padded.shape
    image, row, column, _ = padded.stride()
    rows, columns = (height - kernel[0]) // steps[0] + 1, (width - kernel[1]) // steps[1] + 1
    shape = (n, rows, columns, kernel[0], kernel[1] * channels)  # the columns of a row lie side by side already
    return padded.as_strided(shape, (image, row * steps[0], column * steps[1], row, 1)).flatten(3)


class _Depthwise(torch.autograd.Function):
    """A kernel for each channel in bf16, with the gradients in fp32 that have no fast kernel in bf16."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, steps: Pair, zeros: Pair) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.steps, ctx.zeros, ctx.biased = steps, zeros, bias is not None
        return torch.conv2d(input, weight, bias, steps, zeros, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        slow = (max(ctx.steps) > 1, max(_kernel(weight)) > 3)
        precise = [each.float() if any(slow) else each for each in (gradient, input, weight)]
        found: list[Tensor | None] = [None, None]
        for of in (0, 1):
            if ctx.needs_input_grad[of]:
                g, i, w = precise if slow[of] else (gradient, input, weight)
                found[of] = _gradient(g, i, w, ctx.steps, ctx.zeros, groups=len(weight), of=of)
        of_bias = gradient.sum(dim=(0, 2, 3)) if ctx.biased and ctx.needs_input_grad[2] else None
        return found[0], found[1], of_bias, None, None


def _gradient(
    gradient: Tensor, input: Tensor, weight: Tensor, steps: Pair, zeros: Pair, *, groups: int, of: int
) -> Tensor:
    """The usual gradient, of the input (0) or of the weight (1)."""
    mask = [of == 0, of == 1, False]
    found = torch.ops.aten.convolution_backward(
        gradient, input, weight, None, steps, zeros, (1, 1), False, (0, 0), groups, mask
    )
    gradient_of: Tensor = found[of]
    return gradient_of
