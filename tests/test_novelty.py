"""What is like none of the training photos: the threshold keeps its promise, and its file is not trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from headstart import novelty_file
from headstart.abstaining import sample
from headstart.data.dataset import Dataset, Item
from headstart.errors import BadRun
from headstart.novelty import Novelty, fit, limited, needed, out_of_fold

CLASSES = 4
WIDE = 512  # directions that older runs kept


def photos(n: int, d: int, rng: np.random.Generator, *, strange: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Features around one mean a class, all positive as those of a network; strange ones around other means."""
    means = np.random.default_rng(9 if strange else 8).exponential(size=(CLASSES, d))
    labels = rng.integers(CLASSES, size=n)
    return np.maximum(means[labels] + 0.7 * rng.normal(size=(n, d)), 0).astype(np.float32), labels


def alarms(n: int, *, by: str, repeats: int = 40, d: int = 96) -> float:
    """The share of photos like those of the training that are called unsure, by a threshold that was made so."""
    shares = []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        features, labels = photos(n, d, rng)
        known = fit(features, labels)
        held_out = {
            "other photos": known.distance(photos(60, d, rng)[0]),
            "other folds": out_of_fold(features, labels, np.arange(n) % 5),
            "the same photos": known.distance(features),
        }
        found = limited(known, held_out[by])
        assert found is not None
        shares.append(found.unsure(found.distance(photos(200, d, rng)[0])).mean())
    return float(np.mean(shares))


@pytest.mark.parametrize("by", ["other photos", "other folds"])
def test_no_more_photos_are_unsure_than_was_promised(by: str) -> None:
    assert 0.02 < alarms(60, by=by) < 0.065


def test_distances_of_the_photos_themselves_would_break_the_promise() -> None:
    assert alarms(60, by="the same photos") > 0.15, "then the test above could not tell a right threshold from a wrong"


@pytest.mark.parametrize("d", [96, 1000])
def test_strange_photos_are_far(d: int) -> None:
    rng = np.random.default_rng(0)
    features, labels = photos(200, d, rng)
    found = limited(fit(features, labels), out_of_fold(features, labels, np.arange(200) % 5))
    assert found is not None
    assert found.unsure(found.distance(photos(100, d, rng, strange=True)[0])).mean() > 0.95


def test_too_few_photos_promise_nothing() -> None:
    rng = np.random.default_rng(0)
    known = fit(*photos(40, 96, rng))
    assert needed(0.05) == 19
    assert needed(0.1) == 9
    assert limited(known, np.arange(18.0)) is None
    found = limited(known, np.arange(19.0))
    assert found is not None
    assert found.threshold == 18, "of so few, the largest"
    assert limited(known, np.arange(39.0)).threshold == 37  # type: ignore[union-attr]


def test_groups_of_photos_promise_what_holds_for_a_new_group() -> None:
    """Of 30 groups with 2 to 40 photos each, the large ones would decide alone if photos were counted."""
    known = fit(*photos(40, 96, np.random.default_rng(0)))
    shares: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(2, 41, size=30)
        middles = rng.exponential(size=30) / np.sqrt(sizes)  # what there is much of lies near
        distances = np.repeat(middles, sizes) + 0.1 * rng.random(sizes.sum())
        names = [str(group) for group in np.repeat(np.arange(30), sizes)]
        fresh = rng.integers(2, 41, size=200)
        new = rng.exponential(size=200) / np.sqrt(fresh) + 0.1 * rng.random(200)
        for grouped in shares:
            found = limited(known, distances, names if grouped else None)
            assert found is not None
            shares[grouped].append(float(found.unsure(new).mean()))
    assert np.mean(shares[True]) < 0.06
    assert np.mean(shares[False]) > 0.08, "then groups would make no difference"


def test_many_photos_of_few_groups_promise_nothing() -> None:
    known = fit(*photos(40, 96, np.random.default_rng(0)))
    distances = np.arange(200.0)
    assert limited(known, distances, [str(row % 18) for row in range(200)]) is None
    assert limited(known, distances, [str(row % 19) for row in range(200)]) is not None
    alone = limited(known, distances, [str(row) for row in range(200)])
    assert alone is not None
    assert alone.threshold == limited(known, distances).threshold  # type: ignore[union-attr]


def test_the_distance_is_that_from_the_nearest_mean_of_a_class() -> None:
    features, labels = photos(80, 96, np.random.default_rng(0))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([unit[labels == label].mean(axis=0) for label in range(CLASSES)])
    expected = np.linalg.norm(unit[:, None] - means, axis=2).min(axis=1)
    assert fit(features, labels).distance(features) == pytest.approx(expected, rel=1e-5)


def test_what_travels_with_a_model_is_a_row_a_class() -> None:
    tensors, _ = novelty_file.arrays(fit(*photos(80, 1500, np.random.default_rng(0))))
    assert {name: array.shape for name, array in tensors.items()} == {"mean": (1500,), "centres": (CLASSES, 1500)}


def test_how_bright_features_are_does_not_matter_and_the_same_photos_give_the_same_bits() -> None:
    features, labels = photos(80, 600, np.random.default_rng(0))
    found, again = fit(features, labels), fit(features.copy(), labels)
    assert (found.centres == again.centres).all()
    assert found.distance(3 * features) == pytest.approx(found.distance(features), rel=1e-5)


def test_a_file_that_could_not_be_read_is_not_called_unsure() -> None:
    features, labels = photos(80, 96, np.random.default_rng(0))
    found = limited(fit(features, labels), np.arange(40.0))
    assert found is not None
    assert not found.unsure(np.array([np.nan]))[0]


# ---- its file


@pytest.fixture(scope="module", params=["as it is written", "of an older run"])
def known(request: pytest.FixtureRequest) -> Novelty:
    features, labels = photos(80, 600, np.random.default_rng(0))
    found = limited(fit(features, labels), out_of_fold(features, labels, np.arange(80) % 5))
    assert found is not None
    if request.param == "as it is written":
        return found
    projection = np.linalg.qr(np.random.default_rng(1).normal(size=(600, WIDE)))[0].astype(np.float32)
    return replace(found, projection=projection, centres=found.centres @ projection)


def test_it_comes_back_from_its_file_to_the_bit(known: Novelty, tmp_path: Path) -> None:
    path = tmp_path / novelty_file.NAME
    assert novelty_file.read(path) is None
    save_file(*(written := novelty_file.arrays(known))[:1], path, written[1])
    found = novelty_file.read(path)
    assert found is not None
    features, _ = photos(10, 600, np.random.default_rng(5))
    assert (found.distance(features) == known.distance(features)).all()
    assert (found.threshold, found.false_alarms) == (known.threshold, 0.05)
    assert (found.k, found.normalise) == (1, True)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros(599, np.float32)},
        {"mean": np.zeros(600, np.float64)},
        {"mean": np.full(600, np.nan, np.float32)},
        {"mean": np.zeros((600, 1), np.float32)},
        {"projection": np.zeros((600, 3), np.float32)},
        {"projection": np.zeros(600, np.float32)},
        {"centres": np.zeros((0, 600), np.float32)},
        {"centres": np.zeros((0, WIDE), np.float32)},
        {"centres": np.zeros((CLASSES, 599), np.float32)},
        {"centres": None},
        {"threshold": "nan"},
        {"threshold": "inf"},
        {"threshold": "-1"},
        {"threshold": None},
        {"k": "0"},
        {"k": "5"},
        {"k": "many"},
        {"normalise": "perhaps"},
        {"false_alarms": "1"},
    ],
    ids=lambda change: " ".join(change),
)
def test_a_damaged_file_is_refused(known: Novelty, tmp_path: Path, change: dict[str, object]) -> None:
    tensors, about = novelty_file.arrays(known)
    mixed = {**tensors, **about, **change}
    kept = {key: value for key, value in mixed.items() if value is not None}
    path = tmp_path / novelty_file.NAME
    save_file(
        {key: value for key, value in kept.items() if isinstance(value, np.ndarray)},
        path,
        {key: value for key, value in kept.items() if isinstance(value, str)},
    )
    with pytest.raises(BadRun, match="does not load"):
        novelty_file.read(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / novelty_file.NAME
    path.write_bytes(content)
    with pytest.raises(BadRun, match="does not load"):
        novelty_file.read(path)


def test_a_file_larger_than_any_that_is_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / novelty_file.NAME
    with path.open("wb") as file:
        file.truncate(novelty_file.LARGEST + 1)
    with pytest.raises(BadRun, match="larger"):
        novelty_file.read(path)


# ---- which photos it is fitted on


def test_some_of_every_class_are_taken_and_of_large_classes_more() -> None:
    labels = [0] * 900 + [1] * 98 + [2] * 2
    items = tuple(Item(f"{i:032x}", f"{i}.jpg", label, "train") for i, label in enumerate(labels))
    data = Dataset(root=Path("."), classes=("a", "b", "c"), items=items)
    kept = sample(data, 100, seed=0)
    counts = np.bincount(kept.labels, minlength=3)
    assert counts.sum() == 100
    assert counts[0] in range(87, 93)
    assert counts[2] >= 1
    assert kept == sample(data, 100, seed=0)
    assert kept != sample(data, 100, seed=1)
    assert sample(data, 1000, seed=0) is data
