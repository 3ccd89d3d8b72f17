"""Read class folders, on a disk or in an archive: which photo is of which class and split, and what cannot be used.

The rules:

- Each folder in the given one is a class, by its name (in Unicode's composed form). Folders inside a class folder
  belong to that class, however deep.
- Where the folders are named for splits (`train`, `val`, `test` in any spelling of `splits.spelled`), each folder
  inside those is a class. That is so if a train folder is there and either every folder names a split, or at least
  two splits are named and the train folder holds folders. So a class `train` beside `car` and `bus` stays a class.
  `eval` and `evaluation` mean validation where a test folder is there too, otherwise test.
- Clutter is passed over in silence: names that begin with a dot (`.DS_Store`, `.ipynb_checkpoints`, `._photo.jpg`),
  `Thumbs.db`, `desktop.ini`, `__MACOSX` and what else `CLUTTER` names.
- Everything else that is not used is listed with its reason: files outside class folders, empty files, files that are
  no photo by their first bytes (names and suffixes do not count), files and folders that may not be read, and
  class folders without a usable photo, which are no classes.
- A link to a file counts as the file. A link to a folder is followed after the real folders of its class, unless the
  folder it leads to was read for this class already or lies above it: so no loop is entered.
- Devices, pipes and sockets are listed, never opened.

Photos are read once, to their end, for the hash of their content, but not decoded.

In an archive (`data/archived.py`) the same rules hold, below what it is wrapped in: a single folder that holds folders.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from headstart.data.dataset import Skipped, Split
from headstart.data.splits import spelled

CLUTTER = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "__macosx", "__pycache__"}
    | {"lost+found", "$recycle.bin", "system volume information"}
)
OUTSIDE = "not in a class folder"
NOWHERE = "a link that leads nowhere"
THREADS = 8  # reading waits for the disk, and hashing lets other threads run
BLOCK = 1 << 18  # bytes of a file in memory at a time, for each thread
PIECE = 16  # files that a thread takes at a time: handing over each would cost as much as hashing a small one
WINDOW = 4096  # files given to the threads at a time: a queue of all of them would take memory too

Refusal = Callable[[bytes], str | None]  # first bytes of a file -> why it is not usable


@dataclass(frozen=True, slots=True)
class Photo:
    """A file that seems usable. `given`: the split whose folder it lies in."""

    path: str  # relative to the root, with forward slashes
    id: str
    label: str
    given: Split | None
    group: str = ""  # see `Item`
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder holds, each sorted by path. `empty`: class folders without a usable photo."""

    photos: tuple[Photo, ...]
    skipped: tuple[Skipped, ...]
    empty: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Class:
    path: str
    label: str
    given: Split | None


@dataclass(slots=True)
class Listing:
    """The entries of one folder, as paths relative to the root, sorted; clutter is left out."""

    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)  # to folders
    files: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


class Tree(Protocol):
    """Folders and files, on a disk or in an archive. Paths are relative to its root; that of the root is empty."""

    def listing(self, path: str) -> Listing:
        """What this folder holds.

        Raises:
            OSError: it cannot be listed.
        """

    def identity(self, path: str) -> Hashable:
        """The same for two paths to the same folder.

        Raises:
            OSError: it cannot be looked at.
        """

    def above(self, path: str) -> dict[Hashable, str]:
        """The identities of folders that a link in this folder must not lead back to, in words."""

    def ids(self, paths: Sequence[str], refusal: Refusal) -> Iterator[tuple[str, str]]:
        """For each file in order: the hash of its bytes and "", or "" and why it cannot be used."""


def scan(tree: Tree, refusal: Refusal, top: str = "") -> Scan:
    """Everything in this folder of a tree, by the rules at the top of this file.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    classes, skipped = _classes(tree, top)
    found: list[tuple[str, _Class]] = []
    for folder in classes:
        files, unusable = _files(tree, folder)
        found += [(path, folder) for path in files]
        skipped += unusable
    photos: list[Photo] = []
    for (path, folder), (id, reason) in zip(found, tree.ids([path for path, _ in found], refusal), strict=True):
        if reason:
            skipped.append(Skipped(path, reason))
        else:
            photos.append(Photo(path, id, folder.label, folder.given))
    used = {(photo.label, photo.given) for photo in photos}
    empty = sorted(folder.path for folder in classes if (folder.label, folder.given) not in used)
    skipped += [Skipped(path, "a class folder without a usable photo") for path in empty]
    photos.sort(key=lambda photo: photo.path)
    skipped.sort(key=lambda file: (file.path, file.reason))
    return Scan(tuple(photos), tuple(skipped), tuple(empty))


def _classes(tree: Tree, root: str) -> tuple[list[_Class], list[Skipped]]:
    """The class folders, and what lies outside them."""
    top = tree.listing(root)
    sides = _sides(tree, top)
    if not sides:
        classes = [_Class(path, class_name(path), None) for path in top.folders + top.links]
        return classes, top.skipped + _outside(top.files)
    classes, skipped = [], top.skipped + _outside(top.files)
    for path in top.folders + top.links:
        if path not in sides:
            skipped.append(Skipped(path, "a folder beside train and test folders that names no split"))
            continue
        inside = _list_or_skip(tree, path)
        classes += [_Class(folder, class_name(folder), sides[path]) for folder in inside.folders + inside.links]
        skipped += inside.skipped + _outside(inside.files)
    return classes, skipped


def class_name(path: str) -> str:
    """The class that a class folder stands for."""
    # A folder that went through a Mac comes back with its accents decomposed: still the same class.
    return unicodedata.normalize("NFC", path.rpartition("/")[2])


def _outside(files: Sequence[str]) -> list[Skipped]:
    return [Skipped(path, OUTSIDE) for path in files]


def _sides(tree: Tree, top: Listing) -> dict[str, Split]:
    """The split that each top folder names, or nothing where the top folders are classes."""
    names = {path: path.rpartition("/")[2] for path in top.folders + top.links}
    sides = {path: split for path, name in names.items() if (split := spelled(name))}
    evaluation: Split = "validation" if "test" in sides.values() else "test"
    sides |= {path: evaluation for path, name in names.items() if name.casefold() in ("eval", "evaluation")}
    trains = [path for path, split in sides.items() if split == "train"]
    deep = any(inside.folders or inside.links for inside in (_list_or_skip(tree, path) for path in trains))
    if trains and (len(sides) == len(names) or (deep and len(set(sides.values())) > 1)):
        return sides
    return {}


def _files(tree: Tree, folder: _Class) -> tuple[list[str], list[Skipped]]:
    """The files of a class folder, however deep, real folders before linked ones."""
    files: list[str] = []
    skipped: list[Skipped] = []
    seen = tree.above(folder.path)
    real, links = deque([folder.path]), deque[str]()
    while real or links:
        path = real.popleft() if real else links.popleft()
        try:
            identity = tree.identity(path)
            if identity in seen:
                skipped.append(Skipped(path, f"a link to {seen[identity]}"))
                continue
            inside = tree.listing(path)
        except OSError as problem:
            skipped.append(Skipped(path, reason(problem)))
            continue
        seen[identity] = f"{path!r}, which is read already"
        real += inside.folders
        links += inside.links
        files += inside.files
        skipped += inside.skipped
    return files, skipped


def _list_or_skip(tree: Tree, path: str) -> Listing:
    try:
        return tree.listing(path)
    except OSError as problem:
        return Listing(skipped=[Skipped(path, reason(problem))])


def clutter(name: str) -> bool:
    """Whether a file or folder of this name is passed over in silence."""
    return name.startswith(".") or name.casefold() in CLUTTER


@dataclass(frozen=True, slots=True)
class Disk:
    """A folder on a disk as a `Tree`."""

    root: Path

    def listing(self, path: str) -> Listing:
        """What this folder holds.

        Raises:
            OSError: it cannot be listed.
        """
        listing = Listing()
        with os.scandir(self.root / path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not clutter(entry.name):
                    _sort_in(listing, entry, f"{path}/{entry.name}" if path else entry.name)
        return listing

    def identity(self, path: str) -> Hashable:
        """The place of this folder on its disk.

        Raises:
            OSError: it cannot be looked at.
        """
        status = (self.root / path).stat()
        return status.st_dev, status.st_ino

    def above(self, path: str) -> dict[Hashable, str]:
        """The folders that a link in the class folder must not lead back to."""
        real = self.root.resolve()
        parents = [real, *real.parents, *(self.root / parent for parent in Path(path).parents)]
        return {self.identity(str(folder)): "a folder above it" for folder in parents}

    def ids(self, paths: Sequence[str], refusal: Refusal) -> Iterator[tuple[str, str]]:
        """For each file in order: the hash of its bytes and "", or "" and why it cannot be used."""
        return hashes([functools.partial(blocks, self.root / path) for path in paths], refusal)


def _sort_in(listing: Listing, entry: os.DirEntry[str], path: str) -> None:
    try:
        kind = entry.stat().st_mode if entry.is_symlink() else entry.stat(follow_symlinks=False).st_mode
    except OSError as problem:
        listing.skipped.append(Skipped(path, reason(problem)))
        return
    if stat.S_ISDIR(kind):
        (listing.links if entry.is_symlink() else listing.folders).append(path)
    elif stat.S_ISREG(kind):
        listing.files.append(path)
    else:
        listing.skipped.append(Skipped(path, "not a regular file"))


def blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, piece by piece.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            yield block


def hashes(files: Sequence[Callable[[], Iterator[bytes]]], refusal: Refusal) -> Iterator[tuple[str, str]]:
    """For the content that each of these gives, in order: its hash and "", or "" and why it cannot be used."""

    def read(file: Callable[[], Iterator[bytes]]) -> tuple[str, str]:
        try:
            return identified(file(), refusal)
        except OSError as problem:
            return "", reason(problem)

    def several(piece: Sequence[Callable[[], Iterator[bytes]]]) -> list[tuple[str, str]]:
        return [read(file) for file in piece]

    with ThreadPoolExecutor(THREADS, thread_name_prefix="hash") as pool:
        for start in range(0, len(files), WINDOW):
            window = files[start : start + WINDOW]
            pieces = [window[first : first + PIECE] for first in range(0, len(window), PIECE)]
            for done in pool.map(several, pieces):
                yield from done


def identified(content: Iterator[bytes], refusal: Refusal) -> tuple[str, str]:
    """The hash of this content and "", or "" and why it cannot be used: then it is not read to its end.

    Raises:
        OSError: it cannot be read.
    """
    block = next(content, b"")
    if why := refusal(block):
        return "", why  # a film of gigabytes is not read to its end
    digest = hashlib.blake2b(block, digest_size=16)
    for block in content:
        digest.update(block)
    return digest.hexdigest(), ""


def reason(problem: OSError) -> str:
    """Why a file or folder cannot be used, in words for a list."""
    known = {
        errno.ENOENT: NOWHERE,
        errno.ELOOP: "a link that leads to itself",
        errno.EISDIR: "a folder, not a file",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
    }
    if problem.errno is None and problem.strerror:
        return problem.strerror  # ours, and said in full
    return known.get(problem.errno or 0) or f"cannot be read: {problem.strerror or problem}"
