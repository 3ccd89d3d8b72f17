"""Read the bytes that an id stands for, from wherever they still lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from headstart.data.member import Readable, bytes_of


def content(id: str, places: Iterable[Readable]) -> bytes:
    """The content of this hash, from the first of these places that still has it.

    Raises:
        OSError: none has.
    """
    problem = OSError("no file")
    for place in places:
        try:
            found = bytes_of(place)
        except OSError as refusal:
            problem = refusal
            continue
        # Other bytes under this id would be in the cache for good, and for every later data set.
        if hashlib.blake2b(found, digest_size=16).hexdigest() == id:
            return found
        problem = OSError("it changed since the data set was read")
    raise problem
