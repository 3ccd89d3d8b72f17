"""Draw docs/formats.md: which framework goes to which format in which precision, why not, and what was measured.

python docs/formats/draw.py                      the page
python docs/formats/draw.py RUN RUN --to tflite  export these runs to this format and measure; then the page
python docs/formats/draw.py RUN RUN              the same to all formats, in all precisions
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from headstart.exporting.format import Engine, Precision, named

HERE = Path(__file__).parent
RESULTS, INTRODUCTION, PAGE = HERE / "results.json", HERE / "introduction.md", HERE.parent / "formats.md"
FORMATS = ("onnx", "openvino", "torch", "keras", "saved_model", "tflite")
ENGINES: tuple[Engine, ...] = get_args(Engine)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
NAMES = {"torch": "PyTorch", "tensorflow": "Keras on TensorFlow", "jax": "Keras on JAX"}


def page() -> str:
    """The whole text."""
    made = "<!-- drawn by docs/formats/draw.py -->\n"
    return made + INTRODUCTION.read_text(encoding="utf-8") + "\n" + "\n".join([*matrix(), *measured()]) + "\n"


# ---- what goes


def reason(name: str, engine: Engine, precision: Precision) -> str | None:
    """Why this cannot be exported; None where it can."""
    form = named(name)
    said = form.refusal(engine, precision)
    return said if said or precision in form.precisions else f"{name} has no {precision}"


def matrix() -> Iterator[str]:
    """A row a format and precision, a column a framework, and the reasons below."""
    reasons: dict[str, int] = {}
    yield "## What goes where\n"
    yield f"| format | precision | {' | '.join(NAMES[engine] for engine in ENGINES)} |"
    yield f"|---|---|{'---|' * len(ENGINES)}"
    for name in FORMATS:
        for precision in PRECISIONS:
            found = [reason(name, engine, precision) for engine in ENGINES]
            cells = ["yes" if said is None else f"no ({reasons.setdefault(said, len(reasons) + 1)})" for said in found]
            yield f"| `{name}` | {precision} | {' | '.join(cells)} |"
    yield ""
    yield from (f"{number}. {said}" for said, number in reasons.items())


# ---- what came out


def measured() -> Iterator[str]:
    """A row an export."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    if not rows:
        return
    yield "\n## Measured\n"
    yield "Exports of runs with real weights, compared with the runs on their own validation photos. The difference is"
    yield "the largest of any probability; the seconds are of writing the graph, on a busy machine with two cores.\n"
    yield "| network | trained with | format | precision | photos | same answers | difference | MB | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=_order):
        if "failed" in row:
            outcome = f"| - | - | - | - | {row['failed']} |"
        else:
            outcome = (
                f"| {row['n']} | {row['agreeing']} | {row['largest']:.1e} | {row['mb']:.1f} | {row['seconds']:.0f} |"
            )
        yield f"| {row['backbone']} | {row['engine']} | `{row['format']}` | {row['precision']} {outcome}"


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["backbone"], row["engine"], FORMATS.index(row["format"]), PRECISIONS.index(row["precision"])


def measure(runs: Iterable[Path], formats: Iterable[str]) -> None:
    """Export and keep what came out, in place of what was there."""
    from headstart.errors import HeadstartError
    from headstart.exporting.exporting import engine_of
    from headstart.runs import Run

    for path in runs:
        run = Run.open(path)
        engine = engine_of(run)
        about = {"backbone": run.backbone["name"], "engine": engine}
        for name in formats:
            for precision in PRECISIONS:
                if reason(name, engine, precision) is None:
                    try:
                        keep({**about, "format": name, "precision": precision, **outcome(path, name, precision)})
                    except HeadstartError as problem:
                        print(name, precision, problem)
                        keep({**about, "format": name, "precision": precision, "failed": problem.what})


def outcome(run: Path, name: str, precision: Precision) -> dict[str, Any]:
    """Size, seconds and parity of one export."""
    from headstart.events import PhaseEnded
    from headstart.exporting.exporting import export

    with tempfile.TemporaryDirectory() as folder:
        began, seconds = time.monotonic(), 0.0
        events = export(run, to=name, out=Path(folder) / "bundle", precision=precision)
        opened = began
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                bundle = end.value
                break
            if isinstance(event, PhaseEnded):
                if event.name.endswith(" graph"):
                    seconds = time.monotonic() - opened
                opened = time.monotonic()
        size = sum(content.bytes for content in bundle.manifest.files.values()) / 1e6
        parity = bundle.manifest.parity
        return {key: parity[key] for key in ("n", "agreeing", "largest")} | {"mb": size, "seconds": seconds}


def keep(row: dict[str, Any]) -> None:
    """Put a row into results.json."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    kept = [other for other in rows if _order(other) != _order(row)]
    RESULTS.write_text(json.dumps(sorted([*kept, row], key=_order), indent=1) + "\n", encoding="utf-8")
    print(row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--to", nargs="*", default=FORMATS, choices=FORMATS)
    chosen = parser.parse_args()
    measure(chosen.runs, chosen.to)
    PAGE.write_text(page(), encoding="utf-8")
