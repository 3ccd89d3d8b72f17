"""Refuse a zip of a model that unpacks to far more than it is: numbers hardly shrink, and a bomb fills the memory."""

from __future__ import annotations

import zipfile

SHRUNK = 100  # times its size that an archive may unpack to: weights hardly shrink, descriptions tenfold
SMALL = 1 << 20  # bytes that nobody minds


def check(archive: zipfile.ZipFile) -> None:
    """Refuse it by what its members claim, before any is read; no more than that is ever unpacked of one.

    Raises:
        ValueError: it unpacks to more than any model.
    """
    claimed = sum(member.file_size for member in archive.infolist())
    # Where the list of members begins, the members end: what each says of its own size could be said of the same bytes.
    if claimed > SHRUNK * archive.start_dir + SMALL:
        raise ValueError("it unpacks to more than any model")
