"""The command line around stand-ins for the work: what is printed where, and how the process ends."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headstart import api, cli, output
from headstart.config import Settings
from headstart.display import Display, Lines
from headstart.errors import BadData
from headstart.events import Accuracy, EpochEnded, Event, Note, Progress, RunStarted, StageEnded, StageStarted, Stepped
from headstart.prediction import Prediction

SUMMARY = {
    "run": "runs/my photos-1",
    "photos": {"train": 80, "validation": 0, "test": 20},
    "skipped": 2,
    "accuracy": 0.95,
    "accuracy_interval": [0.76, 0.99],
    "test": {"accuracy": 0.95, "log_loss": float("nan")},
    "notes": ["tuning was discarded"],
}


class Stand:
    """A stand-in for a run or a plan."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def summary(self) -> dict[str, Any]:
        return self.facts


@dataclass
class Conductor:
    """Records what it is asked for; fails in the way it is told to."""

    settings: Settings | None = None
    problem: BaseException | None = None

    def train(self, settings: Settings) -> Generator[Event, None, Stand]:
        self.settings = settings
        yield RunStarted(path="runs/my photos-1")
        yield Note(text="a note")
        if self.problem is not None:
            raise self.problem
        return Stand(SUMMARY)

    def plan(self, settings: Settings) -> Generator[Event, None, Stand]:
        yield Progress(what="photos looked at", done=1, total=2)
        return Stand({"stages": ["head", "unfreeze-2"], "photos": {"train": 80}})


@pytest.fixture
def conductor(monkeypatch: pytest.MonkeyPatch) -> Conductor:
    stand_in = Conductor()
    for place, verb in (("headstart.conductor", "train"), ("headstart.dry_run", "plan")):
        module = types.ModuleType(place)
        setattr(module, verb, getattr(stand_in, verb))
        monkeypatch.setitem(sys.modules, place, module)
    return stand_in


@pytest.fixture
def predictions(monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    asked: list[list[Path]] = []

    def predict(run: Path, paths: list[Path], *, priors: str | None = None) -> Generator[Event, None, list[Prediction]]:
        asked.append(paths)
        yield Progress(what="photos", done=1, total=2)
        return [
            Prediction("a, b.jpg", "bee", 0.75, {"ant": 0.25, "bee": 0.75}, unsure=False, distance=0.5),
            Prediction("c.jpg", "", 0.0, {}, "not a photo"),
        ]

    module = types.ModuleType("headstart.answering")
    module.predict = predict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "headstart.answering", module)
    return asked


def test_options_reach_the_settings(conductor: Conductor) -> None:
    words = "--quality fast --time-limit 1m30s --seed 4 --unfreeze 0 --batch-size 8 --lr 1e-3 --device cpu"
    assert cli.run(["train", "my photos", *words.split()]) == 0
    expected = Settings(
        data="my photos", quality="fast", time_limit=90.0, seed=4, unfreeze=0, batch_size=8, lr=1e-3, device="cpu"
    )
    assert conductor.settings == expected


def test_the_command_that_a_run_writes_down_is_understood(conductor: Conductor) -> None:
    import shlex

    settings = Settings(data="-my photos", quality="best", time_limit=90.5, seed=4, splits="a b.csv", head="dense(8)")
    assert cli.run(shlex.split(settings.command())[1:]) == 0
    assert conductor.settings == settings


def test_the_result_is_on_stdout_and_the_rest_on_stderr(
    conductor: Conductor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", "photos"]) == 0
    out, err = capsys.readouterr()
    assert "0.950 on the test photos, 95 % interval 0.760 to 0.990" in out
    assert "80 train, 0 validation, 20 test; 2 skipped" in out
    assert "tuning was discarded" in out
    assert "headstart predict 'runs/my photos-1' PHOTOS" in out
    assert "a note" not in out
    assert "a note\n" in err


def test_json_is_the_only_thing_on_stdout(conductor: Conductor, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "photos", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["accuracy_interval"] == [0.76, 0.99]
    assert answer["test"]["log_loss"] is None


def test_a_dry_run_says_the_plan_and_does_nothing(conductor: Conductor, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "photos", "--dry-run"]) == 0
    assert conductor.settings is None
    assert "head, unfreeze-2" in capsys.readouterr().out


def test_a_refusal_is_two_lines_on_stderr_and_exit_code_1(
    conductor: Conductor, capsys: pytest.CaptureFixture[str]
) -> None:
    conductor.problem = BadData("folder 'photos' is empty", fix="put photos into it")
    assert cli.run(["train", "photos"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("error: folder 'photos' is empty\nhint: put photos into it\n")
    assert "Traceback" not in err


def test_a_refusal_is_json_for_programs(conductor: Conductor, capsys: pytest.CaptureFixture[str]) -> None:
    conductor.problem = BadData("folder 'photos' is empty", fix="put photos into it")
    assert cli.run(["train", "photos", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "folder 'photos' is empty", "hint": "put photos into it"}


def test_a_bug_of_ours_is_one_line_and_how_to_report_it(
    conductor: Conductor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor.problem = ZeroDivisionError("division by zero")
    assert cli.run(["train", "photos"]) == 1
    err = capsys.readouterr().err
    assert "error: headstart failed unexpectedly: ZeroDivisionError: division by zero\n" in err
    assert "HEADSTART_DEBUG=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("HEADSTART_DEBUG", "1")
    assert cli.run(["train", "photos"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(conductor: Conductor, capsys: pytest.CaptureFixture[str]) -> None:
    conductor.problem = KeyboardInterrupt()
    assert cli.run(["train", "photos"]) == 130
    assert "headstart resume 'runs/my photos-1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "photos", "--qualty", "fast"], "--quality"),
        (["train", "photos", "--quality", "worst"], "balanced"),
        (["train", "photos", "--epochs", "many"], "epochs"),
        (["trian", "photos"], "train"),
        (["predict"], "run"),
        (["train", "photos", "too", "many"], "too"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_a_way_out(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert hint in err
    assert "--help" in err


def test_predictions_are_a_table_or_csv_or_json(
    predictions: list[list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", "runs/one", "a.jpg", "new"]) == 0
    assert predictions == [[Path("a.jpg"), Path("new")]]
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["a,", "b.jpg", "bee", "0.750"]
    assert "not a photo" in table[2]

    assert cli.run(["predict", "runs/one", "a.jpg", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    sure = {"unsure": "false", "distance": "0.5"}
    assert rows[0] == {"path": "a, b.jpg", "label": "bee", "probability": "0.75", "error": "", **sure}
    assert rows[1]["error"] == "not a photo"
    assert rows[1]["unsure"] == rows[1]["distance"] == "", "of a photo that was not read nothing is known"

    assert cli.run(["predict", "runs/one", "a.jpg", "--json"]) == 0
    as_json = capsys.readouterr().out
    assert json.loads(as_json)[0]["probabilities"] == {"ant": 0.25, "bee": 0.75}
    assert cli.run(["predict", "runs/one", "a.jpg", "--format", "json"]) == 0
    assert capsys.readouterr().out == as_json


def test_a_spreadsheet_computes_no_name() -> None:
    formula = "=cmd|' /C calc'!A0"
    honest = ("-1", "@home", "+more", "=x", "a (b)")
    rows = [Prediction(formula, formula, 0.5, {}), *(Prediction("1.jpg", name, 0.5, {}) for name in honest)]
    first, *rest = list(csv.DictReader(output.predictions_csv(rows).splitlines()))
    assert (first["path"], first["label"]) == (f"'{formula}", f"'{formula}")
    assert tuple(row["label"] for row in rest) == honest, "names that do nothing stay as they are"


def test_one_path_will_do_in_python(predictions: list[list[Path]]) -> None:
    api.predict("runs/one", "new")
    api.predict(Path("runs/one"), Path("new"))
    assert predictions == [[Path("new")], [Path("new")]]


def test_the_verbs_stay_in_reach_when_modules_of_their_names_are_loaded() -> None:
    script = (
        "import headstart, headstart.backbones, headstart.backbones.backbone, importlib\n"
        "assert callable(headstart.backbones), headstart.backbones\n"
        "assert importlib.import_module('headstart.backbones').__path__\n"
        "from headstart import predict, Stage, heads\n"
        "assert callable(headstart.predict) and callable(predict)\n"
        "assert heads.mlp(8)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.parametrize("verb", list(cli._VERBS))
def test_every_parameter_of_a_verb_is_an_option_of_its_command(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run([verb, "--help"]) == 0
    text = capsys.readouterr().out
    for name in inspect.signature(getattr(api, verb)).parameters:
        option = "--" + name.replace("_", "-")
        line = next((line for line in text.splitlines() if option in line.split()), "")
        assert (line == "") == (name == "on_event"), name
        assert line == "" or len(line.replace(option, "").strip("│ *")) > 20, f"{option} is not explained"
    assert "--json" in text


def test_a_closed_stdout_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "headstart", "backbones"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_stdout_is_said_in_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "headstart", "backbones"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the answer cannot be written")
    assert "Traceback" not in done.stderr


def test_a_file_name_of_any_bytes_can_be_printed() -> None:
    code = "from headstart import cli; cli.run = lambda words: cli._print('caf\\udce9') or 0; cli.main([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "caf\\udce9\n"


def test_version_and_help_are_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("headstart 0.")
    assert cli.run([]) == 0
    assert "train" in capsys.readouterr().out


EVENTS: list[Event] = [
    RunStarted(path="runs/one"),
    Progress(what="features", done=1, total=4),
    Progress(what="features", done=4, total=4),
    Accuracy(name="first", value=0.9, interval=(0.8, 0.95), n=50, seconds=2.0),
    StageStarted(stage="unfreeze-2", rates={"head": 1e-3, "block15": 1e-4}, epochs=2),
    Stepped(stage="unfreeze-2", epoch=1, step=1, steps=3, epochs=2),
    EpochEnded(
        stage="unfreeze-2",
        epoch=1,
        epochs=2,
        loss=0.5,
        validation_loss=0.6,
        validation_accuracy=None,
        seconds=1.0,
    ),
    StageEnded(stage="unfreeze-2", epochs=1, best=0, reason="no gain"),
]


def test_without_a_terminal_events_are_plain_lines_and_steps_are_quiet() -> None:
    stream = io.StringIO()
    with Display(stream) as display:
        for event in EVENTS:
            display.show(event)
    lines = stream.getvalue().splitlines()
    assert lines[1] == "first accuracy 0.900, 95 % interval 0.800 to 0.950, on 50 photos, after 2.0 s"
    assert lines[2].endswith("rates head 0.001, block15 0.0001")
    assert "loss 0.5000, validation loss 0.6000 (1.0 s)" in lines[3]
    assert "the weights from before it are kept" in lines[4]
    assert len(lines) == 5
    assert "\x1b" not in stream.getvalue()


def test_long_work_without_a_terminal_is_told_now_and_then() -> None:
    times = iter(range(0, 1000, 4))
    stream = io.StringIO()
    screen = Lines(stream, lambda: float(next(times)))
    for done in range(9):
        screen.bar("features", done, 9)
    assert len(stream.getvalue().splitlines()) == 2


def test_on_a_terminal_there_is_a_bar_and_the_lines_stay() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Display(stream) as display:
        for event in EVENTS:
            display.show(event)
    assert "first accuracy 0.900" in stream.getvalue()
    assert "features" in stream.getvalue()


def test_a_reader_of_stderr_that_goes_away_does_not_end_the_work() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Display(Gone()) as display:
        for event in EVENTS:
            display.show(event)
    assert display.run == "runs/one"


def test_every_kind_of_event_has_its_words_or_its_bar() -> None:
    from headstart.display import advance, sentence

    told: Callable[[Event], bool] = lambda event: (sentence(event) is None) != (advance(event) is None)  # noqa: E731
    assert all(told(event) for event in EVENTS)
