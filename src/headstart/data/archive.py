"""Read the members of a zip or tar file where they lie: nothing is unpacked beside it, whatever its names say.

What is kept of an archive is a table of its members: where each begins, how it is packed. Each read opens the file for
itself, so any number of threads may read at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath
import re
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.data.member import LARGEST, Member, Packing
from headstart.data.member import Readable as Readable
from headstart.data.unpacking import plain
from headstart.errors import BadData

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
SWELLING = 2000  # times its size that an archive's members may claim together: no honest packing comes near
SMALL = 1 << 18  # bytes of an archive of which nobody minds how much it swells
LINKS = 8  # from one to the next
FIX = "copy or download it again, or pack the folder anew"
_DRIVE = re.compile(r"[A-Za-z]:")

_PACKINGS: dict[int, Packing] = {
    zipfile.ZIP_STORED: "stored",
    zipfile.ZIP_DEFLATED: "deflated",
    zipfile.ZIP_BZIP2: "bzip2",
}
_METHODS = {6: "imploding", 9: "Deflate64", 14: "LZMA", 93: "Zstandard", 95: "XZ"}
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, struct.error),
    *(ValueError, IndexError, OverflowError, NotImplementedError, RuntimeError),
)


@dataclass(frozen=True, slots=True)
class Index:
    """What an archive holds, by name. `refused`: names as they stand there, and why these are not read."""

    files: Mapping[str, Member]
    folders: frozenset[str]
    refused: tuple[tuple[str, str], ...]
    file: Path  # that is read: the archive, or what a compressed tar was unpacked to


def is_archive(path: Path) -> bool:
    """Whether this is a file with an archive's suffix."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def reader(root: Path) -> Callable[[str], Readable]:
    """What gives the file at a path below this root, which is a folder or an archive. Nothing is opened before that."""
    if not is_archive(root):
        return lambda path: root / path
    return lambda path: _Later(root, path)


def at(path: Path) -> Readable:
    """The file at this path, which may lead into an archive: `photos.zip/cats/1.jpg`."""
    if os.path.exists(path):
        return path
    archive = next((parent for parent in path.parents if is_archive(parent)), None)
    return _Later(archive, path.relative_to(archive).as_posix()) if archive else path


def photos(path: Path, suffixes: frozenset[str]) -> list[Member]:
    """The members of this archive that look like photos by their names, sorted.

    Raises:
        BadData: as `index`; or it cannot be read.
        BadSetting: as `index`.
        DiskFull: as `index`.
    """
    try:
        held = index(path)
    except OSError as problem:
        raise unreadable(path, problem) from problem
    return [
        replace(member, archive=path)  # named as the user named it
        for name, member in sorted(held.files.items())
        if Path(name).suffix.lower() in suffixes and not Path(name).name.startswith(".")
    ]


def unreadable(path: Path, problem: OSError) -> BadData:
    """The error for an archive that the system does not let us read."""
    return BadData(
        f"archive {str(path)!r} cannot be read: {problem.strerror or problem}", fix="make it readable for you"
    )


def index(path: Path) -> Index:
    """The members of this archive.

    Raises:
        BadData: it is damaged, or swells beyond all measure.
        BadSetting: the cache folder, to which a compressed tar is unpacked, cannot be written.
        DiskFull: there is no room to unpack it.
        OSError: it cannot be read.
    """
    status = path.stat()
    with _reading:  # else each of many threads would go through it when the first photos are read
        found = _index(path.absolute(), status.st_size, status.st_mtime_ns)
        if found.file != path.absolute() and not found.file.exists():  # somebody has cleared the cache folder
            _index.cache_clear()
            found = _index(path.absolute(), status.st_size, status.st_mtime_ns)
        return found


_reading = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Later:
    """A member that is looked up when it is read, so that a run can be opened whose archive is gone."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read_bytes(self) -> bytes:
        try:
            member = index(self.archive).files.get(self.name)
        except BadData as problem:
            raise OSError(None, problem.what) from problem
        if member is None:
            raise FileNotFoundError(None, "it is no longer in the archive")
        return member.read_bytes()


@functools.lru_cache(maxsize=4)
def _index(path: Path, size: int, changed: int) -> Index:
    """Size and time are there for the memory's sake: a changed archive is another one."""
    try:
        zipped = _zipped(path)
        file = path if zipped else plain(path)
        found = _zip_entries(path) if zipped else _tar_entries(path, file)
    except _BROKEN as problem:
        raise BadData(f"archive {str(path)!r} is damaged: {problem}", fix=FIX) from problem
    if sum(entry.member.size for entry in found if entry.member) > SWELLING * max(size, SMALL):
        raise BadData(
            f"archive {str(path)!r} claims to hold more than {SWELLING} times its own size: a zip bomb",
            fix="do not use it, and mistrust where it comes from",
        )
    return _arranged(found, file)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of an archive's own list: a member, a link, a folder, or a reason why it is none of these."""

    name: str
    member: Member | None = None
    target: str | None = None  # of a link, relative to the top of the archive, not yet made sure of
    folder: bool = False
    reason: str = ""


def _arranged(entries: list[_Entry], file: Path) -> Index:
    refused: list[tuple[str, str]] = []
    safe: dict[str, _Entry] = {}
    for entry in entries:
        name, reason = _inside(entry.name)
        if reason or entry.reason:
            refused.append((entry.name, reason or entry.reason))
        elif name:
            older = safe.get(name)
            if older and not (older.folder and entry.folder):
                refused.append((name, "the archive holds a later file of the same name, which is used"))
            safe[name] = entry
    folders = {name for name, entry in safe.items() if entry.folder}
    for name in safe:
        folders.update(_parents(name))
    files: dict[str, Member] = {}
    for name, entry in safe.items():
        if entry.folder:
            continue
        member, reason = _followed(name, entry, safe, folders)
        if name in folders:
            member, reason = None, "the name of a folder as well"
        if member is None:
            refused.append((name, reason))
        else:
            files[name] = member
    return Index(files, frozenset(folders), tuple(refused), file)


def _inside(name: str) -> tuple[str, str]:
    """The plain form of a member's name and "", or "" and why it would lead out of the archive."""
    if name.startswith("/"):
        return "", "an absolute path, which leads out of the archive"
    if _DRIVE.match(name):
        return "", "a path with a drive, which leads out of the archive"
    if "\x00" in name:
        return "", "a name that no file can have"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        return "", "a path with '..', which leads out of the archive"
    return "/".join(parts), ""


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name


def _followed(name: str, entry: _Entry, entries: Mapping[str, _Entry], folders: set[str]) -> tuple[Member | None, str]:
    """The member at the end of a chain of links, under the name of its beginning; or why there is none."""
    for _ in range(LINKS):
        if entry.member:
            return replace(entry.member, name=name), ""
        target = posixpath.normpath(entry.target or "")
        if target.startswith(("/", "..")) or _DRIVE.match(target):
            return None, "a link that leads out of the archive"
        if target in folders:
            return None, "a link to a folder, which is not followed in an archive"
        if target not in entries:
            return None, "a link that leads nowhere"
        entry = entries[target]
    return None, "a link that leads to itself"


# ---- zip


def _zipped(path: Path) -> bool:
    """Whether this is a zip; by its beginning, since a tar may end with one."""
    with path.open("rb") as file:
        begins = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    if (begins or path.suffix.lower() == ".zip") and not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("it is cut short, or no zip file")
    return begins or path.suffix.lower() == ".zip"


def _zip_entries(path: Path) -> list[_Entry]:
    with zipfile.ZipFile(path) as archive:
        return [_zip_entry(path, one) for one in archive.infolist()]


def _zip_entry(path: Path, one: zipfile.ZipInfo) -> _Entry:
    name = _zip_name(one)
    if name.endswith("/"):
        return _Entry(name, folder=True)
    if one.flag_bits & 1:
        return _Entry(name, reason="encrypted (unpack it with its password)")
    packing = _PACKINGS.get(one.compress_type)
    if packing is None:
        method = _METHODS.get(one.compress_type, f"method {one.compress_type}")
        return _Entry(name, reason=f"packed by {method}, which is not read (pack it anew as a plain zip)")
    if one.file_size > LARGEST:
        return _Entry(name, reason=_too_large(one.file_size))
    member = Member(
        path, path, name, one.header_offset, one.compress_size, one.file_size, packing=packing, checksum=one.CRC
    )
    if stat.S_ISLNK(one.external_attr >> 16):
        return _zip_link(name, member)
    return _Entry(name, member)


def _zip_link(name: str, member: Member) -> _Entry:
    if member.size > 4096:
        return _Entry(name, reason="a link without end")
    try:
        target = os.fsdecode(member.read_bytes())
    except OSError as problem:
        return _Entry(name, reason=problem.strerror or str(problem))
    return _Entry(name, target=_beside(name, target))


def _zip_name(one: zipfile.ZipInfo) -> str:
    """The name in Unicode with forward slashes."""
    name = one.orig_filename
    if not one.flag_bits & 0x800:
        # Macs write UTF-8 without saying so; what is not UTF-8 is left as the standard has it.
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")  # as programs on Windows write it, against the standard


# ---- tar


def _tar_entries(path: Path, file: Path) -> list[_Entry]:
    with tarfile.open(file, mode="r:") as archive:
        return [_tar_entry(path, file, one) for one in archive]


def _tar_entry(path: Path, file: Path, one: tarfile.TarInfo) -> _Entry:
    if one.isdir():
        return _Entry(one.name, folder=True)
    if one.issym():
        return _Entry(one.name, target=_beside(one.name, one.linkname))
    if one.islnk():  # a hard link: its name counts from the top
        return _Entry(one.name, target=one.linkname)
    if one.issparse() or not one.isreg():
        return _Entry(one.name, reason="not a regular file")
    if one.size > LARGEST:
        return _Entry(one.name, reason=_too_large(one.size))
    return _Entry(one.name, Member(path, file, one.name, one.offset_data, one.size, one.size))


# ---- both


def _beside(name: str, target: str) -> str:
    return target if target.startswith("/") else posixpath.join(posixpath.dirname(name), target)


def _too_large(size: int) -> str:
    return f"{size / 1e9:.1f} GB when unpacked, which no photo has"
