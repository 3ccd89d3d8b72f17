"""How each family of image encoders in transformers is put together, and what its own classifier takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from headstart.backbones.huggingface_stages import (
    Embeddings,
    Layers,
    NormedMean,
    Placed,
    Pooler,
    Pyramid,
    Rotated,
    Tokens,
    Unrolled,
)

MOST = 12  # groups of layers: more would only make each unfreezing smaller than it is worth


@dataclass(frozen=True)
class Parts:
    """An encoder taken apart: groups in turn, and how its last tensor is pooled (None: the mean over all places)."""

    stages: Mapping[str, nn.Module]
    pool: nn.Module | None = None


Taken = Callable[[Any, int], Parts | None]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of some types are made and taken apart. `apart` gives None for a variant that it cannot."""

    model: str  # the class of transformers
    apart: Taken
    options: Mapping[str, Any] = field(default_factory=dict)  # for that class


# ---- the layers in groups


def chunks(layers: Sequence[nn.Module], most: int = MOST, word: str = "layer") -> Iterator[tuple[str, list[nn.Module]]]:
    """Neighbouring layers together, at most `most` groups: `layer3`, or `layers5_6` where it takes several."""
    each = -(-len(layers) // most)
    for start in range(0, len(layers), each):
        stop = min(start + each, len(layers))
        name = f"{word}{stop}" if stop - start == 1 else f"{word}s{start + 1}_{stop}"
        yield name, list(layers[start:stop])


def _grouped(
    layers: Sequence[nn.Module], norm: nn.Module | None, make: Callable[[list[nn.Module], nn.Module | None], nn.Module]
) -> dict[str, nn.Module]:
    """Groups of layers; the norm after the last layer goes with it: alone it would be a group of a few numbers."""
    groups = list(chunks(layers))
    return {
        name: make(members, norm if place == len(groups) else None)
        for place, (name, members) in enumerate(groups, start=1)
    }


def _part(model: Any, *paths: str) -> Any:
    """The first of these submodules that the model has, for names change between versions of transformers."""
    for path in paths:
        found: Any = model
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise AttributeError(f"{type(model).__name__} has no {' or '.join(paths)}")


def _layers(model: Any) -> Sequence[nn.Module]:
    layers: Sequence[nn.Module] = _part(model, "layers", "encoder.layers", "encoder.layer", "model.layer", "layer")
    return layers


def _resized(model: Any, size: int) -> bool:
    """Whether pictures of this size are not those that the model has positions for."""
    own = model.config.image_size
    return (size, size) != (tuple(own) if isinstance(own, list | tuple) else (own, own))


# ---- the families


def _tokens(pool: Callable[[Any], nn.Module], *, flag: bool = True) -> Taken:
    """A plain vision transformer: embeddings, layers, a norm."""

    def apart(model: Any, size: int) -> Parts:
        embeddings = Embeddings(
            model.embeddings,
            norm=getattr(model, "pre_layrnorm", None),
            interpolate=flag and _resized(model, size),
        )
        # CLIP's classifier takes its tokens as they are; SigLIP's norm has the same name and is used.
        norm = None if hasattr(model, "pre_layrnorm") else _part(model, "layernorm", "post_layernorm", "norm")
        extra = (None,)  # no mask
        return Parts(
            {
                "embeddings": embeddings,
                **_grouped(_layers(model), norm, lambda layers, norm: Layers(layers, extra, norm)),
            },
            pool(model),
        )

    return apart


def _dinov3(model: Any, size: int) -> Parts:
    with torch.no_grad():
        angles = model.rope_embeddings(torch.zeros(1, 3, size, size))
    return Parts(
        {
            "embeddings": Embeddings(model.embeddings),
            **_grouped(_layers(model), model.norm, lambda layers, norm: Rotated(layers, angles, norm)),
        },
        Tokens(first=True),
    )


def _beit(model: Any, size: int) -> Parts | None:
    within = getattr(model, "encoder", model)
    shared = getattr(model, "shared_position_bias", None) or getattr(within, "relative_position_bias", None)
    if shared is not None:
        return None  # all layers read the same table, so none of them could be thawed alone
    return Parts(
        {
            "embeddings": Embeddings(model.embeddings),
            **_grouped(_layers(model), model.layernorm, lambda layers, norm: Placed(layers, (size, size), norm)),
        },
        model.pooler,
    )


def _windows(model: Any, size: int) -> Parts:
    """Swin, Swin v2 and FocalNet: stages that are told the height and width of their map."""
    patch = model.config.patch_size
    side = -(-size // (patch if isinstance(patch, int) else patch[0]))
    interpolate = model.config.model_type != "focalnet" and _resized(model, size)
    stages: dict[str, nn.Module] = {"embeddings": Embeddings(model.embeddings, interpolate=interpolate)}
    members = list(_part(model, "encoder.layers", "encoder.stages"))
    for number, stage in enumerate(members, start=1):
        last = number == len(members)
        stages[f"stage{number}"] = Layers([stage], ((side, side),), model.layernorm if last else None)
        side = (side + 1) // 2 if model.config.model_type != "focalnet" else side // 2
    return Parts(stages)


def _convolutions(pool: Callable[[Any], nn.Module | None] = lambda model: None) -> Taken:
    """A stem, stages of a map, and whatever comes after the last of them."""

    def apart(model: Any, size: int) -> Parts:
        stem = _part(model, "embeddings", "embedder", "patch_embeddings", "patch_embed", "conv_stem")
        members = list(_part(model, "encoder.stages", "encoder.layer", "encoder.network", "layer"))
        final = getattr(model, "norm", None) or getattr(model, "conv_1x1_exp", None) or getattr(model, "conv_1x1", None)
        stages: dict[str, nn.Module] = {"embeddings": Embeddings(stem)}
        groups = list(chunks(members, word="stage" if len(members) <= 5 else "block"))
        for place, (name, blocks) in enumerate(groups, start=1):
            stages[name] = Layers(blocks, norm=final if place == len(groups) else None)
        return Parts(stages, pool(model))

    return apart


def _dinov3_convnext(model: Any, size: int) -> Parts:
    members = _part(model, "model.stages", "stages")
    return Parts(
        {f"stage{number}": Layers([stage]) for number, stage in enumerate(members, start=1)},
        NormedMean(model.layer_norm),
    )


def _efficientnet(model: Any, size: int) -> Parts:
    encoder = model.encoder
    top = nn.Sequential(encoder.top_conv, encoder.top_bn, encoder.top_activation)
    groups = list(chunks(list(encoder.blocks), word="block"))
    blocks = {
        name: Layers(members, norm=top if place == len(groups) else None)
        for place, (name, members) in enumerate(groups, start=1)
    }
    # Its pooler is a window as long as the features are many, which covers any map: a mean, unless it is a maximum.
    pool = Pooler(nn.AdaptiveMaxPool2d(1)) if model.config.pooling_type == "max" else None
    return Parts({"embeddings": Embeddings(model.embeddings), **blocks}, pool)


def _poolformer(model: Any, size: int) -> Parts:
    encoder = model.poolformer.encoder
    levels = list(zip(encoder.patch_embeddings, encoder.block, strict=True))
    return Parts(
        {
            f"stage{number}": Layers([embed, *blocks], norm=model.norm if number == len(levels) else None)
            for number, (embed, blocks) in enumerate(levels, start=1)
        }
    )


def _swiftformer(model: Any, size: int) -> Parts:
    encoder = model.swiftformer
    members = list(encoder.encoder.network)
    return Parts(
        {
            "embeddings": Embeddings(encoder.patch_embed),
            **{
                f"block{number}": Layers([block], norm=model.norm if number == len(members) else None)
                for number, block in enumerate(members, start=1)
            },
        }
    )


def _segformer(model: Any, size: int) -> Parts:
    return Parts({f"stage{number}": Layers([stage]) for number, stage in enumerate(model.stages, start=1)})


def _pvt_v2(model: Any, size: int) -> Parts:
    return Parts({f"stage{number}": Pyramid([stage]) for number, stage in enumerate(model.encoder.layers, start=1)})


def _hiera(model: Any, size: int) -> Parts:
    stages: dict[str, nn.Module] = {"embeddings": Unrolled(model, interpolate=_resized(model, size))}
    for number, stage in enumerate(model.encoder.stages, start=1):
        stages[f"stage{number}"] = Layers([stage])
    return Parts(stages, model.pooler)


def _first_token(model: Any) -> nn.Module:
    return Tokens(first=True)


def _class_and_mean(model: Any) -> nn.Module:
    return Tokens(first=True, skip=1 + getattr(model.config, "num_register_tokens", 0))


def _mean_of_patches(model: Any) -> nn.Module:
    return Tokens(skip=1)


def _mean_of_all(model: Any) -> nn.Module:
    return Tokens(skip=0)


_BARE = {"add_pooling_layer": False}
FAMILIES: Mapping[str, Family] = {
    "vit": Family(model="ViTModel", apart=_tokens(_first_token), options=_BARE),
    "deit": Family(model="DeiTModel", apart=_tokens(_first_token), options=_BARE),
    "vit_msn": Family(model="ViTMSNModel", apart=_tokens(_first_token)),
    "ijepa": Family(model="IJepaModel", apart=_tokens(_mean_of_all), options=_BARE),
    "dinov2": Family(model="Dinov2Model", apart=_tokens(_class_and_mean, flag=False)),
    "dinov2_with_registers": Family(model="Dinov2WithRegistersModel", apart=_tokens(_class_and_mean, flag=False)),
    "dinov3_vit": Family(model="DINOv3ViTModel", apart=_dinov3),
    "dinov3_convnext": Family(model="DINOv3ConvNextModel", apart=_dinov3_convnext),
    "clip_vision_model": Family(model="CLIPVisionModel", apart=_tokens(_mean_of_patches)),
    "metaclip_2_vision_model": Family(model="MetaClip2VisionModel", apart=_tokens(_mean_of_patches)),
    "siglip_vision_model": Family(model="SiglipVisionModel", apart=_tokens(_mean_of_all)),
    "beit": Family(model="BeitModel", apart=_beit),
    "data2vec-vision": Family(model="Data2VecVisionModel", apart=_beit, options={"add_pooling_layer": True}),
    "swin": Family(model="SwinModel", apart=_windows, options=_BARE),
    "swinv2": Family(model="Swinv2Model", apart=_windows, options=_BARE),
    "focalnet": Family(model="FocalNetModel", apart=_windows, options=_BARE),
    "hiera": Family(model="HieraModel", apart=_hiera),
    "convnext": Family(model="ConvNextModel", apart=_convolutions(lambda model: NormedMean(model.layernorm))),
    "convnextv2": Family(model="ConvNextV2Model", apart=_convolutions(lambda model: NormedMean(model.layernorm))),
    "resnet": Family(model="ResNetModel", apart=_convolutions()),
    "regnet": Family(model="RegNetModel", apart=_convolutions()),
    "bit": Family(model="BitModel", apart=_convolutions()),
    "mobilenet_v1": Family(model="MobileNetV1Model", apart=_convolutions(), options=_BARE),
    "mobilenet_v2": Family(model="MobileNetV2Model", apart=_convolutions(), options=_BARE),
    "mobilevit": Family(model="MobileViTModel", apart=_convolutions()),
    "mobilevitv2": Family(model="MobileViTV2Model", apart=_convolutions()),
    "levit": Family(model="LevitModel", apart=_convolutions()),
    "efficientnet": Family(model="EfficientNetModel", apart=_efficientnet),
    "segformer": Family(model="SegformerModel", apart=_segformer),
    "pvt_v2": Family(model="PvtV2Model", apart=_pvt_v2),
    "poolformer": Family(model="PoolFormerForImageClassification", apart=_poolformer),
    "swiftformer": Family(model="SwiftFormerForImageClassification", apart=_swiftformer),
}
