"""What a run says of its own answers, on real photos: calibrated, unsure of what is like none of its photos."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import headstart
from headstart.answering import Answerer, answerer
from headstart.errors import BadRun
from headstart.evaluation.metrics import item_losses
from headstart.events import Event, Note
from headstart.outcome import outcome
from headstart.runs import Run

DATA = Path(__file__).parents[2] / "shared" / "data"
OWN, FOREIGN = DATA / "hymenoptera", DATA / "trashnet"
pytestmark = pytest.mark.skipif(not (OWN.exists() and FOREIGN.exists()), reason="the real photos are not at hand")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return headstart.train(OWN, quality="fast", out=tmp_path_factory.mktemp("trust") / "frozen")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("trust") / "tuned"
    # A head of layers ships with what was tuned, whether that has helped or not.
    return headstart.train(OWN, quality="fast", head="dense(16)", unfreeze=1, epochs=1, lr=3e-4, size=128, out=out)


def rows(run: Run, split: str) -> list[dict[str, str]]:
    with (run.path / "predictions.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def strange(count: int) -> list[Path]:
    return sorted(FOREIGN.glob("*/*.jpg"))[:: 2500 // count][:count]


@pytest.mark.parametrize("kind", ["frozen", "tuned"])
def test_what_a_run_writes_are_its_calibrated_probabilities(kind: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(kind)
    told = run.evaluation.calibration
    assert told is not None
    assert run.recipe is not None
    assert told.temperature == run.recipe.temperature
    labels = np.array([run.classes.index(row["label"]) for row in rows(run, "test")])
    probabilities = np.full((len(labels), 2), np.nan)
    for place, row in enumerate(rows(run, "test")):
        answer = run.classes.index(row["predicted"])
        probabilities[place, answer] = float(row["probability"])
        probabilities[place, 1 - answer] = 1 - float(row["probability"])
    assert item_losses(labels, probabilities).mean() == pytest.approx(told.test.after.log_loss, abs=1e-4)
    assert told.test.after.log_loss == pytest.approx(run.evaluation.test.log_loss)
    assert told.test.before.log_loss != told.test.after.log_loss
    assert told.validation is not None
    assert told.validation.after.log_loss <= told.validation.before.log_loss + 0.01


@pytest.mark.parametrize("kind", ["frozen", "tuned"])
def test_photos_of_rubbish_are_told_from_ants_and_bees(kind: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(kind)
    told = run.evaluation.abstention
    assert told is not None
    assert told.test is not None
    assert told.false_alarms == 0.05
    assert told.test.unsure == sum(row["unsure"] == "true" for row in rows(run, "test"))
    assert told.test.interval[0] < 0.08, "far more of its own test photos than was promised"
    events: list[Event] = []
    answers = headstart.predict(run, strange(40), on_event=events.append)
    caught = sum(bool(answer.unsure) for answer in answers)
    assert caught > 5 * 40 * max(0.05, told.test.share) or caught > 20
    assert any("like none" in event.text for event in events if isinstance(event, Note))


def test_the_threshold_of_a_tuned_network_is_a_distance_of_a_photo_that_it_was_not_fitted_on(tuned: Run) -> None:
    """Its training photos are nearer to it than any others, so they cannot tell what is far."""
    known = tuned.novelty
    assert known is not None
    distances = np.sort([float(row["distance"]) for row in rows(tuned, "validation")])
    place = int(np.ceil((len(distances) + 1) * 0.95)) - 1
    assert known.threshold == pytest.approx(distances[place], abs=1e-5)


def test_predict_gives_the_distances_of_the_run(frozen: Run) -> None:
    some = rows(frozen, "test")[:8]
    for row, answer in zip(some, headstart.predict(frozen, [OWN / row["path"] for row in some]), strict=True):
        assert answer.distance == pytest.approx(float(row["distance"]), abs=1e-5)
        assert str(answer.unsure).lower() == row["unsure"]
        assert answer.probability == pytest.approx(float(row["probability"]), abs=1e-5)


def test_to_be_unsure_costs_no_second_pass_and_changes_no_answer(frozen: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = answerer(frozen)
    began: list[str] = []

    def counted(name: str) -> None:
        work = getattr(model.network, name)

        def counting(inputs: np.ndarray, *where: object) -> np.ndarray:
            if inputs.dtype == np.uint8:
                began.append(name)
            answer: np.ndarray = work(inputs, *where)
            return answer

        monkeypatch.setattr(model.network, name, counting)

    counted("features")
    counted("logits")
    files = sorted(OWN.glob("ants/*.jpg"))[:8]
    seen = outcome(model.look(files))
    assert len(began) == 2, "eight photos are two chunks, each of which enters the network once"
    plain = Answerer(network=model.network, modality=model.modality, spec=model.spec, temperature=model.temperature)
    without, _ = outcome(plain.answer(files))
    assert (without == seen.probabilities(model.temperature)).all()


def test_evaluate_says_of_how_many_it_is_unsure(frozen: Run, tmp_path: Path) -> None:
    for name, source in {"ants": OWN / "ants", "bees": FOREIGN / "glass"}.items():
        (tmp_path / name).mkdir()
        for file in sorted(source.glob("*.jpg"))[:12]:
            shutil.copy(file, tmp_path / name)
    events: list[Event] = []
    found = headstart.evaluate(frozen, tmp_path, on_event=events.append)
    assert found.unsure is not None
    assert found.unsure.n == 24
    assert found.unsure.unsure >= 6
    assert any("unsure of" in event.text for event in events if isinstance(event, Note))


@pytest.fixture
def copied(frozen: Run, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(frozen.path, tmp_path / "copied")))


def test_a_run_of_before_is_never_unsure_and_says_that_it_cannot_tell(copied: Run) -> None:
    (copied.path / "novelty.safetensors").unlink()
    answer = headstart.predict(copied, strange(1))[0]
    assert (answer.unsure, answer.distance) == (None, None)
    assert answer.label in copied.classes


def test_a_run_whose_distances_are_of_another_network_is_refused(copied: Run) -> None:
    from headstart.novelty import fit, limited
    from tests.test_novelty import CLASSES, photos

    features, labels = photos(40, 96, np.random.default_rng(0))
    other = limited(fit(features, labels), np.arange(40.0) / CLASSES)
    assert other is not None
    copied.save_novelty(other)
    with pytest.raises(BadRun, match="put together"):
        headstart.predict(copied, strange(1))
