"""Count the floating-point operations of what PyTorch computes, without waiting for its compiler to be imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, adds up the FLOPs of matrix products and convolutions, as PyTorch's own counter does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0


def _counted(flops: Flops, function: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
    kwargs = kwargs or {}
    formula = flop_registry.get(function._overloadpacket)
    if formula is None:
        with flops:  # what it is made of may be known
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
    result = function(*args, **kwargs)
    if formula is not None:
        flops.total += formula(*args, **kwargs, out_val=result)
    return result


# Not in the class's body: what PyTorch finds there it wraps for its compiler to skip it, and imports the compiler for
# that when the first operation comes, which takes as long as importing all the rest of PyTorch.
Flops.__torch_dispatch__ = _counted  # type: ignore[assignment]
