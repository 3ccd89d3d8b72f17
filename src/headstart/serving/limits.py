"""Bound what a request and all requests together may cost, by numbers that the environment can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from headstart.errors import BadServer

PREFIX = "HEADSTART_SERVE_"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Each is read from the environment as HEADSTART_SERVE_ and its name in capitals."""

    body: int = 32_000_000  # bytes of one request
    files: int = 64  # photos in one request
    pixels: int = 50_000_000  # of one photo; the bundle's own limit holds too
    seconds: float = 30.0  # from a request's first line to its answer
    head_seconds: float = 10.0  # for a request's first lines to arrive
    idle_seconds: float = 5.0  # that a connection is kept open for the next request
    linger_seconds: float = 1.0  # that a stopping service waits for requests on connections that are open
    head: int = 16_384  # bytes of a request's first lines
    connections: int = 512  # open at the same time
    queue: int = 256  # photos that wait
    held: int = 512_000_000  # bytes of all the requests that are being received or wait
    batch: int = 2  # photos that go through the network together, where so many wait

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Limits:
        """The limits that this environment asks for.

        Raises:
            BadServer: a value is no number above zero.
        """
        given: dict[str, Any] = {}
        for each in fields(cls):
            name = PREFIX + each.name.upper()
            if name in environment:
                given[each.name] = _number(name, environment[name], whole=each.type == "int")
        limits = cls(**given)
        if limits.queue < limits.files:
            raise BadServer(
                f"a queue of {limits.queue} photos cannot take a request of {limits.files}",
                fix=f"set {PREFIX}QUEUE to {limits.files} or more, or {PREFIX}FILES to {limits.queue} or less",
            )
        return limits


def _number(name: str, text: str, *, whole: bool) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise BadServer(f"{name} is {text!r}", fix=f"give a {'whole ' if whole else ''}number above zero, or unset it")
    return number
