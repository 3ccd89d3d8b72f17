"""Fold what follows a convolution channel by channel into its weights, and drop casts that change nothing.

Keras writes a batch normalisation as three operations behind a transposition. Each engine would compute them for every
pixel, and eight bits would be fitted to what lies before them, where channels differ by orders of magnitude: Jacob et
al. (2018), Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, section 3.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

_QUIET = 4  # of ONNX Runtime's log: fatal errors alone
_CHANNELS_LAST = [0, 2, 3, 1]
_SCALES, _SHIFTS = ("Mul", "Div"), ("Add", "Sub")


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with fewer nodes, all of the standard, and the same answers but for rounding; it is changed."""
    import onnxruntime

    with TemporaryDirectory(prefix="headstart-") as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(folded(model), before)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _QUIET
        # Basic: what suits any engine, such as transpositions that cancel each other; beyond it lie nodes of its own.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(after)
        onnxruntime.InferenceSession(str(before), options, providers=["CPUExecutionProvider"])
        simple = onnx.load(after)
    own = [opset for opset in simple.opset_import if opset.domain in ("", "ai.onnx")]
    del simple.opset_import[:]
    simple.opset_import.extend(own)
    return simple


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with fewer nodes and the same answers but for rounding; it is changed."""
    _drop_empty_casts(model)
    graph = model.graph
    constants = {array.name: numpy_helper.to_array(array) for array in graph.initializer}
    uses = Counter([name for node in graph.node for name in node.input] + [value.name for value in graph.output])
    readers = {name: node for node in graph.node for name in node.input if uses[name] == 1}
    gone: list[NodeProto] = []
    for convolution in [node for node in graph.node if node.op_type == "Conv"]:
        if all(name in constants for name in convolution.input[1:]):
            gone += _fold(graph, convolution, readers, constants)
    for node in gone:
        graph.node.remove(node)
    taken = {name for node in graph.node for name in node.input}
    for array in [array for array in graph.initializer if array.name not in taken]:
        graph.initializer.remove(array)
    return model


def _drop_empty_casts(model: onnx.ModelProto) -> None:
    known = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*known.value_info, *known.input)}
    kinds |= {array.name: array.data_type for array in known.initializer}
    answers = {value.name for value in known.output}
    before: dict[str, str] = {}  # what a cast gives: what it was given
    for node in list(model.graph.node):
        node.input[:] = [before.get(name, name) for name in node.input]
        if node.op_type == "Cast" and node.output[0] not in answers:
            kind = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            if kinds.get(node.input[0]) == kind:
                before[node.output[0]] = node.input[0]
                model.graph.node.remove(node)


def _fold(
    graph: onnx.GraphProto,
    convolution: NodeProto,
    readers: Mapping[str, NodeProto],
    constants: Mapping[str, np.ndarray],
) -> list[NodeProto]:
    """Take what follows this convolution into its weights; the nodes that are not needed any more."""
    weight, *rest = (constants[name].astype(np.float64) for name in convolution.input[1:])
    bias = rest[0] if rest else np.zeros(len(weight))
    last, axis = convolution, 1
    node = readers.get(last.output[0])
    if node is not None and node.op_type == "Transpose" and list(node.attribute[0].ints) == _CHANNELS_LAST:
        last, axis = node, 3
    chain: list[NodeProto] = []
    given = last.output[0]
    while (node := readers.get(given)) is not None:
        numbers = _by_channel(node, given, constants, len(weight), axis)
        if numbers is None:
            break
        if node.op_type in _SCALES:
            scale = numbers if node.op_type == "Mul" else 1 / numbers
            weight, bias = weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias * scale
        else:
            bias = bias + numbers if node.op_type == "Add" else bias - numbers
        chain.append(node)
        given = node.output[0]
    if chain:
        name = convolution.output[0]
        convolution.input[1:] = [f"{name}_weight", f"{name}_bias"]
        for array, part in ((weight, "weight"), (bias, "bias")):
            graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), f"{name}_{part}"))
        last.output[0] = given
    return chain


def _by_channel(
    node: NodeProto, given: str, constants: Mapping[str, np.ndarray], channels: int, axis: int
) -> np.ndarray | None:
    """The numbers, one a channel, that this node puts to a value; None where it does something else."""
    if node.op_type not in (*_SCALES, *_SHIFTS) or (node.input[0] != given and node.op_type in ("Div", "Sub")):
        return None
    other = constants.get(next((name for name in node.input if name != given), given))
    if other is None or other.ndim > 4:
        return None
    lengths = [1] * (4 - other.ndim) + list(other.shape)
    if lengths[axis] not in (1, channels) or any(length != 1 for place, length in enumerate(lengths) if place != axis):
        return None
    return np.broadcast_to(other.astype(np.float64).reshape(-1), (channels,))
