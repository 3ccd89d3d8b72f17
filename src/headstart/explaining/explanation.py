"""Explain one answer as a picture: which places of a photo speak for a class, by a run's network or by a bundle."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.data.archive import at
from headstart.data.member import bytes_of
from headstart.errors import BadData, BadSetting, first_five
from headstart.events import Event
from headstart.exporting.bundle import is_bundle
from headstart.modalities.heat import Kind, overlay, shown_side
from headstart.modalities.modality import Undecodable
from headstart.modalities.spec import InputSpec
from headstart.modalities.upright import PIXEL_LIMIT
from headstart.runs import Run
from headstart.writing import whole

if TYPE_CHECKING:
    from jaxtyping import Float

KINDS: dict[str, Kind] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What was answered for a photo, and how much each place of it speaks for one class.

    `heat` covers the square that the network sees, row by row from its upper left, and is positive where a place speaks
    for the class; see `headstart.explaining.heat.heat_of` for its units.
    """

    photo: str
    answer: str  # the likeliest class
    label: str  # the class that is explained
    probability: float  # of that class
    probabilities: dict[str, float]
    unsure: bool | None  # whether the photo is like none of those of the training; None: the model cannot tell
    method: str
    heat: Float[np.ndarray, "r c"]
    picture: Path

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "photo": self.photo,
            "answer": self.answer,
            "label": self.label,
            "probability": self.probability,
            "probabilities": self.probabilities,
            "unsure": self.unsure,
            "method": self.method,
            "picture": str(self.picture),
            "heat": self.heat.tolist(),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """What a model says of one photo, and how it looked at it."""

    probabilities: Float[np.ndarray, "k"]
    unsure: bool | None
    label: int
    heat: Float[np.ndarray, "r c"]
    method: str
    spec: InputSpec
    max_pixels: int


def explain(
    source: Path, photo: Path, *, label: str | None = None, out: Path | None = None
) -> Generator[Event, None, Explanation]:
    """Write the photo with its heat over it, and tell what was found.

    Raises:
        BadRun: there is no such run, or it is not finished.
        BadBundle: the bundle was changed, or nothing here can run it.
        BadData: the photo does not exist or cannot be read.
        BadSetting: the model has no such class, or the picture cannot be written there.
        DiskFull: there is no room for it.
    """
    picture = _free(photo) if out is None else _checked(out)
    content = _content(photo)
    try:
        if is_bundle(source):
            seen, classes = _by_bundle(source, content, label)
        else:
            run = Run.open(source)
            classes = run.classes
            seen = yield from _by_run(run, photo, content, _position(label, classes))
        side = shown_side(content, max_pixels=seen.max_pixels)
        kind = KINDS[picture.suffix.lower()]
        drawn = overlay(content, seen.heat, seen.spec, side, kind=kind, max_pixels=seen.max_pixels)
    except Undecodable as problem:
        raise _unreadable(photo, str(problem)) from problem
    _write(drawn, picture)
    return Explanation(
        photo=str(photo),
        answer=classes[int(seen.probabilities.argmax())],
        label=classes[seen.label],
        probability=float(seen.probabilities[seen.label]),
        probabilities=dict(zip(classes, map(float, seen.probabilities), strict=True)),
        unsure=seen.unsure,
        method=seen.method,
        heat=seen.heat,
        picture=picture,
    )


def _by_run(run: Run, photo: Path, content: bytes, wanted: int | None) -> Generator[Event, None, _Seen]:
    from headstart.answering import answerer  # a bundle needs neither, nor the frameworks below them
    from headstart.explaining.heat import heat_of

    model = answerer(run)
    square = model.modality.decode(content, model.spec)
    found = yield from model.look([at(photo)])
    if found.failed:
        raise _unreadable(photo, found.failed[0])
    row, far = found.probabilities(model.temperature)[0], found.distances
    label = int(row.argmax()) if wanted is None else wanted
    heat, method = heat_of(model.network, model.spec, np.stack([square]), np.array([label]))
    limit = run.settings.max_pixels
    return _Seen(
        probabilities=row,
        unsure=None if model.novelty is None or far is None else bool(model.novelty.unsure(far)[0]),
        label=label,
        heat=heat[0],
        method=method,
        spec=model.spec,
        max_pixels=PIXEL_LIMIT if limit is None else limit,
    )


def _by_bundle(source: Path, content: bytes, name: str | None) -> tuple[_Seen, tuple[str, ...]]:
    from headstart.predictor import Predictor

    model = Predictor.open(source)
    classes = model.manifest.classes
    wanted = _position(name, classes)
    square = model.decode(content)
    outputs = model.answer(np.stack([square]))
    row = outputs.probabilities[0]
    label = int(row.argmax()) if wanted is None else wanted
    seen = _Seen(
        probabilities=row,
        unsure=None if outputs.distance is None else bool(model.unsure(outputs)[0]),
        label=label,
        heat=model.heat(square, label),
        method=model.method,
        spec=model.manifest.spec,
        max_pixels=model.manifest.max_pixels,
    )
    return seen, classes


def _position(label: str | None, classes: tuple[str, ...]) -> int | None:
    if label is None:
        return None
    if label not in classes:
        close = get_close_matches(label, classes, n=1, cutoff=0.6)
        near = f"did you mean {close[0]!r}? " if close else ""
        raise BadSetting(
            f"the model has no class {label!r}", fix=f"{near}it knows {first_five([repr(name) for name in classes])}"
        )
    return classes.index(label)


def _content(photo: Path) -> bytes:
    if photo.is_dir():
        raise BadData(f"{str(photo)!r} is a folder, not a photo", fix="give one photo")
    try:
        return bytes_of(at(photo))
    except FileNotFoundError:
        raise BadData(f"photo {str(photo)!r} does not exist", fix="check the spelling") from None
    except OSError as problem:
        raise _unreadable(photo, problem.strerror or str(problem)) from problem


def _unreadable(photo: Path, reason: str) -> BadData:
    return BadData(f"photo {str(photo)!r} cannot be read: {reason}", fix="give another photo, or save it again")


# ---- the picture's place


def _free(photo: Path) -> Path:
    """`NAME-explained.png` in the current folder, or the first number behind it that is free."""
    name = f"{photo.stem or 'photo'}-explained"
    numbered = (Path(f"{name}-{number}.png" if number > 1 else f"{name}.png") for number in count(1))
    return _checked(next(path for path in numbered if not path.exists() and not path.is_symlink()))


def _checked(path: Path) -> Path:
    """Refuse a place where nothing can be written, before any work."""
    if path.exists() or path.is_symlink():
        raise BadSetting(f"{str(path)!r} exists already", fix="choose another name with --out, or remove it")
    if path.suffix.lower() not in KINDS:
        raise BadSetting(
            f"{str(path)!r} has no ending of a kind that is written", fix=f"end its name in {', '.join(KINDS)}"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise BadSetting(
            f"picture {str(path)!r} cannot be written: {str(path.parent)!r} is not a folder one may write to",
            fix="choose another place with --out",
        )
    return path


def _write(drawn: bytes, picture: Path) -> None:
    with whole(picture) as temporary:
        temporary.write_bytes(drawn)
        _checked(picture)  # once more: another may have come meanwhile
