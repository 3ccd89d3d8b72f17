"""Turn a user's own PyTorch network into a backbone: weights with a factory that makes the network, or a program.

Either way the network becomes a list of operations on tensors (`exported.py`): what is trained is what the run keeps,
so that a finished run answers without the user's code, which is asked for once, on the command line, and kept nowhere.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones import checkpoint
from headstart.backbones.backbone import Backbone, Wanted
from headstart.backbones.exported import Program
from headstart.backbones.exported_top import place, topless
from headstart.backbones.torch_file_input import Said, channels_of, input_spec, of_metadata, of_module
from headstart.errors import BadBackbone, BadSetting, HeadstartError
from headstart.modalities.spec import InputSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from headstart.backbones.exported_file import Exported
    from headstart.networks.network import Network

PROGRAM = ".pt2"
SUFFIXES = (PROGRAM, *checkpoint.SUFFIXES)
LICENCE = "your own"
DAMAGED = "the run is damaged: train anew"
ROUNDING = 1e-3  # largest difference between a network and its program, as a share of the largest output


def load(name: str, wanted: Wanted) -> Backbone:
    """The network of this file, or of the factory alone where `name` is empty or the factory's own.

    Raises:
        BadBackbone: the file is damaged, of another kind or of another network, the factory fails, the network cannot
            be written down, or its top cannot be cut.
        BadSetting: the size or another wish does not fit.
    """
    name = "" if name == wanted.factory else name
    what = f"backbone file {name!r}" if name else f"the network of factory {wanted.factory!r}"
    _check(name, wanted, what)
    if name and _is_program(Path(name).expanduser()):
        exported, said = _opened(Path(name).expanduser(), wanted, what)
    else:
        exported, said = _made(name, wanted, what)
    return _backbone(f"file/{name or wanted.factory}", exported, said, wanted, what)


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The network of a run that began with this file, for the run's weights: no file and no code is needed.

    Raises:
        BadBackbone: the run does not say what its network is made of, or says what is not known to be harmless.
    """
    what = f"backbone 'file/{name}' of this run"
    try:
        program = Program.from_json(about["program"])
        program.check(what)
        spec = InputSpec(**{key: _tuple(value) for key, value in about["spec"].items()})
        weights_hash, licence = str(about["weights_hash"]), str(about["licence"])
    except HeadstartError:
        raise
    except Exception as problem:  # from a file in which anything may stand where anything else is expected
        raise BadBackbone(f"{what} is not described", fix=DAMAGED) from problem
    return Backbone(
        name=f"file/{name}",
        spec=spec,
        weights_hash=weights_hash,
        licence=licence,
        framework="torch",
        build=partial(_restored, program, spec, what),
        about=about,
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check(name: str, wanted: Wanted, what: str) -> None:
    if wanted.framework not in (None, "torch"):
        raise BadSetting(f"{what} runs on PyTorch, not on {wanted.framework}", fix="leave the framework out")
    if wanted.blank and name:
        raise BadSetting(
            f"{what} has weights, and weights none are wanted",
            fix="leave the file out: --backbone file --factory FILE.py:FUNCTION --weights none",
        )
    if name and wanted.weights is not None:
        raise BadSetting(
            f"{what} has weights, and so has {str(wanted.weights)!r}",
            fix=f"name one of them: --backbone file/{wanted.weights}",
        )


def _is_program(path: Path) -> bool:
    """Whether it holds a program, whatever its name ends in: people call them `.pt` too."""
    if path.suffix.lower() == PROGRAM:
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(inside.endswith("models/model.json") for inside in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _opened(path: Path, wanted: Wanted, what: str) -> tuple[Exported, Said]:
    from headstart.backbones.exported_file import read

    if wanted.factory is not None:
        raise BadSetting(f"{what} is a whole program, which needs no factory", fix="leave the factory out")
    exported = read(path, what)
    height, width = exported.program.shape[2:]
    if height != width:
        raise BadBackbone(f"{what} takes pictures of {height} x {width}", fix="export it for squares")
    if wanted.size is not None and height not in (None, wanted.size):
        raise BadSetting(
            f"{what} was exported for pictures of {height} pixels, not {wanted.size}",
            fix="leave the size out, or export it again for that size",
        )
    return exported, of_metadata(exported.says, what) | ({"size": height} if height is not None else {})


def _made(name: str, wanted: Wanted, what: str) -> tuple[Exported, Said]:
    """What the factory makes, with the weights of the file, as a program."""
    from headstart.backbones import torch_file_factory
    from headstart.backbones.exported_file import export

    path = Path(name).expanduser() if name else wanted.weights
    tensors = checkpoint.read(path) if path is not None else None
    if wanted.factory is None:
        raise BadBackbone(
            f"{what} holds weights without a network" if name else "neither a backbone file nor a factory is named",
            fix="name the Python function that makes the network: --factory FILE.py:FUNCTION; or give a program that "
            "torch.export.save wrote (.pt2)",
        )
    written = of_metadata(checkpoint.metadata(path), what) if path is not None else {}
    size = wanted.size or written.get("size")
    weights = f"weights {str(path)!r}"
    module, made_for = torch_file_factory.made(wanted.factory, tensors=tensors, size=size, weights=weights)
    said = {**of_module(module, what), **written}
    import torch

    side = wanted.size or said.get("size") or made_for or input_spec({}, None).size
    pictures = torch.randn(2, channels_of(module), side, side, generator=torch.Generator().manual_seed(0))
    exported = export(module, pictures, what)
    _compare(module, exported, pictures, what)
    return exported, {**said, "size": side}


def _compare(module: nn.Module, exported: Exported, pictures: torch.Tensor, what: str) -> None:
    """Refuse a program that gives other numbers than its network, for any number of pictures, channels last."""
    import torch

    from headstart.backbones.exported_module import folded

    if not exported.program.result:
        return
    program, tensors = folded(exported.program, exported.tensors)
    rebuilt = _filled(program, tensors)
    with torch.no_grad():
        for several in (pictures, torch.cat([pictures, pictures[:1]])):
            expected, given = module(several), rebuilt(several.to(memory_format=torch.channels_last))
            expected = next(iter(expected.values())) if isinstance(expected, Mapping) else expected
            expected = expected[0] if isinstance(expected, tuple | list) else expected
            allowed = ROUNDING * max(1.0, float(expected.abs().max()))
            if expected.shape != given.shape or float((expected - given).abs().max()) > allowed:
                raise BadBackbone(
                    f"{what} gives other numbers when it is written down as a program",
                    fix="build it from layers that do not depend on how pictures lie in memory",
                )


def _backbone(full: str, exported: Exported, said: Said, wanted: Wanted, what: str) -> Backbone:
    from headstart.backbones.exported_module import folded

    program, tensors = folded(topless(exported.program, wanted.cut, what), exported.tensors)
    grey = exported.program.shape[1] == 1
    spec = input_spec({**said, "size": wanted.size or said.get("size")}, "grey" if grey else None)
    weights_hash = _hash(program, tensors)
    remarks = [place(program, what)]
    if "mean" not in said:
        remarks.append(
            f"{what} says nothing about its pixels: they are scaled as is usual for ImageNet, at {spec.size} pixels; "
            "if it was trained otherwise, say so in it (see docs/own-backbones.md)"
        )
    return Backbone(
        name=full,
        spec=spec,
        weights_hash=weights_hash,
        licence=LICENCE,
        framework="torch",
        build=partial(_build, program, tensors, spec),
        about={
            "program": program.to_json(),
            "spec": asdict(spec),
            "weights_hash": weights_hash,
            "licence": LICENCE,
        },
        remarks=tuple(remarks),
    )


def _hash(program: Program, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of operations and values together: the same weights in another network, or cut elsewhere, give other features."""
    import torch

    found = hashlib.sha256(json.dumps(program.to_json(), sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _filled(program: Program, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    from headstart.backbones.exported_module import module_of

    module = module_of(program)
    module.load_state_dict(dict(tensors), strict=False)  # counters of batches have no values; all else was compared
    return module


def _build(program: Program, tensors: Mapping[str, torch.Tensor], spec: InputSpec) -> Network:
    from headstart.backbones.exported_module import groups_of
    from headstart.networks.torch import TorchNetwork

    return TorchNetwork.of(_filled(program, tensors), spec=spec, group_of=groups_of(program).get)


def _restored(program: Program, spec: InputSpec, what: str) -> Network:
    try:
        return _build(program, {}, spec)
    except HeadstartError:
        raise
    except Exception as problem:  # as above: a program that was read from a run may ask for what cannot be
        raise BadBackbone(f"{what} cannot be built: {problem}", fix=DAMAGED) from problem
