"""Run headstart in a process in which training frameworks are not installed, as far as it can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FRAMEWORKS = ("torch", "torchvision", "timm", "transformers", "tensorflow", "keras", "jax", "jaxlib")
_HIDING = """
import sys
from importlib.machinery import PathFinder

class Hiding:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else PathFinder.find_spec(name, path, target)

    invalidate_caches = staticmethod(PathFinder.invalidate_caches)
    find_distributions = staticmethod(PathFinder.find_distributions)

sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""


def without(
    hidden: Sequence[str], arguments: Sequence[str], folder: Path, *, limit: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` prints where these packages are hidden; `folder` is for the file that hides them."""
    (folder / "sitecustomize.py").write_text(_HIDING.format(hidden=set(hidden)))
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
