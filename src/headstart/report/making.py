"""Make the report of a finished run: a page for people, its facts for programs, a card for whoever gets the model."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import BadSetting
from headstart.events import Event, Note
from headstart.report.card import card
from headstart.report.drawing import drawing
from headstart.report.facts import gather
from headstart.report.page import environment, page
from headstart.report.pictures import pictures
from headstart.runs import Run
from headstart.writing import write_text


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where the files of a report lie."""

    page: Path  # report.html
    facts: Path  # report.json
    card: Path  # model-card.md

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {"page": str(self.page), "facts": str(self.facts), "card": str(self.card)}


def report(path: Path, *, out: Path | None = None, device: str = "auto") -> Generator[Event, None, Report]:
    """Write report.html, report.json and model-card.md of a run into `out`, or into the run itself.

    Photos that have moved and a model that does not open here leave gaps, which the page names.

    Raises:
        BadRun: there is no finished run.
        BadSetting: `out` cannot be written.
        MissingLibrary: what draws the page is not installed.
        DiskFull: there is no room.
    """
    run = Run.open(path)
    folder = _folder(run.path if out is None else out)
    # Missing libraries are told now, and not after minutes of work.
    environment()
    with drawing(1):
        pass
    facts = gather(run)
    shown = yield from pictures(run, facts, device)
    if shown.missing:
        first, reason = next(iter(shown.missing.items()))
        yield Note(text=f"{len(shown.missing)} photos cannot be shown, first {first!r}: {reason}")
    if shown.no_heat:
        yield Note(text=f"there are no heat maps: {shown.no_heat}")
    made = Report(page=folder / "report.html", facts=folder / "report.json", card=folder / "model-card.md")
    texts = {
        made.page: page(facts, shown),
        made.facts: json.dumps(facts, indent=2, allow_nan=False) + "\n",
        made.card: card(facts),
    }
    with _reachable(folder):
        for place, text in texts.items():
            write_text(place, text)
    return made


def _folder(out: Path) -> Path:
    with _reachable(out):
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return out


@contextmanager
def _reachable(out: Path) -> Iterator[None]:
    """Turn the system's refusals to write into ours."""
    try:
        yield
    except OSError as problem:
        raise BadSetting(
            f"report folder {str(out)!r} cannot be written: {problem.strerror}", fix="choose another place with --out"
        ) from problem
