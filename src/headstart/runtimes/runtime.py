"""What runs the frozen part of a network: the framework itself, or something faster that agrees with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from headstart.errors import BadRuntime
from headstart.networks.network import Cut, Network

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped, UInt8

Precision = Literal["fp32", "bf16", "int8"]
CHUNK = 4  # photos in one forward pass of a framework: on a CPU more is no faster, and memory grows with it
GPU_CHUNK = 64  # the same on a GPU, where a few photos take as long as many
_GPUS = ("cuda", "gpu", "mps", "tpu")  # what PyTorch, TensorFlow and JAX call a device that is no CPU
CALIBRATION = 128  # photos by whose activations a network is brought to eight bits

Sample = Callable[[], "UInt8[np.ndarray, 'n h w c']"]  # decodes the photos of a calibration, when they are needed


@dataclass(frozen=True, slots=True)
class Offer:
    """A way to run a network that is there on this machine; together with a cut it decides about a feature's bits."""

    runtime: str  # its name in the registry
    precision: Precision
    engine: str  # library, version, device: part of what identifies features
    chunk: int  # photos in one forward pass
    calibration: str = ""  # digest of the photos by which it was brought to eight bits: others give other features

    def __str__(self) -> str:
        return " ".join(filter(None, (self.runtime, self.precision, self.calibration)))


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

    def lacks(self, network: Network, precision: Precision) -> BadRuntime | None:
        """Why it does not offer this precision, where it otherwise could; None where it does or has no part in it."""

    def seconds(self, network: Network, offer: Offer, upto: Cut, *, identity: str = "") -> float:
        """How long opening takes, rather more than less: for few photos it does not pay."""

    def open(
        self, network: Network, offer: Offer, upto: Cut, *, sample: Sample | None = None, identity: str = ""
    ) -> Runner:
        """The part from the input to the cut `upto`, converted and compiled; in eight bits by a `sample` of photos.

        `identity` changes with the network's weights and preprocessing: what was converted may be kept under it. Empty:
        it is not known, and nothing is kept.

        Raises:
            BadRuntime: this part cannot be converted; the message says why.
        """


def chunk_of(network: Network) -> int:
    """How many photos a framework takes in one forward pass, by the device it computes on."""
    return GPU_CHUNK if network.engine.rpartition("-")[2] in _GPUS else CHUNK


@dataclass(frozen=True)
class Plain:
    """A function of the network itself as a runner: its features up to a cut, or its answers."""

    network: Network
    function: Callable[[Shaped[np.ndarray, "n ..."]], Float[np.ndarray, "n ..."]]
    size: int = 0  # photos in one forward pass; 0: as many as suit the device

    @property
    def chunk(self) -> int:
        """Photos in one forward pass."""
        return self.size or chunk_of(self.network)

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
