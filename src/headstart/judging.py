"""Judge the model that ships, by the photos that it has not learnt from, and finish its run."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from headstart.abstaining import known
from headstart.answering import PLAIN, Answerer, Mixture, Seen
from headstart.data.dataset import Dataset, Skipped, Split
from headstart.errors import BadData
from headstart.evaluation.abstention import Abstention, Unsure
from headstart.evaluation.calibration import Calibration, Compared, cooled, fit_temperature, held_out
from headstart.evaluation.evaluation import Answer, Evaluation
from headstart.evaluation.metrics import Metrics, measure
from headstart.events import Event, Note, PhaseEnded
from headstart.novelty import Novelty
from headstart.probe import FOLDS, Probe, assign_folds
from headstart.session import Session
from headstart.training.loop import Score
from headstart.training.recipe import Recipe
from headstart.training.sources import score
from headstart.weighting import item_weights, prior

JUDGED: tuple[Split, ...] = ("validation", "test")
SMALLEST = 1e-12  # probability: its logarithm must be a number


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What ships, and how its validation figures came about."""

    recipe: Recipe
    method: str
    choices: tuple[str, ...]
    validation: Metrics | None = None  # measured already, out of fold
    seen: Seen | None = None  # what it says of the validation photos, where it has looked at them already
    calibrated: str = "not calibrated: there are no validation photos"
    calibration: Compared | None = None  # on photos that its temperature was fitted without
    novelty: Novelty | None = None
    abstention: str = "never unsure: there are no photos to tell what is far"


def frozen(session: Session, recipe: Recipe, solved: Probe) -> Generator[Event, None, Finished]:
    """The exact head on the frozen backbone, fitted on train and validation photos together."""
    photos = session.dataset.only("train", "validation")
    framed = ("fit to the frame",) if session.settings.fit == "best" else ()
    chosen = ("strength of the head's regularisation", *framed, "temperature")
    with np.errstate(divide="ignore"):  # a class that was missing from a fold has probability 0 there
        logits = np.log(solved.out_of_fold)[:, None]
    fitted = _temperature(session, photos, logits)
    novelty, abstention = yield from _abstention(session)
    return Finished(
        recipe=replace(recipe, views=PLAIN, temperature=fitted.temperature, prior=_prior(session, photos)),
        method="out of fold: each photo of train and validation by a head that was not fitted on it",
        choices=(*chosen, "choice between the tuned model and the frozen one") if recipe.stages else chosen,
        validation=measure(
            photos.labels, fitted.held_out, photos.classes, families=photos.families, seed=session.settings.seed
        ),
        calibrated=f"temperature fitted on {len(photos):,} answers of heads that had not seen the photo",
        calibration=fitted.compared,
        novelty=novelty,
        abstention=abstention,
    )


def tuned(session: Session, recipe: Recipe) -> Generator[Event, None, Finished]:
    """The tuned network, with the test-time views and the temperature that fit its validation photos best."""
    recipe = replace(recipe, prior=_prior(session, session.dataset.train))
    space = yield from known(session)
    model = replace(_answerer(session, recipe), novelty=space.novelty if space is not None else None)
    seen = yield from model.look(session.dataset.validation.files)
    photos = session.dataset.validation.with_items(session.dataset.validation.items[row] for row in seen.readable)
    novelty, abstention = None, Finished.abstention
    if space is not None and seen.distances is not None:
        novelty, abstention = space.limited(seen.distances[seen.readable], photos.families)
    if not len(photos):
        return Finished(
            recipe=replace(recipe, views=PLAIN),
            method="there are no validation photos",
            choices=(),
            novelty=novelty,
            abstention=abstention,
        )
    logits = seen.logits[seen.readable]
    views = _views(session, photos, logits, recipe.views)
    fitted = _temperature(session, photos, logits[:, : len(views)])
    return Finished(
        recipe=replace(recipe, views=views, temperature=fitted.temperature),
        method="by the model that ships, on photos that it was chosen by and not fitted on",
        choices=(
            "early stopping",
            "choice between the tuned model and the frozen one",
            *(("test-time views",) if len(recipe.views) > 1 else ()),
            "temperature",
        ),
        seen=replace(seen, logits=seen.logits[:, : len(views)]),
        calibrated=f"temperature fitted on the answers for {len(photos)} validation photos",
        calibration=fitted.compared,
        novelty=novelty,
        abstention=abstention,
    )


def _views(
    session: Session, photos: Dataset, logits: Float[np.ndarray, "n v k"], views: tuple[str, ...]
) -> tuple[str, ...]:
    """All test-time views where they answer better than the plain one alone."""
    weights = item_weights(photos, session.class_weights)

    def scored(count: int) -> Score:
        return score(photos.labels, np.log(np.maximum(cooled(logits[:, :count], 1.0), SMALLEST)), weights)

    return views if len(views) > 1 and scored(len(views)).beats(scored(1)) else PLAIN


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    """A temperature by all of some photos, and what such temperatures do for photos that they were fitted without."""

    temperature: float
    held_out: Float[np.ndarray, "n k"]
    compared: Compared


def _temperature(session: Session, photos: Dataset, logits: Float[np.ndarray, "n v k"]) -> _Fitted:
    weights = item_weights(photos, session.class_weights)
    folds = np.zeros(len(photos), np.int64)
    if len(set(photos.families)) > 1:
        folds = assign_folds(photos.labels, photos.families, seed=session.settings.seed, folds=FOLDS)
    after = held_out(photos.labels, logits, folds, weights)
    return _Fitted(
        temperature=fit_temperature(photos.labels, logits, weights),
        held_out=after,
        compared=Compared.of(photos.labels, cooled(logits, 1.0), after),
    )


def _abstention(session: Session) -> Generator[Event, None, tuple[Novelty | None, str]]:
    """What tells photos that are like none of the training, for a network that is as pre-trained."""
    space = yield from known(session)
    return space.limited(np.empty(0), ()) if space is not None else (None, Finished.abstention)


def _prior(session: Session, photos: Dataset) -> tuple[float, ...]:
    return tuple(map(float, prior(photos, session.class_weights)))


def _answerer(session: Session, recipe: Recipe, novelty: Novelty | None = None) -> Answerer:
    return Answerer(
        network=session.network,
        modality=session.modality,
        spec=session.backbone.spec,
        views=recipe.views,
        temperature=recipe.temperature,
        novelty=novelty,
    )


def finish(session: Session, finished: Finished) -> Iterator[Event]:
    """Judge the model that ships, from file bytes and in full precision, and declare the run whole."""
    run, recipe = session.run, finished.recipe
    run.write_recipe(recipe)
    run.save_model(session.network.weights())
    if finished.novelty is not None:
        run.save_novelty(finished.novelty)
    session.network.save(run.path, classes=run.classes, temperature=recipe.temperature, views=recipe.views)
    model = _answerer(session, recipe, finished.novelty)
    judged: dict[str, Judged] = {}
    for split in (split for split in JUDGED if len(session.dataset.only(split))):
        photos = session.dataset.only(split)
        seen = finished.seen if split == "validation" else None
        judged[split] = found = yield from measured(model, photos, seed=session.settings.seed, seen=seen)
        if found.skipped:
            lost = found.skipped
            session.dataset = _without(session.dataset, lost)
            run.write_manifest(session.dataset)
            yield Note(text=f"{len(lost)} {split} photos cannot be read and are left out, first {lost[0].path!r}")
    test = judged["test"]
    yield session.accuracy("test", test.metrics.accuracy, test.metrics.n)
    novelty = finished.novelty
    evaluation = Evaluation(
        test=test.metrics,
        validation=finished.validation or (judged["validation"].metrics if "validation" in judged else None),
        validation_method=finished.method,
        fitted_on_validation=finished.choices,
        calibration=Calibration(
            temperature=recipe.temperature,
            method=finished.calibrated,
            test=test.calibration,
            validation=finished.calibration,
        ),
        abstention=Abstention(
            method=finished.abstention,
            threshold=novelty.threshold if novelty is not None else None,
            false_alarms=novelty.false_alarms if novelty is not None else None,
            test=test.unsure,
        ),
    )
    yield PhaseEnded(name="evaluation", seconds=session.seconds)
    run.finish(evaluation, [answer for found in judged.values() for answer in found.answers])


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a model says of labelled photos, and what that is worth."""

    metrics: Metrics
    answers: list[Answer]
    calibration: Compared
    unsure: Unsure | None  # None where it cannot tell
    skipped: list[Skipped] = field(default_factory=list)  # photos that could not be read


def measured(
    model: Answerer, photos: Dataset, *, seed: int, mixture: Mixture | None = None, seen: Seen | None = None
) -> Generator[Event, None, Judged]:
    """Judge a model by labelled photos; as of a given mixture. `seen`: what it says of them, where that is known.

    Raises:
        BadData: not one can be read.
    """
    if seen is None:
        seen = yield from model.look(photos.files)
    skipped = [Skipped(photos.items[row].path, reason) for row, reason in sorted(seen.failed.items())]
    good = seen.readable
    if not good:
        raise BadData(
            f"none of {len(photos)} photos can be read, first {skipped[0].path!r}: {skipped[0].reason}",
            fix="check that the files are whole",
        )
    labels, raw = photos.labels[good], seen.probabilities(1.0)[good]
    families = photos.with_items(photos.items[row] for row in good).families
    rows = seen.probabilities(model.temperature)[good]
    if mixture is not None:
        rows = yield from mixture.of(rows)
    novelty, distances = model.novelty, seen.distances[good] if seen.distances is not None else None
    far = novelty.unsure(distances) if novelty is not None and distances is not None else None
    answers = [
        Answer(
            *(item.path, photos.classes[item.label], item.split, photos.classes[best], float(row[best])),
            distance=float(distances[place]) if far is not None and distances is not None else None,
            unsure=bool(far[place]) if far is not None else None,
        )
        for place, (item, row, best) in enumerate(
            zip((photos.items[row] for row in good), rows, rows.argmax(axis=1), strict=True)
        )
    ]
    return Judged(
        metrics=measure(labels, rows, photos.classes, families=families, seed=seed),
        answers=answers,
        calibration=Compared.of(labels, raw, rows),
        unsure=Unsure.of(far, rows.argmax(axis=1) == labels, families) if far is not None else None,
        skipped=skipped,
    )


def _without(dataset: Dataset, failed: list[Skipped]) -> Dataset:
    lost = {skipped.path for skipped in failed}
    kept = tuple(item for item in dataset.items if item.path not in lost)
    return replace(dataset, items=kept, skipped=(*dataset.skipped, *failed))
