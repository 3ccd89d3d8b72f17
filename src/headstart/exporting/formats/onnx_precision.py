"""Make an ONNX graph smaller: its network in 16 bits, or in 8 by photos of the run; all around it stays as it is.

Preprocessing needs exact levels of colour, and probabilities, distances and heat their digits: both stay in fp32.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from headstart.errors import BadExport
from headstart.exporting.format import NARROW, Whole
from headstart.exporting.formats.onnx_writing import said

CALIBRATION = 64  # photos that the ranges of activations are taken from
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What goes with them in eight bits: without these every layer would come back to fp32 for a while.
_BETWEEN = ("Add", "Relu", "Clip", "MaxPool", "Concat", "AveragePool")


@dataclass(frozen=True, slots=True)
class Parts:
    """The nodes of a graph by their names: the network's own layers, and all that stands around them."""

    network: tuple[str, ...]
    around: tuple[str, ...]


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network's weights and arithmetic in fp16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # Alone, for told to leave nodes as they are the converter still rounds all that passes between them to fp16.
    network = _extracted(model, set(parts(model).network))
    return _replaced(model, convert_float_to_float16(network, keep_io_types=True))


def _extracted(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """A model of these nodes alone, with whatever crosses to the others as inputs and outputs."""
    known = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value for value in (*known.value_info, *known.input, *known.output)}
    nodes = [node for node in model.graph.node if node.name in names]
    weights = {weight.name: weight for weight in model.graph.initializer}
    made = {name for node in nodes for name in node.output}
    taken = dict.fromkeys(name for node in nodes for name in node.input if name)
    wanted = {name for node in model.graph.node if node.name not in names for name in node.input}
    given = [name for node in nodes for name in node.output if name in wanted]
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [kinds[name] for name in taken if name not in made and name not in weights],
        [kinds[name] for name in given],
        [weights[name] for name in taken if name in weights],
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _replaced(model: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """The model with this network in the place of its own; it is changed."""
    borders = {value.name for value in (*network.graph.input, *network.graph.output)}
    for node in network.graph.node:  # a weight may be used on both sides, in fp16 here and in fp32 there
        node.name = f"half_{node.name}"
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = name if name in borders or not name else f"half_{name}"
    for weight in network.graph.initializer:
        weight.name = f"half_{weight.name}"
    around = set(parts(model).around)
    nodes = [node for node in model.graph.node if node.name in around]
    weights = [*model.graph.initializer, *network.graph.initializer]
    nodes += network.graph.node
    used = {name for node in nodes for name in node.input}
    kept = [weight for weight in weights if weight.name in used]
    graph = onnx.helper.make_graph(_in_order(nodes), "headstart", model.graph.input, model.graph.output, kept)
    model.graph.CopyFrom(graph)
    return model


def _in_order(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """These nodes, each behind those that it needs."""
    maker = {name: node.name for node in nodes for name in node.output}
    needs = {node.name: {maker[name] for name in node.input if name in maker} for node in nodes}
    by_name = {node.name: node for node in nodes}
    return [by_name[name] for name in TopologicalSorter(needs).static_order()]


def quantised(model: onnx.ModelProto, whole: Whole) -> onnx.ModelProto:
    """The network's weights and activations in eight bits, a scale for each channel.

    Raises:
        BadExport: the quantiser meets what it does not know.
    """
    logger, before = logging.getLogger(), logging.getLogger().level
    try:
        logger.setLevel(logging.CRITICAL)
        return _quantised(model, whole)
    except Exception as problem:
        raise BadExport(
            f"ONNX Runtime cannot bring this network to int8: {said(problem)}", fix="take fp16, or --to openvino"
        ) from problem
    finally:
        logger.setLevel(before)


def _quantised(model: onnx.ModelProto, whole: Whole) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with TemporaryDirectory(prefix="headstart-") as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
        around = parts(model).around
        onnx.save(onnx.shape_inference.infer_shapes(model), plain)
        quantize_static(
            plain,
            small,
            Photos(itertools.islice(whole.samples, CALIBRATION)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=[*_WEIGHTED, *_BETWEEN],
            nodes_to_exclude=[*around, *narrow(model)],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(small)


def narrow(model: onnx.ModelProto) -> list[str]:
    """The convolutions that take or give few channels; not those that work within each channel or group alone."""
    channels = {weight.name: list(weight.dims[:2]) for weight in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in channels:
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            if groups == 1 and min(channels[node.input[1]]) <= NARROW:
                found.append(node.name)
    return found


class Photos:
    """Photos one after another, as ONNX Runtime's calibration asks for them."""

    def __init__(self, photos: Iterator[Any]) -> None:
        self._photos = photos

    def get_next(self) -> dict[str, Any] | None:
        """The next photo; None at the end."""
        pixels = next(self._photos, None)
        return None if pixels is None else {"pixels": pixels}

    def __iter__(self) -> Photos:
        return self

    def __next__(self) -> dict[str, Any]:
        photo = self.get_next()
        if photo is None:
            raise StopIteration
        return photo


def parts(model: onnx.ModelProto) -> Parts:
    """What is the network, by the layers that have weights: from the first of them on, up to the last, which answers.

    Nodes without a name are given one.
    """
    graph = model.graph
    for place, node in enumerate(graph.node):
        node.name = node.name or f"node_{place}"
    live = _live(graph)
    asked = _ancestors(graph, "probabilities")
    weighted = {
        node.name
        for node in graph.node
        if node.name in asked and node.op_type in _WEIGHTED and node.input[0] in live and node.input[1] not in live
    }
    behind = _followers(graph, weighted)
    leading = _leading(graph, weighted)
    last = weighted - leading
    answering = last | _followers(graph, last)
    network = [
        node.name
        for node in graph.node
        if node.name in asked and (node.name in weighted or node.name in behind) and node.name not in answering
    ]
    inside = set(network)
    return Parts(tuple(network), tuple(node.name for node in graph.node if node.name not in inside))


def _live(graph: onnx.GraphProto) -> set[str]:
    """The values that hang on the photo."""
    live = {put.name for put in graph.input}
    for node in graph.node:
        if any(name in live for name in node.input):
            live.update(node.output)
    return live


def _ancestors(graph: onnx.GraphProto, output: str) -> set[str]:
    """The nodes that this value needs."""
    needed, found = {output}, set()
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            found.add(node.name)
    return found


def _followers(graph: onnx.GraphProto, names: set[str]) -> set[str]:
    """The nodes that need one of these."""
    values: set[str] = set()
    found: set[str] = set()
    for node in graph.node:
        if values & set(node.input):
            found.add(node.name)
            values.update(node.output)
        if node.name in names:
            values.update(node.output)
    return found


def _leading(graph: onnx.GraphProto, names: set[str]) -> set[str]:
    """Those of these nodes that another of them needs."""
    values: set[str] = set()
    found: set[str] = set()
    for node in reversed(graph.node):
        if values & set(node.output):
            values.update(node.input)
            if node.name in names:
                found.add(node.name)
        if node.name in names:
            values.update(node.input)
    return found
