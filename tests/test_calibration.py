"""Stated probabilities: after calibration they mean what they say, and nothing is fitted on what it is judged by."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from headstart.evaluation.abstention import Abstention, Unsure
from headstart.evaluation.calibration import (
    BINS,
    Calibration,
    Compared,
    cooled,
    fit_temperature,
    held_out,
    reliability,
    softmax,
)
from headstart.evaluation.evaluation import Evaluation
from headstart.evaluation.metrics import measure


def sure_by(factor: float, n: int = 4000, k: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits `[n 1 k]` that are too large by this factor."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, k)) * 1.5
    labels = (softmax(truth).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return labels, factor * truth[:, None]


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_answers_that_are_too_sure_or_not_sure_enough_come_to_mean_what_they_say(factor: float) -> None:
    labels, logits = sure_by(factor)
    found = fit_temperature(labels, logits)
    assert found == pytest.approx(factor, rel=0.08)
    others, theirs = sure_by(factor, seed=1)
    told = Compared.of(others, cooled(theirs, 1.0), cooled(theirs, found))
    assert told.after.calibration_error < 0.03
    assert told.after.log_loss <= told.before.log_loss + 5e-3
    if factor != 1:
        assert told.before.calibration_error > 3 * told.after.calibration_error


def test_a_temperature_changes_no_answer() -> None:
    logits = sure_by(2.5)[1]
    assert (cooled(logits, 1.0).argmax(1) == cooled(logits, 2.5).argmax(1)).all()


def test_a_few_photos_that_are_all_answered_rightly_do_not_prove_certainty() -> None:
    labels = np.arange(10) % 2
    logits = 2.0 * np.eye(2)[labels][:, None]
    surest = cooled(logits, fit_temperature(labels, logits)).max()
    assert 0.85 < surest < 0.97, "ten right answers do not tell one in ten from one in a thousand"


def test_heads_that_did_not_know_a_class_say_nothing_of_how_sure_those_are_that_do() -> None:
    """Out of fold, a class with one photo is missing from a head: its photo cannot be answered, nor is it at fault."""
    labels, logits = sure_by(2.5, n=60, k=3)
    expected = fit_temperature(labels, logits)
    rare = np.pad(logits, ((0, 1), (0, 0), (0, 1)), constant_values=-np.inf)
    rare[-1, 0, 0] = 3.0
    labels = np.append(labels, 3)
    assert fit_temperature(labels, rare) == pytest.approx(expected, rel=0.05)
    assert fit_temperature(labels, np.maximum(rare, np.log(1e-12))) > 1.3 * expected, "it would decide about all"
    assert cooled(rare, 2.0)[:, 3].max() == 0
    assert fit_temperature(np.array([3]), rare[-1:]) == 1, "there is nothing to fit"


def test_the_error_of_few_photos_is_told_beside_what_chance_makes_of_it() -> None:
    few, many = (reliability(labels, cooled(logits, 1.0)) for labels, logits in (sure_by(1.0, n=60), sure_by(1.0)))
    assert few.by_chance is not None
    assert many.by_chance is not None
    assert few.by_chance > 4 * many.by_chance
    errors = [reliability(labels, cooled(logits, 1.0)).calibration_error for labels, logits in honest(60, 60)]
    assert np.mean(errors) == pytest.approx(few.by_chance, rel=0.15)
    labels, logits = sure_by(2.5)
    wrong = reliability(labels, cooled(logits, 1.0))
    assert wrong.by_chance is not None
    assert wrong.calibration_error > 5 * wrong.by_chance


def honest(n: int, repeats: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield from (sure_by(1.0, n=n, seed=seed) for seed in range(repeats))


def test_each_photo_is_judged_at_a_temperature_that_was_fitted_without_it() -> None:
    labels, logits = sure_by(2.5, n=200)
    folds = np.arange(200) % 5
    before = held_out(labels, logits, folds)
    wrong = np.where(folds == 3, (labels + 1) % 4, labels)
    after = held_out(wrong, logits, folds)
    assert (after[folds == 3] == before[folds == 3]).all(), "its own labels have had a say in its temperature"
    assert (after[folds != 3] != before[folds != 3]).any()


def test_photos_that_count_more_decide_more() -> None:
    labels, logits = sure_by(1.0, n=2000)
    logits[1000:] *= 3
    weights = np.where(np.arange(2000) < 1000, 1e-6, 1.0)
    assert fit_temperature(labels, logits, weights) == pytest.approx(3, rel=0.12)
    assert fit_temperature(labels, logits) < 2.5


def test_views_are_averaged_after_the_temperature_as_the_model_answers() -> None:
    logits = np.array([[[4.0, 0.0], [0.0, 2.0]]])
    expected = (softmax(np.array([[2.0, 0.0]])) + softmax(np.array([[0.0, 1.0]]))) / 2
    assert cooled(logits, 2.0) == pytest.approx(expected)


def test_the_bins_of_the_diagram_hold_every_photo_and_give_the_error() -> None:
    labels, logits = sure_by(2.5, n=500)
    told = reliability(labels, cooled(logits, 1.0))
    assert len(told.bins) == BINS
    assert sum(each.n for each in told.bins) == 500
    there = [each for each in told.bins if each.n]
    gaps = sum(each.n * abs((each.confidence or 0) - (each.accuracy or 0)) for each in there)
    assert gaps / 500 == pytest.approx(told.calibration_error)
    assert all(each.confidence is None and each.accuracy is None for each in told.bins if not each.n)


def test_an_evaluation_comes_back_from_its_file_and_one_without_calibration_too() -> None:
    labels, logits = sure_by(2.5, n=60)
    metrics = measure(labels, cooled(logits, 1.0), list("abcd"))
    compared = Compared.of(labels, cooled(logits, 1.0), cooled(logits, 2.5))
    unsure = Unsure.of(np.arange(60) < 3, labels == 0)
    whole = Evaluation(
        test=metrics,
        calibration=Calibration(temperature=2.5, method="by hand", test=compared, validation=compared),
        abstention=Abstention(method="by hand", threshold=1.0, false_alarms=0.05, test=unsure),
        unsure=unsure,
    )
    written = json.loads(json.dumps(whole.to_json(), allow_nan=False))
    assert Evaluation.from_json(written) == whole
    for name in ("calibration", "abstention", "unsure"):
        del written[name]
    old = Evaluation.from_json(written)
    assert old == Evaluation(test=metrics)
    assert old.calibration is None
