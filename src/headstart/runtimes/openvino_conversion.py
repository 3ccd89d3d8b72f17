"""Turn the part of a network between the input and a cut into an OpenVINO model, from PyTorch or TensorFlow."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from headstart.errors import BadRuntime
from headstart.networks.network import Cut, Network

_TELEMETRY, _CONVERTER = "openvino_telemetry", "openvino.tools.ovc"


def library() -> Any:
    """OpenVINO itself, without what would send data about its use: who uses headstart has agreed to nothing.

    Its converter, a third of what importing it takes, is imported when it is first called.
    """
    with untold(), _absent(_CONVERTER):
        openvino = importlib.import_module("openvino")
    if not hasattr(openvino, "convert_model"):
        openvino.convert_model = _convert_model  # type: ignore[attr-defined]  # where everyone looks for it
    return openvino


def _convert_model(*arguments: Any, **options: Any) -> Any:
    """OpenVINO's `convert_model`."""
    with untold():
        convert = importlib.import_module(_CONVERTER).convert_model
    return convert(*arguments, **options)


@contextmanager
def untold() -> Iterator[None]:
    """While open, libraries that are imported find nothing to send data about their use with."""
    with _absent(_TELEMETRY):
        yield


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """While open, a module that was not imported yet seems not to be installed: libraries do without."""
    missing = object()
    before = sys.modules.get(name, missing)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is missing:
            del sys.modules[name]
        else:
            sys.modules[name] = before  # type: ignore[assignment]


def convert(network: Network, upto: Cut, chunk: int) -> Any:
    """An `openvino.Model`: `uint8 [chunk h w c]` in, float32 out as `Network.features` gives it.

    Raises:
        BadRuntime: it cannot be converted.
    """
    library()
    front_end = _FRONT_ENDS[network.engine.partition("-")[0]]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that become constants: shapes are, here
            model = front_end(network, upto, (chunk, *network.input_shape))
    # A converter meets what others wrote: nearly every built-in error comes out of it.
    except Exception as problem:
        raise BadRuntime(
            f"OpenVINO cannot convert {upto.name!r} of this network ({_first_line(problem)})",
            fix="leave the precision out: then its own framework runs it",
        ) from problem
    if model.is_dynamic():
        raise BadRuntime(
            f"OpenVINO finds no fixed shape for {upto.name!r} of this network",
            fix="leave the precision out: then its own framework runs it",
        )
    return model


def _of_torch(network: Network, upto: Cut, shape: tuple[int, ...]) -> Any:
    import torch
    from openvino import Type
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    part = network.part(upto).eval()
    example = torch.zeros(shape, dtype=torch.uint8, device="cpu")
    # As one of several, so that the example is not computed on all cores, with a barrier after each layer.
    with torch.inference_mode(), network.concurrent(network.concurrency):
        # A function, not the module: to make scripts of all modules takes longer than to trace them. And traced once:
        # PyTorch's own check traces twice more, while features are compared with the network's own in any case.
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            lambda pictures: part(pictures), example, check_trace=False, strict=False
        )
    for simplify in _SIMPLER:
        getattr(torch._C, simplify)(traced.graph)
    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, skip_freeze=True, shared_memory=False)  # must outlive the conversion
    model = front_end.convert(front_end.load(decoder))
    model.get_parameters()[0].set_element_type(Type.u8)
    model.reshape(list(shape))
    return _finished(model)


# What is computed from shapes becomes constants: a third of the nodes are left, and converting takes half as long.
_SIMPLER = ("_jit_pass_constant_propagation", "_jit_pass_peephole", "_jit_pass_dce")


def _of_keras(network: Network, upto: Cut, shape: tuple[int, ...]) -> Any:
    import tensorflow
    from openvino.frontend import FrontEndManager
    from openvino.frontend.tensorflow.graph_iterator import GraphIteratorTFGraph

    part = network.part(upto)
    pictures = tensorflow.TensorSpec(shape, tensorflow.uint8)
    traced = tensorflow.function(lambda inputs: part(inputs, training=False), autograph=False)
    graph = traced.get_concrete_function(pictures).graph
    front_end = FrontEndManager().load_by_framework("tf")
    nodes = GraphIteratorTFGraph(graph, False)  # must outlive the conversion
    return _finished(front_end.convert(front_end.load(nodes)))


def _finished(model: Any) -> Any:
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(model, cf=True, smart_reshape=False)
    return model


_FRONT_ENDS: dict[str, Callable[[Network, Cut, tuple[int, ...]], Any]] = {"torch": _of_torch, "keras": _of_keras}


def _first_line(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1] if lines else type(problem).__name__
