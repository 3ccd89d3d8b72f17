"""Make the ONNX graph of a whole model: convert it, give its borders clear names, check it, write it as one file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from headstart.errors import BadExport
from headstart.exporting.bundle import Manifest
from headstart.exporting.format import Whole
from headstart.networks.torch_whole import exported

AXES = {  # what the graph calls the lengths that are not fixed
    "pixels": ("n", "h", "w", 3),
    "probabilities": ("n", None),
    "distance": ("n",),
    "heat": ("n", None, None, None),
}


def converted(whole: Whole) -> onnx.ModelProto:
    """The model as a graph from `pixels` to the outputs of its manifest.

    Raises:
        BadExport: the network does what ONNX has no operation for.
    """
    try:
        model = _of_torch(whole) if whole.engine == "torch" else _of_keras(whole)
    except BadExport:
        raise
    # A converter meets what others wrote: nearly every built-in error comes out of it.
    except Exception as problem:
        raise BadExport(
            f"this network cannot be written as ONNX: {said(problem)}",
            fix="export it to one of its own framework's formats, see docs/exporting.md",
        ) from problem
    return model


def _of_torch(whole: Whole) -> onnx.ModelProto:
    import torch

    with _quiet():
        program = torch.onnx.export(
            exported(whole.model),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["pixels"],
            output_names=list(whole.manifest.outputs),
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _of_keras(whole: Whole) -> onnx.ModelProto:
    from headstart.exporting.formats.onnx_keras import onnx_of_keras
    from headstart.exporting.formats.onnx_simplifying import simplified
    from headstart.networks.keras_native import write

    with TemporaryDirectory(prefix="headstart-") as folder:
        path = Path(folder) / "whole.keras"
        write(whole.model, path, whole.manifest.classes)  # not `save`, by which Keras on JAX imports TensorFlow
        return simplified(onnx.load_from_string(onnx_of_keras(path)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While open, converters keep to themselves what is not for users: warnings, logs, lines on the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def named(model: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """The same graph with clear names at its borders, and without what its converter left for itself."""
    graph = model.graph
    new = dict(zip([put.name for put in graph.input], ["pixels"], strict=True))
    new |= _outputs(graph, manifest)
    _rename(graph, {old: name for old, name in new.items() if old != name})
    for value in (*graph.input, *graph.output):
        axes = AXES[value.name]
        for axis, length in zip(value.type.tensor_type.shape.dim, axes, strict=True):
            if isinstance(length, str):
                axis.Clear()
                axis.dim_param = length
    del graph.value_info[:]  # written anew by whoever wants shapes; those of a converter name lengths as it does
    for node in graph.node:
        del node.metadata_props[:]  # places in the source code of whoever exported
        node.doc_string = ""
    graph.name, model.producer_name, model.doc_string = "headstart", "headstart", ""
    model.producer_version = manifest.headstart
    return model


def _outputs(graph: onnx.GraphProto, manifest: Manifest) -> dict[str, str]:
    """What each output is called, and what it is: by name, or by its place where the converter made up names."""
    given = [put.name for put in graph.output]
    if set(given) == set(manifest.outputs):
        return {name: name for name in given}
    return dict(zip(given, manifest.outputs, strict=True))


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    taken = {name for node in graph.node for name in (*node.input, *node.output)} & set(new.values())
    change = {name: f"{name}_inside" for name in taken} | dict(new)
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = change.get(name, name)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = change.get(value.name, value.name)


def labelled(model: onnx.ModelProto, facts: Mapping[str, str]) -> onnx.ModelProto:
    """The model with these facts inside, as any ONNX library shows them."""
    del model.metadata_props[:]
    for name, fact in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, fact
    return model


def save(model: onnx.ModelProto, path: Path, largest: int) -> None:
    """Check the whole file and write it.

    Raises:
        BadExport: it is larger than an ONNX file can be, or does not keep to the rules of ONNX.
    """
    size = model.ByteSize()
    if size > largest:
        raise BadExport(
            f"the model takes {size / 1e9:.1f} GB, and one ONNX file can hold 2", fix="take --to openvino, or fp16"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as problem:
        raise BadExport(
            f"what was made of this network keeps not to the rules of ONNX: {said(problem)}", fix="take another format"
        ) from problem
    path.write_bytes(model.SerializeToString())


def said(problem: Exception) -> str:
    """The first line of what a library says about a problem."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()] or [type(problem).__name__]
    return lines[0][:200].rstrip(".:")
