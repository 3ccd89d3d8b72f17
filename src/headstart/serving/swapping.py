"""Keep the model that answers, and put another in its place while requests go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headstart.errors import BadBundle, HeadstartError
from headstart.exporting.bundle import Manifest, is_bundle
from headstart.modalities.heat import Kind, overlay
from headstart.modalities.loading import load_modality
from headstart.modalities.modality import Modality
from headstart.predictor import Predictor

_DRAWN = 640  # pixels of the longer side of an explanation's picture
Mark = tuple[object, ...]  # of a folder: another, when something in it is


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """An opened bundle, with the service's own limit of pixels."""

    predictor: Predictor
    most_pixels: int
    number: int  # counts the bundles that were opened

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.predictor.manifest

    @cached_property
    def modality(self) -> Modality:
        """What decodes; made when the model is tried, before any thread asks for it."""
        return load_modality("image", max_pixels=min(self.manifest.max_pixels, self.most_pixels))

    def decode(self, content: bytes) -> UInt8[np.ndarray, "size size 3"]:
        """The backbone's square of a photo.

        Raises:
            Undecodable: with the reason.
        """
        return self.modality.decode(content, self.manifest.spec)

    def draw(self, content: bytes, heat: Float[np.ndarray, "r c"], kind: Kind) -> bytes:
        """The photo with its heat over it, as a file of this kind.

        Raises:
            Undecodable: with the reason.
        """
        return overlay(content, heat, self.manifest.spec, _DRAWN, kind=kind, max_pixels=self.most_pixels)

    def try_out(self, batch: int) -> None:
        """Answer for grey squares, once for each size of a batch: what compiles at its first use does so here.

        Raises:
            BadBundle: the answers have another shape than they say, or are no probabilities.
        """
        _ = self.modality
        size = self.manifest.spec.size
        for n in range(1, batch + 1):
            probabilities = self.predictor.answer(np.full((n, size, size, 3), 128, np.uint8)).probabilities
            if probabilities.shape != (n, len(self.manifest.classes)) or not np.isfinite(probabilities).all():
                raise BadBundle("the bundle's graph does not answer as its manifest says", fix="export it again")


class Shelf:
    """The model that answers now, and the folder that the next one will appear in."""

    def __init__(
        self, path: Path, *, most_pixels: int, batch: int, opening: Callable[[Path], Predictor] = Predictor.open
    ) -> None:
        """Open the bundle in this folder.

        Raises:
            BadBundle: it cannot be used.
        """
        self.path = path
        self._most_pixels, self._batch, self._opening = most_pixels, batch, opening
        self._seen = self.mark()
        self.current = self._opened(1)

    def mark(self) -> Mark:
        """Changes when the folder, or what a link to it points at, changes; empty while it holds no bundle."""
        if not is_bundle(self.path):
            return ()
        try:
            files = sorted(self.path.rglob("*"))
            stats = [(str(file), (found := file.stat()).st_size, found.st_mtime_ns, found.st_ino) for file in files]
        except OSError:
            return ()
        return (os.path.realpath(self.path), *stats)

    def changed(self) -> bool:
        """Whether something is there that was not looked at yet."""
        mark = self.mark()
        return bool(mark) and mark != self._seen

    def swap(self) -> Model:
        """Open what lies in the folder now, beside the model that answers, and let it answer from here on.

        Raises:
            BadBundle: it cannot be used; what answered goes on answering.
        """
        self._seen = self.mark()
        try:
            self.current = self._opened(self.current.number + 1)
        except HeadstartError:
            raise
        except Exception as problem:
            # Strangers' bundles meet strangers' libraries: whatever they do, the old model stays.
            raise BadBundle(
                f"the new bundle does not open ({type(problem).__name__})", fix="export it again"
            ) from problem
        return self.current

    def _opened(self, number: int) -> Model:
        model = Model(
            predictor=self._opening(Path(os.path.realpath(self.path))), most_pixels=self._most_pixels, number=number
        )
        model.try_out(self._batch)
        return model
