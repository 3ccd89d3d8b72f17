"""Find out how pictures are made for a user's own PyTorch network: it may say so itself, in one of several ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from headstart.errors import BadBackbone
from headstart.modalities.spec import InputSpec

if TYPE_CHECKING:
    from torch import nn

Said = dict[str, Any]  # fields of an InputSpec, as far as they are known
PREFIX = "headstart."  # of the keys in a safetensors file
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on pixels 0..1
_CHOICES = {
    "interpolation": ("bilinear", "bicubic", "lanczos"),
    "order": ("rgb", "bgr", "grey"),
    "fit": ("crop", "pad", "squash"),
}
_KEYS = ("size", "crop", "mean", "std", *_CHOICES)


def of_metadata(given: Mapping[str, Any], what: str) -> Said:
    """What a file says: `headstart.size`, `headstart.mean` and so on as JSON, or the same names without `headstart.`.

    Raises:
        BadBackbone: it says what cannot be.
    """
    texts = {key.removeprefix(PREFIX): value for key, value in given.items() if key.startswith(PREFIX)}
    if not texts:
        texts = {key: value for key, value in given.items() if key in _KEYS and not isinstance(value, str)}
    return _checked({key: _parsed(value) for key, value in texts.items()}, what)


def of_module(module: nn.Module, what: str) -> Said:
    """What a network says: its `input_spec`, an `InputSpec` or a dictionary; or timm's `pretrained_cfg`.

    Raises:
        BadBackbone: it says what cannot be.
    """
    own = getattr(module, "input_spec", None)
    if isinstance(own, InputSpec):
        return asdict(own)
    if isinstance(own, Mapping):
        return _checked(dict(own), what)
    of_timm = getattr(module, "pretrained_cfg", None)
    if isinstance(of_timm, Mapping) and {"mean", "std", "input_size"} <= of_timm.keys():
        return _checked(
            {
                "size": of_timm["input_size"][-1],
                "mean": of_timm["mean"],
                "std": of_timm["std"],
                "crop": of_timm.get("crop_pct") or 0.875,
                "interpolation": of_timm.get("interpolation") or "bilinear",
            },
            what,
        )
    return {}


def input_spec(said: Said, order: Literal["grey"] | None) -> InputSpec:
    """The pictures: what was said, and for the rest what is usual for ImageNet at 224 pixels."""
    mean, std = (_pixels(MEAN), _pixels(STD)) if order is None else ((114.5,) * 3, (57.6,) * 3)
    return InputSpec(
        size=said.get("size") or 224,
        crop=said.get("crop", 0.875),
        interpolation=said.get("interpolation", "bilinear"),
        mean=said.get("mean", mean),
        std=said.get("std", std),
        order=order or said.get("order", "rgb"),
        fit=said.get("fit", "crop"),
    )


def channels_of(module: nn.Module) -> int:
    """1 where the first convolution takes grey pictures, else 3."""
    from torch import nn

    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value  # a word needs no quotes


def _checked(said: Said, what: str) -> Said:
    found: Said = {}
    for key, value in said.items():
        if key not in _KEYS:
            raise BadBackbone(f"{what} says {key!r} of its pictures", fix=f"say one of {', '.join(_KEYS)}")
        found[key] = _value(key, value, what)
    if ("mean" in found) != ("std" in found):
        raise BadBackbone(f"{what} says one of mean and std", fix="say both, or neither")
    if "mean" in found:
        # torchvision's Normalize works on pixels from 0 to 1, ours on 0 to 255.
        scaled = max(*found["mean"], *found["std"]) <= 1
        found["mean"], found["std"] = (_pixels(found[key]) if scaled else found[key] for key in ("mean", "std"))
    return found


def _value(key: str, value: Any, what: str) -> Any:
    if key in _CHOICES:
        if value in _CHOICES[key]:
            return value
        raise _bad(key, value, f"one of {', '.join(_CHOICES[key])}", what)
    try:
        if key in ("mean", "std"):
            numbers = tuple(float(number) for number in value)
            if len(numbers) in (1, 3) and (key == "mean" or min(numbers) > 0):
                return numbers * (3 // len(numbers))
            raise _bad(key, value, "three numbers, one for each of red, green and blue", what)
        number = float(value)
    except (TypeError, ValueError) as problem:
        raise _bad(key, value, "a number, or a list of three for mean and std", what) from problem
    if key == "size" and 1 <= number <= 4096 and number == int(number):
        return int(number)
    if key == "crop" and 0 < number <= 1:
        return number
    raise _bad(key, value, "a size in whole pixels" if key == "size" else "a share up to 1", what)


def _bad(key: str, value: Any, wanted: str, what: str) -> BadBackbone:
    return BadBackbone(f"{what} says that the {key} of its pictures is {value!r}", fix=f"say {wanted}")


def _pixels(shares: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(255 * share, 4) for share in shares)
