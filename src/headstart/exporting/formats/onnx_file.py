"""Look into an ONNX file without any library: refuse one whose weights lie in other files.

A graph may name files for its weights, by any path. Whoever loads such a graph reads those files: of a bundle from a
stranger, any file of this machine.
"""

from __future__ import annotations

from pathlib import Path

from headstart.errors import BadBundle
from headstart.exporting.formats.protobuf import fields

DEEPEST = 64  # graphs inside of graphs, by far more than any network has
# Where in each kind of message others lie, by the numbers of onnx.proto.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION = range(7)
_INSIDE = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TENSOR: {},
}
_TRAINING = 20  # of a model: graphs that nothing here needs
_ELSEWHERE = {13, 14}  # of a tensor: external_data and data_location


def check(path: Path) -> None:
    """Refuse a file that needs others, or is no ONNX file.

    Raises:
        BadBundle: with the reason.
    """
    content = path.read_bytes()
    try:
        outside = _outside(memoryview(content), _MODEL, 0)
    except (ValueError, IndexError) as problem:
        raise BadBundle(f"graph {str(path)!r} is no ONNX file, or damaged", fix="export it again") from problem
    if outside:
        raise BadBundle(f"graph {str(path)!r} wants to read other files", fix="do not use it")


def _outside(message: memoryview, kind: int, depth: int) -> bool:
    """Whether a message has, at any depth, a tensor whose values lie elsewhere."""
    if depth > DEEPEST:
        raise ValueError("graphs inside of graphs without end")
    for number, content in fields(message):
        if kind == _TENSOR and number in _ELSEWHERE and content != 0:
            return True
        if kind == _MODEL and number == _TRAINING:
            raise ValueError("a graph for training")
        inside = _INSIDE[kind].get(number)
        if inside is not None:
            if not isinstance(content, memoryview):
                raise ValueError("a number in place of a message")
            if _outside(content, inside, depth + 1):
                return True
    return False
