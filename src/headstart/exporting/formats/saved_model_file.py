"""Look into a SavedModel before TensorFlow does: it is a program, and some of its operations read and write files.

Only operations that compute are let through. Every SavedModel holds two functions more, which save and restore its
weights: they may lie there, but nothing that is run may call them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import BadBundle
from headstart.exporting.formats.protobuf import fields, merged

FILE = "saved_model.pb"
FILES = (FILE, "variables/variables.index", "variables/variables.data-00000-of-00001")
BESIDE = frozenset({*FILES, "fingerprint.pb"})
LARGEST = 2 << 30  # bytes: protobuf's own limit
_COMPUTE = """
Abs Acos Acosh Add AddN AddV2 All Any ApproximateEqual ArgMax ArgMin Asin Asinh AssignVariableOp Atan Atan2 Atanh
AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd BroadcastArgs BroadcastTo Cast Ceil
ClipByValue Concat ConcatV2 Const Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2 Cos Cosh Cumprod Cumsum
DepthToSpace DepthwiseConv2dNative DisableCopyOnRead Div DivNoNan Einsum Elu Empty EnsureShape Equal Erf Erfc Exp
ExpandDims Expm1 Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd
GatherV2 Greater GreaterEqual Identity IdentityN If InvertPermutation IsFinite IsInf IsNan L2Loss LRN LeakyRelu Less
LessEqual LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul MatrixBandPart Max MaxPool MaxPool3D
MaxPoolV2 Maximum Mean Merge Min Minimum MirrorPad Mul MulNoNan Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2
PartitionedCall Placeholder PlaceholderWithDefault Pow PreventGradient Prod Range Rank ReadVariableOp RealDiv
Reciprocal Relu Relu6 Reshape ResizeBicubic ResizeBilinear ResizeNearestNeighbor Reverse ReverseSequence ReverseV2
Rint Roll Round Rsqrt ScatterNd Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
Softsign SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall
StatelessIf StatelessWhile StopGradient StridedSlice Sub Sum Switch Tan Tanh TensorListConcatV2 TensorListFromTensor
TensorListGather TensorListGetItem TensorListLength TensorListPushBack TensorListReserve TensorListSetItem
TensorListStack TensorScatterUpdate Tile TopK TopKV2 Transpose TruncateDiv TruncateMod Unpack UnsortedSegmentSum
VarHandleOp VarIsInitializedOp VariableShape Where While Xdivy Xlogy ZerosLike
"""
COMPUTING = frozenset(_COMPUTE.split())
SAVING = frozenset(
    ("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename", "StaticRegexFullMatch", "StringJoin")
)
_GRAPH, _OBJECTS = 2, 7  # fields of a graph with all that belongs to it
_ASSET, _RESOURCE, _SAVER = 5, 10, 11  # kinds of objects that are made, or weights restored, by functions of the file
_DO_NOT = "do not use it, or export it again"


@dataclass(frozen=True, slots=True)
class Node:
    """An operation of a graph: what it is, what it takes, and the functions that it calls."""

    name: str
    op: str
    inputs: tuple[str, ...]
    calls: frozenset[str]


def check(folder: Path) -> None:
    """Refuse a SavedModel that could do anything but compute.

    Raises:
        BadBundle: with the reason, or it is none.
    """
    what = f"graph {str(folder)!r}"
    path = folder / FILE
    strange = [file for file in _files(folder) if file not in BESIDE]
    if strange:
        # TensorFlow would take some of them in place of the file that is looked into here.
        raise BadBundle(f"{what} holds a file that no exported model has: {strange[0]!r}", fix=_DO_NOT)
    try:
        if path.stat().st_size > LARGEST:
            raise BadBundle(f"{what} is larger than any SavedModel can be", fix=_DO_NOT)
        graphs = [meta for number, meta in fields(memoryview(path.read_bytes())) if number == 2]
        for meta in graphs:
            _check_graph(_bytes(meta), what)
    except (OSError, ValueError, IndexError) as problem:
        raise BadBundle(f"{what} is no SavedModel, or damaged", fix=_DO_NOT) from problem
    if len(graphs) != 1:
        raise BadBundle(f"{what} holds {len(graphs)} graphs, where an exported model has one", fix=_DO_NOT)


def _files(folder: Path) -> list[str]:
    """All that lies in the folder but plain folders, by its place in it."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    return [path.relative_to(folder).as_posix() for path in found]


def _check_graph(meta: memoryview, what: str) -> None:
    graph, listed = merged(meta, _GRAPH), merged(meta, _OBJECTS)
    if not listed:
        # TensorFlow then takes it for one of an older kind, and runs whatever operations it names to be run at first.
        raise BadBundle(f"{what} is of an older kind than any exported model", fix=_DO_NOT)
    nodes, functions = _program(graph)
    if functions.keys() & (COMPUTING | SAVING):
        raise BadBundle(f"{what} calls a function of its own like an operation", fix="do not use it")
    for node in (*nodes, *(node for body in functions.values() for node in body)):
        if node.op not in COMPUTING | SAVING:
            raise BadBundle(f"{what} does more than compute: it holds the operation {node.op!r}", fix="do not use it")
    saving = {name for name, body in functions.items() if any(node.op in SAVING for node in body)}
    callers = [node.name for node in nodes if node.calls & saving or node.op in SAVING]
    used = {name.partition(":")[0].lstrip("^") for node in nodes for name in node.inputs} | set(_answers(meta))
    inside = any(node.calls & saving for body in functions.values() for node in body)
    # What is asked of a model is found among its objects, and need not be called by the graph.
    offered = any(name.encode() in bytes(listed) for name in saving)
    if inside or offered or used & set(callers):
        raise BadBundle(f"{what} saves or restores files where it should compute", fix="do not use it")
    objects = (kind for number, item in fields(listed) if number == 1 for kind, _ in fields(_bytes(item)))
    if any(kind in (_ASSET, _RESOURCE, _SAVER) for kind in objects):
        raise BadBundle(f"{what} holds tables or other resources beside its weights", fix="do not use it")


def _program(graph: memoryview) -> tuple[list[Node], dict[str, list[Node]]]:
    """The operations of a graph, and those of each of its functions."""
    nodes = [_node(_bytes(part)) for number, part in fields(graph) if number == 1]
    functions: dict[str, list[Node]] = {}
    for library in (_bytes(part) for number, part in fields(graph) if number == 2):
        for number, function in fields(library):
            if number == 1:
                names = [_text(part) for place, part in fields(merged(_bytes(function), 1)) if place == 1]
                body = [_node(_bytes(part)) for place, part in fields(_bytes(function)) if place == 3]
                # Readers take the last of several names, and some the first of two functions of one name.
                functions.setdefault(names[-1], []).extend(body)
    return nodes, functions


def _node(message: memoryview) -> Node:
    name = op = ""
    inputs: list[str] = []
    calls: set[str] = set()
    for number, part in fields(message):
        if number == 1:
            name = _text(part)
        elif number == 2:
            op = _text(part)
        elif number == 3:
            inputs.append(_text(part))
        elif number == 5:
            calls.update(_called(part))
    return Node(name, op, tuple(inputs), frozenset(calls))


def _called(attribute: int | memoryview) -> Iterator[str]:
    """The functions that an attribute of an operation names, alone or in a list."""
    for number, value in fields(_bytes(attribute)):
        for kind, content in fields(_bytes(value)) if number == 2 else ():
            lists = fields(_bytes(content)) if kind == 1 else ()
            each = [content] if kind == 10 else [part for place, part in lists if place == 9]
            for function in each:
                yield from (_text(part) for place, part in fields(_bytes(function)) if place == 1)


def _answers(meta: memoryview) -> Iterator[str]:
    """The operations that the outputs of signatures come from."""
    for number, entry in fields(meta):
        signatures = [part for key, part in fields(_bytes(entry)) if key == 2] if number == 5 else []
        for signature in signatures:
            for place, output in fields(_bytes(signature)):
                tensors = [part for key, part in fields(_bytes(output)) if key == 2] if place == 2 else []
                for tensor in tensors:
                    yield from (_text(part).partition(":")[0] for key, part in fields(_bytes(tensor)) if key == 1)


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of a message")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()
