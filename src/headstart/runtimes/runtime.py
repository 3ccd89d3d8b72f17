"""What runs the frozen part of a network: the framework itself, or something faster that agrees with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Shaped

from headstart.networks.network import Cut, Network

Precision = Literal["fp32", "bf16", "int8"]
CHUNK = 4  # photos in one forward pass of a framework: on a CPU more is no faster, and memory grows with it


@dataclass(frozen=True, slots=True)
class Offer:
    """A way to run a network that is there on this machine; together with a cut it decides about a feature's bits."""

    runtime: str  # its name in the registry
    precision: Precision
    engine: str  # library, version, device: part of what identifies features
    chunk: int  # photos in one forward pass

    def __str__(self) -> str:
        return f"{self.engine} in {self.precision}"


class Runner(Protocol):
    """A frozen part that is ready to run. Threads may call it side by side."""

    @property
    def chunk(self) -> int:
        """Photos in one forward pass; every call has so many."""

    @property
    def concurrency(self) -> int:
        """How many threads may call at the same time with profit."""

    def concurrent(self, workers: int) -> AbstractContextManager[None]:
        """While open, `workers` threads share the processor: each call uses its own share."""

    def __call__(self, inputs: Shaped[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """What crosses the cut, float32. Rows do not depend on each other."""


class Runtime(Protocol):
    """What can run networks; a member of the registry `headstart.runtimes`."""

    def offers(self, network: Network) -> tuple[Offer, ...]:
        """The ways in which it could run this network here, the fastest first; none where it cannot."""

    def open(self, network: Network, offer: Offer, upto: Cut) -> Runner:
        """The part from the input to the cut `upto`, converted and compiled.

        Raises:
            BadRuntime: this part cannot be converted; the message says why.
        """


@dataclass(frozen=True)
class Plain:
    """A function of the network itself as a runner: its features up to a cut, or its answers."""

    network: Network
    function: Callable[[Shaped[np.ndarray, "n ..."]], Float[np.ndarray, "n ..."]]
    chunk: int = CHUNK

    @property
    def concurrency(self) -> int:
        """The network's own."""
        return self.network.concurrency

    def concurrent(self, workers: int) -> AbstractContextManager[None]:
        """As the network does it."""
        return self.network.concurrent(workers)

    def __call__(self, inputs: Shaped[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """What the function gives."""
        return self.function(inputs)
