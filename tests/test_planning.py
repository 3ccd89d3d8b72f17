"""What a plan promises: the work is counted, the time is near, a limit is fitted, and resuming keeps to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart import conductor, dry_run, output, pace
from headstart.amounts import duration
from headstart.config import Settings
from headstart.display import sentence
from headstart.events import Compared, Decision, Event, Planned, StageStarted, from_json, to_json
from headstart.planning import DISK, RESERVE, Forecast, Job, Pace, Phase, StageWork, fitted, forecast
from headstart.runs import MARK, Run
from headstart.training import recipe
from headstart.training.views import Cost

from .conftest import CLASSES, draw

GB = 10**9
PACE = Pace(decode=0.001, exact=0.002, augment=0.003, frozen=0.01, framework=0.03, product=1e-4)
COST = Cost(photos=400, judged=50, sights=400, epochs=6, frozen=8e8, live=1e9, bytes=1000)
STAGE = StageWork(
    stage="tune",
    cost=COST,
    views=4,
    batch_size=32,
    entry="block5",
    fill=0.01,
    fill_judged=0.005,
    fresh=0.02,
    opening=1.0,
    step=0.1,
    judge=0.01,
    checkpoint=0.05,
)
JOB = Job(
    pace=PACE,
    spent=(Phase(name="start", seconds=2.0, done=True),),
    photos=450,
    missing=450,
    flops=8e8,
    probed=True,
    stages=(STAGE,),
    validation=50,
    test=100,
    room=GB,
)


# ---- the arithmetic


def test_a_stage_takes_what_its_views_its_steps_and_its_judging_take() -> None:
    filled = 1.0 + 4 * 400 * 0.01 + 50 * 0.005
    epochs = 6 * (13 * 0.1 + 50 * 0.01 + 0.05) + 50 * 0.01 + 0.05
    assert STAGE.seconds(6, 4) == pytest.approx(filled + epochs)
    assert STAGE.seconds(6, 0) == pytest.approx(epochs + 6 * 400 * 0.02)
    assert STAGE.seconds(0, 4) == 0


def test_what_lies_in_the_cache_is_not_counted_again() -> None:
    known = replace(STAGE, there=(400, 400, 100, 0), there_judged=50)
    assert known.left(4) == 300 + 400
    assert known.filling(4) == pytest.approx(1.0 + 700 * 0.01)
    assert replace(known, there=(400,) * 4).filling(4) == 0, "nothing is opened where nothing is to be computed"
    warm, cold = forecast(replace(JOB, missing=0)), forecast(JOB)
    assert cold.seconds - warm.seconds == pytest.approx(450 * 0.011)
    assert "0 of 450 photos decoded and computed, 450 are in the cache" in [phase.work for phase in warm.phases]


def test_the_phases_come_in_the_order_of_the_work_and_count_its_flops() -> None:
    found = forecast(JOB)
    assert [phase.name for phase in found.phases] == [
        *("start", "features", "probe", "tune views", "tune epochs", "evaluation"),
    ]
    gflop = {phase.name: phase.gflop for phase in found.phases}
    assert gflop["features"] == pytest.approx(450 * 0.8)
    assert gflop["tune views"] == pytest.approx(4 * 400 * 0.8)
    assert gflop["tune epochs"] == pytest.approx(6 * 400 * 1.0)
    assert next(phase.bytes for phase in found.phases if phase.name == "tune views") == COST.room(4)


def test_best_pays_for_its_test_time_views() -> None:
    once, twice = forecast(JOB).evaluation, forecast(replace(JOB, views=2)).evaluation
    assert twice - once == pytest.approx(150 * 0.03)
    assert forecast(replace(JOB, weights=int(DISK))).evaluation - once == pytest.approx(2)


def test_without_a_limit_nothing_is_shortened() -> None:
    fit = fitted(STAGE, room=GB)
    assert (fit.epochs, fit.views, fit.change) == (6, 4, "")
    assert forecast(JOB).changes == ()


@given(seconds=st.floats(0.1, 100), epochs=st.integers(1, 40), step=st.floats(0.001, 2), room=st.integers(0, 4_000_000))
def test_what_is_fitted_to_a_limit_keeps_it_and_one_epoch_more_would_not(
    seconds: float, epochs: int, step: float, room: int
) -> None:
    work = replace(STAGE, step=step, cost=replace(COST, epochs=epochs))
    fit = fitted(work, room=room, seconds=seconds)
    assert fit.epochs <= epochs
    assert work.cost.room(fit.views) <= room
    assert work.seconds(fit.epochs, fit.views) <= seconds
    assert (fit.epochs == epochs) == (not fit.change)
    if fit.epochs < epochs:
        more = fitted(replace(work, cost=replace(COST, epochs=fit.epochs + 1)), room=room)
        wanted = min(more.views, work.views, fit.epochs + 1)
        assert work.seconds(fit.epochs + 1, wanted) > seconds


def test_a_limit_is_told_with_what_it_leaves_out_and_why() -> None:
    whole = forecast(JOB)
    tight = forecast(replace(JOB, limit=whole.seconds - 5))
    assert tight.seconds <= whole.seconds - 5
    (told,) = tight.changes
    assert "epochs instead of 6" in told
    assert " s for it" in told
    least = sum(phase.seconds for phase in whole.phases if not phase.name.startswith("tune"))
    (left_out,) = forecast(replace(JOB, limit=least + 0.5 * RESERVE)).changes
    assert left_out.startswith("stage tune is left out: one epoch of it takes")


def test_a_limit_that_the_frozen_part_alone_breaks_is_told_beforehand() -> None:
    found = forecast(replace(JOB, limit=5.0))
    assert found.changes[0].startswith("what is done in any case takes ")
    assert "more than the limit of 5 s" in found.changes[0]
    assert not any(phase.name.startswith("tune") for phase in found.phases)


def test_a_plan_is_read_back_as_it_was_written() -> None:
    found = forecast(replace(JOB, limit=20.0, stages=(replace(STAGE, there=(3, 2)),)))
    assert Forecast.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert from_json(json.loads(json.dumps(to_json(found.told)))) == found.told


def test_a_plan_is_told_in_a_line_for_each_part() -> None:
    lines = (sentence(forecast(replace(JOB, limit=60.0)).told) or "").splitlines()
    assert lines[0].startswith("plan: about ")
    assert "within a limit of 1 min 0 s, of which 2.0 s have passed" in lines[0]
    assert [line.split("  ")[1] for line in lines[1:6]] == [
        *("features", "probe", "tune views", "tune epochs", "evaluation"),
    ]
    assert sentence(Compared(predicted=61, actual=7300)) == "done in 2 h 2 min; the plan said 1 min 1 s"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min")],
)
def test_durations_read_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# ---- in a run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned") / "photos"
    for number, (name, colour) in enumerate(CLASSES.items()):
        for index in range(16):
            draw(folder / name / f"{index:02}.jpg", colour, seed=500 * number + index)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path_factory.getbasetemp() / "planned-cache"))
    monkeypatch.setattr(recipe, "FEW", 1)


def finish(work: Any) -> tuple[list[Event], Any]:
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


def asked(photos: Path, out: Path, **more: Any) -> Settings:
    return Settings.resolve(data=str(photos), out=str(out), size=64, **{"unfreeze": 1, "epochs": 1, **more})


def test_a_run_tells_its_plan_before_it_works_and_what_it_took_at_its_end(photos: Path, tmp_path: Path) -> None:
    events, run = finish(conductor.train(asked(photos, tmp_path / "run")))
    planned = next(place for place, event in enumerate(events) if isinstance(event, Planned))
    assert not any(isinstance(event, StageStarted) for event in events[:planned])
    (told,) = (event for event in events if isinstance(event, Compared))
    kept = json.loads((run.path / "plan.json").read_text())
    assert kept["predicted"]["seconds"] == told.predicted > 0
    assert kept["actual"]["seconds"] == told.actual > 0
    names = [phase["name"] for phase in kept["predicted"]["phases"]]
    assert set(names) == set(kept["actual"]["phases"])
    assert sum(kept["actual"]["phases"].values()) == pytest.approx(told.actual, rel=0.1)
    assert [type(event) for event in run.events].count(Planned) == 1


def test_measuring_changes_no_bit_of_the_model(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With steps rehearsed, in full precision, and without."""
    models = []
    for name, longest in (("with", 100.0), ("without", 0.0)):
        monkeypatch.setattr(pace, "LONGEST", longest)
        monkeypatch.setattr(pace, "SHARE", longest)
        _, run = finish(conductor.train(asked(photos, tmp_path / name, unfreeze=2, precision="fp32")))
        models.append((run.path / "model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_a_resumed_run_keeps_to_its_plan_and_its_precision(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LONGEST", 100.0)
    monkeypatch.setattr(pace, "SHARE", 100.0)
    monkeypatch.setattr(pace, "WORTH", 0.0)
    monkeypatch.setattr(pace, "_faster", lambda steps: "bf16" if "bf16" in steps else "fp32")
    _, run = finish(conductor.train(asked(photos, tmp_path / "run")))
    bits, before = (run.path / "model.safetensors").read_bytes(), run.forecast
    chosen = run.decision("precision/tune")
    (run.path / "evaluation.json").unlink()
    (run.path / MARK).write_text("interrupted before its end")
    (run.path / "checkpoints" / "last.safetensors").unlink()
    monkeypatch.setattr(pace, "_faster", lambda steps: "fp32")
    events, _ = finish(conductor.resume(run.path))
    assert not any(isinstance(event, Planned | Decision) for event in events), "it planned anew"
    assert (run.path / "model.safetensors").read_bytes() == bits
    assert Run(run.path).forecast == before
    assert chosen is None or chosen.value in ("bf16", "fp32")


def test_the_faster_precision_is_taken_only_where_it_pays() -> None:
    assert pace._faster({"fp32": 1.0, "bf16": 0.5}) == "bf16"
    assert pace._faster({"fp32": 1.0, "bf16": 0.95}) == "fp32"
    assert pace._faster({"fp32": 1.0}) == "fp32"


def test_a_dry_run_is_a_page_for_people_and_leaves_no_run(photos: Path, tmp_path: Path) -> None:
    _, plan = finish(dry_run.plan(asked(photos, tmp_path / "run", time_limit=3600)))
    assert not (tmp_path / "run").exists()
    text = output.trained_text(plan)
    assert "{" not in text
    for said in ("stage tune", "rates head 0.001, top 0.001", "total", "the limit is 1 h 0 min", "validation photos"):
        assert said in text, said
    facts = json.loads(output.as_json(plan))
    assert facts["forecast"]["seconds"] > 0
    assert facts["recipe"]["stages"][0]["unfreeze"] == 1


def test_a_dry_run_of_cached_photos_says_so(photos: Path, tmp_path: Path) -> None:
    finish(conductor.train(asked(photos, tmp_path / "first", quality="fast", unfreeze=None, epochs=None)))
    _, plan = finish(dry_run.plan(asked(photos, tmp_path / "second")))
    assert plan.forecast.cached == plan.forecast.photos > 20
    assert f"{plan.forecast.cached} of {plan.forecast.photos} photos are in the cache" in output.trained_text(plan)
