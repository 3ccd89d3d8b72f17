"""Measure the extraction of features against plain PyTorch, and against what its two parts allow on the same cores.

    python benchmarks/speed/extraction.py [--rounds 3] [--seconds 1.5] [--only "lite0;vgg16"]

Each round takes some seconds' worth of the same photos through the opponent, bare decoding, and the bare network and
the whole extraction in each precision, one after the other, so that a busy neighbour disturbs all of them. Opponent
and headstart are processes of their own; the opponent's environment (`environments.py`) is made at the first time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from environments import OPPONENTS, REPOSITORY, python_of
from PIL import Image

RESULT = REPOSITORY / "benchmarks" / "results" / "extraction.json"
FLOWERS = REPOSITORY.parent / "shared" / "data" / "flowers5"
BATCH = 32  # the opponent's; every number of photos is a multiple of it
LEAST, LARGE = 32, 128  # photos in a measurement; photos of 12 megapixels
INTERVAL = 0.25  # seconds between two looks at the memory, which hold the process up


@dataclass(frozen=True)
class Case:
    """One row: a backbone, and which photos."""

    name: str
    backbone: str
    weights: str = "none"
    large: bool = False
    int8: bool = False


CASES = (
    Case("lite0", "bundled", "default", int8=True),
    Case("lite0, 12 MP photos", "bundled", "default", large=True),
    Case("vgg16", "torchvision/vgg16", int8=True),
    Case("resnet50", "torchvision/resnet50"),
    Case("densenet121", "torchvision/densenet121"),
    Case("mobilenet_v2", "torchvision/mobilenet_v2"),
)


class Process:
    """A script that answers a line for a line, and the memory of it and its children at its highest."""

    def __init__(self, python: Path | str, script: Path, *arguments: object) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  for as long as the process lives
        command = [str(python), str(script), *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self.highest, self.watched = 0.0, True
        threading.Thread(target=self._watch, daemon=True).start()

    def ask(self, **what: Any) -> dict[str, Any]:
        """Its answer."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            while answer and not answer.startswith("{"):  # libraries print what they like
                answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.errors.seek(0)
            raise SystemExit(self.errors.read().decode(errors="replace"))
        told: dict[str, Any] = json.loads(answer)
        return told

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)

    def highest_memory(self) -> float:
        """In MB, from the start until now. It is watched no longer."""
        self.watched = False
        return self.highest

    def _watch(self) -> None:
        while self.watched and self.process.poll() is None:
            self.highest = max(self.highest, sum(map(anonymous, family(self.process.pid))))
            time.sleep(INTERVAL)


def family(pid: int) -> list[int]:
    """A process and its children, all the way down."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        children = []
    return [pid, *(below for child in children for below in family(child))]


def anonymous(pid: int) -> float:
    """MB of memory that is this process's own, without mapped files; what several share, each has a part of."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon")) / 1000


def enlarged(folder: Path) -> Path:
    """Photos of 4000 x 3000 pixels, JPEG quality 90: eight real ones enlarged, with noise, each under new bytes."""
    noise = 4 * np.random.default_rng(0).standard_normal((3000, 4000, 3), np.float32)
    contents = []
    for path in sorted(FLOWERS.rglob("*.jpg"))[::100][:8]:
        with Image.open(path) as small:
            pixels = np.asarray(small.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC), np.float32)
        file = io.BytesIO()
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    for number in range(LARGE):
        content = contents[number % len(contents)]
        comment = b"\xff\xfe\x00\x06" + number.to_bytes(4, "big")
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content[:2] + comment + content[2:])
    return folder


class Measured:
    """One case, its two processes, and how many photos each part takes in the time given."""

    def __init__(self, case: Case, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self.paths = [str(path) for path in sorted(folder.rglob("*.jpg"))]
        self.paths = [self.paths[place] for place in np.random.default_rng(0).permutation(len(self.paths))]
        self.opponent = Process(python_of("pytorch"), OPPONENTS / "extraction_pytorch.py", case.backbone)
        self.workers = max((0, 1, 2), key=lambda number: self.opponents_rate(LEAST, number))
        self.opponents_photos = self._worth(self.opponents_rate(LEAST, self.workers))
        self.opponents_memory = self.opponent.highest_memory()
        self.here = Process(
            sys.executable, Path(__file__).parent / "extraction_here.py", case.backbone, case.weights, folder
        )
        self.photos: dict[tuple[str, str], int] = {}
        self.memory = 0.0
        for precision in ("bf16", "fp32", *(["int8"] if case.int8 else [])):
            self._prepare(precision)

    def _prepare(self, precision: str) -> None:
        if self.rate("whole", precision, LEAST) is None:
            return
        for part in ("decode", "engine", "whole"):
            self.photos[part, precision] = self._worth(self.rate(part, precision, LEAST) or 0.0)
        self.memory = self.memory or self.here.highest_memory()  # with the first precision alone open

    def _worth(self, rate: float) -> int:
        return int(min(len(self.paths), max(LEAST, rate * self.seconds)) // BATCH * BATCH)

    def opponents_rate(self, photos: int, workers: int) -> float:
        """Photos a second."""
        return photos / float(self.opponent.ask(photos=self.paths[:photos], workers=workers)["seconds"])

    def rate(self, part: str, precision: str, photos: int) -> float | None:
        """Photos a second; None where nothing here computes so."""
        told = self.here.ask(part=part, precision=precision, photos=photos)
        return photos / float(told["seconds"]) if told else None

    @property
    def precisions(self) -> list[str]:
        """Those that are there."""
        return [precision for part, precision in self.photos if part == "whole"]

    def round(self) -> dict[str, float]:
        """Rates of everything, one after the other."""
        told = {"opponent": self.opponents_rate(self.opponents_photos, self.workers)}
        first = self.precisions[0]
        told["decode"] = self.rate("decode", first, self.photos["decode", first]) or 0.0
        for precision in self.precisions:
            for part in ("engine", "whole"):
                told[f"{part} {precision}"] = self.rate(part, precision, self.photos[part, precision]) or 0.0
        return told

    def close(self) -> None:
        self.opponent.close()
        self.here.close()


def row(case: Case, measured: Measured, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """One line of the table, from rates of interleaved rounds."""
    middle = {name: statistics.median(told[name] for told in rounds) for name in rounds[0]}

    def limit(told: dict[str, float], precision: str) -> float:
        return 1 / (1 / told["decode"] + 1 / told[f"engine {precision}"])

    def times(precision: str) -> float:
        return statistics.median(told[f"whole {precision}"] / told["opponent"] for told in rounds)

    def share(precision: str) -> float:
        return statistics.median(told[f"whole {precision}"] / limit(told, precision) for told in rounds)

    line: dict[str, Any] = {
        "backbone": case.name,
        "PyTorch, photos/s": middle["opponent"],
        "its workers": measured.workers,
    }
    for precision in ("fp32", "bf16", "int8"):
        there = precision in measured.precisions
        line[f"{precision}, photos/s"] = middle[f"whole {precision}"] if there else None
        line[f"{precision}, times PyTorch"] = times(precision) if there else None
        line[f"{precision}, share of the limit"] = share(precision) if there else None
    line["decode, photos/s"] = middle["decode"]
    for precision in ("fp32", "bf16", "int8"):
        line[f"engine {precision}, photos/s"] = middle.get(f"engine {precision}")
    line["PyTorch, MB"], line["headstart, MB"] = measured.opponents_memory, measured.memory
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="how long each measurement is to take, about")
    parser.add_argument("--only", default="", help="names of rows, with semicolons between")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.only.split(";") if name]
    for case in CASES:
        if names and case.name not in names:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            measured = Measured(case, enlarged(Path(scratch)) if case.large else FLOWERS, arguments.seconds)
            rounds = [measured.round() for _ in range(arguments.rounds + 1)][1:]  # the first warms up
            measured.close()
        line = row(case, measured, rounds)
        print(json.dumps(line), flush=True)
        write(line)


def write(line: dict[str, Any]) -> None:
    """Put a row into the results, in place of the one of this name, in the order of `CASES`."""
    before = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    known = {told["backbone"]: told for told in [*before, line]}
    result = {
        "benchmark": "feature extraction",
        "description": "Features of JPEG files, written to the cache, on all cores: medians of interleaved rounds. "
        "The opponent is plain PyTorch: eager, fp32, batches of 32, torchvision's transforms, a DataLoader with the "
        "best of 0, 1 and 2 workers. headstart runs OpenVINO in the precision of the column, which is asked for here: "
        "only lite0 has real weights, and by random ones nothing can be said about how features agree. The photos of "
        "flowers5 are thumbnails of about 230 pixels; those of 12 megapixels are enlarged from them. MB: memory that "
        "is the process's own and its children's, at its highest; headstart's in bf16, conversion included. Goals: "
        "twice PyTorch (VGG16, lite0), 2.1 times (ResNet50, DenseNet121), 2.5 times (MobileNetV2); 0.9 of the limit.",
        "limit": "1 / (1/decode + 1/engine): photos decoded, and the network computed in as many threads as cores, "
        "both bare and in the same round",
        "cores": len(os.sched_getaffinity(0)),
        "rows": [known[case.name] for case in CASES if case.name in known],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
