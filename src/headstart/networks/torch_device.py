"""Choose the device of a PyTorch network, say what it can do, and leave it in peace."""

from __future__ import annotations

import contextlib
import os

import torch

from headstart.errors import BadSetting


def device_of(device: str) -> torch.device:
    """The device for `cpu`, `cuda`, `mps` or `auto`; of several GPUs, the one of this process.

    Raises:
        BadSetting: this machine or this PyTorch has no such device.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[device]:
        usable = ", ".join(name for name, there in present.items() if there)
        raise BadSetting(f"device {device!r} is not usable here", fix=f"use one of: auto, {usable}")
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices of bf16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def part() -> None:
    """Leave the group of processes together: threads of it that the end of a program meets would abort it."""
    group = torch.distributed
    if group.is_initialized():
        if group.get_backend() == "gloo":  # which tells at once when another process has died
            with contextlib.suppress(RuntimeError):
                group.barrier()
        group.destroy_process_group()
