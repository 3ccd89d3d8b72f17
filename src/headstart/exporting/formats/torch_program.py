"""Write an exported program of PyTorch, and run one as a list of known operations: nothing in the file can be code."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from headstart.backbones.exported import Length, Named, Step, Value, Weight, mapped, parts
from headstart.backbones.exported_file import Exported, read_whole, said
from headstart.errors import BadBackbone, BadBundle, BadExport
from headstart.exporting.bundle import Manifest
from headstart.exporting.format import Outputs, Whole, on_canvas
from headstart.machine import cores
from headstart.networks.torch_whole import exported

_TAMPERED = "do not use it, or export it again"


def write(whole: Whole, path: Path) -> None:
    """Trace the whole model and write it, in a form that `torch.export.load` and we read.

    Raises:
        BadExport: the network does what cannot be kept as operations.
    """
    try:
        program = exported(whole.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors that share memory
            torch.export.save(program, path)
        read_whole(path, "what PyTorch wrote")
    except BadBackbone as problem:
        raise BadExport(problem.what, fix="take another format, such as --to onnx") from problem
    # The network's own code is run, and PyTorch's tracing of it.
    except Exception as problem:
        raise BadExport(
            f"this network cannot be written as an exported program: {said(problem)}", fix="take --to onnx"
        ) from problem


def open_program(path: Path, manifest: Manifest) -> Program:
    """The program in this file, ready to answer; nothing in it is executed or unpickled.

    Raises:
        BadBundle: it is damaged, or does what is not known.
    """
    try:
        found = read_whole(path, f"graph {str(path)!r}")
    except BadBackbone as problem:
        raise BadBundle(problem.what, fix=_TAMPERED) from problem
    if len(found.results) != len(manifest.outputs):
        raise BadBundle(
            f"graph {str(path)!r} gives {len(found.results)} results, not {', '.join(manifest.outputs)}", fix=_TAMPERED
        )
    return Program(found, manifest)


class Program:
    """Does the operations one after another, each call on a core of its own."""

    def __init__(self, exported: Exported, manifest: Manifest) -> None:
        self.concurrency = cores()
        self._manifest = manifest
        self._program, self._tensors, self._results = exported.program, exported.tensors, exported.results
        self._calls = [(step, _function(step.op)) for step in self._program.steps]
        self._spent = _spent(self._program.steps, self._results)

    def photos(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        """Answers for photos of any one size."""
        try:
            with _one_core(), torch.inference_mode():
                answers = self._run(torch.from_numpy(np.array(pixels)))
        except Exception as problem:  # operations that are known, in an order that was not made here
            raise BadBundle(f"graph failed on a photo in PyTorch: {said(problem)}", fix=_TAMPERED) from problem
        return Outputs(**dict(zip(self._manifest.outputs, answers, strict=True)))

    def squares(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Outputs:
        """Answers for squares, which the program's own preprocessing leaves as they are."""
        return self.photos(on_canvas(pictures, self._manifest))

    def _run(self, pixels: torch.Tensor) -> list[np.ndarray]:
        values: dict[str, Any] = {self._program.picture: pixels}

        def known(part: Any) -> Any:
            match part:
                case Value(name):
                    return values[name]
                case Weight(name):
                    return self._tensors[name]
                case Length(name):
                    return values[name].shape[0]
                case Named("device", _):
                    return torch.device("cpu")
                case Named(_, name):
                    return getattr(torch, name)
            return part

        for (step, function), spent in zip(self._calls, self._spent, strict=True):
            options = {name: mapped(value, known) for name, value in step.options.items()}
            made = function(*mapped(step.args, known), **options)
            values |= zip(step.gives, made if step.several else (made,), strict=True)
            for name in spent:
                del values[name]
        return [values[name].float().numpy() for name in self._results]


@contextmanager
def _one_core() -> Iterator[None]:
    """Photos side by side need no barrier after each operation, which on a busy machine costs more than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _spent(steps: tuple[Step, ...], results: tuple[str, ...]) -> list[list[str]]:
    """After each step the values that no later one needs: a photo's maps would fill the memory otherwise."""
    later, spent = set(results), []
    for step in reversed(steps):
        used = {*step.gives, *(part.name for part in parts(step) if isinstance(part, Value | Length))}
        spent.append(sorted(used - later))
        later |= used
    return spent[::-1]


def _function(op: str) -> Any:
    """The function of an operation; the reader has let none but known ones through."""
    family, name, *variant = op.split(".")
    if family == "operator":
        return getattr(operator, name)
    return getattr(getattr(torch.ops.aten, name), variant[0])
