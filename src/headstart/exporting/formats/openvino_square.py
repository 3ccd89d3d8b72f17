"""Find the backbone's square inside a whole graph, name it, and cut the graph there.

Everything before the square is for photos of any size. Who has decoded to squares need not compute it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.exporting.format import on_canvas
from headstart.runtimes.openvino_conversion import library

if TYPE_CHECKING:
    from headstart.exporting.bundle import Manifest

_SHAPE = "ShapeOf"
NAME = "square"  # of the tensor, float32 `[n size size 3]` or `[n 3 size size]`, with the values 0..255


def mark(model: Any, manifest: Manifest) -> None:
    """Give the square its name, where there is one that everything after it comes from.

    It is known by what it holds: of a picture on its canvas, exactly that picture.
    """
    size = manifest.spec.size
    candidates = [node.output(0) for node in model.get_ordered_ops() if _is_picture(node, size)]
    if not candidates:
        return
    picture = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    found = _computed(model, candidates, on_canvas(picture, manifest))
    for output, values in reversed(list(zip(candidates, found, strict=True))):
        same = np.array_equal(_channels_last(values), picture)
        if same and _all_behind(model, output):
            output.get_tensor().add_names({NAME})
            return


def found(model: Any) -> list[Any]:
    """The output that has the name, if there is one."""
    outputs = (output for node in model.get_ordered_ops() for output in node.outputs())
    return [output for output in outputs if NAME in output.get_tensor().get_names()]


def cut(model: Any, n: int) -> Any:
    """The part behind the square, `uint8 [n size size 3]` in; with any number of them where n is -1. Uses the model up.

    It must have been `found`.
    """
    ov = library()
    [square, *_] = found(model)
    shape = square.get_partial_shape()
    first = shape[1].get_length() == 3  # channels
    size = shape[2].get_length()
    pictures = ov.opset13.parameter([n, size, size, 3], ov.Type.u8, name=NAME)
    inside = ov.opset13.convert(pictures, "f32")
    if first:
        inside = ov.opset13.transpose(inside, np.array([0, 3, 1, 2]))
    for user in square.get_target_inputs():
        user.replace_source_output(inside.output(0))
    for user in model.input().get_target_inputs():
        if user.get_node().get_type_name() == _SHAPE:  # the number of photos is that of squares
            user.replace_source_output(pictures.output(0))
    return ov.Model(model.get_results(), [pictures], "squares")


def before(model: Any) -> list[str]:
    """The names of the nodes that bring photos to the square; all must keep their precision."""
    squares = [output.get_node() for output in found(model)]
    return sorted({node.get_friendly_name() for node in ancestors(squares)})


def ancestors(nodes: list[Any]) -> list[Any]:
    """These nodes and all that they are computed from."""
    seen: dict[str, Any] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.get_name() not in seen:
            seen[node.get_name()] = node
            waiting += [value.get_source_output().get_node() for value in node.inputs()]
    return list(seen.values())


def _is_picture(node: Any, size: int) -> bool:
    if node.get_type_name() in ("Parameter", "Result", "Constant") or node.get_output_size() != 1:
        return False
    shape = node.get_output_partial_shape(0)
    if shape.rank.is_dynamic or len(shape) != 4 or node.get_output_element_type(0).get_type_name() != "f32":
        return False
    sides = [side.get_length() if side.is_static else None for side in list(shape)[1:]]
    return sides in ([size, size, 3], [3, size, size])


def _computed(model: Any, outputs: list[Any], pixels: np.ndarray) -> list[np.ndarray]:
    ov = library()
    part = ov.Model(outputs, model.get_parameters(), "candidates")
    answered = ov.Core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([pixels])
    return [np.array(answered[place]) for place in range(len(outputs))]


def _channels_last(values: np.ndarray) -> np.ndarray:
    return values if values.shape[-1] == 3 else values.transpose(0, 2, 3, 1)


def _all_behind(model: Any, square: Any) -> bool:
    """Whether no output comes from the photo by another way than through the square, but for how many there are."""
    seen: set[str] = set()
    waiting = [result.input_value(0) for result in model.get_results()]
    while waiting:
        output = waiting.pop()
        node = output.get_node()
        if output == square or node.get_name() in seen or _counts_photos(node):
            continue
        if node.get_type_name() == "Parameter":
            return False
        seen.add(node.get_name())
        waiting += node.input_values()
    return True


def _counts_photos(node: Any) -> bool:
    """Whether it is the shape of the photos themselves, as `cut` can take it of squares instead."""
    kind: str = node.get_type_name()
    return kind == _SHAPE and str(node.input_value(0).get_node().get_type_name()) == "Parameter"
