"""Put neighbouring layers together until there are few enough groups to thaw one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST = 16  # groups of one network


def few(names: Sequence[str], *, most: int = MOST) -> Mapping[str, str]:
    """The group of each of these layers, given in order: itself, or `block_2-3` where there are more than `most`.

    The first stays alone: it is the stem, and the others are blocks of one kind.
    """
    stem, blocks = list(names[:1]), list(names[1:])
    together = -(-len(blocks) // (most - 1)) if len(names) > most else 1
    runs = [blocks[start : start + together] for start in range(0, len(blocks), together)]
    return {name: _span(run) for run in (stem, *runs) for name in run}


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1].rpartition('_')[2]}"
