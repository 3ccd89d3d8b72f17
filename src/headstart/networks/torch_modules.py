"""Compose a PyTorch model: pixels in, normalisation, groups of layers, head, logits out."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from headstart.modalities.spec import InputSpec

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "linear": nn.Identity,
}


LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


class Normalise(nn.Module):
    """Pixels 0..255 `[n c h w]`, uint8 or float, to what the backbone was trained on."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.order = spec.order
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """`(pixels - mean) / std`; on the device, because uint8 moves a quarter of the bytes."""
        colours = pixels.float()
        if self.order == "bgr":
            colours = colours.flip(1)
        elif self.order == "grey":
            colours = (colours * colours.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        channels = colours.shape[1]
        normal: Tensor = (colours - self.mean[:, :channels]) / self.std[:, :channels]
        return normal


class GlobalMean(nn.Module):
    """The mean over pixels `[n c h w]` or tokens `[n t c]`; features `[n c]` stay as they are."""

    def forward(self, maps: Tensor) -> Tensor:
        """Features `[n c]`."""
        return maps.mean(dim=(2, 3)) if maps.ndim == 4 else maps.mean(dim=1) if maps.ndim == 3 else maps


class ChannelsLastFlatten(nn.Module):
    """A feature map `[n c h w]` to `[n h*w*c]`, tokens `[n t c]` to `[n t*c]`: the same order on every framework."""

    def forward(self, maps: Tensor) -> Tensor:
        """Rows, then columns, then channels."""
        return (maps.permute(0, 2, 3, 1) if maps.ndim == 4 else maps).flatten(1)


class SeededDropout(nn.Module):
    """Dropout by a seed and an item's place in the batch of all processes, whoever computes it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None  # set for the length of a training step
        self.shard = (0, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Zero a share of the inputs and scale up the rest; outside a training step, nothing."""
        if self.generator is None:
            return inputs
        (rank, world), n = self.shard, len(inputs)
        draw = torch.rand((world * n, *inputs.shape[1:]), generator=self.generator)[rank * n : (rank + 1) * n]
        return inputs * (draw >= self.rate).to(inputs) / (1 - self.rate)


CACHES = ("attention_bias_cache",)  # what the LeViT family calls it, in timm and in transformers


def forgetful(model: nn.Module) -> None:
    """Keep the layers of this model from keeping tensors that they once computed from their weights.

    Some compute a table of biases from weights at the first picture and use it for as long as they are out of training
    mode, where every network is here: weights that are put in later would not count, nor would what they learn.
    """
    for layer in model.modules():
        for name in CACHES:
            if isinstance(vars(layer).get(name), dict):
                del vars(layer)[name]
                kind = type(layer)
                # In the class: in the layer itself, its own `to` and `train` would put an ordinary one back.
                layer.__class__ = type(kind.__name__, (kind,), {name: _Cache(), "__module__": kind.__module__})


class _Cache:
    """Stands where a layer had a dictionary, and cannot be replaced by one."""

    def __init__(self) -> None:
        self.empty = _Empty()

    def __get__(self, layer: nn.Module, owner: type[nn.Module]) -> _Empty:
        return self.empty

    def __set__(self, layer: nn.Module, value: object) -> None:
        """Nothing."""


class _Empty(dict[Any, Any]):
    """Has nothing that it is asked for, and gives what the same thread has just put in once."""

    def __contains__(self, key: object) -> bool:
        return False

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__((threading.get_ident(), key), value)

    def __getitem__(self, key: Any) -> Any:
        return self.pop((threading.get_ident(), key))


class TransferModel(nn.Module):
    """Normalisation, backbone and head in one module: pixels 0..255 `[n c h w]` in, logits `[n k]` out.

    `steps[i]` leads from `cuts[i]` to `cuts[i + 1]`.
    """

    def __init__(self, stages: Mapping[str, nn.Module], spec: InputSpec, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.backbone = nn.ModuleDict(dict(stages))
        self.pool = pool if pool is not None else GlobalMean()
        self.head = nn.Sequential()
        self.head_input = len(stages) + 1  # the position of the cut that the head stands on

    def between(self, inputs: Tensor, start: int, stop: int) -> Tensor:
        """Run from the cut at position `start` to the one at position `stop`."""
        names = list(self.backbone)
        for position in range(start, stop):
            if position == 0:
                inputs = self.normalise(inputs)
            inputs = self.backbone[names[position]](inputs) if position < len(names) else self.pool(inputs)
        return inputs

    def forward(self, pixels: Tensor, start: int = 0) -> Tensor:
        """Logits; `start` is the position of the cut where `pixels` enter."""
        logits: Tensor = self.head(self.between(pixels, start, self.head_input))
        return logits


class Between(nn.Module):
    """What lies between two cuts: `[n h w c]`, `[n t d]` or `[n d]` in and out."""

    def __init__(self, model: TransferModel, start: int, stop: int) -> None:
        super().__init__()
        self.model = model
        self.start, self.stop = start, stop

    def forward(self, inputs: Tensor) -> Tensor:
        """What crosses the second cut, in full precision."""
        entering = inputs.permute(0, 3, 1, 2) if inputs.ndim == 4 else inputs
        crossing = self.model.between(entering, self.start, self.stop)
        return (crossing.permute(0, 2, 3, 1) if crossing.ndim == 4 else crossing).float()


class Live(nn.Module):
    """The model as a training step sees it: no gradient below the first live group."""

    def __init__(self, model: TransferModel, first: int) -> None:
        super().__init__()
        self.model = model
        self.first = min(first, model.head_input)
        self.grouped = any(isinstance(module, nn.GroupNorm) for module in model.backbone.modules())

    def forward(self, inputs: Tensor, start: int) -> Tensor:
        """Logits of inputs that enter at the cut at position `start`."""
        if start < self.first:
            with torch.no_grad():
                inputs = self.model.between(inputs, start, self.first)
        if self.grouped:
            # PyTorch (2.13, CPU) crashes in the gradient of a GroupNorm whose channels_last input wants none.
            inputs = inputs.float().detach().requires_grad_()
        logits: Tensor = self.model(inputs, max(start, self.first))
        return logits
