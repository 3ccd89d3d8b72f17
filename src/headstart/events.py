"""What happens while a run goes on, as values: shown on the screen, written to the run, read by tests."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, get_args


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """So much of a long piece of work is done. Shown, never stored."""

    kind: ClassVar[str] = "progress"
    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The run folder is there: from here on an interrupted run can be resumed. Shown, never stored."""

    kind: ClassVar[str] = "run_started"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a user should read once."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A choice that hangs on a clock or on the machine; a resumed run reads it instead of choosing again."""

    kind: ClassVar[str] = "decision"
    name: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnded:
    """A part of the run is complete, after so many seconds since the run's manifest was finished."""

    kind: ClassVar[str] = "phase"
    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """An accuracy in [0, 1] with its 95 % interval, measured on photos that the scored head has not seen."""

    kind: ClassVar[str] = "accuracy"
    name: str  # "first", "probe", "tuned", "test"
    value: float
    interval: tuple[float, float]
    n: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage begins; the rate of every group that moves."""

    kind: ClassVar[str] = "stage_started"
    stage: str
    rates: dict[str, float]
    epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """One update was made. Shown, never stored."""

    kind: ClassVar[str] = "step"
    stage: str
    epoch: int
    step: int
    steps: int
    epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnded:
    """One pass over the training photos, and what it brought."""

    kind: ClassVar[str] = "epoch"
    stage: str
    epoch: int  # from 1
    epochs: int
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)  # the user's own, on validation photos


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnded:
    """A stage is over: after all its epochs, or earlier, and why."""

    kind: ClassVar[str] = "stage_ended"
    stage: str
    epochs: int
    best: int  # the epoch whose weights are kept; 0 are those from before the stage
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What the run will do and take, told before the work begins; `changes` are what a limit leaves out, and why."""

    kind: ClassVar[str] = "planned"
    phases: list[dict[str, Any]]  # name, seconds, work, gflop, bytes, done
    seconds: float
    limit: float | None = None
    changes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How long the run has taken, and what the plan had said."""

    kind: ClassVar[str] = "compared"
    predicted: float
    actual: float


Stored = Note | Decision | PhaseEnded | Accuracy | StageStarted | EpochEnded | StageEnded | Planned | Compared
Event = Progress | RunStarted | Stepped | Stored
STORED: tuple[type[Any], ...] = get_args(Stored)
_BY_KIND: dict[str, type[Any]] = {event.kind: event for event in STORED}


def to_json(event: Event) -> dict[str, Any]:
    """A plain dictionary, with `event` telling the kind."""
    return {"event": event.kind, **asdict(event)}


def from_json(row: dict[str, Any]) -> Event:
    """The event that `to_json` wrote."""
    kind = _BY_KIND[row["event"]]
    values = {field.name: row[field.name] for field in fields(kind)}
    if "interval" in values:
        values["interval"] = tuple(values["interval"])
    event: Event = kind(**values)
    return event
