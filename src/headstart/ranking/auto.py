"""Choose the backbone of a training by ranking those that are here: `--backbone auto`."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from dataclasses import replace

from headstart.config import Settings
from headstart.errors import BadSetting
from headstart.events import Decision, Event
from headstart.preparing import folder_for, surveyed
from headstart.ranking.candidates import ready
from headstart.ranking.halving import race
from headstart.runs import check_new

AUTO = "auto"
SHARE = 0.25  # of a time limit that choosing may take: tuning gains more from the rest
_OF_ONE = ("weights", "cut", "factory", "allow_code")  # settings that belong to one backbone


def settled(settings: Settings, began: float) -> Generator[Event, None, tuple[Settings, Decision | None]]:
    """The settings with the name of a backbone where they say auto, and the decision that a run then keeps.

    Only what is on this machine is a candidate; nothing is downloaded. `began`: when the command did.

    Raises:
        BadSetting: a setting belongs to one backbone, or several processes train together.
        HeadstartError: the data cannot be used, the run folder cannot be made, or there is no backbone.
    """
    if settings.backbone != AUTO:
        return settings, None
    _check(settings)
    check_new(folder_for(settings))
    candidates = yield from ready((), settings, others=True)
    if len(candidates) == 1:
        only = candidates[0].backbone.name
        choice = Decision(name="backbone", value=only, reason="the only one whose weights are on this machine")
        yield choice
        return replace(settings, backbone=only), choice
    dataset = yield from surveyed(settings)
    limit = None if settings.time_limit is None else time.monotonic() - began + SHARE * settings.time_limit
    ranking = yield from race(dataset, candidates, settings, began=began, limit=limit)
    by = f"cross-validated on {ranking.judged} training photos"
    choice = Decision(name="backbone", value=ranking.best, reason=f"{ranking.verdict}; {by}")
    yield choice
    return replace(settings, backbone=ranking.best), choice


def _check(settings: Settings) -> None:
    for name in _OF_ONE:
        if getattr(settings, name) not in (None, False):
            option = name.replace("_", "-")
            raise BadSetting(
                f"backbone auto chooses among several, but {name.replace('_', ' ')} belongs to one",
                fix=f"name the backbone, or leave --{option} out; headstart rank takes weights as NAME=FILE",
            )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadSetting(
            "backbone auto is chosen by one process, and several train together here",
            fix="choose it beforehand with headstart rank, then name it",
        )
