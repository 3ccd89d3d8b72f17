"""Say what a format of export must be able to do; one file a format, found through the entry points below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from headstart.errors import BadExport
from headstart.exporting.bundle import Bundle, Manifest
from headstart.registry import Registry

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

Precision = Literal["fp32", "fp16", "int8"]
Engine = Literal["torch", "tensorflow", "jax"]  # what a run was trained with
FORMATS = Registry("format", "headstart.formats", BadExport)
# Channels, in or out, of convolutions that stay in full precision where others come to eight bits: what passes between
# few channels has few bits to say it with, and they hold hardly any of the weights.
NARROW = 16


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What a graph says of `n` photos; see `Manifest`."""

    probabilities: Float[np.ndarray, "n k"]
    distance: Float[np.ndarray, "n"] | None = None
    heat: Float[np.ndarray, "n r c k"] | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A run's model as a format gets it: everything from pixels to answers.

    `model` is the framework's own, as `Network.whole` makes it: PyTorch a module, Keras a model. `samples` gives
    upright photos `uint8 [1 h w 3]` of the run's training, as many as are asked for, to calibrate small integers by.
    """

    engine: Engine
    model: Any
    manifest: Manifest
    samples: Iterator[UInt8[np.ndarray, "1 h w 3"]]


class Graph(Protocol):
    """The graph of an opened bundle, ready to answer. Several threads may call it."""

    @property
    def concurrency(self) -> int:
        """How many threads may call it at the same time with profit."""

    def photos(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Outputs:
        """Answers for upright photos of one size, of any size: the graph does all the rest."""

    def squares(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Outputs:
        """Answers for pictures that have been brought to the backbone's square already, by the same rule."""


class Format(Protocol):
    """How a bundle of one kind is written, opened and used by others. The entry-point group `headstart.formats`."""

    name: str
    about: str  # what it is for, in a few words
    precisions: tuple[Precision, ...]

    def refusal(self, engine: Engine, precision: Precision) -> str | None:
        """Why a model of this framework cannot be exported so, by the format's nature; None where it can.

        Loads nothing: the table in the docs is made of it.
        """

    def check_installed(self, engine: Engine, precision: Precision) -> None:
        """Refuse where a library is missing that writes it; called before any work.

        Raises:
            BadExport: with the way to install it.
        """

    def write(self, whole: Whole, folder: Path, precision: Precision) -> None:
        """Write the graph's files into the folder.

        Raises:
            BadExport: a library is missing, or the model cannot be expressed in this format.
        """

    def open(self, bundle: Bundle) -> Graph:
        """The graph, without running any code that the bundle holds.

        Raises:
            BadBundle: it does not load, or the library that runs it is missing.
        """

    def snippets(self, manifest: Manifest) -> Mapping[str, str]:
        """Programs that use the bundle without headstart, by their file names, such as `use.py` and `use.mjs`.

        Each lies in the bundle's folder, takes the path of a photo, and prints `class probability` in its first line.
        """


def named(name: str) -> Format:
    """The format of this name.

    Raises:
        BadExport: there is none.
    """
    found: Format = FORMATS.load(name)
    return found


def on_canvas(pictures: UInt8[np.ndarray, "n size size 3"], manifest: Manifest) -> UInt8[np.ndarray, "n h w 3"]:
    """Photos of which the graph's preprocessing gives exactly these squares: so any graph takes a mixed batch."""
    spec = manifest.spec
    if spec.fit != "crop" or spec.resized == spec.size:
        return pictures
    start = round((spec.resized - spec.size) / 2)  # as in `frames.middle`
    canvas = np.zeros((len(pictures), spec.resized, spec.resized, 3), np.uint8)
    canvas[:, start : start + spec.size, start : start + spec.size] = pictures
    return canvas
