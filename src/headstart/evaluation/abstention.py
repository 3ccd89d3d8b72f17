"""Hold how often a model says `unsure`: of photos like those that it learnt from, which is a false alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from headstart.evaluation.metrics import Interval, interval_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsure:
    """How many of `n` photos the model is unsure of; `interval` is that of the share (Wilson 1927)."""

    n: int
    unsure: int
    share: float
    interval: Interval
    accuracy_of_the_rest: float | None  # None where it is unsure of all

    @classmethod
    def of(
        cls, unsure: Bool[np.ndarray, "n"], right: Bool[np.ndarray, "n"], families: Sequence[str] | None = None
    ) -> Unsure:
        """Of these photos, some of which are answered rightly; those of a family tell less than as many others."""
        n, count = len(unsure), int(unsure.sum())
        rest = float(right[~unsure].mean()) if count < n else None
        interval = interval_of(unsure, families)
        return cls(n=n, unsure=count, share=count / n, interval=interval, accuracy_of_the_rest=rest)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {**asdict(self), "interval": list(self.interval)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Unsure:
        """What `to_json` gave."""
        return cls(**{**row, "interval": tuple(row["interval"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """The threshold of a run, the share of false alarms that it was set for, and the share on the test photos.

    Without a threshold the model is never unsure, and `method` says why.
    """

    method: str
    threshold: float | None = None
    false_alarms: float | None = None
    test: Unsure | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, as in `evaluation.json`."""
        return {**asdict(self), "test": self.test.to_json() if self.test is not None else None}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Abstention:
        """What `to_json` gave."""
        test = row.get("test")
        return cls(**{**row, "test": Unsure.from_json(test) if test else None})
