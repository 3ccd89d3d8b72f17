"""Find an interchangeable part by its name; built-in parts and other packages' parts come through the same door."""

from __future__ import annotations

import difflib
import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from headstart.errors import HeadstartError


def closest(name: str, known: list[str]) -> str:
    """The known name that a user probably meant, as a phrase for a hint; empty where none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""


class Registry:
    """The parts that packages offer under one entry-point group, loaded when first asked for."""

    def __init__(self, kind: str, group: str, error: type[HeadstartError]) -> None:
        self.kind = kind
        self.group = group
        self.error = error

    def names(self) -> list[str]:
        """The names on offer, sorted; whether each one loads is not known yet."""
        return sorted({point.name for point in entry_points(group=self.group)})

    def load(self, name: str) -> Any:
        """The part of this name.

        Raises:
            HeadstartError: of the registry's own kind, when there is none or it does not load.
        """
        for point in entry_points(group=self.group, name=name):
            return self._loaded(point)
        raise self.error(
            f"{self.kind} {name!r} is not known",
            fix=closest(name, self.names()) or f"use one of {', '.join(self.names())}",
        )

    def loadable(self) -> dict[str, Any]:
        """Every part that loads; a broken one is a warning, so that a bad plug-in cannot stop the others."""
        parts = {}
        # Looked up once: each look goes through every package that is installed.
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            try:
                parts[point.name] = self._loaded(point)
            except HeadstartError as problem:
                warnings.warn(problem.what, stacklevel=2)
        return parts

    def _loaded(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except Exception as problem:
            raise self.error(
                f"{self.kind} {point.name!r} does not load: {problem}", fix=f"repair or remove {point.value!r}"
            ) from problem
