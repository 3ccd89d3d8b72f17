"""Get a backbone by its name from any source: `bundled`, `bundled/efficientnet_lite0`, `efficientnet_lite0`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from headstart.backbones.backbone import Backbone, Entry, OnProgress, Source, Wanted, check_torch
from headstart.config import Framework
from headstart.errors import BadBackbone, BadSetting
from headstart.modalities.spec import Fit
from headstart.registry import Registry, closest

NONE = "none"  # in place of a file of weights; a file of that name is ./none
LARGEST = 1 << 13  # pixels of a side: of a network that asks for more, one picture fills the memory
_AGAIN = "copy the run again, or train again"
SMALLEST = 32  # pixels: the networks that we know halve the picture five times
SOURCES = Registry("source of backbones", "headstart.backbones", BadBackbone)


def load_backbone(
    name: str,
    *,
    size: int | None = None,
    weights: str | Path | None = None,
    framework: Framework | None = None,
    cut: str | None = None,
    allow_code: bool = False,
    factory: str | None = None,
    fit: Fit | None = None,
    on_progress: OnProgress | None = None,
) -> Backbone:
    """The pre-trained network of this name, without its top.

    `SOURCE/NAME` is its full name; SOURCE alone means the first of its catalogue; NAME alone is enough where only one
    source has it.

    Args:
        name: for instance `bundled`, `keras/vgg16`, `file/my-model.keras`.
        size: side of the picture in pixels, by default the one that the backbone was trained on.
        weights: file with its weights, by default the one that the source knows; `none` for fresh random ones.
        framework: `tensorflow` or `jax` for a Keras backbone; by default the one that is installed, TensorFlow first.
        cut: layer of a network of your own that gives the features, by default the one before its last layers.
        allow_code: load a file that holds code, which then runs: only for files that you trust.
        factory: `MODULE:FUNCTION` or `FILE.py:FUNCTION` that makes a network of your own; its code runs.
        fit: `crop`, `pad` or `squash`: how photos are brought to a square, by default as its makers did it.
        on_progress: told the bytes that are there, and of how many, while weights are downloaded.

    Raises:
        BadBackbone: the name is unknown or ambiguous, or the weights are missing or damaged.
        BadSetting: the size is too small, or the framework cannot be used.
    """
    source, _, own = full_name(name).partition("/")
    # A network of the user's own may be made for less, and says so itself.
    if size is not None and size < SMALLEST and source not in ("file", "run"):
        raise BadSetting(f"size {size} is too small for a backbone", fix=f"use {SMALLEST} pixels or more")
    if factory is not None and source != "file":
        raise BadSetting(
            f"backbone {name!r} is made without a factory",
            fix="leave the factory out, or name it for weights of your own: --backbone file/PATH",
        )
    part: Source = SOURCES.load(source)
    blank = weights == NONE
    wanted = Wanted(
        size=size,
        weights=None if weights is None or blank else Path(weights),
        blank=blank,
        framework=framework,
        cut=cut,
        allow_code=allow_code,
        factory=factory,
        on_progress=on_progress,
    )
    with _torch_missing(name):
        backbone = part.load(own, wanted)
    return _fitted(backbone, fit)


def restore_backbone(identity: Mapping[str, Any]) -> Backbone:
    """The backbone of a run, by its backbone.json, for the run's own weights to be put in.

    Raises:
        BadBackbone: it cannot be built here.
    """
    if not isinstance(size := identity.get("size"), int) or not 0 < size <= LARGEST or "name" not in identity:
        raise BadBackbone(f"the run says nothing of its backbone that makes sense: size {size!r}"[:200], fix=_AGAIN)
    if not isinstance(about := identity.get("about", {}), Mapping):
        raise BadBackbone("the run describes its backbone by something else than a table", fix=_AGAIN)
    source, _, own = str(identity["name"]).partition("/")
    part: Source = SOURCES.load(source)
    try:
        with _torch_missing(str(identity["name"])):
            backbone = part.restore(own, size, about)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
        told = f"{type(problem).__name__}: {problem}"[:100]
        raise BadBackbone(
            f"the run's description of {identity['name']!r} makes no sense ({told})", fix=_AGAIN
        ) from problem
    return _fitted(backbone, identity.get("fit"))


@contextmanager
def _torch_missing(name: str) -> Iterator[None]:
    """While open, a source that cannot import PyTorch says so in a sentence."""
    try:
        yield
    except ModuleNotFoundError as problem:
        if problem.name != "torch":
            raise
        check_torch(name)
        raise


def _fitted(backbone: Backbone, fit: Fit | None) -> Backbone:
    """The same backbone, its photos brought to a square in this way."""
    if backbone.framework == "torch":
        check_torch(backbone.name)
    return backbone if fit is None else replace(backbone, spec=replace(backbone.spec, fit=fit))


def list_backbones(filter: str | None = None) -> list[Entry]:
    """Every backbone of every source under its full name; with `filter`, those that contain it, in any case."""
    entries = (
        replace(entry, name=f"{source}/{entry.name}")
        for source, part in SOURCES.loadable().items()
        for entry in part.catalogue()
    )
    return [entry for entry in entries if filter is None or filter.lower() in entry.name.lower()]


def full_name(name: str) -> str:
    """`SOURCE/NAME` for any way to name a backbone.

    Raises:
        BadBackbone: no source or several sources have it.
    """
    source, slash, own = name.partition("/")
    source = source.lower()
    if slash and source in SOURCES.names():
        return f"{source}/{own}"  # whether the source has it is for the source to say: it may know more than it lists
    if not slash and source in SOURCES.names():
        part: Source = SOURCES.load(source)
        first = next(iter(part.catalogue()), None)
        return f"{source}/{first.name if first else ''}"  # a source without a list says what it wants itself
    known = [entry.name for entry in list_backbones()]
    found = [full for full in known if full.partition("/")[2].lower() == name.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadBackbone(f"backbone {name!r} is ambiguous", fix=f"use one of {', '.join(found)}")
    if Path(name, "backbone.json").is_file():
        raise BadBackbone(f"backbone {name!r} is a run, not a name", fix=f"an earlier run is named run/{name}")
    if Path(name).is_file():
        raise BadBackbone(f"backbone {name!r} is a file, not a name", fix=f"a file is named file/{name}")
    hint = closest(name, known) or closest(name, SOURCES.names()) or "see all names with: headstart backbones"
    raise BadBackbone(f"backbone {name!r} is not known", fix=hint)
