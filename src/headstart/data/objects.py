"""Take a data set that is an object, from TensorFlow, Keras or NumPy: the files behind it, or else its pixels.

- What still knows its files is read from them, by their bytes, as a folder is: `image_dataset_from_directory`'s
  result, also after `.cache()`, `.shuffle()` and `.prefetch()`, and the iterators of `flow_from_directory` and
  `flow_from_dataframe`. So nothing is resized or scaled twice.
- Of everything else the pixels are kept (`data/pictures.py`), read once, a batch at a time.
- Labels come from the object itself, never from the names of folders. Classes keep the order of the labels.

No framework is imported: objects are known by what they can do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data import folder, pictures
from headstart.data.batches import batches
from headstart.data.dataset import Dataset, Item, Skipped, Split
from headstart.data.folder import Photo, Refusal, Scan
from headstart.data.labels import Labels, join, missing, named, parse, settle
from headstart.data.sources import Asked, Found, Source
from headstart.data.validity import nothing_usable
from headstart.errors import BadData

FILES_READ = "the files behind the data set were read: it is left to headstart to resize, scale and vary its pictures"
PAIRS = 1024  # paths and labels that TensorFlow hands over at a time
_SAME_ELEMENTS = {"CacheDataset", "PrefetchDataset", "ShuffleDataset", "OptionsDataset"}  # TensorFlow's wrappers


@dataclass(frozen=True, slots=True)
class _Side:
    """One object: a label for each of its files (absolute paths), or of its kept pictures (ids)."""

    labels: Labels
    files: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


def read(asked: Asked) -> Found:
    """The photos of all these objects.

    Raises:
        BadData: one of them is no data set, has no labels, they do not fit together, or no photo is usable.
        BadSetting: the cache folder cannot be written.
        DiskFull: there is no room for pictures.
    """
    found = collect(asked.sources, asked.classes, asked.refusal)
    if not found.scan.photos:
        raise nothing_usable(found.root, found.scan.skipped)
    return found


def collect(sources: Mapping[Split, Any], classes: Sequence[str] | None, refusal: Refusal) -> Found:
    """The photos of all these objects.

    Raises:
        BadData: one of them is no data set, has no labels, or they do not fit together.
        BadSetting: the cache folder cannot be written.
        DiskFull: there is no room for pictures.
    """
    sides: dict[Split, _Side] = {}
    for split, source in sources.items():
        with _told(split):
            sides[split] = _read(source)
    names = settle(classes, [side.labels for side in sides.values()])
    filed: list[Photo] = []
    kept: list[Photo] = []
    for split, side in sides.items():
        with _told(split):
            each = named(side.labels, names)
        filed += [Photo(path, "", name, split) for path, name in zip(side.files, each, strict=False)]
        kept += [
            Photo(_place(id, name, split, names), id, name, split) for id, name in zip(side.ids, each, strict=False)
        ]
    folders = [os.path.dirname(photo.path) for photo in filed]
    notes = [FILES_READ] if filed else []
    if kept:
        laid = _laid_out(kept, names)
        kept = [replace(photo, path=str(laid / photo.path)) for photo in kept]
        folders.append(str(laid))
        notes.append(f"the pictures are kept as files in {str(laid)!r}")
    root = Path(os.path.commonpath(folders))
    return Found(root=root, scan=_scanned(filed, kept, root, refusal), classes=names, notes=tuple(notes))


def _read(source: Any) -> _Side:
    """What one object holds, from its files where it knows them."""
    original = _original(source)
    if hasattr(original, "filepaths") and hasattr(original, "class_mode"):
        return _old_iterator(original)
    if hasattr(original, "image_data_generator") and hasattr(original, "x"):  # from .flow(x, y): the arrays themselves
        weights = (original.sample_weight,) if original.sample_weight is not None else ()
        return _pixels((original.x, original.y, *weights), ())
    names = getattr(original, "class_names", None)
    if hasattr(original, "file_paths"):
        if names is None:
            raise missing()
        if side := _with_files(original):
            return side
    return _pixels(source, tuple(map(str, names or ())))


def _old_iterator(source: Any) -> _Side:
    """What `flow_from_directory` or `flow_from_dataframe` gave."""
    if source.class_mode not in ("categorical", "binary", "sparse", "raw"):
        if source.class_mode is None:
            raise missing()
        raise BadData(
            f"a data set of class_mode {source.class_mode!r} has no classes",
            fix="make it with class_mode='categorical'",
        )
    if source.sample_weight is not None:
        raise BadData("a data set with sample weights, which are not supported", fix="make it without weight_col")
    positions: Mapping[str, int] = getattr(source, "class_indices", {})
    names = tuple(sorted(positions, key=positions.__getitem__))
    if any(np.ndim(label) for label in source.labels):
        raise BadData("pictures with several classes each", fix="give each picture exactly one class")
    labels = join([parse(np.asarray(source.labels))], names)
    return _Side(labels, files=tuple(os.path.abspath(path) for path in source.filepaths))


def _with_files(source: Any) -> _Side | None:
    """What `image_dataset_from_directory` gave, if its files are on this machine and its labels can be told."""
    pairs = _paths_and_labels(source)
    if pairs is None:
        return None  # made otherwise than TensorFlow makes it: then its pictures and labels are read as they come
    files: list[str] = []
    labels: list[Labels] = []
    for paths, some in pairs.batch(PAIRS):
        files += [os.fsdecode(path) for path in np.asarray(paths)]
        labels.append(parse(np.asarray(some)))
    if sorted(files) != sorted(source.file_paths) or any("://" in path for path in files):
        return None
    names = tuple(map(str, source.class_names))
    return _Side(join(labels, names), files=tuple(os.path.abspath(path) for path in files))


def _paths_and_labels(source: Any) -> Any:
    """The set that it was made from, whose elements are pairs of a path and a label, before any picture is read."""
    while True:
        spec = getattr(source, "element_spec", None)
        if isinstance(spec, tuple) and len(spec) == 2 and _is_text(spec[0]):
            return source
        inputs = list(source._inputs()) if hasattr(source, "_inputs") else []
        if len(inputs) != 1:
            return None
        source = inputs[0]


def _is_text(spec: Any) -> bool:
    return getattr(getattr(spec, "dtype", None), "name", "") == "string"


def _original(source: Any) -> Any:
    """The set that knows its files, where only wrappers that change no element were put around it."""
    inner = source
    while not hasattr(inner, "file_paths"):
        if type(inner).__name__.strip("_") not in _SAME_ELEMENTS or not hasattr(inner, "_inputs"):
            return source
        (inner,) = inner._inputs()
    return inner


def _pixels(source: Any, names: tuple[str, ...]) -> _Side:
    ids: list[str] = []
    labels: list[Labels] = []
    for pixels, some in batches(source):
        labels.append(parse(some))
        ids += pictures.keep(pixels)
    return _Side(join(labels, names), ids=tuple(ids))


def _place(id: str, name: str, split: Split, classes: Sequence[str]) -> str:
    return f"{split}/{pictures.folder_name(classes.index(name), name)}/{id}.png"


def _laid_out(kept: Sequence[Photo], classes: tuple[str, ...]) -> Path:
    """The kept pictures in a folder of their own, with splits and classes as folders: it can be trained on as well."""
    items = (Item(photo.id, photo.path, classes.index(photo.label), photo.given or "train") for photo in kept)
    name = Dataset(root=Path(), classes=classes, items=tuple(items)).hash
    return pictures.lay_out(name, ((photo.path, photo.id) for photo in kept))


def _scanned(filed: Sequence[Photo], kept: Sequence[Photo], root: Path, refusal: Refusal) -> Scan:
    """All photos with paths below the root, and those files that cannot be used."""
    inside = [replace(photo, path=Path(os.path.relpath(photo.path, root)).as_posix()) for photo in (*filed, *kept)]
    photos = inside[len(filed) :]
    skipped: list[Skipped] = []
    paths = [photo.path for photo in inside[: len(filed)]]
    for photo, (id, reason) in zip(inside, folder.Disk(root).ids(paths, refusal), strict=False):
        if reason:
            skipped.append(Skipped(photo.path, reason if os.path.lexists(root / photo.path) else "does not exist"))
        else:
            photos.append(replace(photo, id=id))
    photos.sort(key=lambda photo: photo.path)
    return Scan(tuple(photos), tuple(sorted(skipped, key=lambda file: file.path)), ())


@contextmanager
def _told(split: Split) -> Iterator[None]:
    """Say of a problem in which of several objects it is."""
    try:
        yield
    except BadData as problem:
        if split == "train":
            raise
        raise BadData(f"{split}: {problem.what}", fix=problem.fix) from problem


SOURCE = Source(
    what="a data set of TensorFlow, Keras or NumPy",
    takes=lambda source: not isinstance(source, Path),
    read=read,
    place=False,
    several=True,
    last=True,  # it refuses with the reason what no source knows
)
