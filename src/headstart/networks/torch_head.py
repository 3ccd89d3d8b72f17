"""Make a new top for a PyTorch network: layers with fresh weights, or the exact linear solution."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from headstart.heads import Dense, Dropout, Flatten, Head, LinearHead, Pool
from headstart.networks.torch_modules import ACTIVATIONS, ChannelsLastFlatten, SeededDropout


def solved(head: LinearHead, classes: int) -> list[nn.Module]:
    """The linear layer with these weights."""
    dense = nn.Linear(head.weights.shape[0], classes)
    dense.weight.data = torch.from_numpy(head.weights.T.astype(np.float32)).contiguous()
    dense.bias.data = torch.from_numpy(head.bias.astype(np.float32))
    return [dense]


def drawn(head: Head, classes: int, width: int, seed: int) -> list[nn.Module]:
    """These layers and the one that answers, for features `[n width]` or a map of so many values.

    Weights are drawn from `seed`.
    """
    layers: list[nn.Module] = []
    # A fork keeps the draw of fresh weights from touching, or being touched by, anybody else's random state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in (*head.layers, Dense(classes, "linear")):
            match layer:
                case Pool():
                    pass
                case Flatten():
                    layers.append(ChannelsLastFlatten())
                case Dropout(rate):
                    layers.append(SeededDropout(rate))
                case Dense(units, activation):
                    layers += [nn.Linear(width, units), ACTIVATIONS[activation]()]
                    width = units
    return layers
