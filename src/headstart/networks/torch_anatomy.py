"""Say which group each weight of a PyTorch network belongs to, and what each group costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from headstart.networks.network import HEAD, Group
from headstart.networks.torch_adapters import plain_name
from headstart.networks.torch_flops import Flops
from headstart.networks.torch_graph import flops_of_groups
from headstart.networks.torch_modules import TransferModel


class Anatomy:
    """The groups of a network and what they hold.

    Args:
        model: what is divided into groups.
        within: for a single stage that could not be taken apart: the group of each of its parameters and buffers, by
            their names in it.
        size: height and width of the pictures, for counting.
    """

    def __init__(self, model: TransferModel, within: Mapping[str, str] | None, size: int) -> None:
        self.model, self.size = model, size
        self.within = dict(within) if within is not None else None

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups from input to output, the head not among them."""
        flops = self._flops()
        # A tensor that several layers share has several names: it moves with the first of them, and is kept under each.
        first: dict[Tensor, str] = {}
        parameters = {
            key: self.owner(first.setdefault(parameter, key))
            for key, parameter in self.model.named_parameters(remove_duplicate=False)
        }
        kept = self.model.state_dict().keys()
        buffers = {
            key: self.owner(first.setdefault(buffer, key))
            for key, buffer in self.model.named_buffers(remove_duplicate=False)
            if key in kept
        }
        return tuple(
            Group(
                name,
                tuple(key for key, owner in parameters.items() if owner == name),
                tuple(key for key, owner in buffers.items() if owner == name),
                flops[name],
            )
            for name in self.names
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The groups from input to output."""
        return tuple(dict.fromkeys(self.within.values() if self.within is not None else self.model.backbone))

    def owner(self, name: str) -> str:
        """The group of the parameter or buffer of this name."""
        top, _, key = name.partition(".")
        if top == "head":
            return HEAD
        if top == "pool":
            return self.names[-1]
        stage, _, inner = key.partition(".")
        if self.within is None:
            return stage
        layer = plain_name(inner).rpartition(".")[0]
        near = (group for known, group in self.within.items() if known.rpartition(".")[0] == layer)
        return self.within.get(inner) or next(near)

    def named(self, groups: Collection[str]) -> list[tuple[str, nn.Parameter]]:
        """The parameters of these groups, in the model's own order."""
        return [(key, p) for key, p in self.model.named_parameters() if self.owner(key) in groups]

    def buffers(self) -> dict[str, Tensor]:
        """The buffers that belong to the weights."""
        kept = self.model.state_dict().keys()  # indices of positions and the like are made anew, and are no weights
        return {key: buffer for key, buffer in self.model.named_buffers() if key in kept}

    def _flops(self) -> dict[str, int]:
        pixels = torch.zeros(1, 3, self.size, self.size, device=self.model.normalise.mean.device)
        counted = {}
        with torch.no_grad():
            if self.within is not None:
                return flops_of_groups(self.model.backbone["whole"], self.model.normalise(pixels), self.within)
            for position, name in enumerate(self.model.backbone):
                with Flops() as counter:
                    pixels = self.model.between(pixels, position, position + 1)
                counted[name] = counter.total
        return counted
