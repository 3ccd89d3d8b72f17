"""Decide what a run will do, before anything moves: the stages and every number in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

from headstart.config import Settings, adapter_rank
from headstart.errors import BadSetting
from headstart.heads import Head, parse
from headstart.networks.network import Group, Optimization
from headstart.training.stages import Stage

SHARE = 0.375  # of a forward pass, that the groups tuned by default take: more would not be a matter of minutes
_VIEWS = (("plain",), ("flip",), ("plain", "flip"), ("flip", "plain"))
FEW = 20  # validation photos below which they cannot tell a better model from a luckier one


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A list of stages with all settings resolved; written into the run before training starts.

    `probe` is true where the head is a single dense layer: it is solved exactly, and the stages start from it.
    """

    head: Head
    probe: bool
    stages: tuple[Stage, ...]
    optimization: Optimization
    views: tuple[str, ...] = ("plain",)  # test-time views whose probabilities are averaged
    temperature: float = 1.0  # the finished model's logits are divided by it; fitted on photos it has not seen
    prior: tuple[float, ...] = ()  # share of each class in what the model learnt from, weights counted; of old runs: ()

    def to_tables(self) -> dict[str, Any]:
        """Plain tables, as in `config.toml`; what is `None` is left out."""
        return {
            "head": str(self.head),
            "probe": self.probe,
            "views": list(self.views),
            "temperature": self.temperature,
            **({"prior": list(self.prior)} if self.prior else {}),
            "optimization": {**asdict(self.optimization), "betas": list(self.optimization.betas)},
            "stages": [{key: v for key, v in asdict(stage).items() if v is not None} for stage in self.stages],
        }

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_tables` wrote.

        Raises:
            ValueError, KeyError, TypeError: nobody wrote it so.
        """
        if not (math.isfinite(tables["temperature"]) and tables["temperature"] > 0):
            raise ValueError(f"temperature {tables['temperature']}")
        if tuple(tables["views"]) not in _VIEWS:
            raise ValueError(f"views {tables['views']!r}"[:100])
        optimization = {**tables["optimization"], "betas": tuple(tables["optimization"]["betas"])}
        return cls(
            head=parse(tables["head"]),
            probe=tables["probe"],
            stages=tuple(Stage(**stage) for stage in tables["stages"]),
            optimization=Optimization(**optimization),
            views=tuple(tables["views"]),
            temperature=tables["temperature"],
            prior=tuple(tables.get("prior", ())),
        )


def plan(settings: Settings, *, validation: int, groups: Sequence[Group], gpu: bool) -> Recipe:
    """The recipe for these settings and this many photos; pure, so that it can be printed before anything moves.

    Args:
        settings: what the user asked for.
        validation: photos to choose on.
        groups: groups of the backbone, from input to output.
        gpu: whether a GPU will do the work, where mixed precision pays.
    """
    if settings.adapt and settings.from_scratch:
        raise BadSetting("adapters are added to weights that have learnt something", fix="leave adapt or weights out")
    head = parse(settings.head)
    if settings.from_scratch:
        return _from_scratch(settings, head, len(groups), gpu=gpu)
    stages: list[Stage] = []
    if not head.linear:
        stages.append(_head_stage(settings))
    if settings.unfreeze is not None or (settings.quality != "fast" and validation >= FEW):
        stages += _tuning(settings, groups)
    return Recipe(
        head=head,
        probe=head.linear,
        stages=tuple(stage for stage in stages if stage.epochs),
        optimization=Optimization(
            weight_decay=0.01,
            label_smoothing=0.1 if stages else 0.0,
            average=0.98 if stages else 0.0,
            precision="bf16" if gpu else "fp32",
        ),
        views=("plain", "flip") if settings.quality == "best" else ("plain",),
    )


def _from_scratch(settings: Settings, head: Head, groups: int, *, gpu: bool) -> Recipe:
    """All layers together from random weights, their normalisation learning its statistics from the batches."""
    stage = Stage(
        name="scratch",
        epochs=settings.epochs or {"fast": 10, "balanced": 30, "best": 90}[settings.quality],
        lr=1e-3 if settings.lr is None else settings.lr,
        unfreeze=groups if settings.unfreeze is None else settings.unfreeze,
        decay=1.0,
        batch_size=settings.batch_size or 32,
    )
    return Recipe(
        head=head,
        probe=False,  # what the exact head says about random features is no place to start from
        stages=(stage,),
        # No average: the statistics go with the weights of the moment.
        optimization=Optimization(
            weight_decay=0.05, label_smoothing=0.1, precision="bf16" if gpu else "fp32", statistics="batch"
        ),
    )


def _head_stage(settings: Settings) -> Stage:
    tuned = settings.unfreeze not in (None, 0) or settings.quality != "fast"
    return Stage(
        name="head",
        epochs=settings.epochs if settings.epochs is not None and not tuned else 30,
        lr=settings.lr if settings.lr is not None and not tuned else 1e-3,
        batch_size=settings.batch_size or 32,
        augment=False,
        patience=5,
    )


def worth_tuning(groups: Sequence[Group]) -> int:
    """How many of the last groups to tune: as many as hold no more than `SHARE` of the FLOPs together, at least one."""
    total = sum(group.flops for group in groups)
    held = accumulate(group.flops for group in reversed(groups))
    return max(1, sum(flops <= SHARE * total for flops in held))


def _tuning(settings: Settings, groups: Sequence[Group]) -> list[Stage]:
    """The last groups from cached views; for `best` then all of them, more slowly, from views that are always fresh.

    Rates, epochs and views are those that did best on five sets of photos: see docs/decisions/0006-recipe.md.
    """
    everything = settings.quality == "best" and settings.unfreeze is None
    unfreeze = worth_tuning(groups) if settings.unfreeze is None else settings.unfreeze
    epochs = 6 if settings.epochs is None else settings.epochs
    lr = 1e-3 if settings.lr is None else settings.lr
    size = settings.batch_size or 32
    lora = adapter_rank(settings.adapt)
    last = Stage(name="tune", epochs=epochs, lr=lr, unfreeze=unfreeze, batch_size=size, views=4)
    rest = Stage(name="tune-all", epochs=epochs, lr=0.3 * lr, unfreeze=len(groups), decay=0.7, batch_size=size)
    if lora:
        # An adapter begins at nothing wherever it sits: none has learnt anything yet that a low rate would keep.
        last, rest = replace(last, lora=lora, decay=1.0), replace(rest, lora=lora, decay=1.0)
    return [*([last] if unfreeze else []), *([rest] if everything else [])]
