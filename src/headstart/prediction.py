"""Say what is on a photo, whoever found it out, and find the photos that are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.data.archive import at, is_archive, photos
from headstart.data.paths import is_table, listed
from headstart.errors import BadData

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from headstart.data.member import Readable


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one file; where it could not be read, `error` says why and the rest is empty."""

    path: str
    label: str
    probability: float
    probabilities: dict[str, float]
    error: str | None = None
    unsure: bool | None = None  # whether the photo is like none of those of the training; None: the model cannot tell
    distance: float | None = None  # from those of the training, by which it is

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


def named(
    path: str,
    row: Float[np.ndarray, "k"],
    classes: Sequence[str],
    unsure: bool | None = None,
    distance: float | None = None,
) -> Prediction:
    """The answer that these probabilities give."""
    best = int(row.argmax())
    each = dict(zip(classes, map(float, row), strict=True))
    return Prediction(path, classes[best], float(row[best]), each, unsure=unsure, distance=distance)


def unread(path: str, reason: str) -> Prediction:
    """That there is no answer, and why."""
    return Prediction(path, "", float("nan"), {}, reason)


def find(paths: Sequence[str | Path], suffixes: frozenset[str]) -> list[Readable]:
    """These files; in place of each folder or archive the files in it that look like photos by their names, and in
    place of each table those that it lists.

    Raises:
        BadData: a path does not exist, an archive is damaged, a table lists no files, or nothing is found.
        BadSetting: a library that a table needs is not installed.
        DiskFull: there is no room to unpack a compressed tar.
    """
    missing = [str(path) for path in paths if isinstance(at(Path(path)), Path) and not Path(path).exists()]
    if missing:
        raise BadData(
            f"{len(missing)} of {len(paths)} paths do not exist, first {missing[0]!r}", fix="check the spelling"
        )
    files: list[Readable] = []
    for path in map(Path, paths):
        if is_archive(path):
            files += photos(path, suffixes)
            continue
        if is_table(path):
            files += listed(path)
            continue
        inside = sorted(path.rglob("*")) if path.is_dir() else []
        files += [file for file in inside if file.suffix.lower() in suffixes and not file.name.startswith(".")]
        files += [] if path.is_dir() else [at(path)]
    if not files:
        raise BadData(
            f"there is no photo in {str(paths[0])!r}" if len(paths) == 1 else "there is no photo to answer",
            fix="give image files, folders or archives that hold some, or tables of paths",
        )
    return files
