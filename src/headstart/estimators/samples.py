"""Take pictures as scikit-learn hands them over: paths, arrays or Pillow images, each known by a hash of its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int, UInt8

from headstart.data.batches import pictures
from headstart.data.dataset import Dataset, Item
from headstart.errors import BadData
from headstart.modalities.pillow import is_image, pixels
from headstart.modalities.png import Picture
from headstart.pipeline import Readable

KINDS = "give a list of paths, an array [n h w c] of 0..255, a list of such arrays, or a list of Pillow images"
THREADS = 16  # that read files for their hashes
KNOWN_AT_MOST = 1_000_000  # files whose hashes are kept in memory


class BadSamples(BadData, ValueError):
    """What is given as X or y cannot be used. Also a `ValueError`, which is what scikit-learn's own tools expect."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture: the hash of its bytes, where they come from, and what to call it."""

    id: str
    source: Readable
    name: str


class _Contents:
    """Samples in the place of a data set's folder: `contents / id` gives a sample's bytes as `folder / path` a file."""

    name = ""  # no archive

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._sources = {sample.id: sample.source for sample in samples}

    def __truediv__(self, id: str) -> Readable:
        return self._sources[id]


def samples(given: Any) -> list[Sample]:
    """Every picture in `given`, in order.

    Raises:
        BadSamples: it holds none, or something else.
    """
    try:
        values = _values(given)
        if not len(values):
            raise BadSamples("X has no picture: it is empty", fix=KINDS)
        if isinstance(values, np.ndarray):
            if values.ndim == 3 and values.shape[2] in (3, 4):
                raise BadSamples(f"X is one picture of shape {list(values.shape)}", fix="give a batch of one: X[None]")
            return _arrays(pictures(values), 0)
        if all(isinstance(value, str | os.PathLike) for value in values):
            return _files([os.fspath(value) for value in values])
        if all(is_image(value) for value in values):
            return [_array(pixels(value), place) for place, value in enumerate(values)]
        if any(isinstance(value, str | os.PathLike) or is_image(value) for value in values):
            raise BadSamples("X mixes paths, arrays and images", fix="give one kind at a time")
        return _several(values)
    except BadSamples:
        raise
    except BadData as problem:
        raise BadSamples(f"X holds {problem.what}", fix=problem.fix) from problem
    except ValueError as problem:
        raise BadSamples(f"X holds an image of {problem}", fix="save it with 8 or 16 bits a channel") from problem


def dataset_of(
    found: Sequence[Sample],
    *,
    labels: Int[np.ndarray, "n"] | None = None,
    classes: int = 1,
    weights: Float[np.ndarray, "n"] | None = None,
) -> Dataset:
    """These samples as a data set of training items, their classes called by their numbers."""
    own = np.zeros(len(found), np.int64) if labels is None else labels
    each = np.ones(len(found)) if weights is None else weights
    items = tuple(
        Item(sample.id, sample.id, int(label), "train", weight=float(weight))
        for sample, label, weight in zip(found, own, each, strict=True)
    )
    names = tuple(map(str, range(classes)))
    return Dataset(root=cast(Path, _Contents(found)), classes=names, items=items, user_splits=True)


def _values(given: Any) -> np.ndarray | list[Any]:
    """A batch of pixels as an array, anything else as a list of its elements."""
    if isinstance(given, str | bytes | os.PathLike) or is_image(given) or given is None:
        raise BadSamples(f"X is {type(given).__name__}, not a list of pictures", fix=KINDS)
    if hasattr(given, "toarray"):
        raise BadSamples("X is a sparse matrix, which holds no pictures", fix=KINDS)
    if isinstance(given, list | tuple):
        first = next(iter(given), None)
        if isinstance(first, str | os.PathLike) or is_image(first) or (first is not None and np.ndim(first) > 1):
            return list(given)
    if not hasattr(given, "__array__") and not hasattr(given, "__len__"):
        raise BadSamples(f"X is {type(given).__name__}, not a list of pictures", fix=KINDS)
    array = np.asarray(given)
    if not array.size:
        return []
    if array.dtype.kind in "OUS" and array.ndim in (1, 2):
        if array.ndim == 2 and array.shape[1] != 1:
            raise BadSamples(f"X has {array.shape[1]} columns", fix="give the one column that holds the paths")
        return [value.decode() if isinstance(value, bytes) else value for value in array.ravel().tolist()]
    if array.ndim < 3 and array.dtype.kind in "buifc":
        raise BadSamples(
            f"X is a table of numbers, of shape {list(array.shape)}, not pictures. Reshape your data", fix=KINDS
        )
    return array


def _several(values: Sequence[Any]) -> list[Sample]:
    """Arrays of one picture each, perhaps of different sizes."""
    found: list[Sample] = []
    for place, value in enumerate(values):
        array = np.asarray(value)
        if array.ndim not in (2, 3) or array.dtype.kind not in "uif":
            raise BadSamples(f"X[{place}] is {type(value).__name__}, not a picture", fix=KINDS)
        found += _arrays(pictures(array[None] if array.ndim == 3 else array[None, ..., None]), place)
    return found


def _arrays(block: UInt8[np.ndarray, "n h w c"], first: int) -> list[Sample]:
    return [_array(picture, first + place) for place, picture in enumerate(block)]


def _array(picture: UInt8[np.ndarray, "h w c"], place: int) -> Sample:
    source = Picture(np.ascontiguousarray(picture))
    return Sample(hashlib.blake2b(source.read_bytes(), digest_size=16).hexdigest(), source, f"X[{place}]")


def _files(paths: Sequence[str]) -> list[Sample]:
    with ThreadPoolExecutor(THREADS, thread_name_prefix="hash") as pool:
        ids = list(pool.map(_file_id, paths))
    missing = [path for path, id in zip(paths, ids, strict=True) if id is None]
    if missing:
        raise BadSamples(
            f"{len(missing)} of {len(paths)} files cannot be read, first {missing[0]!r}",
            fix="check the paths; relative ones are looked for where Python was started",
        )
    return [Sample(cast(str, id), Path(path), repr(path)) for path, id in zip(paths, ids, strict=True)]


# The hash of a file that was hashed before and has not been written since: each fold of a cross-validation asks for
# the same files again.
_known: dict[tuple[str, int, int, int], str] = {}


def _file_id(path: str) -> str | None:
    try:
        status = os.stat(path)
        key = (path, status.st_size, status.st_mtime_ns, status.st_ino)
        if key not in _known:
            if len(_known) >= KNOWN_AT_MOST:
                _known.clear()
            _known[key] = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
        return _known[key]
    except (OSError, ValueError, KeyError):
        return None
