"""Word what the formats of Keras models refuse: networks of PyTorch, and graphs that are not what they should be."""

from __future__ import annotations

from pathlib import Path

from headstart.backbones.keras_architecture import brief
from headstart.errors import BadBundle

NO_GRAPH = "a PyTorch network has no graph of Keras or TensorFlow; export it to onnx or openvino"
_DO_NOT = "do not use it, or export it again"


def unloadable(path: Path, library: str, problem: Exception) -> BadBundle:
    """For a graph at which a library fails."""
    return BadBundle(f"graph {str(path)!r} does not load in {library}: {brief(problem)}", fix=_DO_NOT)


def another(path: Path) -> BadBundle:
    """For a graph that takes or gives something else than it should."""
    return BadBundle(f"graph {str(path)!r} is not the one that its manifest describes", fix=_DO_NOT)
