"""Turn a user's photos, a folder or an object, into a `Dataset`, or say in one sentence why that cannot be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from headstart.data import folder, objects
from headstart.data.dataset import Dataset, Item, Skipped, Split
from headstart.data.folder import Photo, Scan
from headstart.data.objects import Found
from headstart.data.splits import STRONGER, Row, assign, match, read_splits
from headstart.data.validity import LAYOUT, check, nothing_usable
from headstart.errors import BadData, BadSetting, first_five
from headstart.modalities.sniff import refusal
from headstart.registry import closest

REFUSALS: Mapping[str, folder.Refusal] = {"image": refusal}  # by modality


def load_dataset(
    source: Any,
    *,
    seed: int = 0,
    splits: str | PathLike[str] | None = None,
    modality: str = "image",
    validation: Any = None,
    test: Any = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """The photos of a folder with their classes and splits, by the rules in `data/folder.py`; or those of an object.

    Splits come from the file `splits`, where it lists a photo; else from folders named for train, validation and
    test; else from a hash of the photo's content and the seed (`splits.assign`). Where the user's splits name no test
    photo at all, or no validation photo, they are taken out of the training photos by that hash. Where they put
    equal photos on two sides, the test photo stays, or else the validation photo, and the others are skipped.

    Every file is read once for its hash but not decoded: hand what turns out to be damaged to `drop_unreadable`.

    An object is a `tf.data.Dataset`, what Keras's `image_dataset_from_directory` or `flow_from_directory` gave, a
    `PyDataset`, or a pair of arrays: pixels 0..255 `[n h w c]` and labels, which are integers, one-hot or binary.
    By the rules in `data/objects.py` the files behind it are used, or its pictures become files in the cache folder,
    below the data set's `root`: with these, `headstart train` works as well.

    Args:
        source: a folder per class, or folders for train, validation and test with a folder per class inside; or an
            object.
        seed: another seed, other splits.
        splits: a CSV file such as the splits.csv of an earlier run; photos are found in it by content, then by path.
        modality: what the files are.
        validation: an object for the validation split, beside one for training.
        test: the same for the test split.
        classes: names for the labels of objects, in the order of the labels, where the objects do not know them.

    Raises:
        BadData: the data or the file of splits is missing or unusable, or there are too few classes or photos.
        BadSetting: the modality is unknown, or a folder is given together with what is for objects.
        DiskFull: there is no room for the pictures of an object.
    """
    rows = read_splits(Path(splits)) if splits is not None else ()
    given: dict[Split, Any] = {"train": source, "validation": validation, "test": test}
    sources = {side: each for side, each in given.items() if side == "train" or each is not None}
    found = _found(sources, classes, modality)
    root, scan = found.root, found.scan
    photos, notes = _listed(scan.photos, rows, root)
    photos, straddling = _on_one_side(photos)
    # In a folder, a class of which no photo is left is none.
    dataset = _manifest(root, photos, found.classes or tuple(sorted({photo.label for photo in photos})), modality)
    lost = [path for path in scan.empty if folder.class_name(path) not in dataset.classes]
    dataset = replace(
        dataset,
        skipped=_sorted((*scan.skipped, *straddling)),
        notes=(*_no_classes(lost), *_in_two_classes(dataset), *notes, *found.notes),
    )
    dataset = _split(dataset, {photo.id: photo.given for photo in photos if photo.given}, seed)
    check(dataset)
    return dataset


def load_labelled(source: str | Path, *, classes: Sequence[str], modality: str = "image") -> Dataset:
    """All photos of a folder as test photos for a model of these classes, whatever splits the folder has.

    Classes are matched by name; a folder may hold a part of them, even one.

    Raises:
        BadData: the folder is missing or unusable, or has a class that the model does not know.
        BadSetting: the modality is unknown.
    """
    root, found = _scan(source, modality)
    unknown = sorted({photo.label for photo in found.photos} - set(classes))
    if unknown:
        names = first_five([repr(name) for name in unknown])
        raise BadData(
            f"folder {str(source)!r} has classes that the model does not know: {names}",
            fix=f"the model knows {', '.join(classes)}; rename the folders, or leave the others out",
        )
    labels = {name: label for label, name in enumerate(classes)}
    items = tuple(
        Item(photo.id, photo.path, labels[photo.label], "test", photo.group, photo.weight) for photo in found.photos
    )
    return Dataset(
        root=root,
        classes=tuple(classes),
        items=items,
        skipped=_sorted(found.skipped),
        user_splits=True,
        modality=modality,
    )


def drop_unreadable(dataset: Dataset, reasons: Mapping[str, str], *, seed: int) -> Dataset:
    """The data set without the photos (id -> reason) that could not be decoded; they are listed as skipped.

    A class without a photo left is no class any more, and labels count anew. Splits are assigned again, unless they
    are the user's: only in a class that lost its one test or train photo can that change anything.

    Raises:
        BadData: too few classes or photos are left.
    """
    dropped = [Skipped(item.path, reasons[item.id]) for item in dataset.items if item.id in reasons]
    if not dropped:
        return dataset
    kept = [item for item in dataset.items if item.id not in reasons]
    classes = tuple(dataset.classes[label] for label in sorted({item.label for item in kept}))
    lost = [name for name in dataset.classes if name not in classes]
    labels = {dataset.classes.index(name): label for label, name in enumerate(classes)}
    if not kept:
        raise nothing_usable(dataset.root, dropped)
    left = replace(
        dataset,
        classes=classes,
        items=tuple(replace(item, label=labels[item.label]) for item in kept),
        skipped=_sorted((*dataset.skipped, *dropped)),
        notes=(*dataset.notes, *_no_classes(lost)),
    )
    left = left if dataset.user_splits else _split(left, {}, seed)
    check(left)
    return left


def folder_of(source: str | Path) -> Path:
    """Where this folder is; looks at nothing in it.

    Raises:
        BadData: it does not exist, or is a file.
    """
    path = Path(source).expanduser()
    if source == "" or not path.exists():
        parent = path.parent
        near = closest(path.name, [other.name for other in parent.iterdir()] if parent.is_dir() else [])
        raise BadData(f"folder {str(source)!r} does not exist", fix=near or "check the spelling of the path")
    if not path.is_dir():
        raise BadData(f"{str(source)!r} is a file, not a folder", fix=LAYOUT)
    return path.absolute()


def _refusal(modality: str) -> folder.Refusal:
    if modality not in REFUSALS:
        raise BadSetting(f"modality {modality!r} is not known", fix=f"use one of {', '.join(REFUSALS)}")
    return REFUSALS[modality]


def _scan(source: str | Path, modality: str) -> tuple[Path, Scan]:
    unusable = _refusal(modality)
    root = folder_of(source)
    try:
        found = folder.scan(root, unusable)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise BadData(f"folder {str(root)!r} cannot be read: {reason}", fix="make it readable for you") from problem
    if not found.photos:
        raise nothing_usable(root, found.skipped)
    return root, found


def _found(sources: Mapping[Split, Any], classes: Sequence[str] | None, modality: str) -> Found:
    """What a folder or objects hold."""
    paths = [side for side, source in sources.items() if isinstance(source, str | PathLike)]
    if not paths:
        found = objects.collect(sources, classes, _refusal(modality))
        if not found.scan.photos:
            raise nothing_usable(found.root, found.scan.skipped)
        return found
    if len(sources) > 1:
        raise BadSetting(
            f"a folder is given for {paths[0]}, beside data for {', '.join(set(sources) - {paths[0]})}",
            fix="put the folders train, validation and test into one folder and give that, or give objects alone",
        )
    if classes is not None:
        raise BadSetting(
            "class names are given for a folder", fix="leave classes out: in a folder they are the folders' names"
        )
    root, scan = _scan(sources["train"], modality)
    return Found(root=root, scan=scan)


def _listed(photos: Sequence[Photo], rows: Sequence[Row], root: Path) -> tuple[list[Photo], list[str]]:
    """The photos with the splits that the user's file gives them, and what there is to say about it."""
    if not rows:
        return list(photos), []
    splits = match(rows, {photo.path: photo.id for photo in photos})
    if not splits:
        raise BadData(
            f"none of the {len(rows)} photos in the splits file is in {str(root)!r}",
            fix="give the splits of this folder, with paths relative to it",
        )
    present = {photo.path for photo in photos} | {photo.id for photo in photos}
    missing = sum(row.path not in present and row.id not in present for row in rows)
    unlisted = len(photos) - len(splits)
    notes = []
    if unlisted:
        notes.append(f"{unlisted} photos are not in the splits file and were split as if there were none")
    if missing:
        notes.append(f"{missing} photos of the splits file are not in the folder")
    return [replace(photo, given=splits.get(photo.path, photo.given)) for photo in photos], notes


def _on_one_side(photos: Sequence[Photo]) -> tuple[list[Photo], list[Skipped]]:
    """Of equal photos that the user put on several sides, those on the strongest; and the others."""
    strongest: dict[str, Photo] = {}
    for photo in photos:
        if photo.given:
            best = strongest.setdefault(photo.id, photo)
            if STRONGER.index(photo.given) < STRONGER.index(best.given or "train"):
                strongest[photo.id] = photo
    kept, skipped = [], []
    for photo in photos:
        best = strongest.get(photo.id, photo)
        if photo.given in (None, best.given):
            kept.append(photo)
        else:
            skipped.append(Skipped(photo.path, f"the same photo as {best.path!r}, which is kept for {best.given}"))
    return kept, skipped


def _manifest(root: Path, photos: Sequence[Photo], classes: tuple[str, ...], modality: str) -> Dataset:
    labels = {name: label for label, name in enumerate(classes)}
    items = tuple(
        Item(photo.id, photo.path, labels[photo.label], photo.given or "train", photo.group, photo.weight)
        for photo in photos
    )
    return Dataset(root=root, classes=classes, items=items, modality=modality)


def _split(dataset: Dataset, given: Mapping[str, Split], seed: int) -> Dataset:
    named = set(given.values())
    if not named & {"validation", "test"}:
        given = {}  # a train folder alone decides nothing
    sides = assign([item.id for item in dataset.items], [item.label for item in dataset.items], seed=seed, given=given)
    items = (replace(item, split=side) for item, side in zip(dataset.items, sides, strict=True))
    taken = [
        f"your splits name no {side} photo: {sides.count(side)} of the training photos were taken for it"
        for side in ("validation", "test")
        if given and side not in named
    ]
    return replace(dataset.with_items(items), user_splits=bool(given), notes=(*dataset.notes, *taken))


def _sorted(skipped: Iterable[Skipped]) -> tuple[Skipped, ...]:
    return tuple(sorted(skipped, key=lambda file: (file.path, file.reason)))


def _no_classes(names: Sequence[str]) -> list[str]:
    return [f"no usable photo in {first_five([repr(name) for name in names])}: not a class"] if names else []


def _in_two_classes(dataset: Dataset) -> list[str]:
    first: dict[str, Item] = {}
    pairs = [
        f"{other.path!r} and {item.path!r}"
        for item in dataset.items
        if (other := first.setdefault(item.id, item)).label != item.label
    ]
    return [f"equal photos in different classes: {first_five(pairs)}"] if pairs else []
