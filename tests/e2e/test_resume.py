"""A run that is killed, at any moment and again and again, ends at the same bits as one that is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import CLASSES, draw, interruptible
from tests.keras_file import other_engine, small

Kind = tuple[object, object]  # of an event, and its stage or name
EACH = {"phase", "stage_started", "epoch", "stage_ended"}  # decisions and figures come just before or after one of them

# The head has layers, so it trains by steps in a stage of its own; then two groups are tuned from cached views.
OPTIONS = ["--head", "dense(16), dropout(0.3)", "--unfreeze", "2", "--epochs", "2", "--batch-size", "8"]
SAME = (
    "model.safetensors",
    "predictions.csv",
    "evaluation.json",
    "splits.csv",
    "skipped.csv",
    "classes.txt",
    "config.toml",
)


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "photos"
    for number, (name, colour) in enumerate(CLASSES.items()):
        for index in range(24):
            draw(folder / name / f"{index:02}.jpg", colour, seed=100 * number + index)
    damaged = folder / "brick" / "00.jpg"
    damaged.write_bytes(damaged.read_bytes()[:700])  # its header is whole: found when it is decoded
    return folder


@dataclass(frozen=True)
class Case:
    """A network to train, and when its runs are killed."""

    options: list[str]
    delays: tuple[float, ...]  # seconds after its folder appears
    deadly: set[Kind] | None = None  # events; None: each of those that are named in EACH


@pytest.fixture(scope="module", params=["torch", pytest.param("keras", marks=pytest.mark.keras)])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "torch":
        return Case(["--size", "64", *OPTIONS], delays=(0.3, 1.2))
    file = small(tmp_path_factory.mktemp("backbone") / "small.keras")
    # Each start of Keras takes seconds: killed where the phases are, not after each event.
    deadly = {("phase", "features"), ("epoch", "head"), ("epoch", "tune"), ("phase", "training")}
    return Case(["--backbone", f"file/{file}", *OPTIONS], (0.3,), deadly)


def start(
    folder: Path, *arguments: object, env: dict[str, str] | None = None, before: Callable[[], None] | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "headstart", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "HEADSTART_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=before,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()


def results(run: Path) -> dict[str, bytes]:
    # The settings name the run's own folder, which differs.
    return {name: (run / name).read_bytes().replace(str(run.name).encode(), b"RUN") for name in SAME}


def facts(run: Path) -> list[dict[str, object]]:
    """The events without their times, and without those that are about nothing else."""
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    timeless = [row for row in rows if row["event"] not in ("planned", "compared")]
    # A decision's reason may tell what was measured.
    return [{key: value for key, value in row.items() if key not in ("seconds", "reason")} for row in timeless]


@pytest.fixture(scope="module")
def undisturbed(many_photos: Path, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder, "train", many_photos, "--out", "run", *case.options))
    return folder / "run"


def kinds(run: Path) -> set[Kind]:
    """What has happened so far, by kind and stage; a line that is still being written is left out."""
    log = run / "events.jsonl"
    whole = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
    rows = [json.loads(line) for line in whole]
    return {(row["event"], row.get("stage") or row.get("name")) for row in rows}


def test_a_run_killed_in_every_phase_ends_at_the_same_bits(
    many_photos: Path, case: Case, undisturbed: Path, tmp_path: Path
) -> None:
    run, killed_at = tmp_path / "run", set[Kind]()
    process = start(tmp_path, "train", many_photos, "--out", "run", *case.options)
    while process.poll() is None:
        new = kinds(run) - killed_at
        if new & case.deadly if case.deadly else any(event in EACH for event, _ in new):
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed_at |= new
            # A run goes on with the engine that it began with, whatever is asked for by now.
            process = start(tmp_path, "resume", "run", env={"KERAS_BACKEND": other_engine()})
        time.sleep(0.002)
    finish(process)
    every = {("epoch", "head"), ("stage_started", "tune"), ("epoch", "tune"), ("stage_ended", "tune")}
    assert (case.deadly or every) <= killed_at
    assert results(run) == results(undisturbed)
    assert facts(run) == facts(undisturbed)


def test_an_unfinished_run_does_not_look_whole(many_photos: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "train", many_photos, "--out", "run", "--size", "64", *OPTIONS)
    while not kinds(tmp_path / "run") and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert (tmp_path / "run" / "INCOMPLETE").exists()
    refused = start(tmp_path, "predict", "run", many_photos)
    _, said = refused.communicate(timeout=300)
    assert refused.returncode == 1
    assert b"headstart resume run" in said


@pytest.mark.parametrize(
    "case",
    # What is torn then is the cache, whose files are the same whatever computes what is in them.
    ["torch", pytest.param("keras", marks=[pytest.mark.keras, pytest.mark.slow])],
    indirect=True,
)
def test_a_run_killed_while_it_computes_ends_at_the_same_bits(
    many_photos: Path, case: Case, undisturbed: Path, tmp_path: Path
) -> None:
    """Killed soon after its folder appears: while features are extracted, with a cache that is not whole."""
    for delay in case.delays:
        folder = tmp_path / str(delay)
        folder.mkdir()
        process = start(folder, "train", many_photos, "--out", "run", *case.options)
        while not (folder / "run" / "splits.csv").exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        process.communicate()
        finish(start(folder, "resume", "run"))
        assert results(folder / "run") == results(undisturbed)


def test_interrupting_says_how_to_go_on(many_photos: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "train", many_photos, "--out", "run", "--size", "64", *OPTIONS, before=interruptible)
    while not kinds(tmp_path / "run"):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"headstart resume" in said
    assert b"Traceback" not in said
    assert (tmp_path / "run" / "INCOMPLETE").exists()
