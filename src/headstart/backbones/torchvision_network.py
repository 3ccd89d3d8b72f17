"""Build a network of torchvision without its top: what gives the feature map, the pooling, and their groups."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchvision.models as zoo
from torch import Tensor, nn

from headstart.backbones.neighbours import few
from headstart.backbones.torch_blank import first_values

STEM = "stem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A network taken apart; everything keeps its name in torchvision.

    `body` leads from normalised pixels `[n 3 h w]` to a map `[n c h w]` or tokens `[n t d]`, and `pool` from there to
    what torchvision's last linear layer takes; None is the mean. `whole` holds the weights of both.
    """

    body: nn.Module
    pool: nn.Module | None
    whole: nn.Module
    groups: Mapping[str, str]  # parameter or buffer of the body -> its group


def build(name: str, *, size: int, drawn: bool) -> Parts:
    """The network of this name, for pictures of this size; with random weights from a fixed seed, or with any."""
    with first_values(drawn=drawn):
        model = zoo.get_model(name, weights=None, **_options(name, size, drawn)).eval()
    body, pool = _cut(model)
    whole = nn.Module()
    _share(whole, body)
    if pool is not None:
        _share(whole, pool)
    return Parts(body=body, pool=pool, whole=whole, groups=_groups(model, body))


def _options(name: str, size: int, drawn: bool) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):
        # Their other tops serve training from scratch; they scale pixels once more, which our InputSpec does.
        return {"aux_logits": False, "init_weights": drawn, "transform_input": False}
    if name.startswith("vit_"):
        return {"image_size": size}
    return {"input_size": (size, size)} if name.startswith("maxvit") else {}


# ---- the map and the features


def _cut(model: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    """Where the map comes out, and what pools it where that is more than the mean."""
    parts = dict(model.named_children())
    match model:
        case zoo.ResNet() | zoo.RegNet() | zoo.ShuffleNetV2() | zoo.GoogLeNet() | zoo.Inception3() | zoo.MNASNet():
            tops = ("avgpool", "dropout", "fc", "classifier")
            return _in_turn((name, part) for name, part in parts.items() if name not in tops), None
        case zoo.VGG() | zoo.AlexNet() | zoo.SqueezeNet():
            return _in_turn([("features", model.features)]), None
        case zoo.DenseNet():
            return _in_turn([("features", model.features), ("relu", nn.ReLU())]), None
        case zoo.MobileNetV2() | zoo.EfficientNet():
            return _in_turn([("features", model.features)]), None
        case zoo.MobileNetV3() | zoo.ConvNeXt():
            last = 2  # layers of the top that come before the linear one, and dropout
            top = nn.Sequential(*list(model.classifier)[:last])
            flat = [] if isinstance(model, zoo.ConvNeXt) else [("flatten", nn.Flatten())]
            pool = _in_turn([("avgpool", model.avgpool), *flat, ("classifier", top)])
            return _in_turn([("features", model.features)]), pool
        case zoo.SwinTransformer():
            return _in_turn([("features", model.features), ("norm", model.norm), ("permute", model.permute)]), None
        case zoo.MaxVit():
            body = _in_turn([("stem", model.stem), ("blocks", nn.Sequential(*model.blocks))])
            return body, _in_turn([("classifier", nn.Sequential(*list(model.classifier)[:-1]))])
        case zoo.VisionTransformer():
            return _Tokens(model), _ClassToken()
    raise NotImplementedError(f"a network of the kind {type(model).__name__}")


def _in_turn(parts: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


class _Tokens(nn.Module):
    """A vision transformer up to its last tokens `[n t d]`."""

    def __init__(self, model: zoo.VisionTransformer) -> None:
        super().__init__()
        self.conv_proj = model.conv_proj
        self.class_token = model.class_token
        self.encoder = model.encoder

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv_proj(pixels).flatten(2).permute(0, 2, 1)
        first = self.class_token.expand(pixels.shape[0], -1, -1)
        tokens: Tensor = self.encoder(torch.cat([first, patches], dim=1))
        return tokens


class _ClassToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def _share(whole: nn.Module, part: nn.Module) -> None:
    for name, child in part.named_children():
        whole.add_module(name, child)
    for name, parameter in part.named_parameters(recurse=False):
        whole.register_parameter(name, parameter)


# ---- groups

# How a layer's name begins in torchvision, where that is not the name of its group already.
_LAYERS: tuple[tuple[type[nn.Module], str], ...] = (
    (zoo.ResNet, r"(layer\d)"),
    (zoo.RegNet, r"trunk_output\.(block\d)"),
    (zoo.ShuffleNetV2, r"(stage\d|conv5)"),
    (zoo.GoogLeNet, r"(inception\d\w)"),
    (zoo.Inception3, r"(Mixed_\d\w)"),
    (zoo.MNASNet, r"(layers\.(?:8|9|1[0-4]))\."),
    (zoo.DenseNet, r"features\.(denseblock\d|transition\d)"),
    (zoo.MaxVit, r"(blocks\.\d)"),
    (zoo.VisionTransformer, r"encoder\.layers\.encoder_(layer_\d+)"),
    (nn.Module, r"(features\.(?!0\.)\d+)"),
)


def _groups(model: nn.Module, body: nn.Module) -> dict[str, str]:
    """The group of each weight of the body: that of its layer, or the one before it where a layer has none."""
    layer_of = _vgg_block(model) if isinstance(model, zoo.VGG) else _layer(model)
    found: dict[str, str] = {}
    layer = STEM
    # A transformer's own parameters come before its layers' and the last norm after: so the order decides.
    for name in body.state_dict():
        layer = layer_of(name) or layer
        found[name] = layer
    together = few(list(dict.fromkeys(found.values())))
    return {name: together[layer] for name, layer in found.items()}


def _layer(model: nn.Module) -> Callable[[str], str | None]:
    pattern = re.compile(next(pattern for kind, pattern in _LAYERS if isinstance(model, kind)))

    def of(name: str) -> str | None:
        found = pattern.match(name)
        return found and found.group(1).replace(".", "_")

    return of


def _vgg_block(model: zoo.VGG) -> Callable[[str], str | None]:
    """The blocks that end with a pooling, counted from 1 as everyone does."""
    pools = [place for place, layer in enumerate(model.features) if isinstance(layer, nn.MaxPool2d)]
    return lambda name: f"block{1 + sum(place < int(name.split('.')[1]) for place in pools)}"
