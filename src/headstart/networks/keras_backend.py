"""Decide which engine Keras runs on, and start it: Keras takes one for the life of a process, when it is imported."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal

from headstart.config import Framework
from headstart.errors import BadSetting

Engine = Literal["tensorflow", "jax"]
ENGINES: tuple[Engine, ...] = ("tensorflow", "jax")
_NOTICES = (b"WARNING: All log messages before absl::InitializeLog()", b"I0000 ")
_INSTALL = "install one: pip install 'headstart[tensorflow]' or pip install 'headstart[jax]'"


def choose(framework: Framework | None = None) -> Engine:
    """The engine to use from now on: the one asked for, else KERAS_BACKEND's, else the one installed, TensorFlow first.

    Raises:
        BadSetting: it is not installed, or Keras runs on another one in this process already.
    """
    running, environment = _running(), os.environ.get("KERAS_BACKEND")
    wanted = framework or running or environment or next(iter(engines()), None)
    if wanted is None:
        raise BadSetting("Keras backbones need TensorFlow or JAX, and neither is installed", fix=_INSTALL)
    if wanted not in ENGINES:
        said = "the environment says KERAS_BACKEND=" if wanted == environment else "the engine is "
        raise BadSetting(
            f"{said}{wanted}, but Keras backbones are trained with TensorFlow or JAX",
            fix=f"set KERAS_BACKEND or --framework to {' or '.join(ENGINES)}; for PyTorch take a PyTorch backbone",
        )
    if running is not None and running != wanted:
        raise BadSetting(
            f"Keras runs on {running!r} in this process already, and cannot change to {wanted!r}",
            fix=f"leave the framework out, or start a new process with KERAS_BACKEND={wanted}",
        )
    if wanted not in engines():
        raise BadSetting(f"{wanted} is not installed", fix=f"pip install 'headstart[{wanted}]', or {_other(engines())}")
    if find_spec("keras") is None:
        raise BadSetting("Keras is not installed", fix=f"pip install 'headstart[{wanted}]'")
    os.environ["KERAS_BACKEND"] = wanted
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _without_notices():
        importlib.import_module("keras")
    return wanted


def choose_again(recorded: Engine | None) -> Engine:
    """The engine for a model that was made on `recorded`: that one, unless another runs or is asked for already.

    Raises:
        BadSetting: as `choose`.
    """
    free = _running() is None and "KERAS_BACKEND" not in os.environ
    return choose(recorded if free and recorded in engines() else None)


def engines() -> tuple[Engine, ...]:
    """The engines that are installed; none is imported."""
    return tuple(name for name in ENGINES if find_spec(name) is not None)


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Hold back what TensorFlow's C++ writes to stderr, by its own settings unavoidably, each time that it starts."""
    if "keras" in sys.modules:
        yield
        return
    with without_lines(_NOTICES):
        yield


@contextlib.contextmanager
def without_lines(notices: tuple[bytes, ...]) -> Iterator[None]:
    """Hold back lines that begin like this of what libraries below Python write to stderr: they concern no user.

    Anything else that was written meanwhile follows afterwards.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # closed by the shell: 2>&-
        yield
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            for line in kept:
                if not line.startswith(notices):
                    os.write(2, line)


def _running() -> str | None:
    """The engine that Keras has taken in this process, if it is imported already."""
    keras = sys.modules.get("keras")
    return None if keras is None else str(keras.config.backend())


def _other(installed: tuple[Engine, ...]) -> str:
    return f"take --framework {' or '.join(installed)}" if installed else "take a PyTorch backbone"
