"""Features are computed once, come back to the same bits, and survive kills, full disks, and bad photos."""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from headstart import features as features_module
from headstart.data.dataset import Dataset, Item
from headstart.errors import DiskFull
from headstart.features import Features, extract
from headstart.modalities.image import ImageModality
from headstart.networks.network import Network
from headstart.runtimes.runtime import CHUNK
from headstart.store import Store

from .fake_network import MAP, POOLED, SPEC, FakeNetwork, fake_backbone

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def id_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def photo(seed: int) -> bytes:
    colours = np.random.default_rng(seed).integers(0, 256, (3, 3, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize((60, 45), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def manifest(root: Path) -> Dataset:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    items = (Item(id_of(path.read_bytes()), path.relative_to(root).as_posix(), 0, "train") for path in paths)
    return Dataset(root=root, classes=("any",), items=tuple(items))


def write(root: Path, numbers: range) -> Dataset:
    root.mkdir(exist_ok=True)
    for number in numbers:
        (root / f"{number:05}.jpg").write_bytes(photo(number))
    return manifest(root)


def run(dataset: Dataset, store: Store, network: FakeNetwork | None = None, **options: Any) -> Features:
    return finish(start(dataset, store, network, **options))


def start(
    dataset: Dataset, store: Store, network: FakeNetwork | None = None, *, cut: Any = POOLED, **options: Any
) -> Generator[Any, None, Features]:
    network = network or FakeNetwork()
    modality = options.pop("modality", ImageModality())
    backbone = options.pop("backbone", fake_backbone(network))
    return extract(dataset, backbone, cast(Network, network), cut, modality=modality, store=store, **options)


def finish(work: Generator[Any, None, Features]) -> Features:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast(Features, end.value)


def content_of(features: Features) -> np.ndarray:
    return features.take(features.ids)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", limit_bytes=10**9)


@pytest.fixture(scope="session")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Forty photos. Read them, do not change them."""
    return write(tmp_path_factory.mktemp("forty") / "photos", range(40))


@pytest.fixture
def few(tmp_path: Path) -> Dataset:
    return write(tmp_path / "photos", range(8))


# ---- what comes out


def test_a_row_is_what_the_network_says_about_the_decoded_photo(forty, store):
    features = run(forty, store)
    network, modality = FakeNetwork(), ImageModality()
    for item in (forty.items[0], forty.items[17], forty.items[39]):
        picture = modality.decode((forty.root / item.path).read_bytes(), SPEC, reduced=True)
        assert np.array_equal(features.take([item.id]), network.features(picture[None], POOLED))
    assert features.ids == tuple(item.id for item in forty.items)
    assert features.shape == (8,)
    assert features.unreadable == {}


def test_feature_maps_are_kept_with_their_shape(few, store):
    features = run(few, store, cut=MAP)
    assert features.shape == (4, 4, 8)
    assert features.take(features.ids[:3]).shape == (3, 4, 4, 8)


def test_nothing_is_computed_a_second_time(forty, store):
    first = run(forty, store)
    network = FakeNetwork()
    second = run(forty, store, network)
    assert network.shapes == []
    assert np.array_equal(content_of(first), content_of(second))


def test_only_photos_that_were_added_are_computed(tmp_path, store):
    before = run(write(tmp_path / "photos", range(20)), store)
    network = FakeNetwork()
    after = run(write(tmp_path / "photos", range(25)), store, network)
    assert len(network.shapes) == math.ceil(5 / CHUNK)
    assert np.array_equal(after.take(before.ids), content_of(before))
    alone = run(write(tmp_path / "photos", range(25)), Store(tmp_path / "other"))
    assert np.array_equal(content_of(alone), content_of(after))


def test_equal_photos_are_computed_once_wherever_they_lie(tmp_path, store):
    write(tmp_path / "photos", range(10))
    for number in range(10):
        (tmp_path / "photos" / f"again-{number}.jpg").write_bytes(photo(number))
    network = FakeNetwork()
    features = run(manifest(tmp_path / "photos"), store, network)
    assert len(network.shapes) == math.ceil(10 / CHUNK)
    assert len(features.ids) == 10


def test_another_folder_with_the_same_photos_needs_no_computing(tmp_path, store):
    run(write(tmp_path / "one", range(10)), store)
    network = FakeNetwork()
    run(write(tmp_path / "other", range(10)), store, network)
    assert network.shapes == []


def test_every_forward_pass_has_the_same_shape(forty, store):
    network = FakeNetwork()
    run(forty, store, network)
    assert network.shapes == [(CHUNK, 32, 32, 3)] * math.ceil(40 / CHUNK)


def test_progress_grows_to_the_whole(forty, store):
    told = list(start(forty, store))
    assert [event.done for event in told] == [*range(0, 40, CHUNK), 40]
    assert {event.total for event in told} == {40}
    assert [event.done for event in start(forty, store)] == [40]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_workers_changes_no_bit(forty, store, tmp_path, workers):
    one = run(forty, Store(tmp_path / "other"), workers=1)
    network = FakeNetwork()
    many = run(forty, store, network, workers=workers)
    assert network.workers == [workers]
    assert np.array_equal(content_of(one), content_of(many))
    names = [sorted(path.name for path in root.glob("*/*.npy")) for root in (store.root, tmp_path / "other")]
    assert names[0] == names[1]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_threads_compute_at_once_than_the_network_wants(forty, store, concurrency):
    network = FakeNetwork(concurrency=concurrency, seconds=0.02)
    run(forty, store, network, workers=6)
    assert network.most_computing <= concurrency


def test_other_preprocessing_is_another_shelf(few, store):
    from dataclasses import replace

    first = run(few, store)
    network = FakeNetwork()
    other = run(few, store, network, backbone=fake_backbone(spec=replace(SPEC, interpolation="bicubic")))
    assert network.shapes
    assert first.fingerprint != other.fingerprint
    assert not np.array_equal(content_of(first), content_of(other))


def test_a_key_without_preprocessing_would_give_the_wrong_features(few, store, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(features_module, "fingerprint", lambda *_, **__: "f" * 32)  # the injected fault
    first = run(few, store)
    network = FakeNetwork()
    other = run(few, store, network, backbone=fake_backbone(spec=replace(SPEC, interpolation="bicubic")))
    assert network.shapes == []
    assert np.array_equal(content_of(first), content_of(other))


def test_views_differ_from_each_other_and_are_the_same_every_time(few, store, tmp_path):
    plain, one, two = (content_of(run(few, store, view=view)) for view in (0, 1, 2))
    assert not np.array_equal(plain, one)
    assert not np.array_equal(one, two)
    assert np.array_equal(one, content_of(run(few, Store(tmp_path / "other"), view=1)))


# ---- bad photos


def test_unreadable_photos_are_told_with_their_reason_and_not_tried_again(tmp_path, store):
    root = tmp_path / "photos"
    write(root, range(30))
    (root / "empty.jpg").write_bytes(b"")
    (root / "cut.jpg").write_bytes(photo(99)[:-200])
    dataset = manifest(root)
    features = run(dataset, store)
    assert len(features.ids) == 30
    by_path = {item.path: features.unreadable.get(item.id) for item in dataset.items}
    assert by_path["empty.jpg"] == "empty file"
    assert "ends before the picture does" in (by_path["cut.jpg"] or "")

    class Refusing(ImageModality):
        def decode(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("decoded again")

    again = run(dataset, store, modality=Refusing())
    assert again.unreadable == features.unreadable
    assert again.ids == features.ids


def test_photos_that_vanished_are_told_and_tried_again(few, store):
    lost = few.items[3]
    (few.root / lost.path).rename(few.root.parent / "away.jpg")
    features = run(few, store)
    assert set(features.unreadable) == {lost.id}
    assert "cannot be read" in features.unreadable[lost.id]
    (few.root.parent / "away.jpg").rename(few.root / lost.path)
    assert run(few, store).unreadable == {}


def test_a_photo_that_changed_never_stands_for_what_it_was(few, store):
    changed = few.items[3]
    (few.root / changed.path).write_bytes(photo(1000))
    features = run(few, store)
    assert "changed since" in features.unreadable[changed.id]
    (few.root / changed.path).write_bytes(photo(3))
    picture = ImageModality().decode(photo(3), SPEC, reduced=True)
    assert np.array_equal(run(few, store).take([changed.id]), FakeNetwork().features(picture[None], POOLED))


def test_a_photo_that_vanished_is_read_from_where_its_twin_lies(few, store):
    twin = few.items[3]
    (few.root / "twin.jpg").write_bytes(photo(3))
    dataset = manifest(few.root)
    (few.root / twin.path).unlink()
    assert run(dataset, store).unreadable == {}


def test_a_folder_without_a_single_readable_photo_gives_no_rows(tmp_path, store):
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.jpg").write_bytes(b"text %d" % number)
    features = run(manifest(root), store)
    assert features.ids == ()
    assert features.shape == ()
    assert len(features.unreadable) == 3


# ---- damage, interruption, company


def shards_in(store: Store) -> list[Path]:
    return sorted(store.root.glob("*/*.npy"))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "SHARD_ROWS", CHUNK)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete"])
@pytest.mark.usefixtures("small_shards")
def test_a_damaged_shard_is_computed_again(forty, store, damage):
    expected = content_of(run(forty, store))
    path = shards_in(store)[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flip": lambda: path.write_bytes(content),
        "cut": lambda: path.write_bytes(content[:100]),
        "empty": lambda: path.write_bytes(b""),
        "delete": path.unlink,
    }[damage]()
    network = FakeNetwork()
    assert np.array_equal(content_of(run(forty, store, network)), expected)
    assert len(network.shapes) == 1


@pytest.mark.usefixtures("small_shards")
def test_leaving_early_keeps_what_was_computed(forty, store):
    work = start(forty, store, workers=1)
    next(work)
    next(work)
    next(work)
    work.close()
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("photos")]
    assert threads == []
    network = FakeNetwork()
    run(forty, store, network)
    assert len(network.shapes) == 40 // CHUNK - 2


def test_a_fault_in_the_network_keeps_what_was_computed(forty, store):
    class Faulty(FakeNetwork):
        def features(self, *arguments: Any, **options: Any) -> np.ndarray:
            if len(self.shapes) == 2:
                raise RuntimeError("fault")
            return super().features(*arguments, **options)

    with pytest.raises(RuntimeError, match="fault"):
        run(forty, store, Faulty(), workers=1)
    network = FakeNetwork()
    run(forty, store, network)
    assert len(network.shapes) == 40 // CHUNK - 2


SCRIPT = """
import sys
from pathlib import Path
import headstart.features
from tests.test_features import CHUNK, FakeNetwork, Store, manifest, run
headstart.features.SHARD_ROWS = CHUNK
print("started", flush=True)
run(manifest(Path(sys.argv[1])), Store(Path(sys.argv[2])), FakeNetwork(seconds=float(sys.argv[3])))
print("finished", flush=True)
"""


def process(root: Path, cache: Path, seconds: float, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(root), str(cache), str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tmp_path):
    dataset = write(tmp_path / "photos", range(150))
    expected = run(dataset, Store(tmp_path / "undisturbed"), workers=1)
    store = Store(tmp_path / "cache")
    kept = []
    for wait in (0.03, 0.09, 0.15):
        with process(dataset.root, store.root, 0.05) as killed:
            assert killed.stdout is not None
            killed.stdout.readline()
            time.sleep(wait)
            killed.send_signal(signal.SIGKILL)
        kept.append(len(shards_in(store)))
    assert kept == sorted(kept)
    features = run(dataset, store)
    assert features.ids == expected.ids
    assert np.array_equal(content_of(features), content_of(expected))


def test_two_processes_at_once_give_what_one_gives(tmp_path):
    dataset = write(tmp_path / "photos", range(150))
    expected = run(dataset, Store(tmp_path / "undisturbed"), workers=1)
    store = Store(tmp_path / "cache")
    both = [process(dataset.root, store.root, 0.01) for _ in range(2)]
    for each in both:
        assert each.communicate(timeout=300)[0].split() == ["started", "finished"]
        assert each.returncode == 0
    network = FakeNetwork()
    features = run(dataset, store, network)
    assert network.shapes == []
    assert np.array_equal(content_of(features), content_of(expected))
    assert not list(store.root.glob("*/.*"))


def test_two_at_once_in_a_cache_that_is_too_small_still_get_their_features(tmp_path):
    dataset = write(tmp_path / "photos", range(100))
    expected = content_of(run(dataset, Store(tmp_path / "undisturbed")))
    results: dict[int, np.ndarray] = {}

    def work(view: int) -> None:
        # Different engines, so different shelves, each of which pushes the other one out.
        network = FakeNetwork(engine=f"numpy-{view}")
        results[view] = content_of(run(dataset, Store(tmp_path / "cache", limit_bytes=1), network))

    threads = [threading.Thread(target=work, args=(view,)) for view in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert all(np.array_equal(result, expected) for result in results.values())


def test_the_cache_stays_within_its_limit_but_for_what_is_in_use(tmp_path, forty):
    root = tmp_path / "cache"
    run(forty, Store(root), FakeNetwork(engine="old"))
    size = Store(root).usage().bytes
    features = run(forty, Store(root, limit_bytes=int(size * 1.5)), FakeNetwork(engine="new"))
    assert Store(root).usage().bytes <= size * 1.5
    assert len(content_of(features)) == 40
    network = FakeNetwork(engine="new")
    run(forty, Store(root), network)
    assert network.shapes == []


def full_at(size: int) -> None:
    """In the new process, no file may grow beyond `size` bytes: what a full disk looks like."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


FULL = """
import sys
from pathlib import Path
from headstart.errors import DiskFull
from tests.test_features import Store, manifest, run
try:
    run(manifest(Path(sys.argv[1])), Store(Path(sys.argv[2])))
except DiskFull as problem:
    print(problem)
"""


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_written(tmp_path):
    dataset = write(tmp_path / "photos", range(60))
    cache = tmp_path / "cache"
    told = subprocess.run(
        [sys.executable, "-c", FULL, str(dataset.root), str(cache)],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: full_at(1500),
        stdout=subprocess.PIPE,  # a pipe has no size
        text=True,
        check=True,
        timeout=300,
    ).stdout
    assert f"no room for features in the cache '{cache}': " in told
    assert " needed, " in told
    assert " free\n" in told
    assert "hint: free some space, or set HEADSTART_CACHE" in told
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["meta.json"]
    assert len(run(dataset, Store(cache)).ids) == 60


@pytest.mark.usefixtures("small_shards")
def test_what_was_finished_before_the_disk_was_full_is_kept(forty, store, monkeypatch):
    written = 0
    real = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > 3:  # the description, and two shards
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskFull, match="needed"):
        run(forty, store, workers=1)
    monkeypatch.undo()
    assert len(shards_in(store)) == 2
    assert not list(store.root.glob("*/.*"))


# ---- memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of this process from /proc")
def test_what_waits_in_memory_does_not_grow_with_the_number_of_photos(tmp_path, store):
    import tracemalloc

    peaks = []
    for count in (100, 700):
        dataset = write(tmp_path / f"{count}", range(count))
        tracemalloc.start()
        run(dataset, Store(tmp_path / f"cache-{count}"), cut=MAP, workers=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 512 rows of 512 bytes wait for their shard, and are then joined: what comes on top is places, not rows.
    assert peaks[1] < peaks[0] + 2 * 512 * 512 + 600 * 400


# ---- the real thing


@pytest.mark.skipif(not DATA.exists(), reason=f"no real photos in {DATA}")
def test_real_photos_through_the_bundled_network_are_the_same_bits_in_any_company(tmp_path):
    from headstart.backbones.loading import load_backbone

    backbone = load_backbone("bundled", size=64)
    network = backbone.build()
    paths = sorted(DATA.glob("hymenoptera/*/*.jpg"))[:40]
    items = tuple(Item(id_of(path.read_bytes()), path.relative_to(DATA).as_posix(), 0, "train") for path in paths)
    dataset = Dataset(root=DATA, classes=("any",), items=items)
    shuffled = dataset.with_items(random.Random(0).sample(items, 25))
    one, other = (
        finish(
            extract(
                photos,
                backbone,
                network,
                network.cuts[-1],
                modality=ImageModality(),
                store=Store(tmp_path / name),
                workers=workers,
            )
        )
        for photos, name, workers in ((dataset, "a", 2), (shuffled, "b", 1))
    )
    assert one.shape == (1280,)
    assert np.isfinite(content_of(one)).all()
    assert np.array_equal(one.take(other.ids), content_of(other))
