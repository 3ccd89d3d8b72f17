"""Make the Keras model of everything from photos of any size to answers, of Keras's own layers and operations alone.

So its file loads in safe mode on every engine, and each of Keras's ways out takes it. Two rules keep that true. The
sides of a photo are not known while the graph is made, so places are counted along a line of its pixels. And no array
of NumPy is in it, as some exporters make further inputs of them: numbers are Python's, arrays are weights of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from jaxtyping import Float
from keras import ops

from headstart.modalities.spec import InputSpec
from headstart.networks.keras_heat import Linear
from headstart.novelty import Novelty

SQUARE = "square"  # the layer that gives the backbone's square, `uint8 [n size size 3]`
NOVELTY = "novelty"  # how the names of the layers begin that compute the distance


def from_photos(
    spec: InputSpec,
    *,
    mapped: Callable[[Any], Any],
    pooled: Callable[[Any], Any],
    answered: Callable[[Any, Any], Any],
    temperature: float,
    views: Sequence[str],
    novelty: Novelty | None,
    linear: Linear | None,
) -> keras.Model:
    """A model from `pixels uint8 [n h w 3]`, of any size, to a dictionary of the outputs of a bundle's graph.

    Args:
        spec: the pictures that the network takes.
        mapped: from pictures `uint8 [n size size 3]` to the last map.
        pooled: from that to features `[n d]`.
        answered: from map and features to logits `[n k]`.
        temperature: divides the logits.
        views: `plain`, `flip` or both; their probabilities are averaged.
        novelty: where the photos of the training lie, to give `distance`.
        linear: the head's weights and bias where it is linear on the mean of the last map, to give `heat`.
    """
    pixels = keras.Input((None, None, 3), dtype="uint8", name="pixels")
    pictures = squaring(spec)(pixels)
    softmax = keras.layers.Softmax(name="softmax")
    # The plain view always: its features tell how far a photo is, and where it speaks for a class.
    last = mapped(pictures)
    features = pooled(last)
    each = []
    for view in views:
        seen = last if view == "plain" else mapped(ops.flip(pictures, axis=2))
        logits = answered(seen, features if view == "plain" else pooled(seen))
        each.append(softmax(logits / temperature if temperature != 1 else logits))
    outputs = {"probabilities": each[0] if len(each) == 1 else keras.layers.Average(name="views")(each)}
    if novelty is not None:
        outputs["distance"] = _distance(novelty)(features)
    if linear is not None:
        outputs["heat"] = _heat(linear[0])(last)
    return keras.Model(pixels, outputs, name="headstart")


# ---- from a photo to the square


def squaring(spec: InputSpec) -> keras.Model:
    """Photos `uint8 [n h w 3]` of any one size to squares `uint8 [n size size 3]`, as `modalities.frames` makes them.

    Pillow's antialiased resize is two products of matrices, rounded to whole levels after each.
    """
    pixels = keras.Input((None, None, 3), dtype="uint8")
    photo = ops.cast(pixels, "float32")
    across, down = _middles(photo[0, 0, :, 0]), _middles(photo[0, :, 0, 0])
    width, height = (ops.max(middles, axis=0, keepdims=True) + 0.5 for middles in (across, down))
    rows = _levels(ops.einsum("nhwc,ow->nhoc", photo, _weights(spec, across, width, height)))
    square = _levels(ops.einsum("nhwc,oh->nowc", rows, _weights(spec, down, height, width)))
    square = ops.reshape(square, (-1, spec.size, spec.size, 3))  # from here on the graph knows its sides
    return keras.Model(pixels, ops.cast(square, "uint8"), name=SQUARE)


def _middles(line: Any) -> Any:
    """The middle of each pixel of a line: 0.5, 1.5, and so on."""
    return ops.cumsum(ops.ones_like(line)) - 0.5


def _levels(values: Any) -> Any:
    """The nearest levels of a colour; halves go up, as in Pillow, and not to the even one."""
    return ops.clip(ops.floor(values + 0.5), 0.0, 255.0)


def _weights(spec: InputSpec, middles: Any, side: Any, other: Any) -> Any:
    """How much each pixel of a side of the photo counts for each pixel of the square: `[size side]`."""
    start, stop, length, offset = _placed(spec, side, other)
    places = _middles(ops.broadcast_to(side, (spec.size,))) - offset
    scale = (stop - start) / length
    centres = start + places * scale
    # A photo that shrinks is averaged over as much of it as a pixel of the square covers.
    away = (ops.expand_dims(middles, 0) - ops.expand_dims(centres, 1)) / ops.maximum(scale, 1.0)
    weights = _KERNELS[spec.interpolation](ops.absolute(away))
    weights = weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1e-9)
    if spec.fit != "pad":
        return weights
    inside = ops.logical_and(places > 0.0, places < length)
    return weights * ops.expand_dims(ops.cast(inside, "float32"), 1)


def _placed(spec: InputSpec, side: Any, other: Any) -> tuple[Any, Any, Any, Any]:
    """From where to where in the photo the square shows; how many of its pixels the photo fills, and from which on."""
    none = side * 0.0
    if spec.fit == "squash":
        return none, side, none + float(spec.size), none
    if spec.fit == "pad":
        length = _rounded_share(side * float(spec.size), ops.maximum(side, other))
        return none, side, length, ops.floor((spec.size - length) * 0.5)
    resized = _quotient(side * float(spec.resized), ops.minimum(side, other))
    first = ops.round((resized - spec.size) * 0.5)
    stop = ops.minimum(side, (first + spec.size) * side / resized)
    return first * side / resized, stop, none + float(spec.size), none


def _quotient(a: Any, b: Any) -> Any:
    """`a // b` of whole numbers: a half keeps the quotient away from the next one, however an engine divides."""
    return ops.floor((a + 0.5) / b)


def _rounded_share(a: Any, b: Any) -> Any:
    """`max(1, round(a / b))` of whole numbers, with halves to the even one."""
    halves = _quotient(2.0 * a, b)
    more = ops.cast(2.0 * a - halves * b > 0.5, "float32")  # than a half, where the number of halves is odd
    return ops.maximum(ops.round(halves * 0.5 + more * 0.25), 1.0)


def _bilinear(away: Any) -> Any:
    return ops.maximum(1.0 - away, 0.0)


def _bicubic(away: Any) -> Any:
    """Keys's kernel with a of -0.5, as Pillow has it."""
    near = (1.5 * away - 2.5) * away * away + 1.0
    far = (((away - 5.0) * away + 8.0) * away - 4.0) * -0.5
    return ops.where(away < 1.0, near, ops.where(away < 2.0, far, 0.0 * away))


def _lanczos(away: Any) -> Any:
    """Three lobes."""
    return ops.where(away < 3.0, _sinc(away) * _sinc(away / 3.0), 0.0 * away)


def _sinc(away: Any) -> Any:
    angle = ops.maximum(away * math.pi, 1e-6)  # at nothing sin(x) / x is 1, and so it is there
    return ops.sin(angle) / angle


_KERNELS = {"bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}


# ---- beside the answer


def _distance(novelty: Novelty) -> keras.Model:
    """Features `[n d]` to their distance `[n]` from those of the training: what `Novelty.distance` computes."""
    features = keras.Input((len(novelty.mean),))
    rows = features
    if novelty.normalise:
        rows = rows / ops.maximum(ops.sqrt(ops.sum(rows * rows, axis=1, keepdims=True)), 1e-12)
    # Both sides are moved to the middle of the centres: squares of large numbers that nearly cancel lose all digits.
    middle = novelty.centres.mean(axis=0)
    around = novelty.centres - middle
    if novelty.projection is None:
        placed = _moved(novelty.mean + middle)(rows)
    else:
        placed = _dense(novelty.projection, -middle, f"{NOVELTY}_projection")(_moved(novelty.mean)(rows))
    products = _dense(-2 * around.T, (around**2).sum(axis=1), f"{NOVELTY}_centres")(placed)
    squares = products + ops.sum(placed * placed, axis=1, keepdims=True)
    nearest = -ops.top_k(-squares, novelty.k)[0][:, -1] if novelty.k > 1 else ops.min(squares, axis=1)
    return keras.Model(features, ops.sqrt(ops.maximum(nearest, 0.0)), name=NOVELTY)


def _moved(mean: Float[np.ndarray, "d"]) -> Any:
    """A layer that takes this away from each row."""
    return keras.layers.Normalization(mean=_list(mean), variance=[1.0] * len(mean), name=f"{NOVELTY}_mean")


def _heat(weights: Float[np.ndarray, "d k"]) -> Callable[[Any], Any]:
    """From the last map `[n r c d]` to what each place adds to each logit, `[n r c k]`."""

    def call(last: Any) -> Any:
        places = last.shape[1] * last.shape[2]
        return _dense(weights / places, None, "heat")(last)

    return call


def _dense(kernel: Float[np.ndarray, "d k"], bias: Float[np.ndarray, "k"] | None, name: str) -> Any:
    """A layer with these weights."""
    dense = keras.layers.Dense(kernel.shape[1], use_bias=bias is not None, kernel_initializer="zeros", name=name)
    dense.build((None, kernel.shape[0]))
    dense.set_weights([each.astype(np.float32) for each in (kernel, bias) if each is not None])
    return dense


def _list(values: Float[np.ndarray, "d"]) -> list[float]:
    return [float(value) for value in values]
