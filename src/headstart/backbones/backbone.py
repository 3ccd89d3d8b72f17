"""Describe a pre-trained network without its top: what it takes in, what it gives, what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from headstart.modalities.spec import InputSpec
from headstart.networks.network import Network


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pre-trained network, ready to give features. `weights_hash` is the sha256 of what was loaded."""

    name: str
    spec: InputSpec
    weights_hash: str
    licence: str
    framework: Literal["torch", "keras"]
    build: Callable[[], Network]  # a fresh network with the pre-trained weights, on the CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of a catalogue: what a backbone is, said without loading it."""

    name: str  # within a source `efficientnet_lite0`, in the list of all `bundled/efficientnet_lite0`
    size: int  # pixels of a side of the picture that it was trained on
    width: int  # features per item
    parameters: int
    licence: str
    available: bool  # whether its weights are on this machine
    note: str


class Source(Protocol):
    """What the entry-point group `headstart.backbones` offers: a module, say, that has these two functions."""

    def catalogue(self) -> tuple[Entry, ...]:
        """Every backbone of this source, the best general choice first. Imports no framework, reads no weights."""

    def load(self, name: str, *, size: int | None = None, weights: Path | None = None) -> Backbone:
        """The backbone of this name. The weights are checked here and parsed by `Backbone.build`.

        Raises:
            BadBackbone: the name is unknown, or the weights are missing or damaged.
        """
