"""Measure how near the extraction of features comes to what its two parts allow on the same cores.

    python benchmarks/speed/extraction.py [FOLDER] [--photos 512] [--rounds 5] [--backbone bundled]

Each round measures bare decoding, bare forward passes in two arrangements, and the whole, one after the other, so that
a busy neighbour disturbs all of them. Decoding and computing share the cores: the limit is 1 / (1/decode + 1/forward).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import load_backbone
from headstart.data.dataset import Dataset
from headstart.data.loading import load_dataset
from headstart.features import extract
from headstart.machine import cores
from headstart.modalities.image import ImageModality
from headstart.networks.network import Network
from headstart.runtimes.runtime import CHUNK
from headstart.store import Store

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "extraction.json"
DECODE, SIDE_BY_SIDE, TOGETHER, WHOLE = "decode", "forward side by side", "forward together", "whole"


def measures(dataset: Dataset, backbone: Backbone, network: Network) -> dict[str, Callable[[], None]]:
    """What is measured; each takes all photos of the data set through its part."""
    modality = ImageModality()
    contents = [path.read_bytes() for path in dataset.paths]
    pictures = [modality.decode(content, backbone.spec, reduced=True) for content in contents[:CHUNK]]
    batch = np.stack(pictures)
    cut = network.cuts[-1]
    chunks = len(contents) // CHUNK

    def decode() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda content: modality.decode(content, backbone.spec, reduced=True).shape, contents))

    def side_by_side() -> None:
        with network.concurrent(cores()), ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda _: network.features(batch, cut).shape, range(chunks)))

    def together() -> None:
        for _ in range(chunks):
            network.features(batch, cut)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as cache:
            for _ in extract(dataset, backbone, network, cut, modality=modality, store=Store(Path(cache))):
                pass

    return {DECODE: decode, SIDE_BY_SIDE: side_by_side, TOGETHER: together, WHOLE: whole}


def rates(parts: dict[str, Callable[[], None]], photos: int, rounds: int) -> list[dict[str, float]]:
    """Photos per second of each part in each round; the first round warms up and does not count."""
    told = []
    for number in range(rounds + 1):
        seconds = {}
        for name, part in parts.items():
            begin = time.perf_counter()
            part()
            seconds[name] = time.perf_counter() - begin
        if number:
            told.append({name: photos / value for name, value in seconds.items()})
            print({name: round(rate, 1) for name, rate in told[-1].items()}, flush=True)
    return told


def limit(rate: dict[str, float]) -> float:
    """The rate that the counted work allows, with the faster arrangement of the forward pass."""
    return 1 / (1 / rate[DECODE] + 1 / max(rate[SIDE_BY_SIDE], rate[TOGETHER]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY.parent / "shared" / "data" / "flowers5")
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="bundled")
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.folder)
    number = min(arguments.photos, len(dataset)) // CHUNK * CHUNK
    step = len(dataset) // number
    dataset = dataset.with_items(dataset.items[::step][:number])
    backbone = load_backbone(arguments.backbone)
    told = rates(measures(dataset, backbone, backbone.build()), number, arguments.rounds)
    middle = {name: statistics.median(rate[name] for rate in told) for name in told[0]}
    shares = [rate[WHOLE] / limit(rate) for rate in told]
    row = {
        "photos": arguments.folder.name,
        "backbone": backbone.name,
        "cores": cores(),
        **{f"{name}, photos/s": rate for name, rate in middle.items()},
        "limit, photos/s": statistics.median(map(limit, told)),
        "share of the limit": statistics.median(shares),
        "from round to round": [min(shares), max(shares)],
    }
    result = {
        "benchmark": "feature extraction",
        "description": "Rates of the parts alone and of the whole, on all cores, medians of interleaved rounds. Goal: "
        "at least 0.9 of the limit.",
        "limit": "1 / (1/decode + 1/forward), the forward pass in the faster of two arrangements: a thread a core side "
        "by side, or all cores together on one batch",
        "rows": [row],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
