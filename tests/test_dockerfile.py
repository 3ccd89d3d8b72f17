"""The image of the service: small, nobody in particular, and without a training framework."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

from headstart import api

from .conftest import interruptible
from .serving_client import photo

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT.parent / "shared" / "data" / "hymenoptera"
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax")


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile and what follows it, lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def final() -> dict[str, str]:
    """The last of each instruction in the last stage."""
    found = instructions()
    start = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    return dict(found[start:])


def test_the_image_runs_as_nobody_and_is_told_of_signals() -> None:
    last = final()
    assert last["FROM"] == "python:3.12-slim"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last["USER"])
    command = json.loads(last["CMD"])  # as a list: under a shell it would not hear SIGTERM
    assert command[:3] == ["headstart", "serve", "/bundle"]
    assert "--token" not in command
    assert last["EXPOSE"] == command[command.index("--port") + 1]
    assert isinstance(json.loads(last["HEALTHCHECK"].partition("CMD ")[2]), list)


def test_the_image_is_built_from_what_is_not_ignored_and_no_more() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        word for name, rest in instructions() if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    }
    assert kept == copied
    assert all((ROOT / name).exists() for name in kept)
    assert "*" in ignored


def test_the_extra_of_the_service_brings_no_training_framework() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = {re.split(r"[^\w-]", line)[0] for line in extras["serve"]}
    assert names.isdisjoint(FRAMEWORKS)
    assert {"fastapi", "uvicorn", "openvino"} <= names
    assert "[serve]" in final()["RUN"]


@pytest.mark.slow  # installs the service from the package registry
def test_the_steps_of_the_image_make_a_service_without_a_training_framework(tmp_path: Path, bundle: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    wheel = [python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path / "wheels", ROOT]
    subprocess.run(wheel, check=True, capture_output=True)
    (made,) = (tmp_path / "wheels").glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", f"{made}[serve]"], check=True, capture_output=True)
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True).stdout
    assert {each["name"] for each in json.loads(listed)}.isdisjoint(FRAMEWORKS)
    command = json.loads(final()["CMD"])
    command[0], command[2] = python.with_name(command[0]), bundle
    command[command.index("--port") + 1] = "0"
    environment = {"HEADSTART_TOKEN": "a-token-of-some-length", "HEADSTART_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    ) as served:
        try:
            assert served.stderr is not None
            line = served.stderr.readline()
            found = re.search(r"http://0\.0\.0\.0:(\d+)", line)
            assert found, line
            headers = {"Authorization": "Bearer a-token-of-some-length", "Content-Type": "image/png"}
            address = f"http://127.0.0.1:{found.group(1)}/predict"
            asked = urllib.request.Request(address, photo(), headers)
            with urllib.request.urlopen(asked, timeout=30) as answer:
                assert json.loads(answer.read())[0]["label"]
            served.terminate()
            assert served.wait(30) == 0
        finally:
            served.kill()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Of a model that was trained on real photos."""
    if not PHOTOS.exists():
        pytest.skip("the shared photos are not here")
    run = api.train(PHOTOS, quality="fast", out=tmp_path / "run")
    return api.export(run, to="openvino", out=tmp_path / "bundle").path
