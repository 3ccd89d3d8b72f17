"""Keep converted networks in the cache folder, each in one file that is whole or not there, and not too many."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from headstart.errors import DiskFull
from headstart.places import cache_folder, make
from headstart.writing import whole

FOLDER = "runtimes"
MOST = 2 * 10**9  # bytes of all files together, beside the one just written
_DIGEST, _LENGTH = 16, 8  # bytes at the beginning of a file: the digest of what follows, how long the XML is


def recall(core: Any, name: str) -> Any | None:
    """The `openvino.Model` that was kept under this name; None where there is none, or it is damaged."""
    path = _path(name)
    try:
        content = memoryview(path.read_bytes())
        rest = content[_DIGEST:]
        if hashlib.blake2b(rest, digest_size=_DIGEST).digest() != content[:_DIGEST]:
            path.unlink(missing_ok=True)
            return None
        length = int.from_bytes(rest[:_LENGTH], "little")
        text, weights = rest[_LENGTH : _LENGTH + length], rest[_LENGTH + length :]
        model = core.read_model(bytes(text), bytes(weights))
    except (OSError, RuntimeError):  # not there, or of another make
        return None
    with suppress(OSError):
        os.utime(path)
    return model


def keep(model: Any, name: str) -> None:
    """Write the model down, where there is room for it: it only saves time."""
    path = _path(name)
    with suppress(OSError, RuntimeError, DiskFull):
        make(path.parent)
        text, weights = _written(model, path.parent)
        rest = [len(text).to_bytes(_LENGTH, "little"), text, weights]
        digest = hashlib.blake2b(digest_size=_DIGEST)
        for block in rest:
            digest.update(block)
        with whole(path) as temporary, temporary.open("wb") as file:
            file.writelines([digest.digest(), *rest])
        _trim(path)


def _written(model: Any, folder: Path) -> tuple[bytes, bytes]:
    """OpenVINO's two files of the model; it writes them to no other place than files."""
    from openvino import serialize

    with TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as place:
        text, weights = Path(place, "model.xml"), Path(place, "model.bin")
        serialize(model, text, weights)
        return text.read_bytes(), weights.read_bytes()


def is_kept(name: str) -> bool:
    """Whether there is a file of this name."""
    return _path(name).is_file()


def _path(name: str) -> Path:
    return cache_folder() / FOLDER / f"{name}.ir"


def _trim(newest: Path) -> None:
    """Delete those that were not used for longest."""
    found: list[tuple[float, int, Path]] = []
    for path in newest.parent.glob("*.ir"):
        with suppress(OSError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    room = MOST
    for _, size, path in sorted(found, reverse=True):
        room -= size
        if room < 0 and path != newest:
            path.unlink(missing_ok=True)
