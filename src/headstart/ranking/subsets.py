"""Take ever larger parts of the photos, each inside the next, so that what was computed for a small one counts on."""

from __future__ import annotations

import hashlib
from collections import Counter

from headstart.data.dataset import Dataset, Item

FIRST = 96  # photos that the first part has at least: fewer tell nothing apart
PER_CLASS = 8  # and so many for each class


def sizes(photos: int, classes: int) -> list[int]:
    """How many photos each part has: all of them, half of them, and so on, the smallest first."""
    found = [photos]
    while found[0] // 2 >= max(FIRST, PER_CLASS * classes):
        found.insert(0, found[0] // 2)
    return found


def ordered(photos: Dataset, seed: int) -> Dataset:
    """The same photos in such an order that the first n of them are a part with about the same share of each class.

    A family stays together: where it is cut, the part takes all of it (`first`).
    """
    labels: dict[str, int] = {}
    members: dict[str, list[Item]] = {}
    for item, family in zip(photos.items, photos.families, strict=True):
        labels[family] = min(item.label, labels.get(family, item.label))
        members.setdefault(family, []).append(item)
    counts = Counter(labels.values())
    seen: Counter[int] = Counter()
    places: dict[str, tuple[float, int]] = {}
    for family in sorted(labels, key=lambda family: _draw(seed, family)):
        label = labels[family]
        places[family] = (seen[label] / counts[label], label)  # each class has its first before any has its second half
        seen[label] += 1
    return photos.with_items(item for family in sorted(places, key=places.__getitem__) for item in members[family])


def first(photos: Dataset, size: int) -> Dataset:
    """The first `size` photos of an ordered data set, and the rest of the last one's family."""
    families = photos.families
    while size < len(families) and families[size] == families[size - 1]:
        size += 1
    return photos.with_items(photos.items[:size])


def _draw(seed: int, family: str) -> bytes:
    return hashlib.blake2b(f"part {seed} {family}".encode(), digest_size=8).digest()
