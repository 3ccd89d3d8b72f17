"""Hold how well a finished model does: its metrics on every judged split, and each single answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headstart.evaluation.abstention import Abstention, Unsure
from headstart.evaluation.calibration import Calibration
from headstart.evaluation.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Answer:
    """What the finished model says of one labelled photo. `unsure` is None where the model cannot tell."""

    path: str
    label: str
    split: str
    predicted: str
    probability: float
    distance: float | None = None  # from the photos of the training
    unsure: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`test` is by the model that ships, touched once. `validation` says in `validation_method` how it was got.

    `calibration` and `abstention` are of the run; of other photos, `unsure` counts those that are like none of it.
    """

    test: Metrics
    validation: Metrics | None = None
    validation_method: str = ""
    fitted_on_validation: tuple[str, ...] = ()
    calibration: Calibration | None = None
    abstention: Abstention | None = None
    unsure: Unsure | None = None

    @property
    def accuracy(self) -> float:
        """Share of right answers on the test split, in [0, 1]."""
        return self.test.accuracy

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        return self.test.accuracy_interval

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, as in `evaluation.json`."""
        row: dict[str, Any] = {"test": self.test.to_json()}
        if self.validation is not None:
            row["validation"] = {"method": self.validation_method, **self.validation.to_json()}
            row["fitted_on_validation"] = list(self.fitted_on_validation)
        for name in PARTS:
            if (part := getattr(self, name)) is not None:
                row[name] = part.to_json()
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Evaluation:
        """The evaluation that `to_json` wrote."""
        validation = dict(row.get("validation", {}))
        method = validation.pop("method", "")
        return cls(
            test=Metrics.from_json(row["test"]),
            validation=Metrics.from_json(validation) if validation else None,
            validation_method=method,
            fitted_on_validation=tuple(row.get("fitted_on_validation", ())),
            **{name: part.from_json(row[name]) for name, part in PARTS.items() if row.get(name)},
        )


# What may be missing: runs of older versions have none of it.
PARTS: dict[str, Any] = {"calibration": Calibration, "abstention": Abstention, "unsure": Unsure}
