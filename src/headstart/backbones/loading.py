"""Get a backbone by its name from any source: `bundled`, `bundled/efficientnet_lite0`, `efficientnet_lite0`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headstart.backbones.backbone import Backbone, Entry, OnProgress, Source, Wanted
from headstart.config import Framework
from headstart.errors import BadBackbone, BadSetting
from headstart.modalities.spec import Fit
from headstart.registry import Registry, closest

NONE = "none"  # in place of a file of weights; a file of that name is ./none
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
    return _fitted(part.load(own, wanted), fit)


def restore_backbone(identity: Mapping[str, Any]) -> Backbone:
    """The backbone of a run, by its backbone.json, for the run's own weights to be put in.

    Raises:
        BadBackbone: it cannot be built here.
    """
    source, _, own = str(identity["name"]).partition("/")
    part: Source = SOURCES.load(source)
    return _fitted(part.restore(own, identity["size"], identity.get("about", {})), identity.get("fit"))


def _fitted(backbone: Backbone, fit: Fit | None) -> Backbone:
    """The same backbone, its photos brought to a square in this way."""
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
