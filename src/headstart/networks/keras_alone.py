"""Keep Keras on JAX from importing TensorFlow, which takes it seconds and prints notices, where it needs none of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Within this, Keras takes TensorFlow for absent, unless it is imported already.

    To describe or save a model, Keras imports it wherever it is installed, only to ask whether a value is one of its
    types. Afterwards all is as before: a user's own layers may need TensorFlow.
    """
    from keras.src.utils import module_utils

    lazy: Any = getattr(module_utils, "tensorflow", None)
    if "tensorflow" in sys.modules or not hasattr(lazy, "_available"):
        yield
        return
    before, lazy._available = lazy._available, False
    try:
        yield
    finally:
        lazy._available = before
