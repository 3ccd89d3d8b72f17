"""Keep what transformers and the Hub's client say from the terminal while they work for us; count their bytes."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from headstart.backbones.backbone import OnProgress

_LOUD = ("transformers", "huggingface_hub", "httpx")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines, progress bars or warnings of theirs while it is open; afterwards all is as it was."""
    before = {name: logging.getLogger(name).level for name in _LOUD}
    bars = _bars()
    try:
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if bars is not None:
            bars.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        if bars is not None:
            bars.enable_progress_bar()


def _bars() -> Any:
    """Where transformers switches its bars, if it is loaded and they are on."""
    if "transformers" not in sys.modules:
        return None
    from transformers.utils import logging as switches

    return switches if switches.is_progress_bar_enabled() else None


def bar(on_progress: OnProgress | None) -> Any:
    """A class of bars that draws nothing and tells `on_progress` the bytes that are there, and of how many."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Told(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread that watches over drawing

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            kwargs["disable"] = False  # else it does not count
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            drawn: bool | None = super().update(n)
            if on_progress is not None:
                on_progress(int(self.n), None if self.total is None else int(self.total))
            return drawn

        def display(self, *args: Any, **kwargs: Any) -> bool:
            return True

        def close(self) -> None:
            self.disable = True  # nothing was drawn, so nothing is to be wiped away
            super().close()

    return Told
