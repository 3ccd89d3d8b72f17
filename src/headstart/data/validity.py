"""Refuse a data set that nothing can be learnt from, or that could not be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from headstart.data.dataset import Dataset, Skipped, Split
from headstart.data.folder import OUTSIDE
from headstart.errors import BadData, first_five
from headstart.registry import closest

LAYOUT = "give a folder that holds one folder of photos for each class"


def check(dataset: Dataset) -> None:
    """Nothing, if there are two classes, each of two different photos, each with what it needs to learn and judge.

    Raises:
        BadData: with the first five classes that are in the way.
    """
    if len(dataset.classes) < 2:
        raise BadData(
            f"{str(dataset.root)!r} holds the class {dataset.classes[0]!r} alone: there is nothing to tell apart",
            fix=_inner(dataset) or LAYOUT,
        )
    if broken := [repr(name) for name in dataset.classes if name.splitlines() != [name]]:
        raise BadData(
            f"class names must be one line of text, but {first_five(broken)} break it", fix="rename their folders"
        )
    photos = _different(dataset)
    few = [f"{name!r} ({len(photos[name])})" for name in dataset.classes if len(photos[name]) < 2]
    if few:
        raise BadData(
            f"too few different photos to learn from and to judge by in class {first_five(few)}",
            fix="give each class two photos at least, better twenty, or leave it out",
        )
    _refuse_without("train", dataset)
    if not dataset.user_splits:
        _refuse_without("test", dataset)
    if dataset.user_splits and not len(dataset.test):
        raise BadData("the splits leave no test photo", fix="list or add test photos, or let headstart choose them")
    if not len(dataset.test):
        raise BadData(
            "in each class all photos are near-duplicates or one group: nothing is left to test on",
            fix="add other photos; headstart audit lists which are alike",
        )


def nothing_usable(root: Path, skipped: Sequence[Skipped]) -> BadData:
    """The error for a folder in which not one photo can be used, after what was in it."""
    if not skipped:
        return BadData(f"folder {str(root)!r} is empty", fix=LAYOUT)
    outside = [file for file in skipped if file.reason == OUTSIDE]
    if len(outside) == len(skipped):
        return BadData(f"folder {str(root)!r} holds files ({len(outside)}), but no class folders", fix=LAYOUT)
    problems = first_five([f"{file.path!r} ({file.reason})" for file in skipped])
    return BadData(
        f"no readable photo in {str(root)!r}: {problems}", fix="give photos as JPEG, PNG, WebP, GIF, BMP or TIFF"
    )


def _different(dataset: Dataset) -> Mapping[str, set[str]]:
    photos: dict[str, set[str]] = {name: set() for name in dataset.classes}
    for item in dataset.items:
        photos[dataset.classes[item.label]].add(item.id)
    return photos


def _of_one_family(dataset: Dataset) -> set[str]:
    families: dict[str, set[str]] = {}
    for item, family in zip(dataset.items, dataset.families, strict=True):
        families.setdefault(dataset.classes[item.label], set()).add(family)
    return {name for name, several in families.items() if len(several) == 1}


def _refuse_without(side: Split, dataset: Dataset) -> None:
    """A class of which equal photos lie in other classes, or one that the user's splits forget, may have none."""
    having = {dataset.classes[item.label] for item in dataset.items if item.split == side}
    one = _of_one_family(dataset) if side == "test" else set()  # which trains, and is told: see `findings.sentences`
    lacking = [name for name in dataset.classes if name not in having and name not in one]
    if lacking:
        near = closest(lacking[0], sorted(having)) if dataset.user_splits else ""
        raise BadData(
            f"no {side} photo in class {first_five([repr(name) for name in lacking])}",
            fix=near or f"add a {side} photo to each class, one that no other class holds, or remove the class",
        )


def _inner(dataset: Dataset) -> str:
    """The hint for a folder that was put around the one that holds the classes, as unpacking often does."""
    inner = {tuple(item.path.split("/")[1:-1])[:1] for item in dataset.items}
    return f"did you mean {str(dataset.root / dataset.classes[0])!r}?" if len(inner) > 1 and () not in inner else ""
