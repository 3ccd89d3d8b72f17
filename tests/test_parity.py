"""What is exported is compared with its run, and what differs is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.answering import Answerer
from headstart.data.dataset import Dataset, Item
from headstart.errors import BadExport
from headstart.exporting.format import Outputs
from headstart.exporting.parity import Asked, Parity, compare
from headstart.modalities.image import ImageModality
from headstart.outcome import outcome

from .conftest import CLASSES, PER_CLASS
from .test_torch_whole import SPEC, _canvas, novelty, tiny

Pixels = np.ndarray


@pytest.fixture
def asked(drawn_photos: Path) -> Asked:
    return labelled(drawn_photos)


def labelled(drawn_photos: Path) -> Asked:
    """Drawn photos, labelled by what a tiny model says of them."""
    names = tuple(CLASSES)
    paths = [f"{name}/{index:02}.jpg" for name in names for index in range(PER_CLASS)]
    model = Answerer(
        network=tiny(), modality=ImageModality(), spec=SPEC, views=("plain", "flip"), temperature=3.0, novelty=novelty()
    )
    items = tuple(Item(path, path, 0, "validation", "", 1.0) for path in paths)
    dataset = Dataset(root=drawn_photos, classes=names, items=items, skipped=(), user_splits=False, notes=())
    said = outcome(model.look(dataset.files)).probabilities(3.0).argmax(axis=1)
    photos = dataset.with_items(replace(item, label=int(k)) for item, k in zip(items, said, strict=True))
    return Asked(photos=photos, split="validation", model=model, max_pixels=1 << 24)


class Eager:
    """The whole model in PyTorch as an exported graph would be, with a fault in what enters or comes out."""

    concurrency = 1

    def __init__(
        self,
        model: Answerer,
        *,
        temperature: float = 3.0,
        entering: Callable[[Pixels], Pixels] = lambda pixels: pixels,
        leaving: Callable[[list[np.ndarray]], list[np.ndarray]] = lambda answers: answers,
    ) -> None:
        self._whole = model.network.whole(temperature=temperature, views=model.views, novelty=model.novelty, heat=True)
        self._entering, self._leaving = entering, leaving

    def photos(self, pixels: Pixels) -> Outputs:
        with torch.inference_mode():
            answers = self._whole(torch.from_numpy(np.array(self._entering(pixels))))
        return Outputs(*self._leaving([answer.numpy() for answer in answers]))

    def squares(self, pictures: Pixels) -> Outputs:
        return self.photos(_canvas(pictures[0], SPEC))


def found(asked: Asked, graph: Any, precision: Any = "fp32") -> Parity:
    return outcome(compare(asked, graph, precision))


def test_the_same_model_agrees(asked: Asked) -> None:
    parity = found(asked, Eager(asked.model))
    parity.check()
    assert parity.n == parity.whole == parity.agreeing == len(CLASSES) * PER_CLASS
    assert parity.largest < 1e-3
    assert parity.distance is not None
    assert parity.distance < 1e-3
    assert parity.heat is not None
    assert parity.lost == 0


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"entering": lambda pixels: pixels[..., ::-1]}, "probabilities"),
        ({"entering": lambda pixels: np.roll(pixels, 1, axis=2)}, "probabilities"),
        ({"entering": lambda pixels: pixels[:, 1:]}, "probabilities"),
        ({"entering": lambda pixels: np.rot90(pixels, axes=(1, 2))}, "probabilities"),
        ({"temperature": 1.0}, "probabilities"),
        ({"leaving": lambda answers: [answers[0], answers[1] * 1.05, answers[2]]}, "distances"),
        ({"leaving": lambda answers: [answers[0], answers[1], answers[2] * 1.01]}, "heat"),
        ({"leaving": lambda answers: [answers[0] * np.nan, *answers[1:]]}, "probabilities"),
        ({"leaving": lambda answers: [answers[0][:, ::-1], *answers[1:]]}, "answers are others"),
    ],
    ids=["bgr", "shifted", "cropped", "turned", "temperature", "distance", "heat", "nan", "classes"],
)
def test_a_fault_fails_the_export(asked: Asked, fault: dict[str, Any], told: str) -> None:
    with pytest.raises(BadExport, match=told):
        found(asked, Eager(asked.model, **fault)).check()


def test_a_changed_answer_between_equals_is_a_tie(asked: Asked) -> None:
    parity = replace(found(asked, Eager(asked.model)), agreeing=35, ties=1)
    parity.check()
    assert "1 more are ties" in parity.sentence
    with pytest.raises(BadExport, match="1 of 36 answers are others"):
        replace(parity, ties=0).check()


def test_eight_bits_are_judged_by_the_accuracy_that_is_lost(asked: Asked) -> None:
    rough = Eager(asked.model, leaving=lambda answers: [np.round(answers[0], 2), *answers[1:]])
    parity = found(asked, rough, "int8")
    parity.check()
    assert parity.tolerance is None
    wrong = Eager(asked.model, leaving=lambda answers: [answers[0][:, ::-1], *answers[1:]])
    with pytest.raises(BadExport, match="accuracy is lost"):
        found(asked, wrong, "int8").check()


def test_photos_that_are_gone_are_told(asked: Asked, tmp_path: Path) -> None:
    gone = replace(asked, photos=replace(asked.photos, root=tmp_path))
    with pytest.raises(BadExport, match="can be read") as told:
        found(gone, Eager(asked.model))
    assert str(tmp_path) in told.value.fix


def test_few_photos_and_lost_ones_are_told(asked: Asked) -> None:
    some = [*asked.photos.items[:3], replace(asked.photos.items[3], path="gone.jpg")]
    notes: list[str] = []
    events = compare(replace(asked, photos=asked.photos.with_items(some)), Eager(asked.model), "fp32")
    found = outcome(events, lambda event: notes.append(getattr(event, "text", "")))
    assert found.n == 3
    assert "compared by 3 validation photos alone of 4, for the others cannot be read" in notes
