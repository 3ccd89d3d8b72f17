"""Stages, rates, schedules, orders and what a stage keeps."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import BadSetting, Diverged
from headstart.events import EpochEnded, StageEnded, Stepped
from headstart.networks.network import INPUT, Batch, Group
from headstart.training.batches import Order
from headstart.training.loop import Position, Score, conclude, train
from headstart.training.stages import Stage, learning_rates, schedule

from .conformance import networks as suite

GROUPS = tuple(Group(name, (), (), 1) for name in ("stem", "block1", "block2", "top"))


class Constant:
    """The same two batches each epoch."""

    steps = 2

    def epoch(self, number: int, first: int = 0) -> list[Batch]:
        return [suite.batch(seed) for seed in (0, 1)][first:]


class Judge:
    """Tells the scores that it was given, in turn."""

    def __init__(self, *scores: tuple[float, float]) -> None:
        self.scores = [Score(log_loss=loss, accuracy=accuracy) for loss, accuracy in scores]

    def __call__(self) -> Score:
        return self.scores.pop(0)


def test_deeper_groups_learn_more_slowly_and_the_rest_not_at_all() -> None:
    rates = learning_rates(Stage(epochs=1, lr=1.0, unfreeze=2, body=0.5, decay=0.1), GROUPS)
    assert rates == pytest.approx({"head": 1.0, "top": 0.5, "block2": 0.05})


def test_a_stage_cannot_unfreeze_more_than_there_is() -> None:
    with pytest.raises(BadSetting, match="unfreezes 5 groups, but the backbone has 4"):
        learning_rates(Stage(epochs=1, lr=1.0, unfreeze=5), GROUPS)


def test_rates_rise_and_then_fall_to_nothing() -> None:
    stage = Stage(epochs=1, lr=1.0, warmup=0.1)
    factors = [schedule(stage, step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == 1.0 == factors[9]
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.001


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_epoch_sees_every_item_once_however_many_processes_share_it(world: int) -> None:
    parts = [list(Order(n=37, batch_size=8, seed=1, stage="s", shard=(rank, world)).epoch(4)) for rank in range(world)]
    steps = Order(n=37, batch_size=8, seed=1, stage="s").steps
    seen = [
        row for rank in parts for part in rank for row, weight in zip(part.rows, part.weights, strict=True) if weight
    ]
    assert sorted(seen) == list(range(37))
    for step in range(steps):
        assert sum(rank[step].weights.sum() for rank in parts) == pytest.approx(1.0)
        assert len({len(rank[step].rows) for rank in parts}) == 1


def test_orders_differ_between_epochs_seeds_and_stages_and_repeat_for_the_same() -> None:
    def order(seed: int = 0, stage: str = "s", epoch: int = 0) -> list[int]:
        return [
            int(row) for part in Order(n=40, batch_size=8, seed=seed, stage=stage).epoch(epoch) for row in part.rows
        ]

    assert order() == order()
    assert order() != order(epoch=1) != order(seed=1) != order(stage="t")


def test_an_epoch_can_be_entered_in_its_middle() -> None:
    whole = list(Order(n=40, batch_size=8, seed=0, stage="s").epoch(0))
    rest = list(Order(n=40, batch_size=8, seed=0, stage="s").epoch(0, first=3))
    assert [part.rows.tolist() for part in whole[3:]] == [part.rows.tolist() for part in rest]


def run(stage: Stage, judge: Judge | None, position: Position | None = None) -> tuple[list[object], object]:
    network = suite.with_head(suite.small_torch_network())
    events = list(train(network, stage, Constant(), seed=0, judge=judge, position=position))
    return events, network


def test_the_epoch_with_the_lowest_loss_is_kept_among_those_that_beat_the_beginning() -> None:
    judge = Judge((0.5, 0.8), (0.6, 0.9), (0.4, 0.9), (0.3, 0.7), (0.45, 0.9))
    events, _ = run(Stage(epochs=4, lr=1e-3), judge)
    assert isinstance(events[-1], StageEnded)
    assert events[-1].best == 2


def test_a_stage_that_brings_nothing_leaves_the_weights_from_before() -> None:
    network = suite.with_head(suite.small_torch_network())
    before = network.weights()
    judge = Judge((0.5, 0.9), (0.4, 0.8), (0.6, 0.9))
    (*_, ended) = train(network, Stage(epochs=2, lr=1e-1, unfreeze=2), Constant(), seed=0, judge=judge)
    assert isinstance(ended, StageEnded)
    assert ended.best == 0
    assert not suite.changed(before, network.weights())


def test_patience_ends_a_stage() -> None:
    judge = Judge((0.5, 0.8), (0.4, 0.9), (0.5, 0.9), (0.6, 0.9), (0.7, 0.9))
    events, _ = run(Stage(epochs=9, lr=1e-3, patience=2), judge)
    assert sum(isinstance(event, EpochEnded) for event in events) == 3
    assert isinstance(events[-1], StageEnded)
    assert (events[-1].best, events[-1].reason) == (1, "no better for a while")


@pytest.mark.parametrize("leave_at", range(1, 6))
def test_leaving_the_generator_anywhere_loses_nothing(leave_at: int) -> None:
    stage = Stage(epochs=2, lr=1e-2, unfreeze=1)
    _, whole = run(stage, None)
    network, at = suite.with_head(suite.small_torch_network()), Position()
    work = train(network, stage, Constant(), seed=0, position=at)
    for count, event in enumerate(work, start=1):
        if count >= leave_at and isinstance(event, Stepped | EpochEnded):
            break
    work.close()
    state = network.state()
    resumed = suite.with_head(suite.small_torch_network())
    resumed.load_state(state)
    list(train(resumed, stage, Constant(), seed=0, position=at))
    assert not suite.changed(whole.weights(), resumed.weights())  # type: ignore[attr-defined]


def test_concluding_early_puts_the_best_weights_back() -> None:
    network, at = suite.with_head(suite.small_torch_network()), Position()
    judge = Judge((0.5, 0.8), (0.4, 0.9), (0.6, 0.8))
    stage, best = Stage(epochs=5, lr=1e-1), {}
    for event in train(network, stage, Constant(), seed=0, judge=judge, position=at):
        if isinstance(event, EpochEnded) and event.epoch == 1:
            with network.averaged():
                best = network.weights()
        if isinstance(event, EpochEnded) and event.epoch == 2:
            break
    assert conclude(network, stage, at, reason="time limit").best == 1
    assert not suite.changed(best, network.weights())


def test_a_loss_that_is_no_number_stops_the_run_with_a_way_out() -> None:
    class Broken(Constant):
        def epoch(self, number: int, first: int = 0) -> list[Batch]:
            blank = np.full((8, 32, 32, 3), np.nan, np.float32)
            return [Batch(blank, np.zeros(8, np.int64), np.full(8, 1 / 8), INPUT)] * 2

    network = suite.with_head(suite.small_torch_network())
    with pytest.raises(Diverged) as refusal:
        list(train(network, Stage(epochs=1, lr=0.5), Broken(), seed=0))
    assert "--lr 0.05" in refusal.value.fix


def test_a_score_counts_right_answers_first_and_then_the_loss() -> None:
    assert Score(0.5, 0.9).beats(Score(0.1, 0.8))
    assert Score(0.4, 0.9).beats(Score(0.5, 0.9))
    assert not Score(0.5, 0.9).beats(Score(0.5, 0.9))
    assert not Score(math.nan, 0.9).beats(Score(0.5, 0.9))


def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    from headstart.writing import whole

    target = tmp_path / "file"
    target.write_text("old")

    def fail() -> None:
        with whole(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
