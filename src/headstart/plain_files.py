"""Look for what a stranger's folder must not hold: links, which lead elsewhere, pipes and devices, which never end."""

from __future__ import annotations

import os
from pathlib import Path


def strange(folder: Path) -> str | None:
    """The first thing in this folder, or one level below, that is neither a plain file nor a folder; or None.

    Raises:
        OSError: the folder cannot be looked into.
    """
    for inside in (folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())):
        with os.scandir(inside) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                    return str(Path(entry.path).relative_to(folder))
    return None
