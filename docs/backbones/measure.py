"""Check the backbones that can be built on this machine against their own libraries, and draw docs/backbones.md.

python docs/backbones/measure.py                     what is not in results.json yet, or failed; then the page
python docs/backbones/measure.py torchvision hf      of these sources alone
python docs/backbones/measure.py --again             all of it anew
python docs/backbones/measure.py --draw              the page alone
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Read when PyTorch starts: times are of one core.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS, INTRODUCTION, PAGE = HERE / "results.json", HERE / "introduction.md", HERE.parent / "backbones.md"
SOURCES = ("bundled", "torchvision", "timm", "hf", "keras")
SIZE = 64  # pixels: quick, and the same architecture; a network that takes no other size gets its own
LIMIT = 240  # seconds of processor time for a network
PATIENCE = 3600  # seconds for a network where other programs want the processor too
ROUNDING = 1e-4  # of the largest answer
KERAS = {  # the smallest of each family
    "vgg16", "resnet50", "resnet50v2", "densenet121", "inceptionv3", "inceptionresnetv2", "xception", "mobilenet_0.25",
    "mobilenetv2_0.35", "mobilenetv3small", "efficientnetb0", "efficientnetv2b0", "convnexttiny", "nasnetmobile",
}  # fmt: skip


# ---- which


def names(source: str) -> list[str]:
    """What is checked of a source, the small ones first."""
    sys.path.insert(0, str(ROOT))
    if source == "hf":
        from tests.conformance import huggingface

        return huggingface.names()
    from headstart.backbones.loading import list_backbones

    entries = [entry for entry in list_backbones(f"{source}/") if entry.name.startswith(f"{source}/")]
    entries.sort(key=lambda entry: entry.parameters)
    found = [entry.name for entry in entries]
    if source == "keras":
        return [name for name in found if name.partition("/")[2] in KERAS]
    return one_a_module(found) if source == "timm" else found


def one_a_module(found: Sequence[str]) -> list[str]:
    """The first of each of timm's modules, which hold a family each."""
    from tests.conformance.operators import declare_operators

    declare_operators()
    import timm

    chosen = set()
    for module in timm.list_modules():
        own = set(timm.list_models(module=module))
        chosen |= {next((name for name in found if name.partition("/")[2].partition(".")[0] in own), "")}
    return [name for name in found if name in chosen]


# ---- one of them


def checked(name: str) -> dict[str, Any]:
    """A line of the results."""
    source = name.partition("/")[0]
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADSTART_CACHE"] = folder
        found = CHECKS[source](name)
    row = {"name": name, "weights": "real" if source == "bundled" else "random", "reason": None}
    row |= {key: found[key] for key in ("size", "cuts", "compared", "difference") if key in found}
    row |= {
        key: found[key]
        for key in ("finite", "width", "covered_once", "frozen", "equal", "same_pictures")
        if key in found
    }
    row |= {"groups": len(found["groups"]), "passed": found["passed"], "milliseconds": found["milliseconds"]}
    failed = [key for key, value in found.items() if value is False and key != "passed"]
    if failed:
        row["reason"] = f"not {', not '.join(failed)}".replace("_", " ")
    return row | {"seconds": round(time.process_time() - started, 1)}


def of_torch(name: str) -> dict[str, Any]:
    """torchvision and timm, by `tests/conformance/references.py`."""
    from tests.conformance import references

    from headstart.errors import HeadstartError

    with remembered(references) as networks:
        try:
            found = references.check(name, size=SIZE)
        except (HeadstartError, ValueError, RuntimeError, AssertionError, TypeError):
            networks.clear()
            found = references.check(name)  # it takes no other size
        return found | {"milliseconds": milliseconds(networks[-1], found["size"])}


def of_hf(name: str) -> dict[str, Any]:
    """A small model of a family of transformers."""
    from tests.conformance import huggingface

    with remembered(huggingface) as networks:
        found = huggingface.check(name)
        return found | {"milliseconds": milliseconds(networks[0], found["size"])}


def of_keras(name: str) -> dict[str, Any]:
    """As `tests/test_keras_applications.py` compares: random weights in an official file, plain Keras beside us."""
    import numpy as np
    import pytest
    from tests import test_keras_applications as keras_tests

    from headstart.backbones.backbone import Wanted

    own = name.partition("/")[2]
    member = keras_tests.MEMBERS[own]
    size = keras_tests.smallest(member)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "drawn.weights.h5"
        keras_tests.draw_weights(member, path)
        network = keras_tests.load(own, Wanted(size=size, weights=path)).build()
        ours = keras_tests.features(network, size)
        theirs = keras_tests.keras_features(keras_tests.official(member, path, size, patch), member, size)
    apart = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return sound(network, size, {"difference": apart, "compared": "features"}, width=ours.shape[1] == member.width)


def of_bundled(name: str) -> dict[str, Any]:
    """Real weights on real photos, beside the package that they were published with."""
    import torch
    from tests import test_efficientnet_lite as lite

    from headstart.backbones.loading import load_backbone

    own = name.partition("/")[2]
    backbone = load_backbone(name)
    pictures = lite.photos(backbone.spec.size)
    ours, theirs = lite.our_logits(own, pictures), lite.reference_logits(own, pictures)
    network = backbone.build()
    features = network.features(blank(backbone.spec.size), network.cuts[-1])
    apart = float(torch.as_tensor(ours - theirs).abs().max() / theirs.abs().max())
    return sound(
        network, backbone.spec.size, {"difference": apart, "compared": "logits"}, width=features.shape[1] == 1280
    )


def sound(network: Any, size: int, found: dict[str, Any], *, width: bool) -> dict[str, Any]:
    """What must hold of every network, beside being equal to the library's own."""
    import numpy as np
    from tests.conformance.huggingface import frozen

    cost = milliseconds(network, size)
    features = network.features(blank(size), network.cuts[-1])
    named = [key for group in network.groups for key in (*group.parameters, *group.buffers)]
    found = {
        **found,
        "size": size,
        "groups": [group.name for group in network.groups],
        "cuts": len(network.cuts),
        "equal": found["difference"] <= ROUNDING,
        "finite": bool(np.isfinite(features).all() and features.std() > 0),
        "width": width,
        "covered_once": len(named) == len(set(named)) and set(network.weights()) <= set(named),
        "frozen": frozen(network, blank(size)),
    }
    return found | {"passed": all(v for v in found.values() if isinstance(v, bool)), "milliseconds": cost}


def blank(size: int) -> Any:
    """Two pictures of noise."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def milliseconds(network: Any, size: int) -> float:
    """Processor time of a picture, the best of three batches of two."""
    images = blank(size)
    network.features(images, network.cuts[-1])
    found = []
    for _ in range(3):
        started = time.process_time()
        network.features(images, network.cuts[-1])
        found.append((time.process_time() - started) * 1000 / len(images))
    return round(min(found), 1)


@contextlib.contextmanager
def remembered(module: Any) -> Iterator[list[Any]]:
    """The networks that a module builds meanwhile, to measure them."""
    load, networks = module.load_backbone, []

    def loading(*arguments: Any, **options: Any) -> Any:
        backbone = load(*arguments, **options)

        def build() -> Any:
            networks.append(backbone.build())
            return networks[-1]

        return replace(backbone, build=build)

    module.load_backbone = loading
    try:
        yield networks
    finally:
        module.load_backbone = load


CHECKS: dict[str, Callable[[str], dict[str, Any]]] = {
    "bundled": of_bundled,
    "torchvision": of_torch,
    "timm": of_torch,
    "hf": of_hf,
    "keras": of_keras,
}


# ---- many


def worker() -> None:
    """Check the names that come in, a line each, and print a line of JSON for each."""
    sys.path.insert(0, str(ROOT))
    signal.signal(signal.SIGPROF, _too_long)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            row = checked(line.strip())
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt):
                raise
            row = failure(line.strip(), f"{type(problem).__name__}: {str(problem).strip() or 'no reason'}")
        print(json.dumps(row), flush=True)


class TooLong(BaseException):
    """No `Exception`: what tries ways to take a network apart would catch it, and go on with another way."""


def _too_long(*_: object) -> None:
    raise TooLong(f"took more than {LIMIT} s of processor time")


def failure(name: str, reason: str) -> dict[str, Any]:
    """A line of the results for what could not be checked."""
    plain = re.sub(r"'/[^']*/", "'", reason.splitlines()[0])  # without the folders of one day's machine
    return {"name": name, "weights": "random", "passed": False, "reason": plain[:200]}


class Worker:
    """A process that checks one network after the other, replaced when one takes too long or ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def check(self, name: str) -> dict[str, Any]:
        """The line of this network."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            self.stop()
            return failure(name, f"took more than {PATIENCE} s")
        if line is None:
            code = process.wait()
            self._process = None
            return failure(name, f"its process ended with code {code}")
        row: dict[str, Any] = json.loads(line)
        return row

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):  # a library's own words are none of ours
                lines.put(line)
        lines.put(None)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def measure(sources: Sequence[str], *, again: bool) -> None:
    """Check what is missing, and write the results after each."""
    for source in sources:
        one = Worker()
        for name in names(source):
            if again or not by_names().get(name, {}).get("passed"):
                row = one.check(name)
                # Read anew: another process may measure another source.
                rows = by_names() | {name: row}
                RESULTS.write_text(json.dumps(sorted(rows.values(), key=place), indent=1) + "\n", encoding="utf-8")
                PAGE.write_text(drawn(stored()), encoding="utf-8")  # the two always belong together
                print(name, "passed" if row["passed"] else row["reason"], flush=True)
        one.stop()


def by_names() -> dict[str, dict[str, Any]]:
    """The lines that are there, by the names of the backbones."""
    return {row["name"]: row for row in stored()}


def place(row: dict[str, Any]) -> tuple[int, str]:
    """Where a line stands."""
    return SOURCES.index(row["name"].partition("/")[0]), row["name"]


# ---- the page


def stored() -> list[dict[str, Any]]:
    """The lines that were measured."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []


def drawn(rows: Sequence[dict[str, Any]]) -> str:
    """The whole page."""
    text = INTRODUCTION.read_text(encoding="utf-8").rstrip()
    parts = [text, summary(rows)]
    for source in SOURCES:
        own = [row for row in rows if row["name"].startswith(f"{source}/")]
        if own:
            parts.append(f"### {source}\n\n{table(own)}")
    return "\n\n".join(parts) + "\n"


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """How many passed, by source."""
    lines = ["| source | checked | passed | taken apart | weights |", "|---|---|---|---|---|"]
    for source in SOURCES:
        own = [row for row in rows if row["name"].startswith(f"{source}/")]
        if own:
            passed = [row for row in own if row["passed"]]
            apart = sum(manner(row) == "apart" for row in passed)
            weights = " and ".join(sorted({row["weights"] for row in own}))
            lines.append(f"| {source} | {len(own)} | {len(passed)} | {apart} | {weights} |")
    return "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a network."""
    lines = [
        "| backbone | pixels | groups | network | compared | difference | ms a photo | result |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        result = "passed" if row["passed"] else f"**failed**: {row['reason']}"
        if "groups" not in row:
            lines.append(f"| {row['name']} | | | | | | | {escaped(result)} |")
            continue
        lines.append(
            f"| {row['name']} | {row['size']} | {row['groups']} | {manner(row)} | {row['compared']} "
            f"| {row['difference']:.0e} | {row['milliseconds']:g} | {escaped(result)} |"
        )
    return "\n".join(lines)


def manner(row: dict[str, Any]) -> str:
    """Whether there is a cut after each group, after some, or none between them."""
    between = row.get("cuts", 3) - 2
    groups = row.get("groups", 1)
    return "apart" if between == groups else "whole" if between == 1 else f"{between} parts"


def escaped(text: str) -> str:
    """Text for a cell."""
    return text.replace("|", "\\|")


def main() -> None:
    """As the first lines of this file say."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("sources", nargs="*", help=", ".join(SOURCES))
    read.add_argument("--again", action="store_true")
    read.add_argument("--draw", action="store_true")
    read.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = read.parse_args()
    if given.worker:
        worker()
        return
    if not given.draw:
        measure(given.sources or SOURCES, again=given.again)
    PAGE.write_text(drawn(stored()), encoding="utf-8")


if __name__ == "__main__":
    main()
