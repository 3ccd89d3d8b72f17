"""Turn rows, each a photo with its label, into one set of photos: what a table, a list or a library gave.

- Of rows that list one photo with one label, one counts: the first of those with the strongest split.
- Rows that give one photo several labels are all left out: nobody can tell which is right.
- Everything that is left out is listed with its row and the reason.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.data import folder, pictures
from headstart.data.dataset import Dataset, Item, Skipped, Split
from headstart.data.folder import Photo, Refusal, Scan
from headstart.data.sources import Found
from headstart.data.splits import STRONGER
from headstart.errors import BadData, first_five


@dataclass(frozen=True, slots=True)
class Row:
    """One photo and what is said about it."""

    where: str  # such as `line 12 of photos.csv`
    place: str  # the file's absolute path; or the name under which a picture that has none is kept: `<id>.png`
    label: str
    given: Split | None = None
    group: str = ""
    weight: float = 1.0
    id: str = ""  # of a kept picture; empty for a file


def gather(
    rows: Sequence[Row], skipped: Iterable[Skipped], refusal: Refusal, *, home: Path | None, classes: Sequence[str] = ()
) -> Found:
    """All these photos below one root: `home`, where all files lie inside.

    Args:
        rows: as they were read.
        skipped: rows that could not be used, already.
        refusal: says of a file's first bytes why it is not usable.
        home: the folder that paths in a table begin at.
        classes: an order of the names; those of which no photo is left are left out, with a note.

    Raises:
        BadData: a class's name is more than a line of text.
        BadSetting: the cache folder cannot be written.
        DiskFull: there is no room for pictures.
    """
    left, dropped = _once(rows)
    _check_names({row.label for row in left})
    good: list[tuple[Row, str, str]] = []  # with its place on the disk and its id
    files = [row for row in left if not row.id]
    contents = [functools.partial(_blocks, row.place) for row in files]
    for row, (id, why) in zip(files, folder.hashes(contents, refusal), strict=True):
        if why:
            dropped.append((row.place, f"{row.where}: {_told(why, row.place)}"))
        else:
            good.append((row, row.place, id))
    notes: list[str] = []
    if kept := [row for row in left if row.id]:
        laid, inside = _laid_out(kept)
        good += [(row, str(laid / path), row.id) for row, path in zip(kept, inside, strict=True)]
        notes.append(f"the pictures are kept as files in {str(laid)!r}")
    # By what is used alone: a wrong path must not move the root.
    base = home if not kept else laid if len(kept) == len(good) else None
    root = _root({os.path.dirname(place) for _, place, _ in good}, base)
    photos = [Photo(_below(place, root), id, row.label, row.given, row.group, row.weight) for row, place, id in good]
    out = [*skipped, *(Skipped(_below(place, root), why) for place, why in dropped)]
    photos.sort(key=lambda photo: photo.path)
    names, unused = _settled(classes, {row.label for row in rows}, {photo.label for photo in photos})
    if unused:
        notes.append(f"no usable photo in {first_five([repr(name) for name in unused])}: not a class")
    scan = Scan(tuple(photos), tuple(sorted(out, key=lambda file: (file.path, file.reason))), ())
    return Found(root=root, scan=scan, classes=names, notes=tuple(notes))


def nothing(what: str, skipped: Sequence[Skipped], *, fix: str) -> BadData:
    """The error for rows of which not one can be used, after why each cannot be."""
    problems = first_five([f"{file.path!r} ({file.reason})" for file in skipped])
    return BadData(f"no usable photo in {what}" + (f": {problems}" if problems else ""), fix=fix)


def numbered(names: Collection[str]) -> list[str]:
    """Names in their order: as numbers count where all are numbers, else by letters."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
    return sorted(names)


def _once(rows: Sequence[Row]) -> tuple[list[Row], list[tuple[str, str]]]:
    """Each photo once, in the order of the rows; and the others, by place, with the reason."""
    same: dict[str, list[Row]] = {}
    for row in rows:
        same.setdefault(f"{row.id} {row.given} {row.label}" if row.id else os.path.normpath(row.place), []).append(row)
    left: list[Row] = []
    dropped: list[tuple[str, str]] = []
    for several in same.values():
        if several[0].id or len(several) == 1:
            left += several  # equal pictures all count, as equal files in a folder do
            continue
        if len({row.label for row in several}) > 1:
            dropped += [(row.place, _clash(row, several)) for row in several]
            continue
        best = min(several, key=lambda row: STRONGER.index(row.given) if row.given else len(STRONGER))
        left.append(best)
        dropped += [(row.place, _double(row, best)) for row in several if row is not best]
    return left, dropped


def _clash(row: Row, several: Sequence[Row]) -> str:
    other = next(other for other in several if other.label != row.label)
    return f"{row.where} gives it the label {row.label!r}, but {other.where} the label {other.label!r}"


def _double(row: Row, kept: Row) -> str:
    marks = ("split", row.given, kept.given), ("group", row.group, kept.group), ("weight", row.weight, kept.weight)
    other = ", ".join(f"{name} {now or 'none'!r} there {then or 'none'!r}" for name, now, then in marks if now != then)
    return f"{row.where}: the same photo as in {kept.where}, which counts" + (f" ({other})" if other else "")


def _laid_out(kept: Sequence[Row]) -> tuple[Path, list[str]]:
    """Kept pictures in a folder like a user's own, with splits and classes as folders; its place, and each path."""
    classes = sorted({row.label for row in kept})
    position = {name: place for place, name in enumerate(classes)}
    paths = [
        f"{row.given or 'train'}/{pictures.folder_name(position[row.label], row.label)}/{row.place}" for row in kept
    ]
    items = tuple(
        Item(row.id, path, position[row.label], row.given or "train") for row, path in zip(kept, paths, strict=True)
    )
    name = Dataset(root=Path(), classes=tuple(classes), items=items).hash
    return pictures.lay_out(name, ((path, row.id) for path, row in zip(paths, kept, strict=True))), paths


def _root(folders: Collection[str], home: Path | None) -> Path:
    inside = home is not None and any(_lies_in(folder, str(home)) for folder in folders)
    every = [*folders, str(home)] if home is not None and (inside or not folders) else list(folders)
    if not every:
        return Path.cwd()
    try:
        return Path(os.path.commonpath(every))
    except ValueError as problem:  # only where paths begin with drives
        raise BadData(f"the photos lie on several drives: {problem}", fix="put them onto one") from problem


def _lies_in(folder: str, home: str) -> bool:
    return folder == home or folder.startswith(home.rstrip(os.sep) + os.sep)


def _below(place: str, root: Path) -> str:
    prefix = str(root).rstrip(os.sep) + os.sep
    path = place[len(prefix) :] if place.startswith(prefix) else os.path.relpath(place, root)
    return path if os.sep == "/" else path.replace(os.sep, "/")


def _blocks(place: str) -> Iterator[bytes]:
    # Looked at before it is opened: a pipe would be waited for without end.
    try:
        kind = os.stat(place).st_mode
    except ValueError as problem:
        raise OSError(None, "a name that no file can have") from problem
    if stat.S_ISDIR(kind):
        raise OSError(errno.EISDIR, "")
    if not stat.S_ISREG(kind):
        raise OSError(None, "not a regular file")
    yield from folder.blocks(Path(place))


def _told(why: str, place: str) -> str:
    return "does not exist" if why == folder.NOWHERE and not os.path.lexists(place) else why


def _check_names(names: Collection[str]) -> None:
    odd = sorted(repr(name) for name in names if name.splitlines() != [name])
    if odd:
        raise BadData(f"a class has the name {odd[0]}", fix="give each class one line of text as its name")


def _settled(order: Sequence[str], listed: Collection[str], used: Collection[str]) -> tuple[tuple[str, ...], list[str]]:
    every = list(order) or numbered(listed)
    return tuple(name for name in every if name in used), [name for name in every if name not in used]


def classed(values: Sequence[Any], classes: Sequence[str] | None) -> list[str]:
    """The class of each value, a name or a number, where a user may have given the names in their order.

    Raises:
        BadData: there is a value that no name belongs to.
    """
    if classes is None:
        return [str(value) for value in values]
    if isinstance(classes, str):
        raise BadData(f"classes={classes!r} is one name", fix=f"give a list of all names: classes=[{classes!r}, ...]")
    names = {str(name): str(name) for name in classes}
    places: Mapping[str, str] = {str(place): str(name) for place, name in enumerate(classes)} | names
    unknown = sorted({str(value) for value in values if str(value) not in places})
    if unknown:
        raise BadData(
            f"labels that are not among the classes: {first_five([repr(name) for name in unknown])}",
            fix=f"the classes given are {', '.join(names)}",
        )
    return [places[str(value)] for value in values]
