"""Name what is on new photos, with probabilities: a finished run's own network, from file bytes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from headstart import pipeline
from headstart.backbones.loading import restore_backbone
from headstart.data.archive import at, is_archive, photos
from headstart.errors import BadData, BadRun
from headstart.events import Event, Note, Progress
from headstart.heads import Head
from headstart.modalities.loading import load_modality
from headstart.modalities.modality import Modality
from headstart.modalities.spec import InputSpec
from headstart.networks.network import Network
from headstart.pipeline import Readable
from headstart.priors import Priors, parse, shares, shift
from headstart.runs import Run
from headstart.runtimes.runtime import Plain

PLAIN: tuple[str, ...] = ("plain",)  # the photo as it is


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one file; where it could not be read, `error` says why and the rest is empty."""

    path: str
    label: str
    probability: float
    probabilities: dict[str, float]
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A network together with everything that turns bytes into its probabilities."""

    network: Network
    modality: Modality
    spec: InputSpec
    views: tuple[str, ...] = PLAIN
    temperature: float = 1.0

    def answer(
        self, paths: Sequence[Readable], *, reduced: bool = False, workers: int | None = None
    ) -> Generator[Progress, None, tuple[Float[np.ndarray, "n k"], dict[int, str]]]:
        """Probabilities for each file, and the reasons of those that cannot be read: their rows are NaN."""
        decode = partial(self.modality.decode, spec=self.spec, reduced=reduced)
        rows: dict[int, Float[np.ndarray, "k"]] = {}
        failed: dict[int, str] = {}
        for chunk in pipeline.run(paths, decode, Plain(self.network, self._probabilities), workers=workers):
            rows |= dict(zip(chunk.positions, chunk.values, strict=True))
            failed |= chunk.failed
            yield Progress(what="photos answered", done=len(rows) + len(failed), total=len(paths))
        k = len(next(iter(rows.values()))) if rows else 0
        blank = np.full(k, np.nan)
        return np.array([rows.get(position, blank) for position in range(len(paths))]).reshape(len(paths), k), failed

    def _probabilities(self, pictures: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n k"]:
        each = [softmax(self.network.logits(VIEWS[view](pictures)) / self.temperature) for view in self.views]
        mean: Float[np.ndarray, "n k"] = np.mean(each, axis=0)
        return mean


VIEWS: dict[str, Callable[[UInt8[np.ndarray, "n h w c"]], UInt8[np.ndarray, "n h w c"]]] = {
    "plain": lambda pictures: pictures,
    "flip": lambda pictures: np.ascontiguousarray(pictures[:, :, ::-1]),
}


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Probabilities for logits, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: Float[np.ndarray, "n k"] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


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
    probabilities, failed = yield from model.answer(files)
    if mixture is not None:
        probabilities = yield from mixture.of(probabilities)
    return [
        Prediction(str(file), "", float("nan"), {}, failed[row])
        if row in failed
        else _prediction(str(file), probabilities[row], opened.classes)
        for row, file in enumerate(files)
    ]


def find(paths: Sequence[str | Path], suffixes: frozenset[str]) -> list[Readable]:
    """These files, and in place of each folder or archive the files in it that look like photos by their names.

    Raises:
        BadData: a path does not exist, an archive is damaged, or nothing is found.
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
        inside = sorted(path.rglob("*")) if path.is_dir() else []
        files += [file for file in inside if file.suffix.lower() in suffixes and not file.name.startswith(".")]
        files += [] if path.is_dir() else [at(path)]
    if not files:
        raise BadData("there is no photo to answer", fix="give image files, or folders or archives that hold some")
    return files


def _prediction(path: str, row: Float[np.ndarray, "k"], classes: tuple[str, ...]) -> Prediction:
    best = int(row.argmax())
    return Prediction(path, classes[best], float(row[best]), dict(zip(classes, map(float, row), strict=True)))
