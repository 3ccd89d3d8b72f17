"""Look into a `.keras` file before Keras does: refuse one that holds code, reads files, or unpacks without end."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from headstart.backbones import swelling
from headstart.backbones.keras_architecture import code_in, described, more_than_computing, own
from headstart.errors import BadBundle

WEIGHTS = "model.weights.h5"
MEMBERS = frozenset({"config.json", "metadata.json", "classes.json", WEIGHTS})
LARGEST_TEXT = 64 << 20  # bytes of a description; those of the largest networks take a few millions
_DO_NOT = "do not use it, or export it again"


def check(path: Path) -> None:
    """Refuse a file that is more than layers of Keras's own and their weights.

    Raises:
        BadBundle: with the reason.
    """
    what = f"graph {str(path)!r}"
    try:
        with zipfile.ZipFile(path) as archive:
            swelling.check(archive)
            _check_members(archive, what)
            config = json.loads(archive.read("config.json"))
            weights = io.BytesIO(archive.read(WEIGHTS))
        _check_description(config, what)
        _check_weights(weights, what)
    # What h5py raises for a damaged file hangs on where it is damaged.
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        RecursionError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as bad:
        raise BadBundle(f"{what} is no Keras file, or damaged", fix=_DO_NOT) from bad


def _check_members(archive: zipfile.ZipFile, what: str) -> None:
    members = archive.infolist()
    strange = sorted({member.filename for member in members} - MEMBERS)
    if strange:
        raise BadBundle(f"{what} holds a file that no exported model has: {strange[0]!r}", fix=_DO_NOT)
    for member in members:
        if member.filename != WEIGHTS and member.file_size > LARGEST_TEXT:
            raise BadBundle(f"{what} unpacks to more than any model: {member.filename!r}", fix=_DO_NOT)


def _check_description(config: Any, what: str) -> None:
    code = code_in(config)
    if code is not None:
        raise BadBundle(f"{what} holds a {code} layer, that is code, which could do anything", fix="do not use it")
    more = more_than_computing(config)
    if more is not None:
        raise BadBundle(f"{what} names {more}, which may do more than compute", fix="do not use it")
    for part in described(config):
        if part.get("module", "keras") is not None and not own(part, also="keras_hub"):
            strange = f"{part['module']}.{part['class_name']}"
            raise BadBundle(f"{what} needs {strange}, which is not Keras's own", fix="do not use it")


def _check_weights(content: io.BytesIO, what: str) -> None:
    """HDF5 can name other files: for groups, and for where the values of an array lie."""
    import h5py

    with h5py.File(content, "r") as file:
        waiting: list[Any] = [file]
        seen: set[int] = set()
        while waiting:
            group = waiting.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:  # a group can hold itself
                continue
            seen.add(address)
            for name in group:
                link, item = group.get(name, getlink=True), None
                if isinstance(link, h5py.HardLink):
                    item = group[name]
                values = isinstance(item, h5py.Dataset)
                if item is None or (values and (item.external or item.is_virtual)):
                    raise BadBundle(f"{what} wants to read other files", fix="do not use it")
                if values and item.nbytes > swelling.SHRUNK * item.id.get_storage_size() + swelling.SMALL:
                    raise BadBundle(f"{what} unpacks to more than any model: {name!r}", fix=_DO_NOT)
                if isinstance(item, h5py.Group):
                    waiting.append(item)
