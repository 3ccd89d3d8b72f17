"""Find out which pictures a user's Keras model takes, and how their pixels have to be scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from headstart.backbones.backbone import Wanted
from headstart.backbones.keras_families import CROP, MEMBERS, Member
from headstart.errors import BadBackbone, BadSetting
from headstart.modalities.spec import InputSpec

if TYPE_CHECKING:
    import keras

USUAL_SIZE = 224  # of a model that takes pictures of any size
PLAIN = InputSpec(size=1, crop=CROP, interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3)
# Layers and operations that stand for scaling, where they come before the first layer with weights.
_SCALING = ("Rescaling", "Normalization", "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Lambda")
# A layer's name that only this network's family in keras.applications has; the first one that fits counts. Families
# that scale inside need none.
_MARKS = {
    "block14_sepconv2": "xception",
    "block5_conv4": "vgg19",
    "block5_conv3": "vgg16",
    "conv2_block1_preact_bn": "resnet50v2",
    "conv2_block1_out": "resnet50",
    "pool2_conv": "densenet121",
    "bn_Conv1": "mobilenetv2",
    "conv_dw_1": "mobilenet",
    "conv_7b": "inceptionresnetv2",
    "mixed10": "inceptionv3",
    "stem_conv1": "nasnetmobile",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """The square pictures that a model takes, as one item of its input."""

    size: int
    channels: Literal[1, 3]
    shape: tuple[int, ...]  # the model's own: `(h, w)` takes the rows of a grey picture, `(n,)` all its pixels


def picture(shape: Sequence[int | None], wanted: Wanted, what: str, *, usual: int | None = None) -> Picture:
    """The pictures for a model whose input has this shape, without the axis of the items.

    Of a model that takes any size, they have the wanted or else the `usual` one.

    Raises:
        BadBackbone: it takes no square pictures with one or three channels.
        BadSetting: it takes pictures of another size than the wanted one.
    """
    channels: int | None = 1
    match tuple(shape):
        case (height, width, channels):
            pass
        case (height, width):
            pass
        case (int(values),) if (flat := _unrolled(values)) is not None:
            height = width = flat[0]
            channels = flat[1]
        case _:
            raise BadBackbone(
                f"{what} takes an input of shape {_shape(shape)}, which is no picture",
                fix="give a model of pictures: (height, width, 3) or (height, width, 1), or (rows, columns)",
            )
    if channels not in (1, 3):
        first = len(shape) == 3 and shape[0] in (1, 3)
        fix = "give a model with 3 channels, or with 1 for grey pictures, in the last axis"
        raise BadBackbone(
            f"{what} takes an input of shape {_shape(shape)}: "
            + ("its channels come first" if first else f"{channels or 'an unknown number of'} channels"),
            fix=fix,
        )
    if height is not None and width is not None and height != width:
        raise BadBackbone(
            f"{what} takes pictures of {height} x {width} pixels, which are not square",
            fix="give a model that takes square pictures, or pictures of any size: Input((None, None, 3))",
        )
    size = height or width
    if size is not None and wanted.size not in (None, size):
        raise BadSetting(
            f"{what} takes pictures of {size} pixels and no other, not of {wanted.size}", fix="leave the size out"
        )
    size = size or wanted.size or usual or USUAL_SIZE
    item = (size, size, channels) if len(shape) == 3 else (size, size) if len(shape) == 2 else (size * size * channels,)
    return Picture(size, 1 if channels == 1 else 3, item)


def _unrolled(values: int) -> tuple[int, int] | None:
    """Size and channels of the square picture that has so many values."""
    for channels in (1, 3):
        size = math.isqrt(values // channels)
        if size > 1 and channels * size * size == values:
            return size, channels
    return None


def _shape(shape: Sequence[int | None]) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"


def recognised(whole: keras.Model) -> Member | None:
    """The network of keras.applications that this one has its layers' names from, or one of its family."""
    names = {layer.name for layer in whole.operations}
    return next((MEMBERS[name] for mark, name in _MARKS.items() if mark in names), None)


def input_spec(picture: Picture, whole: keras.Model, known: Member | None) -> tuple[InputSpec, str]:
    """The preprocessing that the model wants, and a sentence that says why.

    Args:
        picture: what it takes.
        whole: with its top, in one graph.
        known: what `recognised` gave.

    Raises:
        BadBackbone: it reads words.
    """
    spec = replace(PLAIN, size=picture.size, order="rgb" if picture.channels == 3 else "grey")
    first = next((at for at, layer in enumerate(whole.operations) if _weighted(layer)), len(whole.operations))
    if type(whole.operations[min(first, len(whole.operations) - 1)]).__name__ == "Embedding":
        raise BadBackbone(
            "the network is a model of words: its first layer with weights is an Embedding", fix="give one of pictures"
        )
    inside = next((layer.name for layer in whole.operations[:first] if type(layer).__name__ in _SCALING), None)
    if inside is not None:
        return spec, f"the network gets plain pixels from 0 to 255: its own layer {inside!r} scales them"
    if known is not None and picture.channels == 3:
        return (
            known.spec(picture.size),
            f"no layer of the network scales pixels, and it is {known.function} by its layers' names: "
            f"they are prepared as for keras/{known.function.lower()}",
        )
    return (
        replace(spec, std=(255.0,) * 3),
        "no layer of the network scales pixels: they are divided by 255; if it was trained on others, make "
        "keras.layers.Rescaling its first layer",
    )


def _weighted(layer: Any) -> bool:
    return type(layer).__name__ != "Normalization" and bool(getattr(layer, "weights", ()))
