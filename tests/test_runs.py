"""What a run folder promises of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open

from headstart.out_of_fold import OutOfFold
from headstart.runs import Run

ANSWERS = OutOfFold(
    ids=("00" * 16, "ff" * 16),
    labels=np.array([0, 1]),
    probabilities=np.array([[0.75, 0.25], [0.5, 0.5]]),
    features="0" * 32,
    strength=1.0,
)


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    """The library writes what a file says of itself in another order each time."""
    files = set()
    for number in range(8):
        run = Run(tmp_path / str(number))
        run.path.mkdir()
        run.save_out_of_fold(ANSWERS)
        files.add((run.path / "out_of_fold.safetensors").read_bytes())
    assert len(files) == 1
    with safe_open(run.path / "out_of_fold.safetensors", framework="numpy") as file:
        assert file.metadata() == {"features": "0" * 32, "strength": "1.0"}
        assert np.array_equal(file.get_tensor("probabilities"), ANSWERS.probabilities.astype(np.float32))
