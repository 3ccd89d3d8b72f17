"""Take the photos whose paths a table lists, and nothing else that stands in it: they are to be answered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from headstart.data import columns
from headstart.data.archive import at
from headstart.data.member import Readable
from headstart.data.records import READERS, Table, read_table
from headstart.errors import BadData


def is_table(path: Path) -> bool:
    """Whether this is a file with a table's suffix."""
    return path.suffix.lower() in READERS and path.is_file()


def listed(path: Path) -> list[Readable]:
    """The files that this table names in its column of paths, line by line; paths begin at its folder.

    A file that is gone is among them: it has its reason when it is read.

    Raises:
        BadData: the table cannot be read, has no column of paths, or not one of its files is there.
        BadSetting: a library for it is not installed.
    """
    table = read_table(path)
    names = list(_names(table, columns.of_paths(table.header, where=table.name)))
    files = [at(table.home / name) for name in names]
    if not any(not isinstance(file, Path) or file.exists() for file in files):
        address = any("://" in name for name in names)
        first = f", first {str(files[0])!r}" if files else ""
        raise BadData(
            f"none of the {len(files)} files that {table.name} lists is there{first}",
            fix="download them and list their paths"
            if address
            else "write paths relative to the table's folder, or absolute ones",
        )
    return files


def _names(table: Table, column: str) -> Iterator[str]:
    place = table.header.index(column)
    for number, cells in table.lines:
        cell = cells[place]
        if isinstance(cell, bytes | dict | list):
            raise BadData(
                f"{table.counting} {number} of {table.name} holds something else than a path in column {column!r}",
                fix="save the photos as files, and list their paths",
            )
        name = "" if cell is None else str(cell).strip()
        try:
            os.fsencode(name)
        except UnicodeEncodeError as problem:
            raise BadData(
                f"{table.counting} {number} of {table.name} has a path that is no text: {name!r}",
                fix="save the table as UTF-8",
            ) from problem
        if name and "\x00" not in name:
            yield name
