from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", BENCHMARKS / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_page_shows_the_stored_results(table: ModuleType) -> None:
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert page == table.filled(page, table.render(table.stored())), "run python benchmarks/table.py"


def test_rows_become_a_table_between_the_markers(table: ModuleType) -> None:
    result = {
        "benchmark": "speed",
        "description": "How fast.",
        "limit": "the cores",
        "rows": [{"data": "a|b", "photos": 1500, "share": 0.912345}, {"data": "c", "within": True}],
    }
    page = table.filled(table.INTRODUCTION, table.render([result]))
    assert "| a\\|b | 1,500 | 0.9123 |  |" in page
    assert "| c |  |  | yes |" in page
    assert table.filled(page, table.render([result])) == page
