"""Read what `torch.export.save` wrote, as data: the list of operations and the tensors, and nothing that is code."""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from headstart.backbones import swelling
from headstart.backbones.exported import Length, Named, Program, Step, Tensor, Value, Weight
from headstart.errors import BadBackbone

if TYPE_CHECKING:
    import torch
    from torch import nn

SPEC = "headstart.json"  # the extra file in which a program may say how its pictures are made
AGAIN = (
    "export it again: torch.export.save(torch.export.export(model.eval(), (pictures,), "
    "dynamic_shapes=({0: torch.export.Dim('n')},)), 'net.pt2')"
)
# As numbered in the schema of exported programs.
_DTYPES = dict(enumerate(("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"), start=1)) | {
    12: "bool",
    13: "bfloat16",
}
_UINT8, _FLOAT32 = 1, 7
_REPEATED = 1 << 26  # numbers that a tensor may have whose file holds fewer: one that was expanded
_MEMORY = {1: "contiguous_format", 2: "channels_last", 4: "preserve_format"}
# Part of a larger tensor, or all of it in another shape: writing into one would change the other.
_VIEWS = (
    *(
        "view",
        "reshape",
        "select",
        "slice",
        "narrow",
        "split",
        "chunk",
        "unbind",
        "transpose",
        "permute",
        "t",
        "expand",
    ),
    *("squeeze", "unsqueeze", "flatten", "unflatten"),
)
_DROPOUT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")  # nothing outside training
_CHECKS = ("aten._assert", "aten.sym_constrain", "aten._check")  # of what was said at export; they compute nothing


@dataclass(frozen=True)
class Exported:
    """A program, the values of its tensors, and what it says about its pictures."""

    program: Program
    tensors: dict[str, torch.Tensor]
    says: dict[str, Any]
    results: tuple[str, ...] = ()  # the values that it gives


def export(module: nn.Module, pictures: torch.Tensor, what: str) -> Exported:
    """The module as a program for any number of pictures of this size.

    Raises:
        BadBackbone: its forward pass is not the same list of operations for every picture.
    """
    import torch

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about what PyTorch will change some day
            traced = torch.export.export(
                module.eval(), (pictures,), dynamic_shapes=({0: torch.export.Dim("n")},), strict=False
            )
            file = io.BytesIO()
            torch.export.save(traced, file)
    except Exception as problem:  # the user's own code is run, and PyTorch's tracing of it
        raise BadBackbone(
            f"{what} cannot be traced on pictures of {' x '.join(map(str, pictures.shape[1:]))}: {said(problem)}",
            fix="give its forward one picture batch, with no choice that hangs on values and no fixed number of "
            "pictures; if it was made for pictures of another size, say --size",
        ) from problem
    file.seek(0)
    return _read(file, what)


def read(path: Path, what: str) -> Exported:
    """The program in this file; nothing in it is executed or unpickled.

    Raises:
        BadBackbone: it is damaged, was written by an older PyTorch, takes other than one picture batch of any length,
            was exported for training, or does what is not known.
    """
    with path.open("rb") as file:
        return _read(file, what)


def read_whole(path: Path, what: str) -> Exported:
    """A program from photos `uint8 [n h w 3]` of any size to several results, read in the same way.

    Raises:
        BadBackbone: as `read`.
    """
    with path.open("rb") as file:
        return _read(file, what, _UINT8)


def said(problem: Exception) -> str:
    """The first line of what PyTorch says about a problem."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()] or [type(problem).__name__]
    return lines[0][:200].rstrip(".:")


def _read(file: IO[bytes], what: str, dtype: int = _FLOAT32) -> Exported:
    try:
        with zipfile.ZipFile(file) as archive:
            swelling.check(archive)
            inside = {name.partition("/")[2]: name for name in archive.namelist()}
            if "models/model.json" not in inside:
                old = "serialized_exported_program.json" in archive.namelist()
                raise BadBackbone(
                    f"{what} was written by PyTorch older than 2.9" if old else f"{what} holds no exported program",
                    fix=f"with PyTorch 2.9 or newer, {AGAIN}",
                )
            written = json.loads(archive.read(inside["models/model.json"]))
            reading = _Reading(written["graph_module"], what, dtype)
            program = reading.program()
            tensors = _tensors(archive, inside)
            extra = inside.get(f"extra/{SPEC}")
            says = json.loads(archive.read(extra)) if extra is not None else {}
    except BadBackbone:
        raise
    except Exception as problem:  # from a file in which anything may stand where anything else is expected
        raise BadBackbone(f"{what} is damaged or not an exported program: {said(problem)}", fix=AGAIN) from problem
    program.check(what)
    missing = program.tensors.keys() - tensors.keys()
    if missing:
        raise BadBackbone(f"{what} is damaged: it has no values for {min(missing)!r}", fix=AGAIN)
    given = {name: tensors[name] for name in program.tensors}
    sized = {
        name: Tensor(tuple(value.shape), str(value.dtype).removeprefix("torch."), program.tensors[name].parameter)
        for name, value in given.items()
    }
    says = says if isinstance(says, dict) else {}
    return Exported(replace(program, tensors=sized), given, says, reading.results)


@dataclass(frozen=True)
class _Computed:
    """A number that follows from the length of the batch; no block of layers shall have to hand it to the next."""

    op: str
    args: list[Any]


@dataclass
class _Reading:
    """The graph of a file, on the way to a `Program`."""

    written: Mapping[str, Any]
    what: str
    dtype: int = _FLOAT32  # of the pictures
    results: tuple[str, ...] = ()
    renamed: dict[str, Any] = field(default_factory=dict)  # value of the file -> what stands for it
    steps: list[Step] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)  # value of which a part was written over -> by what
    near: str = ""  # a value that the operation at hand takes and whose first axis is the batch
    last: str = ""  # the latest value whose first axis is the batch

    @property
    def graph(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.written["graph"]
        return found

    def program(self) -> Program:
        tensors, picture = self._inputs()
        sizes = self.graph["tensor_values"][picture]["sizes"]
        if self.graph["tensor_values"][picture]["dtype"] != self.dtype or len(sizes) != 4:
            raise BadBackbone(f"{self.what} takes no {_DTYPES[self.dtype]} pictures of four axes", fix=AGAIN)
        if "as_int" in sizes[0]:
            raise BadBackbone(
                f"{self.what} was exported for batches of exactly {sizes[0]['as_int']}",
                fix=f"for any number of pictures, {AGAIN}",
            )
        self.batch = _text(sizes[0])
        self.last = picture
        self.renamed[picture] = Value(picture)
        for node in self.graph["nodes"]:
            self._take(node)
        outputs = [
            spec["user_output"]["arg"] for spec in self.written["signature"]["output_specs"] if "user_output" in spec
        ]
        if len(outputs) != len(self.written["signature"]["output_specs"]):
            raise BadBackbone(f"{self.what} was exported while training", fix=f"call model.eval() and {AGAIN}")
        if len(outputs) == 1 or self.dtype == _UINT8:
            self.results = tuple(self.renamed[output["as_tensor"]["name"]].name for output in outputs)
        # Of several outputs the last value stands for all; who takes it apart says which one is meant.
        result = self.results[0] if len(outputs) == 1 else ""
        return Program(
            picture=picture,
            shape=tuple(_side(side) for side in sizes),
            steps=tuple(self.steps),
            result=result,
            tensors=tensors,
        )

    def _inputs(self) -> tuple[dict[str, Tensor], str]:
        tensors: dict[str, Tensor] = {}
        pictures: list[str] = []
        for spec in self.written["signature"]["input_specs"]:
            [(kind, about)] = spec.items()
            if kind == "user_input" and "as_tensor" in about["arg"]:
                pictures.append(about["arg"]["as_tensor"]["name"])
                continue
            full = next((about[key] for key in about if key.endswith("_name")), None)
            if kind not in ("parameter", "buffer", "tensor_constant") or not isinstance(full, str):
                raise BadBackbone(f"{self.what} takes a {kind.replace('_', ' ')} beside pictures", fix=AGAIN)
            self.renamed[about["arg"]["name"]] = Weight(full)
            tensors[full] = Tensor((), "", kind == "parameter")
        if len(pictures) != 1:
            raise BadBackbone(f"{self.what} takes {len(pictures)} inputs instead of one, the pictures", fix=AGAIN)
        return tensors, pictures[0]

    def _take(self, node: Mapping[str, Any]) -> None:
        """Add the operation of this node, or let something earlier stand for it."""
        op = str(node["target"]).removeprefix("torch.ops.").replace("_operator.", "operator.", 1)
        if op.startswith(_CHECKS):
            return
        args, options = self._arguments(node)
        outputs, several = _outputs(node)
        family, _, rest = op.partition(".")
        name, _, variant = rest.partition(".")
        if op == "aten.sym_size.int" and self._is_batch(outputs[0]):
            return  # said anew at each use, so that no number has to cross between groups of layers
        if name in ("batch_norm", "instance_norm", "dropout", "feature_dropout", "alpha_dropout") and _training(
            name, args
        ):
            raise BadBackbone(f"{self.what} was exported while training", fix=f"call model.eval() and {AGAIN}")
        if name.rstrip("_") in (*_DROPOUT, "detach", "lift_fresh_copy", "alias"):
            self.renamed[outputs[0]] = args[0]
            return
        if family == "aten" and name.endswith("_") and not name.startswith("_"):
            self._overwritten(args[0], outputs[0], op)
            name = name[:-1]
        if name in ("view", "_unsafe_view") and variant == "default":
            name = "reshape"  # pictures come channels last, where a view of them may not exist
        if family == "operator" and all(isinstance(arg, int | Length | _Computed) for arg in args):
            self.renamed[outputs[0]] = _Computed(op, args)
            return
        args = [self._spelled(arg, self.near) for arg in args]
        options = {key: self._spelled(value, self.near) for key, value in options.items()}
        shape, moving = self._shape(outputs[0])
        options.pop("pin_memory", None)
        self.steps.append(
            Step(
                op=f"{family}.{name}.{variant}".rstrip("."),
                args=tuple(args),
                options=options,
                gives=tuple(outputs),
                several=several,
                layer=_layer(node),
                shape=shape,
                moving=moving,
            )
        )
        self.renamed |= {output: Value(output) for output in outputs}
        if moving:
            self.last = outputs[0]

    def _arguments(self, node: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        options: dict[str, Any] = {}
        near = self.last
        for given in node["inputs"]:
            value = self._argument(given["arg"])
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, Value) and each.name in self.stale:
                    raise self._in_place(self.stale[each.name])
            if isinstance(value, Value) and self._shape(value.name)[1]:
                near = value.name
            if given.get("kind") == 2:
                options[str(given["name"])] = value
            else:
                args.append(value)
        self.near = near
        return args, options

    def _spelled(self, argument: Any, near: str) -> Any:
        """The argument with the batch's length, and what follows from it, told by the value that is near."""
        if isinstance(argument, list):
            return [self._spelled(part, near) for part in argument]
        if isinstance(argument, Length):
            return Length(near)
        if not isinstance(argument, _Computed):
            return argument
        args = tuple(self._spelled(part, near) for part in argument.args)
        name = f"length_{len(self.steps)}"
        self.steps.append(Step(op=argument.op, args=args, options={}, gives=(name,)))
        return Value(name)

    def _argument(self, arg: Mapping[str, Any]) -> Any:
        [(kind, value)] = arg.items()
        if kind == "as_none":
            return None
        if kind in ("as_int", "as_bool", "as_string"):
            return value
        if kind == "as_float":
            return float(value)
        if kind in ("as_ints", "as_bools", "as_strings"):
            return list(value)
        if kind == "as_floats":
            return [float(each) for each in value]
        if kind == "as_tensor":
            return self.renamed[value["name"]]
        if kind == "as_tensors":
            return [self.renamed[each["name"]] for each in value]
        if kind == "as_optional_tensors":
            return [self._argument(each) for each in value]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            return self._number(value)
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self._number(each) for each in value]
        if kind == "as_scalar_type":
            return Named("dtype", _DTYPES[value])
        if kind == "as_memory_format":
            return Named("memory_format", _MEMORY[value])
        if kind == "as_layout":
            return None
        if kind == "as_device":
            return Named("device", "")  # wherever the network is by then
        raise BadBackbone(f"{self.what} has an argument of the kind {kind!r}, which may be code", fix=AGAIN)

    def _number(self, given: Mapping[str, Any]) -> Any:
        if "as_name" not in given:
            return next(iter(given.values()))
        name = given["as_name"]
        return Length("") if self._is_batch(name) else self.renamed[name]

    def _is_batch(self, name: str) -> bool:
        value = self.graph["sym_int_values"].get(name)
        return value is not None and _text(value) == self.batch

    def _shape(self, value: str) -> tuple[tuple[int | None, ...], bool]:
        about = self.graph["tensor_values"].get(value)
        if about is None:
            return (), False
        sizes = about["sizes"]
        return tuple(_side(side) for side in sizes), bool(sizes) and _text(sizes[0]) == self.batch

    def _overwritten(self, target: Any, result: str, op: str) -> None:
        """From here on the result stands for what was written over; what shares its memory must not be used again."""
        if isinstance(target, Weight):  # the statistics of a normalisation, say
            raise BadBackbone(f"{self.what} was exported while training", fix=f"call model.eval() and {AGAIN}")
        if not isinstance(target, Value):
            raise self._in_place(op)
        shared = target
        while (step := self._step(shared)) is not None and step.name in _VIEWS:
            if not isinstance(step.args[0], Value):
                raise self._in_place(op)
            shared = step.args[0]
            self.stale[shared.name] = op
        self.renamed |= {name: Value(result) for name, now in self.renamed.items() if now == target}

    def _step(self, value: Value) -> Step | None:
        return next((step for step in self.steps if value.name in step.gives), None)

    def _in_place(self, op: str) -> BadBackbone:
        return BadBackbone(
            f"{self.what} writes over part of a tensor with {op!r}",
            fix="write it without changing tensors in place: torch.cat, torch.where or a sum",
        )


def _training(name: str, args: list[Any]) -> bool:
    place = {"batch_norm": 5, **dict.fromkeys(_DROPOUT, 2)}.get(name.rstrip("_"))
    return place is not None and len(args) > place and args[place] is True


def _outputs(node: Mapping[str, Any]) -> tuple[list[str], bool]:
    outputs = node["outputs"]
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        return [each["name"] for each in outputs[0]["as_tensors"]], True
    names = []
    for output in outputs:
        [(kind, value)] = output.items()
        names.append(str(value.get("name", value.get("as_name"))) if kind in ("as_tensor", "as_sym_int") else "")
    if not names or not all(names):
        raise KeyError(node["target"])
    return names, len(names) > 1


def _layer(node: Mapping[str, Any]) -> str:
    stack = str(node.get("metadata", {}).get("nn_module_stack", "")).split(";")
    path = stack[-1].split(",")[1] if stack[-1].count(",") >= 2 else ""
    return "" if path.startswith("_empty") else path.partition("@")[0]


def _side(side: Mapping[str, Any]) -> int | None:
    return int(side["as_int"]) if "as_int" in side else None


def _text(size: Mapping[str, Any]) -> str:
    return str(size["as_expr"]["expr_str"]) if "as_expr" in size else str(size.get("as_int"))


def _tensors(archive: zipfile.ZipFile, inside: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Every parameter, buffer and constant, by its full name."""
    found: dict[str, torch.Tensor] = {}
    for folder, config in (
        ("data/weights", "model_weights_config.json"),
        ("data/constants", "model_constants_config.json"),
    ):
        listed = json.loads(archive.read(inside[f"{folder}/{config}"]))["config"]
        for name, about in listed.items():
            if str(about["path_name"]).startswith(("weight_", "tensor_")):
                found[name] = _tensor(archive.read(inside[f"{folder}/{about['path_name']}"]), about)
    return found


def _tensor(content: bytes, about: Mapping[str, Any]) -> torch.Tensor:
    import torch

    if about["use_pickle"]:
        loaded = torch.load(io.BytesIO(content), weights_only=True)
        if not isinstance(loaded, torch.Tensor):
            raise ValueError(f"a {type(loaded).__name__} in place of a tensor")
        return loaded.detach()
    meta = about["tensor_meta"]
    dtype = getattr(torch, _DTYPES[meta["dtype"]])
    shape = [int(side["as_int"]) for side in meta["sizes"]]
    strides = [int(side["as_int"]) for side in meta["strides"]]
    if 0 in shape:
        return torch.zeros(shape, dtype=dtype)
    if math.prod(shape) > max(len(content), _REPEATED):
        raise ValueError(f"a tensor of {shape} out of {len(content)} bytes")
    flat = torch.frombuffer(bytearray(content), dtype=dtype)
    # PyTorch checks that such a view lies within its storage; negative numbers it refuses.
    return flat.as_strided(shape, strides, int(meta["storage_offset"]["as_int"])).clone()
