"""Look into a TFLite file before an interpreter does: refuse one with operations that TFLite itself does not have.

Such operations come from libraries beside it. TensorFlow brings one, Flex, by which a graph can read and write files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from headstart.errors import BadBundle

_CUSTOM, _DELEGATE = 32, 51  # numbers of kinds of operation that are not TFLite's own
_OPERATORS, _KNOWN_FIELDS = 1, 8  # of the table that a file begins with; later fields name other files
_MOST_OPERATORS = 10_000


def check(path: Path) -> None:
    """Refuse a file that needs more than TFLite, or is none.

    Raises:
        BadBundle: with the reason.
    """
    what = f"graph {str(path)!r}"
    try:
        content = path.read_bytes()
        if content[4:8] != b"TFL3":
            raise ValueError("another kind of file")
        root = _Table(content, struct.unpack_from("<I", content)[0])
        strange = next((name for name in map(_strange, root.tables(_OPERATORS)) if name), None)
    except (OSError, ValueError, IndexError, struct.error) as problem:
        raise BadBundle(f"{what} is no TFLite file, or damaged", fix="do not use it, or export it again") from problem
    if strange is not None:
        raise BadBundle(f"{what} does more than TFLite can: it holds the operation {strange!r}", fix="do not use it")
    if root.fields > _KNOWN_FIELDS:
        raise BadBundle(f"{what} may want to read other files", fix="do not use it")


class _Table:
    """A table of FlatBuffers: its fields by their numbers."""

    def __init__(self, content: bytes, place: int) -> None:
        self._content, self._place = content, place
        self._layout = place - struct.unpack_from("<i", content, place)[0]
        if self._layout < 0:
            raise ValueError("a table whose layout lies before the file")
        self.fields = struct.unpack_from("<H", content, self._layout)[0] // 2 - 2

    def at(self, field: int) -> int | None:
        """Where a field lies; None where it has its default."""
        if field >= self.fields:
            return None
        offset: int = struct.unpack_from("<H", self._content, self._layout + 4 + 2 * field)[0]
        return self._place + offset if offset else None

    def number(self, field: int, kind: str) -> int:
        """A whole number, of a kind of `struct`."""
        place = self.at(field)
        return 0 if place is None else int(struct.unpack_from(f"<{kind}", self._content, place)[0])

    def text(self, field: int) -> str:
        """A string; empty where there is none."""
        place = self._pointed(field)
        if place is None:
            return ""
        length = struct.unpack_from("<I", self._content, place)[0]
        return self._content[place + 4 : place + 4 + length].decode(errors="replace")

    def tables(self, field: int) -> Iterator[_Table]:
        """The tables of a vector of them."""
        place = self._pointed(field)
        if place is None:
            return
        length = struct.unpack_from("<I", self._content, place)[0]
        if length > _MOST_OPERATORS:
            raise ValueError("more kinds of operation than there are")
        for each in range(place + 4, place + 4 + 4 * length, 4):
            yield _Table(self._content, each + struct.unpack_from("<I", self._content, each)[0])

    def _pointed(self, field: int) -> int | None:
        place = self.at(field)
        return None if place is None else place + int(struct.unpack_from("<I", self._content, place)[0])


def _strange(operator: _Table) -> str | None:
    """The name of a kind of operation that is not TFLite's own; None for its own."""
    code, name = max(operator.number(0, "b"), operator.number(3, "i")), operator.text(1)
    return name or str(code) if name or code in (_CUSTOM, _DELEGATE) else None
