"""Gather photos that belong on one side: near-duplicates, and what shares a group, into families with a name each.

- A family is what links connect: a pair of near-duplicates, a group in common, equal bytes.
- Links chain: a film, or one shot from every side, could make one family of everything. So near-duplicates that connect
  more than `MOST` photos, and more than `SHARE` of all, are linked by ever closer pairs only (`CLOSER`) until they no
  longer do; what still hangs together then is one thing indeed. Groups are the user's word and never taken apart.
- A family with a group has the name of the group (the first by alphabet). Any other has the id of its eldest: the
  photo of most pixels, then most bytes, since what is added later is mostly a smaller copy; then the lowest id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

MOST = 50
SHARE = 0.05
CLOSER = (0.97, 0.985, 0.995)


class Likeness(Protocol):
    """A pair of near-duplicates, as `duplicates.Pair` is one."""

    @property
    def one(self) -> str:
        """The id of a photo."""

    @property
    def other(self) -> str:
        """The id of another."""

    @property
    def agreement(self) -> float:
        """How nearly they are the same, up to 1."""


class Links:
    """What is connected, as links come in."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}
        self._sizes: dict[str, int] = {}

    def root(self, name: str) -> str:
        """One member that stands for all that are connected with this one."""
        top = name
        while (above := self._above.get(top, top)) != top:
            top = above
        while name != top:
            self._above[name], name = top, self._above[name]
        return top

    def join(self, one: str, other: str) -> None:
        """Connect these two."""
        first, second = self.root(one), self.root(other)
        if first != second:
            if self._size(first) < self._size(second):
                first, second = second, first
            self._sizes[first] = self._size(first) + self._size(second)
            self._above[second] = first
            self._above.setdefault(first, first)

    def crowded(self, one: str, other: str, most: int) -> bool:
        """Whether these are connected, with more than so many others."""
        return self.root(one) == self.root(other) and self._size(self.root(one)) > most

    def families(self) -> list[list[str]]:
        """All that are connected with another, each family and all of them sorted."""
        members: dict[str, list[str]] = {}
        for name in self._above:
            members.setdefault(self.root(name), []).append(name)
        return sorted(sorted(family) for family in members.values())

    def _size(self, root: str) -> int:
        return self._sizes.get(root, 1)


def families(
    groups: Mapping[str, Iterable[str]], pairs: Sequence[Likeness], ages: Mapping[str, tuple[float, float]]
) -> dict[str, str]:
    """The family of each photo that has one, by id.

    Args:
        groups: the user's groups of each id; none for most.
        pairs: near-duplicates.
        ages: pixels and bytes of each id.
    """
    links = Links()
    for pair in _without_giants(pairs, max(MOST, SHARE * len(ages))):
        links.join(_photo(pair.one), _photo(pair.other))
    for id, names in groups.items():
        for name in names:
            links.join(_photo(id), _group(name))
    found: dict[str, str] = {}
    for members in links.families():
        ids = [name[1:] for name in members if name == _photo(name[1:])]
        names = sorted(name[1:] for name in members if name == _group(name[1:]))
        family = names[0] if names else eldest(ids, ages)
        found |= dict.fromkeys(ids, family)
    return found


def eldest(ids: Iterable[str], ages: Mapping[str, tuple[float, float]]) -> str:
    """The photo of most pixels, then most bytes, then lowest id."""
    return min(ids, key=lambda id: (*(-each for each in ages.get(id, (0, 0))), id))


def _photo(id: str) -> str:
    return f"p{id}"


def _group(name: str) -> str:
    return f"g{name}"


def _without_giants(pairs: Sequence[Likeness], most: float) -> list[Likeness]:
    """The pairs that link, by the rule at the top."""
    kept: list[Likeness] = []
    left = list(pairs)
    for least in (*CLOSER, 2.0):
        links = Links()
        for pair in left:
            links.join(pair.one, pair.other)
        giants = {links.root(family[0]) for family in links.families() if len(family) > most}
        kept += [pair for pair in left if links.root(pair.one) not in giants]
        left = [pair for pair in left if links.root(pair.one) in giants]
        if least > 1:
            kept += left
        left = [pair for pair in left if pair.agreement >= least]
    return kept
