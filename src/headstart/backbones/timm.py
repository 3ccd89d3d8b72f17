"""Get any network of timm: `timm/resnet50` with timm's default weights for it, `timm/resnet50.a1_in1k` with these.

Weights are read from the shared cache of the Hugging Face Hub, as timm does, or downloaded there once.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from headstart.backbones import downloads, timm_weights
from headstart.backbones import huggingface_files as hub
from headstart.backbones.backbone import Backbone, Entry, Wanted, only_torch
from headstart.backbones.timm_members import Member, members
from headstart.errors import BadBackbone, BadSetting, first_five
from headstart.modalities.spec import Fit, InputSpec
from headstart.registry import closest

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

    from headstart.networks.network import Network

SEE = "see their names with: headstart backbones timm"
FITS: Mapping[str, Fit] = {"center": "crop", "squash": "squash", "border": "pad"}
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")


def catalogue() -> tuple[Entry, ...]:
    """Every network that timm publishes weights for, the best general choice first."""
    there = _cached()
    return tuple(_entry(member, there) for member in members())


def _cached() -> frozenset[str]:
    """What lies in the caches; asked once, as the networks are many."""
    return frozenset(
        name for place in (hub.cache(), downloads.torch_folder()) if place.is_dir() for name in os.listdir(place)
    )


def _entry(member: Member, there: frozenset[str]) -> Entry:
    if member.file:
        available = member.file in there
    else:
        repository = f"timm/{member.name}"
        available = f"models--timm--{member.name}" in there and timm_weights.in_hub(repository) is not None
    return Entry(
        name=member.name,
        size=member.size,
        width=member.width,
        parameters=member.parameters,
        licence=member.licence,
        available=available,
        note="in the cache" if available else "is downloaded",
    )


def load(name: str, wanted: Wanted) -> Backbone:
    """The network of this name. `wanted.weights` takes a file of this architecture's weights, with a top or without.

    Raises:
        BadBackbone: the name is unknown, timm is missing, or the weights cannot be had or are damaged.
        BadSetting: the size, a framework or a cut does not fit.
        DiskFull: there is no room for the download.
    """
    only_torch(f"timm/{name}", wanted)
    own, cfg = _named(name)
    spec = _input_spec(own, cfg, wanted.size)
    _check_size(own, cfg, spec.size)
    full = f"timm/{own}"
    path: Path | None
    if wanted.blank:
        path, weights_hash = None, f"none/{full}/0"
    elif wanted.weights is not None:
        path, weights_hash = wanted.weights, downloads.sha256(wanted.weights)
    else:
        path, weights_hash = timm_weights.obtain(own, cfg, wanted.on_progress)
    return Backbone(
        name=full,
        spec=spec,
        weights_hash=weights_hash,
        licence=cfg.license or "unknown",
        framework="torch",
        build=partial(_build, own, cfg, spec, path, drawn=wanted.blank),
        about={"spec": asdict(spec), "weights_hash": weights_hash},
    )


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The network of a run without values, for the run's own weights to be put in.

    Raises:
        BadBackbone: timm is missing, or does not know the name any more.
    """
    own, cfg = _named(name)
    kept = dict(about["spec"])
    spec = InputSpec(**kept | {"size": size, "mean": tuple(kept["mean"]), "std": tuple(kept["std"])})
    return Backbone(
        name=f"timm/{own}",
        spec=spec,
        weights_hash=str(about["weights_hash"]),
        licence=cfg.license or "unknown",
        framework="torch",
        build=partial(_build, own, cfg, spec, None),
        about=about,
    )


def _build(name: str, cfg: PretrainedCfg, spec: InputSpec, weights: Path | None, *, drawn: bool = False) -> Network:
    from headstart.backbones import timm_network
    from headstart.networks.torch import TorchNetwork

    if weights is None:
        made = timm_network.model(name, cfg, size=spec.size, drawn=drawn)
    else:
        made = timm_network.filled(name, cfg, weights, size=spec.size)
    parts = timm_network.halves(made, size=spec.size)
    return TorchNetwork.of(parts.body, spec=spec, pool=parts.pool, group_of=parts.groups.get)


# ---- names


def _named(name: str) -> tuple[str, PretrainedCfg]:
    """The name in full, with the tag of its weights, and what timm says of them."""
    if not name:
        raise BadBackbone("no network is named after timm/", fix=SEE)
    timm = _timm(f"timm/{name}")
    own = _current(name, timm)
    architecture, _, tag = own.partition(".")
    if not timm.is_model(architecture):
        known = [f"timm/{each}" for each in timm.list_models()]
        raise BadBackbone(f"backbone 'timm/{name}' is not known", fix=closest(f"timm/{name}", known) or SEE)
    try:
        cfg = timm.get_pretrained_cfg(own)
    except RuntimeError as problem:
        tags = [f"timm/{each}" for each in timm.list_pretrained(f"{architecture}.*")]
        raise BadBackbone(
            f"timm/{architecture} has no weights {tag!r}",
            fix=closest(f"timm/{name}", tags) or f"use one of {first_five(tags)}",
        ) from problem
    if cfg is None:
        cfg = timm.models.PretrainedCfg()
    return f"{architecture}.{cfg.tag}" if cfg.tag else architecture, cfg


def _current(name: str, timm: Any) -> str:
    """The name that timm uses today: it knows its former ones, `xception` for instance."""
    renamed = timm.models.get_deprecated_models()
    return str(renamed.get(name) or name)


def _timm(what: str) -> Any:
    for library in ("timm", "torchvision"):
        if find_spec(library) is None:
            raise BadBackbone(f"backbone {what!r} needs {library}, which is not installed", fix=timm_weights.INSTALL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own former modules
            import timm
    except Exception as problem:  # a torchvision for another PyTorch fails in many ways
        raise BadBackbone(
            f"timm cannot be imported: {str(problem).partition(chr(10))[0]}",
            fix="install torch and torchvision of the same release: pip install --force-reinstall torch torchvision",
        ) from problem
    return timm


# ---- pictures


def _input_spec(name: str, cfg: PretrainedCfg, size: int | None) -> InputSpec:
    channels, height, width = cfg.input_size
    if channels != 3:
        raise BadBackbone(
            f"timm/{name} takes pictures of {channels} channels, and photos have 3 colours", fix="take another backbone"
        )
    if height != width and size is None:
        raise BadSetting(
            f"timm/{name} takes pictures of {height} x {width} pixels, which are not square",
            fix=f"say which square: --size {min(height, width)}",
        )
    if cfg.crop_mode not in FITS or cfg.interpolation not in (*INTERPOLATIONS, "random"):
        raise BadBackbone(
            f"timm/{name} takes pictures by {cfg.crop_mode} and {cfg.interpolation}, which are not known here",
            fix="take another backbone",
        )
    own = min(height, width)
    return InputSpec(
        size=size or own,
        crop=own / math.floor(own / cfg.crop_pct),  # whole pixels, as timm rounds them
        interpolation=cast(Any, cfg.interpolation if cfg.interpolation in INTERPOLATIONS else "bicubic"),
        mean=_times_255(cfg.mean),
        std=_times_255(cfg.std),
        fit=FITS[cfg.crop_mode],
    )


def _times_255(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return red * 255, green * 255, blue * 255


def _check_size(name: str, cfg: PretrainedCfg, size: int) -> None:
    """Find out by building the network whether it takes this size.

    Raises:
        BadSetting: with sizes that fit.
    """
    own = cfg.input_size[1]
    if size == own == cfg.input_size[2]:
        return
    from headstart.backbones.timm_network import fits

    reason = fits(name, cfg, size)
    if reason is None:
        return
    near = (size // 32 * 32, -(-size // 32) * 32)
    possible = [str(each) for each in near if each and fits(name, cfg, each) is None]
    also = f"{', '.join(possible)}, or " if possible else ""
    raise BadSetting(
        f"size {size} does not fit timm/{name}: {reason}", fix=f"use {also}its own: {own}, which is the default"
    )
