"""A tiny network in NumPy: the same numbers on every machine, fast, and free of any framework."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from headstart.backbones.backbone import Backbone
from headstart.modalities.spec import InputSpec
from headstart.networks.network import INPUT, Cut, Network

POOLED = Cut("pooled", 1)
MAP = Cut("map", 1)
SPEC = InputSpec(size=32, crop=0.875, interpolation="bilinear", mean=(127.0,) * 3, std=(128.0,) * 3)


class FakeNetwork:
    """Means over a grid, multiplied by fixed random numbers: `[n 8]` pooled, `[n 4 4 8]` as a map."""

    def __init__(self, *, engine: str = "numpy-1", concurrency: int = 2, seconds: float = 0.0) -> None:
        self.engine = engine
        self.concurrency = concurrency
        self.seconds = seconds  # that a forward pass takes
        self.shapes: list[tuple[int, ...]] = []
        self.computing = 0
        self.most_computing = 0
        self.workers: list[int] = []
        self._lock = threading.Lock()
        self._weights = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)

    @contextmanager
    def concurrent(self, workers: int) -> Iterator[None]:
        self.workers.append(workers)
        yield

    def features(self, inputs: np.ndarray, upto: Cut, start: Cut = INPUT) -> np.ndarray:
        with self._lock:
            self.shapes.append(inputs.shape)
            self.computing += 1
            self.most_computing = max(self.most_computing, self.computing)
        time.sleep(self.seconds)
        n, side = len(inputs), inputs.shape[1] // 4
        grid = inputs[:, : side * 4, : side * 4].reshape(n, 4, side, 4, side, 3).mean(axis=(2, 4), dtype=np.float32)
        values = np.tanh((grid - 127) / 128 @ self._weights)
        with self._lock:
            self.computing -= 1
        return values.mean(axis=(1, 2)) if upto == POOLED else values


def fake_backbone(network: Any = None, *, weights_hash: str = "0" * 64, spec: InputSpec = SPEC) -> Backbone:
    return Backbone(
        name="fake/grid",
        spec=spec,
        weights_hash=weights_hash,
        licence="none",
        framework="torch",
        build=lambda: cast(Network, network or FakeNetwork()),
    )
