"""Ranking backbones: the best is never lost, bad ones cost little, and what is computed is kept for `train`."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from headstart import api, conductor, dry_run
from headstart.backbones.backbone import Backbone
from headstart.config import Settings
from headstart.data.dataset import Dataset, Item
from headstart.errors import BadBackbone, BadRun, BadSetting, HeadstartError
from headstart.events import Accuracy, Decision, Event, Note, PhaseEnded, Progress
from headstart.networks.network import INPUT, Cut, Group, Network
from headstart.outcome import outcome
from headstart.rank_text import rank_text
from headstart.ranking import auto, candidates, subsets
from headstart.ranking.candidates import Candidate, Ready, named
from headstart.ranking.entrant import Entrant, Stable
from headstart.ranking.halving import race
from headstart.ranking.pairs import Difference, difference, hopeless
from headstart.ranking.result import Ranking
from headstart.runs import Run

from .conftest import Headstart
from .fake_network import POOLED, FakeNetwork, fake_backbone

REAL = Path(__file__).parents[1].parent / "shared" / "data" / "hymenoptera"
CLASSES = 4
PER_CLASS = 100
HERE = ("lite0", "lite1")


class Knower(FakeNetwork):
    """Sees the class in a photo's colour with so much noise, always the same for the same photo."""

    cuts = (INPUT, POOLED)
    groups = (Group("body", (), (), 1000),)
    input_shape = (32, 32, 3)
    moved: frozenset[str] = frozenset()

    def __init__(self, name: str, noise: float, seconds: float = 0.0, watched: Callable[[int], None] | None = None):
        super().__init__(seconds=seconds)
        self.name, self.noise, self.watched = name, noise, watched

    def to(self, device: str) -> None:
        pass

    def agree(self, value: float) -> float:
        return value

    def weights(self) -> dict[str, np.ndarray]:
        return {"one": np.zeros(250_000, np.float32)}

    def features(self, inputs: np.ndarray, upto: Cut, start: Cut = INPUT) -> np.ndarray:
        plain = super().features(inputs, upto, start)
        if self.watched is not None:
            self.watched(len(inputs))
        rows = []
        for picture, row in zip(inputs, plain, strict=True):
            seed = hashlib.blake2b(picture.tobytes(), key=self.name.encode(), digest_size=8).digest()
            rows.append(row + self.noise * np.random.default_rng(int.from_bytes(seed)).normal(size=row.shape))
        return np.stack(rows).astype(np.float32)


def entrant(name: str, noise: float, cost: float = 1.0, network: Any = None) -> Ready:
    network = network or Knower(name, noise)
    backbone = fake_backbone(network, weights_hash=hashlib.sha256(name.encode()).hexdigest())
    return Ready(candidate=Candidate(name), backbone=replace(backbone, name=name), estimate=cost)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four colours, a hundred small photos of each, two of every ten in pairs that belong together."""
    root = tmp_path_factory.mktemp("ranked") / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    colours = np.array([[150, 120, 120], [120, 150, 120], [120, 120, 150], [110, 110, 110]])
    items = []
    for label in range(CLASSES):
        for number in range(PER_CLASS):
            file = io.BytesIO()
            pixels = colours[label] + rng.normal(0, 12, 3) + rng.normal(0, 8, (40, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG", compress_level=1)
            path = f"{label}-{number:03}.png"
            (root / path).write_bytes(file.getvalue())
            group = f"{label} {number // 2}" if number % 10 < 2 else ""
            items.append(
                Item(hashlib.blake2b(file.getvalue(), digest_size=16).hexdigest(), path, label, "train", group)
            )
    return Dataset(root=root, classes=("red", "green", "blue", "grey"), items=tuple(items))


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def ranked(
    photos: Dataset, entrants: Sequence[Ready], told: Callable[[Event], None] | None = None, **options: Any
) -> Ranking:
    settings = Settings(data="photos", seed=options.pop("seed", 0))
    return outcome(race(photos, entrants, settings, began=options.pop("began", 0.0), **options), told)


GOOD, FAIR, POOR = 0.005, 0.05, 0.3


# ---- the halving


def test_the_best_of_clearly_different_ones_is_found_and_bad_ones_cost_little(photos: Dataset) -> None:
    result = ranked(photos, [entrant("a/poor", POOR, 1), entrant("a/good", GOOD, 2), entrant("a/fair", FAIR, 3)])
    assert result.best == "a/good"
    rows = {row.backbone: row for row in result.ranked}
    assert rows["a/poor"].standing == "behind"
    assert rows["a/poor"].computed <= len(photos) / 4
    assert rows["a/poor"].difference_interval[1] < 0
    assert result.ranked[0].standing == "best"


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_order_of_costs_the_truly_best_is_never_dropped(photos: Dataset, seed: int) -> None:
    dear = [entrant("a/good", GOOD, 9), entrant("a/fair", FAIR, 1), entrant("a/poor", POOR, 2)]
    assert ranked(photos, dear, seed=seed).best == "a/good"


def test_ties_are_kept_to_the_last_photo_and_called_noise(photos: Dataset) -> None:
    twins = [entrant("a/one", FAIR), entrant("a/other", FAIR), entrant("a/poor", POOR)]
    result = ranked(photos, twins)
    rows = {row.backbone: row for row in result.ranked}
    assert {rows["a/one"].photos, rows["a/other"].photos} == {len(photos)}
    assert {rows["a/one"].standing, rows["a/other"].standing} == {"best", "within noise"}
    assert rows["a/poor"].photos < len(photos)
    assert result.judged == len(photos)
    assert result.stopped is None


def test_a_rule_that_drops_the_most_accurate_is_noticed(photos: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.ranking.halving.hopeless", lambda behind, left, dear: True)  # the fault
    result = ranked(photos, [entrant("a/one", FAIR), entrant("a/other", FAIR)])
    assert result.judged < len(photos)


def test_no_feature_is_computed_twice_as_the_parts_grow(photos: Dataset) -> None:
    networks = {name: Knower(name, FAIR) for name in ("a/one", "a/other")}
    result = ranked(photos, [entrant(name, FAIR, network=network) for name, network in networks.items()])
    for row in result.ranked:
        assert row.computed == len(photos)
        passes = sum(shape[0] for shape in networks[row.backbone].shapes)
        assert passes <= len(photos) + 8 * len(subsets.sizes(len(photos), CLASSES)), "but for what fills up chunks"


def test_asked_again_it_says_the_same_and_computes_nothing(photos: Dataset) -> None:
    def once() -> Ranking:
        return ranked(photos, [entrant("a/one", FAIR, 1), entrant("a/other", FAIR, 2), entrant("a/poor", POOR, 3)])

    first, second = once(), once()
    assert all(row.computed == 0 for row in second.ranked)
    same = ("backbone", "accuracy", "interval", "difference", "difference_interval", "photos", "standing")
    for one, other in zip(first.ranked, second.ranked, strict=True):
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]


def test_one_candidate_is_judged_by_all_photos(photos: Dataset) -> None:
    result = ranked(photos, [entrant("a/only", FAIR)])
    assert result.judged == len(photos)
    assert "only one" in result.verdict
    assert result.ranked[0].difference_interval == (0.0, 0.0)


def test_only_training_photos_are_opened(photos: Dataset) -> None:
    held = {item.path for item in photos.items[::5]}
    items = [replace(item, split="test") if item.path in held else item for item in photos.items]
    result = ranked(photos.with_items(items), [entrant("a/one", FAIR)])
    assert result.photos == result.ranked[0].computed == len(photos) - len(held)


# ---- what is told, and when


def test_cheap_ones_are_told_first_and_progress_names_the_backbone(photos: Dataset) -> None:
    events: list[Event] = []
    ranked(photos, [entrant("a/dear", FAIR, 9), entrant("a/cheap", FAIR, 1)], events.append)
    told = [event.name for event in events if isinstance(event, Accuracy)]
    assert told[:2] == ["a/cheap", "a/dear"]
    assert {event.what for event in events if isinstance(event, Progress)} == {
        "features of a/cheap",
        "features of a/dear",
    }
    assert "not looked at" in next(event.text for event in events if isinstance(event, Note))


class Clock:
    """Each photo that is computed takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def network(self, name: str, noise: float, seconds: float = 1.0) -> Knower:
        def tick(photos: int) -> None:
            self.now += photos * seconds

        return Knower(name, noise, watched=tick)


def test_at_the_time_limit_what_is_comparable_is_told_and_what_was_not_tried_is_listed(photos: Dataset) -> None:
    clock = Clock()
    cheap, other, dear = (clock.network(name, FAIR) for name in ("a/cheap", "a/other", "a/dear"))
    entrants = [
        entrant("a/cheap", FAIR, 1, cheap),
        entrant("a/other", FAIR, 2, other),
        entrant("a/dear", FAIR, 3, dear),
    ]
    result = ranked(photos, entrants, limit=250.0, clock=clock)
    assert {row.backbone for row in result.ranked} == {"a/cheap", "a/other"}
    assert {row.photos for row in result.ranked} == {100}, "only what all were judged by compares"
    assert [each.backbone for each in result.untried] == ["a/dear"]
    assert "a/dear" in result.verdict
    assert result.stopped is not None
    assert clock.now < 350, "but for the part that was begun: chunks are computed ahead of who asks"
    text = rank_text(result)
    assert "a/dear: not tried" in text
    assert "judged by 100 of 400 photos" in text


def test_however_short_the_limit_the_cheapest_is_judged(photos: Dataset) -> None:
    clock = Clock()
    result = ranked(
        photos,
        [entrant(name, FAIR, cost, clock.network(name, FAIR)) for name, cost in (("a/one", 1), ("a/two", 2))],
        limit=0.001,
        clock=clock,
    )
    assert result.best == "a/one"
    assert [each.backbone for each in result.untried] == ["a/two"]


def test_networks_that_do_not_fit_into_memory_together_are_let_go(photos: Dataset) -> None:
    built: list[str] = []

    def build(name: str) -> Network:
        built.append(name)
        return cast(Network, Knower(name, FAIR))

    ones = []
    for name in ("a/one", "a/two"):
        ready = entrant(name, FAIR)
        ones.append(Entrant(replace(ready, backbone=replace(ready.backbone, build=partial(build, name)))))
    wide, narrow = Stable(Settings(data=""), limit=3 * 10**6), Stable(Settings(data=""), limit=1_500_000)
    for stable, times in ((wide, 1), (narrow, 2)):
        built.clear()
        for each in [*ones, *ones]:
            stable.shop(each)
        assert [built.count(name) for name in ("a/one", "a/two")] == [times, times]


# ---- parts of the photos


def test_each_part_holds_the_one_before_and_every_class_and_whole_families(photos: Dataset) -> None:
    ordered = subsets.ordered(photos, seed=0)
    parts = [subsets.first(ordered, size).items for size in subsets.sizes(len(photos), CLASSES)]
    assert [len(part) for part in parts][-1] == len(photos)
    for smaller, larger in pairwise(parts):
        assert larger[: len(smaller)] == smaller
    for part in parts:
        counts = np.bincount([item.label for item in part])
        assert counts.max() - counts.min() <= 4
        whole = {item.group for item in photos.items if item.group}
        for group in whole & {item.group for item in part}:
            assert sum(item.group == group for item in part) == 2


def test_the_order_of_files_does_not_matter_and_the_seed_does(photos: Dataset) -> None:
    backwards = photos.with_items(reversed(photos.items))
    first = {item.id for item in subsets.first(subsets.ordered(photos, 0), 100).items}
    assert first == {item.id for item in subsets.first(subsets.ordered(backwards, 0), 100).items}
    assert first != {item.id for item in subsets.first(subsets.ordered(photos, 1), 100).items}


@pytest.mark.parametrize(("count", "classes", "sizes"), [(50, 2, [50]), (800, 4, [100, 200, 400, 800]), (0, 2, [0])])
def test_parts_double_up_to_all_photos(count: int, classes: int, sizes: list[int]) -> None:
    assert subsets.sizes(count, classes) == sizes


# ---- telling two apart


def test_the_interval_of_a_paired_difference_covers_the_truth_and_stays_honest_without_any_difference() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        one, other = rng.random((2, 150)) < [[0.9], [0.85]]
        low, high = difference(one.astype(float), other.astype(float), [str(n) for n in range(150)]).interval
        covered += low <= 0.05 <= high
    assert covered >= 0.93 * 300
    same = difference(np.ones(100), np.ones(100), [str(n) for n in range(100)])
    assert same.interval[0] < 0 < same.interval[1]


def test_copies_of_a_photo_do_not_make_a_difference_surer() -> None:
    rng = np.random.default_rng(1)
    one, other = (rng.random((2, 100)) < [[0.9], [0.8]]).astype(float)
    alone = difference(one, other, [str(n) for n in range(100)])
    copied = difference(np.tile(one, 4), np.tile(other, 4), [str(n) for n in range(100)] * 4)
    assert copied.value == pytest.approx(alone.value)
    assert copied.error >= 0.95 * alone.error
    naive = difference(np.tile(one, 4), np.tile(other, 4), [str(n) for n in range(400)])
    assert naive.error < 0.6 * alone.error, "the fault that families prevent"


def test_what_could_catch_up_stays() -> None:
    behind = Difference(-0.05, 0.015)
    assert hopeless(behind, 0)
    assert not hopeless(behind, 4), "curves may cross"
    assert not hopeless(Difference(-0.05, 0.03), 0)


def test_a_photo_that_one_could_not_read_counts_for_neither() -> None:
    one, other = np.array([1, 1, np.nan, 0.0]), np.array([1, 0, 1, np.nan])
    assert difference(one, other, list("abcd")).value == 0.5


# ---- which ones


def test_names_are_given_in_one_text_or_several_with_weights_of_ones_own() -> None:
    found = named(["bundled, efficientnet_lite1", "keras/vgg16"], ["keras/vgg16=a=b.h5", "keras/xception=x.h5"])
    assert found == (
        Candidate("bundled/efficientnet_lite0"),
        Candidate("bundled/efficientnet_lite1"),
        Candidate("keras/vgg16", "a=b.h5"),
        Candidate("keras/xception", "x.h5"),
    )
    assert named("file/a,b.pt") == (Candidate("file/a,b.pt"),)
    assert named("keras/vgg16", {"keras/vgg16": Path("x.h5")}) == (Candidate("keras/vgg16", "x.h5"),)
    assert named(None) == ()


@pytest.mark.parametrize(
    ("names", "weights", "what", "fix"),
    [
        ("bundled,efficientnet_lite0", None, "named twice", "once"),
        ("bundled/efficientnet_lite9,bundled", None, "'bundled/efficientnet_lite9' is not known", "did you mean"),
        ("bundeld", None, "'bundeld' is not known", "did you mean 'bundled'"),
        (" , ", None, "no backbone is named", "leave --backbones out"),
        (None, ["vgg16.h5"], "do not say whose they are", "NAME=FILE"),
        ("bundled", ["bundled=no.pth"], "cannot be read", ""),
    ],
)
def test_what_cannot_be_ranked_is_refused_before_any_photo_is_looked_at(
    tmp_path: Path, names: str | None, weights: list[str] | None, what: str, fix: str
) -> None:
    (tmp_path / "empty").mkdir()  # it would be refused as well, had it been looked at
    with pytest.raises(HeadstartError, match=what) as refused:
        api.rank(tmp_path / "empty", backbones=names, weights=weights)
    assert fix in refused.value.fix


def test_several_that_cannot_be_used_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(BadBackbone, match="2 of 3 backbones cannot be used") as refused:
        api.rank(tmp_path, backbones="bundled,bundled/efficientnet_lite7,torchvision/resnet5")
    assert "efficientnet_lite7" in refused.value.what
    assert "torchvision/resnet5" in refused.value.fix


def test_without_names_one_that_cannot_be_used_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = candidates.load_backbone

    def load(name: str, **options: Any) -> Backbone:
        if name.endswith("lite1"):
            raise BadBackbone("weights are damaged", fix="install them again")
        return plain(name, **options)

    monkeypatch.setattr(candidates, "load_backbone", load)
    events: list[Event] = []
    found = outcome(candidates.ready((), Settings(data=""), others=True), events.append)
    names = [each.backbone.name for each in found]
    assert "bundled/efficientnet_lite0" in names
    assert "bundled/efficientnet_lite1" not in names
    assert any("lite1 is left out: weights are damaged" in event.text for event in events if isinstance(event, Note))
    assert all(math.isfinite(each.estimate) for each in found)


def test_a_time_limit_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="time limit"):
        api.rank(tmp_path, time_limit="soon")


# ---- the whole


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty real photos of ants and of bees."""
    if not REAL.is_dir():
        pytest.skip("the real photos are not on this machine")
    root = tmp_path_factory.mktemp("few") / "photos"
    for name in ("ants", "bees"):
        (root / name).mkdir(parents=True)
        for path in sorted((REAL / name).iterdir())[:20]:
            shutil.copy(path, root / name)
    return root


def test_from_the_command_line_two_are_ranked_and_train_finds_what_was_computed(
    headstart: Headstart, few: Path, tmp_path: Path
) -> None:
    done = headstart("rank", few, "--backbones", "bundled/efficientnet_lite0,efficientnet_lite1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    rows = {row["backbone"]: row for row in told["ranked"]}
    assert set(rows) == {"bundled/efficientnet_lite0", "bundled/efficientnet_lite1"}
    assert all(row["computed"] == told["photos"] and row["milliseconds"] > 0 and row["timed"] for row in rows.values())
    assert all(row["tune_minutes"] > 0 and row["megabytes"] > 10 for row in rows.values())
    assert "bundled/efficientnet_lite1 accuracy" in done.stderr
    trained = headstart("train", few, "--backbone", told["best"], "--quality", "fast", "--out", "run")
    assert trained.returncode == 0, trained.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    [plan] = [event for event in events if event["event"] == "planned"]
    [features] = [phase for phase in plan["phases"] if phase["name"] == "features"]
    assert f"{told['photos']} are in the cache" in features["work"], "all training photos, though not the others"


@pytest.fixture
def two_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with the weights of two backbones."""
    plain = candidates.list_backbones
    monkeypatch.setattr(candidates, "list_backbones", lambda: [each for each in plain() if each.name[-5:] in HERE])


def settings(few: Path, out: Path, **more: Any) -> Settings:
    return Settings.resolve(data=str(few), out=str(out), quality="fast", size=64, backbone="auto", **more)


@pytest.mark.usefixtures("two_here")
def test_auto_trains_the_winner_keeps_the_choice_and_resumes_with_it(few: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    work = conductor.train(settings(few, tmp_path / "run", time_limit="10m"))
    for event in work:
        events.append(event)
        if isinstance(event, PhaseEnded) and event.name == "features":
            work.close()  # interrupted
    run = Run.reopen(tmp_path / "run")
    [choice] = [event for event in events if isinstance(event, Decision) and event.name == "backbone"]
    assert choice.value == run.backbone["name"]
    assert "cross-validated on" in choice.reason
    assert run.decision("backbone") == choice
    assert run.settings.backbone == "auto"
    again: list[Event] = []
    finished = outcome(conductor.resume(tmp_path / "run"), again.append)
    assert finished.finished
    assert finished.backbone["name"] == choice.value
    assert not any(isinstance(event, Note) and event.text.startswith("ranking") for event in again)


def test_auto_may_take_a_quarter_of_the_time_limit(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def stopped(*_: Any, began: float, limit: float, **__: Any) -> Iterator[Event]:
        given.append(limit - (time.monotonic() - began))
        raise BadRun("that is all we want to know", fix="none")
        yield

    monkeypatch.setattr(auto, "race", stopped)
    with pytest.raises(BadRun, match="all we want"):
        outcome(conductor.train(settings(few, tmp_path / "run", time_limit="8m")))
    assert given[0] == pytest.approx(120, abs=10)  # a slow machine's own time counts, and 480 would be all of it


def test_auto_takes_the_only_one_without_ranking(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = auto.ready

    def ready(*arguments: Any, **options: Any) -> Iterator[Event]:
        return (yield from plain(*arguments, **options))[:1]  # type: ignore[return-value]

    monkeypatch.setattr(auto, "ready", ready)
    named, choice = outcome(auto.settled(settings(few, tmp_path / "run"), 0.0))
    assert named.backbone == "bundled/efficientnet_lite0"
    assert choice is not None
    assert "only one" in choice.reason


@pytest.mark.usefixtures("two_here")
def test_a_dry_run_says_what_auto_would_take(few: Path, tmp_path: Path) -> None:
    plan = outcome(dry_run.plan(settings(few, tmp_path / "run")))
    assert plan.backbone.startswith("bundled/")
    assert plan.backbone in plan.to_json()["decisions"]["backbone"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("weights", "none"), ("cut", "pool"), ("factory", "a.py:f")])
def test_auto_refuses_what_belongs_to_one_backbone(few: Path, tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadSetting, match="belongs to one"):
        outcome(conductor.train(settings(few, tmp_path / "run", **{name: value})))


def test_auto_refuses_a_run_folder_that_is_there_before_it_ranks(few: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRun, match="exists already"):
        outcome(conductor.train(settings(few, tmp_path)))
