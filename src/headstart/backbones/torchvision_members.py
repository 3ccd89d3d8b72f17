"""Look up what a network of torchvision needs: its pictures, its width, and the official file of its weights.

A table, and nothing is imported for it. It is written by `python -m tests.conformance.tables torchvision` and held
against the installed torchvision by tests/test_torchvision.py.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, cast

from headstart.backbones.downloads import Published
from headstart.modalities.spec import InputSpec

SERVER = "https://download.pytorch.org/models"
Channels = tuple[float, float, float]
# These were made by Google, for pixels from -1 to 1. torchvision's networks undo its usual scaling inside; here the
# picture is scaled that way at once.
_INSIDE = ("googlenet", "inception_v3")
_HALF: Channels = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One published set of weights, and the pictures that it was evaluated on."""

    name: str  # of torchvision's: IMAGENET1K_V1
    file: str
    size: int
    resized: int  # pixels of the shorter side before the middle is cut out
    interpolation: Literal["bilinear", "bicubic"]
    mean: Channels  # of pixels in 0..1
    std: Channels
    licence: str
    parameters: int  # without the top

    @property
    def published(self) -> Published:
        """Where it is to be had; the end of its name begins its sha256."""
        digest = re.search(r"-([0-9a-f]{8,})\.pth$", self.file)
        return Published(self.file, f"{SERVER}/{self.file}", digest and digest.group(1), home="torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One network: its width and every set of weights, torchvision's default first."""

    name: str
    width: int
    weights: tuple[Weights, ...]

    def named(self, weights: str) -> Weights | None:
        """The set of weights of this name, in any case; without a name the default."""
        if not weights:
            return self.weights[0]
        return next((each for each in self.weights if each.name.lower() == weights.lower()), None)

    def spec(self, weights: Weights, size: int | None = None) -> InputSpec:
        """The picture as its makers evaluate it; another `size` keeps the share that is cut out."""
        mean, std = (_HALF, _HALF) if self.name in _INSIDE else (weights.mean, weights.std)
        return InputSpec(
            size=size or weights.size,
            crop=weights.size / weights.resized,
            interpolation=weights.interpolation,
            mean=_times_255(mean),
            std=_times_255(std),
        )


@cache
def members() -> Mapping[str, Member]:
    """Every network by name, the best general choice first."""
    found: dict[str, Member] = {}
    text = files("headstart.backbones").joinpath("torchvision.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        before = found[row["name"]].weights if row["name"] in found else ()
        found[row["name"]] = Member(name=row["name"], width=int(row["width"]), weights=(*before, _weights(row)))
    return found


def _weights(row: Mapping[str, str]) -> Weights:
    return Weights(
        name=row["weights"],
        file=row["file"],
        size=int(row["size"]),
        resized=int(row["resized"]),
        interpolation=cast(Literal["bilinear", "bicubic"], row["interpolation"]),
        mean=_channels(row["mean"]),
        std=_channels(row["std"]),
        licence=row["licence"],
        parameters=int(row["parameters"]),
    )


def _channels(text: str) -> Channels:
    red, green, blue = map(float, text.split())
    return red, green, blue


def _times_255(values: Channels) -> Channels:
    red, green, blue = values
    return red * 255, green * 255, blue * 255
