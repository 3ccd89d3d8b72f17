"""Judge answers against the truth: accuracy and its relatives, each with a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from headstart.errors import BadData

Interval = tuple[float, float]
NORMAL = 1.959963984540054  # 95 % of a standard normal variable lie within this distance of 0
DRAWS = 1000
SMALLEST_PROBABILITY = 1e-15  # a single impossible answer must not make the log loss infinite


@dataclass(frozen=True, slots=True, kw_only=True)
class PerClass:
    """How one class fares. None where a figure is undefined: recall of a class that never occurs here, precision of
    one that is never answered, F1 of one that is neither.
    """

    name: str
    n: int
    answered: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What the answers for `n` items are worth.

    Balanced accuracy is the mean recall of the classes that occur here; macro F1 is the mean of the classes that occur
    or are answered. The interval of the accuracy is Wilson's (1927), the others are bootstraps over the items; where
    items come in families, such as near-duplicates or groups, over the families.
    """

    n: int
    accuracy: float
    accuracy_interval: Interval
    balanced_accuracy: float
    balanced_accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    log_loss: float
    log_loss_interval: Interval
    calibration_error: float
    absent: tuple[str, ...]  # classes without a single item here: no figure above says anything about them
    classes: tuple[PerClass, ...]
    confusion: tuple[tuple[int, ...], ...]  # row: the true class, column: the answer
    own: dict[str, float] = field(default_factory=dict)  # metrics that the user gave, by name

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, numbers and None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Metrics:
        """The metrics that `to_json` wrote."""
        values = {field.name: row[field.name] for field in fields(cls)}
        for name in (name for name in values if name.endswith("_interval")):
            values[name] = tuple(values[name])
        values["absent"] = tuple(values["absent"])
        values["classes"] = tuple(PerClass(**part) for part in values["classes"])
        values["confusion"] = tuple(map(tuple, values["confusion"]))
        return cls(**values)


def measure(
    labels: Int[np.ndarray, "n"],
    probabilities: Float[np.ndarray, "n k"],
    classes: Sequence[str],
    *,
    families: Sequence[str] | None = None,
    seed: int = 0,
) -> Metrics:
    """All metrics; column `i` of `probabilities` belongs to `classes[i]`, and so does label `i`.

    Items of one of the `families` are answered alike, so they tell less than as many others: intervals are wider.

    Raises:
        BadData: there is no item to measure.
    """
    n = len(labels)
    if not n:
        raise BadData("there are no items to evaluate", fix="give at least one labelled item")
    answers = probabilities.argmax(1)
    losses = item_losses(labels, probabilities)
    counts = _Counts.of(labels, answers, len(classes))
    hits = int(counts.hits.sum())
    members = _members(families, n)
    drawn = islice(_drawn(members, np.random.default_rng(seed)), DRAWS)
    draws = [_figures(labels[items], answers[items], losses[items], len(classes)) for items in drawn]
    balanced, f1, loss = (_middle(column) for column in zip(*draws, strict=True))
    return Metrics(
        n=n,
        accuracy=hits / n,
        accuracy_interval=interval_of(answers == labels, families),
        balanced_accuracy=counts.balanced_accuracy,
        balanced_accuracy_interval=balanced,
        macro_f1=counts.macro_f1,
        macro_f1_interval=f1,
        log_loss=float(losses.mean()),
        log_loss_interval=loss,
        calibration_error=expected_calibration_error(labels, probabilities),
        absent=tuple(name for name, true in zip(classes, counts.true, strict=True) if not true),
        classes=_per_class(counts, classes),
        confusion=confusion_matrix(labels, answers, len(classes)),
    )


def interval_of(true: Bool[np.ndarray, "n"], families: Sequence[str] | None = None) -> Interval:
    """The 95 % interval of the share of items for which this is true, which come in families."""
    n = independent(true, families)
    return wilson(float(true.mean()) * n, n)


def independent(true: Bool[np.ndarray, "n"], families: Sequence[str] | None) -> float:
    """As many unrelated items would tell the share as well as these: `n` over the design effect (Kish 1965).

    At most as many as there are items, and at least as many as if each family had one answer. It is taken to have one
    where all items are alike, since nothing tells then.
    """
    n, members = len(true), _members(families, len(true))
    sizes, sums = np.bincount(members), np.bincount(members, true)
    count, share = len(sizes), float(true.mean())
    most = float((sizes**2).sum()) / n
    spread = n * share * (1 - share)
    if count < 2 or not spread:
        return n / most
    effect = count / (count - 1) * float(((sums - share * sizes) ** 2).sum()) / spread
    return n / min(max(effect, 1.0), most)


def wilson(hits: float, n: float) -> Interval:
    """The 95 % interval of a share of `hits` in `n` (Wilson 1927); within [0, 1], and sound near its ends."""
    share, square = hits / n, NORMAL**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    reach = NORMAL / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def expected_calibration_error(
    labels: Int[np.ndarray, "n"], probabilities: Float[np.ndarray, "n k"], *, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, in [0, 1]; 0 is perfectly calibrated (Guo et al. 2017).

    Items are pooled into `bins` equal-width confidence bins; an empty bin weighs nothing.
    """
    confidence = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, right - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def item_losses(labels: Int[np.ndarray, "n"], probabilities: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n"]:
    """Minus the logarithm of each true class's probability."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: Float[np.ndarray, "n"] = -np.log(np.clip(true, SMALLEST_PROBABILITY, 1))
    return losses


def confusion_matrix(
    labels: Int[np.ndarray, "n"], answers: Int[np.ndarray, "n"], classes: int
) -> tuple[tuple[int, ...], ...]:
    """How often each true class (row) was answered by each class (column)."""
    cells = np.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(row) for row in cells.tolist())


@dataclass(frozen=True, slots=True, eq=False)
class _Counts:
    """Per class: how often it is true, is answered, and both."""

    true: Int[np.ndarray, "k"]
    answered: Int[np.ndarray, "k"]
    hits: Int[np.ndarray, "k"]

    @classmethod
    def of(cls, labels: Int[np.ndarray, "n"], answers: Int[np.ndarray, "n"], classes: int) -> _Counts:
        return cls(*(np.bincount(part, minlength=classes) for part in (labels, answers, labels[labels == answers])))

    @property
    def balanced_accuracy(self) -> float:
        there = self.true > 0
        return float(np.mean(self.hits[there] / self.true[there]))

    @property
    def macro_f1(self) -> float:
        either = self.true + self.answered
        return float(np.mean(2 * self.hits[either > 0] / either[either > 0]))


def _members(families: Sequence[str] | None, n: int) -> Int[np.ndarray, "n"]:
    """The number of each item's family; each its own where there are none."""
    if families is None:
        return np.arange(n)
    numbers = {family: number for number, family in enumerate(dict.fromkeys(families))}
    return np.array([numbers[family] for family in families])


def _drawn(members: Int[np.ndarray, "n"], rng: np.random.Generator) -> Iterator[Int[np.ndarray, "m"]]:
    """Items, drawn with replacement again and again; those of a family together, where there are families to draw."""
    n, count = len(members), int(members.max()) + 1
    while True:
        if count in (1, n):
            yield rng.integers(n, size=n)
        else:
            yield np.repeat(np.arange(n), np.bincount(rng.integers(count, size=count), minlength=count)[members])


def _figures(
    labels: Int[np.ndarray, "n"], answers: Int[np.ndarray, "n"], losses: Float[np.ndarray, "n"], classes: int
) -> tuple[float, float, float]:
    """Balanced accuracy, macro F1 and log loss."""
    counts = _Counts.of(labels, answers, classes)
    return counts.balanced_accuracy, counts.macro_f1, float(losses.mean())


def _middle(values: Sequence[float]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _per_class(counts: _Counts, classes: Sequence[str]) -> tuple[PerClass, ...]:
    rows = zip(classes, counts.true.tolist(), counts.answered.tolist(), counts.hits.tolist(), strict=True)
    return tuple(
        PerClass(
            name=name,
            n=true,
            answered=answered,
            precision=_share(hits, answered),
            recall=_share(hits, true),
            f1=_share(2 * hits, true + answered),
        )
        for name, true, answered, hits in rows
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value
