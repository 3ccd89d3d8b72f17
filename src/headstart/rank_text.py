"""Write down a ranking for people: a table of backbones, the best first, then which to take."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from headstart.aligned import columns

if TYPE_CHECKING:
    from headstart.ranking.result import Ranked, Ranking, Untried

HEADER = ("backbone", "accuracy", "95 % interval", "to the best", "photos", "ms a photo", "MB", "to tune", "standing")


def rank_text(ranking: Ranking) -> str:
    """A line for each backbone, the verdict, and the command that goes on from here."""
    rows = [HEADER, *map(_row, ranking.ranked)]
    lines = [columns(rows), "", ranking.verdict]
    lines += [_untried(each) for each in ranking.untried]
    if ranking.stopped:
        lines.append(f"judged by {ranking.judged} of {ranking.photos} photos: {ranking.stopped}")
    lines.append(
        f"accuracy: of a linear head on the frozen backbone, cross-validated on training photos alone; "
        f"their features are kept for train. {ranking.seconds:.0f} s"
    )
    return "\n".join([*lines, f"next: {_next(ranking)}"])


def _row(each: Ranked) -> tuple[str, ...]:
    low, high = each.interval
    behind_low, behind_high = each.difference_interval
    compared = "" if each.standing == "best" else f"{each.difference:+.3f} ({behind_low:+.3f} to {behind_high:+.3f})"
    return (
        each.backbone,
        f"{each.accuracy:.3f}",
        f"{low:.3f} to {high:.3f}",
        compared,
        f"{each.photos}",
        f"{'' if each.timed else 'about '}{each.milliseconds:.1f}",
        f"{each.megabytes:.0f}",
        f"{each.tune_minutes:.1f} min",
        each.standing,
    )


def _untried(each: Untried) -> str:
    if each.seconds is None:
        return f"{each.backbone}: not tried, the time limit had no room for it"
    return f"{each.backbone}: not tried; its first {each.photos} photos would take about {each.seconds:.0f} s"


def _next(ranking: Ranking) -> str:
    best = ranking.ranked[0]
    weights = ["--weights", best.weights] if best.weights else []
    seed = ["--seed", str(ranking.seed)] if ranking.seed else []
    return shlex.join(["headstart", "train", ranking.data, "--backbone", best.backbone, *weights, *seed])
