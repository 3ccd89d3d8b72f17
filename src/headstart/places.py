"""Know where on this machine headstart keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

FOLDER = "HEADSTART_CACHE"


def cache_folder() -> Path:
    """`HEADSTART_CACHE`, or the system's place for the user's caches; it may not exist yet."""
    folder = os.environ.get(FOLDER)
    return Path(folder).expanduser().absolute() if folder else platformdirs.user_cache_path("headstart")
