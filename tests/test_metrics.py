"""The figures of an evaluation are scikit-learn's, their intervals hold, and nothing is silently undefined."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from headstart.errors import BadData
from headstart.evaluation import metrics
from headstart.evaluation.metrics import (
    Metrics,
    expected_calibration_error,
    independent,
    interval_of,
    measure,
    wilson,
)


def answers(n: int, k: int, *, seed: int = 0, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that know something about them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + skill * np.eye(k)[labels]
    probabilities = np.exp(logits)
    return labels, probabilities / probabilities.sum(1, keepdims=True)


def names(k: int) -> list[str]:
    return [f"class {index}" for index in range(k)]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(5, 60), k=st.integers(2, 6), seed=st.integers(0, 1000))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_the_figures_are_those_of_scikit_learn(n: int, k: int, seed: int) -> None:
    labels, probabilities = answers(n, k, seed=seed)
    found, guessed = measure(labels, probabilities, names(k)), probabilities.argmax(1)
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, guessed))
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(labels, guessed))
    assert found.macro_f1 == pytest.approx(reference.f1_score(labels, guessed, average="macro"))
    assert found.log_loss == pytest.approx(reference.log_loss(labels, probabilities, labels=range(k)))
    assert np.array_equal(found.confusion, reference.confusion_matrix(labels, guessed, labels=range(k)))
    precision, recall, f1, n_true = reference.precision_recall_fscore_support(
        labels, guessed, labels=range(k), zero_division=0
    )
    for row, *expected in zip(found.classes, precision, recall, f1, n_true, strict=True):
        assert [row.precision or 0, row.recall or 0, row.f1 or 0, row.n] == pytest.approx(expected)


def intervals(found: Metrics) -> list[tuple[float, tuple[float, float]]]:
    return [
        (found.accuracy, found.accuracy_interval),
        (found.balanced_accuracy, found.balanced_accuracy_interval),
        (found.macro_f1, found.macro_f1_interval),
        (found.log_loss, found.log_loss_interval),
    ]


def test_the_intervals_hold_the_figure_and_shrink_with_more_items() -> None:
    few, many = (intervals(measure(*answers(n, 4), names(4))) for n in (50, 5000))
    for (value, (low, high)), (_, (later_low, later_high)) in zip(few, many, strict=True):
        assert low <= value <= high
        assert later_high - later_low < (high - low) / 4


def test_the_intervals_hold_the_truth_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as once:
        once.setattr(metrics, "DRAWS", 1)  # of so many items the figures are the truth, and no interval is asked for
        truth = [value for value, _ in intervals(measure(*answers(100_000, 3, seed=1), names(3)))]
    kept = np.zeros(len(truth))
    for seed in range(40):
        found = intervals(measure(*answers(150, 3, seed=100 + seed), names(3)))
        kept += [low <= value <= high for value, (_, (low, high)) in zip(truth, found, strict=True)]
    assert (kept / 40 > 0.85).all()


def test_wilson_gives_the_published_interval() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert wilson(7, 7)[1] == 1


def families_of(size: int, n: int = 120, *, alike: float = 0.9) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities and families: answers that are mostly right or wrong together in families of this size."""
    rng = np.random.default_rng(n + size)
    labels = np.tile([0, 1], n // 2)
    family = np.arange(n) // size
    right = np.where(rng.random(n) < alike, (rng.random(n) < 0.8)[family], rng.random(n) < 0.8)
    return labels, np.eye(2)[np.where(right, labels, 1 - labels)] * 0.8 + 0.1, [str(each) for each in family]


def test_photos_of_a_family_tell_less_than_as_many_others() -> None:
    labels, probabilities, families = families_of(8)
    alone, together = (measure(labels, probabilities, names(2), families=each) for each in (None, families))
    assert alone.accuracy == together.accuracy
    for (_, (low, high)), (value, (wider_low, wider_high)) in zip(intervals(alone), intervals(together), strict=True):
        assert wider_low <= value <= wider_high
        assert wider_high - wider_low > 1.5 * (high - low)
    singles = measure(labels, probabilities, names(2), families=[str(each) for each in range(len(labels))])
    assert singles == alone


def test_the_interval_holds_the_truth_also_where_photos_come_in_families() -> None:
    kept = {"families": 0, "photos": 0}
    for seed in range(400):
        rng = np.random.default_rng(seed)
        true = np.repeat(rng.random(30) < 0.8, 6)
        families = [str(each // 6) for each in range(180)]
        for name, each in {"families": families, "photos": None}.items():
            low, high = interval_of(true, each)
            kept[name] += low <= 0.8 <= high
    assert kept["families"] / 400 > 0.92
    assert kept["photos"] / 400 < 0.7, "then families would make no difference"


def test_families_that_are_alike_count_as_one_and_those_that_are_not_as_many() -> None:
    families = [str(each // 4) for each in range(80)]
    alike = np.repeat(np.arange(20) < 15, 4)
    assert independent(alike, families) == pytest.approx(20, rel=0.08)
    assert independent(np.tile([True, True, True, False], 20), families) == 80
    assert independent(np.ones(80, bool), families) == 20, "where all are right nothing tells how alike they are"
    assert independent(alike, None) == 80


def test_a_class_without_items_is_named_and_does_not_count() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.1, 0.9, 0], [0.7, 0.3, 0]])
    found = measure(labels, probabilities, ["ant", "bee", "cat"])
    assert found.absent == ("cat",)
    assert found.balanced_accuracy == 0.75
    assert found.classes[2].recall is found.classes[2].precision is found.classes[2].f1 is None
    assert found.confusion == ((2, 0, 0), (1, 1, 0), (0, 0, 0))


def test_no_items_are_an_error() -> None:
    with pytest.raises(BadData, match="no items to evaluate"):
        measure(np.zeros(0, np.int64), np.zeros((0, 2)), ["ant", "bee"])


def test_a_single_item_can_be_measured() -> None:
    found = measure(np.array([1]), np.array([[0.2, 0.8]]), ["ant", "bee"])
    assert found.accuracy == 1
    assert found.accuracy_interval[0] < 0.25


def test_an_impossible_answer_costs_much_but_not_everything() -> None:
    found = measure(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]], np.float32), ["ant", "bee"])
    assert 10 < found.log_loss < 40


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    labels = np.array([0, 0, 0, 1, 1])
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.55, 0.45], [0.05, 0.95]])
    # Three at 0.95, all right; two at 0.55, one right.
    assert expected_calibration_error(labels, probabilities, bins=10) == pytest.approx((3 * 0.05 + 2 * 0.05) / 5)


def test_certain_and_right_is_perfectly_calibrated() -> None:
    assert expected_calibration_error(np.array([0, 1]), np.eye(2)) == 0


def test_answers_in_another_order_of_classes_are_noticed() -> None:
    labels, probabilities = answers(500, 4, skill=6)
    assert measure(labels, probabilities, names(4)).accuracy > 0.95
    assert measure(labels, probabilities[:, [1, 2, 3, 0]], names(4)).accuracy < 0.1


def test_the_same_seed_gives_the_same_file() -> None:
    labels, probabilities = answers(80, 3)
    first, second = (measure(labels, probabilities, names(3), seed=5).to_json() for _ in range(2))
    assert json.loads(json.dumps(first)) == first == second
    assert Metrics.from_json(first) == measure(labels, probabilities, names(3), seed=5)
    assert isinstance(first["confusion"][0], list)
