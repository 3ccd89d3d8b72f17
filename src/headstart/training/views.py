"""Choose how many views of each photo are kept at the freeze boundary: by what they bring, and what they take."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.store import readable

FEWEST = 2  # with one, every epoch would see the same pictures: then fresh ones each time are worth what they cost
CHEAP = 0.1  # of the time that the steps take, that views beyond those asked for may cost


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stage works on, and what its parts take: in seconds, or in FLOPs where only their ratio matters."""

    photos: int
    judged: int  # validation photos, of which one view is kept
    sights: int  # pictures that an epoch sees: `photos`, or more where some weigh as much as several
    epochs: int
    frozen: float  # one photo up to the boundary
    live: float  # one photo's part of a step from the boundary on
    bytes: int  # of one photo at the boundary

    def room(self, views: int) -> int:
        """Bytes that so many views take."""
        return self.bytes * (views * self.photos + self.judged) if views else 0

    def work(self, views: int) -> float:
        """What the stage takes in all, without judging; without views every epoch computes the frozen part too."""
        steps = self.epochs * self.sights * self.live
        return steps + self.frozen * (views * self.photos + self.judged if views else self.epochs * self.sights)


@dataclass(frozen=True)
class Views:
    """So many views, what they take on disk, and why as many."""

    count: int
    bytes: int
    reason: str


def choose(cost: Cost, *, wanted: int, room: int, seconds: float | None = None) -> Views:
    """How many views to keep of each photo, where `wanted` are enough for quality.

    More where they cost next to nothing; never more than there are epochs. Fewer where the disk or the time limit
    does not have the room, but not one alone: then none, and every epoch draws fresh views and computes the frozen
    part for itself.

    Args:
        cost: of the stage; in seconds where `seconds` is given.
        wanted: views that quality asks for; 0 keeps none.
        room: bytes that the cache may take.
        seconds: that the stage may take.
    """
    wanted = min(wanted, cost.epochs)
    count, why = _as_many_as_pay(cost, wanted, room)
    fewest = min(FEWEST, wanted)
    if seconds is not None and cost.work(count) > seconds:
        quick = [fewer for fewer in range(fewest, count) if cost.work(fewer) <= seconds]
        count, why = max(quick, default=fewest), f"; {count} would take longer than the time limit allows"
    if cost.room(count) > room:
        smaller = [fewer for fewer in range(fewest, count) if cost.room(fewer) <= room]
        why = f"; {count} would take {readable(cost.room(count))}, and there is room for {readable(room)}"
        count = max(smaller, default=0)
    if count == 0:
        return Views(0, 0, f"no activations are kept{why}: every epoch computes the frozen part anew")
    views = f"{count} views" if count > 1 else "one view"
    return Views(count, cost.room(count), f"activations of {views}: {readable(cost.room(count))} in the cache{why}")


def _as_many_as_pay(cost: Cost, wanted: int, room: int) -> tuple[int, str]:
    """The views wanted, or more where computing them costs little beside the steps, and room is plenty."""
    steps = cost.epochs * cost.sights * cost.live
    for more in range(cost.epochs, wanted, -1) if wanted else ():
        if (more - wanted) * cost.photos * cost.frozen <= CHEAP * steps and cost.room(more) <= room / 2:
            return more, f"; more than {wanted}, since the frozen part costs little beside the steps"
    return wanted, ""
