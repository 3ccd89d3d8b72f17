"""Make one PyTorch module of everything from photos of any size to answers, for the formats of export.

The photo is brought to the backbone's square by two products of matrices, rounded after each: the same numbers that
Pillow computes (see `headstart.modalities.frames`), in operations that every format has.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from headstart.modalities.spec import InputSpec
from headstart.networks.torch_modules import TransferModel
from headstart.novelty import Novelty

Linear = tuple[Float[np.ndarray, "d k"], Float[np.ndarray, "k"]]


class Whole(nn.Module):
    """Upright photos `uint8 [n h w 3]` to probabilities `[n k]`, and distance `[n]` and heat `[n r c k]` where known.

    Args:
        model: from pixels to logits.
        spec: the pictures that it takes.
        temperature: divides the logits.
        views: `plain`, `flip` or both; their probabilities are averaged.
        novelty: where the photos of the training lie.
        linear: weights and bias of the head where it is linear on the mean of the last map, to give the heat.
    """

    def __init__(
        self,
        model: TransferModel,
        spec: InputSpec,
        *,
        temperature: float,
        views: Sequence[str],
        novelty: Novelty | None,
        linear: Linear | None,
    ) -> None:
        super().__init__()
        self.square = Square(spec)
        self.model = folded(model)
        self.temperature = temperature
        self.views = tuple(views)
        self.distance = Distance(novelty) if novelty is not None else None
        self.heat = Heat(linear[0]) if linear is not None else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Probabilities, then distance and heat where there are any."""
        pictures = self.square(pixels)
        n, groups = pictures.shape[0], len(self.model.backbone)
        # The plain view first: its features tell how far a photo is, and where it speaks for a class.
        turned = [pictures.flip(3) for view in self.views if view == "flip"]
        seen = torch.cat([pictures, *turned]) if turned else pictures
        last = self.model.between(seen, 0, groups)
        pooled = self.model.between(last, groups, groups + 1)
        on_map = self.model.head_input == groups
        logits: Tensor = self.model.head(last if on_map else pooled)
        probabilities = torch.softmax(logits.float() / self.temperature, dim=1)
        if turned:
            probabilities = (probabilities[:n] + probabilities[n:]) / 2 if "plain" in self.views else probabilities[n:]
        answers = [probabilities]
        if self.distance is not None:
            answers.append(self.distance(pooled[:n].float()))
        if self.heat is not None:
            answers.append(self.heat(last[:n].float()))
        return tuple(answers)


class Square(nn.Module):
    """Photos `uint8 [n h w 3]` of any one size to the backbone's square `float32 [n 3 size size]` of whole numbers."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, pixels: Tensor) -> Tensor:
        """First each row, then each column, rounded in between as Pillow rounds."""
        height, width = pixels.shape[1], pixels.shape[2]
        # Channels first: then both products are of large matrices, and the result is what the network takes.
        channels = pixels.permute(0, 3, 1, 2).float()
        coarse, fine = self._weights(width, width, height)
        rows = _levels(channels @ coarse.t(), channels @ fine.t())
        coarse, fine = self._weights(height, width, height)
        return _levels(coarse @ rows, fine @ rows)

    def _weights(self, side: int, width: int, height: int) -> tuple[Tensor, Tensor]:
        """How much each pixel of a side of the photo counts for each pixel of the square: twice `[size side]`.

        In whole numbers of 22 bits, as Pillow has them, for what lies between two levels must be rounded as there; in
        two parts, so that float32 holds their sums exactly: the upper half, which counts 2048 times, and the lower.
        """
        lengths = [torch.scalar_tensor(each, dtype=torch.int64) for each in (side, width, height)]
        start, stop, length, offset = self._placed(*lengths)
        places = torch.arange(self.spec.size) - offset
        pixel, beyond = _middles(start, stop, length, places)
        away = (torch.arange(side)[None] - pixel[:, None]).double() + (0.5 - beyond)[:, None]
        # A photo that shrinks is averaged over as much of it as a pixel of the square covers.
        wide = ((stop - start).double() / length.double()).clamp(min=1.0)
        weights = _KERNELS[self.spec.interpolation](away / wide)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
        weights = weights * torch.logical_and(places >= 0, places < length).double()[:, None]
        whole = torch.floor(weights.abs() * 2**22 + 0.5) * torch.sign(weights)
        upper = torch.floor(whole / 2**11)
        return upper.float(), (whole - upper * 2**11).float()

    def _placed(self, side: Tensor, width: Tensor, height: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From where to where of the photo's side is seen, how many pixels of the square that fills, from which on.

        As `frames.middle` and `frames.whole`: the first two in float32, as Pillow takes them; the others whole numbers.
        """
        size, none = self.spec.size, torch.zeros((), dtype=torch.int64)
        if self.spec.fit == "squash":
            return none.float(), side.float(), none + size, none
        if self.spec.fit == "pad":
            longer = torch.maximum(width, height)
            length = torch.round((side * size).float() / longer.float()).clamp(min=1.0).long()
            return none.float(), side.float(), length, torch.div(size - length, 2, rounding_mode="floor")
        resized = torch.div(side * self.spec.resized, torch.minimum(width, height), rounding_mode="trunc").float()
        photo, first = side.float(), torch.round((resized - size) / 2)
        stop = torch.minimum(photo, (first + size) * photo / resized)
        return first * photo / resized, stop, none + size, none


class Distance(nn.Module):
    """Pooled features `[n d]` to their distance `[n]` from those of the training: what `Novelty.distance` computes."""

    mean: Tensor
    projection: Tensor | None
    middle: Tensor
    centres: Tensor
    squares: Tensor

    def __init__(self, novelty: Novelty) -> None:
        super().__init__()
        self.k, self.normalise = novelty.k, novelty.normalise
        self.register_buffer("mean", torch.from_numpy(novelty.mean.astype(np.float32)))
        projection = novelty.projection
        self.register_buffer(
            "projection", None if projection is None else torch.from_numpy(projection.astype(np.float32))
        )
        # Moved to their own middle, as the features are: squares of large numbers that nearly cancel lose all digits.
        self.register_buffer("middle", torch.from_numpy(novelty.centres.mean(0).astype(np.float32)))
        around = novelty.centres - novelty.centres.mean(0)
        self.register_buffer("centres", torch.from_numpy(around.astype(np.float32)))
        self.register_buffer("squares", torch.from_numpy((around**2).sum(1).astype(np.float32)))

    def forward(self, features: Tensor) -> Tensor:
        """The `k`-th smallest distance."""
        if self.normalise:
            features = features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)
        placed = features - self.mean
        placed = (placed if self.projection is None else placed @ self.projection) - self.middle
        squares = (placed * placed).sum(1, keepdim=True) - 2 * placed @ self.centres.t() + self.squares
        # Of the few nearest the distance is taken again, of the differences themselves.
        found = torch.topk(squares, self.k, dim=1, largest=False).indices
        near = self.centres[found] - placed[:, None]
        return (near * near).sum(2).amax(1).sqrt()


class Heat(nn.Module):
    """The last map `[n d r c]` to what each place adds to each logit, `[n r c k]`: with the bias, they make it up."""

    weights: Tensor

    def __init__(self, weights: Float[np.ndarray, "d k"]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(weights.astype(np.float32)))

    def forward(self, last: Tensor) -> Tensor:
        """The map times the weights, shared out over the places."""
        return last.permute(0, 2, 3, 1) @ self.weights / (last.shape[2] * last.shape[3])


def exported(whole: nn.Module) -> torch.export.ExportedProgram:
    """The module as PyTorch's own list of operations, for any number of photos of any size.

    Raises:
        Exception: of many kinds, where the network's forward pass is not the same list of operations for every photo.
    """
    # Lengths that differ from each other and from all that is in the network: none is taken for another.
    photos = torch.zeros(2, 301, 403, 3, dtype=torch.uint8)
    lengths = {axis: torch.export.Dim(name) for axis, name in enumerate(("n", "h", "w"))}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about what PyTorch will change some day
        return torch.export.export(whole, (photos,), dynamic_shapes=(lengths,), strict=False)


def folded(model: TransferModel) -> TransferModel:
    """A copy in which each layer that offers a `folded` form of itself has taken it: fewer and plainer operations."""
    copied = copy.deepcopy(model)
    for name, layer in list(copied.named_modules()):
        if callable(getattr(layer, "folded", None)):
            above, _, last = name.rpartition(".")
            setattr(copied.get_submodule(above), last, layer.folded())
    return copied


def _middles(start: Tensor, stop: Tensor, length: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The pixel of the photo in which the middle of each place lies, and how far beyond its beginning.

    That is `start + (places + 0.5) * (stop - start) / length`, whole pixels apart from their fractions: an engine that
    knows no float64 would lose what decides which way a half is rounded.
    """
    seen = stop - start  # rounded to float32, as Pillow has it
    steps, parts = 2 * places + 1, 2 * length
    crossed = steps * torch.floor(seen).long()
    whole = torch.div(crossed, parts, rounding_mode="floor")
    rest = (crossed - whole * parts).double() + steps.double() * _fraction(seen).double()
    return torch.floor(start).long() + whole, _fraction(start).double() + rest / parts.double()


def _fraction(length: Tensor) -> Tensor:
    return length - torch.floor(length)


def _levels(upper: Tensor, lower: Tensor) -> Tensor:
    """The nearest levels of a colour, of sums of both parts; halves go up, as in Pillow, and not to the even one."""
    return torch.floor((upper + torch.floor(lower / 2**11) + 2**10) / 2**11).clamp(0.0, 255.0)


def _bilinear(places: Tensor) -> Tensor:
    return (1 - places.abs()).clamp(min=0.0)


def _bicubic(places: Tensor) -> Tensor:
    """Keys's kernel with a of -0.5, as Pillow has it."""
    away = places.abs()
    near = (1.5 * away - 2.5) * away * away + 1
    far = (((away - 5) * away + 8) * away - 4) * -0.5
    return torch.where(away < 1, near, torch.where(away < 2, far, torch.zeros_like(away)))


def _lanczos(places: Tensor) -> Tensor:
    """Three lobes."""
    product = _sinc(places) * _sinc(places / 3)
    return torch.where(places.abs() < 3, product, torch.zeros_like(places))


def _sinc(places: Tensor) -> Tensor:
    angles = places * math.pi
    safe = torch.where(angles == 0, torch.ones_like(angles), angles)  # not every format knows sinc
    return torch.where(angles == 0, torch.ones_like(angles), torch.sin(safe) / safe)


_KERNELS = {"bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}
