"""Describe a pre-trained network without its top: what it takes in, what it gives, what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from headstart.config import Framework
from headstart.errors import BadBackbone, BadSetting
from headstart.modalities.spec import InputSpec
from headstart.networks.network import Network

OnProgress = Callable[[int, int | None], None]  # bytes that are there, of how many


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pre-trained network, ready to give features. `weights_hash` is the sha256 of what was loaded.

    `about` is what its source needs to `restore` it, beside its name and size: it is kept in the run. `remarks` are
    sentences that a user should read once.
    """

    name: str
    spec: InputSpec
    weights_hash: str
    licence: str
    framework: Literal["torch", "keras"]
    build: Callable[[], Network]  # a fresh network with the pre-trained weights, on the CPU
    about: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


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


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a user wants a backbone, beside its name; what is `None` is left to the source."""

    size: int | None = None  # pixels of a side
    weights: Path | None = None  # a file with its weights
    blank: bool = False  # fresh random weights instead of pre-trained ones
    framework: Framework | None = None  # the engine, where a source has several
    cut: str | None = None  # the layer of a user's own network that gives the features
    factory: str | None = None  # makes the user's own network; code, and only ever from the user's own command
    allow_code: bool = False  # load a file that holds code; only ever from the user's own command
    on_progress: OnProgress | None = None  # told while weights are downloaded


def check_torch(name: str) -> None:
    """Nothing, if PyTorch is installed: who trains with Keras, or only predicts from bundles, needs none of it.

    Raises:
        BadBackbone: it is not.
    """
    if find_spec("torch") is None:
        raise BadBackbone(
            f"backbone {name!r} runs on PyTorch, which is not installed", fix='pip install "headstart[torch]"'
        )


def only_torch(name: str, wanted: Wanted) -> None:
    """Refuse what a PyTorch backbone of a known architecture has no use for.

    Raises:
        BadSetting: another framework or a cut is wanted.
    """
    if wanted.framework not in (None, "torch"):
        raise BadSetting(
            f"backbone {name!r} runs on PyTorch, not on {wanted.framework}",
            fix="take a Keras backbone, keras/vgg16 for instance, or leave the framework out",
        )
    if wanted.cut is not None:
        raise BadSetting(f"backbone {name!r} has no top to cut at {wanted.cut!r}", fix="leave the cut out")


class Source(Protocol):
    """What the entry-point group `headstart.backbones` offers: a module, say, that has these functions."""

    def catalogue(self) -> tuple[Entry, ...]:
        """Every backbone of this source, the best general choice first. Imports no framework, reads no weights."""

    def load(self, name: str, wanted: Wanted) -> Backbone:
        """The backbone of this name. The weights are checked here and parsed by `Backbone.build`.

        Raises:
            BadBackbone: the name is unknown, or the weights are missing or damaged.
        """

    def restore(self, name: str, size: int, about: Mapping[str, Any]) -> Backbone:
        """The backbone of a run, for the run's own weights to be put in: needs no file of weights, takes no code.

        Raises:
            BadBackbone: it cannot be built here.
        """
