"""Get any classification network of torchvision: `torchvision/resnet50`, or `torchvision/resnet50.IMAGENET1K_V1`.

A name alone takes torchvision's default weights, a name with a set of weights after a dot takes that set. They are read
from `TORCH_HOME/hub/checkpoints`, as torchvision does, or downloaded there once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones import downloads
from headstart.backbones.backbone import Backbone, Entry, Wanted, only_torch
from headstart.backbones.torchvision_members import Member, Weights, members
from headstart.errors import BadBackbone, BadSetting
from headstart.modalities.spec import InputSpec
from headstart.registry import closest

if TYPE_CHECKING:
    from torch import Tensor

    from headstart.networks.network import Network

INSTALL = 'pip install "headstart[torchvision]"'
# Top layers, by how their weights' names begin: they are not used, and a fine-tuned file may have them of any size.
_TOPS = ("fc.", "classifier.", "heads.", "head.", "aux1.", "aux2.", "AuxLogits.")


def catalogue() -> tuple[Entry, ...]:
    """Every network of torchvision's with its default weights, the best general choice first."""
    return tuple(_entry(member) for member in members().values())


def _entry(member: Member) -> Entry:
    first, *others = member.weights
    available = (first.published.folder / first.file).is_file()
    also = f"; also {', '.join(weights.name for weights in others)}" if others else ""
    return Entry(
        name=member.name,
        size=first.size,
        width=member.width,
        parameters=first.parameters,
        licence=first.licence,
        available=available,
        note=f"{first.name}{also}{'' if available else '; is downloaded'}",
    )


def load(name: str, wanted: Wanted) -> Backbone:
    """The network of this name, in any case, its weights checked against the hash in their file's name.

    `wanted.weights` takes any file of this architecture's weights, with a top or without, unchecked.

    Raises:
        BadBackbone: the name is unknown, torchvision is missing, or the weights cannot be had.
        BadSetting: the size, a framework or a cut does not fit.
        DiskFull: there is no room for the download.
    """
    member, weights = _named(name)
    full = f"torchvision/{name if '.' in name else member.name}"
    only_torch(full, wanted)
    spec = member.spec(weights, wanted.size)
    _check_size(member, spec.size)
    _torchvision(full)
    path: Path | None
    if wanted.blank:
        path, weights_hash = None, f"none/{full}/0"
    elif wanted.weights is not None:
        path, weights_hash = wanted.weights, downloads.sha256(wanted.weights)
    else:
        _, path, weights_hash = downloads.obtain([weights.published], on_progress=wanted.on_progress)
    return Backbone(
        name=full,
        spec=spec,
        weights_hash=weights_hash,
        licence=weights.licence,
        framework="torch",
        build=partial(_build, member.name, spec, path, drawn=wanted.blank),
        about={"weights": weights.name, "weights_hash": weights_hash},
    )


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The network of a run without values, for the run's own weights to be put in.

    Raises:
        BadBackbone: this version does not know the name, or torchvision is missing.
    """
    member, weights = _named(f"{name.partition('.')[0]}.{about['weights']}")
    _torchvision(f"torchvision/{name}")
    spec = member.spec(weights, size)
    return Backbone(
        name=f"torchvision/{name}",
        spec=spec,
        weights_hash=str(about["weights_hash"]),
        licence=weights.licence,
        framework="torch",
        build=partial(_build, member.name, spec, None),
        about=about,
    )


def _named(name: str) -> tuple[Member, Weights]:
    own, _, chosen = name.partition(".")
    member = members().get(own.lower())
    if member is None:
        if not name:
            raise BadBackbone(
                "no network is named after torchvision/", fix="see their names with: headstart backbones torchvision"
            )
        hint = closest(f"torchvision/{own.lower()}", [f"torchvision/{known}" for known in members()])
        raise BadBackbone(
            f"backbone 'torchvision/{name}' is not known",
            fix=hint or "see their names with: headstart backbones torchvision",
        )
    weights = member.named(chosen)
    if weights is None:
        names = ", ".join(f"torchvision/{member.name}.{each.name}" for each in member.weights)
        raise BadBackbone(f"torchvision/{member.name} has no weights {chosen!r}", fix=f"use one of {names}")
    return member, weights


def _check_size(member: Member, size: int) -> None:
    """Most networks take any size; a few have it in their weights.

    Raises:
        BadSetting: with sizes that fit.
    """
    patch = re.match(r"vit_\w_(\d+)|maxvit", member.name)
    step = int(patch.group(1) or 224) if patch else 1  # MaxViT: five halvings down to windows of 7 x 7
    smallest = {"inception_v3": 75, "alexnet": 63}.get(member.name, step)
    if size < smallest:
        raise BadSetting(
            f"size {size} is too small for torchvision/{member.name}",
            fix=f"use {smallest} pixels or more; it was trained at {member.weights[0].size}",
        )
    if size % step:
        below, above = size // step * step, -(-size // step) * step
        raise BadSetting(
            f"size {size} does not fit torchvision/{member.name}, which sees pictures in squares of {step} pixels",
            fix=f"use a multiple of {step}: {below} or {above}",
        )


def _torchvision(what: str) -> None:
    if find_spec("torchvision") is None:
        raise BadBackbone(f"backbone {what!r} needs torchvision, which is not installed", fix=INSTALL)
    try:
        import torchvision.models  # noqa: F401
    except Exception as problem:  # a torchvision for another PyTorch fails in many ways
        raise BadBackbone(
            f"torchvision cannot be imported: {str(problem).partition(chr(10))[0]}",
            fix="install torch and torchvision of the same release: pip install --force-reinstall torch torchvision",
        ) from problem


def _build(name: str, spec: InputSpec, weights: Path | None, *, drawn: bool = False) -> Network:
    from headstart.backbones import checkpoint
    from headstart.backbones.torchvision_network import build
    from headstart.networks.torch import TorchNetwork

    parts = build(name, size=spec.size, drawn=drawn)
    if weights is not None:
        own = parts.whole.state_dict()
        tensors = {_today(key): tensor for key, tensor in checkpoint.read(weights).items()}
        checkpoint.load_into(
            parts.whole,
            _resized(tensors, own),
            what=f"weights {str(weights)!r} of torchvision/{name}",
            dropped=_TOPS,
        )
    return TorchNetwork.of(parts.body, spec=spec, pool=parts.pool, group_of=parts.groups.get)


def _today(name: str) -> str:
    """What torchvision calls these weights now: its files of DenseNet and ViT have older names."""
    name = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name)
    return name.replace("mlp.linear_1.", "mlp.0.").replace("mlp.linear_2.", "mlp.3.")


def _resized(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights, a transformer's table of positions brought to another size of pictures."""
    name = next((name for name in tensors if name.endswith("encoder.pos_embedding")), None)
    if name is None or "encoder.pos_embedding" not in own:
        return tensors
    given, place = tensors[name], own["encoder.pos_embedding"]
    if given.ndim != 3 or given.shape[1] == place.shape[1] or given.shape[2] != place.shape[2]:
        return tensors
    return tensors | {name: _positions(given, place.shape[1])}


def _positions(given: Tensor, count: int) -> Tensor:
    """As torchvision's own `interpolate_embeddings` does it; the first position is the class token's."""
    from torch.nn.functional import interpolate

    before, after = round((given.shape[1] - 1) ** 0.5), round((count - 1) ** 0.5)
    grid = given[:, 1:].permute(0, 2, 1).reshape(1, -1, before, before)
    grid = interpolate(grid, size=after, mode="bicubic", align_corners=True)
    import torch

    return torch.cat([given[:, :1], grid.flatten(2).permute(0, 2, 1)], dim=1)
