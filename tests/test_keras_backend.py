"""Which engine Keras gets: the one asked for, the environment's, or the one that is installed; else a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from headstart.errors import BadSetting
from headstart.networks import keras_backend
from headstart.networks.keras_backend import choose, choose_again, engines


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it with what is to seem installed. Keras is not imported, and importing it does nothing."""
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(keras_backend.importlib, "import_module", lambda name: None)

    def only(names: Collection[str]) -> None:
        monkeypatch.setattr(keras_backend, "find_spec", lambda name: name if name in names else None)

    only(("keras", "tensorflow", "jax"))
    return only


@pytest.fixture
def running(installed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it with the engine that Keras is to seem to run on in this process."""

    def on(engine: str) -> None:
        config = SimpleNamespace(backend=lambda: engine)
        monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(config=config, __version__="3.0.0"))

    return on


def test_tensorflow_comes_first(installed: Any) -> None:
    assert engines() == ("tensorflow", "jax")
    assert choose() == "tensorflow"
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


def test_the_one_that_is_installed_is_taken(installed: Any) -> None:
    installed(("keras", "jax"))
    assert engines() == ("jax",)
    assert choose() == "jax"


def test_the_environment_is_honoured(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert choose() == "jax"


def test_an_empty_environment_says_nothing(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "")
    assert choose() == "tensorflow"


def test_what_is_asked_for_wins_over_the_environment(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert choose("jax") == "jax"
    assert os.environ["KERAS_BACKEND"] == "jax"


def test_the_engine_that_runs_is_kept(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running("jax")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")  # too late to mean anything
    assert choose() == choose("jax") == "jax"


def test_another_engine_than_the_one_that_runs_is_refused(running: Any) -> None:
    running("jax")
    with pytest.raises(BadSetting) as refusal:
        choose("tensorflow")
    assert "runs on 'jax' in this process already" in refusal.value.what
    assert "KERAS_BACKEND=tensorflow" in refusal.value.fix


@pytest.mark.parametrize("where", ["environment", "asked", "running"])
def test_keras_on_torch_is_refused_with_the_way_out(where: str, running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "environment":
        monkeypatch.setenv("KERAS_BACKEND", "torch")
    if where == "running":
        running("torch")
    with pytest.raises(BadSetting) as refusal:
        choose("torch" if where == "asked" else None)
    assert "torch" in refusal.value.what
    assert "tensorflow" in refusal.value.fix
    assert "PyTorch backbone" in refusal.value.fix


@pytest.mark.parametrize(
    ("names", "asked", "what", "fix"),
    [
        ((), None, "need TensorFlow or JAX, and neither is installed", "headstart[tensorflow]"),
        (("keras", "tensorflow"), "jax", "jax is not installed", "headstart[jax]"),
        (("keras", "jax"), "tensorflow", "tensorflow is not installed", "--framework jax"),
        (("tensorflow",), None, "Keras is not installed", "headstart[tensorflow]"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(
    names: tuple[str, ...], asked: Any, what: str, fix: str, installed: Any
) -> None:
    installed(names)
    with pytest.raises(BadSetting) as refusal:
        choose(asked)
    assert what in refusal.value.what
    assert fix in refusal.value.fix
    assert "\n" not in str(refusal.value.what)


def test_a_missing_engine_in_the_environment_is_said_so(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(("keras", "tensorflow"))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(BadSetting, match="jax is not installed"):
        choose()


def test_a_model_of_another_engine_is_opened_on_that_one_where_it_is_free(
    running: Any, installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_again("jax") == "jax"
    monkeypatch.delenv("KERAS_BACKEND")
    assert choose_again(None) == "tensorflow"
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert choose_again("jax") == "tensorflow"
    running("jax")
    assert choose_again("tensorflow") == "jax"
    running("tensorflow")
    monkeypatch.delenv("KERAS_BACKEND")
    installed(("keras", "tensorflow"))
    assert choose_again("jax") == "tensorflow"


def test_asking_which_engines_there_are_imports_none() -> None:
    code = "import sys; from headstart.networks.keras_backend import engines; engines(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow", "jax"} & set(done.stdout.split())


def test_starting_keras_prints_nothing_and_takes_the_engine() -> None:
    if not engines() or not find_spec("keras"):
        pytest.skip("no engine of Keras is installed")
    code = "from headstart.networks.keras_backend import choose; print(choose())"
    code += "; import keras; print(keras.config.backend())"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment["KERAS_BACKEND"] = engines()[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == [engines()[0]] * 2
    assert done.stderr == ""
