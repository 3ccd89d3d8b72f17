"""Small models of transformers with random weights, one a family, and what each must give through headstart.

names()            every family, hf/vit for instance
check("hf/vit")    what was found, and "passed"
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .operators import declare_operators
from .references import shaken

declare_operators()

import transformers  # noqa: E402  not before the operators are there

from headstart.backbones.backbone import Backbone  # noqa: E402
from headstart.backbones.huggingface_quiet import quiet  # noqa: E402
from headstart.backbones.loading import load_backbone, restore_backbone  # noqa: E402
from headstart.heads import Head, Pool  # noqa: E402
from headstart.networks.network import HEAD, Batch, Network, Optimization  # noqa: E402

ROUNDING = 1e-5  # of the largest answer
CLASSES = 5
_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DUAL = {"vision_config": _VIT, "text_config": _TEXT}
_SWIN = {
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "image_size": 32,
    "patch_size": 2,
}
_FOUR = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2]}
_CLASSIFIER = "ForImageClassification"

# family -> the first part of its classes' names, their ending, the configuration
MODELS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "vit": ("ViT", _CLASSIFIER, _VIT),
    "deit": ("DeiT", _CLASSIFIER, _VIT),
    "vit_msn": ("ViTMSN", _CLASSIFIER, _VIT),
    "ijepa": ("IJepa", _CLASSIFIER, _VIT),
    "dinov2": ("Dinov2", _CLASSIFIER, _VIT | {"mlp_ratio": 2}),
    "dinov2_with_registers": ("Dinov2WithRegisters", _CLASSIFIER, _VIT | {"mlp_ratio": 2, "num_register_tokens": 2}),
    "dinov3_vit": ("DINOv3ViT", "Model", _VIT | {"num_register_tokens": 2}),
    "dinov3_convnext": ("DINOv3ConvNext", "Model", _FOUR),
    "clip": ("CLIP", _CLASSIFIER, _DUAL),
    "clip_vision_model": ("CLIPVision", "Model", _VIT),
    "metaclip_2": ("MetaClip2", _CLASSIFIER, _DUAL),
    "siglip": ("Siglip", _CLASSIFIER, _DUAL),
    "siglip_vision_model": ("SiglipVision", "Model", _VIT),
    "beit": ("Beit", _CLASSIFIER, _VIT | {"use_relative_position_bias": True, "use_mean_pooling": True}),
    "data2vec-vision": ("Data2VecVision", _CLASSIFIER, _VIT | {"use_relative_position_bias": True}),
    "swin": ("Swin", _CLASSIFIER, _SWIN),
    "swinv2": ("Swinv2", _CLASSIFIER, _SWIN),
    "focalnet": (
        "FocalNet",
        _CLASSIFIER,
        {
            "embed_dim": 16,
            "depths": [1, 2],
            "hidden_sizes": [16, 32],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
            "image_size": 32,
        },
    ),
    "hiera": (
        "Hiera",
        _CLASSIFIER,
        {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "image_size": [64, 64], "mlp_ratio": 2.0},
    ),
    "convnext": ("ConvNext", _CLASSIFIER, _FOUR),
    "convnextv2": ("ConvNextV2", _CLASSIFIER, _FOUR),
    "resnet": ("ResNet", _CLASSIFIER, _FOUR | {"embedding_size": 8}),
    "regnet": ("RegNet", _CLASSIFIER, _FOUR | {"embedding_size": 8, "groups_width": 8}),
    "bit": (
        "Bit",
        _CLASSIFIER,
        {"embedding_size": 8, "hidden_sizes": [32, 32, 64, 64], "depths": [1, 1, 2, 1], "num_groups": 4},
    ),
    "mobilenet_v1": ("MobileNetV1", _CLASSIFIER, {"depth_multiplier": 0.25}),
    "mobilenet_v2": ("MobileNetV2", _CLASSIFIER, {"depth_multiplier": 0.35}),
    "mobilevit": (
        "MobileViT",
        _CLASSIFIER,
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
            "num_attention_heads": 2,
            "image_size": 128,  # at 64 its last map would be a single token, that no attention tells from itself
        },
    ),
    "mobilevitv2": ("MobileViTV2", _CLASSIFIER, {"width_multiplier": 0.25, "image_size": 64}),
    "levit": (
        "Levit",
        _CLASSIFIER,
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    "efficientnet": (
        "EfficientNet",
        _CLASSIFIER,
        {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "image_size": 64},
    ),
    "segformer": ("Segformer", _CLASSIFIER, _PYRAMID),
    "pvt_v2": ("PvtV2", _CLASSIFIER, _PYRAMID | {"mlp_ratios": [2, 2, 2, 2], "image_size": 64}),
    "poolformer": ("PoolFormer", _CLASSIFIER, _FOUR),
    "swiftformer": ("SwiftFormer", _CLASSIFIER, {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}),
    "pvt": ("Pvt", _CLASSIFIER, _PYRAMID | {"image_size": 64}),  # run in one piece
    "pixio": ("Pixio", "Model", _VIT),  # likewise, and without a classifier
}
WHOLE = ("pvt", "pixio")
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "do_normalize": True, "resample": 2}


def names(source: str = "hf") -> list[str]:
    """Every family that is checked."""
    return [f"{source}/{family}" for family in MODELS]


def model(family: str, *, seed: int = 0) -> Any:
    """The library's own model of this family, no tensor of it constant."""
    first, ending, fields = MODELS[family]
    labels = {"num_labels": CLASSES} if ending == _CLASSIFIER else {}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = getattr(transformers, first + ending)(getattr(transformers, f"{first}Config")(**fields, **labels))
        for parameter in made.parameters():
            if parameter.ndim > 1:  # its own are so small that a wrong one would not show
                torch.nn.init.normal_(parameter, std=(1.5 / max(1, parameter[0].numel())) ** 0.5)
    return shaken(made)


def size_of(family: str) -> int:
    """The side of its pictures."""
    fields = MODELS[family][2]
    size = fields.get("vision_config", fields).get("image_size", 64)
    return int(size[0]) if isinstance(size, list) else int(size)


def saved(theirs: Any, folder: Path, *, size: int) -> str:
    """The name under which headstart finds the model, written as transformers writes it."""
    with quiet():
        theirs.save_pretrained(folder)
    processor = PROCESSOR | {"size": {"height": size, "width": size}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return f"hf/{folder}"


def pictures(size: int, n: int = 3) -> np.ndarray:
    """Pictures of noise."""
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def theirs_and_ours(
    theirs: Any, network: Network, images: np.ndarray, *, resized: bool = False
) -> tuple[Tensor, Tensor]:
    """Answers of the library's own model, and its own top on our features; features where it has no top."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    options = {"interpolate_pos_encoding": True} if resized else {}
    features = torch.from_numpy(network.features(images, network.cuts[-1]))
    with torch.no_grad():
        said = theirs(network.native.normalise(pixels), **options)
        if hasattr(said, "logits"):
            return said.logits, top(theirs, features)
    return own_features(theirs, said), features


def top(theirs: Any, features: Tensor) -> Tensor:
    """The library's own classifier on these features."""
    if hasattr(theirs, "dist_head"):
        return torch.as_tensor((theirs.head(features) + theirs.dist_head(features)) / 2)
    return torch.as_tensor(theirs.classifier(features))


def own_features(theirs: Any, said: Any) -> Tensor:
    """What a model without a classifier is pooled to: as the classifier of its kin does, else its own pooled output."""
    kind = theirs.config.model_type
    if kind == "clip_vision_model":
        return torch.as_tensor(said.last_hidden_state[:, 1:].mean(dim=1))
    if kind == "siglip_vision_model":
        return torch.as_tensor(said.last_hidden_state.mean(dim=1))
    return torch.as_tensor(said.pooler_output)


def difference(theirs: Tensor, ours: Tensor) -> float:
    """The largest one, as a share of the largest answer."""
    return float((theirs - ours).abs().max() / theirs.abs().max())


def check(full_name: str) -> dict[str, Any]:
    """What was found for this family: figures, and whether each thing holds; `passed` is all of them."""
    family = full_name.partition("/")[2]
    size, theirs = size_of(family), model(family)
    with tempfile.TemporaryDirectory() as folder:
        backbone = load_backbone(saved(theirs, Path(folder), size=size))
        network = backbone.build()
    images = pictures(size)
    features = network.features(images, network.cuts[-1])
    named = [name for group in network.groups for name in (*group.parameters, *group.buffers)]
    apart = difference(*theirs_and_ours(theirs, network, images))
    found: dict[str, Any] = {
        "name": full_name,
        "size": size,
        "groups": [group.name for group in network.groups],
        "cuts": len(network.cuts),
        "compared": "logits" if MODELS[family][1] == _CLASSIFIER else "features",
        "difference": apart,
        "equal": apart <= ROUNDING,
        "finite": bool(np.isfinite(features).all() and features.std() > 0),
        "width": True,  # the library's own classifier took them
        "covered_once": len(named) == len(set(named)) and set(network.weights()) <= set(named),
        "restored": restored_equal(backbone, network, images),
        "frozen": frozen(network, images),
    }
    found["passed"] = all(value for value in found.values() if isinstance(value, bool))
    return found


def restored_equal(backbone: Backbone, network: Network, images: np.ndarray) -> bool:
    """Whether the network of a run, which has no files, gives the same bits with the run's weights."""
    about = json.loads(json.dumps(dict(backbone.about)))
    again = restore_backbone({"name": backbone.name, "size": backbone.spec.size, "about": about}).build()
    again.load_weights(network.weights())
    last = network.cuts[-1]
    return again.features(images, last).tobytes() == network.features(images, last).tobytes()


def frozen(network: Network, images: np.ndarray) -> bool:
    """Whether exactly the last group moves, with all of its parameters, when it is thawed with the head.

    But for biases: one that is added to all keys or queries alike has no gradient.
    """
    network.set_head(Head((Pool(),)), 2, seed=0)
    network.prepare(Optimization())
    last = network.groups[-1]
    batch = Batch(images[:2], np.array([0, 1]), np.array([0.5, 0.5]))
    network.thaw({HEAD: 1e-2, last.name: 1e-3})
    before = network.weights()
    for key in range(3):
        network.read([network.step(batch, scale=1.0, key=key)])
    after = network.weights()
    changed = {key for key in before if before[key].tobytes() != after[key].tobytes()}
    moved = {key for key in changed if not key.startswith("head")}
    still = set(last.parameters) - moved
    return moved <= set(last.parameters) and all(key.endswith(".bias") for key in still) and len(still) < len(moved)
