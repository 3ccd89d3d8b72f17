"""Find out what is wrong with labelled photos before anything is trained: everything that `headstart audit` tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import load_backbone
from headstart.choosing import Choices, Wanted
from headstart.data.crops import crops
from headstart.data.dataset import SPLITS, Dataset, Item
from headstart.data.duplicates import Pair
from headstart.data.findings import Conflict, Leak
from headstart.data.loading import Survey, survey
from headstart.data.looking import Looks
from headstart.data.matching import blank
from headstart.evaluation.metrics import wilson
from headstart.events import Event
from headstart.modalities.loading import load_modality
from headstart.modalities.look import grey
from headstart.store import Store

EXAMPLES = 5  # of each reason why files are skipped
USUAL = 0.9  # the accuracy that a class's interval is told for: what a good model has
WIDE = 0.25  # a 95 % interval of more tells little about a class: below 23 test photos
BLURRED = 1 / 8  # of the usual sharpness: of photos blurred by 5 of 224 pixels nine in ten fall below, by 3 four in ten
NOISE = (
    25  # grey levels squared that are no contrast: sharpness counts beside contrast, or else dark photos are blurred
)
DARK = 64  # grey level that 95 % of a dark photo's pixels stay below
BRIGHT = 224  # and that 95 % of a washed-out photo's stay above
SMALL = 64  # pixels of the shorter side: less than any backbone takes
LONG = 3.0  # times as long as the shorter side: cropping to a square loses two thirds
QUANTILES = {"least": 0, "5 %": 5, "median": 50, "95 %": 95, "most": 100}


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """How many photos a class has, and how well its test photos could judge it.

    `families`: what is left when photos that belong together count once. `interval`: width of the 95 % interval of the
    class's accuracy, were it 0.9; None without test photos. `few`: that is too wide to trust.
    """

    name: str
    photos: int
    splits: Mapping[str, int]
    families: int
    interval: float | None
    few: bool


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why some files are not used: how many, and the first of them."""

    reason: str
    files: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Two nearly equal photos, by path. `agreement` is 1 where nothing differs."""

    one: str
    other: str
    agreement: float
    mirrored: bool


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A photo that stands out, and the figure by which."""

    path: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What there is to know about labelled photos. Paths are relative to `data`; lists are complete and sorted.

    `refusal`: why training would refuse them. `equal`: paths of the same bytes. `families`: paths that stay on one
    side, by the name of the family. `sizes`: quantiles of width, height, pixels and aspect (longer over shorter side).
    `imbalance`: photos of the largest class for each of the smallest.
    """

    data: str
    photos: int
    user_splits: bool
    splits: Mapping[str, int]
    classes: tuple[ClassCount, ...]
    imbalance: float
    skipped: tuple[Reason, ...]
    skipped_files: Mapping[str, str]
    equal: tuple[tuple[str, ...], ...]
    families: Mapping[str, tuple[str, ...]]
    near_duplicates: tuple[Alike, ...]
    leaks: tuple[Leak, ...]
    conflicts: tuple[Conflict, ...]
    bridging: tuple[str, ...]
    sizes: Mapping[str, Mapping[str, float]]
    small: tuple[Outlier, ...]  # by the shorter side
    long: tuple[Outlier, ...]  # by aspect
    blurred: tuple[Outlier, ...]  # by sharpness over the usual one
    dark: tuple[Outlier, ...]  # by the grey level below which 95 % of the pixels are
    bright: tuple[Outlier, ...]  # by the one above which 95 % are
    blank: tuple[str, ...]
    notes: tuple[str, ...]
    refusal: str | None = None
    crops: tuple[Alike, ...] | None = None  # one probably shows a part of the other; None: nobody looked for them

    @property
    def few(self) -> tuple[str, ...]:
        """The classes whose test photos are too few to trust."""
        return tuple(each.name for each in self.classes if each.few)


def audit(
    data: Any,
    *,
    seed: int = 0,
    splits: str | PathLike[str] | None = None,
    columns: str | None = None,
    backbone: str | None = None,
    max_pixels: int | None = None,
) -> Generator[Event, None, Audit]:
    """Look at every photo and say what is wrong. With a `backbone`, also look for parts of photos, by its features.

    Raises:
        BadData: there is nothing that can be read.
        BadSetting: an option has a value that cannot be used.
        BadBackbone: there is none of this name.
        DiskFull: the cache has no room.
    """
    source = None if backbone is None else load_backbone(backbone)  # refused before any photo is looked at
    found = yield from survey(data, seed=seed, splits=splits, columns=columns, max_pixels=max_pixels, strict=False)
    if source is None:
        return told(found)
    return told(found, (yield from _crops(found, source, max_pixels)))


def _crops(found: Survey, backbone: Backbone, max_pixels: int | None) -> Generator[Event, None, list[Pair]]:
    """Pairs of which one shows a part of the other, and that are no near-duplicates."""
    network = backbone.build()
    network.to("auto")
    modality = load_modality("image", max_pixels=max_pixels)
    wanted = Wanted(
        dataset=found.dataset,
        backbone=backbone,
        network=network,
        cut=network.cuts[-1],
        modality=modality,
        store=Store.default(),
    )
    features = yield from Choices().features(wanted)
    known = {(pair.one, pair.other) for pair in found.pairs}
    pairs = crops(features.ids, features.take(features.ids), found.looks) if features.ids else []
    return [pair for pair in pairs if (pair.one, pair.other) not in known]


def told(found: Survey, parts: Iterable[Pair] | None = None) -> Audit:
    """The audit of what was found out, and of parts of photos where they were looked for."""
    dataset = found.dataset
    counts = _class_counts(dataset)
    sizes = [each.photos for each in counts if each.photos]
    first = _first_paths(dataset.items)
    return Audit(
        data=str(dataset.root),
        photos=len(dataset),
        user_splits=dataset.user_splits,
        splits={side: len(dataset.only(side)) for side in SPLITS},
        classes=counts,
        imbalance=round(max(sizes) / min(sizes), 3) if sizes else 1.0,
        skipped=_reasons(dataset),
        skipped_files={file.path: file.reason for file in dataset.skipped},
        equal=_several(dataset.items, [item.id for item in dataset.items]),
        families=_families(dataset),
        near_duplicates=_alike(found.pairs, first),
        leaks=found.leaks,
        conflicts=found.conflicts,
        bridging=found.bridging,
        notes=dataset.notes,
        crops=None if parts is None else _alike(parts, first),
        refusal=None if found.refusal is None else found.refusal.what,
        **_appearance(found.looks, first),
    )


def _class_counts(dataset: Dataset) -> tuple[ClassCount, ...]:
    splits: dict[int, Counter[str]] = {label: Counter() for label in range(len(dataset.classes))}
    families: dict[int, set[str]] = {label: set() for label in range(len(dataset.classes))}
    for item, family in zip(dataset.items, dataset.families, strict=True):
        splits[item.label][item.split] += 1
        families[item.label].add(family)
    return tuple(
        _class_count(name, {side: splits[label][side] for side in SPLITS}, len(families[label]))
        for label, name in enumerate(dataset.classes)
    )


def _class_count(name: str, splits: Mapping[str, int], families: int) -> ClassCount:
    test, width = splits["test"], None
    if test:
        low, high = wilson(round(USUAL * test), test)
        width = round(high - low, 4)
    return ClassCount(
        name=name,
        photos=sum(splits.values()),
        splits=splits,
        families=families,
        interval=width,
        few=width is None or width > WIDE,
    )


def _reasons(dataset: Dataset) -> tuple[Reason, ...]:
    files: dict[str, list[str]] = {}
    for file in dataset.skipped:
        files.setdefault(file.reason, []).append(file.path)
    return tuple(
        Reason(reason=reason, files=len(paths), examples=tuple(paths[:EXAMPLES]))
        for reason, paths in sorted(files.items(), key=lambda each: (-len(each[1]), each[0]))
    )


def _families(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    members: dict[str, list[str]] = {}
    for item in dataset.items:
        if item.group:
            members.setdefault(item.group, []).append(item.path)
    return {name: tuple(sorted(members[name])) for name in sorted(members)}


def _several(items: Iterable[Item], keys: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    paths: dict[str, list[str]] = {}
    for item, key in zip(items, keys, strict=True):
        paths.setdefault(key, []).append(item.path)
    return tuple(sorted(tuple(sorted(same)) for same in paths.values() if len(same) > 1))


def _alike(pairs: Iterable[Pair], first: Mapping[str, str]) -> tuple[Alike, ...]:
    found = []
    for pair in pairs:
        if pair.one in first and pair.other in first:
            one, other = sorted((first[pair.one], first[pair.other]))
            found.append(Alike(one=one, other=other, agreement=pair.agreement, mirrored=pair.mirrored))
    return tuple(sorted(found, key=lambda each: (each.one, each.other)))


def _first_paths(items: Iterable[Item]) -> dict[str, str]:
    first: dict[str, str] = {}
    for item in items:
        first.setdefault(item.id, item.path)
    return first


def _appearance(looks: Looks, first: Mapping[str, str]) -> dict[str, Any]:
    """What sizes, sharpness and light say; each content counts once."""
    kept = np.array([id in first for id in looks.ids], bool)
    paths = [first[id] for id in looks.ids if id in first]
    width, height, _, sharpness = looks.facts()[kept].T.astype(np.float64)
    high, low, contrast, empty = (part[kept] for part in _light(looks))
    shorter, aspect = np.minimum(width, height), np.maximum(width, height) / np.maximum(1, np.minimum(width, height))
    sharpness = sharpness / (contrast + NOISE)
    usual = float(np.median(sharpness)) if len(sharpness) else 0.0
    share = sharpness / usual if usual else np.ones_like(sharpness)
    figures = {"width": width, "height": height, "pixels": width * height, "aspect": aspect}
    return {
        "sizes": {name: _quantiles(values) for name, values in figures.items()},
        "small": _outliers(paths, shorter, shorter < SMALL),
        "long": _outliers(paths, aspect, aspect > LONG, largest=True),
        "blurred": _outliers(paths, share, (share < BLURRED) & ~empty),
        "dark": _outliers(paths, high, (high < DARK) & ~empty),
        "bright": _outliers(paths, low, (low > BRIGHT) & ~empty, largest=True),
        "blank": tuple(sorted(path for path, flat in zip(paths, empty, strict=True) if flat)),
    }


def _light(looks: Looks) -> tuple[Any, Any, Any, Any]:
    """The grey level that 95 % of a photo's pixels stay below, the one above, their variance, and which are blank."""
    parts: list[tuple[Any, ...]] = [(np.empty(0), np.empty(0), np.empty(0), np.empty(0, bool))]
    for rows in looks.blocks():
        pictures = grey(rows)
        flat = pictures[:, ::2, ::2].reshape(len(pictures), -1)  # a quarter of the pixels says as much
        edge = flat.shape[1] // 20
        sorted_ = np.partition(flat, (edge, flat.shape[1] - edge - 1), axis=1)
        parts.append((sorted_[:, -edge - 1], sorted_[:, edge], flat.var(axis=1), blank(pictures)))
    high, low, contrast, empty = (np.concatenate(each) for each in zip(*parts, strict=True))
    return high, low, contrast, empty


def _quantiles(values: Float[np.ndarray, "n"]) -> dict[str, float]:
    if not len(values):
        return {}
    return {name: round(float(np.percentile(values, share)), 3) for name, share in QUANTILES.items()}


def _outliers(
    paths: Sequence[str], values: Float[np.ndarray, "n"], chosen: Bool[np.ndarray, "n"], *, largest: bool = False
) -> tuple[Outlier, ...]:
    """The chosen photos, the worst first."""
    found = [
        Outlier(path=paths[place], value=round(float(values[place]), 4)) for place in np.flatnonzero(chosen).tolist()
    ]
    return tuple(sorted(found, key=lambda each: (-each.value if largest else each.value, each.path)))
