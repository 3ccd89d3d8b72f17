"""Take a PyTorch module apart into pieces that run one after the other, at the places where a single tensor crosses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

GroupOf = Callable[[str], str | None]  # full name of a parameter or buffer -> its group
FIRST = "stem"  # the group of what comes before the first that has a name
ROUNDING = 1e-4  # largest relative difference between a module and its pieces together


@dataclass
class _Piece:
    """Neighbouring operations with the one value that leaves them."""

    nodes: list[fx.Node] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)  # whose weights they hold

    def join(self, other: _Piece) -> None:
        self.nodes += other.nodes
        self.groups += other.groups


def grouped(body: nn.Module, group_of: GroupOf) -> dict[str, str]:
    """The group of every parameter and buffer, by full name; one without a name joins the one before it."""
    found: dict[str, str] = {}
    group = FIRST
    for name in body.state_dict(keep_vars=True):
        group = _speakable(group_of(name) or group)
        found[name] = group
    for name, _ in body.named_buffers():  # those that are not kept with the weights belong to their neighbours
        near = [own for known, own in found.items() if known.rpartition(".")[0] == name.rpartition(".")[0]]
        found.setdefault(name, _speakable(group_of(name) or (near[0] if near else group)))
    return found


def _speakable(name: str) -> str:
    """A name that can be a module's in a dictionary of modules."""
    plain = name.replace(".", "_")
    return f"{plain}_" if hasattr(nn.ModuleDict, plain) else plain


def take_apart(body: nn.Module, groups: Mapping[str, str], blank: Tensor) -> dict[str, nn.Module] | None:
    """A module for each group, in turn, which together do what `body` does; None where that cannot be done.

    The modules of `body` that belong to one group alone stay as they are. Groups between which several tensors cross
    become one. `blank` `[n 3 h w]` is run through both to compare them.
    """
    try:
        graph = _Tracer(groups).trace(body)
        pieces = _joined(_pieces(body, graph, groups, blank), list(dict.fromkeys(groups.values())))
        if len(pieces) < 2:
            return None
        parts = {piece.groups[0]: module for piece, module in zip(pieces, _modules(body, pieces), strict=True)}
        return parts if len(parts) == len(pieces) and _same(body, parts, blank) else None
    # What tracing cannot follow (a loop over a shape, a choice by a value) surfaces as nearly every built-in error.
    except Exception:  # noqa: BLE001
        return None


class _Tracer(fx.Tracer):
    """Looks into those modules alone that hold several groups."""

    def __init__(self, groups: Mapping[str, str]) -> None:
        super().__init__(autowrap_functions=())
        self.groups = groups

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        prefix = f"{module_qualified_name}."
        own = {group for name, group in self.groups.items() if name.startswith(prefix)}
        return len(own) < 2 or (m.__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential))


def _pieces(body: nn.Module, graph: fx.Graph, groups: Mapping[str, str], blank: Tensor) -> list[_Piece]:
    """The smallest pieces between places where one batch of numbers crosses and nothing else."""
    values = _Values(fx.GraphModule(body, graph))
    with torch.no_grad():
        values.run(blank)
    order = _late_constants(graph)
    last_use = {
        source: place for place, node in enumerate(order) for source in node.all_input_nodes
    }  # the last one stays
    found = [_Piece()]
    alive: set[fx.Node] = set()
    for place, node in enumerate(order):
        if node.op == "output":
            break
        if node.op != "placeholder":
            found[-1].nodes.append(node)
            found[-1].groups += _groups_of(node, groups)
        alive = {other for other in (*alive, node) if last_use.get(other, -1) > place}
        if node.op != "placeholder" and alive == {node} and values.batches.get(node) == len(blank):
            found.append(_Piece())
    return [piece for piece in found if piece.nodes]


class _Values(fx.Interpreter):
    """Runs a graph and notes how long the batch is in each value that is a batch of numbers."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.batches: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
            self.batches[n] = len(value)
        return value


def _late_constants(graph: fx.Graph) -> list[fx.Node]:
    """The nodes in their order, weights that are taken by name only where they are first used."""
    order: list[fx.Node] = []
    for node in graph.nodes:
        if node.op != "get_attr":
            order += [source for source in node.all_input_nodes if source.op == "get_attr" and source not in order]
            order.append(node)
    return order


def _groups_of(node: fx.Node, groups: Mapping[str, str]) -> list[str]:
    if node.op not in ("call_module", "get_attr"):
        return []
    target = str(node.target)
    return [group for name, group in groups.items() if name == target or name.startswith(f"{target}.")]


def _joined(pieces: Sequence[_Piece], order: Sequence[str]) -> list[_Piece]:
    """Pieces of one group together, and with them whatever lies between; those without weights join the one before."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, piece in enumerate(pieces):
        for group in piece.groups:
            first.setdefault(group, place)
            last[group] = place
    found: list[_Piece] = []
    end = -1
    for place, piece in enumerate(pieces):
        opens = any(first[group] == place for group in piece.groups)
        if found and (place <= end or not opens or not found[-1].groups):
            found[-1].join(piece)
        else:
            found.append(_Piece(list(piece.nodes), list(piece.groups)))
        end = max([end, *(last[group] for group in piece.groups)])
    for piece in found:
        piece.groups.sort(key=order.index)
    return found


def _modules(body: nn.Module, pieces: Sequence[_Piece]) -> list[nn.Module]:
    modules: list[nn.Module] = []
    crossing: fx.Node | None = None
    for piece in pieces:
        graph = fx.Graph()
        here: dict[fx.Node, fx.Node] = {}
        source = graph.placeholder("inputs")
        for node in piece.nodes:
            for outside in node.all_input_nodes:
                # One value alone comes in: the picture, or what crossed from the piece before.
                if outside not in here and (outside is crossing or outside.op == "placeholder"):
                    here[outside] = source
            here[node] = graph.node_copy(node, lambda outside: here[outside])  # noqa: B023  called at once
        crossing = piece.nodes[-1]
        graph.output(here[crossing])
        graph.lint()
        modules.append(fx.GraphModule(body, graph, class_name=type(body).__name__).eval())
    return modules


def _same(body: nn.Module, parts: Mapping[str, nn.Module], blank: Tensor) -> bool:
    """Whether the parts give what the whole gives, also for a batch of another length.

    Both get weights drawn for the comparison: a network that is built for a run's weights has none yet, and must come
    apart as it did with its own.
    """
    generator = torch.Generator().manual_seed(0)  # of its own: whoever builds a network keeps his random state
    drawn = {name: _drawn(value, generator) for name, value in _tensors(body)}
    for n in (len(blank), len(blank) + 1):
        pictures = torch.randn((n, *blank.shape[1:]), generator=generator)
        with torch.no_grad():
            whole, value = functional_call(body, drawn, (pictures,)), pictures
            for part in parts.values():
                value = functional_call(part, {name: drawn[name] for name, _ in _tensors(part)}, (value,))
        if value.shape != whole.shape or not torch.allclose(value, whole, rtol=ROUNDING, atol=ROUNDING):
            return False
    return True


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers that let a signal through: kernels by their width, scales and variances around 1; whole numbers stay."""
    if not like.is_floating_point():
        return like
    if like.ndim < 2:
        drawn = torch.rand(like.shape, generator=generator) + 0.5
    else:
        drawn = torch.randn(like.shape, generator=generator) / max(1, like[0].numel()) ** 0.5
    return drawn.to(like)


def flops_of_groups(body: nn.Module, inputs: Tensor, groups: Mapping[str, str]) -> dict[str, int]:
    """The FLOPs of one pass by group, for a module that stays whole; what belongs to no group counts to the first."""
    with FlopCounterMode(display=False) as counter:
        body(inputs)
    counts = counter.get_flop_counts()
    counted = dict.fromkeys(groups.values(), 0)
    above: list[str] = []
    for name, _ in body.named_modules():
        own = {group for known, group in groups.items() if known.startswith(f"{name}.")}
        if name and len(own) == 1 and not name.startswith(tuple(above)):
            above.append(f"{name}.")
            counted[own.pop()] += sum(counts.get(f"{type(body).__name__}.{name}", {}).values())
    counted[next(iter(counted))] += counter.get_total_flops() - sum(counted.values())
    return counted
