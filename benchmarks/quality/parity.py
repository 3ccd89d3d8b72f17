"""Compare every format of export with its run: largest difference, answers, times, sizes.

    python benchmarks/quality/parity.py [RUN …] [--data FOLDER] [--photos 500] [--formats onnx,torch] [--precision fp32]

Without RUN, three are trained first on the photos of DATA, quickly: the bundled network, torchvision's ResNet50 with
random weights, and Keras's VGG16 where its weights are given by --vgg16 FILE. Each is exported to each format that
takes it, and compared on photos of DATA that are mixed by a seed, from the bytes of their files.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import headstart as hs
from headstart.answering import answerer
from headstart.errors import HeadstartError
from headstart.exporting import parity
from headstart.exporting.exporting import engine_of
from headstart.exporting.format import FORMATS, named
from headstart.outcome import outcome
from headstart.runs import Run

RESULT = Path(__file__).parents[1] / "results" / "parity.json"


def trained(data: Path, folder: Path, vgg16: Path | None) -> list[Path]:
    """Runs of the networks that a user meets first."""
    frozen = {"weights": "none", "unfreeze": 0}  # or it would be trained from scratch
    asked: list[tuple[str, dict[str, Any]]] = [("bundled", {}), ("torchvision/resnet50", frozen)]
    asked += [("keras/vgg16", {"weights": vgg16})] if vgg16 is not None else []
    runs = []
    for name, options in asked:
        out = folder / name.replace("/", "-")
        hs.train(data, backbone=name, quality="fast", out=out, **options)
        runs.append(out)
    return runs


def row(run: Path, name: str, precision: Any, asked: parity.Asked, folder: Path) -> dict[str, Any]:
    """One format of one run."""
    began = time.perf_counter()
    facts = {"backbone": Run.open(run).backbone["name"], "format": name, "precision": precision}
    try:
        bundle = hs.export(run, to=name, precision=precision, out=folder / f"{run.name}-{name}-{precision}")
    except HeadstartError as problem:
        return facts | {"refused": problem.what}
    seconds = time.perf_counter() - began
    found = outcome(parity.compare(asked, named(name).open(bundle), precision))
    return facts | {
        "photos": found.n,
        "at their own size": found.whole,
        "largest difference": found.largest,
        "same answers": found.agreeing,
        "ties": found.ties,
        "accuracy lost": found.lost,
        "ms a photo": 1000 * found.seconds,
        "ms a square": 1000 * found.square_seconds,
        "MB": sum(file.bytes for file in bundle.manifest.files.values()) / 1e6,
        "s to export": seconds,
    }


def main() -> None:
    """Compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--data", type=Path, help="labelled photos; default: those of each run")
    parser.add_argument("--vgg16", type=Path, help="weights of keras/vgg16 without its top")
    parser.add_argument("--photos", type=int, default=parity.PHOTOS)
    parser.add_argument("--formats", default=",".join(FORMATS.names()))
    parser.add_argument("--precision", default="fp32", help="or several with commas between them")
    given = parser.parse_args()
    if not given.runs and given.data is None:
        parser.error("give runs, or --data to train some")
    parity.PHOTOS = given.photos
    with tempfile.TemporaryDirectory() as folder:
        runs = given.runs or trained(given.data, Path(folder), given.vgg16)
        rows = []
        for path in runs:
            run = Run.open(path)
            model = answerer(run, "cpu")
            # All its photos, for a run keeps few for validation.
            mixed = run.dataset if given.data is None else hs.load_dataset(given.data)
            every = mixed.with_items(mixed.items[:: max(1, len(mixed) // given.photos)][: given.photos])
            asked = parity.Asked(photos=every, split="all", model=model, max_pixels=parity.PIXEL_LIMIT)
            for precision in given.precision.split(","):
                for name in given.formats.split(","):
                    if precision not in named(name).precisions or named(name).refusal(engine_of(run), precision):
                        continue
                    rows.append(row(path, name, precision, asked, Path(folder)))
                    print(rows[-1], flush=True)
    result = {
        "benchmark": "Parity of what is exported",
        "description": "Each format of export against its run, on the same photos from the bytes of their files: the "
        "largest difference of any probability, at the photos' own size (through the graph's own preprocessing) and as "
        "squares. Times are those of one photo after another, without decoding.",
        "limit": "fp32: a difference of at most 0.001, and the same answers",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
