"""The linear head is the exact solution, chosen on items that it has not seen."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from headstart.errors import BadData, Diverged
from headstart.heads import LinearHead
from headstart.probe import FIRST, PathPoint, Probe, assign_folds, fit, probe


def features(n: int, d: int, k: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features like those of a network: never negative, correlated, of very different sizes; and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    hidden = rng.normal(size=(k, 20))[labels] + rng.normal(size=(n, 20))
    mixed = hidden @ rng.normal(size=(20, d)) + rng.normal(size=(n, d))
    return (np.maximum(mixed, 0) * rng.lognormal(size=d)).astype(np.float32), labels


def probabilities(head: LinearHead, values: np.ndarray) -> np.ndarray:
    logits = values.astype(np.float64) @ head.weights + head.bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    result: np.ndarray = shares / shares.sum(1, keepdims=True)
    return result


def unique(n: int) -> list[str]:
    return [f"item {index}" for index in range(n)]


def finish(steps: Generator[PathPoint, None, Probe]) -> Probe:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Probe = end.value
            return result


@pytest.mark.parametrize(("n", "d", "k"), [(300, 400, 5), (500, 60, 3), (60, 200, 4)])
@pytest.mark.parametrize("strength", [0.001, 0.01, 0.1, 1.0])
def test_the_head_is_the_solution_that_scikit_learn_finds(n: int, d: int, k: int, strength: float) -> None:
    values, labels = features(n + 100, d, k)
    scaler = StandardScaler().fit(values[:n].astype(np.float64))
    scaled = scaler.transform(values.astype(np.float64))
    model = LogisticRegression(C=strength, tol=1e-9, max_iter=20_000).fit(scaled[:n], labels[:n])
    head = fit(values[:n], labels[:n], k, strength=strength)
    np.testing.assert_allclose(probabilities(head, values), model.predict_proba(scaled), atol=1e-3)


def test_two_classes_are_scikit_learns_at_twice_the_strength() -> None:
    values, labels = features(200, 50, 2)
    scaled = StandardScaler().fit_transform(values.astype(np.float64))
    model = LogisticRegression(C=0.2, tol=1e-9, max_iter=20_000).fit(scaled, labels)
    ours = probabilities(fit(values, labels, 2, strength=0.1), values)
    np.testing.assert_allclose(ours, model.predict_proba(scaled), atol=1e-3)


def test_an_item_of_weight_two_counts_as_two_items() -> None:
    values, labels = features(90, 40, 3)
    twice = np.arange(90) < 30
    weighted = fit(values, labels, 3, strength=0.1, weights=1.0 + twice)
    repeated = fit(np.concatenate([values, values[twice]]), np.concatenate([labels, labels[twice]]), 3, strength=0.1)
    np.testing.assert_allclose(probabilities(weighted, values), probabilities(repeated, values), atol=1e-3)


def test_the_out_of_fold_answers_are_those_of_heads_fitted_without_the_fold() -> None:
    values, labels = features(240, 100, 4)
    ids = unique(240)
    found = finish(probe(values, labels, ids, 4, seed=3))
    fold = assign_folds(labels, ids, seed=3, folds=5)
    for part in range(5):
        head = fit(values[fold != part], labels[fold != part], 4, strength=found.strength)
        expected = probabilities(head, values[fold == part])
        np.testing.assert_allclose(found.out_of_fold[fold == part], expected, atol=1e-3)


def test_labels_without_meaning_are_not_learnt_out_of_fold() -> None:
    values, labels = features(200, 300, 2)
    found = finish(probe(values, np.random.default_rng(1).permutation(labels), unique(200), 2, seed=0))
    assert max(point.accuracy for point in found.path) < 0.65


def test_the_first_point_is_the_known_good_guess_and_the_best_is_returned() -> None:
    values, labels = features(200, 100, 4)
    found = finish(probe(values, labels, unique(200), 4, seed=0))
    assert found.path[0].strength == FIRST
    best = next(point for point in found.path if point.strength == found.strength)
    assert all(point.log_loss >= best.log_loss or point.accuracy < best.accuracy for point in found.path)
    assert np.mean(found.out_of_fold.argmax(1) == labels) == best.accuracy
    exact = fit(values, labels, 4, strength=found.strength)
    np.testing.assert_allclose(probabilities(found.head, values), probabilities(exact, values), atol=1e-3)


def test_the_path_goes_to_stronger_penalties_where_the_labels_are_noise() -> None:
    values, labels = features(120, 100, 2)
    found = finish(probe(values, np.random.default_rng(1).permutation(labels), unique(120), 2, seed=0))
    assert found.strength < FIRST


def test_the_same_input_gives_the_same_bits() -> None:
    values, labels = features(150, 200, 5)
    first, second = (finish(probe(values, labels, unique(150), 5, seed=7)) for _ in range(2))
    assert np.array_equal(first.head.weights, second.head.weights)
    assert np.array_equal(first.out_of_fold, second.out_of_fold)
    assert first.path == second.path


def test_classes_in_another_order_are_noticed() -> None:
    values, labels = features(200, 100, 4)
    found = finish(probe(values, labels, unique(200), 4, seed=0))
    assert np.mean(probabilities(found.head, values).argmax(1) == labels) > 0.95
    shuffled = LinearHead(found.head.weights[:, [1, 2, 3, 0]], found.head.bias[[1, 2, 3, 0]])
    assert np.mean(probabilities(shuffled, values).argmax(1) == labels) < 0.1


def test_constant_and_dead_features_do_no_harm() -> None:
    values, labels = features(100, 30, 3)
    more = np.concatenate([values, np.zeros((100, 2)), np.full((100, 2), 0.1), np.eye(100)[:, :1]], axis=1)
    found = finish(probe(more.astype(np.float32), labels, unique(100), 3, seed=0))
    assert np.isfinite(found.head.weights).all()
    assert not found.head.weights[30:34].any()
    assert np.isfinite(found.out_of_fold).all()


def test_a_class_with_one_item_gets_no_probability_where_it_is_held_out() -> None:
    values, labels = features(61, 30, 3)
    labels[labels == 2] = 0
    labels[7] = 2
    found = finish(probe(values, labels, unique(61), 3, seed=0))
    assert found.out_of_fold[7, 2] == 0
    assert np.isfinite([point.log_loss for point in found.path]).all()
    np.testing.assert_allclose(found.out_of_fold.sum(1), 1)


def test_a_class_without_items_gets_next_to_no_probability() -> None:
    values, labels = features(60, 30, 3)
    head = fit(values, labels, 4, strength=0.01)
    assert probabilities(head, values)[:, 3].max() < 1e-7
    np.testing.assert_allclose(
        probabilities(head, values)[:, :3],
        probabilities(fit(values, labels, 3, strength=0.01), values),
        atol=1e-4,
    )


def test_two_items_are_enough() -> None:
    found = finish(probe(np.array([[0.0, 1], [1, 0]], np.float32), np.array([0, 1]), ["a", "b"], 2, seed=0))
    assert found.path[0].accuracy == 0  # each head has only seen the other class
    assert probabilities(found.head, np.array([[0.0, 1], [1, 0]])).argmax(1).tolist() == [0, 1]


def test_only_equal_items_are_refused() -> None:
    with pytest.raises(BadData, match="the same file"):
        finish(probe(np.ones((3, 2), np.float32), np.array([0, 1, 0]), ["a"] * 3, 2, seed=0))


def test_features_that_are_no_numbers_are_refused() -> None:
    values, labels = features(20, 5, 2)
    values[3, 2] = np.nan
    with pytest.raises(Diverged, match="not finite"):
        fit(values, labels, 2, strength=0.01)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 25)), min_size=2, max_size=80), st.integers(0, 5))
def test_equal_ids_share_a_fold_and_classes_are_spread_evenly(items: list[tuple[int, int]], seed: int) -> None:
    labels, ids = np.array([label for label, _ in items]), [str(key) for _, key in items]
    if len(set(ids)) < 2:
        return
    fold = assign_folds(labels, ids, seed=seed, folds=5)
    assert set(fold.tolist()) == set(range(fold.max() + 1))
    assert fold.max() >= 1
    seen: dict[str, int] = {}
    assert all(seen.setdefault(key, part) == part for key, part in zip(ids, fold.tolist(), strict=True))
    if len(set(ids)) == len(ids):
        for label in set(labels.tolist()):
            sizes = np.bincount(fold[labels == label], minlength=fold.max() + 1)
            assert sizes.max() - sizes.min() <= 1
    order = np.random.default_rng(seed).permutation(len(ids))
    again = assign_folds(labels[order], [ids[place] for place in order], seed=seed, folds=5)
    assert np.array_equal(again, fold[order])


def test_another_seed_gives_other_folds() -> None:
    labels = np.arange(100) % 4
    assert not np.array_equal(*(assign_folds(labels, unique(100), seed=seed, folds=5) for seed in (0, 1)))
