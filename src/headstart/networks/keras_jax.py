"""Compile and differentiate with JAX under Keras; several devices share a batch through keras.distribution's mesh."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from headstart.networks.keras_engine import Compiled, Tensor

_BATCH, _WHOLE = PartitionSpec("batch"), PartitionSpec()


class JaxEngine:
    """JAX: variables travel into every compiled function and come back changed."""

    def __init__(self, devices: Sequence[str] | None = None) -> None:
        kind = jax.default_backend()
        found = [] if kind == "cpu" else keras.distribution.list_devices()  # a processor's cores share work anyway
        names = list(devices) if devices is not None else found
        self.accelerated = kind != "cpu"
        self.name = f"jax-{jax.__version__}-{kind}"
        self._distribution: Any = keras.distribution.DataParallel(devices=names) if len(names) > 1 else None
        self._outer: list[keras.Variable] = []  # the variables of the function that is being traced

    @property
    def devices(self) -> int:
        """How many devices share a batch."""
        return int(self._distribution.device_mesh.devices.size) if self._distribution else 1

    @property
    def adam(self) -> None:
        """Not needed: XLA makes one pass of all operations."""

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Anywhere: `place` brings variables to the devices."""
        return contextlib.nullcontext()

    def compile(
        self,
        function: Callable[..., Any],
        *,
        reads: Sequence[keras.Variable],
        changes: Sequence[keras.Variable] = (),
        shared: int = 0,
    ) -> Compiled:
        """`function` as a pure one; the memory of what changes is used again for its new values."""
        reads, changes = list(reads), list(changes)

        def pure(old: list[Any], constant: list[Any], *arguments: Any) -> tuple[Any, list[Any]]:
            mapping = [*zip(changes, old, strict=True), *zip(reads, constant, strict=True)]
            self._outer = [*changes, *reads]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                result = function(*arguments)
            return result, [scope.get_current_value(variable) for variable in changes]

        compiled = jax.jit(pure, donate_argnums=(0,))

        def call(*arguments: np.ndarray) -> Any:
            placed = [*map(self._divided, arguments[:shared]), *map(self._everywhere, arguments[shared:])]
            constant = [variable.value for variable in reads]
            result, new = compiled([variable.value for variable in changes], constant, *placed)
            for variable, value in zip(changes, new, strict=True):
                variable.assign(value)
            return result

        return call

    def gradients(
        self, loss: Callable[[], Tensor], weights: Sequence[keras.Variable], statistics: Sequence[keras.Variable]
    ) -> tuple[Tensor, list[Tensor]]:
        """By `jax.value_and_grad` over these weights, with all other variables as they are outside."""
        others = [(variable, variable.value) for variable in self._outer]

        def of(values: list[Any]) -> tuple[Any, list[Any]]:
            # Penalties of activities are losses that layers add while they are called.
            mapping = [*others, *zip(weights, values, strict=True)]
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
                return loss(), [scope.get_current_value(variable) for variable in statistics]

        (result, new), found = jax.value_and_grad(of, has_aux=True)([weight.value for weight in weights])
        for variable, value in zip(statistics, new, strict=True):
            variable.assign(value)
        return result, found

    def slope(self, function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        """By `jax.grad`; variables are those of the compiled function around it."""
        return jax.grad(function)(at)

    @property
    def copies(self) -> int:
        """One program spans all devices."""
        return 1

    @property
    def replica(self) -> int:
        """The only one."""
        return 0

    @property
    def has_bf16(self) -> bool:
        """Not here."""
        return False

    def multiplying_in_bf16(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        """Nothing."""
        return contextlib.nullcontext()

    def place(self, variables: Sequence[keras.Variable]) -> None:
        """A whole copy of each variable on every device."""
        for variable in variables if self._distribution else ():
            variable.assign(self._everywhere(variable.value))

    def read(self, tensors: Sequence[Tensor]) -> list[np.ndarray]:
        """Wait for these tensors."""
        return [np.asarray(tensor) for tensor in tensors]

    def _divided(self, array: np.ndarray) -> Any:
        return self._put(array, _BATCH) if self._distribution else array

    def _everywhere(self, array: Any) -> Any:
        return self._put(array, _WHOLE) if self._distribution else array

    def _put(self, array: Any, spec: PartitionSpec) -> Any:
        mesh = self._distribution.device_mesh.backend_mesh
        return jax.device_put(array, NamedSharding(mesh, spec))
