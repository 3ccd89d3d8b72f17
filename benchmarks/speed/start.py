"""Measure how long `import headstart` and `headstart --help` take, beside a bare interpreter, as whole processes.

python benchmarks/speed/start.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parents[1] / "results" / "start.json"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import headstart'": [sys.executable, "-c", "import headstart"],
    "headstart --help": [sys.executable, "-m", "headstart", "--help"],
}
GOALS = {"python -c 'import headstart'": 0.15, "headstart --help": 0.5}


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds + 1):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    rows = [
        {
            "process": name,
            "seconds": statistics.median(times[1:]),  # the first round fills the system's cache of files
            "lowest": min(times[1:]),
            "highest": max(times[1:]),
            "goal": GOALS.get(name),
        }
        for name, times in taken.items()
    ]
    result = {
        "benchmark": "Starting",
        "description": f"Whole processes in turn, medians of {options.rounds} rounds, in seconds.",
        "limit": "the bare interpreter",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
