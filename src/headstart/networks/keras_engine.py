"""What an engine under Keras must be able to do: compile, differentiate, and place work on its devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import keras
import numpy as np

Tensor = Any
Compiled = Callable[..., Any]


class Engine(Protocol):
    """TensorFlow or JAX, as far as training needs to know them."""

    name: str  # with version and kind of device: `tensorflow-2.21.0-cpu`
    accelerated: bool  # whether it computes on something else than the processor

    @property
    def devices(self) -> int:
        """How many devices share a batch."""

    @property
    def adam(self) -> Callable[..., None] | None:
        """One step of Adam in a single pass, where the engine would make one of each operation; else nothing."""

    def scope(self) -> AbstractContextManager[Any]:
        """Where variables are made, so that each device has them."""

    def compile(
        self,
        function: Callable[..., Any],
        *,
        reads: Sequence[keras.Variable],
        changes: Sequence[keras.Variable] = (),
        shared: int = 0,
    ) -> Compiled:
        """`function`, compiled once per shape of its arguments, which are arrays; it may assign to `changes` alone.

        Args:
            function: of tensors; gives one tensor, or several in a tuple.
            reads: variables that it uses and leaves as they are.
            changes: variables that it assigns to.
            shared: how many of its first arguments are divided among the devices, along their first axis. What it gives
                is then the sum over the devices; without any, each device would do the same, and one does it.
        """

    def gradients(
        self, loss: Callable[[], Tensor], weights: Sequence[keras.Variable], statistics: Sequence[keras.Variable]
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss and its gradient for each of these weights, summed over the devices; within a compiled function.

        `statistics` are the variables that computing the loss assigns to.
        """

    def slope(self, function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        """The gradient of a function that gives one number; within a compiled function."""

    @property
    def copies(self) -> int:
        """How many calls of a compiled function share a batch, each with a part of it."""

    @property
    def replica(self) -> Tensor:
        """Within a compiled function: which of these calls it is."""

    @property
    def has_bf16(self) -> bool:
        """Whether it can multiply in bf16 what is stored in fp32."""

    def multiplying_in_bf16(self, wanted: bool) -> AbstractContextManager[None]:
        """While open, calls of compiled functions do, if wanted; one function must be called always or never so."""

    def place(self, variables: Sequence[keras.Variable]) -> None:
        """Bring these variables to where this engine's compiled functions want them."""

    def read(self, tensors: Sequence[Tensor]) -> list[np.ndarray]:
        """Wait for these tensors."""


def engine() -> Engine:
    """The engine that Keras runs on in this process."""
    if keras.config.backend() == "jax":
        from headstart.networks.keras_jax import JaxEngine

        return JaxEngine()
    from headstart.networks.keras_tensorflow import TensorFlowEngine

    return TensorFlowEngine()
