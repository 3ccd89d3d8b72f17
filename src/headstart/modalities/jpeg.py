"""Find out about a JPEG's bytes what decoders keep to themselves: how many scans it has, and whether it is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator

SCAN, END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers that no length follows
# Within a scan, 0xFF00 is a byte of data, and 0xFFD0 to 0xFFD7 only let a decoder find its way back.
_NEXT = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# Nonsense to decode: no byte is 0xFF, and neighbours differ, so whatever is decoded from it is no plain surface.
_FILLER = bytes(place * 89 % 251 for place in range(2048))


def ended(content: bytes) -> bool:
    """Whether its end is marked. Where it is not, decoders take zeros that fill up a file for data."""
    return content.endswith(b"\xff\xd9") or any(kind == END for kind, _ in _parts(content))


def scans(content: bytes) -> Iterator[int]:
    """Where the data of each scan end, in bytes from the start of the file."""
    return (end for kind, end in _parts(content) if kind == SCAN)


def _parts(content: bytes) -> Iterator[tuple[int, int]]:
    """Marker and end of each scan, and of the end of the picture; what follows that belongs to no photo of ours."""
    place = 2
    while (marker := _NEXT.search(content, place)) is not None:
        kind, place = content[marker.end() - 1], marker.end()
        if kind == END:
            yield END, place
            return
        if kind in _ALONE:
            continue
        place += int.from_bytes(content[place : place + 2], "big")
        if kind == SCAN:
            end = _NEXT.search(content, place)
            yield SCAN, end.start() if end is not None else len(content)


def filled(content: bytes) -> bytes:
    """The same file with nonsense behind the data of its first scan.

    A decoder passes it over where the data were all there, and makes a picture of it where some were missing.
    """
    end = next(scans(content), len(content))
    return content[:end] + _FILLER + content[end:]
