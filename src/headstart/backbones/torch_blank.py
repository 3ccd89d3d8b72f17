"""Make a PyTorch network without drawing first values that nobody will ever see, or with the same ones each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What fills a tensor with chance. A large network spends seconds in these, and its weights come from a file afterwards.
_DRAWS = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.erfinv_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.trunc_normal_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
    nn.init.xavier_normal_,
    nn.init.xavier_uniform_,
}
# Left out for weights alone: a draw that PyTorch repeats in a tensor of its own until it fits would never end.
_TEMPORARY = {Tensor.normal_, Tensor.uniform_}


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _DRAWS and args and (isinstance(args[0], nn.Parameter) or func not in _TEMPORARY):
            if func is Tensor.normal_:
                mean = args[1] if len(args) > 1 else (kwargs or {}).get("mean", 0.0)
                args[0].fill_(mean)  # or PyTorch's truncated draw would find what lies in memory, and draw again
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def first_values(*, drawn: bool) -> Iterator[None]:
    """While open, networks that are made get their usual random weights from seed 0, or none at all.

    Nobody else's random state is touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if drawn:
            yield
        else:
            with _Undrawn():
                yield
