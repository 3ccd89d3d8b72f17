"""Measure what an audit costs beside decoding every photo once, with the same number of threads, round by round.

    python benchmarks/speed/audit.py [--photos 10000] [--rounds 3] [--size 0]

The photos are those of the five shared data sets, and copies of them that were cropped and saved again, until there are
enough: all different files. `--size` makes their longer side so long. Each round has an empty cache, and both ways read
files that the system has in memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.auditing import Audit, audit
from headstart.machine import cores

REPOSITORY = Path(__file__).parents[2]
SETS = ("caltech101-20", "clothing-small", "flowers5", "hymenoptera", "trashnet")
RESULT = REPOSITORY / "benchmarks" / "results" / "audit.json"


def make(folder: Path, number: int, size: int, shared: Path) -> None:
    """Write so many different photos, a class folder for each class of each set."""
    found = [path for name in SETS for path in sorted((shared / name).rglob("*.jpg"))]
    rng = random.Random(0)
    for place in range(number):
        path = found[place % len(found)]
        target = folder / f"{path.relative_to(shared).parts[0]}-{path.parent.name}" / f"{place:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() if place < len(found) and not size else _variant(path, size, rng))


def _variant(path: Path, size: int, rng: random.Random) -> bytes:
    with Image.open(path) as image:
        image = image.convert("RGB")
        left, upper = (rng.uniform(0, 0.1) * side for side in image.size)
        box = (left, upper, image.width * 0.9 + left, image.height * 0.9 + upper)
        scale = size / max(image.size) if size else 1.0
        image = image.resize((round(image.width * scale), round(image.height * scale)), box=box)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=rng.randint(70, 95))
        return file.getvalue()


def decode(paths: list[Path]) -> None:
    """Decode every photo to RGB, in full."""

    def one(path: Path) -> tuple[int, int]:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return image.convert("RGB").size

    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(one, paths):
            pass


def audited(folder: Path) -> Audit:
    """Audit them with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HEADSTART_CACHE"] = cache
        return again(folder)


def again(folder: Path) -> Audit:
    """Audit them with the cache as it is."""
    work = audit(folder)
    while True:
        try:
            next(work)
        except StopIteration as end:
            done: Audit = end.value
            return done


def seconds(work: Callable[[], object]) -> np.ndarray:
    """How long it takes, by the clock and of processors: on a busy machine the second is nearer to the truth."""
    begin = time.perf_counter(), time.process_time()
    work()
    return np.array((time.perf_counter() - begin[0], time.process_time() - begin[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared" / "data")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as kept:
        root = Path(folder)
        make(root, arguments.photos, arguments.size, arguments.shared)
        paths = sorted(root.rglob("*.jpg"))
        os.environ["HEADSTART_CACHE"] = kept
        found = again(root)  # warms up
        rounds = []
        for _ in range(arguments.rounds):
            load = os.getloadavg()[0]
            one, cold = seconds(lambda: decode(paths)), seconds(lambda: audited(root))
            other = seconds(lambda: decode(paths))
            os.environ["HEADSTART_CACHE"] = kept
            warm = seconds(lambda: again(root))
            rounds.append(((one + other) / 2, cold, warm, load))
            print([np.round(value, 2) for value in rounds[-1]], flush=True)
    decoding, cold, warm = (np.median([each[place] for each in rounds], axis=0) for place in range(3))
    ratios = np.array([each[1] / each[0] for each in rounds])
    row = {
        "photos": len(paths),
        "longer side, pixels": arguments.size or "as they are, 224 to 500",
        "threads": cores(),
        "decoding once, s": decoding[0],
        "audit, s": cold[0],
        "audit / decoding": statistics.median(ratios[:, 0]),
        "from round to round": [min(ratios[:, 0]), max(ratios[:, 0])],
        "the same in processor time": statistics.median(ratios[:, 1]),
        "audit again, s": warm[0],
        "near-duplicate pairs": len(found.near_duplicates),
        "load of the machine": statistics.median(each[3] for each in rounds),
    }
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"rows": []}
    rows = [each for each in result["rows"] if each["longer side, pixels"] != row["longer side, pixels"]]
    result = {
        "benchmark": "audit",
        "description": "An audit (hashes of files, a look at each photo, near-duplicates, all counts) with an empty "
        "cache, beside decoding every photo to RGB with Pillow, on as many threads, interleaved. Goal: at most 1.3.",
        "rows": [*rows, row],
    }
    RESULT.write_text(json.dumps(result, indent=1, default=float) + "\n", encoding="utf-8")
    print(json.dumps(row, indent=1, default=float))


if __name__ == "__main__":
    main()
