"""Take a Keras model apart: into the places where a single tensor crosses, and the groups of layers between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import keras
import numpy as np

from headstart.networks.network import HEAD

TAKEN = ("pixels", "preprocessing", "pool", "head", "temperature", "probabilities", "views")  # in the joined model
RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)
MANY = 12  # pieces with weights above which an unnamed network is parted where its picture gets smaller instead


@dataclass
class Piece:
    """Neighbouring layers with the one tensor that leaves them; `crossing` is None where several tensors do."""

    name: str
    layers: list[Any] = field(default_factory=list)  # layers, and operations such as an addition
    crossing: Any = None

    @property
    def weighted(self) -> bool:
        """Whether any of its layers has a matrix or kernel; a normalisation alone is not worth a group."""
        return any(len(variable.shape) > 1 for layer in self.layers for variable in variables(layer))


def variables(layer: Any) -> list[keras.Variable]:
    """The layer's weights and statistics; an operation has none. Seeds of random numbers do not count."""
    found = [] if not isinstance(layer, keras.Layer) else layer.variables
    return [variable for variable in found if variable.name != "seed_generator_state"]


def flattened(model: keras.Model) -> keras.Model:
    """The same layers with the same weights in one graph, without models inside models.

    Raises:
        ValueError: the model has no graph, or not one input and one output.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(f"{len(model.inputs)} inputs and {len(model.outputs)} outputs")
    source = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype)
    name = f"{model.name}_backbone" if model.name in TAKEN else model.name
    return keras.Model(source, _replayed(model, source, {}), name=name)


def learning(model: keras.Model) -> keras.Model:
    """The same layers in a graph whose normalisation takes its statistics from the batch, where it is trainable."""
    source = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype)
    return keras.Model(source, _replayed(model, source, {}, learns=True))


def _replayed(model: keras.Model, source: Any, called: dict[str, Any], *, learns: bool = False) -> Any:
    """What the model's operations give for `source`, each called anew; models among them are opened.

    `called` are the operations before, by name: one of another model's that has the same name gets that model's before
    its own, for in one graph names are unique.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    known = {id(graph.inputs[0]): source}
    for node in _nodes(graph):
        if node.is_input:
            continue
        arguments, options = node.arguments.fill_in(known)
        # Whether a layer trains is for each call to say; a choice stored in the graph would hide it.
        options = {key: value for key, value in options.items() if key not in ("training", "mask")}
        operation = node.operation
        if learns and isinstance(operation, keras.layers.BatchNormalization):
            options["training"] = True
        if _opens(operation) and len(arguments) == 1:
            given = [_replayed(operation, arguments[0], called, learns=learns)]
        else:
            while called.setdefault(operation.name, operation) is not operation:
                operation.name = f"{model.name}_{operation.name}"
            given = keras.tree.flatten(operation(*arguments, **options))
        known |= {id(before): after for before, after in zip(node.outputs, given, strict=True)}
    return known[id(graph.outputs[0])]


def _opens(operation: Any) -> bool:
    is_model = isinstance(operation, keras.Sequential) or hasattr(operation, "_nodes_by_depth")
    return is_model and len(operation.inputs) == 1 and len(operation.outputs) == 1


def _nodes(graph: Any) -> Iterator[Any]:
    """The graph's nodes from input to output: what a tensor hangs on comes before it."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from graph._nodes_by_depth[depth]


def pieces(model: keras.Model) -> list[Piece]:
    """The smallest parts of a flattened model between places that every path goes through."""
    nodes = [node for node in _nodes(model) if not node.is_input]
    waiting: dict[int, int] = {}  # tensor -> how many nodes still want it
    for node in nodes:
        for tensor in node.input_tensors:
            waiting[id(tensor)] = waiting.get(id(tensor), 0) + 1
    found = [Piece("")]
    open_tensors = {id(model.inputs[0])}
    for node in nodes:
        found[-1].layers.append(node.operation)
        if not found[-1].name or variables(node.operation):
            found[-1].name = node.operation.name
        for tensor in node.input_tensors:
            waiting[id(tensor)] -= 1
            if not waiting[id(tensor)]:
                open_tensors.discard(id(tensor))
        open_tensors |= {id(tensor) for tensor in node.outputs if waiting.get(id(tensor))}
        if len(open_tensors) == 1 and id(node.outputs[0]) in open_tensors:
            found[-1].crossing = node.outputs[0]
            found.append(Piece(""))
    found[-1].crossing = model.outputs[0]
    return _sharing_joined([piece for piece in found if piece.layers])


def _sharing_joined(parts: list[Piece]) -> list[Piece]:
    """A layer that is used twice belongs to one piece: all from its first use to its last become one."""
    last = {id(layer): place for place, piece in enumerate(parts) for layer in piece.layers if variables(layer)}
    joined: list[Piece] = []
    reach = -1
    for place, piece in enumerate(parts):
        if place <= reach:
            joined[-1] = Piece(piece.name, [*joined[-1].layers, *piece.layers], piece.crossing)
        else:
            joined.append(piece)
        reach = max([reach, *(last[id(layer)] for layer in piece.layers if variables(layer))])
    return joined


def grouped(parts: Sequence[Piece], names: str | None) -> list[Piece]:
    """Pieces joined to groups that are worth thawing together; each has weights.

    Args:
        parts: what `pieces` gave.
        names: a regular expression over names of layers. Neighbours with the same match, or the same first group of
            it, belong together; others join those before them. Without it every piece with weights is a group, or, of
            many, those between which the picture keeps its size.
    """
    keyed = _by_name(parts, names) if names else _by_structure(parts)
    groups: list[Piece] = []
    for key, piece in keyed:
        if groups and (key is None or key == groups[-1].name or not groups[-1].weighted):
            name = groups[-1].name if key is None or groups[-1].weighted else key
            groups[-1] = Piece(name, [*groups[-1].layers, *piece.layers], piece.crossing)
        else:
            groups.append(Piece(key or "stem", list(piece.layers), piece.crossing))
    if len(groups) > 1 and not groups[-1].weighted:
        last = groups.pop()
        groups[-1] = Piece(groups[-1].name, [*groups[-1].layers, *last.layers], last.crossing)
    return _distinct(groups)


def _by_name(parts: Sequence[Piece], names: str) -> Iterator[tuple[str | None, Piece]]:
    pattern = re.compile(names)
    for piece in parts:
        keys: dict[str, list[Any]] = {}
        early: list[Any] = []
        for layer in {id(layer): layer for layer in piece.layers}.values():
            match = pattern.search(layer.name)
            if match:
                keys.setdefault(match.group(match.lastindex or 0), []).append(layer)
            elif keys:
                keys[list(keys)[-1]].append(layer)
            else:
                early.append(layer)
        if not keys:
            yield None, piece
        elif len(keys) == 1:
            yield next(iter(keys)), piece
        else:
            # Inside a piece there is no cut, but its layers can still be thawed apart.
            last = list(keys)[-1]
            for key, layers in keys.items():
                yield key, Piece(key, [*early, *layers], piece.crossing if key == last else None)
                early = []


def _by_structure(parts: Sequence[Piece]) -> Iterator[tuple[str | None, Piece]]:
    by_size = sum(piece.weighted for piece in parts) > MANY
    stage, size = 1, None
    for piece in parts:
        shape = piece.crossing.shape
        if not by_size:
            yield piece.name if piece.weighted else None, piece
            continue
        now = tuple(shape[1:-1])
        if size is not None and now != size and len(shape) == 4:
            stage += 1
        size = now
        yield f"stage{stage}", piece


def _distinct(groups: list[Piece]) -> list[Piece]:
    """The groups under names that differ from each other, from the new head's and from those of the other cuts."""
    seen = {HEAD, "input", "map", "pooled"}
    for group in groups:
        plain = re.sub(r"[./]", "_", group.name)
        candidates = (f"{plain}_{number}" if number > 1 else plain for number in count(1))
        group.name = next(name for name in candidates if name not in seen)
        seen.add(group.name)
    return groups


def flops(layers: Sequence[Any]) -> int:
    """Multiply-adds times two of one item: each matrix or kernel of a layer is used once a position of its output."""
    total = 0
    for layer in {id(layer): layer for layer in layers if variables(layer)}.values():
        node = layer._inbound_nodes[-1]
        # A recurrent layer uses its matrices once a step, whether or not it gives each step's output.
        shape = (node.input_tensors if isinstance(layer, RECURRENT) else node.outputs)[0].shape
        positions = int(np.prod([size or 1 for size in shape[1:-1]]))
        total += 2 * positions * sum(int(np.prod(v.shape)) for v in variables(layer) if len(v.shape) > 1)
    return total


def pooling(backbone: keras.Model) -> keras.Model:
    """From the last map, sequence or vector to features `[n d]`: the mean over places."""
    crossing = keras.Input(backbone.output_shape[1:])
    layers = {4: keras.layers.GlobalAveragePooling2D, 3: keras.layers.GlobalAveragePooling1D}
    rank = len(backbone.output_shape)
    if rank not in (2, 3, 4):
        raise ValueError(f"an output of shape {backbone.output_shape}")
    layer = layers.get(rank, keras.layers.Identity)(name="pool")
    return keras.Model(crossing, layer(crossing), name="pool")
