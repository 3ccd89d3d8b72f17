"""Keep the pictures of a data set that has no files: as PNG files in the cache folder, each content once.

    pictures/
    ├── content/<id>.png                   every picture, by the hash of its file; .jpg and so on where it was one
    └── <hash of a data set>/              a folder like a user's own, of hard links: any verb takes it
        └── train/ants/<id>.png

What is there already is not written again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from headstart.data.folder import CLUTTER
from headstart.errors import BadSetting
from headstart.modalities.png import encode
from headstart.places import FOLDER, cache_folder, make
from headstart.writing import room_for

NAME_LIMIT = 100  # bytes that every file system allows for a name


def keep(pictures: Iterable[UInt8[np.ndarray, "h w c"]]) -> list[str]:
    """Write these pictures; their ids.

    Raises:
        BadSetting: the cache folder cannot be written.
        DiskFull: there is no room.
    """
    with _written("content") as folder:
        return [_keep(encode(picture), folder) for picture in pictures]


def keep_file(content: bytes, suffix: str) -> str:
    """Write this file as it is; its id.

    Raises:
        BadSetting: the cache folder cannot be written.
        DiskFull: there is no room.
    """
    with _written("content") as folder:
        return _keep(content, folder, suffix)


def lay_out(name: str, entries: Iterable[tuple[str, str]]) -> Path:
    """A folder of this name with these entries, path within it and id of a kept picture.

    Raises:
        BadSetting: the cache folder cannot be written.
        DiskFull: there is no room.
    """
    with _written("content") as content, _written(name) as root:
        entries = set(entries)
        for folder in {os.path.dirname(path) for path, _ in entries}:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for path, id in entries:
            _link(content / f"{id}{os.path.splitext(path)[1]}", root / path)
    return root


def folder_name(position: int, name: str) -> str:
    """A folder for the class of this name: its own name where that can be one."""
    composed = unicodedata.normalize("NFC", name)
    plain = re.fullmatch(r"[^./\\:*?\"<>|\x00-\x1f][^/\\:*?\"<>|\x00-\x1f]*", composed)
    if plain and len(composed.encode(errors="replace")) <= NAME_LIMIT and composed.casefold() not in CLUTTER:
        return composed
    return f"{position}-" + re.sub(r"[^\w -]", "_", composed, flags=re.ASCII)[: NAME_LIMIT // 2]


def _keep(content: bytes, folder: Path, suffix: str = ".png") -> str:
    id = hashlib.blake2b(content, digest_size=16).hexdigest()  # as `folder.ids` does it
    path = folder / f"{id}{suffix}"
    # By size, since a machine that lost its power may leave a file cut short: waiting for the disk would take longer
    # than all the rest.
    if _size(path) != len(content):
        with _beside(path) as temporary:
            temporary.write_bytes(content)
            temporary.replace(path)
    return id


def _link(source: Path, target: Path) -> None:
    if _size(target) == _size(source):
        return
    with _beside(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)
        temporary.replace(target)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _written(name: str) -> Iterator[Path]:
    """A folder of this name beside the others, to write into."""
    root = cache_folder() / "pictures"
    fix = f"set {FOLDER} to a folder that you may write to, on a disk with room"
    try:
        with room_for(root / name, fix=fix):
            make(root / name)
            yield root / name
    except OSError as problem:
        raise BadSetting(f"the cache {str(root)!r} cannot be written: {problem.strerror or problem}", fix=fix) from (
            problem
        )
