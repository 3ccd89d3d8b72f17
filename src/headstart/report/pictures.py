"""Show the photos that a report speaks of: small, beside what each place of them says for the answer.

A report is made from a run wherever it lies; photos that have moved, and models that do not open here, leave gaps that
are named and never end it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headstart.answering import Answerer, answerer
from headstart.data.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.events import Event, Progress
from headstart.explaining.heat import heat_of
from headstart.modalities.heat import overlay
from headstart.modalities.modality import Undecodable
from headstart.modalities.thumbnail import thumbnail
from headstart.runs import Run

SIDE = 224  # pixels of the longer side of a small picture
LARGEST = 1 << 28  # bytes of a photo: what is larger is none, or not one to make a thumbnail of
MOVED = "there is no file where the run had found one"
TOGETHER = 8  # photos that are explained at a time
LABEL_ERRORS = 24  # at most so many are shown, of all that are suspected

Shown = dict[str, str]  # `photo` and `heat` as data URIs; or without


@dataclass
class Pictures:
    """Small pictures by the photo's path in the data set, how heat was found, and what could not be shown and why."""

    photos: dict[str, Shown] = field(default_factory=dict)
    method: str = ""
    missing: dict[str, str] = field(default_factory=dict)  # reasons, by path
    no_heat: str = ""  # why there are no heat maps; empty where there are


def pictures(run: Run, facts: dict[str, Any], device: str = "auto") -> Generator[Event, None, Pictures]:
    """Every photo that these facts name to be shown; with heat for the answer that was given."""
    asked = wanted(facts)
    shown, dataset = Pictures(), run.dataset
    contents: dict[str, bytes] = {}
    limit = {} if run.settings.max_pixels is None else {"max_pixels": run.settings.max_pixels}
    for path in dict.fromkeys(path for path, _ in asked):
        try:
            content = read(dataset, path)
            shown.photos[path] = {"photo": _uri(thumbnail(content, SIDE, **limit))}
            contents[path] = content
        except (OSError, ValueError, HeadstartError, Undecodable) as problem:
            shown.missing[path] = _reason(problem)
    explained = [(path, label) for path, label in asked if label and path in contents]
    if explained:
        yield from _heat(run, shown, explained, contents, device)
    return shown


def wanted(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Paths of photos to be shown, and the class whose heat is wanted; empty: none is."""
    answers = facts["answers"]
    explained = [(each["path"], each["predicted"]) for each in (*answers["mistakes"], *answers["confident"])]
    suspected = (facts["label_errors"] or {}).get("found", [])[:LABEL_ERRORS]
    return [*explained, *((each["path"], "") for each in suspected)]


def read(dataset: Dataset, path: str) -> bytes:
    """The bytes of a photo of the run.

    Raises:
        OSError, HeadstartError: it is not there, or is no file of reasonable size.
    """
    file = dataset.file(path)
    if isinstance(file, Path):
        # The run may be a stranger's: what it names need not be a file that ends.
        if not file.is_file():
            raise FileNotFoundError(MOVED)
        if file.stat().st_size > LARGEST:
            raise OSError("its file is too large")
    return file.read_bytes()


def _heat(
    run: Run, shown: Pictures, asked: Sequence[tuple[str, str]], contents: dict[str, bytes], device: str
) -> Iterator[Event]:
    try:
        model = answerer(run, device)
    except HeadstartError as problem:
        shown.no_heat = problem.what
        return
    position = {name: label for label, name in enumerate(run.classes)}
    for place in range(0, len(asked), TOGETHER):
        some = asked[place : place + TOGETHER]
        try:
            labels = np.array([position[label] for _, label in some])
            heats, shown.method = _explained(model, [contents[path] for path, _ in some], labels)
        # RuntimeError: a network of the user's own may be one that its framework takes no gradients of.
        except (HeadstartError, Undecodable, RuntimeError) as problem:
            shown.no_heat = str(problem).partition("\n")[0]
            return
        for (path, _), heat in zip(some, heats, strict=True):
            drawn = overlay(contents[path], heat, model.spec, SIDE, kind="jpeg")
            shown.photos[path]["heat"] = _uri(drawn)
        yield Progress(what="photos explained", done=place + len(some), total=len(asked))


def _explained(
    model: Answerer, contents: Sequence[bytes], labels: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "n r c"], str]:
    squares = np.stack([model.modality.decode(content, model.spec) for content in contents])
    return heat_of(model.network, model.spec, squares, labels)


def grouped(missing: dict[str, str]) -> list[tuple[str, int]]:
    """Reasons why photos are not shown, and for how many each holds."""
    return [(reason, len(list(rows))) for reason, rows in groupby(sorted(missing.values()))]


def _reason(problem: Exception) -> str:
    if isinstance(problem, HeadstartError):
        return problem.what
    return MOVED if isinstance(problem, FileNotFoundError) else str(problem)


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode('ascii')}"
