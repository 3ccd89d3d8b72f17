"""Turn a user's folder of photos into a `Dataset`, or say in one sentence why that cannot be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headstart.data import folder
from headstart.data.dataset import Dataset, Item, Skipped, Split
from headstart.data.folder import Photo, Scan
from headstart.data.splits import STRONGER, Row, assign, match, read_splits
from headstart.data.validity import LAYOUT, check, nothing_usable
from headstart.errors import BadData, BadSetting, first_five
from headstart.modalities.sniff import refusal
from headstart.registry import closest

REFUSALS: Mapping[str, folder.Refusal] = {"image": refusal}  # by modality


def load_dataset(
    source: str | Path, *, seed: int = 0, splits: str | Path | None = None, modality: str = "image"
) -> Dataset:
    """The photos of a folder with their classes and splits, by the rules in `data/folder.py`.

    Splits come from the file `splits`, where it lists a photo; else from folders named for train, validation and
    test; else from a hash of the photo's content and the seed (`splits.assign`). Where the user's splits name no test
    photo at all, or no validation photo, they are taken out of the training photos by that hash. Where they put
    equal photos on two sides, the test photo stays, or else the validation photo, and the others are skipped.

    Every file is read once for its hash but not decoded: hand what turns out to be damaged to `drop_unreadable`.

    Args:
        source: a folder per class, or folders for train, validation and test with a folder per class inside.
        seed: another seed, other splits.
        splits: a CSV file such as the splits.csv of an earlier run; photos are found in it by content, then by path.
        modality: what the files are.

    Raises:
        BadData: the folder or the file of splits is missing or unusable, or there are too few classes or photos.
        BadSetting: the modality is unknown.
    """
    rows = read_splits(Path(splits)) if splits is not None else ()
    root, found = _scan(source, modality)
    photos, notes = _listed(found.photos, rows, root)
    photos, straddling = _on_one_side(photos)
    dataset = _manifest(root, photos, modality)
    lost = [path for path in found.empty if folder.class_name(path) not in dataset.classes]
    dataset = replace(
        dataset,
        skipped=_sorted((*found.skipped, *straddling)),
        notes=(*_no_classes(lost), *_in_two_classes(dataset), *notes),
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
    items = tuple(Item(photo.id, photo.path, labels[photo.label], "test") for photo in found.photos)
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


def _root(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if source == "" or not path.exists():
        parent = path.parent
        near = closest(path.name, [other.name for other in parent.iterdir()] if parent.is_dir() else [])
        raise BadData(f"folder {str(source)!r} does not exist", fix=near or "check the spelling of the path")
    if not path.is_dir():
        raise BadData(f"{str(source)!r} is a file, not a folder", fix=LAYOUT)
    return path.absolute()


def _scan(source: str | Path, modality: str) -> tuple[Path, Scan]:
    if modality not in REFUSALS:
        raise BadSetting(f"modality {modality!r} is not known", fix=f"use one of {', '.join(REFUSALS)}")
    root = _root(source)
    try:
        found = folder.scan(root, REFUSALS[modality])
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise BadData(f"folder {str(root)!r} cannot be read: {reason}", fix="make it readable for you") from problem
    if not found.photos:
        raise nothing_usable(root, found.skipped)
    return root, found


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


def _manifest(root: Path, photos: Sequence[Photo], modality: str) -> Dataset:
    classes = tuple(sorted({photo.label for photo in photos}))
    labels = {name: label for label, name in enumerate(classes)}
    items = tuple(Item(photo.id, photo.path, labels[photo.label], photo.given or "train") for photo in photos)
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
