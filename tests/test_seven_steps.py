"""What the guide in seven steps tells a reader to type is typed here, with VGG16's real weights and real photos."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "seven-steps.md").read_text(encoding="utf-8")
SHARED = ROOT.parent / "shared"
WEIGHTS = SHARED / "weights" / "keras" / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
FLOWERS = SHARED / "data" / "flowers5"
CLASSES = ("daisy", "rose", "tulip")
PER_CLASS = 8
STEPS = ["Load", "Freeze", "Add layers", "Compile", "Train", "Evaluate", "Fine-tune"]
# Keras's own variables under NumPy 2 warn, and its `fit` on a tf.data.Dataset does; any other warning is an error.
STRICT = ["-W", "error", "-W", "ignore:__array__ implementation:DeprecationWarning", "-W", "ignore:`shuffle=True`"]

needs_flowers = pytest.mark.skipif(not FLOWERS.is_dir(), reason="the flowers5 photos are not here")
needs_vgg16 = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the VGG16 weights are not here")


def pieces(language: str) -> Iterator[tuple[str, str]]:
    """Each fenced block of this language, with the heading that it stands under."""
    heading, inside = "", ""
    for line in GUIDE.splitlines():
        if line.startswith("```"):
            inside = "" if inside else line[3:] or "text"
            if inside == language:
                yield heading, ""
        elif inside == language:
            yield heading, f"{line}\n"
        elif not inside and line.startswith("#"):
            heading = line.lstrip("#").strip()


def program(language: str, heading: str) -> str:
    """What stands under all headings of this name, from top to bottom; a reader without network names the weights."""
    text = "".join(line for under, line in pieces(language) if under == heading)
    assert text, heading
    text = text.replace('"keras/vgg16"', '"keras/vgg16", weights="vgg16.h5"')
    return text.replace("--backbone keras/vgg16", "--backbone keras/vgg16 --weights vgg16.h5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guide's reader has: photos, new ones, other labelled ones; and the cache of earlier steps."""
    place = tmp_path_factory.mktemp("seven")
    for name in CLASSES:
        files = sorted((FLOWERS / name).iterdir())
        for where, some in {"photos": files[:PER_CLASS], "more-photos": files[-4:]}.items():
            (place / where / name).mkdir(parents=True)
            for file in some:
                shutil.copy(file, place / where / name)
    shutil.copytree(place / "more-photos" / "tulip", place / "new")
    (place / "vgg16.h5").symlink_to(WEIGHTS)
    return place


def typed(command: list[str], folder: Path) -> str:
    """What such a command prints, run where the reader would run it."""
    own = {
        "HEADSTART_CACHE": str(folder / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": "tensorflow",
    }
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_flowers
@needs_vgg16
def test_the_seven_steps_in_keras_run_from_top_to_bottom(folder: Path) -> None:
    typed([sys.executable, *STRICT, "-c", program("python", "Keras")], folder)
    assert (folder / "mine.keras").is_file()


@needs_flowers
def test_the_seven_steps_in_pytorch_run_from_top_to_bottom(folder: Path) -> None:
    printed = typed([sys.executable, *STRICT, "-c", program("python", "PyTorch")], folder)
    assert "tensor([[" in printed


@pytest.mark.slow  # six processes, each of which starts TensorFlow
@needs_flowers
@needs_vgg16
def test_the_commands_run_in_their_order_and_keras_alone_opens_what_they_made(folder: Path) -> None:
    printed = typed(["bash", "-euo", "pipefail", "-c", program("bash", "Command")], folder)
    assert "keras/vgg16" in printed
    assert printed.count("new/") == 4
    without = "import sys\nsys.modules['headstart'] = None\n"
    answers = typed([sys.executable, *STRICT, "-c", without + program("python", "The file of a run")], folder)
    assert len(re.findall(rf"^new/\S+ ({'|'.join(CLASSES)}) [01]\.\d+", answers, re.MULTILINE)) == 4


@needs_flowers
def test_photos_may_come_from_each_of_the_places_that_are_named(folder: Path) -> None:
    printed = typed([sys.executable, *STRICT, "-c", program("python", "Where photos may come from")], folder)
    assert printed.count(str(CLASSES)) == 2
    assert "('ants', 'bees')" in printed


def test_there_are_seven_steps_each_in_both_frameworks_and_as_a_command() -> None:
    headings = re.findall(r"^#+ (.+)$", GUIDE, re.MULTILINE)
    steps = [heading for heading in headings if re.match(r"\d\. ", heading)]
    assert steps == [f"{number}. {step}" for number, step in enumerate(STEPS, start=1)]
    for step in steps:
        place = headings.index(step)
        assert headings[place + 1 : place + 4] == ["Keras", "PyTorch", "Command"], step


def test_every_python_and_shell_block_of_the_guide_is_run_here() -> None:
    run = {"Keras", "PyTorch", "The file of a run", "Where photos may come from", "Command"}
    assert {heading for language in ("python", "bash") for heading, _ in pieces(language)} == run


def test_the_figures_in_the_guide_are_those_that_were_measured() -> None:
    draw = _draw()
    assert draw.MEASURED.search(GUIDE).group() == draw.figures(draw.read())


def test_links_and_pictures_are_there_and_the_pictures_small() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", GUIDE):
        path = ROOT / "docs" / target
        assert path.exists(), target
        assert path.suffix != ".png" or path.stat().st_size < 150_000, target


def _draw() -> Any:
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "pictures" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
