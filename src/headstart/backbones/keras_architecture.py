"""Read what a Keras file is made of without loading it: nothing in it is executed, and code in it is found."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.backbones import swelling
from headstart.errors import BadBackbone

# Layers whose stored form is code, or a program of another library.
CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
# Parts of Keras whose classes and functions compute. Others fetch, read and write files, or set up the whole process:
# safe mode lets some of those pass.
_COMPUTING = """
activations constraints dtype_policies engine initializers layers losses metrics models ops optimizers quantizers random
regularizers src
"""
COMPUTING = frozenset(_COMPUTING.split())
READERS = ("StringLookup", "IntegerLookup", "TextVectorization", "HashedCrossing")  # read a file that they name
_WHOLE = 'save the whole model: model.save("model.keras")'
_HDF5 = b"\x89HDF\r\n\x1a\n"
_GRAPHS = ("Functional", "Sequential", "Model")  # Model: what Keras 2 called a functional one


def architecture(path: Path) -> dict[str, Any]:
    """The file's own description of its model, as Keras wrote it.

    Raises:
        BadBackbone: it is no Keras file, is damaged, or holds weights without a model.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_HDF5))
        if not start:
            raise BadBackbone(f"backbone file {str(path)!r} is empty", fix=_WHOLE)
        found = _in_hdf5(path) if start == _HDF5 else _in_zip(path)
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile) as problem:
        raise BadBackbone(
            f"backbone file {str(path)!r} is damaged or not a Keras model: {brief(problem)}", fix=_WHOLE
        ) from problem
    if not isinstance(found, dict) or not isinstance(found.get("class_name"), str):
        raise BadBackbone(f"backbone file {str(path)!r} is not a Keras model", fix=_WHOLE)
    found.pop("compile_config", None)  # how it was trained, custom losses and all: never loaded, so never in the way
    return found


def _in_zip(path: Path) -> Any:
    if path.suffix.lower() != ".keras":
        raise BadBackbone(
            f"backbone file {str(path)!r} is not an HDF5 file", fix="give the file that Keras wrote, unchanged"
        )
    with zipfile.ZipFile(path) as archive:
        swelling.check(archive)
        return json.loads(archive.read("config.json"))


def _in_hdf5(path: Path) -> Any:
    if path.suffix.lower() == ".keras":
        raise BadBackbone(
            f"backbone file {str(path)!r} is an HDF5 file of older Keras",
            fix=f"rename it to {path.with_suffix('.h5').name!r}",
        )
    import h5py

    with h5py.File(path, "r") as file:
        written = file.attrs.get("model_config")
    if written is None:
        raise BadBackbone(f"backbone file {str(path)!r} holds weights but no model", fix=_WHOLE)
    return json.loads(written)


def check(config: Mapping[str, Any], what: str, *, way_out: str | None) -> None:
    """Refuse a description whose model is not a graph of layers, or is code.

    Args:
        config: what `architecture` gave.
        what: names the model in errors.
        way_out: what to do about code; None lets it pass.

    Raises:
        BadBackbone: so it is.
    """
    kind = str(config["class_name"])
    if kind not in _GRAPHS:
        raise BadBackbone(
            f"{what} is of a class of its own, {kind!r}: Keras does not know what is inside, so its top cannot be cut",
            fix="build the network as keras.Sequential or keras.Model(inputs, outputs), and save that",
        )
    code = code_in(config)
    if code is not None and way_out is not None:
        raise BadBackbone(
            f"{what} holds a {code} layer, that is code, which could do anything; safe mode does not load it",
            fix=way_out,
        )
    more = more_than_computing(config)
    if more is not None and way_out is not None:
        raise BadBackbone(f"{what} names {more}, which may do more than compute; it is not loaded", fix=way_out)


def more_than_computing(config: Any) -> str | None:
    """The first class or function of Keras's own in this description that may read files or do worse, or None."""
    for part in described(config):
        name, module = str(part["class_name"]), str(part.get("module") or "keras")
        package, _, inside = module.partition(".")
        kind = inside.partition(".")[0]
        unfit = kind not in ("", *COMPUTING) or (module == "keras.models" and name not in _GRAPHS)
        if name in READERS or (package == "keras" and unfit):
            return f"{module}.{part.get('config') if name == 'function' else name}"[:100]
    return None


def code_in(config: Any) -> str | None:
    """The first kind of layer in this description that is stored as code, or None."""
    for part in described(config):
        if part["class_name"] in CODE:
            # A function without a name is code in any layer: as its activation, say.
            return "Lambda" if part["class_name"] == "__lambda__" else str(part["class_name"])
    return None


def foreign(config: Any) -> Iterator[str]:
    """Names of the classes and functions in this description that are not Keras's own."""
    for part in described(config):
        if not own(part) and not str(part["class_name"]).startswith("__"):
            name = part["config"] if part["class_name"] == "function" else part["class_name"]
            yield str(part.get("registered_name") or name)


def own(part: Mapping[str, Any], *, also: str = "keras") -> bool:
    """Whether Keras, or one package more, has the class or function that this part of a description names."""
    # Files of Keras 2 say no module; Keras looks for their classes among its own only.
    module = part.get("module", "keras")
    return module is not None and str(module).partition(".")[0] in ("keras", "builtins", also)


def described(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every object that this description is made of."""
    waiting = [config]
    while waiting:  # not by recursion: a file could be nested as deep as it likes
        part = waiting.pop()
        if isinstance(part, Mapping):
            if isinstance(part.get("class_name"), str):
                yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def brief(problem: Exception) -> str:
    """The first sentence of what a library says about a problem, for use within one of ours."""
    # Keras wraps what happened in one layer into what that means for the whole.
    words = " ".join(str(problem).rpartition("Exception encountered: ")[2].split()) or type(problem).__name__
    sentence = words.partition(". ")[0].rstrip(".")
    return sentence if len(sentence) <= 200 else f"{sentence[:199]}…"
