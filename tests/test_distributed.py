"""Two processes that share the batches end where one process ends that sees them whole."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from headstart.networks.network import HEAD, Batch
from headstart.training.batches import Order

from .conformance import networks as suite

pytest.importorskip("accelerate", reason="several processes need headstart[distributed]")


def train_and_save(path: Path) -> None:
    """Two stages with dropout, padding and an average, each process on its slices."""
    network = suite.small_torch_network()
    network.to("cpu")
    suite.with_head(network)
    images, labels = suite.pictures(21), np.arange(21) % suite.CLASSES
    order = Order(n=21, batch_size=8, seed=3, stage="s", shard=network.shard)
    losses = []
    for stage, rates in enumerate(({HEAD: 1e-2}, {HEAD: 1e-2, "top": 1e-2, "block2": 1e-3})):
        network.thaw(rates)
        for number, part in enumerate(order.epoch(stage)):
            batch = Batch(images[part.rows], labels[part.rows], part.weights)
            losses.append(network.step(batch, scale=1.0, key=10 * stage + number))
    told = network.read(losses)
    agreed = network.agree(float(network.shard[0] + 7))
    save_file({**network.weights(), "losses": np.array(told), "agreed": np.array([agreed])}, path)


def processes(count: int, folder: Path) -> list[dict[str, np.ndarray]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-W", "ignore", "-m", "tests.test_distributed"]
    running = [
        subprocess.Popen(
            [*command, str(folder / f"{count}-{rank}.safetensors")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[1],
        )
        for rank in range(count)
    ]
    assert [process.wait(timeout=300) for process in running] == [0] * count
    return [load_file(folder / f"{count}-{rank}.safetensors") for rank in range(count)]


def test_two_processes_give_the_result_of_one_on_the_union_of_their_batches(tmp_path: Path) -> None:
    (alone,) = processes(1, tmp_path)
    first, second = processes(2, tmp_path)
    for key in alone:
        np.testing.assert_allclose(first[key], alone[key], rtol=1e-4, atol=2e-5, err_msg=key)
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
    assert first["agreed"].item() == 7.0


if __name__ == "__main__":
    train_and_save(Path(sys.argv[1]))
    # As the command line ends: a thread of the process group may abort the interpreter's own clearing up.
    atexit._run_exitfuncs()
    os._exit(0)
