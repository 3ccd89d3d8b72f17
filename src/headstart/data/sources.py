"""Find what reads the thing that a user names: a folder, a table, an archive, an object. Others' sources count alike.

A source is a `Source` that a package offers under the entry-point group `headstart.data`. It says what it takes, and
turns that into a `Found`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from headstart.data.dataset import Split
from headstart.data.folder import Refusal, Scan
from headstart.errors import BadData, BadSetting
from headstart.registry import Registry, closest

SOURCES = Registry("source of photos", "headstart.data", BadSetting)
PACKED = {".rar", ".7z", ".gz", ".zst", ".lz4", ".br"}  # what somebody may take for an archive that is read


@dataclass(frozen=True, kw_only=True)
class Found:
    """What there is: photos below a root, and the names of the classes where they have an order of their own.

    The root is a folder or an archive (`data/archive.py`), and each photo's path leads from there.
    """

    root: Path
    scan: Scan
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be read. Places on a disk are absolute `Path`s that exist; everything else is an object."""

    sources: Mapping[Split, Any]  # one for training; further ones where the user keeps splits apart
    refusal: Refusal  # why a file that begins with these bytes is not usable
    columns: Mapping[str, str] = field(default_factory=dict)  # role, such as `label` -> the column's name
    classes: Sequence[str] | None = None  # names for labels that are numbers, or an order for names


@dataclass(frozen=True, kw_only=True)
class Source:
    """One kind of thing that photos can be read from."""

    what: str  # in words, for a list of what can be given
    takes: Callable[[Any], bool]  # whether this is such a thing; cheap, since every source is asked
    read: Callable[[Asked], Found]  # raises a HeadstartError where nothing in it can be used
    place: bool = True  # whether it lies on a disk; else it is an object alone
    several: bool = False  # whether splits may come as things of their own
    columns: bool = False  # whether it has columns that a user can name
    last: bool = False  # asked after the others, because it takes what they may know better


def find(named: Mapping[Split, Any], *, columns: bool = False) -> tuple[Source, Mapping[Split, Any]]:
    """The source that takes all of these, and them with their places made absolute. `columns`: some are named.

    Raises:
        BadData: one does not exist, or no source takes it.
        BadSetting: they are of several kinds, or columns are named where there are none.
    """
    every = _all()
    first = _taking(_placed(named["train"]), named["train"], every)
    if len(named) > 1 and (not first.several or len({_is_place(each) for each in named.values()}) > 1):
        raise _mixed(named, first)
    sources = {side: _placed(each) for side, each in named.items()}
    for side, each in sources.items():
        if (kind := _taking(each, named[side], every)) is not first:
            raise BadSetting(
                f"data for {side} is {kind.what}, and for train {first.what}", fix="give both in the same way"
            )
    if columns and not first.columns:
        raise BadSetting(
            f"columns are named, but {str(named['train'])!r} has none" if _is_place(named["train"])
            else "columns are named, but the data has none",
            fix="leave the columns out, or give a table",
        )  # fmt: skip
    return first, sources


def kinds() -> str:
    """What can be given that lies on a disk, in words."""
    every = [source.what for source in reversed(_all()) if source.place]
    return ", ".join(every[:-1]) + f" or {every[-1]}" if len(every) > 1 else "".join(every)


def _all() -> list[Source]:
    return sorted(SOURCES.loadable().values(), key=lambda source: source.last)


def _taking(source: Any, named: Any, every: Sequence[Source]) -> Source:
    for kind in every:
        if kind.takes(source):
            return kind
    if isinstance(source, Path):
        packed = source.suffix.lower() in PACKED
        raise BadData(
            f"{str(named)!r} is a file, not a folder, and of no kind that is known",
            fix="unpack it, or pack it as .zip or .tar" if packed else f"give {kinds()}",
        )
    raise BadData(
        f"{type(source).__name__} is no kind of data set that is known",
        fix="give a folder, (pictures, labels), a tf.data.Dataset or a Keras data set",
    )


def _mixed(named: Mapping[Split, Any], first: Source) -> BadSetting:
    side: Split = next((side for side, each in named.items() if _is_place(each)), "train")
    others = ", ".join(each for each in named if each != side)
    place = Path(named[side]) if _is_place(named[side]) else None
    what = first.what if place is None else "a file" if place.is_file() else "a folder"
    return BadSetting(
        f"{what} is given for {side}, beside data for {others}",
        fix="put the folders train, validation and test into one folder and give that, or give objects alone",
    )


def _is_place(source: Any) -> bool:
    return isinstance(source, str | PathLike)


def _placed(source: Any) -> Any:
    if not _is_place(source):
        return source
    path = Path(source).expanduser()
    if source == "" or not _exists(path):
        parent = path.parent
        near = closest(path.name, [other.name for other in parent.iterdir()] if parent.is_dir() else [])
        what = "file" if path.suffix else "folder"
        if re.match(r"\w+:/", str(source)):
            raise BadData(f"{str(source)!r} is an address, not a place on this machine", fix="download it first")
        raise BadData(f"{what} {str(source)!r} does not exist", fix=near or "check the spelling of the path")
    return path.absolute()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or one with a null character
        return False
