"""Get a backbone by its name from any source: `bundled`, `bundled/efficientnet_lite0`, `efficientnet_lite0`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headstart.backbones.backbone import Backbone, Entry, Source
from headstart.errors import BadBackbone, BadSetting
from headstart.registry import Registry, closest

SMALLEST = 32  # pixels: the networks that we know halve the picture five times
SOURCES = Registry("source of backbones", "headstart.backbones", BadBackbone)


def load_backbone(name: str, *, size: int | None = None, weights: str | Path | None = None) -> Backbone:
    """The pre-trained network of this name, without its top.

    `SOURCE/NAME` is its full name; SOURCE alone means the first of its catalogue; NAME alone is enough where only one
    source has it. `size` is the side of the picture in pixels, by default the one that the backbone was trained on.
    `weights` is a file with its weights, by default the one that the source knows.

    Raises:
        BadBackbone: the name is unknown or ambiguous, or the weights are missing or damaged.
        BadSetting: the size is too small.
    """
    if size is not None and size < SMALLEST:
        raise BadSetting(f"size {size} is too small for a backbone", fix=f"use {SMALLEST} pixels or more")
    source, _, own = full_name(name).partition("/")
    part: Source = SOURCES.load(source)
    return part.load(own, size=size, weights=None if weights is None else Path(weights))


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
    source, slash, _ = name.partition("/")
    if slash and source in SOURCES.names():
        return name  # whether the source has it is for the source to say: it may know more than it lists
    if not slash and source in SOURCES.names():
        part: Source = SOURCES.load(source)
        return f"{source}/{part.catalogue()[0].name}"
    known = [entry.name for entry in list_backbones()]
    found = [full for full in known if full.partition("/")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadBackbone(f"backbone {name!r} is ambiguous", fix=f"use one of {', '.join(found)}")
    hint = closest(name, known) or closest(name, SOURCES.names()) or "see all names with: headstart backbones"
    raise BadBackbone(f"backbone {name!r} is not known", fix=hint)
