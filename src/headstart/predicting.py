"""Name what is on photos by an exported bundle, with no training framework, or by a run."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart import pipeline
from headstart.errors import BadSetting
from headstart.events import Event, Note, Progress
from headstart.exporting.bundle import is_bundle
from headstart.prediction import Prediction, find, named, unread
from headstart.predictor import Predictor

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

CHUNK = 4  # photos that go through the graph together: more bring little, and each thread holds so many


def predict(
    place: str | Path, paths: Sequence[str | Path], *, priors: str | PathLike[str] | Mapping[str, float] | None = None
) -> Generator[Event, None, list[Prediction]]:
    """Answers for files, and for those in folders and archives, in order.

    Raises:
        BadRun: there is no finished run.
        BadBundle: it is a bundle that was changed, or that nothing here can run.
        BadData: a path does not exist, or there is no file at all.
        BadSetting: the priors are none, do not name the model's classes, or are asked of a bundle.
    """
    if is_bundle(place):
        found = yield from _by_bundle(place, paths, priors=priors)
    else:
        from headstart.answering import predict as by_run  # it needs a training framework

        found = yield from by_run(place, paths, priors=priors)
    if strange := sum(bool(one.unsure) for one in found):
        yield Note(text=f"unsure of {strange} of {len(found)} photos: they are like none that the model learnt from")
    return found


def _by_bundle(
    place: str | Path, paths: Sequence[str | Path], *, priors: object
) -> Generator[Event, None, list[Prediction]]:
    if priors is not None:
        raise BadSetting(
            "a bundle does not know how frequent its classes were in training, and priors start from there",
            fix="predict with the run that the bundle was exported from",
        )
    predictor = Predictor.open(place)
    files = find(paths, predictor.modality.suffixes)
    runner = _Answers(predictor, min(CHUNK, len(files)))
    predictions: dict[int, Prediction] = {}
    for chunk in pipeline.run(files, partial(predictor.modality.decode, spec=predictor.manifest.spec), runner):
        for position, row in zip(chunk.positions, chunk.values, strict=True):
            predictions[position] = _prediction(str(files[position]), row, predictor)
        predictions |= {position: unread(str(files[position]), reason) for position, reason in chunk.failed.items()}
        yield Progress(what="photos answered", done=len(predictions), total=len(files))
    return [predictions[position] for position in range(len(files))]


class _Answers:
    """A bundle's graph as what a pipeline computes with: squares in, a row of probabilities and distance each out."""

    def __init__(self, predictor: Predictor, chunk: int) -> None:
        self.chunk = chunk
        self.concurrency = predictor.graph.concurrency
        self._predictor = predictor

    @contextlib.contextmanager
    def concurrent(self, workers: int) -> Iterator[None]:
        """Nothing to prepare: a graph serves several threads."""
        yield

    def __call__(self, inputs: UInt8[np.ndarray, "n size size 3"]) -> Float[np.ndarray, "n k+1"]:
        """Probabilities and, last, the distance; NaN where the model has none."""
        outputs = self._predictor.answer(inputs)
        distance = outputs.distance if outputs.distance is not None else np.full(len(inputs), np.nan)
        return np.column_stack([outputs.probabilities, distance])


def _prediction(path: str, row: Float[np.ndarray, "k+1"], predictor: Predictor) -> Prediction:
    threshold, distance = predictor.manifest.threshold, float(row[-1])
    unsure = None if threshold is None or np.isnan(distance) else distance > threshold
    return named(path, row[:-1], predictor.manifest.classes, unsure, None if np.isnan(distance) else distance)
