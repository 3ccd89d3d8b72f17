"""The graph of a Keras model, as it is written in ONNX: normalisation inside its convolutions, the same answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from headstart.exporting.formats.onnx_precision import narrow
from headstart.exporting.formats.onnx_simplifying import folded, simplified

onnxruntime = pytest.importorskip("onnxruntime")
RANDOM = np.random.default_rng(0)
ARRAYS = {
    "first": RANDOM.normal(size=(32, 3, 3, 3)),
    "mean": RANDOM.normal(size=(1, 1, 1, 32)),
    "scale": RANDOM.uniform(0.5, 2, size=(1, 1, 1, 32)),
    "beta": RANDOM.normal(size=(32,)),
    "second": RANDOM.normal(size=(40, 32, 1, 1)),
    "bias": RANDOM.normal(size=(40,)),
    "half": np.array(2.0),
}


def keras_like() -> onnx.ModelProto:
    """Two convolutions as Keras writes them: normalised behind a transposition, with casts of floats to floats."""
    nodes = [
        helper.make_node("Conv", ["pixels", "first"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["b"], ["c"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", ["c", "mean"], ["d"]),
        helper.make_node("Mul", ["d", "scale"], ["e"]),
        helper.make_node("Add", ["beta", "e"], ["f"]),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("Transpose", ["g"], ["h"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["h", "second", "bias"], ["i"]),
        helper.make_node("Div", ["i", "half"], ["j"]),
        helper.make_node("Mul", ["j", "j"], ["k"]),
        helper.make_node("Sub", ["half", "k"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "keras",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ("n", 3, None, None))],
        [helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, ("n", 40, None, None))],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in ARRAYS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answers(model: onnx.ModelProto) -> np.ndarray:
    pixels = np.random.default_rng(1).normal(size=(2, 3, 9, 7)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pixels": pixels})[0])


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_what_normalises_goes_into_the_convolution_and_the_answers_stay() -> None:
    model = folded(keras_like())
    onnx.checker.check_model(model, full_check=True)
    # A value that is used twice is left alone, and so is what is subtracted from a number.
    assert kinds(model) == Counter(Conv=2, Transpose=2, Relu=1, Mul=1, Sub=1)
    assert not {array.name for array in model.graph.initializer} & {"first", "mean", "scale", "beta", "second", "bias"}
    np.testing.assert_allclose(answers(model), answers(keras_like()), rtol=1e-4, atol=1e-4)


def test_transpositions_that_cancel_each_other_go_and_only_standard_nodes_stay() -> None:
    model = simplified(keras_like())
    onnx.checker.check_model(model, full_check=True)
    assert "Transpose" not in kinds(model)
    assert [opset.domain for opset in model.opset_import] == [""]
    np.testing.assert_allclose(answers(model), answers(keras_like()), rtol=1e-4, atol=1e-4)


def test_a_transposed_value_that_something_else_reads_is_not_changed() -> None:
    model = keras_like()
    model.graph.node.append(helper.make_node("Identity", ["b"], ["beside"]))
    model.graph.output.append(helper.make_tensor_value_info("beside", onnx.TensorProto.FLOAT, ("n", None, None, 32)))
    folded(model)
    onnx.checker.check_model(model, full_check=True)
    assert kinds(model)["Sub"] == 2
    np.testing.assert_allclose(answers(model), answers(keras_like()), rtol=1e-4, atol=1e-4)


def test_convolutions_of_few_channels_stay_out_of_eight_bits() -> None:
    model = keras_like()
    for place, node in enumerate(model.graph.node):
        node.name = str(place)
    assert narrow(model) == ["0"]  # three channels in; the other has 32 and 40
