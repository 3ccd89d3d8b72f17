"""Say no over HTTP: a status, one sentence and the way out, in one shape wherever the no comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
SLOW_DOWN = 1  # seconds that a client is asked to wait at least


@dataclass(eq=False)
class Refusal(Exception):
    """A request that is not answered, and why."""

    status: int
    error: str
    hint: str
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)  # beside `error` and `hint` in the answer

    def body(self) -> bytes:
        """The answer as JSON."""
        return json.dumps({"error": self.error, "hint": self.hint, **self.more}, ensure_ascii=False).encode()


def busy(error: str, *, seconds: float = SLOW_DOWN) -> Refusal:
    """There is too much to do; the client is told when to come again."""
    wait = max(SLOW_DOWN, round(seconds))
    return Refusal(503, error, f"try again in {wait} s", {"retry-after": str(wait)})
