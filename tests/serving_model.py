"""A model that needs no framework, to serve in tests: it names the colour that most of a photo has."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from headstart.events import Note
from headstart.exporting.bundle import Bundle, Manifest
from headstart.exporting.format import Graph, Outputs
from headstart.modalities.spec import InputSpec
from headstart.predictor import Predictor
from headstart.serving.limits import Limits
from headstart.serving.listening import listening
from headstart.serving.security import Access
from headstart.serving.service import serving
from headstart.serving.swapping import Shelf

CLASSES = ("red", "green", "blue")
SPEC = InputSpec(size=32, crop=1.0, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)


def manifest(classes: tuple[str, ...] = CLASSES) -> Manifest:
    """Of a bundle of no format."""
    return Manifest(
        format="colour",
        precision="fp32",
        classes=classes,
        spec=SPEC,
        outputs=("probabilities", "distance", "heat"),
        temperature=1.0,
        threshold=0.5,
        false_alarms=0.05,
        backbone={"name": "test/colour", "licence": "none", "framework": "torch"},
        max_pixels=10_000_000,
        created="2026-01-01T00:00:00Z",
        card={"accuracy": 0.9, "path": "/secret/run", "photos": "/secret/photos"},
    )


@dataclass
class Colour:
    """Probabilities are the shares of red, green and blue; a grey photo is far from all."""

    delay: float = 0.0
    concurrency: int = 2
    batches: list[int] = field(default_factory=list)

    def photos(self, pixels: np.ndarray) -> Outputs:
        return self.squares(pixels)

    def squares(self, pictures: np.ndarray) -> Outputs:
        time.sleep(self.delay)
        self.batches.append(len(pictures))
        means = pictures.reshape(len(pictures), -1, 3).mean(1) + 1e-3
        shares = (means / means.sum(1, keepdims=True)).astype(np.float32)
        heat = pictures[:, ::8, ::8].astype(np.float32)
        return Outputs(shares, (1 - shares.max(1)).astype(np.float32), heat)


def predictor(graph: Graph | None = None, classes: tuple[str, ...] = CLASSES) -> Predictor:
    """Answers by colour."""
    return Predictor(manifest=manifest(classes), graph=graph or Colour())


def opened(path: Path) -> Predictor:
    """The predictor of a folder that holds classes.json; hashes are checked as those of any bundle are."""
    bundle = Bundle.open(path)
    told = json.loads((path / "classes.json").read_text())
    return Predictor(manifest=bundle.manifest, graph=Colour(delay=told["delay"]))


def write(path: Path, classes: tuple[str, ...] = CLASSES, *, delay: float = 0.0) -> Path:
    """Such a folder."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "classes.json").write_text(json.dumps({"delay": delay}))
    Bundle.seal(path, manifest(classes))
    return path


def served(path: Path, *, token: str | None = None, workers: int = 2, **limits: float) -> Iterator[str]:
    """Serve such a folder; yields what is told."""
    with_limits = Limits(**limits)  # type: ignore[arg-type]
    shelf = Shelf(path, most_pixels=with_limits.pixels, batch=with_limits.batch, opening=opened)
    access = Access.of("127.0.0.1", token, {})
    for event in serving(shelf, listening("127.0.0.1", 0), access=access, limits=with_limits, workers=workers):
        assert isinstance(event, Note)
        yield event.text


if __name__ == "__main__":
    given = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    for line in served(Path(sys.argv[1]), **given):
        with contextlib.suppress(OSError):  # the terminal has gone
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
