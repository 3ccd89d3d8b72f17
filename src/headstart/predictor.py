"""Answer for photos from a bundle alone: no training framework is imported, and nothing of the run is needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart.explaining.methods import EXACT, OCCLUSION
from headstart.explaining.occlusion import occlusion
from headstart.exporting.bundle import Bundle, Manifest
from headstart.exporting.format import Graph, Outputs, named
from headstart.modalities.loading import load_modality
from headstart.modalities.modality import Modality

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """An opened bundle: bytes become squares, squares become answers. Several threads may use it."""

    manifest: Manifest
    graph: Graph

    @classmethod
    def open(cls, path: str | Path) -> Predictor:
        """The bundle in this folder, checked and ready.

        Raises:
            BadBundle: there is none, it was changed, or nothing here can run it.
        """
        bundle = Bundle.open(path)
        return cls(manifest=bundle.manifest, graph=named(bundle.manifest.format).open(bundle))

    @cached_property
    def modality(self) -> Modality:
        """What decodes, with the limit of pixels that the model was trained with."""
        return load_modality("image", max_pixels=self.manifest.max_pixels)

    def decode(self, content: bytes) -> UInt8[np.ndarray, "size size 3"]:
        """The backbone's square of a photo, from the bytes of its file.

        Raises:
            Undecodable: with the reason.
        """
        return self.modality.decode(content, self.manifest.spec)

    def answer(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Outputs:
        """Probabilities, distances and heat of decoded photos."""
        return self.graph.squares(pictures)

    def unsure(self, outputs: Outputs) -> Bool[np.ndarray, "n"]:
        """Which photos are like none of those that the model learnt from; none where it cannot tell."""
        if outputs.distance is None or self.manifest.threshold is None:
            return np.zeros(len(outputs.probabilities), bool)
        far: Bool[np.ndarray, "n"] = outputs.distance > self.manifest.threshold
        return far

    def heat(self, picture: UInt8[np.ndarray, "size size 3"], label: int) -> Float[np.ndarray, "r c"]:
        """How much each place of a decoded photo speaks for a class: exact where the graph tells, else by hiding it.

        Places that are hidden one after another (Zeiler and Fergus 2014) cost a pass for each, in two batches.
        """
        if "heat" in self.manifest.outputs:
            told = self.answer(np.stack([picture])).heat
            assert told is not None, "the manifest promises heat"
            exact: Float[np.ndarray, "r c"] = told[0, :, :, label]
            return exact
        return occlusion(lambda hidden: self.answer(hidden).probabilities, picture, label, self.manifest.spec)

    @property
    def method(self) -> str:
        """How `heat` finds it, in words."""
        return EXACT if "heat" in self.manifest.outputs else OCCLUSION
