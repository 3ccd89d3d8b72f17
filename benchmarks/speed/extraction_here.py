"""Take features from photos with headstart, whole or in parts, as a process that `extraction.py` drives.

    python extraction_here.py BACKBONE WEIGHTS FOLDER    (WEIGHTS: none for random ones, default for its own)

Each line of input is `{"part": "whole" | "decode" | "engine", "precision": p, "photos": n}`; each line of output
`{"seconds": s}`, or `{}` where no runtime here has this precision.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

# torchvision wants two operators declared beside PyTorch's build for processors.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "conformance"))
from operators import declare_operators

declare_operators()

import numpy as np  # noqa: E402

from headstart.backbones.loading import load_backbone  # noqa: E402
from headstart.choosing import Wanted, here  # noqa: E402
from headstart.data.loading import load_dataset  # noqa: E402
from headstart.features import extract  # noqa: E402
from headstart.machine import cores  # noqa: E402
from headstart.modalities.image import ImageModality  # noqa: E402
from headstart.runtimes.opening import open_runner  # noqa: E402
from headstart.runtimes.runtime import Offer, Runner  # noqa: E402
from headstart.store import Store  # noqa: E402


class Bench:
    """One backbone and its photos; runners are opened at their first use and kept."""

    def __init__(self, backbone: str, weights: str | None, folder: Path) -> None:
        self.backbone = load_backbone(backbone, weights=weights)
        self.network = self.backbone.build()
        self.dataset = load_dataset(folder)
        # All classes at any number of photos.
        self.items = [self.dataset.items[place] for place in np.random.default_rng(0).permutation(len(self.dataset))]
        self.modality = ImageModality()
        self.wanted = Wanted(
            dataset=self.dataset,
            backbone=self.backbone,
            network=self.network,
            cut=self.network.cuts[-1],
            modality=self.modality,
            store=Store(Path(tempfile.mkdtemp())),
        )
        self.opened: dict[str, tuple[Offer, Runner]] = {}
        self.picture = self.decode((folder / self.items[0].path).read_bytes())

    def decode(self, content: bytes) -> np.ndarray:
        return self.modality.decode(content, self.backbone.spec, reduced=True)

    def runner(self, precision: str) -> tuple[Offer, Runner] | None:
        """What is fastest in this precision."""
        if precision not in self.opened:
            ways = [offer for offer in here(self.wanted) if offer.precision == precision]
            if not ways:
                return None
            runner = open_runner(self.network, ways[0], self.wanted.cut, sample=self.wanted.sample)
            self.opened[precision] = ways[0], runner
        return self.opened[precision]

    def part(self, name: str, photos: int, precision: str) -> Callable[[], None]:
        """What is to be measured on so many photos."""
        if name == "decode":
            contents = [(self.dataset.root / item.path).read_bytes() for item in self.items[:photos]]
            return partial(self._decode, contents)
        return partial({"engine": self._engine, "whole": self._whole}[name], photos, precision)

    def _decode(self, contents: list[bytes]) -> None:
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda content: self.decode(content).shape, contents))

    def _engine(self, photos: int, precision: str) -> None:
        _, runner = self.opened[precision]
        batch = np.stack([self.picture] * runner.chunk)
        with runner.concurrent(runner.concurrency), ThreadPoolExecutor(runner.concurrency) as pool:
            list(pool.map(lambda _: runner(batch).shape, range(photos // runner.chunk)))

    def _whole(self, photos: int, precision: str) -> None:
        offer, runner = self.opened[precision]
        with tempfile.TemporaryDirectory() as cache:
            work = extract(
                self.dataset.with_items(tuple(self.items[:photos])),
                self.backbone,
                self.network,
                self.wanted.cut,
                modality=self.modality,
                store=Store(Path(cache)),
                offer=offer,
                runner=lambda: runner,
            )
            for _ in work:
                pass


def main() -> None:
    backbone, weights, folder = sys.argv[1:]
    bench = Bench(backbone, None if weights == "default" else weights, Path(folder))
    for line in sys.stdin:
        asked = json.loads(line)
        if bench.runner(asked["precision"]) is None:
            print("{}", flush=True)
            continue
        part = bench.part(asked["part"], asked["photos"], asked["precision"])
        began = time.perf_counter()
        part()
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
