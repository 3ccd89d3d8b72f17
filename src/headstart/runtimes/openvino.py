"""Run the frozen part on a processor with OpenVINO, from PyTorch's modules or from Keras's models on TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import threading
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from headstart.errors import BadRuntime
from headstart.machine import cores
from headstart.networks.network import Cut, Network
from headstart.runtimes import kept
from headstart.runtimes.openvino_conversion import convert, library
from headstart.runtimes.runtime import Offer, Precision, Runner, Sample

NAME = "openvino"
RULES = 1  # part of the name under which a converted network is kept: count up when they are converted otherwise
CHUNK = 4
COMPILING, CONVERTING = 0.5, 2.0  # seconds, on a slow machine
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def offers(network: Network) -> tuple[Offer, ...]:
    """Full precision, and bf16 before it where the processor has it; none without the library or on a GPU."""
    if not installed() or not fits(network):
        return ()
    engine = engine_of(network)
    exact = Offer(NAME, "fp32", engine, CHUNK)
    return (Offer(NAME, "bf16", engine, CHUNK), exact) if has_bf16() else (exact,)


def lacks(network: Network, precision: Precision) -> BadRuntime | None:
    """The library, a processor that computes in bf16, or another engine below Keras."""
    if precision == "int8" or not network.engine.endswith("cpu"):
        return None
    if not fits(network):
        return BadRuntime(
            "OpenVINO, which does it on a processor, cannot convert Keras's models from JAX",
            fix="take --framework tensorflow, or leave the precision out",
        )
    if not installed():
        return BadRuntime(
            "OpenVINO, which runs frozen networks several times as fast on a processor, is not installed",
            fix='pip install "headstart[openvino]"',
        )
    if precision == "bf16" and not has_bf16():
        return BadRuntime("this processor has no instructions for it", fix="leave the precision out, or take fp32")
    return None


def seconds(network: Network, offer: Offer, upto: Cut, *, identity: str = "") -> float:
    """How long converting, where that was not done before, and compiling takes."""
    known = identity and kept.is_kept(_name(network, upto, offer.chunk, identity))
    return COMPILING if known else COMPILING + CONVERTING


def installed() -> bool:
    """Whether OpenVINO is here."""
    return importlib.util.find_spec("openvino") is not None


def fits(network: Network) -> bool:
    """Whether OpenVINO can take its place: on the processor, and not from JAX, whose programs it cannot read."""
    return network.engine.endswith("cpu") and "jax" not in network.engine


def engine_of(network: Network) -> str:
    """Part of what identifies features."""
    return f"openvino-{version('openvino')}-{network.engine}"


@cache
def has_bf16() -> bool:
    """Whether the processor has instructions for it: emulated, it is slower and no more exact."""
    return "BF16" in library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open(network: Network, offer: Offer, upto: Cut, *, sample: Sample | None = None, identity: str = "") -> Runner:
    """The part from the input to the cut, converted and compiled.

    Raises:
        BadRuntime: it cannot be converted.
    """
    return compiled(converted(network, upto, offer.chunk, identity), offer)


def converted(network: Network, upto: Cut, chunk: int, identity: str = "") -> Any:
    """An `openvino.Model`: `uint8 [chunk h w c]` in, float32 out as `Network.features` gives it.

    Raises:
        BadRuntime: it cannot be converted.
    """
    name = _name(network, upto, chunk, identity)
    if identity and (known := kept.recall(library().Core(), name)) is not None:
        return known
    model = convert(network, upto, chunk)
    if identity:
        kept.keep(model, name)
    return model


def compiled(model: Any, offer: Offer) -> Runner:
    """The converted part, ready to run in the precision of the offer."""
    settings = {
        # Without it OpenVINO takes bf16 by itself wherever the processor has it.
        "INFERENCE_PRECISION_HINT": _HINTS[offer.precision],
        "NUM_STREAMS": cores(),
        "INFERENCE_NUM_THREADS": cores(),
        "ENABLE_CPU_PINNING": False,
    }
    return _Compiled(library().Core().compile_model(model, "CPU", settings), offer.chunk)


def _name(network: Network, upto: Cut, chunk: int, identity: str) -> str:
    """Under which the converted part is kept: whatever the precision, which is chosen when it is compiled."""
    parts = (RULES, engine_of(network), network.input_shape, upto.name, upto.after, chunk, identity)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


class _Compiled:
    """A compiled network, with a request of its own for each thread that calls it."""

    def __init__(self, compiled: Any, chunk: int) -> None:
        self.chunk = chunk
        self.concurrency = cores()
        self._compiled = compiled
        self._own = threading.local()

    @contextlib.contextmanager
    def concurrent(self, workers: int) -> Iterator[None]:
        """Nothing to prepare: each call has a stream of its own."""
        yield

    def __call__(self, inputs: Shaped[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """What crosses the cut."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        return np.array(self._own.request.infer([inputs])[0])
