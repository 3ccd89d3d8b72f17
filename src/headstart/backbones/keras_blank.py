"""Make a Keras network whose weights are still to come, without drawing first values that nobody will ever see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


def blank(make: Callable[[], keras.Model]) -> keras.Model:
    """What `make` makes, with zeros for weights.

    JAX compiles a program for each shape that it draws random numbers of: 22 seconds for NASNetMobile, 1 without.
    """
    import keras

    # Within this scope Keras makes variables without values, and at its end gives each the one of its initializer.
    with keras.StatelessScope():
        model = make()
        for variable in model.variables:
            if variable.name != "seed_generator_state":  # dropout layers with the same seed would drop alike
                variable._initializer = _zeros
    return model


def _zeros(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    return np.zeros(shape, dtype)
