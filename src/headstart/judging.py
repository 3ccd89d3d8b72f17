"""Judge the model that ships, by the photos that it has not learnt from, and finish its run."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np

from headstart.answering import PLAIN, Answerer, Mixture
from headstart.data.dataset import Dataset, Skipped, Split
from headstart.errors import BadData
from headstart.evaluation.evaluation import Answer, Evaluation
from headstart.evaluation.metrics import Metrics, measure
from headstart.events import Event, Note, PhaseEnded
from headstart.probe import Probe
from headstart.session import Session
from headstart.training.loop import Score
from headstart.training.recipe import Recipe
from headstart.training.sources import score
from headstart.weighting import item_weights, prior

JUDGED: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What ships, and how its validation figures came about. `validation`: measured already, out of fold."""

    recipe: Recipe
    method: str
    choices: tuple[str, ...]
    validation: Metrics | None = None


def frozen(session: Session, recipe: Recipe, solved: Probe) -> Finished:
    """The exact head on the frozen backbone, fitted on train and validation photos together."""
    photos = session.dataset.only("train", "validation")
    framed = ("fit to the frame",) if session.settings.fit == "best" else ()
    chosen = ("strength of the head's regularisation", *framed)
    return Finished(
        recipe=replace(recipe, views=PLAIN, prior=_prior(session, photos)),
        method="out of fold: each photo of train and validation by a head that was not fitted on it",
        choices=(*chosen, "choice between the tuned model and the frozen one") if recipe.stages else chosen,
        validation=measure(photos.labels, solved.out_of_fold, photos.classes, seed=session.settings.seed),
    )


def tuned(session: Session, recipe: Recipe) -> Generator[Event, None, Finished]:
    """The tuned network, with the test-time views and the temperature that fit its validation photos best."""
    photos = session.dataset.validation
    recipe = replace(recipe, prior=_prior(session, session.dataset.train))
    if not len(photos):
        return Finished(recipe=replace(recipe, views=PLAIN), method="there are no validation photos", choices=())
    scores: dict[tuple[str, ...], Score] = {}
    weights = item_weights(photos, session.class_weights)
    for views in dict.fromkeys((PLAIN, recipe.views)):
        probabilities, _ = yield from _answerer(session, replace(recipe, views=views)).answer(
            photos.files, reduced=True
        )
        scores[views] = score(photos.labels, np.log(np.maximum(probabilities, 1e-12)), weights)
    best = recipe.views if scores[recipe.views].beats(scores[PLAIN]) else PLAIN
    return Finished(
        recipe=replace(recipe, views=best, temperature=scores[best].temperature),
        method="by the model that ships, on photos that it was chosen by and not fitted on",
        choices=(
            "early stopping",
            "choice between the tuned model and the frozen one",
            *(("test-time views",) if len(scores) > 1 else ()),
            "temperature",
        ),
    )


def _prior(session: Session, photos: Dataset) -> tuple[float, ...]:
    return tuple(map(float, prior(photos, session.class_weights)))


def _answerer(session: Session, recipe: Recipe) -> Answerer:
    return Answerer(
        network=session.network,
        modality=session.modality,
        spec=session.backbone.spec,
        views=recipe.views,
        temperature=recipe.temperature,
    )


def finish(session: Session, finished: Finished) -> Iterator[Event]:
    """Judge the model that ships, from file bytes and in full precision, and declare the run whole."""
    run, recipe = session.run, finished.recipe
    run.write_recipe(recipe)
    run.save_model(session.network.weights())
    session.network.save(run.path, classes=run.classes, temperature=recipe.temperature, views=recipe.views)
    model = _answerer(session, recipe)
    judged: dict[str, Metrics] = {}
    answers: list[Answer] = []
    for split in (split for split in JUDGED if len(session.dataset.only(split))):
        photos = session.dataset.only(split)
        judged[split], given, failed = yield from measured(model, photos, seed=session.settings.seed)
        answers += given
        if failed:
            session.dataset = _without(session.dataset, failed)
            run.write_manifest(session.dataset)
            yield Note(text=f"{len(failed)} {split} photos cannot be read and are left out, first {failed[0].path!r}")
    test = judged["test"]
    yield session.accuracy("test", test.accuracy, test.n)
    evaluation = Evaluation(
        test=test,
        validation=finished.validation or judged.get("validation"),
        validation_method=finished.method,
        fitted_on_validation=finished.choices,
    )
    yield PhaseEnded(name="evaluation", seconds=session.seconds)
    run.finish(evaluation, answers)


def measured(
    model: Answerer, photos: Dataset, *, seed: int, mixture: Mixture | None = None
) -> Generator[Event, None, tuple[Metrics, list[Answer], list[Skipped]]]:
    """Metrics and single answers for labelled photos, and those that could not be read; as of a given mixture.

    Raises:
        BadData: not one can be read.
    """
    probabilities, failed = yield from model.answer(photos.files)
    good = [row for row in range(len(photos)) if row not in failed]
    skipped = [Skipped(photos.items[row].path, reason) for row, reason in sorted(failed.items())]
    if not good:
        raise BadData(
            f"none of {len(photos)} photos can be read, first {skipped[0].path!r}: {skipped[0].reason}",
            fix="check that the files are whole",
        )
    items, rows = [photos.items[row] for row in good], probabilities[good]
    if mixture is not None:
        rows = yield from mixture.of(rows)
    answers = [
        Answer(item.path, photos.classes[item.label], item.split, photos.classes[best], float(row[best]))
        for item, row, best in zip(items, rows, rows.argmax(axis=1), strict=True)
    ]
    return measure(photos.labels[good], rows, photos.classes, seed=seed), answers, skipped


def _without(dataset: Dataset, failed: list[Skipped]) -> Dataset:
    lost = {skipped.path for skipped in failed}
    kept = tuple(item for item in dataset.items if item.path not in lost)
    return replace(dataset, items=kept, skipped=(*dataset.skipped, *failed))
