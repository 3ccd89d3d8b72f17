"""Name what is on new photos, with probabilities: a finished run's own network, from file bytes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headstart import pipeline
from headstart.backbones.loading import restore_backbone
from headstart.errors import BadRun
from headstart.evaluation.calibration import cooled
from headstart.evaluation.calibration import softmax as softmax
from headstart.events import Event, Note, Progress
from headstart.heads import Head
from headstart.modalities.loading import load_modality
from headstart.modalities.modality import Modality
from headstart.modalities.spec import InputSpec
from headstart.networks.network import Cut, Network
from headstart.novelty import Novelty
from headstart.pipeline import Readable
from headstart.prediction import Prediction as Prediction
from headstart.prediction import find as find
from headstart.prediction import named, unread
from headstart.priors import Priors, parse, shares, shift
from headstart.runs import Run
from headstart.runtimes.runtime import Plain

PLAIN: tuple[str, ...] = ("plain",)  # the photo as it is
TOGETHER = 256  # photos whose distances are computed in one product


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What a network says of some files before a temperature makes answers of it; rows of unreadable ones are NaN."""

    logits: Float[np.ndarray, "n v k"]  # of each view
    distances: Float[np.ndarray, "n"] | None  # from the photos of the training, where the model knows them
    failed: dict[int, str]  # row -> why the file cannot be read

    def probabilities(self, temperature: float, views: int | None = None) -> Float[np.ndarray, "n k"]:
        """At this temperature, averaged over so many of the first views; by default over all."""
        return cooled(self.logits[:, :views], temperature)

    @property
    def readable(self) -> list[int]:
        """The rows of files that could be read."""
        return [row for row in range(len(self.logits)) if row not in self.failed]


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A network together with everything that turns bytes into its probabilities."""

    network: Network
    modality: Modality
    spec: InputSpec
    views: tuple[str, ...] = PLAIN
    temperature: float = 1.0
    novelty: Novelty | None = None

    def answer(
        self, paths: Sequence[Readable], *, reduced: bool = False, workers: int | None = None
    ) -> Generator[Progress, None, tuple[Float[np.ndarray, "n k"], dict[int, str]]]:
        """Probabilities for each file, and the reasons of those that cannot be read: their rows are NaN."""
        seen = yield from self.look(paths, reduced=reduced, workers=workers)
        return seen.probabilities(self.temperature), seen.failed

    def look(
        self, paths: Sequence[Readable], *, reduced: bool = False, workers: int | None = None
    ) -> Generator[Progress, None, Seen]:
        """Logits of each view of each file and its distance, in one pass through the network a view."""
        decode = partial(self.modality.decode, spec=self.spec, reduced=reduced)
        rows: dict[int, Float[np.ndarray, "x"]] = {}
        failed: dict[int, str] = {}
        far = _Distances(self.novelty, len(paths))
        for chunk in pipeline.run(paths, decode, Plain(self.network, self._rows), workers=workers):
            if chunk.positions:
                logits, features = np.split(chunk.values, [chunk.values.shape[1] - far.width], axis=1)
                rows |= dict(zip(chunk.positions, logits, strict=True))
                far.add(chunk.positions, features)
            failed |= chunk.failed
            yield Progress(what="photos answered", done=len(rows) + len(failed), total=len(paths))
        wide = len(next(iter(rows.values()))) if rows else len(self.views)  # of none that could be read, one number
        blank = np.full(wide, np.nan)
        logits = np.array([rows.get(position, blank) for position in range(len(paths))])
        shape = (len(paths), len(self.views), wide // len(self.views))
        return Seen(logits=logits.reshape(shape), distances=far.all(), failed=failed)

    def _rows(self, pictures: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n x"]:
        """Of each picture the logits of all views and, where distances are told from them, the features of the first.

        What stands on the features is computed from them: the network is gone through once.
        """
        if self.novelty is None:
            return np.concatenate([self.network.logits(VIEWS[view](pictures)) for view in self.views], axis=1)
        at = self.network.head_cut
        crossings = [self.network.features(VIEWS[view](pictures), at) for view in self.views]
        features = self._pooled(crossings[0], at)
        if features.shape[1] != len(self.novelty.mean):
            given = f"{features.shape[1]} features, and distances are told from {len(self.novelty.mean)}"
            raise BadRun(
                f"the run is put together from two: its network gives {given}", fix="copy the run again, or train again"
            )
        return np.concatenate([*(self.network.logits(crossing, at) for crossing in crossings), features], axis=1)

    def _pooled(self, crossing: Float[np.ndarray, "n ..."], at: Cut) -> Float[np.ndarray, "n d"]:
        pooled = self.network.cuts[-1]
        return crossing if at == pooled else self.network.features(crossing, pooled, at)


class _Distances:
    """Distances of many photos, of so many at a time that the product pays and memory stays bounded."""

    def __init__(self, novelty: Novelty | None, n: int) -> None:
        self.width = len(novelty.mean) if novelty is not None else 0  # features of a photo
        self._novelty = novelty
        self._found = np.full(n, np.nan)
        self._waiting: dict[int, Float[np.ndarray, "d"]] = {}

    def add(self, positions: Sequence[int], features: Float[np.ndarray, "n d"]) -> None:
        """Take the features of the photos at these positions."""
        if self._novelty is not None:
            self._waiting |= dict(zip(positions, features, strict=True))
            if len(self._waiting) >= TOGETHER:
                self.all()

    def all(self) -> Float[np.ndarray, "n"] | None:
        """What is known by now; NaN where no features came. None where nothing tells distances."""
        if self._novelty is None:
            return None
        if self._waiting:
            self._found[list(self._waiting)] = self._novelty.distance(np.array(list(self._waiting.values())))
            self._waiting = {}
        return self._found


VIEWS: dict[str, Callable[[UInt8[np.ndarray, "n h w c"]], UInt8[np.ndarray, "n h w c"]]] = {
    "plain": lambda pictures: pictures,
    "flip": lambda pictures: np.ascontiguousarray(pictures[:, :, ::-1]),
}


def answerer(run: Run, device: str = "auto") -> Answerer:
    """The finished model of a run, ready to answer.

    Raises:
        BadRun: the run is damaged or does not fit its backbone.
    """
    recipe = run.recipe
    if recipe is None:
        raise BadRun(
            f"run {str(run.path)!r} has no recipe in its config.toml", fix="copy the run again, or train again"
        )
    backbone = restore_backbone(run.backbone)
    network = backbone.build()
    network.set_head(Head() if recipe.probe else recipe.head, len(run.classes))
    try:
        network.load_weights(run.model())
    except RuntimeError as problem:
        raise BadRun(
            f"model of run {str(run.path)!r} does not fit {backbone.name}", fix="copy the run again, or train again"
        ) from problem
    network.to(device)
    return Answerer(
        network=network,
        modality=load_modality("image", max_pixels=run.settings.max_pixels),
        spec=backbone.spec,
        views=recipe.views,
        temperature=recipe.temperature,
        novelty=run.novelty,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """How frequent the classes are among photos to come, and were among those that a model learnt from."""

    wanted: Priors
    classes: tuple[str, ...]
    counted: Float[np.ndarray, "k"]  # photos of each class that were learnt from
    learnt: Float[np.ndarray, "k"]  # their shares after weights

    def of(self, answers: Float[np.ndarray, "n k"]) -> Generator[Event, None, Float[np.ndarray, "n k"]]:
        """The answers as they are for this mixture; tells shares that were estimated."""
        found = shares(self.wanted, self.classes, counted=self.counted, learnt=self.learnt, answers=answers)
        if self.wanted == "estimate":
            each = ", ".join(f"{name} {share:.3f}" for name, share in zip(self.classes, found, strict=True))
            yield Note(text=f"shares of the classes, estimated from these photos: {each}")
        return shift(answers, learnt=self.learnt, wanted=found)


def mixture_of(run: Run, priors: str | PathLike[str] | Mapping[str, float] | None) -> Mixture | None:
    """The mixture that is asked for; None where none is.

    Raises:
        BadSetting: the priors are none, or do not name the model's classes.
    """
    if priors is None:
        return None
    photos, recipe = run.dataset.train, run.recipe
    counted = np.bincount(photos.labels, minlength=len(run.classes)).astype(np.float64)
    learnt = np.array(recipe.prior if recipe is not None and recipe.prior else counted / counted.sum())
    wanted = parse(priors)
    if isinstance(wanted, Mapping):  # refused before any photo is looked at
        shares(wanted, run.classes, counted=counted, learnt=learnt, answers=np.empty((0, len(run.classes))))
    return Mixture(wanted=wanted, classes=run.classes, counted=counted, learnt=learnt)


def predict(
    run: str | Path, paths: Sequence[str | Path], *, priors: str | PathLike[str] | Mapping[str, float] | None = None
) -> Generator[Event, None, list[Prediction]]:
    """Answers for files, and for those in folders and archives, in order; where `priors` are given, for such a mixture.

    Raises:
        BadRun: there is no finished run.
        BadData: a path does not exist, or there is no file at all.
        BadSetting: the priors are none, or do not name the model's classes.
    """
    opened = Run.open(run)
    mixture = mixture_of(opened, priors)
    files = find(paths, load_modality("image").suffixes)
    model = answerer(opened)
    seen = yield from model.look(files)
    probabilities, distances = seen.probabilities(model.temperature), seen.distances
    if mixture is not None and seen.readable:
        probabilities = yield from mixture.of(probabilities)
    far = model.novelty.unsure(distances).tolist() if model.novelty is not None and distances is not None else None
    return [
        unread(str(file), seen.failed[row])
        if row in seen.failed
        else named(
            str(file),
            probabilities[row],
            opened.classes,
            unsure=far[row] if far is not None else None,
            distance=float(distances[row]) if distances is not None else None,
        )
        for row, file in enumerate(files)
    ]
