"""Photos to train on and a command line to run, for tests of the whole."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

# Threads of two programs that spin at the same barrier make each other's steps ten times slower. Read when PyTorch
# starts, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# JAX compiles the same small networks in a hundred tests and in the processes that they start: once is enough.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # a worker's comes from the process that started it
    compiled = tempfile.mkdtemp(prefix="headstart-jax-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import numpy as np
import pytest
from PIL import Image

from headstart import cli
from headstart.config import Settings

from .conformance.operators import declare_operators

declare_operators()

CLASSES = {"brick": (170, 70, 50), "grass": (60, 140, 60), "water": (50, 90, 170)}
PER_CLASS = 12


def interruptible() -> None:
    """To be done in a process that a test interrupts: started in a script's background, it would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Headstart(Protocol):
    """`headstart` in a process of its own, in the test's own folder."""

    def __call__(
        self, *arguments: object, env: dict[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it with these arguments; `before` is done in the new process first."""


def draw(path: Path, colour: tuple[int, int, int], *, seed: int) -> None:
    """A photo of sorts: this colour, in stripes and with noise."""
    rng = np.random.default_rng(seed)
    height, width = 60, 80
    stripes = 30 * np.sin(np.arange(width) / rng.uniform(1, 8))[None, :, None]
    pixels = np.array(colour) + stripes + rng.normal(0, 20, (height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where only what is marked is asked for, what other files import need not be."""
    if not config.option.markexpr.startswith("keras") or collection_path.suffix != ".py":
        return None
    return "mark.keras" not in collection_path.read_text(encoding="utf-8") or None


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is seen of photos is kept: not in the cache of whoever runs the tests."""
    os.environ["HEADSTART_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def no_reports_unasked() -> None:
    """A report after each of a hundred trainings would take longer than they do: tests that want one say so."""
    Settings.__init__.__kwdefaults__["report"] = "off"


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three class folders of a dozen JPEGs each. Read it, do not change it."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    for number, (name, colour) in enumerate(CLASSES.items()):
        for index in range(PER_CLASS):
            draw(folder / name / f"{index:02}.jpg", colour, seed=100 * number + index)
    return folder


@pytest.fixture
def photos(drawn_photos: Path, tmp_path: Path) -> Path:
    """The same, to do with as one likes: `photos` in the folder in which the test runs `headstart`."""
    return Path(shutil.copytree(drawn_photos, tmp_path / "photos"))


@pytest.fixture
def headstart(tmp_path: Path) -> Headstart:
    """Runs `headstart` in the test's own folder, with a cache of its own; no report ends a training, unless asked."""

    def run(
        *arguments: object, env: dict[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        own = {"HEADSTART_CACHE": str(tmp_path / "cache"), "HEADSTART_DEBUG": ""}
        words = [str(word) for word in arguments]
        if words[:1] == ["train"] and "--report" not in words:
            words[1:1] = ["--report", "off"]
        return subprocess.run(
            [sys.executable, "-m", "headstart", *words],
            cwd=tmp_path,
            env={**os.environ, **own, **(env or {})},
            preexec_fn=before,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def headstart_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Headstart:
    """The same in this process, for what is no matter of processes: each start takes two seconds of a core."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADSTART_DEBUG", "")

    def run(
        *arguments: object, env: dict[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        assert env is before is None, "that takes a process"
        words = [str(word) for word in arguments]
        capfd.readouterr()
        return subprocess.CompletedProcess(words, cli.run(words), *capfd.readouterr())

    return run
