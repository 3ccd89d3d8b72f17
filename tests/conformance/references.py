"""Compare a backbone with the library that it comes from: same weights, same photos, same answers.

names("torchvision")                       every name that can be checked
check("torchvision/resnet50")              what was found, and "passed"

Real weights are not needed: the library's own network gets random ones, also where its constructor leaves constants
(statistics of normalisation layers, layer scales), goes into a file, and is compared with what we make of that file.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import list_backbones, load_backbone
from headstart.heads import Head, Pool
from headstart.modalities.image import ImageModality
from headstart.modalities.spec import InputSpec
from headstart.networks.network import HEAD, Batch, Network, Optimization

from .operators import declare_operators

declare_operators()

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
REAL = ("caltech101-20", "flowers5", "hymenoptera")  # of several sizes and shapes
ROUNDING = 1e-4  # of the largest answer: fp32, other kernels and another order of sums
# They resize the whole photo and cut, ours resizes the middle alone, whose edges may lie between pixels: now and then a
# rounding differs by a step of 256 or two, and a network of random weights makes of that what it likes.
PIXELS = 2.01  # steps of 256, at most
PIXELS_MEAN = 0.1  # and on average
RESIZED = 2e-2  # of the largest answer


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The library's own side: its network with its top, its pictures, and its top on what ours gives."""

    network: nn.Module
    transform: Callable[[Image.Image], Tensor] | None  # None at a size that the library has no pictures for
    answers: Callable[[Tensor], Tensor]  # normalised pixels -> logits or features
    ours: Callable[[Network, np.ndarray], Tensor]  # pictures uint8 [n h w c] -> the same, through our network
    compared: str  # logits, those of the first of two heads, or features


def names(source: str) -> list[str]:
    """The full names of every backbone of this source that can be checked here."""
    return [entry.name for entry in list_backbones(f"{source}/") if entry.name.startswith(f"{source}/")]


def check(full_name: str, *, size: int | None = None, photos: Sequence[bytes] | None = None) -> dict[str, Any]:
    """What was found for this backbone: figures, and whether each thing holds; `passed` is all of them.

    Args:
        full_name: `torchvision/NAME` or `timm/NAME`.
        size: side of the pictures; by default the backbone's own, where its transforms are compared too.
        photos: contents of photo files; by default real ones, or drawn ones where those are not there.
    """
    photos = photos if photos is not None else some_photos()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        source, _, name = full_name.partition("/")
        reference = {"torchvision": _torchvision, "timm": _timm}[source](name, size)
        shaken(reference.network)
        torch.save(reference.network.state_dict(), weights)
        backbone = load_backbone(full_name, size=size, weights=weights)
        network = backbone.build()
    found = {
        "name": full_name,
        "size": backbone.spec.size,
        "groups": [group.name for group in network.groups],
        "cuts": len(network.cuts),
        "compared": reference.compared,
        **_equal(reference, network, backbone, photos),
        **_sound(network, backbone),
    }
    found["passed"] = all(value for value in found.values() if isinstance(value, bool))
    return found


def some_photos() -> list[bytes]:
    """A real one of each data set that is at hand, and a large drawn one."""
    real = [next(path for path in sorted((SHARED / name).rglob("*.jpg"))) for name in REAL if (SHARED / name).is_dir()]
    return [*(path.read_bytes() for path in real), _drawn(0)]


def _drawn(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    content = io.BytesIO()
    small.resize((1200, 800), Image.Resampling.BICUBIC).save(content, "JPEG", quality=95)
    return content.getvalue()


def shaken(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """The same network, no tensor of it constant: what stands at nought or one hides what is done with it."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not tensor.is_floating_point() or tensor.numel() < 2:
            continue
        draw = torch.rand(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.data = 0.5 + draw
        elif name.endswith("running_mean"):
            tensor.data = 0.2 * (draw - 0.5)
        elif isinstance(tensor, nn.Parameter) and float(tensor.detach().float().std()) == 0:
            centre = 1.0 if float(tensor.detach().flatten()[0]) == 1 else 0.0
            tensor.data = centre + 0.2 * (draw - 0.5)
    return network.eval()


# ---- what must hold


def _equal(reference: Reference, network: Network, backbone: Backbone, photos: Sequence[bytes]) -> dict[str, Any]:
    spec = backbone.spec
    pictures = np.stack([ImageModality().decode(content, spec) for content in photos])
    with torch.no_grad():
        ours = reference.ours(network, pictures)
        theirs = reference.answers(_normalised(pictures, reference, spec))
        found: dict[str, Any] = {"difference": _difference(ours, theirs)}
        found["equal"] = found["difference"] <= ROUNDING
        if reference.transform is not None:
            opened = [Image.open(io.BytesIO(content)).convert("RGB") for content in photos]
            own = torch.stack([reference.transform(photo) for photo in opened])
            apart = np.abs(_pixels(own, reference, spec) - pictures)
            found["pixel_difference"] = float(apart.max())
            found["difference_from_files"] = _difference(ours, reference.answers(own))
            found["same_pictures"] = bool(apart.max() <= PIXELS and apart.mean() <= PIXELS_MEAN)
            found["equal_from_files"] = found["difference_from_files"] <= RESIZED
    return found


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _scale(reference: Reference, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Mean and deviation that the library itself takes pixels 0..1 to: GoogLeNet and Inception change them inside."""
    inside = getattr(reference.network, "transform_input", False)
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if inside else (spec.mean, spec.std)
    factor = 1.0 if inside else 255.0
    return torch.tensor(mean).view(1, 3, 1, 1) / factor, torch.tensor(std).view(1, 3, 1, 1) / factor


def _normalised(pictures: np.ndarray, reference: Reference, spec: InputSpec) -> Tensor:
    mean, std = _scale(reference, spec)
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - mean) / std


def _pixels(normalised: Tensor, reference: Reference, spec: InputSpec) -> np.ndarray:
    mean, std = _scale(reference, spec)
    return ((normalised * std + mean) * 255).permute(0, 2, 3, 1).numpy()


def _sound(network: Network, backbone: Backbone) -> dict[str, bool]:
    size = backbone.spec.size
    pictures = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    features = network.features(pictures, network.cuts[-1])
    listed = next((entry for entry in list_backbones(backbone.name) if entry.name == backbone.name), None)
    named = [name for group in network.groups for name in (*group.parameters, *group.buffers)]
    weights = network.weights()
    # Those of non-persistent buffers are of the network, and not of what is kept.
    return {
        "finite": bool(np.isfinite(features).all() and features.std() > 0),
        "width": listed is None or features.shape[1] == listed.width,
        "covered_once": len(named) == len(set(named)) and set(weights) <= set(named),
        "frozen": _stays_frozen(network, pictures),
    }


def _stays_frozen(network: Network, pictures: np.ndarray) -> bool:
    """Whether a step moves the head alone, and after the last group was thawed that group too and nothing else."""
    network.set_head(Head((Pool(),)), 2, seed=0)
    network.prepare(Optimization())
    last = network.groups[-1]
    batch = Batch(pictures, np.array([0, 1]), np.array([0.5, 0.5]))
    moved = []
    for rates in ({HEAD: 1e-2}, {HEAD: 1e-2, last.name: 1e-3}):
        before = network.weights()
        network.thaw(rates)
        network.read([network.step(batch, scale=1.0, key=0)])
        after = network.weights()
        changed = {key for key in before if before[key].tobytes() != after[key].tobytes()}
        moved.append({key for key in changed if not key.startswith("head")})
    return not moved[0] and bool(moved[1] or not last.parameters) and moved[1] <= set(last.parameters)


# ---- the libraries


def _torchvision(name: str, size: int | None) -> Reference:
    import torchvision.models as zoo

    own, _, chosen = name.partition(".")
    every = zoo.get_model_weights(own)
    weights = every[chosen] if chosen else every.DEFAULT
    side = size or weights.transforms().crop_size[0]
    options: dict[str, Any] = {}
    if own in ("googlenet", "inception_v3"):
        options = {"transform_input": True, "init_weights": True, "aux_logits": True}
    elif own.startswith("vit_"):
        options = {"image_size": side}
    elif own.startswith("maxvit"):
        options = {"input_size": (side, side)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = zoo.get_model(own, weights=None, **options).eval()
    return Reference(
        network=network,
        transform=weights.transforms() if size is None else None,
        answers=network,
        ours=lambda ours, pictures: _torchvision_top(network, ours, pictures),
        compared="logits",
    )


def _torchvision_top(network: nn.Module, ours: Network, pictures: np.ndarray) -> Tensor:
    """The library's own top on our features; on our map where its top is more than one linear layer on them."""
    import torchvision.models as zoo

    if isinstance(network, zoo.VGG | zoo.AlexNet | zoo.SqueezeNet):
        maps = torch.from_numpy(ours.features(pictures, ours.cuts[-2])).permute(0, 3, 1, 2)
        if isinstance(network, zoo.SqueezeNet):
            return network.classifier(maps).flatten(1)
        return network.classifier(network.avgpool(maps).flatten(1))
    features = torch.from_numpy(ours.features(pictures, ours.cuts[-1]))
    top = next(getattr(network, each) for each in ("fc", "classifier", "heads", "head") if hasattr(network, each))
    linear = [layer for layer in top.modules() if isinstance(layer, nn.Linear)][-1]
    answers: Tensor = linear(features)
    return answers


def _timm(name: str, size: int | None) -> Reference:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    cfg = timm.get_pretrained_cfg(name)
    options = {"img_size": size} if size is not None and cfg.fixed_input_size else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = timm.create_model(name, pretrained=False, **options).eval()
    top = _timm_top(network)

    def features(pixels: Tensor) -> Tensor:
        maps: Tensor = network.forward_head(network.forward_features(pixels), pre_logits=True)
        return maps

    # VOLO adds the answers of a second head, on its patches, which no single vector of features can give.
    several = getattr(network, "aux_head", None) is not None

    def logits(pixels: Tensor) -> Tensor:
        answers: Tensor = top(features(pixels)) if several else network(pixels)
        return answers

    def through_ours(ours: Network, pictures: np.ndarray) -> Tensor:
        given = torch.from_numpy(ours.features(pictures, ours.cuts[-1]))
        return top(given) if top is not None else given

    return Reference(
        network=network,
        transform=create_transform(**resolve_model_data_config(network)) if size is None else None,
        answers=features if top is None else logits,
        ours=through_ours,
        compared="features" if top is None else "logits of its main head" if several else "logits",
    )


def _timm_top(network: Any) -> nn.Module | None:
    """What makes the library's logits of its features; None where it is more than one module, or nothing."""
    named = network.get_classifier()
    if not isinstance(named, nn.Module) or isinstance(named, nn.ModuleList | nn.Conv2d) or not [*named.parameters()]:
        return None
    # Of a batch norm and a linear layer, some networks name the second.
    norms = [each for each in network.modules() if type(each).__name__ == "NormLinear" and named in each.children()]
    return norms[0] if norms else named
