"""What holds for splits of any photos whatever."""

from __future__ import annotations

import csv
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart.data.dataset import SPLITS, Dataset, Item, Split
from headstart.data.duplicates import Pair
from headstart.data.families import families
from headstart.data.splits import Row, assign, match, position, read_splits, spelled, write_splits

ids = st.integers(0, 400).map(lambda number: f"{number:032x}")
photos = st.lists(st.tuples(ids, st.integers(0, 4)), max_size=60)
seeds = st.integers(-5, 2**40)


def split(pairs: list[tuple[str, int]], seed: int, given: dict[str, Split] | None = None) -> dict[str, Split]:
    names = [id for id, _ in pairs]
    return dict(zip(names, assign(names, [label for _, label in pairs], seed=seed, given=given), strict=True))


def classes(pairs: list[tuple[str, int]]) -> dict[int, set[str]]:
    return {label: {id for id, other in pairs if other == label} for _, label in pairs}


def natural(id: str, seed: int) -> Split:
    where = position(id, seed)
    return "test" if where < 0.2 else "validation" if where < 0.3 else "train"


def many(n: int, label: int = 0, first: int = 0) -> list[tuple[str, int]]:
    return [(f"{label}-{number}", label) for number in range(first, first + n)]


@settings(deadline=None)
@given(photos, seeds)
def test_equal_photos_are_on_one_side_also_across_classes(pairs: list[tuple[str, int]], seed: int) -> None:
    names = [id for id, _ in pairs]
    sides = assign(names, [label for _, label in pairs], seed=seed)
    assert len(sides) == len(pairs)
    assert len(set(zip(names, sides, strict=True))) == len(set(names))


@settings(deadline=None)
@given(photos, seeds, st.randoms(use_true_random=False), st.permutations(range(5)))
def test_order_of_photos_and_numbers_of_classes_do_not_matter(
    pairs: list[tuple[str, int]], seed: int, rng: random.Random, numbers: list[int]
) -> None:
    other = [(id, numbers[label]) for id, label in pairs]
    rng.shuffle(other)
    assert split(pairs, seed) == split(other, seed)


@settings(deadline=None)
@given(st.dictionaries(ids, st.integers(0, 4), max_size=60), seeds)
def test_each_class_of_two_photos_keeps_a_test_and_a_train_photo(labels: dict[str, int], seed: int) -> None:
    pairs = list(labels.items())
    sides = split(pairs, seed)
    for members in classes(pairs).values():
        if len(members) > 1:
            assert {"train", "test"} <= {sides[id] for id in members}


@settings(deadline=None)
@given(st.dictionaries(ids, st.integers(0, 4), max_size=80), seeds, st.data())
def test_adding_photos_moves_none_of_a_class_that_had_its_own_members(
    labels: dict[str, int], seed: int, data: st.DataObject
) -> None:
    everything = list(labels.items())
    before = data.draw(st.lists(st.sampled_from(everything), unique=True)) if everything else []
    old, new = split(before, seed), split(everything, seed)
    for members in classes(before).values():
        if {"train", "test"} <= {natural(id, seed) for id in members}:
            assert {id: new[id] for id in members} == {id: old[id] for id in members}


@settings(deadline=None)
@given(st.dictionaries(ids, st.integers(0, 4), max_size=80), seeds)
def test_at_most_one_photo_of_a_class_is_forced_to_a_side(labels: dict[str, int], seed: int) -> None:
    pairs = list(labels.items())
    sides = split(pairs, seed)
    for members in classes(pairs).values():
        moved = [sides[id] for id in members if sides[id] != natural(id, seed)]
        assert len(moved) == len(set(moved))
        assert "validation" not in moved


@settings(deadline=None)
@given(photos, photos, seeds)
def test_listed_splits_stay_whatever_is_added(
    before: list[tuple[str, int]], added: list[tuple[str, int]], seed: int
) -> None:
    listed = split(before, seed)
    if {"test", "validation"} <= set(listed.values()):
        new = split(before + added, seed + 1, given=listed)
        assert {id: new[id] for id in listed} == listed


def test_no_memoryless_rule_can_keep_all_three_pairs() -> None:
    """The reason for the one exception, by trying every rule on three photos."""
    pairs = [frozenset(pair) for pair in itertools.combinations("abc", 2)]
    for tests in itertools.product(*[sorted(pair) for pair in pairs]):
        for side in itertools.product(("test", "train"), repeat=3):
            joined = dict(zip("abc", side, strict=True))
            kept = [
                all(joined[id] == ("test" if id == test else "train") for id in pair)
                for pair, test in zip(pairs, tests, strict=True)
            ]
            assert not all(kept)


def test_a_forced_test_photo_is_released_by_a_nearer_one_and_pinned_by_a_file() -> None:
    inside = next(f"{n}" for n in range(1000) if position(f"{n}", 0) < 0.2)
    outside = [f"{n}" for n in range(1000) if position(f"{n}", 0) > 0.3][:5]
    before = split([(id, 0) for id in outside], 0)
    forced = min(outside, key=lambda id: position(id, 0))
    assert [id for id in outside if before[id] == "test"] == [forced]
    assert split([(id, 0) for id in [*outside, inside]], 0)[forced] == "train"
    assert split([(id, 0) for id in [*outside, inside]], 0, given=before)[forced] == "test"


def test_where_all_photos_fall_into_test_the_farthest_one_trains() -> None:
    inside = [f"{n}" for n in range(1000) if position(f"{n}", 0) < 0.2][:4]
    sides = split([(id, 0) for id in inside], 0)
    assert [id for id in inside if sides[id] == "train"] == [max(inside, key=lambda id: position(id, 0))]


def test_shares_are_near_a_fifth_and_a_tenth() -> None:
    sides = list(split(many(20_000), seed=3).values())
    assert sides.count("test") / len(sides) == pytest.approx(0.2, abs=0.015)
    assert sides.count("validation") / len(sides) == pytest.approx(0.1, abs=0.012)


def test_five_seeds_are_five_different_splits_that_overlap_by_chance_alone() -> None:
    tests = [{id for id, side in split(many(2000), seed).items() if side == "test"} for seed in range(5)]
    for one, other in itertools.combinations(tests, 2):
        assert len(one & other) / len(one) == pytest.approx(0.2, abs=0.08)


def test_the_split_of_a_content_never_changes_between_versions() -> None:
    """These values are a promise: a later version of headstart must not reshuffle anyone's photos."""
    assert position("00" * 16, 0) == pytest.approx(0.9524902939129919, abs=1e-12)
    assert position("ff" * 16, 7) == pytest.approx(0.30579264228545655, abs=1e-12)


def test_photos_given_for_training_alone_give_test_and_validation_by_their_hash() -> None:
    pairs = many(300) + many(300, label=1)
    tests: dict[str, Split] = {id: "test" for id, _ in pairs[::7]}
    sides = split(pairs, 0, given={id: tests.get(id, "train") for id, _ in pairs})
    for id, _ in pairs:
        if id in tests:
            assert sides[id] == "test"
        else:
            assert sides[id] == ("validation" if natural(id, 0) == "validation" else "train")


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *itertools.product(("Train", "TRAINING", "training_set", "train-images"), ["train"]),
        *itertools.product(("val", "VALID", "Validation", "dev", "val2"), ["validation"]),
        *itertools.product(("test", "Testing", "test set", "test_data"), ["test"]),
        *itertools.product(("trains", "tests", "cat", "", "set", "data"), [None]),
    ],
)
def test_split_names_are_read_in_any_spelling(name: str, side: Split | None) -> None:
    assert spelled(name) == side


names = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=("Cs",))
    | st.integers(0xDC80, 0xDCFF).map(chr),  # bytes that are not UTF-8, as Python names them
    min_size=1,
).filter(lambda name: name == name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(names, st.sampled_from(SPLITS)), unique_by=lambda pair: pair[0], min_size=1, max_size=8))
def test_any_file_name_comes_back_from_a_splits_file(tmp_path: Path, pairs: list[tuple[str, Split]]) -> None:
    items = tuple(Item(f"{n:032x}", path, n % 2, split) for n, (path, split) in enumerate(pairs))
    write_splits(Dataset(root=tmp_path, classes=('a,"b', "c\nd"), items=items), tmp_path / "splits.csv")
    rows = read_splits(tmp_path / "splits.csv")
    assert rows == tuple(Row(item.path, item.split, item.id) for item in items)
    assert match(rows, {item.path: item.id for item in items}) == {item.path: item.split for item in items}
    with (tmp_path / "splits.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == [('a,"b', "c\nd")[item.label] for item in items]
    assert [path.name for path in tmp_path.iterdir()] == ["splits.csv"]


def test_content_decides_before_the_path_when_a_file_of_splits_is_read() -> None:
    rows = (Row("a/1.jpg", "test", "x"), Row("a/2.jpg", "train", "y"), Row("a/3.jpg", "validation"))
    photos = {"a/1.jpg": "new", "a/2.jpg": "x", "a/3.jpg": "z", "a/4.jpg": "v"}
    # 1.jpg was renamed to 2.jpg; what now bears its name is another photo, of which the file knows nothing.
    assert match(rows, photos) == {"a/2.jpg": "test", "a/3.jpg": "validation"}


def test_a_path_counts_when_its_content_was_changed() -> None:
    assert match((Row("a/1.jpg", "test", "x"),), {"a/1.jpg": "edited"}) == {"a/1.jpg": "test"}


def test_another_copy_of_a_photo_that_is_listed_twice_goes_to_the_stronger_side() -> None:
    for rows in itertools.permutations((Row("1.jpg", "train", "x"), Row("2.jpg", "test", "x"), Row("3.jpg", "train"))):
        assert match(rows, {"4.jpg": "x"}) == {"4.jpg": "test"}


# Families: near-duplicates and groups move as one, by the name of the family in place of the photo's id


def by_family(pairs: list[tuple[str, int]], family: dict[str, str], seed: int) -> dict[str, Split]:
    names = [family.get(id, id) for id, _ in pairs]
    sides = assign(names, [label for _, label in pairs], seed=seed)
    return dict(zip((id for id, _ in pairs), sides, strict=True))


links = st.lists(st.tuples(ids, ids, st.floats(0.9, 1)), max_size=40)


@settings(deadline=None)
@given(photos, links, seeds, st.randoms(use_true_random=False))
def test_no_family_straddles_and_order_does_not_matter(
    pairs: list[tuple[str, int]], linked: list[tuple[str, str, float]], seed: int, rng: random.Random
) -> None:
    alike = [Pair(*sorted((one, other)), agreement) for one, other, agreement in linked if one != other]
    ages = {id: (float(int(id, 16) % 3), float(int(id, 16) % 5)) for id, _ in pairs}
    family = families({}, alike, ages)
    sides = by_family(pairs, family, seed)
    for pair in alike:
        if pair.one in sides and pair.other in sides:
            assert sides[pair.one] == sides[pair.other]
    rng.shuffle(pairs)
    rng.shuffle(alike)
    assert by_family(pairs, families({}, alike, ages), seed) == sides


@settings(deadline=None)
@given(st.dictionaries(ids, st.integers(0, 4), max_size=60), links, seeds)
def test_each_class_of_two_families_keeps_a_test_and_a_train_photo(
    labels: dict[str, int], linked: list[tuple[str, str, float]], seed: int
) -> None:
    alike = [
        Pair(*sorted((one, other)), agreement)
        for one, other, agreement in linked
        if one != other and labels.get(one, -1) == labels.get(other, -2)
    ]
    pairs = list(labels.items())
    family = families({}, alike, {})
    sides = by_family(pairs, family, seed)
    for members in classes(pairs).values():
        several = {family.get(id, id) for id in members}
        expected = {"train", "test"} if len(several) > 1 else {"train"}
        assert expected <= {sides[id] for id in members}


@settings(deadline=None)
@given(st.dictionaries(ids, st.integers(0, 2), min_size=2, max_size=40), seeds, st.data())
def test_a_smaller_copy_that_is_added_moves_nobody_and_joins_its_elder(
    labels: dict[str, int], seed: int, data: st.DataObject
) -> None:
    pairs = list(labels.items())
    elder = data.draw(st.sampled_from(sorted(labels)))
    ages = dict.fromkeys(labels, (100.0, 100.0)) | {"copy": (25.0, 30.0)}
    before = by_family(pairs, {}, seed)
    after = by_family([*pairs, ("copy", labels[elder])], families({}, [Pair("copy", elder, 0.99)], ages), seed)
    assert after.pop("copy") == after[elder]
    assert after == before
