"""Read PyTorch weights from a file that anyone may have written, and put them into a module: no code in it ever runs.

tensors = checkpoint.read(path)                                      # safetensors, or a pickled state_dict
checkpoint.load_into(module, tensors, dropped=("fc.",), what=f"weights {str(path)!r}")
"""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones import swelling
from headstart.errors import BadBackbone, first_five

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Where training scripts keep the weights in a checkpoint, beside an optimizer and an epoch.
_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and torch.compile put these before every name
_SAVE = "save the weights alone: safetensors.torch.save_file(model.state_dict(), 'net.safetensors')"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU, in the type that they were stored in.

    The file is a safetensors file or a `state_dict` that `torch.save` wrote, also inside a training checkpoint; what it
    is shows in its first bytes, whatever its name ends in. `module.` and `_orig_mod.` before all names are taken off.
    A pickle is read by PyTorch's restricted reader alone, which makes tensors and containers and nothing else.

    Raises:
        BadBackbone: the file is missing, damaged, of another kind, without tensors, or holds objects other than
            tensors, whose making could run code.
    """
    what = f"weights {str(path)!r}"
    kind = _kind(path, what)
    tensors = _safe(path, what) if kind == "safetensors" else _state_dict(_unpickled(path, what), what)
    if not tensors:
        raise BadBackbone(f"{what} hold no tensor", fix=_SAVE)
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; empty for files of other kinds.

    Raises:
        BadBackbone: the file is missing, damaged or of another kind.
    """
    what = f"weights {str(path)!r}"
    if _kind(path, what) != "safetensors":
        return {}
    from safetensors import safe_open

    with _damaged(what), safe_open(path, framework="numpy") as file:
        return dict(file.metadata() or {})


def load_into(
    module: nn.Module, tensors: Mapping[str, Tensor], *, what: str = "the weights", dropped: Sequence[str] = ()
) -> None:
    """Put these tensors into the module, in place: every parameter and buffer of it must be there with its shape.

    A prefix that stands before all names of the file and before none of the module's is taken off, and the other way
    round. A tensor in another precision is converted. The counters of batches in normalisation layers may be absent.

    Args:
        module: may lie on the device `meta`; it then takes copies of the tensors as they are.
        tensors: as `read` gives them.
        what: names the file in errors.
        dropped: prefixes of names that the file may have on top: those of a classifier that is not used.

    Raises:
        BadBackbone: something is missing, is left over, has another shape, or is not a finite number.
    """
    own = module.state_dict(keep_vars=True)
    given = aligned(tensors, own)
    given |= {name: given[twin] for name, twin in _twins(own, given)}
    problems = _problems(own, given, tuple(dropped))
    if problems:
        raise BadBackbone(
            f"{what} do not fit the network: {first_five(problems)}",
            fix="give the weights of this very architecture, with all its parts and no others",
        )
    import torch

    blank = any(tensor.is_meta for tensor in own.values())
    with torch.no_grad():
        fitting = {name: given[name].to(tensor.dtype) for name, tensor in own.items() if name in given}
        module.load_state_dict(
            {name: tensor.clone() if blank else tensor for name, tensor in fitting.items()}, strict=False, assign=blank
        )


# ---- reading


def _kind(path: Path, what: str) -> str:
    """`safetensors` or `pickle`, by the first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
            size = file.seek(0, 2)
    except OSError as problem:
        raise BadBackbone(f"{what} cannot be read: {problem.strerror}", fix=_beside(path)) from problem
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size:
        return "safetensors"
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "pickle"
    raise BadBackbone(f"{what} {_nature(start)}", fix=_way_out(start))


def _nature(start: bytes) -> str:
    if not start:
        return "are an empty file"
    if start.startswith(b"version https://"):
        return "are a Git LFS pointer, not the file that it points to"
    if start.lstrip().startswith(b"<"):
        return "are a web page, not a file of weights"
    if start.startswith(b"\x89HDF"):
        return "are an HDF5 file, and this network is one of PyTorch"
    return "are neither a safetensors file nor one that torch.save wrote"


def _way_out(start: bytes) -> str:
    if start.startswith(b"version https://"):
        return "fetch it with: git lfs pull"
    if start.lstrip().startswith(b"<"):
        return "download it again by its direct address"
    return f"give a file that ends in {', '.join(SUFFIXES)}, unchanged; or {_SAVE}"


def _beside(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r}; paths start from {str(Path.cwd())!r}"
    beside = sorted(str(other) for other in path.parent.iterdir() if other.suffix.lower() in SUFFIXES)
    return f"there: {first_five(beside)}" if beside else f"no weights lie in {str(path.parent.absolute())!r}"


@contextlib.contextmanager
def _damaged(what: str) -> Iterator[None]:
    try:
        yield
    except BadBackbone:
        raise
    except Exception as problem:  # readers of damaged files raise nearly anything
        said = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise BadBackbone(f"{what} are damaged: {said[:200]}", fix="copy or download the file again") from problem


def _safe(path: Path, what: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    with _damaged(what), safe_open(path, framework="pt", device="cpu") as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        # `save_model` writes a tensor that has several names once, and the other names here.
        same = {name: kept for name, kept in (file.metadata() or {}).items() if kept in tensors}
    return tensors | {name: tensors[kept] for name, kept in same.items() if name not in tensors}


def _unpickled(path: Path, what: str) -> Any:
    import pickle

    import torch

    with _damaged(what):
        if zipfile.is_zipfile(path):  # PyTorch packs nothing, but would unpack what others have packed
            with zipfile.ZipFile(path) as archive:
                swelling.check(archive)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about storages of older versions
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as problem:
            raise BadBackbone(
                f"{what} hold {_objects(path)}, and making those could run code, so they are not read", fix=_SAVE
            ) from problem
        except RuntimeError as problem:
            if "TorchScript" not in str(problem):
                raise
            raise BadBackbone(f"{what} are a TorchScript program, not weights", fix=_SAVE) from problem


def _objects(path: Path) -> str:
    import torch

    found: list[str] = []
    with contextlib.suppress(Exception):  # only to say more: a file of an older format or a damaged one tells nothing
        found = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return f"Python objects ({first_five(found)}) beside tensors" if found else "Python objects beside tensors"


def _state_dict(read: Any, what: str) -> dict[str, Tensor]:
    import torch

    while isinstance(read, Mapping):
        nest = next((name for name in _NESTS if isinstance(read.get(name), Mapping)), None)
        if nest is None:
            break
        read = read[nest]
    if not isinstance(read, Mapping):
        raise BadBackbone(f"{what} hold a {type(read).__name__}, not tensors by name", fix=_SAVE)
    tensors = {str(name): value for name, value in read.items() if isinstance(value, torch.Tensor)}
    if not tensors and any(isinstance(value, Mapping) for value in read.values()):
        nests = first_five([repr(str(name)) for name, value in read.items() if isinstance(value, Mapping)])
        raise BadBackbone(f"{what} hold several things, {nests}, and none is called state_dict or model", fix=_SAVE)
    return tensors


# ---- fitting


def aligned(tensors: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under the names that agree most with the module's: as they are, or with one prefix less or more."""

    def agreeing(named: Mapping[str, Tensor]) -> int:
        return len(named.keys() & own.keys())

    candidates = [dict(tensors)]
    while (prefix := _common(candidates[-1])) is not None:
        candidates.append({name.removeprefix(prefix): tensor for name, tensor in candidates[-1].items()})
    if (prefix := _common(own)) is not None:
        candidates.append({prefix + name: tensor for name, tensor in tensors.items()})
    return max(candidates, key=agreeing)


def _common(names: Mapping[str, Any]) -> str | None:
    """The first part of the names, with its dot, where all have the same and more behind it."""
    first = {name.partition(".")[0] for name in names if "." in name}
    return f"{first.pop()}." if len(first) == 1 and all("." in name for name in names) else None


def _twins(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Names that the file leaves out, each with the name under which it has the same tensor of the module."""
    present = {id(tensor): name for name, tensor in own.items() if name in given}
    return [(name, present[id(t)]) for name, t in own.items() if name not in given and id(t) in present]


def _problems(own: Mapping[str, Tensor], given: Mapping[str, Tensor], dropped: tuple[str, ...]) -> list[str]:
    """What does not fit, one phrase each: shapes first, for they say most."""
    return [
        *(
            f"{name!r} is {_shape(given[name])} instead of {_shape(tensor)}"
            for name, tensor in own.items()
            if name in given and given[name].shape != tensor.shape
        ),
        *(
            f"{name!r} {_shape(tensor)} is missing"
            for name, tensor in own.items()
            if name not in given and not name.endswith("num_batches_tracked")
        ),
        *(
            f"{name!r} {_shape(tensor)} is not in the network"
            for name, tensor in given.items()
            if name not in own and not name.startswith(dropped)
        ),
        *(f"{name!r} is not finite" for name in own if name in given and not _finite(given[name])),
    ]


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())
