"""A stage that starts at the freeze boundary, from activations kept on disk, learns what it would learn from photos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import features as features_module
from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import load_backbone
from headstart.choosing import Choices
from headstart.data.dataset import Dataset
from headstart.data.loading import load_labelled
from headstart.errors import DiskFull
from headstart.events import Decision, EpochEnded, Event
from headstart.modalities.image import ImageModality
from headstart.networks.network import Batch, Network
from headstart.outcome import outcome
from headstart.runtimes.opening import offers
from headstart.runtimes.runtime import Precision
from headstart.shards import Rows, halved, write_rows
from headstart.store import Shelf, Store
from headstart.training import batches as batches_module
from headstart.training.batches import CachedBatches, PhotoBatches
from headstart.training.loop import Source, train
from headstart.training.sources import Workshop, cost_of, entry, open_stage
from headstart.training.stages import Stage
from headstart.training.views import Cost, choose

from .conformance import networks as suite
from .conftest import CLASSES, draw

# Of a number, by rounding to float16; and what becomes of it in 40 steps: in a loss, and in how far weights went.
ROUNDING, LOSS, WEIGHTS = 2.0**-11, 1e-3, 2e-3
STAGE = Stage(epochs=5, lr=1e-2, unfreeze=1, batch_size=8, augment=False, views=1, name="tune")
NETWORKS = [pytest.param(name, marks=[pytest.mark.keras] * (name == "keras")) for name in ("torch", "keras")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("boundary") / "photos"
    for number, (name, colour) in enumerate(CLASSES.items()):
        for index in range(26):
            draw(folder / name / f"{index:02}.jpg", colour, seed=500 * number + index)
    data = load_labelled(folder, classes=tuple(sorted(CLASSES)))
    return data.with_items(
        replace(item, split="train" if place % 8 else "validation") for place, item in enumerate(data.items)
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@dataclass
class Trained:
    """What a stage did."""

    network: Network
    source: Source
    events: list[Event]
    moved: dict[str, np.ndarray]  # how far each weight went

    @property
    def losses(self) -> np.ndarray:
        told = [(event.loss, event.validation_loss) for event in self.events if isinstance(event, EpochEnded)]
        return np.array(told, np.float64)


def workshop(network: Network, store: Store) -> Workshop:
    backbone = Backbone(
        name="small", spec=suite.SPEC, weights_hash="0" * 64, licence="none", framework="torch", build=lambda: network
    )
    return Workshop(backbone=backbone, network=network, modality=ImageModality(), store=store, workers=2, seed=0)


def opened(shop: Workshop, stage: Stage, photos: Dataset) -> tuple[Source, Any, list[Event]]:
    events = []
    work = open_stage(shop, stage, photos, shop.network.head_cut)
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return (*end.value, events)


def trained(name: str, store: Store, photos: Dataset, stage: Stage = STAGE) -> Trained:
    network = suite.with_head(suite.NETWORKS[name]())
    before = network.weights()
    source, judge, events = opened(workshop(network, store), stage, photos)
    events += train(network, stage, source, seed=0, judge=judge)
    after = network.weights()
    return Trained(network, source, events, {key: after[key].astype(np.float64) - before[key] for key in after})


def apart(one: Trained, other: Trained) -> float:
    """How far the weights ended from each other, of how far they went."""
    gone = sum(float((moved**2).sum()) for moved in one.moved.values())
    between = sum(float(((one.moved[key] - other.moved[key]) ** 2).sum()) for key in one.moved)
    return float(np.sqrt(between / gone))


def check_equal(one: Trained, other: Trained, *, loss: float = LOSS, weights: float = WEIGHTS) -> None:
    assert np.abs(one.losses / other.losses - 1).max() <= loss
    assert apart(one, other) <= weights


def unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "halved", lambda rows: rows)


# ---- the same result


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stage_learns_from_the_boundary_what_it_learns_from_photos(
    name: str, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_photos = trained(name, Store(tmp_path / "none"), photos, replace(STAGE, views=0))
    assert isinstance(from_photos.source, PhotoBatches)
    rounded = trained(name, Store(tmp_path / "rounded"), photos)
    assert isinstance(rounded.source, CachedBatches)
    assert rounded.source.views[0].halves
    check_equal(rounded, from_photos)
    unrounded(monkeypatch)
    exact = trained(name, Store(tmp_path / "exact"), photos)
    assert not exact.source.views[0].halves  # type: ignore[attr-defined]
    check_equal(exact, from_photos, loss=1e-6, weights=0.0)  # judges differ: the same layers compiled in two pieces


def wrong_row(monkeypatch: pytest.MonkeyPatch, store: Store, photos: Dataset) -> None:
    plain = Rows.copy
    monkeypatch.setattr(Rows, "copy", lambda rows, ids, to, places=None: plain(rows, list(ids)[::-1], to, places))


def wrong_view(monkeypatch: pytest.MonkeyPatch, store: Store, photos: Dataset) -> None:
    plain = Workshop.features
    monkeypatch.setattr(
        Workshop, "features", lambda shop, *rest, view=0, **more: plain(shop, *rest, view=view + 1, **more)
    )


def stale_rows(monkeypatch: pytest.MonkeyPatch, store: Store, photos: Dataset) -> None:
    """What other weights once said, found again under the same name."""
    shop = workshop(suite.with_head(other_network()), store)
    opened(shop, STAGE, photos)


def other_network() -> Network:
    network = suite.small_torch_network()
    network.load_weights({name: value + 0.02 for name, value in network.weights().items()})
    return network


@pytest.mark.parametrize("fault", [wrong_row, wrong_view, stale_rows])
def test_a_cache_with_a_fault_is_noticed(
    fault: Any, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_photos = trained("torch", Store(tmp_path / "none"), photos, replace(STAGE, views=0))
    store = Store(tmp_path / "cache")
    fault(monkeypatch, store, photos)
    with pytest.raises(AssertionError):
        check_equal(trained("torch", store, photos), from_photos)


@dataclass(frozen=True)
class SameViews:
    """Batches of pixels of the very views that are kept: each photo begins with one of its own, and takes the next."""

    cached: CachedBatches

    @property
    def steps(self) -> int:
        return self.cached.steps

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        data, count = self.cached.dataset, len(self.cached.views)
        backbone = workshop(suite.small_torch_network(), Store(Path("unused"))).backbone
        for part in self.cached.order.epoch(number, first):
            pictures = []
            for item in (data.items[row] for row in part.rows):
                view = (batches_module.key(0, item.id) + number) % count
                content = data.file(item.path).read_bytes()
                pictures.append(
                    features_module._view(content, modality=ImageModality(), backbone=backbone, reduced=True, view=view)
                )
            yield Batch(np.stack(pictures), data.labels[part.rows], part.weights)


def test_views_come_in_turn_and_are_those_that_were_drawn(photos: Dataset, tmp_path: Path) -> None:
    stage = replace(STAGE, augment=True, views=3)
    cached = trained("torch", Store(tmp_path / "cache"), photos, stage)
    source = cached.source
    assert isinstance(source, CachedBatches)
    drawn = losses_on(SameViews(source), stage)
    assert np.abs(cached.losses[:, 0] / drawn - 1).max() <= LOSS
    wrong = replace(source, views=source.views[::-1])
    assert np.abs(losses_on(wrong, stage) / drawn - 1).max() > LOSS


def losses_on(source: Source, stage: Stage) -> np.ndarray:
    """Of each epoch, by a fresh network on these batches."""
    network = suite.with_head(suite.small_torch_network())
    events = train(network, stage, source, seed=0)
    return np.array([event.loss for event in events if isinstance(event, EpochEnded)])


def test_adapters_start_from_the_boundary_too(photos: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from .test_adapters import network as transformer

    stage = replace(STAGE, lora=2, decay=1.0)
    ends = []
    for views in (0, 1):
        network = transformer()
        source, judge, _ = opened(workshop(network, Store(tmp_path / str(views))), replace(stage, views=views), photos)
        assert isinstance(source, CachedBatches if views else PhotoBatches)
        events = list(train(network, stage, source, seed=0, judge=judge))
        ends.append(np.array([event.loss for event in events if isinstance(event, EpochEnded)]))
    assert np.abs(ends[1] / ends[0] - 1).max() <= LOSS


# ---- on a real network


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-3), ("bf16", 0.06)])
def test_the_live_part_of_a_real_network_answers_to_what_is_kept_as_to_photos(
    precision: Precision, bound: float, photos: Dataset, store: Store
) -> None:
    backbone = load_backbone("bundled", size=64)
    network = suite.with_head(backbone.build())
    if precision not in {offer.precision for offer in offers(network)}:
        pytest.skip(f"nothing computes in {precision} here")
    cut, few = entry(network, replace(STAGE, unfreeze=2), network.head_cut), photos.train
    few = few.with_items(few.items[:24])
    shop = replace(workshop(network, store), backbone=backbone, choices=Choices(precision=precision))
    kept = outcome(shop.features(few, cut, half=True))
    assert kept.halves
    pixels = [shop.modality.decode(few.file(item.path).read_bytes(), backbone.spec, reduced=True) for item in few.items]
    wanted = network.logits(np.stack(pixels))
    rows = np.empty((len(few), *kept.shape), np.float16)
    kept.copy([item.id for item in few.items], rows)

    def apart_by(answers: np.ndarray) -> float:
        return float(np.linalg.norm(answers - wanted) / np.linalg.norm(wanted - wanted.mean(axis=0)))

    assert 0 < apart_by(network.logits(rows, cut)) <= bound
    assert apart_by(network.logits(np.roll(rows, 1, axis=0), cut)) > 5 * bound


# ---- rounding


def test_rounding_changes_no_number_by_more_than_is_said() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(50, 3, 3, 8)) * scale for scale in (1e-4, 1, 30, 1e4)]).astype(np.float32)
    rows[:, 0, 0, 0] = 1.0
    kept = halved(rows)
    assert kept.dtype == np.float16
    error = np.abs(kept.astype(np.float64) - rows)
    assert (error <= np.maximum(ROUNDING * np.abs(rows), 2.0**-25)).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 65505.0, -1e6])
def test_rows_that_float16_cannot_hold_stay_as_they_are_and_the_others_are_rounded_all_the_same(value: float) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
    rows[2, 0, 1, 1] = value
    kept = halved(rows)
    assert kept.dtype == np.float32
    assert np.array_equal(kept[2], rows[2], equal_nan=True)
    assert np.array_equal(kept[[0, 1, 3]], halved(rows[[0, 1, 3]]).astype(np.float32))


def test_rows_that_are_tiny_throughout_stay_as_they_are() -> None:
    rows = np.full((2, 4), 1e-6, np.float32)
    assert np.array_equal(halved(rows), rows)
    assert halved(np.zeros((2, 4), np.float32)).dtype == np.float16
    assert halved(np.empty((0,), np.float32)).shape == (0,)


def test_files_of_both_kinds_are_read_together_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(3, 2, 2, 4)), 1e5 * rng.normal(size=(2, 2, 2, 4))
    ids = [f"{number:032x}" for number in range(5)]
    rows = Rows()
    rows.add(write_rows(tmp_path, ids[:3], halved(small.astype(np.float32))), enumerate(ids[:3]))
    assert rows.halves
    assert np.array_equal(rows.take(ids[:3]), small.astype(np.float16).astype(np.float32))
    rows.add(write_rows(tmp_path, ids[3:], halved(large.astype(np.float32))), enumerate(ids[3:]))
    assert not rows.halves
    assert np.array_equal(rows.take(ids[::-1])[:2], large.astype(np.float32)[::-1])
    assert np.load(rows.paths[0]).dtype == np.float16


def test_what_is_rounded_and_what_is_not_are_two_things(photos: Dataset, store: Store) -> None:
    network = suite.with_head(suite.small_torch_network())
    shop = workshop(network, store)
    cut = entry(network, STAGE, network.head_cut)
    found = [outcome(shop.features(photos.train, cut, half=half)) for half in (False, True)]
    assert found[0].fingerprint != found[1].fingerprint
    ids = found[0].ids
    assert np.array_equal(found[0].take(ids).astype(np.float16), found[1].take(ids))
    size = [sum(path.stat().st_size for path in each._rows.paths) for each in found]
    assert size[1] < 0.6 * size[0]


# ---- how batches come


def cached(photos: Dataset, store: Store, **order: Any) -> CachedBatches:
    network = suite.with_head(suite.small_torch_network())
    source, _, _ = opened(workshop(network, store), replace(STAGE, augment=True, views=2), photos)
    assert isinstance(source, CachedBatches)
    return replace(source, order=replace(source.order, **order)) if order else source


def test_arrays_are_filled_again_but_never_one_that_somebody_holds(photos: Dataset, store: Store) -> None:
    source = cached(photos, store)
    held = [(batch.inputs, batch.inputs.copy()) for batch in source.epoch(0)]
    assert all(np.array_equal(given, copied) for given, copied in held)
    views = [batch.inputs[:1] for batch in source.epoch(0)]  # a view holds its array
    assert all(np.array_equal(view, copied[:1]) for view, (_, copied) in zip(views, held, strict=True))
    fresh = cached(photos, store)
    places = {batch.inputs.ctypes.data for batch in fresh.epoch(0)}
    assert len(places) < fresh.steps


def test_arrays_that_were_filled_while_held_would_be_noticed(
    photos: Dataset, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module._Arrays, "_holders", lambda arrays, place: 0)
    held = [(batch.inputs, batch.inputs.copy()) for batch in cached(photos, store).epoch(0)]
    assert not all(np.array_equal(given, copied) for given, copied in held)


def test_an_epoch_entered_in_its_middle_goes_on_with_the_same_batches(photos: Dataset, store: Store) -> None:
    source = cached(photos, store)
    whole, rest = ([batch.inputs.copy() for batch in source.epoch(3, first)] for first in (0, 4))
    assert [batch.tolist() for batch in whole[4:]] == [batch.tolist() for batch in rest]


def test_two_processes_share_each_batch(photos: Dataset, store: Store) -> None:
    alone = list(cached(photos, store).epoch(1))
    parts = [list(cached(photos, store, shard=(rank, 2)).epoch(1)) for rank in (0, 1)]
    for whole, *halves in zip(alone, *parts, strict=True):
        joined = np.concatenate([half.inputs for half in halves])[: len(whole.inputs)]
        assert np.array_equal(joined, whole.inputs)
        assert sum(half.weights.sum() for half in halves) == pytest.approx(1.0)


def test_what_goes_wrong_while_reading_ahead_is_told_where_the_batch_is_asked_for(
    photos: Dataset, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cached(photos, store)
    plain = Rows.copy

    def fails(rows: Rows, ids: Any, to: Any, places: Any = None) -> None:
        if late:
            raise OSError("the disk is gone")
        plain(rows, ids, to, places)

    late = False
    monkeypatch.setattr(Rows, "copy", fails)
    batches = source.epoch(0)
    next(batches)
    late = True
    with pytest.raises(OSError, match="the disk is gone"):
        list(batches)


# ---- how many views


COST = Cost(photos=1000, judged=200, sights=1000, epochs=6, frozen=1.0, live=1.0, bytes=100_000)
PLENTY = 10**10


@pytest.mark.parametrize(
    ("cost", "room", "seconds", "count", "why"),
    [
        (COST, PLENTY, None, 4, "activations of 4 views: 420.0 MB in the cache"),
        (replace(COST, epochs=3), PLENTY, None, 3, "3 views"),
        (replace(COST, epochs=1), PLENTY, None, 1, "one view"),
        (replace(COST, frozen=0.2), PLENTY, None, 6, "costs little beside the steps"),
        (replace(COST, frozen=0.4), PLENTY, None, 5, "costs little beside the steps"),
        (replace(COST, frozen=0.2), 7 * 10**8, None, 4, "4 views"),  # more must leave half of the room
        (COST, 4 * 10**8, None, 3, "4 would take 420.0 MB, and there is room for 400.0 MB"),
        (COST, 10**8, None, 0, "every epoch computes the frozen part anew"),
        (COST, PLENTY, 9_500.0, 3, "longer than the time limit"),
        (COST, PLENTY, 100.0, 2, "longer than the time limit"),
    ],
)
def test_as_many_views_are_kept_as_quality_wants_and_disk_and_time_allow(
    cost: Cost, room: int, seconds: float | None, count: int, why: str
) -> None:
    chosen = choose(cost, wanted=4, room=room, seconds=seconds)
    assert (chosen.count, chosen.bytes) == (count, cost.room(count))
    assert why in chosen.reason


def test_the_size_that_is_told_is_the_size_on_the_disk(photos: Dataset, store: Store) -> None:
    network = suite.with_head(suite.small_torch_network())
    stage = replace(STAGE, augment=True, views=3)
    told = cost_of(network, stage, photos, network.head_cut).room(3)
    opened(workshop(network, store), stage, photos)
    assert told <= store.usage().bytes <= 1.1 * told


# ---- a full disk


def full_after(bytes_free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, so many bytes of rows fit."""
    plain, left = Shelf.add, bytes_free

    def add(shelf: Shelf, ids: Any, rows: np.ndarray, found: Any, **more: Any) -> None:
        nonlocal left
        if rows.nbytes > left:
            raise DiskFull("no room", fix="free some")
        left -= rows.nbytes
        plain(shelf, ids, rows, found, **more)

    monkeypatch.setattr(Shelf, "add", add)


@pytest.mark.parametrize(("fit", "kept"), [(3, 3), (2, 2), (1, 0), (0, 0)])
def test_where_the_disk_fills_the_stage_goes_on_with_fewer_views_or_from_photos(
    fit: int, kept: int, photos: Dataset, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "SHARD_ROWS", 16)
    network = suite.with_head(suite.small_torch_network())
    stage = replace(STAGE, augment=True, views=3)
    cost = cost_of(network, stage, photos, network.head_cut)
    full_after(cost.room(fit) + cost.bytes * 20 if fit else 0, monkeypatch)
    source, judge, events = opened(workshop(network, store), stage, photos)
    told = [event for event in events if isinstance(event, Decision) and event.name == "views/tune"]
    assert [event.value for event in told] == ([] if fit == 3 else [kept])
    assert all("the disk is full" in event.reason for event in told)
    assert isinstance(source, CachedBatches if kept else PhotoBatches)
    assert store.usage().bytes <= 1.1 * cost.room(fit)  # of what did not become whole, nothing is left
    assert sum(isinstance(event, EpochEnded) for event in train(network, stage, source, seed=0, judge=judge)) == 5


def test_a_full_disk_stops_what_cannot_do_without(
    photos: Dataset, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(0, monkeypatch)
    with pytest.raises(DiskFull):
        opened(workshop(suite.with_head(suite.small_torch_network()), store), Stage(epochs=1, lr=1e-2), photos)
