"""Write the tables of benchmarks/README.md from benchmarks/results/*.json: python benchmarks/table.py.

A result is `{"benchmark": name, "description": text, "limit": text, "rows": [{column: value, ...}, ...]}`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN = "<!-- tables: written by benchmarks/table.py, never by hand -->"
END = "<!-- end of tables -->"
INTRODUCTION = f"""# Benchmarks

Each benchmark is a script in `speed/` or `quality/` that writes its figures to `results/`; this page is made from them
by `python benchmarks/table.py`. Absolute times hold for the machine that they were measured on; compare ratios.

## To run them

A script says at its top what it takes, and with `--help` what may be changed. On two quiet cores:

| command | minutes |
|---|---|
| `python benchmarks/speed/environments.py`, once: 4 GB of environments for them in `benchmarks/.environments` | 5 |
| `python benchmarks/speed/against.py`: the PyTorch tutorial, fastai, scikit-learn | 13 |
| `python benchmarks/speed/against.py --only pytorch` (or `fastai`, `sklearn`): one of them | 5 |
| `python benchmarks/speed/against.py --only keras`: the VGG16 tutorial | 15 |
| `python benchmarks/speed/service.py`: the service beside the bare engine | 3 |
| `python benchmarks/speed/report.py`: the report of a run | 2 |
| `python benchmarks/table.py`: this page | |

{BEGIN}
{END}
"""


def render(results: list[dict[str, Any]]) -> str:
    """The tables of these results, by name of the benchmark."""
    return "\n\n".join(_section(result) for result in sorted(results, key=lambda result: str(result["benchmark"])))


def filled(page: str, tables: str) -> str:
    """The page with these tables between its markers."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    between = f"\n\n{tables}\n\n" if tables else "\n"
    return f"{before}{BEGIN}{between}{END}{after}"


def stored() -> list[dict[str, Any]]:
    """Every stored result."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((HERE / "results").glob("*.json"))]


def _section(result: dict[str, Any]) -> str:
    columns = list(dict.fromkeys(column for row in result["rows"] for column in row))
    lines = [
        f"## {result['benchmark']}",
        "",
        result["description"],
        "",
        *([f"Limit: {result['limit']}", ""] if result.get("limit") else []),
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in result["rows"]),
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case int():
            return f"{value:,}"
        case list() | tuple():
            return " to ".join(_cell(item) for item in value)
        case _:
            return str(value).replace("|", "\\|")


if __name__ == "__main__":
    readme = HERE / "README.md"
    readme.write_text(filled(INTRODUCTION, render(stored())), encoding="utf-8")
