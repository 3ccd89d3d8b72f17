"""Files that are damaged at random give a picture or a reason, in little time and memory."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "robustness" / "mutations.py"
COUNT = 300


@pytest.fixture(scope="module")
def mutations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc to read memory from")
def test_damaged_files_cost_little_time_and_leave_no_memory_behind(mutations: ModuleType) -> None:
    seeds = mutations.seeds()
    for name, content in seeds.items():
        assert mutations.attempt(content, 0) == "picture", name
    before, slowest, outcomes = mutations.resident(), 0.0, []
    for number in range(COUNT):
        content = list(seeds.values())[number % len(seeds)]
        damaged = mutations.damaged(content, np.random.default_rng([number, len(content)]))
        began = time.monotonic()
        outcomes.append(mutations.attempt(damaged, number))
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 10
    assert mutations.resident() < before + 200
    assert outcomes.count("picture") > COUNT / 20
    assert outcomes.count("picture") < COUNT
    assert not any("0x" in outcome or "Error" in outcome for outcome in outcomes)


def test_damages_are_many_and_always_the_same(mutations: ModuleType) -> None:
    content = bytes(2000)
    damages = [mutations.damaged(content, np.random.default_rng(number)) for number in range(50)]
    assert damages == [mutations.damaged(content, np.random.default_rng(number)) for number in range(50)]
    assert len(set(damages)) == 50
    assert content not in damages
    assert {len(damage) for damage in damages} > {2000}


@pytest.mark.parametrize(("fault", "found"), [("dies", "crashes"), ("waits", "hangs")])
@pytest.mark.slow
def test_a_crash_and_a_hang_are_found(
    fault: str, found: str, mutations: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher itself, on a decoder that fails at the third file."""
    code = SCRIPT.read_text(encoding="utf-8").replace(
        "    modality = ImageModality()\n",
        f"    if number == 2:\n        {'os.abort()' if fault == 'dies' else 'time.sleep(1000)'}\n"
        "    modality = ImageModality()\n",
    )
    (tmp_path / "faulty.py").write_text(code.replace("LIMIT = 20.0", "LIMIT = 3.0"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    faulty = importlib.import_module("faulty")
    row = faulty.watched("PNG", mutations.seeds()["PNG"], 6)
    assert row[found] == 1
    assert row["pictures"] + row["refused"] == 3  # those after the third; what came before is lost with its process
