"""Turn a user's photos, a folder or an object, into a `Dataset`, or say in one sentence why that cannot be done."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from headstart.data import folder
from headstart.data.archive import Readable
from headstart.data.columns import parsed
from headstart.data.dataset import Dataset, Item, Skipped, Split
from headstart.data.duplicates import Pair, near_duplicates
from headstart.data.families import families
from headstart.data.findings import Conflict, Leak, conflicts, leaks, sentences
from headstart.data.folder import Photo
from headstart.data.looking import Looks, look_at
from headstart.data.sources import Asked, Found, find
from headstart.data.splits import STRONGER, Row, assign, match, read_splits
from headstart.data.validity import check, nothing_usable
from headstart.errors import BadData, BadSetting, HeadstartError, first_five
from headstart.events import Progress
from headstart.modalities.sniff import refusal
from headstart.outcome import outcome
from headstart.store import Store

REFUSALS: Mapping[str, folder.Refusal] = {"image": refusal}  # by modality


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A data set and what was found out about its photos on the way.

    `pairs`: near-duplicates. `bridging`: paths of photos that are like photos on several given sides, and so train.
    `refusal`: why nothing can be learnt from it, where that was not raised.
    """

    dataset: Dataset
    looks: Looks
    pairs: tuple[Pair, ...] = ()
    leaks: tuple[Leak, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    bridging: tuple[str, ...] = ()
    refusal: HeadstartError | None = None


def load_dataset(
    source: Any,
    *,
    seed: int = 0,
    splits: str | PathLike[str] | None = None,
    modality: str = "image",
    validation: Any = None,
    test: Any = None,
    classes: Sequence[str] | None = None,
    columns: str | None = None,
    max_pixels: int | None = None,
) -> Dataset:
    """The photos of a folder, a table, an archive or an object, with their classes and splits.

    Splits come from the file `splits`, where it lists a photo; else from folders named for train, validation and
    test; else from a hash of the photo's content and the seed (`splits.assign`). Where the user's splits name no test
    photo at all, or no validation photo, they are taken out of the training photos by that hash. Where they put
    equal photos on two sides, the test photo stays, or else the validation photo, and the others are skipped.

    Near-duplicates and photos of one group are a family (`data/families.py`), named by `Item.group`, and stay on one
    side. One that is not listed joins the side of its family's listed photos; where these are on several sides, it
    goes to train and is told. Splits that the user gave are never changed; what leaks across them is told.

    Every photo is looked at once, ever: what cannot be decoded is skipped, with the reason.

    An object is a `tf.data.Dataset`, what Keras's `image_dataset_from_directory` or `flow_from_directory` gave, a
    `PyDataset`, or a pair of arrays: pixels 0..255 `[n h w c]` and labels, which are integers, one-hot or binary.
    By the rules in `data/objects.py` the files behind it are used, or its pictures become files in the cache folder,
    below the data set's `root`: with these, `headstart train` works as well.

    Args:
        source: a folder per class, or folders for train, validation and test with a folder per class inside; a zip or
            tar of one; a table of paths and labels; or an object (see `docs/data.md`).
        seed: another seed, other splits.
        splits: a CSV file such as the splits.csv of an earlier run; photos are found in it by content, then by path.
        modality: what the files are.
        validation: an object for the validation split, beside one for training.
        test: the same for the test split.
        classes: names for labels that are numbers, in the order of the labels; or an order for names.
        columns: which columns of a table are which, such as `path=photo,label=species,group=patient`; by default they
            are found by their names.
        max_pixels: a photo of more is not used; by default Pillow's limit against decompression bombs.

    Raises:
        BadData: the data or the file of splits is missing or unusable, or there are too few classes or photos.
        BadSetting: the modality is unknown, or a folder is given together with what is for objects.
        DiskFull: there is no room for the pictures of an object, or for what was seen of the photos.
    """
    work = survey(
        source,
        seed=seed,
        splits=splits,
        modality=modality,
        validation=validation,
        test=test,
        classes=classes,
        columns=columns,
        max_pixels=max_pixels,
    )
    return outcome(work).dataset


def survey(
    source: Any,
    *,
    seed: int = 0,
    splits: str | PathLike[str] | None = None,
    modality: str = "image",
    validation: Any = None,
    test: Any = None,
    classes: Sequence[str] | None = None,
    columns: str | None = None,
    max_pixels: int | None = None,
    strict: bool = True,
) -> Generator[Progress, None, Survey]:
    """The same step by step, with everything that was found out. `strict`: raise what makes the data set useless.

    Raises:
        HeadstartError: as `load_dataset`.
    """
    rows = read_splits(Path(splits)) if splits is not None else ()
    given: dict[Split, Any] = {"train": source, "validation": validation, "test": test}
    sources = {side: each for side, each in given.items() if side == "train" or each is not None}
    found = _found(sources, classes, modality, columns)
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
    looks = yield from look_at(_files(dataset), Store.default(), max_pixels=max_pixels)
    dataset = _without(dataset, looks.reasons)
    pairs = near_duplicates(looks)
    groups = _groups(photos)
    listed: dict[str, Split] = {photo.id: photo.given for photo in photos if photo.given}
    dataset = _split(_with_families(dataset, groups, pairs, looks), listed, seed)
    bridging = _units(dataset, listed)[2] if dataset.user_splits else []
    leaking, doubtful = leaks(dataset, pairs, groups), conflicts(dataset, pairs)
    more = sentences(dataset, pairs, leaking, doubtful, bridging)
    done = Survey(
        dataset=replace(dataset, notes=(*dataset.notes, *more)),
        looks=looks,
        pairs=tuple(pairs),
        leaks=tuple(leaking),
        conflicts=tuple(doubtful),
        bridging=tuple(bridging),
    )
    try:
        check(dataset)
    except HeadstartError as refusal:
        if strict:
            raise
        return replace(done, refusal=refusal)
    return done


def load_labelled(
    source: Any, *, classes: Sequence[str], modality: str = "image", columns: str | None = None
) -> Dataset:
    """All photos of a folder, table, archive or object as test photos for a model of these classes, without splits.

    Classes are matched by name; there may be a part of them, even one.

    Raises:
        BadData: the folder is missing or unusable, or has a class that the model does not know.
        BadSetting: the modality is unknown.
    """
    read = _found({"train": source}, None, modality, columns)
    root, found = read.root, read.scan
    unknown = sorted({photo.label for photo in found.photos} - set(classes))
    if unknown:
        names = first_five([repr(name) for name in unknown])
        raise BadData(
            f"{str(root)!r} has classes that the model does not know: {names}",
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
        notes=read.notes,
    )


def drop_unreadable(dataset: Dataset, reasons: Mapping[str, str], *, seed: int) -> Dataset:
    """The data set without the photos (id -> reason) that could not be decoded; they are listed as skipped.

    A class without a photo left is no class any more, and labels count anew. Splits are assigned again, unless they
    are the user's: only in a class that lost its one test or train photo can that change anything.

    Raises:
        BadData: too few classes or photos are left.
    """
    left = _without(dataset, reasons)
    if left is dataset:
        return dataset
    left = left if dataset.user_splits else _split(left, {}, seed)
    check(left)
    return left


def _without(dataset: Dataset, reasons: Mapping[str, str]) -> Dataset:
    """The data set without these photos, which are listed as skipped, and without the classes that lose all."""
    dropped = [Skipped(item.path, reasons[item.id]) for item in dataset.items if item.id in reasons]
    if not dropped:
        return dataset
    kept = [item for item in dataset.items if item.id not in reasons]
    classes = tuple(dataset.classes[label] for label in sorted({item.label for item in kept}))
    lost = [name for name in dataset.classes if name not in classes]
    labels = {dataset.classes.index(name): label for label, name in enumerate(classes)}
    if not kept:
        raise nothing_usable(dataset.root, dropped)
    return replace(
        dataset,
        classes=classes,
        items=tuple(replace(item, label=labels[item.label]) for item in kept),
        skipped=_sorted((*dataset.skipped, *dropped)),
        notes=(*dataset.notes, *_no_classes(lost)),
    )


def folder_of(source: str | Path, *, columns: str | None = None) -> Path:
    """Where this folder, table or archive is; looks at nothing in it.

    Raises:
        BadData: it does not exist, or is a file of no kind that is known.
        BadSetting: the columns are not written as columns are, or it is nothing that has any.
    """
    _, sources = find({"train": source}, columns=bool(parsed(columns)))
    path: Path = sources["train"]
    return path


def _refusal(modality: str) -> folder.Refusal:
    if modality not in REFUSALS:
        raise BadSetting(f"modality {modality!r} is not known", fix=f"use one of {', '.join(REFUSALS)}")
    return REFUSALS[modality]


def _found(sources: Mapping[Split, Any], classes: Sequence[str] | None, modality: str, columns: str | None) -> Found:
    """What the source that knows such things finds in them."""
    named = parsed(columns)
    source, placed = find(sources, columns=bool(named))
    return source.read(Asked(sources=placed, refusal=_refusal(modality), columns=named, classes=classes))


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


def _files(dataset: Dataset) -> dict[str, list[Readable]]:
    """Each content once, with whatever it can be read from."""
    files: dict[str, list[Readable]] = {}
    for item, file in zip(dataset.items, dataset.files, strict=True):
        files.setdefault(item.id, []).append(file)
    return files


def _groups(photos: Iterable[Photo]) -> dict[str, list[str]]:
    """The user's groups of each content that has one; equal photos may be in several."""
    groups: dict[str, list[str]] = {}
    for photo in photos:
        if photo.group and photo.group not in groups.setdefault(photo.id, []):
            groups[photo.id].append(photo.group)
    return groups


def _with_families(
    dataset: Dataset, groups: Mapping[str, Sequence[str]], pairs: Sequence[Pair], looks: Looks
) -> Dataset:
    """The data set with each item's family as its group."""
    facts = looks.facts()
    ages = {id: (width * height, size) for id, (width, height, size, _) in zip(looks.ids, facts.tolist(), strict=True)}
    found = families(groups, pairs, ages)
    items = dataset.items
    return dataset.with_items(replace(item, group=found[item.id]) if item.id in found else item for item in items)


def _split(dataset: Dataset, given: Mapping[str, Split], seed: int) -> Dataset:
    """The data set with a split for each item, family by family."""
    named = set(given.values())
    if not named & {"validation", "test"}:
        given = {}  # a train folder alone decides nothing
    units, listed, _ = _units(dataset, given)
    sides = assign(units, [item.label for item in dataset.items], seed=seed, given=listed)
    both = zip(dataset.items, sides, strict=True)
    items = (item if item.split == side else replace(item, split=side) for item, side in both)
    taken = [
        f"your splits name no {side} photo: {sides.count(side)} of the training photos were taken for it"
        for side in ("validation", "test")
        if given and side not in named
    ]
    return replace(dataset.with_items(items), user_splits=bool(given), notes=(*dataset.notes, *taken))


def _units(dataset: Dataset, given: Mapping[str, Split]) -> tuple[list[str], dict[str, Split], list[str]]:
    """What each item moves with, its family or a part of it; the sides given to these; and which paths bridge.

    A family that the user put on several sides falls into a part for each, and its newcomers to train.
    """
    sides: dict[str, set[Split]] = {}
    for item, family in zip(dataset.items, dataset.families, strict=True):
        sides.setdefault(family, set()).update([given[item.id]] if item.id in given else [])
    units: list[str] = []
    listed: dict[str, Split] = {}
    bridging = []
    for item, family in zip(dataset.items, dataset.families, strict=True):
        unit, own = family, sides[family]
        if len(own) > 1:
            if item.id not in given:
                bridging.append(item.path)
            side = given.get(item.id, "train")
            unit, own = f"{family} in {side}", {side}
        units.append(unit)
        listed |= dict.fromkeys([unit], *own) if own else {}
    return units, listed, bridging


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
