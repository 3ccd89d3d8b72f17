"""What a first run does not wait for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch.utils.flop_counter import FlopCounterMode

from headstart import logistic
from headstart.backbones.loading import load_backbone
from headstart.logistic import Problems
from headstart.machine import product_threads
from headstart.networks.torch_flops import Flops
from headstart.outcome import outcome
from headstart.probe import probe


def test_a_network_is_described_without_waiting_for_pytorchs_compiler() -> None:
    code = (
        "import sys; from headstart.backbones.loading import load_backbone; "
        "assert load_backbone('bundled').build().groups; "
        "print(sorted({'torch._dynamo', 'torch._inductor', 'sympy', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_operations_are_counted_as_pytorch_counts_them(mode: type) -> None:
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(2), torch.nn.Linear(36, 6)
    )
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with mode(), FlopCounterMode(display=False) as theirs, Flops() as ours:
        tokens = layers(torch.zeros(2, 3, 8, 8)).mT
        attention(tokens, tokens, tokens)
    assert ours.total == theirs.get_total_flops() > 0


def test_groups_know_their_operations() -> None:
    network = load_backbone("bundled").build()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.features(np.zeros((1, 224, 224, 3), np.uint8), network.cuts[-1])
    assert sum(group.flops for group in network.groups) == counter.get_total_flops()


def threads() -> set[int]:
    """Those of the libraries behind NumPy's matrix products."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize(("short", "expected"), [(logistic.SHORT, {1}), (0, {2})])
def test_a_head_for_few_photos_is_solved_on_one_core(
    monkeypatch: pytest.MonkeyPatch, short: int, expected: set[int]
) -> None:
    used: set[int] = set()
    losses = Problems.losses

    def watched(self: Problems, *arguments: object) -> object:
        used.update(threads())
        return losses(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Problems, "losses", watched)
    monkeypatch.setattr(logistic, "SHORT", short)
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    rows = rng.normal(size=(40, 8)).astype(np.float32) + labels[:, None]
    with product_threads(2):
        outcome(probe(rows, labels, [str(row) for row in range(40)], 2, seed=0))
        assert used == expected
        assert threads() == {2}, "the user's own setting is not put back"
