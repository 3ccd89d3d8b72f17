"""Say what near-duplicates and groups do to a data set: leaks between splits, two labels, classes without a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headstart.data.dataset import Dataset, Item, Split
from headstart.data.duplicates import Pair
from headstart.errors import first_five

LINES = 3  # that a run says of all this; `headstart audit` has everything


@dataclass(frozen=True, slots=True)
class Leak:
    """Two photos that belong together and stand on two sides, so that the judged one flatters."""

    one: str  # path
    one_split: Split
    other: str
    other_split: Split
    why: str  # "near-duplicates", or the group that both belong to


@dataclass(frozen=True, slots=True)
class Conflict:
    """The same picture with two labels. `equal`: to the byte."""

    one: str  # path
    one_class: str
    other: str
    other_class: str
    equal: bool


def leaks(dataset: Dataset, pairs: Iterable[Pair], groups: Mapping[str, Sequence[str]]) -> list[Leak]:
    """Near-duplicates on two sides, and for each of the user's groups (id -> names) that is, an example a side."""
    items = _first(dataset.items)
    found = [
        Leak(one.path, one.split, other.path, other.split, "near-duplicates")
        for one, other in _both(items, pairs)
        if one.split != other.split
    ]
    examples: dict[str, dict[Split, Item]] = {}
    for item in dataset.items:
        for name in groups.get(item.id, ()):
            examples.setdefault(name, {}).setdefault(item.split, item)
    for name, sides in sorted(examples.items()):
        first, *others = sides.values()
        found += [Leak(first.path, first.split, each.path, each.split, f"group {name!r}") for each in others]
    return found


def conflicts(dataset: Dataset, pairs: Iterable[Pair]) -> list[Conflict]:
    """Equal and nearly equal photos in different classes."""
    first: dict[str, Item] = {}
    equal = [
        _conflict(dataset, other, item, equal=True)
        for item in dataset.items
        if (other := first.setdefault(item.id, item)).label != item.label
    ]
    near = [
        _conflict(dataset, one, other, equal=False) for one, other in _both(first, pairs) if one.label != other.label
    ]
    return equal + near


def untested(dataset: Dataset) -> list[str]:
    """Classes without a test photo because all their photos are one family, which trains."""
    families: dict[int, set[str]] = {}
    for item, family in zip(dataset.items, dataset.families, strict=True):
        families.setdefault(item.label, set()).add(family)
    tested = {item.label for item in dataset.test.items}
    return [dataset.classes[label] for label in sorted(families) if label not in tested and len(families[label]) == 1]


def sentences(
    dataset: Dataset,
    pairs: Sequence[Pair],
    leaking: Sequence[Leak],
    doubtful: Sequence[Conflict],
    bridging: Sequence[str],
) -> list[str]:
    """What matters of it, in a few lines, the gravest first."""
    lines = []
    if leaking:
        examples = [f"{leak.one!r} ({leak.one_split}) and {leak.other!r} ({leak.other_split})" for leak in leaking]
        what = "the splits that you gave are kept, but they leak" if dataset.user_splits else "splits leak"
        lines.append(
            f"{what}: {len(leaking)} pairs of near-duplicates or of a group on two sides: {first_five(examples)}"
        )
    if bridging:
        lines.append(
            f"near-duplicates of photos on different sides, which go to train: {first_five(list(map(repr, bridging)))}"
        )
    if lacking := [] if dataset.user_splits else untested(dataset):
        shown = first_five(list(map(repr, lacking)))
        lines.append(f"no test photo in {shown}: all photos there are near-duplicates or one group, and train")
    near = [case for case in doubtful if not case.equal]
    if near:
        lines.append(
            "near-duplicates in different classes: " + first_five([f"{c.one!r} and {c.other!r}" for c in near])
        )
    if pairs and not leaking:
        lines.append(_alike(pairs))
    return lines[:LINES]


def _alike(pairs: Sequence[Pair]) -> str:
    photos = {id for pair in pairs for id in (pair.one, pair.other)}
    return f"{len(photos)} photos are near-duplicates of others: they stay on one side (headstart audit lists them)"


def _first(items: Iterable[Item]) -> dict[str, Item]:
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item.id, item)
    return first


def _both(items: Mapping[str, Item], pairs: Iterable[Pair]) -> list[tuple[Item, Item]]:
    return [(items[pair.one], items[pair.other]) for pair in pairs if pair.one in items and pair.other in items]


def _conflict(dataset: Dataset, one: Item, other: Item, *, equal: bool) -> Conflict:
    return Conflict(one.path, dataset.classes[one.label], other.path, dataset.classes[other.label], equal)
