"""Get a backbone from a file of your own: `file/my-model.keras`, `file//models/net.pt2`, `file/net.safetensors`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.backbones import torch_file
from headstart.backbones.backbone import Backbone, Entry, Wanted
from headstart.errors import BadBackbone, BadSetting
from headstart.registry import closest

# The ending says which module reads the file: it has `load` and `restore`, as a source of backbones has.
READERS = {
    ".keras": "headstart.backbones.keras_file",
    ".h5": "headstart.backbones.keras_file",
    ".hdf5": "headstart.backbones.keras_file",
    **dict.fromkeys((".pt2", ".safetensors", ".pth", ".pt", ".bin"), "headstart.backbones.torch_file"),
}


def catalogue() -> tuple[Entry, ...]:
    """Nothing: the files are the user's."""
    return ()


def load(name: str, wanted: Wanted) -> Backbone:
    """The network of this file, without its top. `name` is the path, relative to the working directory or absolute.

    A factory without a file makes a network with weights of its own.

    Raises:
        BadBackbone: the file is missing, of another kind or damaged, holds code, or its top cannot be cut.
        BadSetting: the size or the engine does not fit.
    """
    if wanted.factory is not None and name in ("", wanted.factory):
        return torch_file.load("", wanted)
    reader = _reader(name)
    path = Path(name).expanduser()
    if wanted.factory is not None and reader is not torch_file:
        raise BadSetting(f"backbone file {name!r} is a whole model", fix="leave the factory out")
    if wanted.blank and reader is not torch_file:
        raise BadSetting(
            f"backbone file {name!r} has weights, and weights none are wanted",
            fix="make a file with fresh weights, model.save in Keras, and leave the weights out",
        )
    if path.is_dir():
        raise BadBackbone(f"backbone file {name!r} is a folder", fix=_neighbours(path / "model.keras"))
    if not path.is_file():
        raise BadBackbone(f"backbone file {name!r} does not exist", fix=_neighbours(path))
    backbone: Backbone = reader.load(name, wanted)
    return backbone


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The backbone of a run that began with this file, which may be gone.

    Raises:
        BadBackbone: it cannot be built here, or held code.
    """
    # A factory has a name without an ending; what the run keeps of its network is the same as of a PyTorch file.
    reader = torch_file if "program" in about else _reader(name)
    backbone: Backbone = reader.restore(name, size, about)
    return backbone


def _reader(name: str) -> Any:
    module = READERS.get(Path(name).suffix.lower())
    if module is None:
        known = ", ".join(READERS)
        raise BadBackbone(
            f"backbone file {name!r} is not of a kind that is known" if name else "no backbone file is named",
            fix=f"name a file that ends in {known}"
            if name
            else f"say which file: file/PATH, ending in {known}; or "
            "the function that makes the network: --factory FILE.py:FUNCTION",
        )
    return importlib.import_module(module)


def _neighbours(path: Path) -> str:
    """The file that was probably meant, among those beside it."""
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r}; paths start from {str(Path.cwd())!r}"
    beside = sorted(str(other) for other in path.parent.iterdir() if other.suffix.lower() in READERS)
    listed = f"there: {', '.join(beside[:5])}" if beside else f"no model lies in {str(path.parent.absolute())!r}"
    return closest(str(path), beside) or listed
