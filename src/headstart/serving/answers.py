"""Say what comes out, in the shapes that the service's description promises."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from headstart.serving.limits import Limits
from headstart.serving.refusals import Refusal
from headstart.serving.replies import Answer, Reply, Unanswered
from headstart.serving.swapping import Model
from headstart.serving.uploads import Upload

_DIGITS = 6  # of a probability; more are noise
# What a card may hold that is of the machine it was made on, or of the libraries there, and no stranger's business.
_PRIVATE = ("path", "folder", "file", "run", "data", "out", "command", "host", "version", "versions", "headstart")


class Refused(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="What is wrong, in one sentence.")
    hint: str = Field(description="The way out.")


class Unread(BaseModel):
    """A photo without an answer."""

    file: str | None = Field(description="Its name as sent; null where none was.")
    error: str = Field(description="Why it cannot be read.")


class NoneRead(Refused):
    """Nothing in the request could be answered."""

    photos: list[Unread] = Field(default=[], description="The reason for each photo, where there are any.")


class Score(BaseModel):
    """A class and how probable it is."""

    label: str
    probability: float = Field(ge=0, le=1)


class Answered(BaseModel):
    """What the model says of a photo."""

    file: str | None = Field(description="Its name as sent; null where none was.")
    label: str = Field(description="The most probable class.")
    probability: float = Field(ge=0, le=1, description="Calibrated: of answers with 0.8, eight in ten are right.")
    top: list[Score] = Field(description="The most probable classes, in falling order.")
    unsure: bool = Field(
        description="The photo is like none of those that the model learnt from: it may be none of these."
    )
    distance: float | None = Field(description="How far it is from them; null where the model cannot tell.")


class Explained(BaseModel):
    """Which places of a photo speak for a class."""

    file: str | None
    label: str = Field(description="The class that is explained.")
    probability: float = Field(ge=0, le=1, description="How probable it is.")
    heat: list[list[float]] = Field(description="A row of places after another, over the square that the model sees.")


class Alive(BaseModel):
    """The process runs."""

    alive: bool


class Ready(BaseModel):
    """Requests are taken."""

    ready: bool


class Card(BaseModel):
    """What the model is."""

    classes: list[str]
    format: str
    precision: str
    size: int = Field(description="Side of the square that the model sees, in pixels.")
    tells_unsure: bool = Field(description="Whether it can say that a photo is like none that it learnt from.")
    threshold: float | None = Field(description="A photo whose distance is above it is unsure.")
    false_alarms: float | None = Field(description="Share of photos like those of the training that are called unsure.")
    backbone: dict[str, Any]
    created: str
    card: dict[str, Any] = Field(description="Facts about the training, such as the accuracy.")
    parity: dict[str, Any] = Field(description="How the exported model was compared with the one that was trained.")
    limits: dict[str, int] = Field(description="Bytes and photos of a request, and pixels of a photo.")
    number: int = Field(description="Counts the models that this service has taken since its start.")


def answered(uploads: Sequence[Upload], replies: Sequence[Reply], model: Model, top_k: int) -> bytes:
    """The answer to /predict.

    Raises:
        Refusal: no photo could be answered; with the reason for each.
    """
    rows = [_row(upload, reply, model, top_k) for upload, reply in zip(uploads, replies, strict=True)]
    failed = [reply for reply in replies if isinstance(reply, Unanswered)]
    if len(failed) == len(rows):
        raise _none_read(failed, rows)
    return json.dumps(rows, ensure_ascii=False).encode("utf-8", "replace")


def explained(upload: Upload, reply: Reply, model: Model) -> dict[str, Any]:
    """The answer to /explain in numbers.

    Raises:
        Refusal: the photo could not be answered.
    """
    if isinstance(reply, Unanswered):
        raise _none_read([reply], [{"file": upload.name, "error": reply.reason}])
    assert reply.label is not None
    assert reply.heat is not None
    return {
        "file": upload.name,
        "label": model.manifest.classes[reply.label],
        "probability": round(float(reply.probabilities[reply.label]), _DIGITS),
        "heat": [[_finite(value) or 0.0 for value in row] for row in reply.heat],
    }


def card(model: Model, limits: Limits) -> dict[str, Any]:
    """The answer to /model."""
    manifest = model.manifest
    return {
        "classes": list(manifest.classes),
        "format": manifest.format,
        "precision": manifest.precision,
        "size": manifest.spec.size,
        "tells_unsure": manifest.threshold is not None and "distance" in manifest.outputs,
        "threshold": None if manifest.threshold is None else _finite(manifest.threshold),
        "false_alarms": None if manifest.false_alarms is None else _finite(manifest.false_alarms),
        "backbone": _public(manifest.backbone),
        "created": manifest.created,
        "card": _public(manifest.card),
        "parity": _public(manifest.parity),
        "limits": {"body": limits.body, "files": limits.files, "pixels": min(limits.pixels, manifest.max_pixels)},
        "number": model.number,
    }


def _row(upload: Upload, reply: Reply, model: Model, top_k: int) -> dict[str, Any]:
    if isinstance(reply, Unanswered):
        return {"file": upload.name, "error": reply.reason}
    top = _top(reply, model.manifest.classes, top_k)
    return {
        "file": upload.name,
        **top[0],
        "top": top,
        "unsure": reply.unsure,
        "distance": None if reply.distance is None else _finite(reply.distance),
    }


def _top(answer: Answer, classes: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    order = np.argsort(-answer.probabilities, kind="stable")[:top_k]
    return [
        {"label": classes[place], "probability": min(1.0, round(float(answer.probabilities[place]), _DIGITS))}
        for place in order
    ]


def _none_read(failed: Sequence[Unanswered], rows: Sequence[Mapping[str, Any]]) -> Refusal:
    if any(reply.ours for reply in failed):
        return Refusal(500, failed[0].reason, "look at what the service printed, and report it")
    what = failed[0].reason if len(failed) == 1 else f"none of the {len(failed)} photos can be read"
    return Refusal(422, what, "send photos as JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF", more={"photos": list(rows)})


def _finite(value: float) -> float | None:
    return round(float(value), _DIGITS) if math.isfinite(value) else None


def _public(value: Any) -> Any:
    """The same without what speaks of a machine: its places, commands and libraries."""
    if isinstance(value, Mapping):
        return {
            str(key): _public(item) for key, item in value.items() if str(key) not in _PRIVATE and not _is_path(item)
        }
    if isinstance(value, list | tuple):
        return [_public(item) for item in value if not _is_path(item)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith(("/", "~", "\\\\")) or value[1:3] in (":\\", ":/"))
