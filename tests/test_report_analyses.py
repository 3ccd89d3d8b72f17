"""What a report finds out about a run: labels that are doubted, what more labels would bring, what it has cost."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import headstart as hs
from headstart import out_of_fold
from headstart.errors import BadRun
from headstart.events import Note
from headstart.report import making
from headstart.report import more_labels as more_labels_module
from headstart.report.costs import costs
from headstart.report.label_errors import answerable, confident_joint, doubted, suspected
from headstart.report.more_labels import LabelCurve, Trials, curve_of, more_labels, part
from headstart.report.power_law import LIKELY, SHAPES, extrapolated, fitted
from headstart.runs import Run
from headstart.store import Store


@pytest.fixture(scope="module")
def made(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen run with one bee among the ants: read it, do not change it."""
    folder = tmp_path_factory.mktemp("analyses")
    photos = Path(shutil.copytree(drawn_photos, folder / "photos"))
    shutil.move(photos / "water" / "00.jpg", photos / "grass" / "wrong.jpg")
    table = ["path,label,split"]
    for file in sorted(photos.glob("*/*.jpg")):
        split = "test" if file.stem in ("09", "10", "11") else "train"
        table.append(f"{file.relative_to(folder)},{file.parent.name},{split}")
    (folder / "photos.csv").write_text("\n".join(table) + "\n")
    hs.train(folder / "photos.csv", out=folder / "run", quality="fast", size=64)
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    """A copy of it."""
    return Run.open(shutil.copytree(made, tmp_path / "run"))


# ---- doubtful labels


def test_a_photo_in_the_wrong_folder_is_doubted_first(run: Run) -> None:
    found = suspected(run)
    assert found is not None
    first = found.found[0]
    assert (first.path, first.label, first.suggested) == ("photos/grass/wrong.jpg", "grass", "water")
    assert first.rank == 1
    assert first.split == "train"
    assert first.probability > 0.5 > first.label_probability
    assert found.photos == len(run.dataset.only("train", "validation"))


def test_test_photos_are_not_among_those_that_are_looked_through(run: Run) -> None:
    answers = run.out_of_fold
    assert answers is not None
    assert not {item.id for item in run.dataset.test.items} & set(answers.ids)


def test_the_confident_joint_is_that_of_the_paper() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    sure = np.array([0.9, 0.8, 0.2, 0.6, 0.1, 0.6, 0.2])  # of class 0
    probabilities = np.stack([sure, 1 - sure], axis=1)
    # Thresholds: mean of .9 .8 .2 .6 = .625 for class 0, mean of .9 .4 .8 = .7 for class 1.
    assert confident_joint(labels, probabilities).tolist() == [[2, 1], [0, 2]]
    rows, expected = doubted(labels, probabilities)
    assert rows.tolist() == [2]  # a third of four photos, rounded
    assert expected == 1


def test_a_photo_that_is_held_for_what_it_is_labelled_is_never_doubted() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    first = np.array([0.95, 0.95, 0.95, 0.6, 0.7, 0.7, 0.7])
    probabilities = np.stack([first, 1 - first], axis=1)
    # The fourth is below the threshold of its own class and above that of the other, and still likelier its own.
    assert confident_joint(labels, probabilities)[0, 1] == 1
    assert doubted(labels, probabilities)[0].tolist() == []


def test_most_replaced_labels_are_found_and_most_of_what_is_found_was_replaced() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, size=1000)
    logits = rng.normal(size=(1000, 5))
    logits[np.arange(1000), true] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = true.copy()
    wrong = rng.choice(1000, 50, replace=False)
    given[wrong] = (given[wrong] + rng.integers(1, 5, 50)) % 5
    rows, expected = doubted(given, probabilities)
    hits = np.isin(rows, wrong)
    assert hits.sum() >= 40
    assert hits.mean() >= 0.7
    assert hits[:20].mean() >= 0.95
    assert 40 <= expected <= 80


def test_a_class_without_photos_is_suggested_to_nobody() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.5, 0.2, 0.3], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7]])
    assert not confident_joint(labels, probabilities)[:, 2].any()


# ---- what a run keeps for it


def test_the_only_photo_of_a_class_is_not_doubted_for_that(run: Run) -> None:
    """No head that had not seen it knew its class: that all hold it for another says nothing."""
    kept = run.out_of_fold
    assert kept is not None
    labels, probabilities = kept.labels.copy(), kept.probabilities.copy()
    alone = int(np.flatnonzero(labels == 0)[0])
    labels[labels == 0] = 1
    labels[alone] = 0
    probabilities = np.where(np.arange(3) == 0, 0, np.maximum(probabilities, 1e-3)).astype(np.float32)
    probabilities[alone] = 0, 0.9999, 0.0001
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    tensors, about = replace(kept, labels=labels, probabilities=probabilities).arrays()
    save_file(tensors, run.path / out_of_fold.NAME, about)
    found = suspected(run)
    assert found is not None
    assert found.photos == len(labels) - 1
    assert all(doubt.label != run.classes[0] and doubt.suggested != run.classes[0] for doubt in found.found)
    assert alone in doubted(labels, probabilities.astype(np.float64))[0], "then this could not be seen to fail"
    assert answerable(np.arange(3), np.full((3, 3), 0.5) - 0.5 * np.eye(3)).size == 0


def test_what_the_heads_said_is_read_back_as_it_was_written(run: Run) -> None:
    answers = run.out_of_fold
    assert answers is not None
    known = {item.id: item.label for item in run.dataset.only("train", "validation").items}
    assert {id: known[id] for id in answers.ids} == dict(zip(answers.ids, answers.labels.tolist(), strict=True))
    run.save_out_of_fold(answers)
    again = run.out_of_fold
    assert again is not None
    assert again.ids == answers.ids
    assert np.array_equal(again.probabilities, answers.probabilities)
    assert (again.features, again.strength) == (answers.features, answers.strength)


def test_a_run_of_before_has_nothing_to_doubt_labels_by_and_says_so(run: Run) -> None:
    (run.path / out_of_fold.NAME).unlink()
    assert suspected(run) is None
    curve = more_labels(run)
    assert curve.measured == ()
    assert "keeps no answers of an exact head" in curve.words


@pytest.mark.parametrize("damage", ["cut", "wide", "long", "nan", "labels", "elsewhere", "sums", "nothing"])
def test_a_damaged_file_of_answers_is_refused_in_a_sentence(run: Run, damage: str) -> None:
    path = run.path / out_of_fold.NAME
    about = {"features": "0" * 32, "strength": "0.01"}
    tensors = load_file(path)
    if damage == "wide":
        tensors["probabilities"] = np.full((len(tensors["labels"]), 4), 0.25, np.float32)
    if damage == "long":
        tensors = {name: np.concatenate([array] * 9) for name, array in tensors.items()}
    if damage == "nan":
        tensors["probabilities"][0] = np.nan
    if damage == "labels":
        tensors["labels"][0] = 7
    if damage == "sums":
        tensors["probabilities"][0] = 0.9
    if damage == "elsewhere":
        about["features"] = "../../somewhere"
    if damage == "nothing":
        tensors = {}
    save_file(tensors, path, about)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadRun, match="does not load") as refused:
        suspected(run)
    assert "train again" in refused.value.fix


# ---- what more labels would bring


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts may be of a photo a class: these runs are small."""
    monkeypatch.setattr(more_labels_module, "FEWEST", 1)


@pytest.mark.usefixtures("small_parts")
def test_a_curve_comes_out_of_the_cache_and_twice_the_same(run: Run) -> None:
    curve = more_labels(run)
    assert curve == more_labels(run)
    sizes = [point.photos for point in curve.measured]
    assert len(sizes) >= 3
    assert sizes == sorted(sizes)
    assert sizes[-1] == round(0.8 * len(run.dataset.only("train", "validation")))
    assert all(0 <= point.interval[0] <= point.accuracy <= point.interval[1] <= 1 for point in curve.curve)


@pytest.mark.usefixtures("small_parts")
def test_where_the_cached_features_are_gone_a_few_are_computed_again(run: Run, tmp_path: Path) -> None:
    kept, again = more_labels(run), more_labels(run, store=Store(tmp_path / "empty"))
    assert [point.photos for point in again.measured] == [point.photos for point in kept.measured]
    for there, here in zip(again.measured, kept.measured, strict=True):
        assert there.accuracy == pytest.approx(here.accuracy, abs=0.15)


def test_where_many_cached_features_are_gone_the_curve_is_left_out(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(more_labels_module, "CHEAP", 1e-9)
    curve = more_labels(run, store=Store(tmp_path / "empty"))
    assert curve.measured == curve.predicted == curve.curve == ()
    assert "cached features" in curve.words
    assert not (tmp_path / "empty").exists()


def test_parts_are_nested_keep_families_together_and_have_every_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    families = [f"{label}-{number // 2}" for label in range(3) for number in range(40)]
    usable = rng.random(120) < 0.8
    shares = (0.01, 0.1, 0.3, 0.7, 1.0)
    parts = [set(part(labels, families, usable, share, seed=3).tolist()) for share in shares]
    for smaller, larger in itertools.pairwise(parts):
        assert smaller < larger
    assert parts[-1] == set(np.flatnonzero(usable).tolist())
    for rows in parts:
        assert {int(labels[row]) for row in rows} == {0, 1, 2}
        taken = {families[row] for row in rows}
        assert rows == {row for row in np.flatnonzero(usable).tolist() if families[row] in taken}


@pytest.mark.parametrize(("floor", "exponent"), [(0.0, 0.5), (0.05, 0.7), (0.1, 1.0)])
def test_a_power_law_is_found_again(floor: float, exponent: float) -> None:
    sizes, ahead = np.array([50.0, 100, 200, 400, 800]), np.array([1600.0, 3200])
    errors = floor + 3 * sizes**-exponent
    found = fitted(sizes, errors[None], ahead, LIKELY)
    assert found[0] == pytest.approx(floor + 3 * ahead**-exponent, abs=0.01)


def test_no_curve_falls_with_more_photos_or_leaves_what_is_possible() -> None:
    rng = np.random.default_rng(0)
    sizes, ahead = np.array([10.0, 20, 40, 80]), np.geomspace(5, 1000, 20)
    for errors in (rng.random((50, 4)), np.zeros((1, 4)), np.ones((1, 4)), np.array([[0.1, 0.2, 0.3, 0.4]])):
        for shape in SHAPES:
            found = fitted(sizes, errors, ahead, shape)
            assert (found >= 0).all()
            assert (found <= 1).all()
            assert (np.diff(found, axis=1) <= 1e-12).all()


def trials(error: float, *, photos: int = 1000, falls: float = 2.0) -> Trials:
    """As many photos named rightly as a power law says, drawn at random."""
    rng = np.random.default_rng(0)
    sizes = np.array([50.0, 100, 200, 400, 800])
    rates = error + falls * sizes**-0.7
    right = rng.random((5, 3, photos)) > rates[:, None, None]
    return Trials(sizes=sizes, right=right, families=[str(number) for number in range(photos)])


def test_the_band_holds_what_a_known_curve_gives_and_widens_with_distance() -> None:
    known = trials(0.05)
    ahead = np.array([800.0, 2000, 4000])
    bands = extrapolated(known.sizes, known.right, known.families, ahead, rng=np.random.default_rng(0))
    truth = 1 - 0.05 - 2 * ahead**-0.7
    assert (bands.fitted.low <= truth).all()
    assert (truth <= bands.fitted.high).all()
    width = bands.fitted.high - bands.fitted.low
    assert width[0] < 0.06
    assert (bands.fitted.low <= bands.fitted.middle).all()


@pytest.mark.parametrize(("falls", "said"), [(4.0, "worth their price"), (0.0, "would bring little")])
def test_words_tell_whether_more_labels_pay(falls: float, said: str) -> None:
    curve = curve_of(trials(0.05, falls=falls), photos=1000, of="the model", seed=0)
    assert said in curve.words
    assert [point.times for point in curve.predicted] == [2.0, 4.0]
    assert [point.photos for point in curve.predicted] == [2000, 4000]
    assert [point.photos for point in curve.measured] == [50, 100, 200, 400, 800]


def test_a_handful_of_photos_gives_no_curve_and_says_why() -> None:
    few = trials(0.1)
    curve = curve_of(replace(few, sizes=few.sizes[:2], right=few.right[:2]), photos=12, of="the model", seed=0)
    assert curve == LabelCurve(measured=(), curve=(), predicted=(), words=curve.words, of="the model")
    assert "12 photos are too few" in curve.words


# ---- costs


def test_costs_tell_each_phase_beside_the_plan_and_what_an_answer_takes(run: Run) -> None:
    found = costs(run)
    assert [phase.name for phase in found.phases][-2:] == ["probe", "evaluation"]
    assert all(phase.predicted is not None and phase.actual is not None for phase in found.phases)
    assert found.actual is not None
    assert found.actual >= sum(phase.actual or 0 for phase in found.phases) - 0.01
    assert found.model_mb == pytest.approx((run.path / "model.safetensors").stat().st_size / 1e6)
    assert found.answer_ms is not None
    assert found.answer_ms > 0
    assert found.peak_mb is None or found.peak_mb > 50
    assert f"The model takes {found.model_mb:.1f} MB" in found.words


def test_costs_of_a_run_without_a_plan_are_those_of_its_files(run: Run) -> None:
    (run.path / "plan.json").unlink()
    found = costs(run)
    assert found.phases == ()
    assert found.model_mb > 1


def test_a_damaged_plan_is_refused_in_a_sentence(run: Run) -> None:
    for text in ("{", "[]", json.dumps({"predicted": {"phases": 3}}), json.dumps({"predicted": None})):
        (run.path / "plan.json").write_text(text)
        with pytest.raises(BadRun, match=r"plan\.json"):
            costs(run)


# ---- the report at the end of a training


@pytest.fixture
def two_classes(drawn_photos: Path, tmp_path: Path) -> Path:
    for name in ("brick", "water"):
        shutil.copytree(drawn_photos / name, tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_a_training_ends_with_its_report(two_classes: Path, tmp_path: Path) -> None:
    run = hs.train(two_classes, out=tmp_path / "run", quality="fast", size=64, report="on")
    assert (run.path / "report.html").is_file()
    assert run.summary()["report"] == str(run.path / "report.html")
    plan = json.loads((run.path / "plan.json").read_text())
    assert plan["actual"]["phases"]["report"] > 0
    assert plan["predicted"]["phases"][-1]["name"] == "report"
    assert "--report on" in run.settings.command()


def test_without_a_report_none_is_made_or_planned(run: Run) -> None:
    assert run.settings.report == "off"
    assert not (run.path / "report.html").exists()
    assert run.summary()["report"] is None
    forecast = run.forecast
    assert forecast is not None
    assert "report" not in {phase.name for phase in forecast.phases}


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (hs.HeadstartError("charts need matplotlib", fix='pip install "headstart[report]"'), "pip install"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError"),
    ],
)
def test_a_report_that_fails_leaves_a_finished_run_and_says_how_to_make_it(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, said: str
) -> None:
    def broken(path: Path) -> Iterator[Note]:
        raise problem
        yield

    monkeypatch.setattr(making, "report", broken)
    run = Run.open(hs.train(two_classes, out=tmp_path / "run", quality="fast", size=64, report="on").path)
    assert run.finished
    (note,) = [note for note in run.summary()["notes"] if "report" in note]
    assert said in note
    assert f"headstart report {run.path}" in note
    assert hs.predict(run.path, two_classes)
