"""Measure a fine-tuning step on PyTorch against a plain loop, and by the work that is left in it.

    python benchmarks/speed/step.py [--rounds 3] [--only bundled]

One process on all cores: steps of 32 pictures of random pixels, in turn: from activations at the freeze boundary, from
pixels, and of the whole network, in fp32 and bf16, each after a step to warm up. The plain loop is written as PyTorch's
tutorials have it, from the same boundary, over the same layers: autocast, fused AdamW, clipped gradients,
channels_last. ResNet50 has random weights. About 5 minutes on two cores.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from headstart.backbones.loading import load_backbone
from headstart.heads import parse
from headstart.networks.network import HEAD, INPUT, Batch, Optimization

RESULT = Path(__file__).parents[1] / "results" / "step.json"
CLASSES, BATCH = 5, 32
NETWORKS = {"bundled": 2, "torchvision/resnet50": 1}  # and how many of the last groups are tuned
Work = Callable[[], object]


def plain(network: Any, live: list[str], batch: Batch, *, bf16: bool) -> Work:
    """One step of a loop written by hand, on a copy of the network, from where the batch enters."""
    model: nn.Module = copy.deepcopy(network.native)
    moving = [p for name in live for p in model.backbone[name].parameters()] + list(model.head.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in moving:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(moving, lr=1e-5, fused=True)
    inputs = torch.from_numpy(batch.inputs).permute(0, 3, 1, 2)
    labels, start = torch.from_numpy(batch.labels), network.cuts.index(batch.start)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, bf16):
            logits = model(inputs, start)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ours(network: Any, live: list[str], batch: Batch, *, bf16: bool) -> Work:
    """One step of headstart's; stages follow each other, so each is thawed anew, which takes no time to speak of."""
    rates = {HEAD: 1e-5, **dict.fromkeys(live, 1e-5)}

    def step() -> None:
        network.thaw(rates, precision="bf16" if bf16 else "fp32")
        network.read([network.step(batch, scale=1.0, key=0)])

    return step


class Counting(TorchFunctionMode):
    """Adds up the FLOPs of convolutions and dense layers: forward, and for each gradient that is wanted once more.

    PyTorch's own counter takes the gradients of a kernel for each channel for those of a full one.
    """

    total = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in (torch.conv2d, functional.linear):
            inputs, weight = args[:2]
            self.total += 2 * found.numel() * weight[0].numel() * (1 + inputs.requires_grad + weight.requires_grad)
        return found


def counted(work: Work) -> int:
    """FLOPs of a step of the plain loop."""
    with Counting() as counting:
        work()
    return counting.total


def measure(name: str, weights: str | None, rounds: int) -> list[dict[str, Any]]:
    """The rows of one network."""
    network = load_backbone(name, weights=weights).build()
    network.set_head(parse("linear"), CLASSES)
    network.prepare(Optimization(label_smoothing=0.1))
    every = [group.name for group in network.groups]
    live = every[-NETWORKS[name] :]
    boundary = next(cut for cut in reversed(network.cuts) if cut.after == len(every) - len(live))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (BATCH, *network.input_shape), dtype=np.uint8)
    cached = np.concatenate([network.features(pixels[i : i + 4], boundary) for i in range(0, BATCH, 4)])
    labels, weight = rng.integers(0, CLASSES, BATCH), np.full(BATCH, 1 / BATCH)
    at = {cut: Batch(inputs, labels, weight, cut) for cut, inputs in ((boundary, cached), (INPUT, pixels))}
    ways = {
        "plain loop, from the boundary": (plain, live, at[boundary]),
        "from the boundary": (ours, live, at[boundary]),
        "from pixels": (ours, live, at[INPUT]),
        "plain loop, whole network": (plain, every, at[INPUT]),
        "whole network": (ours, every, at[INPUT]),
    }
    flops = {way: counted(plain(network, moving, batch, bf16=False)) for way, (_, moving, batch) in ways.items()}
    rows = []
    for bf16 in (False, True)[: len(network.precisions)]:
        works = {way: make(network, moving, batch, bf16=bf16) for way, (make, moving, batch) in ways.items()}
        seconds: dict[str, list[float]] = {way: [] for way in works}
        for turn in range(rounds + 1):
            for way, work in works.items():
                began = time.monotonic()
                work()
                if turn:
                    seconds[way].append(time.monotonic() - began)
        rates = {way: flops[way] / min(times) / 1e9 for way, times in seconds.items()}
        for way, times in seconds.items():
            other = seconds["plain loop, whole network" if "whole" in way else "plain loop, from the boundary"]
            ratios = [mine / theirs for mine, theirs in zip(times, other, strict=True)]
            rows.append(
                {
                    "backbone": name,
                    "live groups": len(every) if "whole" in way else len(live),
                    "precision": "bf16" if bf16 else "fp32",
                    "step": way,
                    "milliseconds": 1000 * min(times),
                    "of the plain loop's": None if way == "from pixels" else statistics.median(ratios),
                    "GFLOP/s": rates[way],
                    "of the whole network's rate": rates[way] / rates["whole network"],
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=NETWORKS)
    options = parser.parse_args()
    rows = []
    for name in [options.only] if options.only else NETWORKS:
        rows += measure(name, None if name == "bundled" else "none", options.rounds)
    result = {
        "benchmark": "Fine-tuning step on PyTorch",
        "description": f"A step of {BATCH} pictures, the lowest of {options.rounds} rounds in turn; ratios to a loop "
        "written by hand are medians. Goal: no slower than the loop, and from the boundary at least 0.8 of the rate "
        "of the whole network.",
        "limit": "counted FLOPs of products and convolutions, forward and backward, at the rate of the whole network",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
