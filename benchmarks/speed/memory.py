"""Measure the anonymous memory of extracting features from few and from many photos.

    python benchmarks/speed/memory.py [FOLDER] [--few 1000] [--many 50000]

The photos are real ones under new bytes: a number after the end of the JPEG, which decoders ignore. Each extraction is
a process of its own, whose anonymous memory (RssAnon: without mapped files) is sampled while it works. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "memory.json"
INTERVAL = 0.005  # seconds between two samples


def anonymous() -> float:
    """MB of anonymous memory that this process holds now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


class Peak:
    """The highest anonymous memory while it is open."""

    def __enter__(self) -> Peak:
        self.highest = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self.highest = max(self.highest, anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def photos(source: Path, target: Path, number: int) -> None:
    """Write this many photos, all of different bytes."""
    real = [path.read_bytes() for path in sorted(source.rglob("*.jpg"))[:500]]
    for index, content in zip(range(number), itertools.cycle(real), strict=False):
        path = target / f"{index // 1000:03}" / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + index.to_bytes(8, "big"))


def measure(folder: Path, cache: Path) -> dict[str, Any]:
    """Extract the folder's features in this process."""
    from headstart.backbones.loading import load_backbone
    from headstart.data.dataset import Dataset, Item
    from headstart.features import extract
    from headstart.modalities.image import ImageModality
    from headstart.store import Store

    items = (
        Item(hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(), str(path.relative_to(folder)), 0, "train")
        for path in sorted(folder.glob("*/*.jpg"))
    )
    dataset = Dataset(root=folder, classes=("any",), items=tuple(items))
    backbone = load_backbone("bundled")
    network = backbone.build()
    before = anonymous()
    with Peak() as peak:
        work = extract(dataset, backbone, network, network.cuts[-1], modality=ImageModality(), store=Store(cache))
        for _ in work:
            pass
    return {"photos": len(dataset), "before, MB": before, "peak, MB": peak.highest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY.parent / "shared" / "data" / "flowers5")
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=50_000)
    parser.add_argument("--measure", type=Path, metavar="CACHE", help=argparse.SUPPRESS)  # the process that is measured
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.folder, arguments.measure)))
        return
    rows = []
    for number in (arguments.few, arguments.many):
        with tempfile.TemporaryDirectory() as scratch:
            photos(arguments.folder, Path(scratch, "photos"), number)
            command = [sys.executable, __file__, str(Path(scratch, "photos")), "--measure", str(Path(scratch, "cache"))]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(told))
            print(rows[-1], flush=True)
    for row in rows:
        row["peak, of the few's"] = row["peak, MB"] / rows[0]["peak, MB"]
    result = {
        "benchmark": "memory of feature extraction",
        "description": "Anonymous memory of a process that extracts the features of so many photos with the default "
        "backbone. Goal: peaks within 20 % of each other.",
        "limit": "",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
