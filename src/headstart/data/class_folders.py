"""Take the photos of a folder on a disk, by the rules in `data/folder.py`."""

from __future__ import annotations

from pathlib import Path

from headstart.data.folder import Disk, scan
from headstart.data.sources import Asked, Found, Source
from headstart.data.validity import nothing_usable
from headstart.errors import BadData, BadSetting


def read(asked: Asked) -> Found:
    """The photos of a folder of class folders.

    Raises:
        BadData: it cannot be read, or holds no usable photo.
        BadSetting: class names are given.
    """
    if asked.classes is not None:
        raise BadSetting(
            "class names are given for a folder", fix="leave classes out: in a folder they are the folders' names"
        )
    root: Path = asked.sources["train"]
    try:
        found = scan(Disk(root), asked.refusal)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise BadData(f"folder {str(root)!r} cannot be read: {reason}", fix="make it readable for you") from problem
    if not found.photos:
        raise nothing_usable(root, found.skipped)
    return Found(root=root, scan=found)


SOURCE = Source(
    what="a folder with a folder of photos for each class",
    takes=lambda source: isinstance(source, Path) and source.is_dir(),
    read=read,
    last=True,  # a folder that a library has written, or one with a table in it, is another's
)
