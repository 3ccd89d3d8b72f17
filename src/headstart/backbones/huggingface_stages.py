"""Parts of an encoder of transformers that run one after the other, and ways to pool as its own classifier does.

Transformers' models cannot be traced: `huggingface_families.py` says how each is put together of these. What a
classifier never sees (a second pooler, the token that stands for a hidden patch) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Embeddings(nn.Module):
    """Pixels `[n 3 h w]` to what the first layer takes, through a norm where the family has one there."""

    def __init__(self, embeddings: nn.Module, *, norm: nn.Module | None = None, interpolate: bool = False) -> None:
        super().__init__()
        if getattr(embeddings, "mask_token", None) is not None:
            setattr(embeddings, "mask_token", None)  # noqa: B010  it stands for hidden patches, and none are hidden here
        self.embeddings = embeddings
        self.norm = norm if norm is not None else nn.Identity()
        # Interpolating to the own size changes nothing, but not every version of every family knows the word.
        self.options = {"interpolate_pos_encoding": True} if interpolate else {}

    def forward(self, pixels: Tensor) -> Tensor:
        """Tokens `[n t d]` or a map `[n d h w]`."""
        embedded: Tensor = self.norm(_first(self.embeddings(pixels, **self.options)))
        return embedded


class Layers(nn.Module):
    """Layers in turn, each called with the same `extra` beside the tensor, and a norm after the last."""

    def __init__(self, layers: Sequence[nn.Module], extra: Sequence[Any] = (), norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.extra = tuple(extra)
        self.norm = norm if norm is not None else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        """A tensor of the same kind."""
        for layer in self.layers:
            hidden = self.run(layer, hidden)
        normal: Tensor = self.norm(hidden)
        return normal

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """One layer; those that also give attentions give them second."""
        return _first(layer(hidden, *self.extra))


class Rotated(Layers):
    """Layers that turn queries and keys by angles: these hang on the size alone, and are computed once."""

    cos: Tensor
    sin: Tensor

    def __init__(self, layers: Sequence[nn.Module], angles: tuple[Tensor, Tensor], norm: nn.Module | None) -> None:
        super().__init__(layers, norm=norm)
        self.register_buffer("cos", angles[0], persistent=False)
        self.register_buffer("sin", angles[1], persistent=False)

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """One layer at these positions."""
        return _first(layer(hidden, position_embeddings=(self.cos.to(hidden), self.sin.to(hidden))))


class Placed(Layers):
    """Layers of BEiT, which compute the bias of positions from the size of the picture."""

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """One layer for a picture of this size."""
        return _first(layer(hidden, resolution=self.extra))


class Pyramid(Layers):
    """A level of PVT v2, which gives tokens with the height and width of their map."""

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Back in a map `[n d h w]`."""
        (tokens, *_), height, width = layer(hidden, False)
        return torch.as_tensor(tokens).transpose(1, 2).reshape(len(tokens), -1, height, width).contiguous()


class Unrolled(nn.Module):
    """Hiera's embeddings, their tokens in the order that its pooling wants."""

    def __init__(self, model: Any, *, interpolate: bool) -> None:
        super().__init__()
        self.embeddings = Embeddings(model.embeddings, interpolate=interpolate)
        self.schedule = list(model.unroll_schedule)
        self.stride: Any = list(model.config.patch_stride)

    def forward(self, pixels: Tensor) -> Tensor:
        """Tokens `[n t d]`."""
        from transformers.models.hiera.modeling_hiera import unroll

        shape = (pixels.shape[-2], pixels.shape[-1])
        tokens: Tensor = unroll(self.embeddings(pixels), shape, self.stride, self.schedule)
        return tokens


class Whole(nn.Module):
    """A model that no family here describes, in one piece; `field` is what of its output counts."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, pixels: Tensor) -> Tensor:
        """Features `[n d]`, tokens `[n t d]` or a map `[n d h w]`."""
        found = getattr(self.model(pixels), self.output)
        # A pooler that keeps the two sides of its map, each one pixel long, gives the same features.
        features: Tensor = found.flatten(1) if self.output == "pooler_output" else found
        return features


class Tokens(nn.Module):
    """Tokens `[n t d]` to features: the first one, the mean of those after `skip`, or both side by side."""

    def __init__(self, *, first: bool = False, skip: int | None = None) -> None:
        super().__init__()
        self.first, self.skip = first, skip

    def forward(self, tokens: Tensor) -> Tensor:
        """Features `[n d]` or `[n 2d]`."""
        parts = [tokens[:, 0]] if self.first else []
        if self.skip is not None:
            parts.append(tokens[:, self.skip :].mean(dim=1))
        return torch.cat(parts, dim=1)


class NormedMean(nn.Module):
    """A map `[n d h w]` to features: the mean over pixels, and a norm after it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, maps: Tensor) -> Tensor:
        """Features `[n d]`."""
        features: Tensor = self.norm(maps.mean(dim=(2, 3)))
        return features


class Pooler(nn.Module):
    """The model's own pooler, whatever it keeps of height and width."""

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, hidden: Tensor) -> Tensor:
        """Features `[n d]`."""
        features: Tensor = self.pooler(hidden).flatten(1)
        return features


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
