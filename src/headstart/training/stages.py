"""Say which groups move in a phase of training, for how long and how fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headstart.errors import BadSetting
from headstart.networks.network import HEAD, Group, StepPrecision


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One phase of training: which groups move, for how long, how fast."""

    epochs: int
    lr: float  # of the head
    unfreeze: int = 0  # how many of the backbone's last groups train; 0 is the head alone
    body: float = 1.0  # rate of the last group as a share of the head's
    lora: int = 0  # the rank of adapters through which groups train; 0: their own weights move
    decay: float = 0.5  # each deeper group is slowed by this once more
    batch_size: int = 32
    warmup: float = 0.1  # share of the steps in which the rates rise from 0
    schedule: Literal["cosine", "constant"] = "cosine"  # constant: one rate from the first step to the last
    augment: bool = True
    # Random views of each photo whose features are kept at the freeze boundary, for the epochs to take in turn; the
    # stage then costs what it trains. 0 keeps none: every epoch draws fresh views and pays for the frozen part too.
    views: int = 0
    precision: StepPrecision | None = None  # what its steps compute in; None: as the recipe says
    patience: int | None = None  # epochs without a better validation loss before the stage ends; None: never
    name: str = ""

    def __str__(self) -> str:
        return self.name or (f"unfreeze-{self.unfreeze}" if self.unfreeze else "head")


def learning_rates(stage: Stage, groups: Sequence[Group]) -> dict[str, float]:
    """The rate of every group that moves: the head's, then slower and slower towards the input.

    Raises:
        BadSetting: the stage unfreezes more groups than there are.
    """
    if not 0 <= stage.unfreeze <= len(groups):
        raise BadSetting(
            f"stage {stage} unfreezes {stage.unfreeze} groups, but the backbone has {len(groups)}",
            fix=f"use a number from 0 to {len(groups)}",
        )
    live = list(reversed(groups))[: stage.unfreeze]
    return {HEAD: stage.lr} | {
        group.name: stage.lr * stage.body * stage.decay**depth for depth, group in enumerate(live)
    }


def schedule(stage: Stage, step: int, steps: int) -> float:
    """The factor on all rates at this step of a stage: a straight rise, then half a cosine down to 0; or always 1."""
    if stage.schedule == "constant":
        return 1.0
    rise = max(1, round(stage.warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
