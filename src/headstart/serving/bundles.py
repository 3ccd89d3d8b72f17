"""Find the bundle that is to be served; a run is exported first, and found exported the next time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from pathlib import Path

from headstart.errors import BadBundle, BadServer
from headstart.events import Event, Note
from headstart.exporting.bundle import MANIFEST, Bundle, is_bundle
from headstart.places import cache_folder, make

FORMAT = "openvino"
FOLDER = "served"
_LIKE_RUNS = ("config.toml", "classes.txt", "events.jsonl")  # what lies in a run's folder
_MAKES_ANSWERS = ("backbone.json", "classes.txt", "config.toml", "evaluation.json")  # beside weights and features


def bundle_of(path: Path) -> Generator[Event, None, Path]:
    """The folder of the bundle: this one, or that of the run in this one.

    Raises:
        BadServer: it is neither.
        BadRun, BadExport: the run cannot be exported.
    """
    if is_bundle(path):
        return path
    if not any((path / name).is_file() for name in _LIKE_RUNS):
        there = "is neither a bundle nor a run" if path.exists() else "does not exist"
        raise BadServer(
            f"{str(path)!r} {there}", fix="give the folder that headstart train or headstart export printed"
        )
    kept = cache_folder() / FOLDER / _name(path)
    if is_bundle(kept):
        try:
            Bundle.open(kept)
        except BadBundle:
            _remove(kept)
        else:
            yield Note(text=f"found the run exported in {kept}")
            return kept
    from headstart.exporting.exporting import export

    yield Note(text=f"exporting the run to {FORMAT} first, into {kept}; the next start will find it there")
    make(kept.parent)
    yield from export(path, to=FORMAT, out=kept, precision="fp32")
    return kept


def _name(run: Path) -> str:
    """Of the bundle, by what the run's answers hang on: a run that was resumed or made anew has another."""
    digest = hashlib.sha256(os.path.realpath(run).encode("utf-8", "surrogateescape"))
    for file in sorted([*run.glob("*.safetensors"), *(run / name for name in _MAKES_ANSWERS)]):
        if file.is_file():
            with file.open("rb") as opened:
                digest.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:32]


def _remove(bundle: Path) -> None:
    """Delete what was damaged in the cache: no more than what a bundle is made of."""
    import shutil

    assert (bundle / MANIFEST).is_file()
    shutil.rmtree(bundle)
