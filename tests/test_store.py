"""The cache keeps rows whole, gives back exactly these, stays within its bounds and deletes nothing else."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from headstart import shards
from headstart.errors import BadData, BadSetting
from headstart.store import Found, Shelf, Store, readable


def id_of(number: int) -> str:
    return f"{number:032x}"


def ids_of(*numbers: int) -> list[str]:
    return [id_of(number) for number in numbers]


def rows_of(*numbers: int) -> np.ndarray:
    return np.array([[number, number + 0.5, -number] for number in numbers], dtype=np.float32)


def put(shelf: Shelf, *numbers: int) -> Path:
    """Write a shard; the file."""
    found = shelf.find([])
    shelf.add(ids_of(*numbers), rows_of(*numbers), found)
    return found.rows.paths[-1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", limit_bytes=10**9)


@pytest.fixture
def shelf(store: Store) -> Shelf:
    return store.shelf("f" * 32, {"what": "fake/grid, pooled"})


def test_rows_come_back_exactly_in_the_order_asked_for(shelf):
    put(shelf, 1, 2, 3)
    put(shelf, 4, 5)
    found = shelf.find(ids_of(5, 1, 4, 9))
    assert len(found.rows) == 3
    assert id_of(9) not in found.rows
    assert np.array_equal(found.rows.take(ids_of(5, 1, 4, 5)), rows_of(5, 1, 4, 5))
    assert found.rows.take([]).shape == (0, 3)


def test_a_copy_that_was_taken_can_be_written_to(shelf):
    put(shelf, 1)
    taken = shelf.find(ids_of(1)).rows.take(ids_of(1))
    taken += 1
    assert np.array_equal(shelf.find(ids_of(1)).rows.take(ids_of(1)), rows_of(1))


def test_rows_of_any_shape_are_kept(shelf):
    maps = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
    shelf.add(ids_of(*range(5)), maps, shelf.find([]))
    found = shelf.find(ids_of(*range(5)))
    assert found.rows.shape == (2, 3, 4)
    assert np.array_equal(found.rows.take(ids_of(3, 0)), maps[[3, 0]])


def test_a_shard_is_a_file_that_any_numpy_opens(shelf):
    assert np.array_equal(np.load(put(shelf, 7, 8)), rows_of(7, 8))


def test_the_same_rows_written_twice_are_one_file(shelf):
    assert put(shelf, 1, 2) == put(shelf, 1, 2)
    assert len(list(shelf.folder.glob("*.npy"))) == 1


def test_reasons_are_kept(shelf):
    shelf.add_reasons({id_of(1): "empty file", id_of(2): "damaged: naïve ☃"}, shelf.find([]))
    assert shelf.find(ids_of(2, 3)).reasons == {id_of(2): "damaged: naïve ☃"}


@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 0.99])
def test_a_damaged_shard_never_gives_rows(shelf, place):
    path = put(shelf, *range(50))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x20
    path.write_bytes(content)
    found = shelf.find(ids_of(*range(50)))
    assert len(found.rows) == 0
    assert not path.exists()


@pytest.mark.parametrize("length", [0, 5, 100, 400, -16, -1])
def test_a_truncated_shard_never_gives_rows(shelf, length):
    path = put(shelf, *range(50))
    path.write_bytes(path.read_bytes()[:length])
    assert len(shelf.find(ids_of(*range(50))).rows) == 0
    assert not path.exists()


def test_damage_would_give_wrong_rows_if_nothing_were_checked(shelf, monkeypatch):
    monkeypatch.setattr("headstart.store.intact", lambda path: True)
    path = put(shelf, *range(50))
    content = bytearray(path.read_bytes())
    content[300] ^= 0x20
    path.write_bytes(content)
    numbers = range(50)
    assert not np.array_equal(shelf.find(ids_of(*numbers)).rows.take(ids_of(*numbers)), rows_of(*numbers))


def test_damaged_reasons_are_forgotten(shelf):
    shelf.add_reasons({id_of(1): "empty file"}, shelf.find([]))
    (path,) = shelf.folder.glob("*-*.json")
    path.write_text("{}")
    assert shelf.find(ids_of(1)).reasons == {}
    assert not path.exists()


def test_files_of_others_on_a_shelf_are_left_alone(shelf, store):
    put(shelf, 1)
    strange = [shelf.folder / name for name in ("notes.txt", "0-1-2.npy", "features.npy")]
    for path in strange:
        path.write_text("mine")
    assert len(shelf.find(ids_of(1)).rows) == 1
    Store(store.root, limit_bytes=0).trim()
    store.clear()
    assert all(path.read_text() == "mine" for path in strange)


def test_only_as_many_files_are_kept_open_as_a_process_may_open(shelf, monkeypatch):
    monkeypatch.setattr(shards, "OPEN", 3)
    for number in range(10):
        put(shelf, number)
    rows = shelf.find(ids_of(*range(10))).rows
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert np.array_equal(rows.take(ids_of(*range(10))), rows_of(*range(10)))
    assert len(rows._maps) == 3
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


def test_rows_stay_readable_while_another_process_deletes_their_files(shelf, store):
    put(shelf, 1, 2)
    rows = shelf.find(ids_of(1, 2)).rows
    store.clear()
    assert np.array_equal(rows.take(ids_of(2)), rows_of(2))


def test_rows_whose_file_had_to_be_closed_and_is_gone_are_a_clear_error(shelf, store, monkeypatch):
    monkeypatch.setattr(shards, "OPEN", 1)
    put(shelf, 1)
    put(shelf, 2)
    rows = shelf.find(ids_of(1, 2)).rows
    store.clear()
    with pytest.raises(BadData, match="deleted while they were in use"):
        rows.take(ids_of(1, 2))


# ---- bounds


def aged(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_the_least_recently_used_files_go_first_and_those_in_use_stay(store):
    old, newer = (store.shelf(name * 32, {"what": name}) for name in "ab")
    oldest, used, recent = aged(put(old, 1), 900), aged(put(old, 2), 800), aged(put(newer, 3), 700)
    store.limit_bytes = 0
    assert store.trim(keep=[used]) > 0
    assert [path.exists() for path in (oldest, used, recent)] == [False, True, False]


def test_what_is_large_for_each_item_goes_before_what_every_run_begins_with(store):
    pooled, maps = store.shelf("a" * 32, {"what": "pooled"}), store.shelf("b" * 32, {"what": "map, view 1"})
    small = aged(put(pooled, *range(100)), 3 * 86400)
    maps.add(ids_of(*range(100)), np.zeros((100, 20, 100), np.float32), maps.find([]))
    (large,) = maps.folder.glob("*.npy")
    aged(large, 7200)
    store.limit_bytes = large.stat().st_size
    store.trim()
    assert [small.exists(), large.exists()] == [True, False]


def test_what_somebody_reads_is_never_deleted_to_make_room(store, shelf):
    paths = [aged(put(shelf, number), 900) for number in range(3)]
    reading = shelf.find(ids_of(0, 1)).rows
    for path in paths:
        aged(path, 900)
    store.limit_bytes = 0
    store.trim()
    assert [path.exists() for path in paths] == [True, True, False]
    assert np.array_equal(reading.take(ids_of(1)), rows_of(1))
    del reading
    store.trim()
    assert not any(path.exists() for path in paths)


def test_only_what_does_not_fit_goes(store, shelf):
    files = [aged(put(shelf, number), 900 - number) for number in range(4)]
    store.limit_bytes = 2 * files[0].stat().st_size
    store.trim()
    assert [path.exists() for path in files] == [False, False, True, True]


def test_finding_rows_makes_their_file_recently_used(store, shelf):
    first, second = aged(put(shelf, 1), 900), aged(put(shelf, 2), 800)
    shelf.find(ids_of(1))
    store.limit_bytes = first.stat().st_size
    store.trim()
    assert first.exists()
    assert not second.exists()


def test_what_killed_processes_left_goes_and_what_is_being_written_stays(store, shelf):
    dead, alive = shelf.folder / ".a.npy.1.part", shelf.folder / ".b.npy.2.part"
    dead.touch()
    alive.touch()
    aged(dead, 7200)
    store.trim()
    assert not dead.exists()
    assert alive.exists()


def test_usage_tells_what_lies_there_the_last_used_first(store):
    grid = store.shelf("a" * 32, {"what": "fake/grid, pooled"})
    other = store.shelf("b" * 32, {"what": "other, map"})
    aged(put(grid, 1, 2), 900)
    aged(put(grid, 3), 900)
    put(other, 4)
    usage = store.usage()
    assert [(shelf.what, shelf.items) for shelf in usage.shelves] == [("other, map", 1), ("fake/grid, pooled", 3)]
    assert usage.bytes == sum(path.stat().st_size for path in store.root.glob("*/*.npy"))
    assert (usage.root, usage.limit) == (store.root, store.limit_bytes)
    assert abs(usage.shelves[0].last_used.timestamp() - time.time()) < 60


def test_usage_survives_a_shelf_without_a_readable_description(store, shelf):
    (shelf.folder / "meta.json").write_text("{")
    assert [shelf.what for shelf in store.usage().shelves] == ["unknown"]


def test_clearing_leaves_nothing_of_ours_and_everything_else(store, shelf):
    size = put(shelf, 1).stat().st_size
    shelf.add_reasons({id_of(2): "empty file"}, shelf.find([]))
    neighbour = store.root / "holiday"
    neighbour.mkdir()
    (neighbour / "photo.npy").write_text("mine")
    assert store.clear() > size
    assert not shelf.folder.exists()
    assert (neighbour / "photo.npy").exists()
    assert store.usage().shelves == ()


def test_a_shelf_that_was_cleared_can_be_used_on(store, shelf):
    store.clear()
    put(shelf, 1)
    assert len(shelf.find(ids_of(1)).rows) == 1
    assert len(store.usage().shelves) == 1


def test_an_absent_cache_is_an_empty_one(tmp_path):
    store = Store(tmp_path / "none")
    assert store.usage().bytes == store.clear() == store.trim() == 0


# ---- where, and how large


def test_the_environment_says_where_the_cache_lies_and_how_large_it_grows(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", "1.5 MB")
    store = Store.default()
    assert store.root.parent == tmp_path
    assert store.limit_bytes == 1_500_000


def test_without_a_word_it_lies_in_the_users_cache_folder(monkeypatch):
    monkeypatch.delenv("HEADSTART_CACHE", raising=False)
    monkeypatch.delenv("HEADSTART_CACHE_LIMIT", raising=False)
    assert "headstart" in str(Store.default().root)
    assert Store.default().limit_bytes == 20 * 10**9


@pytest.mark.parametrize(("text", "size"), [("10GB", 10**10), ("500m", 5 * 10**8), ("123", 123), ("2TB", 2 * 10**12)])
def test_limits_are_written_as_sizes(text, size, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", text)
    assert Store.default().limit_bytes == size


@pytest.mark.parametrize("text", ["much", "-1GB", "10 apples", "GB"])
def test_a_limit_that_is_no_size_is_refused(text, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", text)
    with pytest.raises(BadSetting, match=re.escape(repr(text))):
        Store.default()


def test_a_cache_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(BadSetting, match="cannot be written"):
        Store(tmp_path / "cache").shelf("a" * 32, {"what": "any"})


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (3_140_000, "3.1 MB"), (2 * 10**13, "20.0 TB")]
)
def test_sizes_are_told_in_the_unit_that_fits(size, text):
    assert readable(size) == text


def test_found_starts_empty():
    assert len(Found(shards.Rows(), {}).rows) == 0
