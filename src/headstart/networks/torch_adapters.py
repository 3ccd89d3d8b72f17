"""Tune small additions to a network's dense layers in place of the layers (LoRA, Hu et al. 2021).

The layers are PEFT's. What they learn is added to the weights whenever weights leave the network, so that all that is
kept, shipped and loaded is the plain network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import BadSetting

NAME = "default"  # PEFT's own name for the one adapter of a layer
SEED = 0  # draws the adapters' first weights


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


def plain_name(name: str) -> str:
    """The name that an adapted layer's parameter had before, or that an adapter's parameter belongs to."""
    return re.sub(rf"\.base_layer(?=\.)|\.lora_[AB]\.{NAME}", "", name)


def adaptable(model: nn.Module, wanted: Callable[[str], bool]) -> list[str]:
    """The layers whose weights are wanted and that can have an adapter, or have one.

    Raises:
        BadSetting: there is none, or PEFT is not installed.
    """
    _peft()
    fit = [name for name in _layers(model) if wanted(f"{name}.weight")]
    if not fit:
        raise BadSetting(
            "low-rank adapters need dense layers, and the groups to tune have none",
            fix="leave adapt out, or take a transformer such as timm/vit_small_patch16_224",
        )
    return fit


def add_adapters(model: nn.Module, wanted: Callable[[str], bool], rank: int) -> None:
    """Put adapters of this rank on the layers whose weights are wanted, where there are none yet.

    Raises:
        BadSetting: as `adaptable`.
    """
    there = {name for name, _ in _adapted(model)}
    fresh = [name for name in adaptable(model, wanted) if name not in there]
    if fresh:
        # As strong as the layers themselves at first: the scale is alpha / rank = 1.
        config = _peft().LoraConfig(r=rank, lora_alpha=rank, target_modules=fresh, lora_dropout=0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            _peft().inject_adapter_in_model(config, model, adapter_name=NAME)
        model.eval()


def _peft() -> Any:
    try:
        import peft
    except ImportError as problem:
        missing = find_spec("peft") is None
        raise BadSetting(
            "low-rank adapters need PEFT" if missing else f"PEFT does not load: {problem}",
            fix='pip install "headstart[lora]"',
        ) from problem
    return peft


def merged(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers under the names of the plain network, what adapters learnt added in."""
    adapted = list(_adapted(model))
    state: dict[str, Tensor] = model.state_dict()
    if not adapted:
        return state
    plain = {plain_name(key): value for key, value in state.items() if not is_adapter(key)}
    for name, layer in adapted:
        key = f"{name}.weight"
        plain[key] = plain[key] + layer.get_delta_weight(NAME)
    return plain


def load_merged(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put plain weights in, in place; adapters add nothing then.

    Raises:
        RuntimeError: names or shapes do not match.
    """
    if not any(True for _ in _adapted(model)):
        model.load_state_dict(weights)
        return
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if is_adapter(key):
            state[key] = torch.zeros_like(value) if ".lora_B." in key else value
        else:
            state[key] = weights[plain_name(key)]
    model.load_state_dict(state)


def rank_of(adapters: Mapping[str, Any]) -> int:
    """The rank of adapters, by their values' shapes."""
    return next(int(value.shape[0]) for name, value in adapters.items() if ".lora_A." in name)


def _adapted(model: nn.Module) -> Iterable[tuple[str, Any]]:
    every = model.named_modules(remove_duplicate=False)  # a layer that has several names is kept under each
    return ((name, layer) for name, layer in every if hasattr(layer, "lora_A"))


def _layers(model: nn.Module) -> list[str]:
    """The dense layers that can have an adapter, or have one.

    Not those inside PyTorch's own attention layer, which reads their weights past them: adapters there would be
    ignored, and PEFT's layer for it (0.21) adds that of the output projection twice.
    """
    attention = tuple(f"{name}." for name, layer in model.named_modules() if isinstance(layer, nn.MultiheadAttention))
    return [
        name
        for name, layer in model.named_modules()
        if (hasattr(layer, "lora_A") or (isinstance(layer, nn.Linear) and not name.endswith(".base_layer")))
        and not name.startswith(attention)
        and not is_adapter(f"{name}.")
    ]
