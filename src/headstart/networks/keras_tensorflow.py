"""Compile and differentiate with TensorFlow under Keras; several GPUs share a batch through MirroredStrategy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from headstart.machine import multiplies_bf16
from headstart.networks.keras_engine import Compiled, Tensor

_BF16 = "auto_mixed_precision_onednn_bfloat16"


class TensorFlowEngine:
    """TensorFlow, never compiled by XLA: on a processor that is an order of magnitude slower on depthwise networks."""

    def __init__(self, devices: Sequence[str] | None = None) -> None:
        names = list(devices) if devices is not None else [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
        self.accelerated = any("GPU" in name for name in names)
        self._strategy = _mirrored(tuple(names)) if len(names) > 1 else None
        self.name = f"tensorflow-{tf.__version__}-{'gpu' if self.accelerated else 'cpu'}"

    @property
    def devices(self) -> int:
        """How many devices share a batch."""
        return self._strategy.num_replicas_in_sync if self._strategy else 1

    @property
    def adam(self) -> Callable[..., None] | None:
        """TensorFlow's fused kernel; several devices need the operations one by one."""
        return None if self._strategy else _adam

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Where variables are made, so that each device has them."""
        scope: contextlib.AbstractContextManager[Any] = (
            self._strategy.scope() if self._strategy else contextlib.nullcontext()
        )
        return scope

    def compile(
        self,
        function: Callable[..., Any],
        *,
        reads: Sequence[keras.Variable],
        changes: Sequence[keras.Variable] = (),
        shared: int = 0,
    ) -> Compiled:
        """`function` as a graph; TensorFlow finds the variables by itself."""
        if self._strategy is None or not shared:
            graph = _graph(function)
            return lambda *arguments: graph(*map(tf.convert_to_tensor, arguments))
        strategy, replicas = self._strategy, self.devices

        def everywhere(*arguments: Any) -> Any:
            parts = strategy.run(function, args=arguments)
            return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

        graph = _graph(everywhere)

        def call(*arguments: np.ndarray) -> Any:
            split = [np.array_split(array, replicas) for array in arguments[:shared]]
            divided = [_per_replica(strategy, parts) for parts in split]
            return graph(*divided, *map(tf.convert_to_tensor, arguments[shared:]))

        return call

    def gradients(
        self, loss: Callable[[], Tensor], weights: Sequence[keras.Variable], statistics: Sequence[keras.Variable]
    ) -> tuple[Tensor, list[Tensor]]:
        """By a tape that watches these weights alone: nothing below the first of them is remembered."""
        values = [weight.value for weight in weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            result = loss()
        found = tape.gradient(result, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        found = [tf.convert_to_tensor(gradient) for gradient in found]
        if self._strategy is not None:
            found = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, found)
        return result, found

    def slope(self, function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        """By a tape that watches this tensor alone."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(at)
            result = function(at)
        return tape.gradient(result, at, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    @property
    def copies(self) -> int:
        """One on each device."""
        return self.devices

    @property
    def replica(self) -> Tensor:
        """The device's place in the strategy."""
        return tf.distribute.get_replica_context().replica_id_in_sync_group if self._strategy else 0

    @property
    def has_bf16(self) -> bool:
        """On a processor that multiplies in bf16; on GPUs TensorFlow has TF32."""
        return not self.accelerated and multiplies_bf16()

    @contextlib.contextmanager
    def multiplying_in_bf16(self, wanted: bool) -> Iterator[None]:
        """By oneDNN's pass over the graphs, for which TensorFlow has one setting in a process."""
        if not wanted:
            yield
            return
        before = bool(tf.config.optimizer.get_experimental_options().get(_BF16, False))
        tf.config.optimizer.set_experimental_options({_BF16: True})
        try:
            yield
        finally:
            tf.config.optimizer.set_experimental_options({_BF16: before})

    def place(self, variables: Sequence[keras.Variable]) -> None:
        """A copy of each variable on every device, also of a model that was made without a thought of several."""
        if self._strategy is None:
            return
        for variable in variables:
            if not isinstance(variable.value, tf.distribute.DistributedValues):
                drawn = variable.name == "seed_generator_state"  # each device has its own, all else is the same on all
                synchronization = tf.VariableSynchronization
                with self._strategy.scope():
                    variable._value = tf.Variable(
                        variable.numpy(),
                        name=variable.name,
                        trainable=variable.trainable,
                        synchronization=synchronization.ON_READ if drawn else synchronization.AUTO,
                        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA if drawn else tf.VariableAggregation.MEAN,
                    )

    def read(self, tensors: Sequence[Tensor]) -> list[np.ndarray]:
        """Wait for these tensors."""
        return [tensor.numpy() for tensor in tensors]


@cache
def _mirrored(names: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    # One for all networks of a process: each strategy numbers its reductions from the same start, and those of two
    # would be taken for one another.
    return tf.distribute.MirroredStrategy(list(names))


def _adam(
    variable: tf.Variable,
    *,
    slots: tuple[keras.Variable, keras.Variable],
    gradient: Tensor,
    rate: Tensor,
    step: Tensor,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """The same formula as Keras's, three times as fast: a large head is bound by the memory that each pass moves."""
    # A number of another type than the weight would end the process.
    first, second, step, rate, gradient = (tf.cast(value, variable.dtype) for value in (*betas, step, rate, gradient))
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=slots[0].value.handle,
        v=slots[1].value.handle,
        beta1_power=tf.pow(first, step),
        beta2_power=tf.pow(second, step),
        lr=rate,
        beta1=first,
        beta2=second,
        epsilon=epsilon,
        grad=gradient,
        use_locking=False,
    )


def _graph(function: Callable[..., Any]) -> Any:
    # TensorFlow counts traces by the function's code, and would warn of too many when several networks trace the same
    # code once each. A partial has no code of its own.
    return tf.function(partial(function), jit_compile=False, autograph=False)


def _per_replica(strategy: tf.distribute.Strategy, parts: Sequence[np.ndarray]) -> Any:
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.convert_to_tensor(parts[context.replica_id_in_sync_group])
    )
