"""How photos are brought to a square: asked for, chosen by cross-validation, remembered by the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import conductor, dry_run, framing
from headstart.answering import answerer, predict
from headstart.backbones.loading import load_backbone, restore_backbone
from headstart.config import Settings
from headstart.errors import BadSetting
from headstart.events import Decision, Event
from headstart.framing import FITS, choose
from headstart.run_files import read_csv
from headstart.runs import MARK, Run

COLOURS = {"red": (220, 60, 60), "green": (60, 180, 70), "blue": (60, 80, 220)}
PER_CLASS = 20


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide photos of noise whose subject, a patch of the class's colour, sits at the left or right edge."""
    folder = tmp_path_factory.mktemp("wide") / "photos"
    for label, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            rng = np.random.default_rng(1000 * label + number)
            pixels = rng.integers(0, 256, (6, 24, 3)).repeat(10, axis=0).repeat(10, axis=1)
            pixels[:, slice(0, 40) if number % 2 else slice(200, 240)] = colour
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fit-cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(cache))


def settings(photos: Path, out: Path, **more: Any) -> Settings:
    return Settings.resolve(data=str(photos), out=str(out), size=64, **{"quality": "fast", **more})


def finish(work: Iterator[Event]) -> tuple[list[Event], Run]:
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


def fit_decisions(events: list[Event]) -> list[Decision]:
    return [event for event in events if isinstance(event, Decision) and event.name == "fit"]


@pytest.fixture(scope="module")
def best(wide: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Run]:
    """A run that chose its fit, and what it told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(cache))
        return finish(conductor.train(settings(wide, tmp_path_factory.mktemp("runs") / "best", fit="best")))


def test_padding_beats_cropping_where_the_subject_is_at_the_edge_and_best_finds_it(
    best: tuple[list[Event], Run], wide: Path, tmp_path: Path
) -> None:
    events, run = best
    (told,) = fit_decisions(events)
    assert told.value in ("pad", "squash")
    figures = dict(part.split() for part in told.reason.partition("fold: ")[2].partition(";")[0].split(", "))
    assert set(figures) == set(FITS)
    assert float(figures["pad"]) > float(figures["crop"]) + 0.2
    assert "standard error" in told.reason
    assert run.backbone["fit"] == told.value
    assert run.summary()["fit"] == told.value
    assert "fit to the frame" in run.evaluation.fitted_on_validation
    cropped = finish(conductor.train(settings(wide, tmp_path / "crop")))[1]
    assert cropped.backbone["fit"] == "crop"
    assert run.evaluation.accuracy > cropped.evaluation.accuracy + 0.2


def test_answers_come_from_photos_that_fit_as_in_training(wide: Path, tmp_path: Path) -> None:
    _, run = finish(conductor.train(settings(wide, tmp_path / "pad", fit="pad")))
    assert answerer(run).spec.fit == "pad"
    test = run.dataset.test
    answers = finish(predict(run.path, test.paths))[1]
    kept = {row["path"]: row for row in read_csv(run.path / "predictions.csv")}
    for item, answer in zip(test.items, answers, strict=True):
        assert answer.label == kept[item.path]["predicted"]
        assert answer.probability == pytest.approx(float(kept[item.path]["probability"]), abs=1e-5)
    assert np.mean([a.label == test.classes[i.label] for a, i in zip(answers, test.items, strict=True)]) > 0.8
    # Answers from cropped photos would be others: a run that forgot its fit is found here.
    backbone = run.backbone
    assert restore_backbone(backbone).spec.fit == "pad"
    run.write_backbone({**backbone, "fit": "crop"})
    forgot = finish(predict(run.path, test.paths))[1]
    assert [answer.probabilities for answer in forgot] != [answer.probabilities for answer in answers]
    del backbone["fit"]  # runs from before there was a choice
    assert restore_backbone(backbone).spec.fit == "crop"


@pytest.mark.parametrize("stop_at", ["workers", "fit"])
def test_a_resumed_run_takes_the_fit_that_was_chosen(
    best: tuple[list[Event], Run], wide: Path, tmp_path: Path, stop_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before or right after the decision, it ends as if it had not been."""
    work = conductor.train(settings(wide, tmp_path / "cut", fit="best"))
    for event in work:
        if isinstance(event, Decision) and event.name == stop_at:
            break
    work.close()
    assert (tmp_path / "cut" / MARK).exists()
    if stop_at == "fit":
        monkeypatch.setattr(framing, "right_out_of_fold", None)  # nothing is tried again
    _, resumed = finish(conductor.resume(tmp_path / "cut"))
    assert len(fit_decisions(resumed.events)) == 1
    for name in ("backbone.json", "model.safetensors", "predictions.csv"):
        assert (resumed.path / name).read_bytes() == (best[1].path / name).read_bytes()


def test_a_head_of_layers_may_choose_too(wide: Path, tmp_path: Path) -> None:
    asked = settings(wide, tmp_path / "layers", fit="best", head="flatten, dense(8, relu)", epochs=1)
    events, run = finish(conductor.train(asked))
    (told,) = fit_decisions(events)
    assert run.backbone["fit"] == told.value != "crop"


def test_a_dry_run_says_how_photos_will_fit(wide: Path, tmp_path: Path) -> None:
    for fit, said in ((None, "crop"), ("pad", "pad"), ("best", "best")):
        _, plan = finish(dry_run.plan(settings(wide, tmp_path / "run", fit=fit)))
        assert plan.to_json()["fit"] == said


def test_the_decision_is_printed_with_the_three_accuracies(photos: Path, tmp_path: Path, headstart: Any) -> None:
    done = headstart("train", "photos", "--quality", "fast", "--fit", "best", "--size", "64")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("fit: "))
    assert all(f"{fit} 0." in line or f"{fit} 1." in line for fit in FITS)
    assert json.loads((tmp_path / "runs" / "photos-1" / "backbone.json").read_text())["fit"] in FITS


def test_a_fit_that_there_is_not_is_refused(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="'stretch', which is not one of crop, pad, squash, best"):
        settings(wide, tmp_path / "run", fit="stretch")


# ---- the rule


def rights(**each: str) -> Any:
    return {fit: np.array([letter == "1" for letter in row]) for fit, row in each.items()}


def test_the_backbones_own_fit_stays_unless_another_is_better_by_more_than_the_standard_error() -> None:
    row = "1" * 60 + "0" * 40
    same = rights(crop=row, pad=row, squash=row)
    for own in FITS:
        assert choose(same, own)[0] == own
    # One more of a hundred, with three won and two lost: 0.01 by 0.022.
    little = rights(crop=row, pad="00" + row[2:60] + "111" + "0" * 37, squash=row)
    assert choose(little, "crop")[0] == "crop"
    assert "not better by more than the standard error" in choose(little, "crop")[1]
    # Two more, none lost: 0.02 by 0.014.
    clear = rights(crop=row, pad=row, squash=row[:60] + "11" + "0" * 38)
    assert choose(clear, "crop")[0] == "squash"
    assert choose(clear, "squash")[0] == "squash"


def test_photos_that_count_more_weigh_more_in_the_choice() -> None:
    each = rights(crop="1111100000", pad="0000011110", squash="0000000000")
    assert choose(each, "crop")[0] == "crop"
    heavy = np.array([1.0] * 5 + [100.0] * 5)
    assert choose(each, "crop", heavy)[0] == "pad"


def test_the_figures_are_independent_of_the_scale_of_weights() -> None:
    rng = np.random.default_rng(0)
    each = {fit: rng.random(200) < share for fit, share in (("crop", 0.6), ("pad", 0.7), ("squash", 0.65))}
    weights = rng.random(200)
    assert choose(each, "crop", weights) == choose(each, "crop", 7 * weights)
    gains = each["pad"].astype(float) - each["crop"]
    assert f"{gains.std() / 200**0.5:.3f}" in choose(each, "crop", np.ones(200))[1]


def test_a_backbone_takes_any_fit_and_keeps_the_rest_of_its_input() -> None:
    own, padded = load_backbone("bundled"), load_backbone("bundled", fit="pad")
    assert padded.spec.fit == "pad"
    assert padded.spec.fingerprint != own.spec.fingerprint
    assert framing.fitted(padded, "crop").spec == own.spec
