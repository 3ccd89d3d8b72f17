"""The runtime for GPUs, as far as a machine without one can tell: what it offers, how large passes become, and threads.

The steps that only a GPU has (streams, page-locked memory, graphs) are not run here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.errors import BadRuntime
from headstart.networks.torch import TorchNetwork
from headstart.runtimes import framework, torch_gpu
from headstart.runtimes.runtime import CHUNK, GPU_CHUNK, Plain

from .conformance.networks import small_torch_network

CPU = torch.device("cpu")


@pytest.fixture
def network() -> TorchNetwork:
    return small_torch_network()


@pytest.fixture
def on_cuda(network: TorchNetwork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TorchNetwork:
    """A network that says it is on a GPU which computes in bf16, as fast for any number of photos up to 256."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr(network, "device", torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    monkeypatch.setattr(torch_gpu, "has_bf16", lambda: True)
    monkeypatch.setattr(TorchNetwork, "groups", ())  # counting their FLOPs computes on the device
    monkeypatch.setattr(torch_gpu, "rate", lambda network, size: float(min(size, 256)))
    return network


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def eager(forward: Callable[[torch.Tensor], torch.Tensor], **_: object) -> Callable[[torch.Tensor], torch.Tensor]:
    """In place of `torch.compile`, which takes half a minute."""
    return forward


def test_nothing_is_offered_without_a_gpu(network: TorchNetwork) -> None:
    assert torch_gpu.offers(network) == ()
    assert torch_gpu.lacks(network, "bf16") is None


def test_bf16_is_offered_before_fp32_on_a_gpu(on_cuda: TorchNetwork) -> None:
    offers = torch_gpu.offers(on_cuda)
    assert [offer.precision for offer in offers] == ["bf16", "fp32"]
    assert {offer.chunk for offer in offers} == {256}
    assert all(offer.engine == f"compiled-torch-{torch.__version__}-cuda" for offer in offers)


def test_a_gpu_without_bf16_says_so_and_offers_fp32(on_cuda: TorchNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_gpu, "has_bf16", lambda: False)
    assert [offer.precision for offer in torch_gpu.offers(on_cuda)] == ["fp32"]
    lack = torch_gpu.lacks(on_cuda, "bf16")
    assert lack is not None
    assert lack.what == "this GPU does not compute in bf16"


def test_the_size_of_a_pass_is_measured_once_and_found_again(
    on_cuda: TorchNetwork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = torch_gpu.offers(on_cuda)
    # Measured again it would be another, and every kept feature would be computed anew.
    monkeypatch.setattr(torch_gpu, "rate", lambda network, size: float(size))
    assert torch_gpu.offers(on_cuda) == first
    (tmp_path / torch_gpu.FILE).write_text("[broken")
    assert {offer.chunk for offer in torch_gpu.offers(on_cuda)} == {torch_gpu.LARGEST}


def test_processes_that_train_together_take_the_same_size_unmeasured(
    on_cuda: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchNetwork, "shard", (1, 2))
    assert {offer.chunk for offer in torch_gpu.offers(on_cuda)} == {torch_gpu.CHUNK}


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (lambda size: 100.0, 64),  # nothing to gain
        (lambda size: float(size), 1024),  # always faster
        (lambda size: size if size <= 256 else 256 + size / 100, 256),  # hardly faster
        (lambda size: 0.0 if size > 128 else float(size), 128),  # memory runs out
        (lambda size: 0.0 if size > 16 else float(size), 16),  # memory runs out at once
        (lambda size: 0.0, 1),  # nothing fits: opening will say so
    ],
)
def test_a_pass_is_doubled_while_it_pays_and_fits(rates: Callable[[int], float], expected: int) -> None:
    assert torch_gpu.doubled(rates, 64, 1024) == expected


def test_memory_that_runs_out_ends_the_doubling_and_not_the_run(
    network: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch_gpu, "has_bf16", lambda: False)
    monkeypatch.setattr(torch_gpu, "in_precision", lambda *_: full)
    assert torch_gpu.rate(network, 64) == 0.0


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_passes_give_the_networks_features(
    network: TorchNetwork, precision: torch_gpu.Precision, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", eager)
    cut, inputs = network.cuts[-1], pictures(8)
    true = network.features(inputs, cut)
    found = torch_gpu.opened(network.part(cut), inputs.shape, precision, CPU)(inputs)
    difference = np.linalg.norm(found - true) / np.linalg.norm(true - true.mean(0))
    assert found.dtype == np.float32
    assert difference < tolerance
    assert precision == "fp32" or difference > 1e-4  # it did compute in bf16


def test_threads_side_by_side_get_each_its_own_features(network: TorchNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", eager)
    cut, inputs = network.cuts[-1], pictures(64)
    runner = torch_gpu.opened(network.part(cut), (4, 32, 32, 3), "fp32", CPU)
    chunks = [inputs[first : first + 4] for first in range(0, 64, 4)]
    with ThreadPoolExecutor(8) as pool:
        found = np.concatenate(list(pool.map(runner, chunks)))
    np.testing.assert_allclose(found, network.features(inputs, cut), rtol=1e-4, atol=1e-5)


def test_a_batch_that_fails_does_not_block_the_next(network: TorchNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", eager)
    runner = torch_gpu.opened(network.part(network.cuts[-1]), (4, 32, 32, 3), "fp32", CPU)
    for _ in range(torch_gpu.SLOTS + 1):
        with pytest.raises(RuntimeError):
            runner(pictures(3))
    assert len(runner(pictures(4))) == 4


def test_without_a_compiler_the_network_runs_as_it_is(network: TorchNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(forward: object, **_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def failing(inputs: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler")

        return failing

    monkeypatch.setattr(torch, "compile", compile)
    cut, inputs = network.cuts[-1], pictures(4)
    found = torch_gpu.opened(network.part(cut), inputs.shape, "fp32", CPU)(inputs)
    np.testing.assert_allclose(found, network.features(inputs, cut), rtol=1e-4, atol=1e-5)


def test_a_gpu_that_is_too_small_is_refused_in_one_sentence(
    network: TorchNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch_gpu, "compiled", full)
    with pytest.raises(BadRuntime, match=r"^8 photos at a time do not fit into the GPU's memory"):
        torch_gpu.opened(network.part(network.cuts[-1]), (8, 32, 32, 3), "bf16", CPU)


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_the_framework_itself_takes_more_photos_at_a_time_on_a_gpu(
    network: TorchNetwork, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert framework.offer_of(network).chunk == Plain(network, network.logits).chunk == CHUNK
    monkeypatch.setattr(network, "device", torch.device(device))
    assert framework.offer_of(network).chunk == Plain(network, network.logits).chunk == GPU_CHUNK


def test_another_network_is_compiled_like_the_first(network: TorchNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def counting(module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(module)
        return module.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting))
    with torch._dynamo.config.patch(recompile_limit=1):
        for size in (2, 3):
            torch_gpu.opened(network.part(network.cuts[-1]), (size, 32, 32, 3), "fp32", CPU)
    assert len(compiled) == 2


@pytest.mark.slow
def test_the_real_compiler_gives_the_networks_features(network: TorchNetwork) -> None:
    cut, inputs = network.cuts[-1], pictures(8)
    runner = torch_gpu.opened(network.part(cut), inputs.shape, "fp32", CPU)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(runner, [inputs] * 4):
            np.testing.assert_allclose(found, network.features(inputs, cut), rtol=1e-4, atol=1e-5)
