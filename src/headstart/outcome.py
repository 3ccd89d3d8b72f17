"""Let work that tells how it goes run to its end, for what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

Seen = TypeVar("Seen")
Result = TypeVar("Result")


def outcome(work: Generator[Seen, Any, Result], told: Callable[[Seen], None] | None = None) -> Result:
    """The work's result; what it yields goes to `told`. However it ends, the work is closed and can clean up."""
    with closing(work):
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                result: Result = end.value
                return result
            if told is not None:
                told(event)
