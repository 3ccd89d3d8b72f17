"""Measure a finished model on labelled photos that it has not seen."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from os import PathLike
from pathlib import Path

from headstart.answering import answerer, mixture_of
from headstart.data.loading import load_labelled
from headstart.errors import BadRun
from headstart.evaluation.evaluation import Evaluation
from headstart.events import Event, Note
from headstart.exporting.bundle import is_bundle
from headstart.judging import measured
from headstart.runs import Run


def evaluate(
    path: Path,
    data: Path,
    *,
    priors: str | PathLike[str] | Mapping[str, float] | None = None,
    columns: str | None = None,
) -> Generator[Event, None, Evaluation]:
    """Measure a finished model on other labelled photos; classes are matched by name, `priors` are their shares.

    Raises:
        BadRun: there is no finished run.
        BadData: the photos cannot be used, or have a class that the model does not know.
        BadSetting: the priors are none, or do not name the model's classes.
    """
    if is_bundle(path):
        raise BadRun(
            f"{str(path)!r} is a bundle, which answers photos but does not judge answers",
            fix="evaluate the run that it was exported from, or predict and count",
        )
    run = Run.open(path)
    mixture = mixture_of(run, priors)
    dataset = load_labelled(data, classes=run.classes, columns=columns)
    for text in dataset.notes:
        yield Note(text=text)
    if skipped := dataset.skipped:
        yield Note(text=f"{len(skipped)} files are not used, first {skipped[0].path!r}: {skipped[0].reason}")
    known = {item.id for item in run.dataset.only("train", "validation").items}
    seen = sum(item.id in known for item in dataset.items)
    if seen:
        yield Note(text=f"{seen} of these {len(dataset)} photos were used to make the model: the result flatters it")
    found = yield from measured(answerer(run), dataset, seed=run.settings.seed, mixture=mixture)
    if failed := found.skipped:
        yield Note(
            text=f"{len(failed)} photos cannot be read and are left out, first {failed[0].path!r}: {failed[0].reason}"
        )
    if (unsure := found.unsure) is not None and unsure.unsure:
        strange = "photos: they are like none that the model learnt from"
        yield Note(text=f"unsure of {unsure.unsure} of {unsure.n} {strange}")
    return Evaluation(test=found.metrics, unsure=found.unsure)
