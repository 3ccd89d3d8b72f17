"""Take the photos of an archive, by the rules for folders, without unpacking it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from headstart.data.archive import Index, index, is_archive, unreadable
from headstart.data.dataset import Skipped
from headstart.data.folder import OUTSIDE, Listing, Refusal, clutter, hashes, scan
from headstart.data.sources import Asked, Found, Source
from headstart.data.splits import spelled
from headstart.errors import BadData, BadSetting, first_five

NESTED = "an archive inside the archive, which is not looked into"
_PACKED = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!")


def read(asked: Asked) -> Found:
    """The photos of an archive of class folders.

    Raises:
        BadData: the archive is damaged, or holds no usable photo.
        BadSetting: class names are given.
        DiskFull: there is no room to unpack a compressed tar.
    """
    if asked.classes is not None:
        raise BadSetting("class names are given for an archive", fix="leave classes out: they are the folders' names")
    path: Path = asked.sources["train"]
    try:
        held = index(path)
    except OSError as problem:
        raise unreadable(path, problem) from problem
    tree = Packed(held)
    found = scan(tree, _refusing(asked.refusal), top(tree))
    skipped = [*found.skipped, *(Skipped(name, reason) for name, reason in held.refused if not _cluttered(name))]
    skipped.sort(key=lambda file: (file.path, file.reason))
    if not found.photos:
        raise _nothing(path, skipped)
    return Found(root=path, scan=replace(found, skipped=tuple(skipped)))


class Packed:
    """An archive as a `folder.Tree`."""

    def __init__(self, held: Index) -> None:
        self.held = held
        self._listings: dict[str, Listing] = {"": Listing()}
        for name in sorted(held.folders):
            self._sort_in(name, folder=True)
        for name in sorted(held.files):
            self._sort_in(name, folder=False)

    def _sort_in(self, name: str, *, folder: bool) -> None:
        parent, _, own = name.rpartition("/")
        if clutter(own) or parent not in self._listings:  # also what lies in a folder that is clutter
            return
        (self._listings[parent].folders if folder else self._listings[parent].files).append(name)
        if folder:
            self._listings[name] = Listing()

    def listing(self, path: str) -> Listing:
        """What this folder holds."""
        return self._listings[path]

    def identity(self, path: str) -> Hashable:
        """The path itself: no link to a folder is followed in an archive."""
        return path

    def above(self, path: str) -> dict[Hashable, str]:
        """Nothing, for the same reason."""
        return {}

    def ids(self, paths: Sequence[str], refusal: Refusal) -> Iterator[tuple[str, str]]:
        """For each file in order: the hash of its bytes and "", or "" and why it cannot be used."""
        return hashes([self.held.files[path].blocks for path in paths], refusal)


def top(tree: Packed) -> str:
    """The folder that holds the class folders: what an archive is wrapped in is looked through."""
    path = ""
    while True:
        (*others,) = tree.listing(path).folders
        if len(others) != 1 or spelled(others[0].rpartition("/")[2]) or not tree.listing(others[0]).folders:
            return path
        path = others[0]


def _refusing(refusal: Refusal) -> Refusal:
    def why(head: bytes) -> str | None:
        return NESTED if head.startswith(_PACKED) else refusal(head)

    return why


def _cluttered(name: str) -> bool:
    return any(clutter(part) for part in name.strip("/").split("/") if part not in (".", ".."))


def _nothing(path: Path, skipped: Sequence[Skipped]) -> BadData:
    fix = "pack a folder that holds one folder of photos for each class"
    if not skipped:
        return BadData(f"archive {str(path)!r} is empty", fix=fix)
    if all(file.reason == OUTSIDE for file in skipped):
        return BadData(f"archive {str(path)!r} holds files ({len(skipped)}), but no class folders", fix=fix)
    problems = first_five([f"{file.path!r} ({file.reason})" for file in skipped])
    return BadData(f"no readable photo in archive {str(path)!r}: {problems}", fix=fix)


SOURCE = Source(
    what="an archive of one (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz)",
    takes=lambda source: isinstance(source, Path) and is_archive(source),
    read=read,
)
