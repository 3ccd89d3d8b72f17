"""Do in a process of its own what needs Keras on another engine: Keras takes one for the life of a process."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from headstart.errors import BadExport
from headstart.networks.keras_backend import Engine

if TYPE_CHECKING:
    from headstart.exporting.format import Whole


def check_tensorflow(to: str) -> None:
    """Refuse where TensorFlow is missing, which writes this format.

    Raises:
        BadExport: with the way to install it.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise BadExport(
            f"to export to {to}, TensorFlow must be installed",
            fix='pip install "headstart[tensorflow]", or take another format',
        )


def call_with(whole: Whole, function: Callable[..., None], *arguments: str, what: str) -> None:
    """Call a function with the path of the model's `.keras` file and these arguments, where Keras has TensorFlow.

    In a process of its own also where TensorFlow runs already: its converters write to the terminal.

    Raises:
        BadExport: it failed.
    """
    from headstart.networks.keras_native import write

    with TemporaryDirectory(prefix="headstart-") as folder:
        path = Path(folder) / "whole.keras"
        write(whole.model, path, whole.manifest.classes)
        call(function, str(path), *arguments, engine="tensorflow", what=what)


def call(function: Callable[..., None], *arguments: str, engine: Engine | str, what: str) -> None:
    """Call this function of a module of ours with these words, where Keras runs on this engine.

    Args:
        function: of a module's own; it gives nothing back, but may write files.
        arguments: its arguments.
        engine: `tensorflow`, `jax` or `torch`.
        what: what cannot be done if it fails, for the error: `the model cannot be written as ONNX`.

    Raises:
        BadExport: it failed.
    """
    environment = {**os.environ, "KERAS_BACKEND": engine, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", __name__, function.__module__, function.__name__, *arguments]
    # Its standard output goes nowhere: libraries under it print what is not for users.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise BadExport(
            f"{what}: {_said(done.stderr, done.returncode)}", fix="export it to another format, see docs/formats.md"
        )


def _said(log: str, code: int) -> str:
    """What went wrong, in the last line that the process wrote."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300].rstrip(".") if lines else f"the process ended with {code}"


def opened(path: str) -> Any:
    """The model in a `.keras` file, by Keras in safe mode, on the engine of this process."""
    import keras

    return keras.models.load_model(path, compile=False, safe_mode=True)


if __name__ == "__main__":
    module, name, *rest = sys.argv[1:]
    getattr(importlib.import_module(module), name)(*rest)
