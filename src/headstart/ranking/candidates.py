"""Say which backbones are to be ranked, and have each of them ready, or refused by name before any work is done."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath

from headstart.backbones.backbone import Backbone, Entry, OnProgress, Source
from headstart.backbones.fetching import fetched
from headstart.backbones.loading import SOURCES, full_name, list_backbones, load_backbone
from headstart.config import Settings
from headstart.errors import BadBackbone, BadSetting, HeadstartError, first_five
from headstart.events import Event, Note

WHOLE = ("file/", "run/")  # what follows is a path, in which a comma is a comma
_WEIGHTS = "write each as NAME=FILE: --weights keras/vgg16=vgg16.h5"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backbone by its full name, and the file of its weights where it is not the one that its source knows."""

    name: str
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A candidate that can be built, and about what a photo costs it: parameters times pixels; infinite if unknown."""

    candidate: Candidate
    backbone: Backbone
    estimate: float


def named(
    backbones: str | Sequence[str] | None, weights: Mapping[str, str | PathLike[str]] | Sequence[str] | None = None
) -> tuple[Candidate, ...]:
    """The candidates that a user names, each under its full name; none where no name is given.

    Args:
        backbones: names, or several in one text with commas between them.
        weights: files by name, or texts `NAME=FILE`; what is named here and not among the backbones joins them.

    Raises:
        BadBackbone: no source, or several, have a name.
        BadSetting: the same is named twice, or weights are not written as they should be.
    """
    names = [full_name(name) for name in _split(backbones)]
    files = {full_name(name): file for name, file in _files(weights).items()}
    _once(names)
    return tuple(Candidate(name, files.get(name)) for name in dict.fromkeys([*names, *files]))


def ready(
    candidates: Sequence[Candidate], settings: Settings, *, others: bool = False
) -> Generator[Event, None, tuple[Ready, ...]]:
    """Every candidate loaded as the settings say; with `others`, also all that are on this machine.

    Those that are named are fetched where they are not here. Of the others nothing is ever downloaded, and one that
    cannot be used is left out with its reason.

    Raises:
        HeadstartError: a candidate that is named cannot be used, or there is none.
    """
    entries = _entries(None if others else {each.name.partition("/")[0] for each in candidates})
    names = {candidate.name for candidate in candidates}
    here = [Candidate(name) for name, entry in entries.items() if others and entry.available and name not in names]
    found: list[Ready] = []
    refused: dict[str, HeadstartError] = {}
    for candidate in [*candidates, *here]:
        try:
            backbone = yield from fetched(partial(_load, candidate, settings))
        except HeadstartError as problem:
            refused[candidate.name] = problem
        else:
            found.append(Ready(candidate=candidate, backbone=backbone, estimate=_estimate(backbone, entries)))
    if fatal := {name: problem for name, problem in refused.items() if name in names or not found}:
        raise _refusal(fatal, len(candidates) or len(here))
    for name, refusal in refused.items():
        yield Note(text=f"{name} is left out: {refusal.what} ({refusal.fix})")
    if not found:
        raise BadBackbone("no backbone is on this machine", fix="name some: --backbones keras/vgg16,keras/resnet50")
    _once([each.backbone.name for each in found])
    return tuple(found)


def _entries(sources: Collection[str] | None) -> dict[str, Entry]:
    """The catalogues of these sources, or of all."""
    if sources is None:
        return {entry.name: entry for entry in list_backbones()}
    parts: dict[str, Source] = {name: SOURCES.load(name) for name in sorted(sources)}
    return {f"{name}/{entry.name}": entry for name, part in parts.items() for entry in part.catalogue()}


def _load(candidate: Candidate, settings: Settings, on_progress: OnProgress) -> Backbone:
    return load_backbone(
        candidate.name,
        size=settings.size,
        weights=candidate.weights,
        framework=settings.framework,
        fit=None if settings.fit == "best" else settings.fit,
        on_progress=on_progress,
    )


def _estimate(backbone: Backbone, entries: Mapping[str, Entry]) -> float:
    entry = entries.get(backbone.name)
    return math.inf if entry is None else entry.parameters * backbone.spec.size**2


def _refusal(refused: Mapping[str, HeadstartError], asked: int) -> HeadstartError:
    """One refusal for all that cannot be used, so that none is met after another."""
    problems = list(refused.values())
    fixes = "; ".join(dict.fromkeys(problem.fix for problem in problems[:5]))
    if len(problems) == 1:
        return type(problems[0])(problems[0].what, fix=f"{fixes}; or leave it out" if asked > 1 else fixes)
    said = [f"{name}: {problem.what}" for name, problem in refused.items()]
    return BadBackbone(f"{len(said)} of {asked} backbones cannot be used: {first_five(said)}", fix=fixes)


def _split(backbones: str | Sequence[str] | None) -> list[str]:
    words = [backbones] if isinstance(backbones, str) else list(backbones or ())
    parts = [part.strip() for word in words for part in ([word] if word.startswith(WHOLE) else word.split(","))]
    if backbones is not None and not any(parts):
        raise BadSetting("no backbone is named to be ranked", fix="name some, or leave --backbones out")
    return [part for part in parts if part]


def _files(weights: Mapping[str, str | PathLike[str]] | Sequence[str] | None) -> dict[str, str]:
    if isinstance(weights, Mapping):
        return {name: fspath(file) for name, file in weights.items()}
    files: dict[str, str] = {}
    for text in [weights] if isinstance(weights, str) else weights or ():
        name, equals, file = (part.strip() for part in text.partition("="))
        if not (name and equals and file):
            raise BadSetting(f"weights {text!r} do not say whose they are", fix=_WEIGHTS)
        if name in files:
            raise BadSetting(f"weights of {name!r} are named twice", fix="name one file for each backbone")
        files[name] = file
    return files


def _once(names: Sequence[str]) -> None:
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise BadSetting(f"backbone {twice[0]!r} is named twice", fix="name each once")
