"""Start from an earlier run of ours: `run/runs/photos-1` has the backbone that was tuned there, and its pictures.

So pre-training on a large set and adapting to a small one is two commands. The new run keeps what it needs of the old
one, whose folder may go once the new run is finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import plain_files
from headstart.backbones.backbone import Backbone, Entry, Wanted
from headstart.errors import BadBackbone, BadSetting, HeadstartError
from headstart.registry import closest

if TYPE_CHECKING:
    import numpy as np

    from headstart.networks.network import Network

RUNS = Path("runs")  # where runs are made when nobody says otherwise
MARK = "INCOMPLETE"  # in a run that is not finished
HEAD = "head."  # before the names of the weights that are not the backbone's
# Of normalisations, by their names in PyTorch and in Keras: kept with the weights, and no parameters.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "moving_mean", "moving_variance")
_AGAIN = "copy the run again, or name another"


def catalogue() -> tuple[Entry, ...]:
    """The finished runs under `./runs`, the latest first; what is no run there is passed over."""
    try:
        folders = [folder for folder in RUNS.iterdir() if _finished(folder)]
        folders.sort(key=lambda folder: (folder / "evaluation.json").stat().st_mtime, reverse=True)
    except OSError:
        return ()
    return tuple(entry for folder in folders if (entry := _entry(folder)) is not None)


def load(name: str, wanted: Wanted) -> Backbone:
    """The backbone of the run in this folder, with the weights that it ended with.

    Raises:
        BadBackbone: there is no run, or it is unfinished or damaged, or cannot be built here.
        BadSetting: the size or another wish does not fit.
    """
    what = f"run {name!r}"
    _check(name, wanted, what)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise BadBackbone(f"{what} does not exist", fix=_neighbours(folder))
    if (folder / MARK).exists():
        raise BadBackbone(f"{what} is not finished", fix=f"finish it with: headstart resume {shlex.quote(name)}")
    if strange := plain_files.strange(folder):
        raise BadBackbone(
            f"{what} holds a link or no plain file: {strange!r}",
            fix="copy the run with what it links to, if you trust it: cp -rL",
        )
    origin = _origin(folder, wanted, what)
    first = _restored(origin, what)
    if wanted.size not in (None, first.spec.size):
        raise BadSetting(
            f"{what} began with {first.name}, which takes pictures of {first.spec.size} pixels and no others",
            fix="leave the size out",
        )
    weights_hash = _hash(_weights(folder, what))
    return _backbone(name, first, origin, weights_hash, build=partial(_build, first, folder, weights_hash, what))


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The backbone of a run that began with an earlier one, which may be gone, for the run's own weights.

    Raises:
        BadBackbone: it cannot be built here, or the run is damaged.
    """
    what = f"backbone 'run/{name}' of this run"
    origin = about.get("origin")
    if not isinstance(origin, dict) or str(origin.get("name", "")).partition("/")[0] == "run":
        raise BadBackbone(f"{what} is not described", fix="the run is damaged: train anew")
    first = _restored({**origin, "size": size}, what)
    return _backbone(name, first, origin, str(about.get("weights_hash", "")), build=first.build)


def _backbone(name: str, first: Backbone, origin: Mapping[str, Any], weights_hash: str, *, build: Any) -> Backbone:
    engine = {"engine": first.about["engine"]} if "engine" in first.about else {}
    return replace(
        first,
        name=f"run/{name}",
        weights_hash=weights_hash,
        build=build,
        about={"origin": dict(origin), "weights_hash": weights_hash, **engine},
    )


def _check(name: str, wanted: Wanted, what: str) -> None:
    if not name:
        raise BadBackbone("no run is named after run/", fix=f"name its folder: run/FOLDER; {_listed(RUNS)}")
    if wanted.blank or wanted.weights is not None:
        raise BadSetting(
            f"{what} is wanted for its weights, and other weights are asked for as well",
            fix="leave the weights out, or name the backbone that the run began with instead of the run",
        )
    if wanted.cut is not None:
        raise BadSetting(f"{what} has no top to cut at {wanted.cut!r}", fix="leave the cut out")


def _origin(folder: Path, wanted: Wanted, what: str) -> dict[str, Any]:
    """What the run says about the backbone that it began with; of a run that began with a run, about that one's."""
    identity = _json(folder / "backbone.json", what)
    if str(identity.get("name", "")).partition("/")[0] == "run":
        about = identity.get("about")
        identity = {**(about.get("origin") or {} if isinstance(about, dict) else {}), **_own(identity)}
    if not {"name", "size", "framework"} <= identity.keys() or str(identity["name"]).startswith("run/"):
        raise BadBackbone(f"{what} does not say what its backbone is", fix=_AGAIN)
    torch = identity["framework"] == "torch"
    if wanted.framework is not None and (wanted.framework == "torch") != torch:
        raise BadSetting(
            f"{what} has a backbone of {'PyTorch' if torch else 'Keras'}, which does not run on {wanted.framework}",
            fix="leave the framework out",
        )
    about = dict(identity.get("about") or {})
    about |= {"engine": wanted.framework} if wanted.framework is not None and not torch else {}
    size = wanted.size or identity["size"]
    return {
        "name": identity["name"],
        "size": size,
        "fit": identity.get("fit"),
        "framework": identity["framework"],
        "about": about,
    }


def _own(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that began with a run says itself."""
    return {key: identity[key] for key in ("size", "fit", "framework") if key in identity}


def _restored(origin: Mapping[str, Any], what: str) -> Backbone:
    from headstart.backbones.loading import restore_backbone

    try:
        return restore_backbone(origin)
    except HeadstartError:
        raise
    except Exception as problem:  # from a file in which anything may stand where anything else is expected
        raise BadBackbone(f"{what} says nonsense about its backbone: {problem!r}", fix=_AGAIN) from problem


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise BadBackbone(
            f"{what} is not a run folder: {path.name} cannot be read ({problem.strerror})",
            fix=f"name the folder that headstart train printed; {_listed(path.parent.parent)}",
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise BadBackbone(f"{what} has a damaged {path.name}", fix=_AGAIN) from problem
    if not isinstance(found, dict):
        raise BadBackbone(f"{what} has a damaged {path.name}", fix=_AGAIN)
    return found


def _weights(folder: Path, what: str) -> dict[str, np.ndarray]:
    """The weights of the backbone, without those of the head."""
    from safetensors.numpy import load_file

    try:
        weights = load_file(folder / "model.safetensors")
    except Exception as problem:
        raise BadBackbone(f"{what} has no weights that can be read: {problem}", fix=_AGAIN) from problem
    return {name: value for name, value in weights.items() if not name.startswith(HEAD)}


def _hash(weights: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(f"{name} {weights[name].dtype} {weights[name].shape} ".encode())
        found.update(weights[name].tobytes())
    return found.hexdigest()


def _build(first: Backbone, folder: Path, weights_hash: str, what: str) -> Network:
    network = first.build()
    # Read anew, for the memory; a run that has changed since would not be what the new one says that it began with.
    weights = _weights(folder, what)
    if _hash(weights) != weights_hash:
        raise BadBackbone(f"{what} has changed while it was used", fix="begin again")
    try:
        network.load_weights(weights)
    except (RuntimeError, ValueError, KeyError) as problem:
        said = str(problem).strip().splitlines()[-1].strip()[:200]
        raise BadBackbone(f"weights of {what} do not fit {first.name}: {said}", fix=_AGAIN) from problem
    return network


# ---- what is there


def _finished(folder: Path) -> bool:
    return (folder / "evaluation.json").is_file() and not (folder / MARK).exists()


def _entry(folder: Path) -> Entry | None:
    try:
        if plain_files.strange(folder):
            return None
        identity = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
        shapes = dict(_shapes(folder / "model.safetensors"))
        classes = len((folder / "classes.txt").read_text("utf-8", "surrogateescape").splitlines())
        return Entry(
            name=str(folder),
            size=int(identity["size"]),
            width=_width(shapes),
            parameters=sum(
                _count(shape)
                for name, shape in shapes.items()
                if not name.startswith(HEAD) and not name.endswith(STATISTICS)
            ),
            licence=str(identity["licence"]),
            available=True,
            note=f"{identity['name']} after {classes} classes",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        return None


def _shapes(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes in the header of a safetensors file; no weights are read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, os.fstat(file.fileno()).st_size)))
    for name, about in header.items():
        if name != "__metadata__":
            yield name, tuple(int(side) for side in about["shape"])


def _width(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """What enters the head: the longer side of its first matrix where that is its only one, else unknown, 0."""
    matrices = [shape for name, shape in shapes.items() if name.startswith(HEAD) and len(shape) == 2]
    return max(matrices[0]) if len(matrices) == 1 else 0


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _neighbours(folder: Path) -> str:
    if not folder.parent.is_dir():
        return f"there is no folder {str(folder.parent)!r}; paths start from {str(Path.cwd())!r}"
    beside = [str(other) for other in folder.parent.iterdir() if _finished(other)]
    return closest(str(folder), beside) or _listed(folder.parent)


def _listed(folder: Path) -> str:
    try:
        runs = sorted(str(run) for run in folder.iterdir() if _finished(run))
    except OSError:
        runs = []
    return f"there: {', '.join(runs[:5])}" if runs else f"no finished run lies in {str(folder)!r}"
