"""Say what the new top of a network looks like: the exact linear head, or layers such as `dense(1024, relu)`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headstart.errors import BadSetting

if TYPE_CHECKING:
    from jaxtyping import Float

Activation = Literal["relu", "gelu", "tanh", "sigmoid", "linear"]
ACTIVATIONS: tuple[Activation, ...] = ("relu", "gelu", "tanh", "sigmoid", "linear")


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A solved linear head: logits are `features @ weights + bias`."""

    weights: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, "k"]


@dataclass(frozen=True, slots=True)
class Pool:
    """The mean over the feature map: `[n h w c]` becomes `[n c]`."""

    def __str__(self) -> str:
        return "pool"


@dataclass(frozen=True, slots=True)
class Flatten:
    """The whole feature map in one row: `[n h w c]` becomes `[n h*w*c]`."""

    def __str__(self) -> str:
        return "flatten"


@dataclass(frozen=True, slots=True)
class Dense:
    """A fully connected layer of `units` outputs."""

    units: int
    activation: Activation = "relu"

    def __str__(self) -> str:
        return f"dense({self.units}, {self.activation})"


@dataclass(frozen=True, slots=True)
class Dropout:
    """Zeroes this share of its inputs while training, in [0, 1)."""

    rate: float

    def __str__(self) -> str:
        return f"dropout({self.rate})"


Layer = Pool | Flatten | Dense | Dropout


@dataclass(frozen=True, slots=True, eq=False)
class Native:
    """Layers of the framework itself, as a user made them, the output layer among them."""

    layers: tuple[Any, ...]

    @property
    def linear(self) -> bool:
        """Never solved exactly: these layers are the user's."""
        return False

    def __str__(self) -> str:
        return ", ".join(type(layer).__name__.lower() for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Head:
    """Layers between the backbone and the last dense layer, which is added by itself: one output a class.

    No layers at all: a linear head. It is solved exactly where the features are frozen, not trained by steps.
    """

    layers: tuple[Layer, ...] = ()

    @property
    def linear(self) -> bool:
        """Whether this head is a single dense layer on pooled features."""
        return all(isinstance(layer, Pool) for layer in self.layers)

    @property
    def input(self) -> Literal["map", "pooled"]:
        """The cut that it stands on."""
        return "map" if any(isinstance(layer, Flatten) for layer in self.layers) else "pooled"

    def __str__(self) -> str:
        return ", ".join(map(str, self.layers)) or "linear"


def linear() -> Head:
    """A single dense layer on pooled features, solved exactly."""
    return Head()


def mlp(*units: int, dropout: float = 0.0, activation: Activation = "relu") -> Head:
    """Hidden layers of these widths on pooled features, each followed by dropout where it is above 0."""
    layers: list[Layer] = [Pool()]
    for width in units:
        layers.append(Dense(width, activation))
        if dropout:
            layers.append(Dropout(dropout))
    return Head(tuple(layers))


def taken(head: Any) -> Head | Native:
    """A head in any way that a user may give it: itself, the notation of `--head`, layers, or a model of layers.

    Raises:
        BadSetting: the notation is wrong.
    """
    if isinstance(head, Head | Native):
        return head
    if isinstance(head, str):
        return parse(head)
    return Native(tuple(getattr(head, "layers", head)))


def parse(text: str) -> Head:
    """Read the notation of `--head`: `linear`, or layers such as `flatten, dense(1024, relu), dropout(0.5)`.

    Raises:
        BadSetting: a layer is unknown, or its arguments do not fit.
    """
    if text.strip().lower() in ("", "linear"):
        return Head()
    # A comma separates layers where no parenthesis is open.
    layers = [_layer(word.strip()) for word in re.split(r",(?![^(]*\))", text.lower())]
    if any(isinstance(layer, Pool | Flatten) for layer in layers[1:]):
        raise BadSetting(f"head {text!r} has pool or flatten after its first layer", fix="put pool or flatten first")
    return Head(tuple(layers))


def _layer(word: str) -> Layer:
    match = re.fullmatch(r"(\w+)\s*(?:\(([^)]*)\))?", word)
    name = match.group(1) if match else word
    arguments = [part.strip().strip("\"'") for part in (match.group(2) or "").split(",")] if match else []
    try:
        match name, [part for part in arguments if part]:
            case "pool", []:
                return Pool()
            case "flatten", []:
                return Flatten()
            case "dense", [units] if int(units) > 0:
                return Dense(int(units))
            case "dense", [units, activation] if int(units) > 0 and activation in ACTIVATIONS:
                return Dense(int(units), activation)
            case "dropout", [rate] if 0 <= float(rate) < 1:
                return Dropout(float(rate))
    except ValueError:
        pass
    raise BadSetting(
        f"head layer {word!r} is not known",
        fix=f"use pool, flatten, dense(UNITS, {'|'.join(ACTIVATIONS)}) or dropout(RATE below 1), separated by commas",
    )
