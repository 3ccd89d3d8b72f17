"""Make a PyTorch module of a program: a graph of its operations, with its parameters under their own names."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import fx, nn

from headstart.backbones.exported import Length, Named, Program, Step, Tensor, Value, Weight, mapped, parts

_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_DENSE = ("aten.linear.default",)
_PARTS = {  # what follows the input
    "aten.batch_norm.default": ("weight", "bias", "running_mean", "running_var"),
    "aten.linear.default": ("weight", "bias"),
}
_NEEDED = {"aten.batch_norm.default": {"running_mean", "running_var"}, "aten.linear.default": {"weight"}}


def folded(program: Program, tensors: Mapping[str, torch.Tensor]) -> tuple[Program, dict[str, torch.Tensor]]:
    """The program with whatever hangs neither on the picture nor on a parameter computed once, as buffers."""
    values: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    steps: list[Step] = []
    with torch.no_grad():
        for step in program.steps:
            known = [part.name in values for part in parts(step) if isinstance(part, Value | Length)]
            if step.several or not all(known) or any(isinstance(part, Weight | Length) for part in parts(step)):
                steps.append(step)
                continue
            given = mapped(step.args, lambda part: values[part.name] if isinstance(part, Value) else _constant(part))
            options = {name: _constant(value) for name, value in step.options.items()}
            made = _function(step.op)(*given, **options)
            if isinstance(made, torch.Tensor):
                values[step.gives[0]] = made
                names[step.gives[0]] = f"{step.layer}.constants.{step.gives[0]}".lstrip(".")
            else:
                steps.append(step)
    buffers = {names[value]: tensor for value, tensor in values.items()}

    def stored(part: Any) -> Any:
        return Weight(names[part.name]) if isinstance(part, Value) and part.name in names else part

    kept = tuple(
        replace(
            step,
            args=tuple(mapped(step.args, stored)),
            options={name: mapped(value, stored) for name, value in step.options.items()},
        )
        for step in steps
    )
    added = {name: Tensor(tuple(b.shape), str(b.dtype).removeprefix("torch."), False) for name, b in buffers.items()}
    whole = replace(program, steps=kept, tensors={**program.tensors, **added}).upto(program.result)
    return whole, {name: value for name, value in {**tensors, **buffers}.items() if name in whole.tensors}


def groups_of(program: Program) -> dict[str, str]:
    """The group of every tensor, from the picture to the result: a block, or a layer that stands alone.

    A block is what a numbered module holds, or else a module of the first rank. What has no matrix or kernel of its
    own, a normalisation say, and what belongs to no module joins the group before it.
    """
    found: dict[str, str] = {}
    group = ""
    for name in _in_order(program):
        block = _block(name)
        wide = any(len(tensor.shape) > 1 for other, tensor in program.tensors.items() if _block(other) == block)
        group = block if block and wide else group
        found[name] = group
    first = next((group for group in found.values() if group), "whole")
    return {name: group or first for name, group in found.items()}


def _block(name: str) -> str:
    path = name.split(".")[:-1]
    if "constants" in path:
        path = path[: path.index("constants")]
    last = next((place for place, part in enumerate(path) if part.isdigit()), 0)
    return "_".join(path[: last + 1])


def module_of(program: Program) -> nn.Module:
    """The program as a module in inference mode, its tensors still without values.

    Batch normalisation and dense layers become PyTorch's own, for the statistics of the one can be learnt and the other
    can have adapters; all else is operations.

    Raises:
        Exception: of many kinds, where the program is not one that was read from a file and checked.
    """
    root = nn.Module()
    layers = _layers(program)
    for name in _in_order(program):
        _register(root, name, program.tensors[name])
    for place, path in layers.items():
        _put(root, path, program.steps[place], program)
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {program.picture: graph.placeholder("pictures")}
    for place, step in enumerate(program.steps):
        if place in layers:
            nodes[step.gives[0]] = graph.call_module(layers[place], (_node(graph, nodes, step.args[0]),))
        else:
            _add(graph, nodes, step, near=_near(program, place))
    graph.output(nodes[program.result])
    graph.lint()
    return fx.GraphModule(root, graph, class_name="Program").eval()


def _in_order(program: Program) -> list[str]:
    """The tensors as they are used, so that groups of layers come from the picture to the result."""
    used = [part.name for step in program.steps for part in _written(step) if isinstance(part, Weight)]
    return list(dict.fromkeys([*used, *program.tensors]))


def _written(step: Step) -> list[Any]:
    found: list[Any] = []
    mapped([*step.args, *step.options.values()], found.append)
    return found


def _register(root: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, own = name.rpartition(".")
    holder = reduce(_child, path.split(".") if path else [], root)
    dtype = getattr(torch, tensor.dtype)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(tensor.dtype)
    blank = torch.zeros(tensor.shape, dtype=dtype)
    if tensor.parameter and blank.is_floating_point():
        holder.register_parameter(own, nn.Parameter(blank))
    else:
        holder.register_buffer(own, blank)


def _child(module: nn.Module, name: str) -> nn.Module:
    if name not in module._modules:
        module.add_module(name, nn.Module())
    return module.get_submodule(name)


def _layers(program: Program) -> dict[int, str]:
    """The steps that are layers of their own, and where each stands among the modules."""
    found = {place: path for place, step in enumerate(program.steps) if (path := _path(step, program)) is not None}
    users: dict[str, set[str]] = {}
    for place, step in enumerate(program.steps):
        for part in parts(step):
            if isinstance(part, Weight):
                users.setdefault(part.name.rpartition(".")[0], set()).add(found.get(place, ""))
    # Weights that something else uses as well have to stay where they are.
    return {place: path for place, path in found.items() if users[path] == {path}}


def _path(step: Step, program: Program) -> str | None:
    """Where the layer that this is stands; None where it is of no usual kind or has its tensors under other names."""
    names = _PARTS.get(step.op)
    if names is None or len(step.args) < (8 if len(names) == 4 else 2) or step.options:
        return None
    named = dict(zip(names, step.args[1:], strict=False))
    there = {part: each.name.rpartition(".") for part, each in named.items() if isinstance(each, Weight)}
    path = next((path for path, _, _ in there.values()), "")
    usual = all(own == part and path == where for part, (where, _, own) in there.items())
    whole = _NEEDED[step.op] <= there.keys() and (step.op in _DENSE or ("weight" in there) == ("bias" in there))
    alone = all(name.removeprefix(f"{path}.") in names for name in program.tensors if name.startswith(f"{path}."))
    fits = step.op in _DENSE or len(step.shape) in _NORMS
    return path if path and usual and whole and alone and fits else None


def _put(root: nn.Module, path: str, step: Step, program: Program) -> None:
    parent, _, own = path.rpartition(".")
    reduce(_child, parent.split(".") if parent else [], root).add_module(own, _layer(path, step, program))


def _layer(path: str, step: Step, program: Program) -> nn.Module:
    if step.op in _DENSE:
        given, taken = program.tensors[f"{path}.weight"].shape
        dense = nn.Linear(taken, given, bias=f"{path}.bias" in program.tensors, device="meta")
        dense.to_empty(device="cpu")  # without random numbers, which would be thrown away at once
        dense.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in dense.state_dict().items()})
        return dense
    channels = program.tensors[f"{path}.running_mean"].shape[0]
    affine = f"{path}.weight" in program.tensors
    return _NORMS[len(step.shape)](channels, eps=step.args[7], momentum=step.args[6] or None, affine=affine)


def _near(program: Program, place: int) -> str | None:
    """The parameter that is used next, or was last: a tensor that is made anew goes where it lies."""
    after = (part for step in program.steps[place:] for part in _written(step))
    before = (part for step in reversed(program.steps[:place]) for part in _written(step))
    names = (part.name for each in (after, before) for part in each if isinstance(part, Weight))
    return next(names, None)


def _add(graph: fx.Graph, nodes: dict[str, fx.Node], step: Step, *, near: str | None) -> None:
    def node(part: Any) -> Any:
        return _node(graph, nodes, part)

    args = tuple(mapped(step.args, node))
    options = {name: mapped(value, node) for name, value in step.options.items()}
    if isinstance(step.options.get("device"), Named):
        del options["device"]
        if near is not None:
            options["device"] = graph.call_function(getattr, (graph.get_attr(near), "device"))
    made = graph.call_function(_function(step.op), args, options)
    if not step.several:
        nodes[step.gives[0]] = made
        return
    for place, name in enumerate(step.gives):
        nodes[name] = graph.call_function(operator.getitem, (made, place))


def _node(graph: fx.Graph, nodes: Mapping[str, fx.Node], part: Any) -> Any:
    if isinstance(part, Value):
        return nodes[part.name]
    if isinstance(part, Weight):
        return graph.get_attr(part.name)
    if isinstance(part, Length):
        return graph.call_method("size", (nodes[part.name], 0))
    return _constant(part)


def _constant(part: Any) -> Any:
    if not isinstance(part, Named):
        return part
    if part.kind == "device":
        return torch.device("cpu")
    known = {"dtype": torch.dtype, "memory_format": torch.memory_format}[part.kind]
    found = getattr(torch, part.name)
    if not isinstance(found, known):
        raise TypeError(part.name)
    return found


def _function(op: str) -> Any:
    """The function of a known operation: `Program.check` has been passed."""
    family, name, *variant = op.split(".")
    if family == "operator":
        return getattr(operator, name)
    found = getattr(getattr(torch.ops.aten, name), variant[0])
    if not isinstance(found, torch._ops.OpOverload):
        raise TypeError(op)
    return found
