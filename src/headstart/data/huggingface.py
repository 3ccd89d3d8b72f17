"""Take a data set of Hugging Face's library: in memory, or a folder that `save_to_disk` wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.data import pictures
from headstart.data.columns import parsed, told
from headstart.data.dataset import Split
from headstart.data.folder import Refusal
from headstart.data.listing import Listed, Unusable, listed
from headstart.data.records import Table
from headstart.data.rows import gather, nothing
from headstart.data.sources import Asked, Found, Source
from headstart.data.splits import spelled
from headstart.errors import BadData, BadSetting
from headstart.modalities.sniff import HEAD, sniff

ROWS = 64  # that are in memory at a time
MARKS = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes beside the data
SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2"}  # of files whose format is called otherwise
INSTALL = 'pip install "headstart[huggingface]"'


def read(asked: Asked) -> Found:
    """The photos of these data sets. Their files' bytes are kept as they are.

    Raises:
        BadData: one has no column of images or labels, names no split, streams, or holds no usable photo.
        BadSetting: the library is not installed, or the cache folder cannot be written.
        DiskFull: there is no room for the pictures.
    """
    parts = _parts(asked.sources)
    reading = [_listed(one, side, asked) for one, side in parts]
    whole = Listed.joined(reading).classed(asked.classes)
    names = list(asked.classes or dict.fromkeys(name for one, _ in parts for name in _names(one, asked)))
    if names:  # labels that the library does not know the names of stand behind
        names += sorted({row.label for row in whole.rows} - set(names))
    found = gather(whole.rows, whole.skipped, asked.refusal, home=None, classes=names)
    if not found.scan.photos:
        raise nothing("the data set", found.scan.skipped, fix="give one with pictures and a class for each")
    return Found(root=found.root, scan=found.scan, classes=found.classes, notes=(*whole.notes, *found.notes))


def takes(source: Any) -> bool:
    """Whether this is such a data set."""
    if isinstance(source, Path):
        return source.is_dir() and any((source / mark).is_file() for mark in MARKS)
    if isinstance(source, dict):
        return bool(source) and all(_is_part(part) for part in source.values())
    return _is_part(source)


def _is_part(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "datasets" and hasattr(source, "features")


def _parts(sources: Mapping[Split, Any]) -> list[tuple[Any, Split | None]]:
    """Each data set, and the split that it is for where there are several."""
    parts: list[tuple[Any, Split | None]] = []
    for side, source in sources.items():
        opened = _open(source) if isinstance(source, Path) else source
        if not isinstance(opened, dict):
            parts.append((opened, side if len(sources) > 1 else None))
        elif len(sources) > 1:
            raise BadData(
                f"data for {side} has splits of its own: {', '.join(opened)}",
                fix=f"give one of them, {_example(opened)}",
            )
        else:
            parts += _sides(opened)
    for part, _ in parts:
        if not hasattr(part, "__len__"):
            raise BadData("a data set that is streamed", fix="load it without streaming=True")
    return parts


def _sides(opened: Mapping[Any, Any]) -> list[tuple[Any, Split | None]]:
    if len(opened) == 1:
        return [(part, None) for part in opened.values()]
    sides = {str(name): spelled(str(name)) for name in opened}
    strange = [name for name, side in sides.items() if side is None]
    if strange:
        raise BadData(
            f"the data set has a split {strange[0]!r}, which is none of train, validation and test",
            fix=f"give the parts that you mean, {_example(opened)}",
        )
    return [(part, sides[str(name)]) for name, part in opened.items()]


def _example(opened: Mapping[Any, Any]) -> str:
    return f"such as load_dataset(ds[{next(iter(opened))!r}])"


def _open(folder: Path) -> Any:
    library = _library(f"{str(folder)!r} was written by Hugging Face's datasets")
    try:
        return library.load_from_disk(str(folder))
    except Exception as problem:  # whatever the library, Arrow and JSON throw at damaged files
        raise BadData(
            f"{str(folder)!r} looks like a data set that save_to_disk wrote, but does not load: {problem}",
            fix="save it again",
        ) from problem


def _library(what: str) -> Any:
    try:
        import datasets
    except ImportError as problem:
        raise BadSetting(f"{what}, and that library is not installed", fix=INSTALL) from problem
    return datasets


def _listed(source: Any, side: Split | None, asked: Asked) -> Listed:
    columns = _columns(source, asked.columns)
    library = _library("a data set of Hugging Face's datasets is given")
    plain = source.with_format(None).select_columns(list(dict.fromkeys(columns.values())))
    if isinstance(source.features[columns["path"]], library.Image):
        plain = plain.cast_column(columns["path"], library.Image(decode=False))
    where = f"the data set's {side} part" if side else "the data set"
    header = list(plain.column_names)
    rows = _rows(
        plain, header, columns["label"], source.features[columns["label"]], header.index(columns["path"]), asked.refusal
    )
    table = Table(where, Path.cwd(), header, list(enumerate(rows, start=1)), counting="row")
    return listed(
        table, {role: columns.get(role, "") for role in ("path", "label", "split", "group", "weight")}, side, _place
    )


def _columns(source: Any, named: Mapping[str, str]) -> dict[str, str]:
    """The column for each role: pictures and classes are known by their types, the rest by name."""
    kinds = {name: type(feature).__name__ for name, feature in source.features.items()}
    known = dict(named)
    for role, kind in (("path", "Image"), ("label", "ClassLabel")):
        typed = [name for name, this in kinds.items() if this == kind]
        if role not in known and len(typed) == 1:
            known[role] = typed[0]
    return told(list(source.features), parsed(known), where="the data set")


def _names(source: Any, asked: Asked) -> list[str]:
    feature = source.features[_columns(source, asked.columns)["label"]]
    return [str(name) for name in getattr(feature, "names", None) or ()]


def _rows(plain: Any, header: list[str], label: str, feature: Any, photo: int, refusal: Refusal) -> Iterator[list[Any]]:
    """Cells of each row; pictures are kept as they pass by, so that few are in memory."""
    names = getattr(feature, "names", None) or ()
    for batch in plain.iter(batch_size=ROWS):
        for cells in zip(*(batch[name] for name in header), strict=True):
            row = list(cells)
            at = header.index(label)
            if names and isinstance(row[at], int):
                row[at] = names[row[at]] if 0 <= row[at] < len(names) else None  # -1: not known
            row[photo] = _kept(row[photo], refusal)
            yield row


def _kept(picture: Any, refusal: Refusal) -> Any:
    """A path; or of a kept file its name and id; or the reason why it cannot be kept."""
    if picture is None:
        return {"reason": "no picture"}
    if not isinstance(picture, dict):
        return picture
    content, path = picture.get("bytes"), picture.get("path")
    if not content:
        return os.path.abspath(path) if path and content is None else {"reason": "no picture"}
    if reason := refusal(content):
        return {"reason": reason}
    kind = sniff(content[:HEAD])
    suffix = SUFFIXES.get(kind or "", f".{(kind or 'bin').lower()}")
    id = pictures.keep_file(content, suffix)
    return {"id": id, "name": id + suffix}


def _place(cell: Any) -> tuple[str, str]:
    if isinstance(cell, dict):
        if reason := cell.get("reason"):
            raise Unusable(reason)
        return cell["name"], cell["id"]
    if not isinstance(cell, str):
        raise Unusable("no picture and no path")
    if "://" in cell:
        raise Unusable("an address, not a file: download it first")
    return os.path.abspath(cell), ""


SOURCE = Source(
    what="a data set that Hugging Face's save_to_disk wrote", takes=takes, read=read, several=True, columns=True
)
