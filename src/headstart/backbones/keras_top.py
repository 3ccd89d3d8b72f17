"""Decide where a user's network ends and its classifier begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.errors import BadBackbone
from headstart.registry import closest

_IDLE = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout")
_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Softmax", "Sigmoid")
_ON_VECTORS = ("Dense", "Flatten", "Reshape", "BatchNormalization", "LayerNormalization", *_ACTIVATIONS)
_AFTER_POOLING = ("Conv2D", *_ON_VECTORS, *_IDLE)  # a classifier may be a convolution of the 1 x 1 map


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A tensor that all of a network goes through, with the layers since the place before."""

    layer: str  # the one that gives the tensor
    kind: str  # its class
    shape: tuple[int | None, ...]  # of one item
    weighted: bool  # whether any layer since the place before has a kernel or a matrix
    inside: tuple[str, ...] = ()  # names of all these layers

    @property
    def of_a_top(self) -> bool:
        """Whether a classifier is made of such layers. What reshapes a vector or a map into one belongs to it too."""
        vector = len(self.shape) == 1 and self.kind in _ON_VECTORS
        return len(self.inside) <= 1 and (vector or self.kind in _IDLE or self.kind.startswith("Global"))


def end_of_features(places: Sequence[Place], what: str) -> int:
    """The place whose tensor are the features, where the user names none.

    A network that ends in a map or a sequence is used whole. Else its last layers go, down to the last one that is not
    of a classifier: a map, a sequence, or a recurrent layer's vector. A network of dense layers loses the last one.

    Raises:
        BadBackbone: nothing with weights would be left.
    """
    if len(places[-1].shape) > 1:
        return len(places) - 1
    end = _before_pooling(places)
    if end is None:
        end = len(places) - 1
        while end >= 0 and places[end].of_a_top:
            end -= 1
    if not any(place.weighted for place in places[: end + 1]):
        end = max((at for at, place in enumerate(places) if place.weighted), default=0) - 1
    while end > 0 and places[end].kind in _IDLE:
        end -= 1
    if not any(place.weighted for place in places[: end + 1]):
        raise BadBackbone(
            f"{what} has no layer with weights before its classifier {places[-1].layer!r}: there is nothing to reuse",
            fix="give a network with more layers, or take a pre-trained one: headstart backbones",
        )
    return end


def _before_pooling(places: Sequence[Place]) -> int | None:
    """The place before a global pooling that only a classifier follows."""
    for at, place in enumerate(places):
        if place.kind.startswith("Global") and all(
            later.kind in _AFTER_POOLING and len(later.inside) <= 1 for later in places[at + 1 :]
        ):
            return at - 1
    return None


def named_end(places: Sequence[Place], name: str, what: str) -> int:
    """The place that is this layer's output.

    Raises:
        BadBackbone: there is no such layer, some paths go round it, or no weights come before it.
    """
    for at, place in enumerate(places):
        if place.layer == name:
            if not any(before.weighted for before in places[: at + 1]):
                raise BadBackbone(
                    f"{what} has no weights up to layer {name!r}: its output are no features",
                    fix=f"cut later, for instance at {places[end_of_features(places, what)].layer!r}",
                )
            return at
        if name in place.inside:
            near = [repr(other.layer) for other in (*places[max(0, at - 1) : at], place)]
            raise BadBackbone(
                f"{what} cannot be cut at {name!r}: some paths go round that layer", fix=f"cut at {' or '.join(near)}"
            )
    known = [layer for place in places for layer in (place.inside or (place.layer,))]
    listed = ", ".join([place.layer for place in places][-12:])
    raise BadBackbone(
        f"{what} has no layer {name!r}",
        fix=" ".join(filter(None, [closest(name, known), f"its last places to cut: {listed}"])),
    )
