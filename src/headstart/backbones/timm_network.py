"""Build a network of timm without its classifier: what gives the feature map, what pools it, and their groups."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, group_parameters
from torch import Tensor, nn

from headstart.backbones import checkpoint
from headstart.backbones.neighbours import few
from headstart.backbones.torch_blank import first_values
from headstart.errors import BadBackbone

STEM = "stem"
# What timm's constructors, loaders and networks raise for sizes and weights that do not fit.
UNFIT = (RuntimeError, ValueError, AssertionError, TypeError, KeyError, IndexError, AttributeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A network in two halves; everything keeps its name in timm.

    `body` leads from normalised pixels `[n 3 h w]` to a map `[n c h w]`, tokens `[n t d]` or features `[n d]`, and
    `pool` from there to what timm's classifier takes; None where the body does all of it.
    """

    body: nn.Module
    pool: nn.Module | None
    groups: Mapping[str, str]  # parameter or buffer of the body -> its group


def model(name: str, cfg: PretrainedCfg, *, size: int, drawn: bool, **more: Any) -> nn.Module:
    """The network as timm makes it, without its classifier, for pictures of this size.

    Raises:
        UNFIT: the size is not one of its.
    """
    fixed: dict[str, Any] = {"img_size": size} if cfg.fixed_input_size else {}
    with first_values(drawn=drawn), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = timm.create_model(name, **{"num_classes": 0, **fixed, **more})
    return made.eval()


def fits(name: str, cfg: PretrainedCfg, size: int) -> str | None:
    """Why the network does not take pictures of this size, None if it does. Nothing is computed."""
    try:
        shape_of(model(name, cfg, size=size, drawn=False).to("meta"), size)
    except UNFIT as problem:
        return (str(problem) or type(problem).__name__).partition("\n")[0]
    return None


def shape_of(made: nn.Module, size: int) -> tuple[int, ...]:
    """The shape of the features of one picture of this size, of a network on the device `meta`."""
    with torch.no_grad():
        return tuple(made(torch.zeros(1, 3, size, size, device="meta")).shape)


# ---- weights


def filled(name: str, cfg: PretrainedCfg, path: Path, *, size: int) -> nn.Module:
    """The network with the weights of this file: under timm's names, or under others that timm knows to convert.

    Raises:
        BadBackbone: they do not fit.
    """
    tensors = checkpoint.read(path)
    what = f"weights {str(path)!r} of timm/{name}"
    made = model(name, cfg, size=size, drawn=False)
    tops = _tops(cfg)
    if not set(made.state_dict()) >= {each for each in tensors if not each.startswith(tops)}:
        tops = (*tops, *_dropped(name, cfg, made, size))
    try:
        checkpoint.load_into(made, tensors, what=what, dropped=tops)
    except BadBackbone as refusal:
        converted = _converted(name, cfg, tensors, size, tops)
        if converted is None:
            raise refusal
        return converted
    return made


def _tops(cfg: PretrainedCfg) -> tuple[str, ...]:
    classifiers = (cfg.classifier,) if isinstance(cfg.classifier, str) else tuple(cfg.classifier or ())
    return (*(f"{each}." for each in classifiers), "AuxLogits.")


def _dropped(name: str, cfg: PretrainedCfg, made: nn.Module, size: int) -> set[str]:
    """Weights that timm's network with a classifier has and the one without, `made`, has not.

    timm tells the last layer of a classifier alone; a batch norm before it goes with it.
    """
    return set(model(name, cfg, size=size, drawn=False, num_classes=1).state_dict()) - set(made.state_dict())


def _converted(
    name: str, cfg: PretrainedCfg, tensors: Mapping[str, Tensor], size: int, tops: tuple[str, ...]
) -> nn.Module | None:
    """The network after timm's own loading of these tensors, if all of it was filled and nothing but a top left over.

    That knows the names of the networks' makers, and brings tables of positions to another size.
    """
    overlay = {"state_dict": dict(tensors), "custom_load": False}
    try:
        with _complaints() as found:
            made = model(name, cfg, size=size, drawn=False, pretrained=True, pretrained_cfg_overlay=overlay)
    except UNFIT:
        return None
    left = [each for each in found if not each.startswith(tops) and not each.endswith("num_batches_tracked")]
    return None if left else made


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """The names of weights that timm misses or has no place for, which it tells its log and nobody else."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said = re.match(r"(?:Missing|Unexpected) keys \((.*?)\)", record.getMessage())
            if said:
                found.extend(said.group(1).split(", "))

    logger, listener = logging.getLogger("timm.models._builder"), Listener()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate


# ---- the map and the features


class _Half(nn.Module):
    """Part of one of timm's networks, which has these methods."""

    forward_features: Any
    forward_head: Any


class _Body(_Half):
    def forward(self, pixels: Tensor) -> Tensor:
        maps: Tensor = self.forward_features(pixels)
        return maps


class _ChannelsFirst(_Half):
    """For networks whose maps are `[n h w c]`."""

    def forward(self, pixels: Tensor) -> Tensor:
        maps: Tensor = self.forward_features(pixels).permute(0, 3, 1, 2)
        return maps


class _Pool(_Half):
    def forward(self, maps: Tensor) -> Tensor:
        features: Tensor = self.forward_head(maps, pre_logits=True)
        return features


class _ChannelsLastPool(_Half):
    def forward(self, maps: Tensor) -> Tensor:
        features: Tensor = self.forward_head(maps.permute(0, 2, 3, 1), pre_logits=True)
        return features


class _Whole(_Half):
    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.forward_head(self.forward_features(pixels), pre_logits=True)
        return features


def halves(made: nn.Module, *, size: int) -> Parts:
    """The network in two: up to its map, and from there to its features."""
    body, pool = _halves(made, size)
    return Parts(body=body, pool=pool, groups=_groups(made, body))


def _halves(made: nn.Module, size: int) -> tuple[nn.Module, nn.Module | None]:
    pixels = torch.zeros(2, 3, size, size, device="meta")
    outline = _outline(made)
    below, maps = _used(outline, "forward_features", pixels)
    if isinstance(maps, Tensor):  # and not several side by side
        above, _ = _used(outline, "forward_head", maps, pre_logits=True)
        last = maps.ndim == 4 and getattr(made, "output_fmt", "NCHW") == "NHWC"
        if not below & above and _separate(outline, above, last, pixels):
            return _two(made, above, last)
    return _as(made, _Whole, set(dict(made.named_children()))), None


def _two(made: nn.Module, above: set[str], last: bool) -> tuple[nn.Module, nn.Module]:
    """Body and pool; the layers that `above` names are the pool's. `last`: the map has its channels last."""
    bare = {name for name, child in made.named_children() if not child.state_dict() and not [*child.buffers()]}
    rest = {name for name, _ in made.named_children()} - above
    kinds = (_ChannelsFirst, _ChannelsLastPool) if last else (_Body, _Pool)
    return _as(made, kinds[0], rest), _as(made, kinds[1], above | bare, weights=False)


def _separate(outline: nn.Module, above: set[str], last: bool, pixels: Tensor) -> bool:
    """Whether each half finds all that it needs."""
    body, pool = _two(outline, above, last)
    try:
        with torch.no_grad():
            pool(body(pixels))
    except UNFIT:
        return False
    return True


def _outline(made: nn.Module) -> nn.Module:
    """A copy in which nothing is computed and whose weights take no room."""
    empty: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in made.parameters()}
    empty |= {id(buffer): buffer.to("meta") for buffer in made.buffers()}
    return copy.deepcopy(made, empty).to("meta")


def _used(outline: nn.Module, method: str, *inputs: Tensor, **settings: Any) -> tuple[set[str], Any]:
    """The direct children that this method runs or looks into, and what it gives."""
    found: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: found.add(name.partition(".")[0]))
        for name, module in outline.named_modules()
        if name
    ]
    with torch.no_grad():
        outputs = getattr(outline, method)(*inputs, **settings)
    for hook in hooks:
        hook.remove()
    return found, outputs


def _as(made: nn.Module, role: type[nn.Module], children: set[str], *, weights: bool = True) -> nn.Module:
    """The same network, sharing its layers, with these children alone and the `forward` of `role`."""
    part = copy.copy(made)
    part.__class__ = type(type(made).__name__, (role, type(made)), {})
    part.__dict__["_modules"] = {name: child for name, child in made._modules.items() if name in children}
    if not weights:
        part.__dict__["_parameters"], part.__dict__["_buffers"] = {}, {}
    return part


# ---- groups


def _groups(made: nn.Module, body: nn.Module) -> dict[str, str]:
    """The group of each weight of the body, from timm's own matcher."""
    names = [name for name, _ in (*body.named_parameters(), *body.named_buffers())]
    nowhere = "\0"  # finds out which number weights get that belong to no layer
    group: Any = group_parameters  # of a module, it says
    number = group(_Names([*names, nowhere]), _matcher(made), reverse=True)
    layers = sorted({number[name] for name in names} - {number[nowhere]})
    if not layers:
        return dict.fromkeys(names, STEM)
    called: dict[int, str] = {}
    for layer in layers:
        first = next(name for name in names if number[name] == layer)
        title = STEM if layer == layers[0] else _title(first)
        called[layer] = title if title not in called.values() else f"{title}_{layer}"
    together = few(list(dict.fromkeys(called.values())))
    groups, before = {}, STEM
    for name in names:
        # What belongs to no layer: a parameter of the network itself stands first, a last norm after the last layer.
        before = called.get(number[name], STEM if before == STEM else called[layers[-1]])
        groups[name] = together[before]
    return groups


@dataclass(frozen=True, slots=True)
class _Names:
    """Stands for a module before timm's function that groups the names of its parameters: buffers have groups too."""

    names: list[str]

    def named_parameters(self) -> Iterator[tuple[str, None]]:
        return ((name, None) for name in self.names)


def _matcher(made: Any) -> Any:
    if not hasattr(made, "group_matcher"):
        return {}
    try:
        return made.group_matcher(coarse=True)
    except UNFIT:  # a few know their layers alone
        return made.group_matcher(coarse=False)


def _title(name: str) -> str:
    """`stages_0` for `stages.0.blocks.1.weight`, `layer1` for `layer1.0.conv1.weight`."""
    parts = name.split(".")[:-1] or [name]
    place = next((place for place, part in enumerate(parts) if re.search(r"\d", part)), 0)
    return "_".join(parts[max(0, place - 1) : place + 1]) if parts[place].isdigit() else parts[place]
