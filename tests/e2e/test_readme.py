"""What the README and the guide tell a reader to type is typed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headstart import cli
from headstart.config import Settings

ROOT = Path(__file__).parents[2]
PER_CLASS = 12  # photos that the fixture draws
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    """The fenced blocks of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def typed(command: list[str], folder: Path) -> str:
    """What such a command prints, run where the reader would run it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "HEADSTART_CACHE": str(folder / "cache"), "PATH": path}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def laid_out(drawn_photos: Path, folder: Path) -> Path:
    """A folder with what the README's reader has: photos, new ones, and other labelled ones."""
    shutil.copytree(drawn_photos, folder / "photos")
    shutil.copytree(drawn_photos, folder / "more-photos")
    shutil.copytree(drawn_photos / "grass", folder / "new")
    return folder


@pytest.fixture(scope="module")
def reader(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Someone who has typed the README's commands in their order: where, and what they saw."""
    folder = laid_out(drawn_photos, tmp_path_factory.mktemp("reader"))
    return folder, typed(["bash", "-euo", "pipefail", "-c", "\n".join(blocks("bash"))], folder)


def test_the_commands_of_the_readme_work_in_their_order(reader: tuple[Path, str]) -> None:
    _, printed = reader
    assert "95 % interval" in printed
    assert "runs/photos-1" in printed
    assert printed.count("new/") == PER_CLASS + 1  # all are named, and one is explained


def test_the_guide_names_every_file_of_a_run(reader: tuple[Path, str]) -> None:
    run = reader[0] / "runs" / "photos-1"
    there = {f"{path.name}/" if path.is_dir() else path.name for path in run.iterdir()}
    table = GUIDE.partition("## A run's folder")[2].partition("\n## ")[0]
    named = {name for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)}
    assert there <= named
    assert named - there <= {"INCOMPLETE", "model.keras"}


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_of_the_readme_works(code: str, drawn_photos: Path, tmp_path: Path) -> None:
    typed([sys.executable, "-W", "error", "-c", code], laid_out(drawn_photos, tmp_path))


def test_the_table_of_verbs_names_every_verb() -> None:
    assert re.findall(r"^\| `headstart (\w+)", README, re.MULTILINE) == list(cli._VERBS)


def test_the_configuration_in_the_guide_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(blocks("toml", GUIDE)[0], encoding="utf-8")
    assert Settings.resolve(tmp_path / "mine.toml", data="photos").quality == "best"


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/demo", "scripts/test", "scripts/check", ".ci/run"])
def test_scripts_are_ready_to_run(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", path], check=True)
