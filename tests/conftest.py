"""Photos to train on and a command line to run, for tests of the whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

# Threads of two programs that spin at the same barrier make each other's steps ten times slower. Read when PyTorch
# starts, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

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
