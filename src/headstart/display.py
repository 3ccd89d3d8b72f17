"""Watch a run while it goes on: bars and lines on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from headstart.amounts import duration
from headstart.events import (
    Accuracy,
    Compared,
    Decision,
    EpochEnded,
    Event,
    Note,
    PhaseEnded,
    Planned,
    Progress,
    RunStarted,
    StageEnded,
    StageStarted,
    Stepped,
)
from headstart.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

QUIET = 10.0  # seconds between two lines about the same work where no bar can be drawn


def sentence(event: Event) -> str | None:
    """The line that tells of this event; `None` for those that only move a bar."""
    match event:
        case Note():
            return event.text
        case RunStarted():
            return f"run folder {event.path}"
        case Decision():
            return f"{event.name}: {event.value} ({event.reason})"
        case PhaseEnded():
            return f"{event.name} ready after {event.seconds:.1f} s"
        case Accuracy():
            low, high = event.interval
            return (
                f"{event.name} accuracy {event.value:.3f}, 95 % interval {low:.3f} to {high:.3f}, "
                f"on {event.n} photos, after {event.seconds:.1f} s"
            )
        case StageStarted():
            rates = ", ".join(f"{group} {rate:.2g}" for group, rate in event.rates.items())
            return f"stage {event.stage}: up to {event.epochs} epochs; rates {rates}"
        case EpochEnded():
            return f"stage {event.stage}, epoch {event.epoch}/{event.epochs}: {_figures(event)} ({event.seconds:.1f} s)"
        case StageEnded():
            kept = f"epoch {event.best} is kept" if event.best else "the weights from before it are kept"
            return f"stage {event.stage} ended after {event.epochs} epochs, {event.reason}; {kept}"
        case Planned():
            return _plan(event)
        case Compared():
            return f"done in {duration(event.actual)}; the plan said {duration(event.predicted)}"
        case Progress() | Stepped():
            return None


def _plan(event: Planned) -> str:
    limit = f", within a limit of {duration(event.limit)}" if event.limit is not None else ""
    done = sum(phase["seconds"] for phase in event.phases if phase["done"])
    lines = [f"plan: about {duration(event.seconds)} in all{limit}, of which {duration(done)} have passed"]
    left = [phase for phase in event.phases if not phase["done"]]
    wide = max((len(phase["name"]) for phase in left), default=0)
    lines += [f"  {phase['name']:{wide}}  {duration(phase['seconds']):>11}  {_work(phase)}" for phase in left]
    return "\n".join([*lines, *(f"  {change}" for change in event.changes)])


def _work(phase: dict[str, Any]) -> str:
    parts = [phase["work"]]
    parts += [f"{phase['gflop']:,.0f} GFLOP"] if phase["gflop"] >= 1 else []
    parts += [f"{phase['bytes'] / 1e6:,.1f} MB of cache"] if phase["bytes"] else []
    return ", ".join(filter(None, parts))


def _figures(event: EpochEnded) -> str:
    parts = [f"loss {event.loss:.4f}"]
    if event.validation_loss is not None:
        parts.append(f"validation loss {max(0.0, event.validation_loss):.4f}")
    if event.validation_accuracy is not None:
        parts.append(f"validation accuracy {event.validation_accuracy:.3f}")
    return ", ".join(parts)


def advance(event: Event) -> tuple[str, int, int] | None:
    """What a bar says of this event: the work, how much is done, of how much."""
    match event:
        case Progress():
            return event.what, event.done, event.total
        case Stepped():
            return f"stage {event.stage}, epoch {event.epoch}/{event.epochs}", event.step, event.steps
        case _:
            return None


class Screen(Protocol):
    """Where lines and the state of long work appear."""

    def line(self, text: str) -> None:
        """Show a line that stays."""

    def bar(self, what: str, done: int, total: int) -> None:
        """Show how far a piece of work is."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Display:
    """Shows each event on a stream as it comes, and remembers which run folder they belong to.

    A reader of the stream that goes away (`2>&1 | head`) ends the showing, never the work.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.run: str | None = None
        self._screen: Screen = Terminal(stream) if stream.isatty() else Lines(stream, clock)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take bars away; lines stay."""
        with suppress(OSError, ValueError):
            self._screen.close()

    def show(self, event: Event) -> None:
        """Show this event."""
        if isinstance(event, RunStarted):
            self.run = event.path
        with suppress(OSError, ValueError):  # the stream is closed or its reader has gone
            text, state = sentence(event), advance(event)
            if text is not None:
                self._screen.line(printable(text))
            if state is not None:
                self._screen.bar(*state)


class Lines:
    """For logs and pipes: only whole lines, and few of them about the same work."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._what = ""
        self._next = 0.0

    def line(self, text: str) -> None:
        """Write it."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def bar(self, what: str, done: int, total: int) -> None:
        """Write a line when `QUIET` seconds have passed since the last one about this work."""
        if what != self._what:
            self._what, self._next = what, self._clock() + QUIET
        elif self._clock() >= self._next:
            self._next = self._clock() + QUIET
            self.line(f"{what}: {done} of {total}")

    def close(self) -> None:
        """Nothing is open."""


class Terminal:
    """For a person who watches: one bar for the work that goes on, lines above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._what = ""

    def line(self, text: str) -> None:
        """Print it above the bar."""
        self._open().console.print(text, markup=False, highlight=False, soft_wrap=True)

    def bar(self, what: str, done: int, total: int) -> None:
        """Move the bar; other work gets a new bar in its place."""
        bars = self._open()
        if self._task is not None and what != self._what:
            bars.remove_task(self._task)
            self._task = None
        if self._task is None:
            self._task, self._what = bars.add_task(what, total=total), what
        bars.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Take the bar away and show the cursor again."""
        if self._bars is not None:
            self._bars.stop()

    def _open(self) -> Bars:
        if self._bars is None:
            # Imported here: a verb that answers at once should not wait for the drawing of bars.
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Bars(*columns, console=Console(file=self._stream), transient=True)
            self._bars.start()
        return self._bars
