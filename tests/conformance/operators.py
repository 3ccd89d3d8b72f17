"""Let torchvision be imported beside a build of PyTorch that its compiled part was not made for."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_KEPT: list[Any] = []  # the operators go when their library does


def declare_operators() -> None:
    """Have torchvision's two operators declared before it is first imported, where it cannot do so itself.

    The networks for classification call neither, but importing torchvision wants them.
    """
    if _KEPT:
        return  # somebody has looked for torchvision already, without importing it
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Before) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Before())


class _Before(MetaPathFinder):
    """Finds no module; is asked for each one first."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare()


def _declare() -> None:
    import torch

    if _compiled_part_loads():
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


def _compiled_part_loads() -> bool:
    """Whether it fits: it then declares the operators itself, and would refuse to do so a second time."""
    import torch

    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True  # there is nothing to declare them for
    for compiled in Path(spec.submodule_search_locations[0]).glob("_C.*"):
        try:
            torch.ops.load_library(str(compiled))
        except OSError:
            return False
    return True
