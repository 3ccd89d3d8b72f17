"""Every way headstart refuses: one sentence that says what and which, and one that says the way out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any


class HeadstartError(Exception):
    """A refusal that a user can act on. `what` names the thing and its value; `fix` is the way out."""

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), fix=self.fix), (self.what,)  # so that it comes out of other processes as it was

    def __str__(self) -> str:
        return f"{self.what}\nhint: {self.fix}"


class BadData(HeadstartError):
    """The photos, their folders or their splits cannot be used."""


class BadSetting(HeadstartError):
    """An option, a configuration key or a name has a value that cannot be used."""


class BadBackbone(HeadstartError):
    """The pre-trained network cannot be found, is damaged or is of another kind."""


class BadRuntime(HeadstartError):
    """What should run the network fast is missing, or cannot run this one."""


class BadRun(HeadstartError):
    """The run folder cannot be written, is incomplete or is not a run."""


class BadExport(HeadstartError):
    """A model cannot be exported as asked, or what was exported does not agree with its run."""


class BadBundle(HeadstartError):
    """The folder is no bundle, or not the one that was exported, or cannot be run here."""


class BadServer(HeadstartError):
    """The service cannot be started as asked."""


class DiskFull(HeadstartError):
    """A file could not be written for want of space; what was finished before is kept."""


class Diverged(HeadstartError):
    """Training produced a loss that is not a finite number."""


def first_five(problems: Sequence[str]) -> str:
    """The first five of these problems in one phrase, and how many more there are."""
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return ", ".join(problems[:5]) + more
