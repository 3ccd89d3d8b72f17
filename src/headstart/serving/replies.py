"""Ask a model about photos, and hold what it says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, UInt8

from headstart.modalities.heat import Kind
from headstart.serving.swapping import Model


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the model says of one photo."""

    probabilities: Float[np.ndarray, "k"]
    distance: float | None
    unsure: bool
    heat: Float[np.ndarray, "r c"] | None = None  # of `label`, where it was asked for
    label: int | None = None
    drawn: bytes | None = None  # the photo with its heat, as a file


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Why there is no answer for a photo; `ours` where the service is to blame and not the photo."""

    reason: str
    ours: bool = False


Reply = Answer | Unanswered


@dataclass(frozen=True, slots=True)
class Heat:
    """The wish to see which places speak for a class."""

    label: int | None  # None: the answer
    drawn: Kind | None = None  # the kind of picture that is wanted; None: none


@dataclass(eq=False)
class Asked:
    """The photos of one request, which share a model and end together."""

    contents: Sequence[bytes]
    model: Model
    heat: Heat | None = None
    gone: bool = False  # the client left or the time is over: what is not begun is dropped
    replies: dict[int, Reply] = field(default_factory=dict)


def answers(model: Model, pictures: UInt8[np.ndarray, "n size size 3"]) -> list[Answer]:
    """One for each picture."""
    outputs = model.predictor.answer(pictures)
    unsure, distance = model.predictor.unsure(outputs), outputs.distance
    return [
        Answer(row, None if distance is None else float(distance[place]), bool(unsure[place]))
        for place, row in enumerate(outputs.probabilities)
    ]


def explained(asked: Asked, picture: UInt8[np.ndarray, "size size 3"]) -> Answer:
    """The answer for the one photo of this request, with its heat.

    Raises:
        Undecodable: the picture cannot be drawn.
    """
    wish, model = asked.heat or Heat(None), asked.model
    (answer,) = answers(model, picture[None])
    label = int(answer.probabilities.argmax()) if wish.label is None else wish.label
    heat = model.predictor.heat(picture, label)
    drawn = model.draw(asked.contents[0], heat, wish.drawn) if wish.drawn else None
    return replace(answer, heat=heat, label=label, drawn=drawn)
