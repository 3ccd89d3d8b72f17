"""Write a model as an exported program of PyTorch: a list of operations and weights, without the code that made it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import BadBundle
from headstart.exporting.snippets import python

if TYPE_CHECKING:
    from headstart.exporting.bundle import Bundle, Manifest
    from headstart.exporting.format import Engine, Format, Graph, Precision, Whole

FILE = "model.pt2"
_EXTRA = "pip install torch"


class TorchFormat:
    """`model.pt2`."""

    name = "torch"
    about = "goes on inside PyTorch: compile it, move it to a GPU, build on it"
    precisions: tuple[Precision, ...] = ("fp32",)

    def refusal(self, engine: Engine, precision: Precision) -> str | None:
        """Of models of other frameworks: there is no way from them to PyTorch's operations."""
        return None if engine == "torch" else f"PyTorch cannot hold a model of {engine}"

    def check_installed(self, engine: Engine, precision: Precision) -> None:
        """Nothing: a run of PyTorch cannot be opened without it."""

    def write(self, whole: Whole, folder: Path, precision: Precision) -> None:
        """Trace and write; see `Format.write`."""
        from headstart.exporting.formats import torch_program

        torch_program.write(whole, folder / FILE)

    def open(self, bundle: Bundle) -> Graph:
        """The graph in PyTorch, read as data; see `Format.open`."""
        if importlib.util.find_spec("torch") is None:
            raise BadBundle("to run a torch bundle, torch must be installed", fix=_EXTRA)
        path = bundle.file(FILE)
        from headstart.exporting.formats import torch_program

        return torch_program.open_program(path, bundle.manifest)

    def snippets(self, manifest: Manifest) -> Mapping[str, str]:
        """One for Python."""
        own = python(
            needs="torch",
            imports="import torch",
            # Its reader trusts the file: this is yours.
            opening='model = torch.export.load(bundle / "model.pt2").module()',
            answering="with torch.inference_mode():\n"
            '    answer = dict(zip(about["outputs"], model(torch.from_numpy(pixels))))',
        )
        return {"use.py": own}


FORMAT: Format = TorchFormat()
