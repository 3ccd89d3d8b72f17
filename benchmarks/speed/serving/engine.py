"""Decode photos and run a bundle's engine on them, without a service: what a photo costs at least.

python engine.py BUNDLE FOLDER, then on standard input: SECONDS BATCH; prints processor and wall seconds and photos.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np

from headstart.machine import cores
from headstart.predictor import Predictor


def work(predictor: Predictor, photos: itertools.cycle[bytes], batch: int, until: float, done: list[int]) -> None:
    """As one thread of a service does: the same files, decoding and engine."""
    while time.perf_counter() < until:
        pictures = [predictor.decode(next(photos)) for _ in range(batch)]
        predictor.answer(np.stack(pictures))
        done.append(batch)


def main() -> None:
    bundle, folder = map(Path, sys.argv[1:])
    predictor = Predictor.open(bundle)
    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    random.Random(0).shuffle(contents)
    photos = itertools.cycle(contents)
    for line in sys.stdin:
        seconds, batch = float(line.split()[0]), int(line.split()[1])
        done: list[int] = []
        before, began = os.times(), time.perf_counter()
        arguments = (predictor, photos, batch, began + seconds, done)
        threads = [threading.Thread(target=work, args=arguments) for _ in range(cores())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = os.times()
        busy = after.user + after.system - before.user - before.system
        print(json.dumps({"busy": busy, "seconds": time.perf_counter() - began, "photos": sum(done)}), flush=True)


if __name__ == "__main__":
    main()
