"""What a whole run promises: clean selection, a test split that is touched once, decisions that are kept."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headstart import conductor, evaluating
from headstart.config import Settings
from headstart.events import Decision, EpochEnded, Event, Note, PhaseEnded, StageEnded, StageStarted
from headstart.modalities.image import ImageModality
from headstart.runs import MARK, Run
from headstart.training import recipe

from .conftest import CLASSES, draw


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conducted") / "photos"
    for number, (name, colour) in enumerate(CLASSES.items()):
        for index in range(30):
            draw(folder / name / f"{index:02}.jpg", colour, seed=1000 * number + index)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path_factory.getbasetemp() / "conducted-cache"))


def settings(photos: Path, out: Path, **more: Any) -> Settings:
    return Settings.resolve(data=str(photos), out=str(out), size=64, **more)


def finish(work: Iterator[Event]) -> tuple[list[Event], Run]:
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


def test_test_photos_are_not_decoded_before_the_model_is_finished(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def recorded(name: str) -> None:
        plain = getattr(ImageModality, name)

        def method(self: ImageModality, content: bytes, *rest: Any, **more: Any) -> Any:
            decoded.append(hashlib.blake2b(content, digest_size=16).hexdigest())
            return plain(self, content, *rest, **more)

        monkeypatch.setattr(ImageModality, name, method)

    recorded("decode")
    recorded("augment")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    before: set[str] = set()
    work = conductor.train(settings(photos, tmp_path / "run", unfreeze=1, epochs=1))
    for event in work:
        if isinstance(event, PhaseEnded) and event.name == "training":
            before = set(decoded)
    dataset = Run.open(tmp_path / "run").dataset
    tested = {item.id for item in dataset.test.items}
    assert len(tested) > 5
    assert {item.id for item in dataset.train.items} <= before
    assert not tested & before
    assert all(decoded.count(id) == 1 for id in tested)


def test_the_head_that_tuning_starts_from_has_not_seen_the_photos_it_is_judged_by(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[set[str]] = []
    plain = conductor.probe

    def recorded(features: Any, labels: Any, ids: list[str], *rest: Any, **more: Any) -> Any:
        fitted.append(set(ids))
        return plain(features, labels, ids, *rest, **more)

    monkeypatch.setattr(conductor, "probe", recorded)
    finish(conductor.train(settings(photos, tmp_path / "tuned", unfreeze=1, epochs=1)))
    dataset = Run.open(tmp_path / "tuned").dataset
    assert fitted[0] == {item.id for item in dataset.train.items}
    fitted.clear()
    finish(conductor.train(settings(photos, tmp_path / "fast", quality="fast")))
    assert fitted == [{item.id for item in dataset.only("train", "validation").items}]


def test_a_discarded_tuning_ships_what_fast_ships(photos: Path, tmp_path: Path) -> None:
    """A rate that ruins the network: the summary says so, and the answers are those of the frozen backbone."""
    events, tuned = finish(conductor.train(settings(photos, tmp_path / "tuned", unfreeze=2, epochs=1, lr=0.5)))
    assert any(isinstance(event, StageEnded) and event.best == 0 for event in events)
    assert any(isinstance(event, Note) and "did not beat" in event.text for event in events)
    _, fast = finish(conductor.train(settings(photos, tmp_path / "fast", quality="fast")))
    for name in ("model.safetensors", "predictions.csv", "out_of_fold.safetensors"):
        assert (tuned.path / name).read_bytes() == (fast.path / name).read_bytes()
    assert fast.evaluation.validation_method.startswith("out of fold")


def test_best_tunes_the_last_groups_and_then_all_of_them(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "FEW", 1)
    events, run = finish(conductor.train(settings(photos, tmp_path / "run", quality="best", epochs=1)))
    rates = {event.stage: event.rates for event in events if isinstance(event, StageStarted)}
    assert list(rates["tune"]) == ["head", "top", "block7", "block6"]
    assert len(rates["tune-all"]) == 10
    deeper = list(rates["tune-all"].values())[1:]
    assert deeper == sorted(deeper, reverse=True)
    assert run.finished


def test_with_few_photos_nothing_is_tuned_and_the_run_says_so(photos: Path, tmp_path: Path) -> None:
    events, run = finish(conductor.train(settings(photos, tmp_path / "run")))
    assert not any(isinstance(event, StageStarted) for event in events)
    assert any(isinstance(event, Note) and "not tuned" in event.text for event in events)
    assert run.evaluation.validation_method.startswith("out of fold")


def test_the_folder_of_a_run_holds_what_it_promises(photos: Path, tmp_path: Path) -> None:
    _, run = finish(conductor.train(settings(photos, tmp_path / "run", quality="fast")))
    for name in (
        "config.toml",
        "events.jsonl",
        "evaluation.json",
        "predictions.csv",
        "splits.csv",
        "skipped.csv",
        "classes.txt",
        "model.safetensors",
        "out_of_fold.safetensors",
        "versions.json",
        "command.txt",
    ):
        assert (run.path / name).is_file(), name
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    for key in ("n", "accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error"):
        assert key in evaluation["test"], key
        assert key in evaluation["validation"], key
    with (run.path / "predictions.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    judged = run.dataset.only("validation", "test")
    assert sorted(row["path"] for row in answers) == sorted(item.path for item in judged.items)
    tested = [row for row in answers if row["split"] == "test"]
    right = sum(row["label"] == row["predicted"] for row in tested)
    assert right / len(tested) == pytest.approx(evaluation["test"]["accuracy"])
    assert not (run.path / MARK).exists()


def test_splits_of_an_earlier_run_are_taken_and_another_seed_splits_otherwise(photos: Path, tmp_path: Path) -> None:
    def sides(run: Run) -> dict[str, str]:
        return {item.path: item.split for item in run.dataset.items}

    _, first = finish(conductor.train(settings(photos, tmp_path / "1", quality="fast")))
    _, other = finish(conductor.train(settings(photos, tmp_path / "2", quality="fast", seed=1)))
    again = settings(photos, tmp_path / "3", quality="fast", seed=1, splits=str(first.path / "splits.csv"))
    _, same = finish(conductor.train(again))
    assert sides(first) != sides(other)
    assert sides(first) == sides(same)


def test_a_time_limit_is_kept_by_training_less_and_a_resumed_run_decides_the_same(photos: Path, tmp_path: Path) -> None:
    """The limit has passed when training begins, on any machine; what was decided then holds for good."""
    asked = settings(photos, tmp_path / "run", unfreeze=1, epochs=50, time_limit=0.1)
    events, run = finish(conductor.train(asked))
    decided = [event for event in events if isinstance(event, Decision) and event.name == "epochs/tune"]
    assert [event.value for event in decided] == [0]
    assert not any(isinstance(event, EpochEnded) for event in events)
    assert run.finished

    whole = (run.path / "model.safetensors").read_bytes()
    (run.path / "evaluation.json").unlink()
    (run.path / MARK).write_text("interrupted before its end")
    (run.path / "checkpoints" / "last.safetensors").unlink()
    resumed, _ = finish(conductor.resume(run.path))
    assert not any(isinstance(event, Decision) for event in resumed), "it decided anew"
    assert (run.path / "model.safetensors").read_bytes() == whole


def test_evaluating_matches_classes_by_name(photos: Path, tmp_path: Path) -> None:
    _, run = finish(conductor.train(settings(photos, tmp_path / "run", quality="fast")))
    folder = tmp_path / "more"
    for index in range(6):  # `water` comes last in training and first here
        draw(folder / "water" / f"{index}.jpg", CLASSES["water"], seed=90_000 + index)
    _, evaluation = finish(evaluating.evaluate(run.path, folder))
    assert evaluation.test.accuracy > 0.8
    assert evaluation.test.n == 6


def test_evaluating_on_photos_of_the_training_says_so(photos: Path, tmp_path: Path) -> None:
    _, run = finish(conductor.train(settings(photos, tmp_path / "run", quality="fast")))
    events, _ = finish(evaluating.evaluate(run.path, photos))
    assert any(isinstance(event, Note) and "were used to make the model" in event.text for event in events)


def test_where_the_disk_has_no_room_for_views_every_epoch_computes_them_anew(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", "20KB")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    events, run = finish(conductor.train(settings(photos, tmp_path / "run", unfreeze=2, epochs=1)))
    assert [event.value for event in events if isinstance(event, Decision) and event.name == "views/tune"] == [0]
    assert sum(isinstance(event, EpochEnded) for event in events) == 1
    assert run.finished
