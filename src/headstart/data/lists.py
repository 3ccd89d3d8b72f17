"""Take lists in memory: pairs of a path or picture and its label, or a list of paths and one of labels."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data import pictures
from headstart.data.dataset import Skipped, Split
from headstart.data.labels import Labels, join, missing, named, parse, settle
from headstart.data.rows import Row, gather, nothing
from headstart.data.sources import Asked, Found, Source
from headstart.errors import BadData

AS_THEY_ARE = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}  # kinds of pixels that a PNG file can hold
ORIENTATION = 0x0112  # in a photo's Exif: how it was held


def read(asked: Asked) -> Found:
    """The photos in these lists.

    Raises:
        BadData: lists do not fit together, a label is missing or of another kind, or no photo is usable.
        BadSetting: the cache folder cannot be written.
        DiskFull: there is no room for pictures.
    """
    pairs = {side: _pairs(source) for side, source in asked.sources.items()}
    labels = {side: _labels([label for _, label in each]) for side, each in pairs.items()}
    numbers = [each for each in labels.values() if isinstance(each, Labels)]
    names = settle(asked.classes, numbers) if numbers else tuple(asked.classes or ())
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for side, each in pairs.items():
        told = labels[side]
        classes = named(told, names) if isinstance(told, Labels) else told
        if names and not isinstance(told, Labels) and (unknown := sorted(set(told) - set(names))):
            raise BadData(
                f"labels that are not among the classes: {unknown[0]!r}", fix=f"the classes are {', '.join(names)}"
            )
        for number, ((photo, _), name) in enumerate(zip(each, classes, strict=True), start=1):
            split = side if len(pairs) > 1 else None
            rows.append(
                _row(f"photo {number}" if side == "train" else f"photo {number} for {side}", photo, name, split)
            )
    found = gather(rows, skipped, asked.refusal, home=Path.cwd(), classes=names)
    if not found.scan.photos:
        raise nothing("the list", found.scan.skipped, fix="give paths of photos that are there, or PIL images")
    return found


def takes(source: Any) -> bool:
    """Whether this is a list of pairs, or a pair of lists, of paths or pictures and labels."""
    if not isinstance(source, list | tuple) or not len(source):
        return False
    return _paired(source) or (len(source) == 2 and _first_is_photo(source[0]))


def _paired(source: Sequence[Any]) -> bool:
    first = source[0]
    inner = isinstance(first, tuple) or (isinstance(first, list) and isinstance(source, list))
    return bool(inner and len(first) == 2 and _is_photo(first[0]) and not _is_photo_object(first[1]))


def _first_is_photo(values: Any) -> bool:
    text = getattr(getattr(values, "dtype", None), "kind", "-") in "OU" and getattr(values, "ndim", 0) == 1
    sequence = isinstance(values, list | tuple) or text
    return bool(sequence and len(values) and _is_photo(values[0]))


def _is_photo(value: Any) -> bool:
    return isinstance(value, str | PathLike) or _is_photo_object(value)


def _is_photo_object(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("mode", "save", "convert"))


def _pairs(source: Any) -> list[tuple[Any, Any]]:
    if not _paired(source):
        photos, labels = source
        if not hasattr(labels, "__len__") or isinstance(labels, str):
            raise missing()
        if len(photos) != len(labels):
            raise BadData(f"{len(photos)} photos, but {len(labels)} labels", fix="give one label for each photo")
        return list(zip(photos, labels, strict=True))
    for number, each in enumerate(source, start=1):
        if not isinstance(each, tuple | list) or len(each) != 2:
            raise BadData(f"photo {number} of the list is no pair", fix="give pairs of a path and its label")
    return [(photo, label) for photo, label in source]


def _labels(values: Sequence[Any]) -> Labels | list[str]:
    """Names as they are, or numbers as positions."""
    texts = [isinstance(value, str) for value in values]
    if all(texts):
        names = [str(value).strip() for value in values]
        if "" in names:
            raise BadData(
                f"photo {names.index('') + 1} of the list has no label", fix="leave it out, or name its class"
            )
        return names
    if any(isinstance(value, list | tuple | set) and any(isinstance(part, str) for part in value) for value in values):
        raise BadData("a photo with several labels", fix="give each photo exactly one class")
    if any(texts) or any(value is None for value in values):
        raise BadData(
            "labels of several kinds: names, and others that are none",
            fix="give all labels as names, or all as numbers",
        )
    try:
        return join([parse(np.asarray(values))])
    except ValueError as problem:
        raise BadData("labels of several shapes", fix="give each photo exactly one class") from problem


def _row(where: str, photo: Any, name: str, split: Split | None) -> Row:
    if isinstance(photo, str | PathLike):
        return Row(where, os.path.abspath(os.path.expanduser(os.fspath(photo))), name, split)
    if not _is_photo_object(photo):
        raise BadData(f"{where} of the list is a {type(photo).__name__}", fix="give a path or a PIL image")
    id = pictures.keep_file(png(photo), ".png")
    return Row(where, f"{id}.png", name, split, id=id)


def png(photo: Any) -> bytes:
    """A PIL image as a PNG file, to be read by the same rules as a user's own files."""
    held = io.BytesIO()
    kept = photo if photo.mode in AS_THEY_ARE else photo.convert("RGB")
    turned = photo.getexif().get(ORIENTATION, 1) != 1
    kept.save(held, "PNG", compress_level=1, **({"exif": photo.getexif().tobytes()} if turned else {}))
    return held.getvalue()


SOURCE = Source(
    what="a list of paths or PIL images with their labels", takes=takes, read=read, place=False, several=True
)
