"""Measure what this machine allows, in PyTorch alone: FLOPs of a pass of EfficientNet-Lite0 and of matrix products."""

import json
import time

import lite0
import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE = 2048


def peak(dtype):
    """FLOPs a second of a large matrix product on all cores, the best of several."""
    one, other = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        one @ other
        seconds.append(time.perf_counter() - began)
    return 2 * SIDE**3 / min(seconds)


def main():
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        lite0.pooled()(torch.zeros(1, 3, lite0.SIZE, lite0.SIZE))
    found = {"flops": counter.get_total_flops(), "fp32": peak(torch.float32), "bf16": peak(torch.bfloat16)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
