"""Read the lines of a table as photos with labels: which column is which, and which lines cannot be used, and why."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headstart.data import columns as naming
from headstart.data.dataset import Skipped, Split
from headstart.data.records import Table
from headstart.data.rows import Row, classed
from headstart.data.splits import spelled
from headstart.errors import BadData, first_five

MANY = 20  # lines from which on it is told that nearly each has a label of its own
SHOWN = 200  # characters of a cell in a list of what was skipped

Place = Callable[[Any], tuple[str, str]]  # a path's cell -> absolute path and "", or a kept picture's name and id


class Unusable(Exception):
    """A line cannot be used; the message is a reason that a user understands."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What lines say: photos, and those lines that cannot be used."""

    rows: tuple[Row, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def joined(cls, parts: Sequence[Listed]) -> Listed:
        """All of them in one."""
        return cls(
            tuple(row for part in parts for row in part.rows),
            tuple(line for part in parts for line in part.skipped),
            tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )

    def classed(self, classes: Sequence[str] | None) -> Listed:
        """The same with the names that a user gave for the labels.

        Raises:
            BadData: there is a label that no name belongs to.
        """
        names = classed([row.label for row in self.rows], classes)
        rows = (replace(row, label=name) for row, name in zip(self.rows, names, strict=True))
        return replace(self, rows=tuple(rows))


def listed(table: Table, named: Mapping[str, str], side: Split | None, place: Place) -> Listed:
    """The photos of a table.

    Args:
        table: its lines.
        named: columns that the user names, by role.
        side: the split of all of them, where the table is for one.
        place: says where a photo is, or raises `Unusable`.

    Raises:
        BadData: a column is missing, a line has several labels, or a column of splits or weights holds none.
    """
    columns = naming.told(table.header, named, where=table.name)
    splits = _Splits.of(table, columns, side, named)
    if splits.unused:
        columns = {role: name for role, name in columns.items() if role != "split"}
    at = {role: table.header.index(name) for role, name in columns.items()}
    _refuse_several(table, at["label"], columns["label"])
    rows: list[Row] = []
    skipped = [_skipped(table, number, "", why) for number, why in table.broken]
    for number, cells in table.lines:
        try:
            rows.append(_row(table, number, {role: cells[column] for role, column in at.items()}, splits, place))
        except Unusable as why:
            skipped.append(_skipped(table, number, cells[at["path"]], str(why)))
    notes = [*table.notes, naming.note(columns, table.name), *splits.notes, *_many(rows, columns["label"], table)]
    return Listed(tuple(rows), tuple(skipped), tuple(notes))


def text(cell: Any) -> str:
    """A cell as text: numbers without a needless `.0`, nothing where there is nothing.

    Raises:
        Unusable: it is no text.
    """
    if cell is None or cell != cell:  # NaN is not even itself
        return ""
    if hasattr(cell, "item"):
        cell = cell.item()
    if isinstance(cell, float) and math.isfinite(cell) and cell == int(cell):
        cell = int(cell)
    words = unicodedata.normalize("NFC", str(cell)).strip()
    try:
        words.encode()
    except UnicodeEncodeError as problem:
        raise Unusable("text that is not Unicode") from problem
    return words


def _row(table: Table, number: int, cells: Mapping[str, Any], splits: _Splits, place: Place) -> Row:
    raw = cells["path"]
    # A path keeps its accents as they are: on some disks another form is another file.
    path = raw.strip() if isinstance(raw, str) else raw if isinstance(raw, dict | bytes) else text(raw)
    if not path:
        raise Unusable("no path")
    label = text(cells["label"])
    if not label:
        raise Unusable("no label")
    if label.splitlines() != [label]:
        raise Unusable("its label is more than one line of text")
    weight = _weight(text(cells["weight"])) if "weight" in cells else 1.0
    group = text(cells["group"]) if "group" in cells else ""
    given = splits.read(text(cells["split"])) if "split" in cells else splits.side
    where, id = place(path)
    return Row(f"{table.counting} {number} of {table.name}", where, label, given, group, weight, id)


def _weight(words: str) -> float:
    if not words:
        return 1.0
    try:
        number = float(words)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise Unusable(f"its weight {words[:SHOWN]!r} is not a number above 0")
    return number


@dataclass(frozen=True, slots=True)
class _Splits:
    """How a column's words for splits are read."""

    side: Split | None = None
    evaluation: Split = "test"  # what `eval` means: validation where there is a test too
    unused: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Table, columns: Mapping[str, str], side: Split | None, named: Mapping[str, str]) -> _Splits:
        if "split" not in columns:
            return cls(side)
        if side:
            return cls(side, unused=True)
        place = table.header.index(columns["split"])
        words: dict[str, int] = {}
        for number, cells in table.lines:
            words.setdefault(str(cells[place] if cells[place] is not None else "").strip(), number)
        words.pop("", None)
        evaluation: Split = "validation" if "test" in map(spelled, words) else "test"
        strange = {word: number for word, number in words.items() if not _split(word, evaluation)}
        if not strange:
            return cls(None, evaluation)
        if len(strange) < len(words) or "split" in named:
            lines = [f"{table.counting} {number} has {word[:SHOWN]!r}" for word, number in strange.items()]
            raise BadData(
                f"column {columns['split']!r} of {table.name} names splits that do not exist: {first_five(lines)}",
                fix="write train, validation or test, or leave the column out with --columns split=",
            )
        example = next(iter(strange))[:SHOWN]
        note = f"column {columns['split']!r} is not used: it names no splits, but holds {example!r}"
        return cls(None, unused=True, notes=(note,))

    def read(self, words: str) -> Split | None:
        return _split(words, self.evaluation) if words else None


def _split(words: str, evaluation: Split) -> Split | None:
    return evaluation if words.casefold() in ("eval", "evaluation") else spelled(words)


def _refuse_several(table: Table, column: int, name: str) -> None:
    """Nothing, unless lines have several labels each."""
    cells: dict[str, int] = {}
    for number, line in table.lines:
        cell = line[column]
        if isinstance(cell, list | tuple | set | dict) or getattr(cell, "ndim", 0) > 0:
            raise _several(table, number, name, cell)
        if isinstance(cell, str):
            cells.setdefault(cell.strip(), number)
    for cell, number in cells.items():
        if re.fullmatch(r"\[.*[,'\"].*\]", cell, re.DOTALL):
            raise _several(table, number, name, cell)
    parts = {cell: _parts(cell) for cell in cells}
    shared = Counter(part for each in parts.values() for part in set(each))
    for cell, each in parts.items():
        alone = len(each) > 1 and all(part in cells for part in each)
        mixed = len(each) > 1 and "," not in cell and all(shared[part] > 1 for part in each)
        if alone or mixed:
            raise _several(table, cells[cell], name, cell)


def _parts(cell: str) -> list[str]:
    return [part.strip() for part in re.split(r"[|;,]", cell) if part.strip()]


def _several(table: Table, number: int, name: str, cell: Any) -> BadData:
    return BadData(
        f"column {name!r} of {table.name} gives a photo several labels: {table.counting} {number} has "
        f"{str(cell)[:SHOWN]!r}",
        fix="give each photo exactly one class; several classes a photo are not supported",
    )


def _many(rows: Sequence[Row], name: str, table: Table) -> Iterator[str]:
    different = len({row.label for row in rows})
    if len(rows) >= MANY and different > len(rows) / 2:
        words = f"column {name!r} of {table.name} holds {different} different labels in {len(rows)} lines"
        yield f"{words}: is it the right one?"


def _skipped(table: Table, number: int, path: Any, why: str) -> Skipped:
    try:
        shown = text(path)[:SHOWN] if not isinstance(path, dict | bytes) else ""
    except Unusable:
        shown = ""
    where = f"{table.counting} {number} of {table.name}"
    return Skipped(shown, f"{where}: {why}") if shown else Skipped(where, why)
