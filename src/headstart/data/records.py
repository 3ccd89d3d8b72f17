"""Read the lines of a table, in any of the formats that tables come in; what a column means is not known here."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.errors import BadData, BadSetting

DELIMITERS = (",", "\t", ";", "|")
CELL = 1 << 20  # characters in a cell: more means that a quotation mark is missing
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # what a spreadsheet's "Unicode text" begins with
_FIX = "save it as CSV in UTF-8, with the names of the columns in its first line"


@dataclass(frozen=True, slots=True)
class Table:
    """The lines of a table. `lines`: number, and cells in the order of the header."""

    name: str  # in words
    home: Path  # the folder that its paths begin at
    header: list[str]
    lines: list[tuple[int, list[Any]]]
    broken: list[tuple[int, str]] = field(default_factory=list)  # lines that could not be read, and why
    notes: list[str] = field(default_factory=list)
    counting: str = "line"  # what a number counts: `line`, or `row` where there are no lines


def read_table(path: Path) -> Table:
    """The lines of this file, whose suffix says what it is.

    Raises:
        BadData: it cannot be read, or is no such table.
        BadSetting: a library for it is not installed.
    """
    try:
        table = READERS[path.suffix.lower()](path)
    except OSError as problem:
        raise BadData(
            f"table {str(path)!r} cannot be read: {problem.strerror or problem}", fix="make it readable for you"
        ) from problem
    if not table.lines and not table.broken:
        raise BadData(
            f"table {str(path)!r} lists nothing" + (" below its first line" if table.header else ""),
            fix="give one with the names of columns in its first line, and a line for each photo",
        )
    return table


def read_csv(path: Path) -> Table:
    """A table with a header line; its delimiter is the one that the header has most of.

    Raises:
        BadData: it is no such table.
        OSError: it cannot be read.
    """
    text, notes = _text(path)
    csv.field_size_limit(CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, path), strict=True)
    lines: list[tuple[int, list[Any]]] = []
    broken: list[tuple[int, str]] = []
    number = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        number = reader.line_num + 1
        for cells in reader:
            if len(cells) > len(header) and any(map(str.strip, cells[len(header) :])):
                broken.append((number, f"{len(cells)} cells, where the first line names {len(header)} columns"))
            elif any(map(str.strip, cells)):
                lines.append((number, (cells + [""] * (len(header) - len(cells)))[: len(header)]))
            number = reader.line_num + 1
    except csv.Error as problem:
        raise BadData(
            f"table {str(path)!r} cannot be read from line {number} on: {problem}",
            fix="look for a quotation mark that is missing or alone there",
        ) from problem
    return Table(f"table {path.name!r}", path.parent, header, lines, broken, notes)


def read_json_lines(path: Path) -> Table:
    """A table with a JSON object in each line.

    Raises:
        BadData: no line holds one.
        OSError: it cannot be read.
    """
    text, notes = _text(path)
    found: list[tuple[int, Mapping[str, Any]]] = []
    broken: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON may hold other line ends
        if not line.strip():
            continue
        value = _json(line)
        if isinstance(value, dict):
            found.append((number, value))
        else:
            broken.append((number, "not a JSON object"))
    if broken and not found:
        raise BadData(
            f"table {str(path)!r} holds no JSON object in any of its lines",
            fix='write a line for each photo: {"path": "a.jpg", "label": "cat"}',
        )
    return _of_objects(path, found, broken, notes, "line")


def read_json(path: Path) -> Table:
    """A JSON list of objects.

    Raises:
        BadData: it is none.
        OSError: it cannot be read.
    """
    text, notes = _text(path)
    value = _json(text)
    if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
        value = None
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        if len(text.strip().splitlines()) > 1 and isinstance(_json(text.strip().splitlines()[0]), dict):
            return read_json_lines(path)
        raise BadData(
            f"table {str(path)!r} is no JSON list of objects", fix='write [{"path": "a.jpg", "label": "cat"}, ...]'
        )
    return _of_objects(path, list(enumerate(value, start=1)), [], notes, "row")


def read_parquet(path: Path) -> Table:
    """A Parquet file.

    Raises:
        BadData: it is none.
        BadSetting: pyarrow is not installed.
        OSError: it cannot be read.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as problem:
        raise BadSetting(
            f"table {str(path)!r} is Parquet, which pyarrow reads, and that is not installed",
            fix='pip install "headstart[tables]"',
        ) from problem
    with path.open("rb"):  # tells of a missing permission in the system's words
        pass
    try:
        read = parquet.read_table(path, use_threads=False, partitioning=None)
        columns = [column.to_pylist() for column in read.columns]
    except (pyarrow.ArrowException, OSError, ValueError) as problem:
        raise BadData(
            f"table {str(path)!r} is no Parquet file that can be read: {problem}", fix="write it again"
        ) from problem
    lines = [(number, list(cells)) for number, cells in enumerate(zip(*columns, strict=True), start=1)]
    return Table(f"table {path.name!r}", path.parent, list(read.column_names), lines, counting="row")


READERS: Mapping[str, Callable[[Path], Table]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab"), read_csv),
    **dict.fromkeys((".jsonl", ".ndjson"), read_json_lines),
    ".json": read_json,
    **dict.fromkeys((".parquet", ".pq"), read_parquet),
}


def _of_objects(
    path: Path,
    objects: Iterable[tuple[int, Mapping[str, Any]]],
    broken: list[tuple[int, str]],
    notes: list[str],
    counting: str,
) -> Table:
    found = list(objects)
    header = list(dict.fromkeys(name for _, value in found for name in value))
    lines = [(number, [value.get(name) for name in header]) for number, value in found]
    return Table(f"table {path.name!r}", path.parent, header, lines, broken, notes, counting)


def _json(text: str) -> Any:
    """The value, or None where there is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also: a number of thousands of digits, brackets without end
        return None


def _text(path: Path) -> tuple[str, list[str]]:
    """The file's text, and a note where its encoding had to be guessed."""
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8-sig")
    try:
        return content.decode(encoding), []
    except UnicodeDecodeError as problem:
        if encoding == "utf-16" or b"\x00" in content:
            raise BadData(f"table {str(path)!r} is no text", fix=_FIX) from problem
    # What spreadsheets of the West write; Latin-1 has a letter for each byte, so that it cannot fail.
    for encoding in ("cp1252", "latin-1"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return text, [
            f"table {path.name!r} is not UTF-8 and was read as {encoding}: save it as UTF-8 if names look wrong"
        ]
    raise AssertionError("Latin-1 decodes everything")


def _delimiter(text: str, path: Path) -> str:
    first = text.lstrip("\r\n").partition("\n")[0]
    unquoted = "".join(first.split('"')[::2])
    usual = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    best = max(DELIMITERS, key=lambda each: (unquoted.count(each), each == usual))
    return best if unquoted.count(best) else usual
