"""Know where on this machine headstart keeps what can be made again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import platformdirs

FOLDER = "HEADSTART_CACHE"


def cache_folder() -> Path:
    """`HEADSTART_CACHE`, or the system's place for the user's caches; it may not exist yet."""
    folder = os.environ.get(FOLDER)
    return Path(folder).expanduser().absolute() if folder else platformdirs.user_cache_path("headstart")


def make(folder: Path) -> None:
    """Make this folder. Where it lies in a cache folder that is new, nobody else may look into that: it holds photos.

    Raises:
        OSError: it cannot be made.
    """
    root = cache_folder()
    if not root.exists() and (root == folder or root in folder.parents):
        root.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # who made it before, said who may look into it
            root.mkdir(mode=0o700)
    folder.mkdir(parents=True, exist_ok=True)
