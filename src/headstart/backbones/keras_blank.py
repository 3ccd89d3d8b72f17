"""Make a Keras network whose weights are still to come, or drawn from a seed alone, the same on every engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras


def blank(make: Callable[[], keras.Model], *, seed: int | None = None) -> keras.Model:
    """What `make` makes, with zeros for weights; with a `seed`, with first values drawn as each layer wants them.

    JAX compiles a program for each shape that it draws random numbers of: 22 seconds for NASNetMobile, 1 without. So
    they are drawn by NumPy, which also keeps Keras's own seed out of it.
    """
    import keras

    fill = _zeros if seed is None else None
    rng = np.random.default_rng(seed)
    # Within this scope Keras makes variables without values, and at its end gives each the one of its initializer.
    with keras.StatelessScope():
        model = make()
        for variable in model.variables:
            if variable.name != "seed_generator_state":  # dropout layers with the same seed would drop alike
                variable._initializer = fill or partial(_drawn, rng, variable._initializer)
    return model


def _drawn(rng: np.random.Generator, initializer: Any, shape: tuple[int, ...], dtype: Any = None) -> Any:
    """What this initializer of Keras would draw, by our generator; one that draws nothing gives its own."""
    from keras import initializers

    if not isinstance(initializer, initializers.VarianceScaling):
        return initializer(shape, dtype=dtype)
    fan_in, fan_out = _fans(shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[initializer.mode]
    deviation = math.sqrt(initializer.scale / max(1.0, fan))
    if initializer.distribution == "uniform":
        return rng.uniform(-math.sqrt(3) * deviation, math.sqrt(3) * deviation, shape).astype(np.float32)
    drawn = rng.normal(size=shape)
    if initializer.distribution == "truncated_normal":
        while (far := np.abs(drawn) > 2).any():
            drawn[far] = rng.normal(size=int(far.sum()))
        deviation /= 0.87962566103423978  # the deviation of normal numbers of which those beyond 2 are drawn again
    return (deviation * drawn).astype(np.float32)


def _fans(shape: tuple[int, ...]) -> tuple[float, float]:
    """Values that enter and leave a weight of this shape, as Keras counts them."""
    if len(shape) < 2:
        return (float(shape[0] if shape else 1),) * 2
    field = math.prod(shape[:-2])
    return float(shape[-2] * field), float(shape[-1] * field)


def _zeros(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    return np.zeros(shape, dtype)
