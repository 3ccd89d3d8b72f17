"""Make stated probabilities mean what they say: the temperature that fits them best, and how far off they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headstart.evaluation.metrics import expected_calibration_error, item_losses

TEMPERATURES = np.geomspace(0.25, 4.0, 65)  # steps of 4 %: finer would fit the photos, not the network
BINS = 15  # of equal width: those of the calibration error
CHANCES = 200  # times that luck is tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers that are about equally sure. Of a bin that holds none, the two shares are None."""

    confidence: float | None  # what they promise, in the mean
    accuracy: float | None  # how many are right
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How far some answers can be taken at their word: log loss in nats, ECE in [0, 1], and what a diagram shows.

    The calibration error is above 0 for any model, and the more the fewer photos there are: `by_chance` is what it
    would be in the mean if each of these answers were right just as often as it says. None in older runs.
    """

    log_loss: float
    calibration_error: float
    bins: tuple[Bin, ...]  # from 0 to 1
    by_chance: float | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Reliability:
        """What `asdict` gave."""
        return cls(**{**row, "bins": tuple(Bin(**each) for each in row["bins"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The same answers at temperature 1 and as they ship."""

    before: Reliability
    after: Reliability

    @classmethod
    def of(
        cls,
        labels: Int[np.ndarray, "n"],
        before: Float[np.ndarray, "n k"],
        after: Float[np.ndarray, "n k"],
    ) -> Compared:
        """Of these probabilities."""
        return cls(before=reliability(labels, before), after=reliability(labels, after))

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Compared:
        """What `asdict` gave."""
        return cls(before=Reliability.from_json(row["before"]), after=Reliability.from_json(row["after"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the temperature of a run did, on its test photos and, by temperatures fitted without them, on others."""

    temperature: float  # the logits of the finished model are divided by it
    method: str
    test: Compared
    validation: Compared | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, as in `evaluation.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Calibration:
        """What `to_json` gave."""
        validation = row.get("validation")
        return cls(
            temperature=row["temperature"],
            method=row["method"],
            test=Compared.from_json(row["test"]),
            validation=Compared.from_json(validation) if validation else None,
        )


def softmax(logits: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n k"]:
    """Probabilities for logits, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: Float[np.ndarray, "*n k"] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def cooled(logits: Float[np.ndarray, "n v k"], temperature: float) -> Float[np.ndarray, "n k"]:
    """Probabilities at this temperature, averaged over the views of each photo."""
    mean: Float[np.ndarray, "n k"] = np.mean(softmax(logits.astype(np.float64) / temperature), axis=1)
    return mean


def fit_temperature(
    labels: Int[np.ndarray, "n"], logits: Float[np.ndarray, "n v k"], weights: Float[np.ndarray, "n"] | None = None
) -> float:
    """The temperature at which these answers have the lowest log loss (Guo et al. 2017); each counts by its weight.

    Labels are softened by one answer in `n + 2`, as Platt (1999) has it: where a few photos are all answered rightly,
    the loss alone would ask for a certainty that they do not prove.

    A logit of minus infinity is of a class that the head did not know. That says nothing of how sure heads are that
    know it: the class takes no part in the softening, and a photo of it does not count. 1 where none counts.
    """
    n = len(labels)
    there = np.isfinite(logits).all(axis=1)
    told = there[np.arange(n), labels]
    weights = told * (np.ones(n) if weights is None else weights)
    if not weights.any():
        return 1.0
    truth = there / there.sum(axis=1, keepdims=True) / (n + 2)
    truth[np.arange(n), labels] += 1 - 1 / (n + 2)
    losses = [
        float(np.average(-(truth * np.log(np.maximum(cooled(logits, each), 1e-12))).sum(axis=1), weights=weights))
        for each in TEMPERATURES
    ]
    return float(TEMPERATURES[int(np.argmin(losses))])


def held_out(
    labels: Int[np.ndarray, "n"],
    logits: Float[np.ndarray, "n v k"],
    folds: Int[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"] | None = None,
) -> Float[np.ndarray, "n k"]:
    """Probabilities, those of each fold at the temperature that fits the other folds."""
    probabilities = cooled(logits, 1.0)
    for fold in np.unique(folds) if folds.min() != folds.max() else ():
        inside = folds == fold
        rest = None if weights is None else weights[~inside]
        probabilities[inside] = cooled(logits[inside], fit_temperature(labels[~inside], logits[~inside], rest))
    return probabilities


def reliability(labels: Int[np.ndarray, "n"], probabilities: Float[np.ndarray, "n k"]) -> Reliability:
    """How far these answers can be taken at their word."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    promised, kept = (np.bincount(place, values, BINS) for values in (confidence, right))
    return Reliability(
        log_loss=float(item_losses(labels, probabilities).mean()),
        calibration_error=expected_calibration_error(labels, probabilities, bins=BINS),
        bins=tuple(
            Bin(confidence=float(promised[each] / n) if n else None, accuracy=float(kept[each] / n) if n else None, n=n)
            for each, n in enumerate(counts.tolist())
        ),
        by_chance=_by_chance(confidence, place),
    )


def _by_chance(confidence: Float[np.ndarray, "n"], place: Int[np.ndarray, "n"]) -> float:
    """The mean calibration error of so many answers that are right as often as they say, by drawing which are."""
    draw = np.random.default_rng(0)
    gaps = [np.bincount(place, (draw.random(len(place)) < confidence) - confidence) for _ in range(CHANCES)]
    return float(np.mean([np.abs(each).sum() for each in gaps])) / len(place)
