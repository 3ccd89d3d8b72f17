"""Give a small labelled data set a pre-trained network's head start.

One function a verb: `train`, `resume`, `predict`, `evaluate`, `audit`, `rank`, `backbones`, `cache`; and the parts to
do it in steps. Every name is loaded when it is first used, so importing headstart costs nothing and loads no framework.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart import heads as heads
    from headstart.api import audit as audit
    from headstart.api import backbones as backbones
    from headstart.api import cache as cache
    from headstart.api import evaluate as evaluate
    from headstart.api import explain as explain
    from headstart.api import export as export
    from headstart.api import predict as predict
    from headstart.api import rank as rank
    from headstart.api import report as report
    from headstart.api import resume as resume
    from headstart.api import serve as serve
    from headstart.api import train as train
    from headstart.backbones.loading import load_backbone as load_backbone
    from headstart.config import Settings as Settings
    from headstart.data.loading import load_dataset as load_dataset
    from headstart.errors import HeadstartError as HeadstartError
    from headstart.estimators.transfer import TransferClassifier as TransferClassifier
    from headstart.estimators.transfer import TransferFeatures as TransferFeatures
    from headstart.model import Model as Model
    from headstart.runs import Run as Run
    from headstart.training.stages import Stage as Stage

_HOMES = {
    "train": "headstart.api",
    "resume": "headstart.api",
    "predict": "headstart.api",
    "evaluate": "headstart.api",
    "explain": "headstart.api",
    "report": "headstart.api",
    "export": "headstart.api",
    "serve": "headstart.api",
    "audit": "headstart.api",
    "rank": "headstart.api",
    "backbones": "headstart.api",
    "cache": "headstart.api",
    "load_dataset": "headstart.data.loading",
    "load_backbone": "headstart.backbones.loading",
    "Model": "headstart.model",
    "Stage": "headstart.training.stages",
    "TransferClassifier": "headstart.estimators.transfer",
    "TransferFeatures": "headstart.estimators.transfer",
    "Run": "headstart.runs",
    "Settings": "headstart.config",
    "HeadstartError": "headstart.errors",
}

__all__ = [*_HOMES, "heads"]
__version__: str


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "heads":
        return import_module("headstart.heads")
    if name == "__version__":
        from importlib.metadata import version

        return version("headstart")
    raise AttributeError(f"module 'headstart' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps a verb in reach where a module has its name.

    Importing `headstart.backbones` would put that package in the place of the function `backbones`, so that the
    function would be gone once anything was loaded. The package stays importable.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
