from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PAGES = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure", PAGES / "backbones" / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as kept:
        kept.setenv("OMP_NUM_THREADS", "1")  # it sets this for itself
        spec.loader.exec_module(module)
    return module


def test_the_page_of_backbones_shows_the_stored_results(measure: ModuleType) -> None:
    page = (PAGES / "backbones.md").read_text(encoding="utf-8")
    assert page == measure.drawn(measure.stored()), "run python docs/backbones/measure.py --draw"


def test_every_family_of_transformers_is_on_the_page(measure: ModuleType) -> None:
    huggingface = pytest.importorskip("tests.conformance.huggingface", reason="transformers is not installed")
    assert set(huggingface.names()) <= {row["name"] for row in measure.stored()}


def row(**fields: Any) -> dict[str, Any]:
    found = {"name": "timm/a", "weights": "random", "size": 64, "groups": 5, "cuts": 7, "compared": "logits"}
    return found | {"difference": 1.2e-7, "milliseconds": 3.0, "passed": True, "reason": None} | fields


def test_what_failed_is_on_the_page_with_its_reason(measure: ModuleType) -> None:
    rows = [row(), row(name="timm/b", cuts=3), measure.failure("timm/c", "OSError: no|thing\nmore")]
    page = measure.drawn(rows)
    assert "| timm | 3 | 2 | 1 | random |" in page
    assert "| timm/a | 64 | 5 | apart | logits | 1e-07 | 3 | passed |" in page
    assert "| timm/b | 64 | 5 | whole |" in page
    assert "| timm/c | | | | | | | **failed**: OSError: no\\|thing |" in page
