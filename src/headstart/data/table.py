"""Take the photos that a table lists: CSV, TSV, JSON Lines, JSON or Parquet with a column of paths and one of labels.

- Paths are relative to the table's folder, or absolute. Addresses (`https://...`) are refused.
- Columns are found by their names (`data/columns.py`), and a note says which; the user can name others.
- A row that cannot be used is listed with its line and the reason; the others count.
- A folder that holds `metadata.csv`, `.jsonl` or `.parquet` and no class folders is read as that table; so is one whose
  folders for splits hold one each.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.data.dataset import Split
from headstart.data.folder import clutter
from headstart.data.listing import Listed, Unusable, listed
from headstart.data.records import READERS, Table, read_table
from headstart.data.rows import gather, nothing
from headstart.data.sources import Asked, Found, Source
from headstart.data.splits import spelled
from headstart.errors import BadData

METADATA = tuple(f"metadata{suffix}" for suffix in (".csv", ".jsonl", ".parquet"))
GONE = "does not exist"
GUESSES = (".jpg", ".jpeg", ".png", ".JPG", ".webp", ".tif")


def read(asked: Asked) -> Found:
    """The photos that these tables list.

    Raises:
        BadData: a table cannot be read, has no column of paths or labels, gives photos several labels, or not one of
            its photos can be used.
        BadSetting: a library for it is not installed.
    """
    several = len(asked.sources) > 1
    tables = [pair for side, source in asked.sources.items() for pair in _tables(source, side if several else None)]
    parts = [listed(table, asked.columns, side, functools.partial(_place, home=table.home)) for table, side in tables]
    whole = Listed.joined(parts).classed(asked.classes)
    home = Path(os.path.commonpath([table.home for table, _ in tables]))
    order = tuple(map(str, asked.classes or ()))
    found = gather(whole.rows, whole.skipped, asked.refusal, home=home, classes=order)
    if not found.scan.photos:
        raise _none(tables[0][0], parts[0], found)
    return Found(root=found.root, scan=found.scan, classes=found.classes, notes=(*whole.notes, *found.notes))


def takes(source: Any) -> bool:
    """Whether this is a table, or a folder that holds one in place of class folders."""
    if not isinstance(source, Path):
        return _is_frame(source)
    if source.is_dir():
        return bool(_inside(source))
    return source.suffix.lower() in READERS and source.is_file()


def _tables(source: Any, side: Split | None) -> Iterator[tuple[Table, Split | None]]:
    if not isinstance(source, Path):
        yield _of_frame(source), side
    elif source.is_dir():
        for path, split in _inside(source).items():
            yield read_table(path), side or split
    else:
        yield read_table(source), side


def _inside(folder: Path) -> Mapping[Path, Split | None]:
    """The table in a folder without class folders, or those in its folders for splits; none where it holds none."""
    folders = _folders(folder)
    if len(folders) < 2 and (own := _metadata(folder)):
        return {own: None}
    sides = {name: split for name in folders if (split := spelled(name))}
    tables: dict[Path, Split | None] = {
        path: split
        for name, split in sides.items()
        if len(_folders(folder / name)) < 2 and (path := _metadata(folder / name))
    }
    return tables if len(tables) == len(folders) else {}


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not clutter(entry.name))
    except OSError:
        return []


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _place(cell: Any, *, home: Path) -> tuple[str, str]:
    """The absolute path that a cell names."""
    if isinstance(cell, bytes | dict):
        raise BadData(
            "a table holds pictures, not paths of pictures",
            fix='read it with the library that wrote it: load_dataset(datasets.load_dataset("parquet", ...))',
        )
    if "://" in cell:
        raise Unusable("an address, not a file: download it first")
    place = os.path.join(home, cell)
    if "\\" in cell and os.sep == "/" and not _exists(place):
        place = os.path.join(home, cell.replace("\\", "/"))  # written on Windows
    return os.path.normpath(place), ""


def _exists(place: str) -> bool:
    return "\x00" not in place and os.path.exists(place)


def _none(table: Table, part: Listed, found: Found) -> BadData:
    """The error for tables of which no row can be used."""
    gone = sum(file.reason.endswith(GONE) for file in found.scan.skipped)
    if not part.rows or 2 * gone < len(found.scan.skipped):
        address = any("an address" in file.reason for file in found.scan.skipped)
        fix = "download the photos and list their paths" if address else "list photos that exist, each with its label"
        return nothing(table.name, found.scan.skipped, fix=fix)
    first = part.rows[0].place
    return BadData(
        f"none of the {len(part.rows)} photos that {table.name} lists is there: paths begin at {str(table.home)!r}, "
        f"and the first one gives {first!r}",
        fix=_hint(first, table.home) or "write paths relative to the table's folder, or absolute ones",
    )


def _hint(first: str, home: Path) -> str:
    for suffix in GUESSES:
        if _exists(first + suffix):
            return f"{os.path.basename(first) + suffix!r} is there: write the paths with their suffix"
    within = os.path.relpath(first, home)
    for folder in _folders(home)[:100]:
        for suffix in ("", *GUESSES):
            if _exists(os.path.join(home, folder, within + suffix)):
                named = f"{folder}/{within}{suffix}"
                return f"{named!r} is there: put the table into {folder!r}, or write the paths like that"
    return ""


def _is_frame(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns")


def _of_frame(frame: Any) -> Table:
    """The lines of a pandas table; its paths begin at the folder that one is in."""
    plain = frame.astype(object).where(frame.notna(), None)
    lines = list(enumerate((list(cells) for cells in plain.itertuples(index=False, name=None)), start=1))
    return Table("the table", Path.cwd(), list(map(str, frame.columns)), lines, counting="row")


SOURCE = Source(
    what="a table of paths and labels (.csv, .tsv, .jsonl, .json, .parquet)",
    takes=takes,
    read=read,
    several=True,
    columns=True,
)
