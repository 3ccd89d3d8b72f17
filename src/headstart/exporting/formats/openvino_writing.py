"""Turn a framework's whole model into an OpenVINO model, in full precision or in eight bits."""

from __future__ import annotations

import tempfile
import warnings
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import BadExport
from headstart.exporting.format import NARROW, named
from headstart.exporting.formats import openvino_square as square
from headstart.exporting.formats.openvino_graph import last_line
from headstart.runtimes.openvino_conversion import library

if TYPE_CHECKING:
    from headstart.exporting.format import Whole

CALIBRATED = 128  # photos that eight bits are fitted to
FEWEST = 8  # the ranges of activations that fewer show are those of these photos


def converted(whole: Whole) -> Any:
    """An `openvino.Model` with the manifest's names, in full precision.

    Raises:
        BadExport: it cannot be converted.
    """
    library()
    convert = {"torch": _of_torch, "tensorflow": _of_tensorflow, "jax": _by_way_of_onnx}[whole.engine]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that become constants
            model, outputs = convert(whole)
    except BadExport:
        raise
    # A converter meets what others wrote: nearly every built-in error comes out of it.
    except Exception as problem:
        raise BadExport(
            f"OpenVINO cannot convert this model ({last_line(problem)})", fix="export it to another format"
        ) from problem
    parameter = model.get_parameters()[0]
    parameter.set_friendly_name("pixels")
    parameter.output(0).get_tensor().set_names({"pixels"})
    for name, output in outputs.items():
        output.get_tensor().add_names({name})
    # A new model: what the converter notes of itself stays out of the file.
    return library().Model([outputs[name] for name in whole.manifest.outputs], [parameter], "headstart")


def _of_torch(whole: Whole) -> tuple[Any, dict[str, Any]]:
    import torch

    sides = {1: torch.export.Dim("h", min=2, max=1 << 15), 2: torch.export.Dim("w", min=2, max=1 << 15)}
    example = torch.zeros((2, 300, 400, 3), dtype=torch.uint8)
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(
            whole.model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("n"), **sides},)
        )
    model = library().convert_model(program)
    return model, dict(zip(whole.manifest.outputs, _sources(model), strict=True))


def _of_tensorflow(whole: Whole) -> tuple[Any, dict[str, Any]]:
    import tensorflow
    from openvino.frontend import FrontEndManager
    from openvino.frontend.tensorflow.graph_iterator import GraphIteratorTFGraph

    names = whole.manifest.outputs
    pixels = tensorflow.TensorSpec((None, None, None, 3), tensorflow.uint8, name="pixels")

    def answer(pixels: Any) -> tuple[Any, ...]:
        given = whole.model(pixels, training=False)
        return tuple(tensorflow.identity(given[name], name=f"answer_{name}") for name in names)

    traced = tensorflow.function(answer, autograph=False).get_concrete_function(pixels)
    front_end = FrontEndManager().load_by_framework("tf")
    nodes = GraphIteratorTFGraph(traced.graph, False)  # must outlive the conversion
    model = front_end.convert(front_end.load(nodes))
    known = {tensor: source for source in _sources(model) for tensor in source.get_tensor().get_names()}
    wanted = {name: output.name for name, output in zip(names, traced.outputs, strict=True)}
    return model, {name: known[tensor] for name, tensor in wanted.items()}


def _by_way_of_onnx(whole: Whole) -> tuple[Any, dict[str, Any]]:
    """OpenVINO cannot read programs of JAX."""
    with tempfile.TemporaryDirectory() as place:
        named("onnx").write(whole, Path(place), "fp32")
        model = library().Core().read_model(next(Path(place).glob("*.onnx")))
    known = {name: source for source in _sources(model) for name in source.get_tensor().get_names()}
    return model, {name: known[name] for name in whole.manifest.outputs}


def _sources(model: Any) -> list[Any]:
    return [result.input_value(0) for result in model.get_results()]


def quantised(model: Any, whole: Whole) -> Any:
    """The backbone in eight bits, its ranges those of the run's photos.

    The way to the square stays as it is, and so do the first layer, the depthwise and the narrow ones, the head, and
    what tells how far a photo is from those of the training.

    Raises:
        BadExport: there are too few photos, or NNCF cannot quantise it.
    """
    from headstart.runtimes import openvino_int8

    photos = list(islice(whole.samples, CALIBRATED))
    if len(photos) < FEWEST:
        raise BadExport(
            f"eight bits need at least {FEWEST} photos to be fitted to, and {len(photos)} can be read",
            fix="export it with --precision fp16",
        )
    ignored = {*square.before(model), *openvino_int8.delicate(model), *_narrow(model), *_answering(model)}
    try:
        return openvino_int8.fitted(model, photos, ignored)
    # A quantiser meets what others wrote: nearly every built-in error comes out of it.
    except Exception as problem:
        raise BadExport(
            f"this model cannot be brought to eight bits ({last_line(problem)})", fix="export it with --precision fp16"
        ) from problem


def _narrow(model: Any) -> list[str]:
    """The convolutions that take or give few channels: their weights are `[out in h w]`."""
    layers = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    return [node.get_friendly_name() for node in layers if min(list(node.input(1).get_shape())[:2]) <= NARROW]


def _answering(model: Any) -> list[str]:
    """The head's matrix product, and all that only outputs beside the probabilities come from."""
    nodes = model.get_ordered_ops()
    behind = {node.get_name() for node in square.ancestors([model.get_results()[0]])}
    beside = [node.get_friendly_name() for node in nodes if node.get_name() not in behind]
    products = [node for node in nodes if node.get_type_name() == "MatMul" and node.get_name() in behind]
    return [*beside, *(node.get_friendly_name() for node in products[-1:])]
