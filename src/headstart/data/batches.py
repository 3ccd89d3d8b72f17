"""Go once through any object that holds pictures and labels, batch by batch, and refuse what are no plain pixels."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Num, Shaped, UInt8

from headstart.data.labels import missing
from headstart.errors import BadData
from headstart.modalities.png import CHANNELS

ARRAYS = 64  # pictures of an array that are looked at together
OVERSHOOT = 64  # by how much sharp resizing (bicubic, Lanczos) may leave 0..255: cut off, as when saving a picture
DARK = 16  # no set of photos stays below it; scaled ones do: -1..1, 0..1, or divided by their deviation
ENOUGH = 32  # pictures to judge that by: a single one may well be black
RAW = "give the pictures as they are, 0..255: headstart scales them in the network"

Batch = tuple[UInt8[np.ndarray, "n h w c"], Shaped[np.ndarray, "n *k"]]


def batches(source: Any) -> Iterator[Batch]:
    """Pixels of one, three or four channels, and labels as they are; only one batch is in memory at a time.

    The source may be a pair of arrays, a `tf.data.Dataset`, a `PyDataset` or anything else that gives pairs.

    Raises:
        BadData: it has no end, no labels, or its pixels are none of 0..255.
    """
    scale = _Scale()
    for pixels, labels in _pairs(source):
        pictures, each = _batch(_array(pixels, "pictures"), _array(labels, "labels"))
        scale.see(pictures)
        yield _bytes(pictures), each
    scale.judge()


def pictures(pixels: Any) -> UInt8[np.ndarray, "n h w c"]:
    """An array of pictures as bytes.

    Raises:
        BadData: its pixels are none of 0..255, or its shape is none of pictures.
    """
    array = _shaped(_array(pixels, "pictures"))
    scale = _Scale()
    scale.see(array)
    if array.dtype.kind == "f":  # a few bytes may well be dark
        scale.judge()
    return _bytes(array)


def _pairs(source: Any) -> Iterator[tuple[Any, Any]]:
    """Each element of the source as a pair."""
    if isinstance(source, tuple | list):
        yield from _slices(source)
        return
    for element in _elements(source):
        if isinstance(element, dict):
            raise BadData(
                f"elements with names: {', '.join(map(str, element))}",
                fix="map them to pairs, for example ds.map(lambda one: (one['image'], one['label']))",
            )
        if not isinstance(element, tuple | list) or len(element) < 2 or element[1] is None:
            raise missing()
        if len(element) > 2:
            raise BadData(
                "a data set with sample weights, which are not supported",
                fix="leave them out, for example ds.map(lambda x, y, weight: (x, y))",
            )
        yield element[0], element[1]


def _slices(arrays: Any) -> Iterator[tuple[Any, Any]]:
    if len(arrays) == 3:
        raise BadData("arrays with sample weights, which are not supported", fix="give (pictures, labels)")
    if len(arrays) != 2 or not all(hasattr(array, "__array__") or isinstance(array, list) for array in arrays):
        kinds = ", ".join(type(array).__name__ for array in arrays)
        if len(arrays) == 2 and arrays[1] is None:
            raise missing()
        raise BadData(
            f"({kinds}) is not a pair of arrays",
            fix="give (pictures, labels); of two data sets, give the second one as validation=...",
        )
    pixels, labels = arrays
    if len(pixels) != len(labels):
        raise BadData(f"{len(pixels)} pictures, but {len(labels)} labels", fix="give one label for each picture")
    for start in range(0, len(pixels), ARRAYS):
        yield pixels[start : start + ARRAYS], labels[start : start + ARRAYS]


def _elements(source: Any) -> Iterator[Any]:
    """What the source gives in one pass."""
    length = _length(source)
    if length is None:
        raise BadData(
            "a data set without an end, as .repeat() makes it",
            fix="give it without .repeat(), or with .take(number of batches)",
        )
    if hasattr(source, "__array__"):
        raise missing()  # pictures alone
    if isinstance(source, Mapping | str | bytes):
        raise _strange(source)
    if length >= 0 and hasattr(source, "__getitem__"):
        # Not iterated: the iterators of older Keras start again at their end.
        for index in range(length):
            yield source[index]
    elif hasattr(source, "__iter__"):
        yield from source
    else:
        raise _strange(source)


def _strange(source: Any) -> BadData:
    return BadData(
        f"{type(source).__name__} is no kind of data set that is known",
        fix="give a folder, (pictures, labels), a tf.data.Dataset or a Keras data set",
    )


def _length(source: Any) -> int | None:
    """The number of elements, None for endless ones; -1 where it is found out by counting."""
    if isinstance(source, types.GeneratorType):
        return None
    if hasattr(source, "cardinality"):
        return None if int(source.cardinality()) == -1 else -1  # -1 is TensorFlow's sign for it
    if hasattr(source, "num_batches"):
        batches: int | None = source.num_batches
        return batches
    return len(source) if hasattr(source, "__len__") else -1


def _array(values: Any, what: str) -> Shaped[np.ndarray, "..."]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as problem:
        raise BadData(f"{what} that are no array: {problem}", fix="give arrays of one shape in a batch") from problem
    if array.dtype.kind == "O":
        raise BadData(
            f"{what} of type object: not all of one shape, or not numbers", fix="give arrays of one shape in a batch"
        )
    return array


def _batch(
    pixels: Shaped[np.ndarray, "..."], labels: Shaped[np.ndarray, "..."]
) -> tuple[Num[np.ndarray, "n h w c"], Shaped[np.ndarray, "n *k"]]:
    """As a batch also where the elements are single pictures, which a set without .batch() gives."""
    colour = pixels.shape[-1:] and pixels.shape[-1] in CHANNELS
    alone = labels.ndim == 0 or (labels.ndim == 1 and pixels.ndim == 3 and colour)
    if alone:
        pixels, labels = pixels[None], labels[None]
    shaped = _shaped(pixels)
    if len(shaped) != len(labels):
        raise BadData(f"{len(shaped)} pictures, but {len(labels)} labels in a batch", fix="give one for each picture")
    return shaped, labels


def _shaped(pixels: Shaped[np.ndarray, "..."]) -> Num[np.ndarray, "n h w c"]:
    if pixels.dtype.kind not in "uif":
        raise BadData(f"pictures of type {pixels.dtype.name}", fix="give uint8 or float32, 0..255")
    shaped = pixels[..., None] if pixels.ndim == 3 else pixels
    if shaped.ndim == 4 and shaped.shape[3] in CHANNELS and min(shaped.shape[1:]) > 0:
        return shaped
    first = pixels.ndim == 4 and pixels.shape[1] in CHANNELS
    raise BadData(
        f"pictures of shape {list(pixels.shape)}" + (", with the channels first" if first else ""),
        fix="give them as [n h w 3], or as [n h w 1] or [n h w] where they are grey",
    )


def _bytes(pixels: Num[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w c"]:
    return pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


class _Scale:
    """The range of the pixels seen so far."""

    def __init__(self) -> None:
        self.low, self.high, self.pictures = np.inf, -np.inf, 0

    def see(self, pixels: Num[np.ndarray, "n h w c"]) -> None:
        """Take note of a batch.

        Raises:
            BadData: its numbers are no pixels.
        """
        if not pixels.size:
            return
        low, high = float(pixels.min()), float(pixels.max())
        if not np.isfinite([low, high]).all():
            raise BadData("pixels that are no finite numbers", fix="look where NaN or infinity comes from")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.pictures += len(pixels)
        if low < -OVERSHOOT or high > 255 + OVERSHOOT:
            raise BadData(f"pixels lie between {low:g} and {high:g}, not within 0..255", fix=RAW)
        if self.pictures >= ENOUGH:
            self.judge()

    def judge(self) -> None:
        """Refuse pixels that are scaled.

        Raises:
            BadData: no pixel is larger than scaled ones are.
        """
        if self.pictures and self.high <= DARK:
            raise BadData(f"pixels are scaled already ({self.low:.3g}..{self.high:.3g})", fix=RAW)
