"""Run the frozen part on a processor with OpenVINO, from PyTorch's modules or Keras's models."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from headstart.machine import cores
from headstart.networks.network import Cut, Network
from headstart.runtimes.runtime import Offer, Runner

NAME = "openvino"
CHUNK = 4


def offers(network: Network) -> tuple[Offer, ...]:
    """Full precision, and bf16 before it where the processor has it; none without the library or on a GPU."""
    if importlib.util.find_spec("openvino") is None or "cpu" not in network.engine:
        return ()
    engine = f"openvino-{version('openvino')}-{network.engine}"
    return (Offer(NAME, "bf16", engine, CHUNK), Offer(NAME, "fp32", engine, CHUNK))


def open(network: Network, offer: Offer, upto: Cut) -> Runner:
    """The part from the input to the cut, converted and compiled."""
    import openvino
    import torch

    part = network.part(upto)
    example = torch.zeros(offer.chunk, *network.input_shape, dtype=torch.uint8)
    with torch.inference_mode():
        model = openvino.convert_model(part, example_input=example)
    model.reshape([offer.chunk, *network.input_shape])
    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[offer.precision],
        "NUM_STREAMS": cores(),
        "INFERENCE_NUM_THREADS": cores(),
        "ENABLE_CPU_PINNING": False,
    }
    return _Compiled(openvino.Core().compile_model(model, "CPU", settings), offer.chunk)


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
