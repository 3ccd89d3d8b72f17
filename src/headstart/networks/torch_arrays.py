"""Bring values from PyTorch to NumPy, channels last."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor


def array(tensor: Tensor) -> Float[np.ndarray, "n ..."]:
    """float32, `[n h w c]` of `[n c h w]`."""
    last = tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor
    return np.ascontiguousarray(last.float().cpu().numpy())


def copied(tensor: Tensor) -> Any:
    """The values as they are, in memory of their own."""
    return np.array(tensor.detach().cpu().contiguous().numpy())
