"""Measure answers: by our cross-entropy, or any loss of Keras or of a user, and by any of its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from jaxtyping import Float, Int
from keras import ops

from headstart.errors import BadSetting

# The value of each metric by its name, for labels int `[n]` and logits `[n k]`.
Measures = Mapping[str, Callable[[Int[np.ndarray, "n"], Float[np.ndarray, "n k"]], float]]
# Labels int `[n]` and logits `[n k]` to a loss for each item `[n]`.
Criterion = Callable[[Any, Any], Any]


def cross_entropy(smoothing: float) -> Criterion:
    """Cross-entropy in nats; `smoothing` of each label's weight goes to all classes alike."""

    def each(labels: Any, logits: Any) -> Any:
        k = logits.shape[-1]
        targets = ops.one_hot(labels, k) * (1 - smoothing) + smoothing / k
        return -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)

    return each


def given(loss: Any) -> Criterion:
    """The criterion for a Keras loss, by name or object, or for a function of labels and predictions.

    A loss whose class or name says `sparse` gets integer labels, any other one-hot rows. It gets logits where it says
    `from_logits=True`, else probabilities.

    Raises:
        BadSetting: it is no loss.
    """
    try:
        function = keras.losses.get(loss)
    except ValueError as problem:
        raise BadSetting(
            f"loss {loss!r} is not one of Keras's", fix="use 'sparse_categorical_crossentropy' or a keras.losses.Loss"
        ) from problem
    whole = isinstance(function, keras.losses.Loss)
    sparse = _sparse(function)
    from_logits = bool(function.get_config().get("from_logits", False)) if whole else False
    call = function.call if whole else function

    def each(labels: Any, logits: Any) -> Any:
        predicted = logits if from_logits else ops.softmax(logits, axis=-1)
        target = labels if sparse else ops.one_hot(labels, logits.shape[-1])
        value = ops.convert_to_tensor(call(target, predicted))
        return ops.mean(value, axis=tuple(range(1, len(value.shape)))) if len(value.shape) > 1 else value

    return each


def measures(metrics: Sequence[Any]) -> Measures:
    """Keras metrics, by name or object, or functions of labels and probabilities; what says `sparse` gets integers.

    Raises:
        BadSetting: one of them is no metric.
    """
    found = {}
    for metric in metrics:
        # `accuracy` alone means, in Keras, the accuracy that fits the labels; ours are integers.
        name = "sparse_categorical_accuracy" if metric in ("accuracy", "acc") else metric
        try:
            function = keras.metrics.get(name)
        except ValueError as problem:
            raise BadSetting(
                f"metric {metric!r} is not one of Keras's",
                fix="use 'top_k_categorical_accuracy' or a keras.metrics.Metric",
            ) from problem
        called = (
            metric
            if isinstance(metric, str)
            else (getattr(function, "name", None) or getattr(function, "__name__", type(function).__name__))
        )
        found[str(called)] = partial(_measure, function, _sparse(function))
    return found


def _sparse(function: Any) -> bool:
    """Whether a loss or metric wants integer labels: an object may have a name of the user's, but its class tells."""
    names = (type(function).__name__, getattr(function, "name", ""), getattr(function, "__name__", ""))
    return any("sparse" in str(name).lower() for name in names)


def _measure(function: Any, sparse: bool, labels: Int[np.ndarray, "n"], logits: Float[np.ndarray, "n k"]) -> float:
    probabilities = ops.softmax(ops.convert_to_tensor(logits, "float32"), axis=-1)
    target = ops.convert_to_tensor(labels, "int32")
    target = target if sparse else ops.one_hot(target, logits.shape[-1])
    if isinstance(function, keras.metrics.Metric):
        function.reset_state()
        function.update_state(target, probabilities)
        return float(np.mean(ops.convert_to_numpy(function.result())))
    return float(np.mean(ops.convert_to_numpy(function(target, probabilities))))
