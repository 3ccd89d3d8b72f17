"""Call the function that makes a user's own network. Its code runs, so it is only ever named on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from headstart.backbones import checkpoint
from headstart.errors import BadBackbone, BadSetting
from headstart.registry import closest

SIZES = ("size", "img_size", "image_size")
USUAL = {"num_classes": 1000, **dict.fromkeys(SIZES, 224)}  # for a parameter that has no default
_HOW = "write it as FILE.py:FUNCTION or MODULE:FUNCTION"


def made(
    factory: str, *, tensors: Mapping[str, Tensor] | None, size: int | None, weights: str
) -> tuple[nn.Module, int | None]:
    """The network that the factory makes, with these tensors where there are some; and the size that it was made for.

    It is called without arguments, but for two that it may name: `size` (or `img_size`, `image_size`) gets the size
    that is wanted, if one is, and `num_classes` the number of classes that the tensors show. First values are drawn
    from a fixed seed. The size is known where the function has such a parameter: what was given, or its default.

    Raises:
        BadSetting: there is no such function, or it wants more arguments.
        BadBackbone: it fails, makes no `nn.Module`, or the tensors do not fit.
    """
    with torch.random.fork_rng(devices=[]), _beside(factory):
        torch.manual_seed(0)
        function = _function(factory)
        wants = _wants(function, factory)
        options = {name: size for name in SIZES if name in wants and size is not None}
        options |= {name: value for name, value in USUAL.items() if wants.get(name) and name not in options}
        module = _called(function, options, factory)
        classes = _classes(module, tensors or {}) if "num_classes" in wants else None
        if classes is not None:
            module = _called(function, {**options, "num_classes": classes}, factory)
    if tensors is not None:
        checkpoint.load_into(module, tensors, what=weights)
    return module.cpu().float().eval(), _size(function, options)


def _size(function: Any, options: Mapping[str, Any]) -> int | None:
    values = {**{name: each.default for name, each in _parameters(function).items()}, **options}
    found = [values.get(name) for name in SIZES]
    return next((size for size in found if isinstance(size, int) and size > 0), None)


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    if isinstance(function, nn.Module):  # the network itself
        return {}
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


@contextmanager
def _beside(factory: str) -> Iterator[None]:
    """While open, the factory's code finds modules beside it, as a script would, and in the working directory."""
    place, _, _ = factory.rpartition(":")
    folder = Path(place).expanduser().absolute().parent if place.endswith(".py") else Path.cwd()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _function(factory: str) -> Any:
    place, _, name = factory.rpartition(":")
    if not place or not name:
        raise BadSetting(f"factory {factory!r} names no function", fix=_HOW)
    module = _file(place, factory) if place.endswith(".py") else _module(place, factory)
    found = getattr(module, name, None)
    if not callable(found):
        near = [each for each in dir(module) if callable(getattr(module, each)) and not each.startswith("_")]
        raise BadSetting(
            f"factory {factory!r} has no function {name!r}",
            fix=closest(name, near) or f"there: {', '.join(near[:5])}" if near else _HOW,
        )
    return found


def _file(place: str, factory: str) -> ModuleType:
    path = Path(place).expanduser()
    if not path.is_file():
        raise BadSetting(f"factory file {place!r} does not exist", fix=f"{_HOW}; paths start from {str(Path.cwd())!r}")
    loader = SourceFileLoader(f"headstart_factory_{path.stem}", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None, "a loader of a file has a spec"
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up there
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        raise _failed(factory, "cannot be imported", problem) from problem
    return module


def _module(place: str, factory: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as problem:
        if problem.name is not None and (place == problem.name or place.startswith(f"{problem.name}.")):
            hint = f"a file ends in .py: {place}.py:FUNCTION" if Path(f"{place}.py").exists() else _HOW
            raise BadSetting(f"factory {factory!r}: there is no module {place!r}", fix=hint) from problem
        raise _failed(factory, "cannot be imported", problem) from problem
    except (Exception, SystemExit) as problem:
        raise _failed(factory, "cannot be imported", problem) from problem


def _wants(function: Callable[..., Any], factory: str) -> dict[str, bool]:
    """The parameters that may be given by name -> whether they have to be."""
    parameters = _parameters(function).values()
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wants = {each.name: each.default is inspect.Parameter.empty for each in parameters if each.kind not in fixed}
    unknown = [name for name, needed in wants.items() if needed and name not in USUAL]
    if unknown:
        raise BadSetting(
            f"factory {factory!r} needs {', '.join(unknown)}, which nobody gives it",
            fix=f"give {unknown[0]!r} a default, or write a function without it: def make(): return …",
        )
    return wants


def _called(function: Any, options: Mapping[str, Any], factory: str) -> nn.Module:
    if isinstance(function, nn.Module):
        return function
    try:
        module = function(**options)
    except (Exception, SystemExit) as problem:
        raise _failed(factory, "fails", problem) from problem
    if not isinstance(module, nn.Module):
        raise BadBackbone(
            f"factory {factory!r} gives a {type(module).__name__}, not a torch.nn.Module", fix="return the network"
        )
    return module


def _classes(module: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """How many classes the tensors have, where that is all in which they differ from the module."""
    own = module.state_dict()
    given = checkpoint.aligned(tensors, own)
    differing = {
        (len(own[name]), len(tensor))
        for name, tensor in given.items()
        if name in own and own[name].shape != tensor.shape and own[name].ndim and tensor.ndim
    }
    return differing.pop()[1] if len(differing) == 1 else None


def _failed(factory: str, how: str, problem: BaseException) -> BadBackbone:
    """The refusal that says what went wrong in the user's code, and in which line of it."""
    frames = [f for f in traceback.extract_tb(problem.__traceback__) if not f.filename.startswith("<")]
    own = next((f for f in reversed(frames) if "site-packages" not in f.filename and f.filename != __file__), None)
    where = f"{own.filename}, line {own.lineno}" if own is not None else ""
    text = (str(problem).splitlines() or [""])[0][:200]
    return BadBackbone(
        f"factory {factory!r} {how}: {type(problem).__name__}{': ' if text else ''}{text}",
        fix=f"correct {where}" if where else "correct it",
    )
