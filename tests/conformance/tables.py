"""Write the tables of torchvision's and timm's networks from the libraries themselves.

python -m tests.conformance.tables torchvision timm      (in the root of the repository; timm takes some minutes)
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .operators import declare_operators

declare_operators()

import timm  # noqa: E402  not before the operators are there
import torch  # noqa: E402
import torchvision.models as zoo  # noqa: E402

from headstart.backbones import torchvision_members  # noqa: E402

FOLDER = Path(torchvision_members.__file__).parent
TORCHVISION = [
    "name",
    "weights",
    "file",
    "size",
    "resized",
    "interpolation",
    "mean",
    "std",
    "width",
    "parameters",
    "licence",
]
TIMM = ["name", "size", "width", "parameters", "licence", "file"]
# The best general choices stand first, of several kinds and sizes: the rest of so long a list is rarely read.
FIRST = (
    "resnet50",
    "efficientnet_b0",
    "mobilenet_v3_large",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "densenet121",
    "vgg16",
    "inception_v3",
    "resnet18",
)
FIRST_OF_TIMM = (
    "convnext_tiny.in12k_ft_in1k",
    "resnet50.a1_in1k",
    "efficientnet_b0.ra_in1k",
    "mobilenetv3_large_100.ra_in1k",
    "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "vit_base_patch16_clip_224.openai",
    "legacy_xception.tf_in1k",
    "resnet18.a1_in1k",
)


def _in_order(names: list[str], first: tuple[str, ...]) -> list[str]:
    return [*(name for name in first if name in names), *sorted(set(names) - set(first))]


def torchvision_rows(*, measured: bool = True) -> Iterator[dict[str, str]]:
    """A line for each set of weights; without `measured` there is no width and no count, and no network is built."""
    for name in _in_order(zoo.list_models(module=zoo), FIRST):
        weights = zoo.get_model_weights(name)
        for each in sorted(weights, key=lambda one: (one is not weights.DEFAULT, one.name)):
            row = _published(name, each)
            if measured:
                row |= _measured(name, int(row["size"]))
            yield row


def _published(name: str, weights: zoo.WeightsEnum) -> dict[str, str]:
    server, _, file = weights.url.rpartition("/")
    assert server == torchvision_members.SERVER, weights.url
    pictures = weights.transforms()
    [size], [resized] = pictures.crop_size, pictures.resize_size
    assert pictures.antialias
    return {
        "name": name,
        "weights": weights.name,
        "file": file,
        "size": str(size),
        "resized": str(resized),
        "interpolation": pictures.interpolation.value,
        "mean": " ".join(map(repr, pictures.mean)),
        "std": " ".join(map(repr, pictures.std)),
        "licence": "CC-BY-NC-4.0" if "SWAG" in weights.meta.get("license", "") else "BSD-3-Clause",
    }


def _measured(name: str, size: int) -> dict[str, str]:
    from headstart.backbones.torchvision_network import build
    from headstart.networks.torch_modules import GlobalMean

    parts = build(name, size=size, drawn=False)
    with torch.no_grad():
        maps = parts.body.to("meta")(torch.zeros(1, 3, size, size, device="meta"))
        features = (parts.pool or GlobalMean()).to("meta")(maps)
    return {
        "width": str(features.shape[1]),
        "parameters": str(sum(parameter.numel() for parameter in parts.whole.parameters())),
    }


def timm_rows(*, measured: bool = True) -> Iterator[dict[str, str]]:
    """A line for each set of weights of square colour pictures; without `measured` no network is built."""
    listed = [name for name in timm.list_models(pretrained=True) if _takes_photos(timm.get_pretrained_cfg(name))]
    kinds: dict[tuple[str, int], str] = {}  # an architecture at one size is built once
    for name in listed:
        kinds.setdefault(_kind(name), name)
    found: dict[tuple[str, int], dict[str, str]] = {kind: {} for kind in kinds}
    if measured:
        with ProcessPoolExecutor() as pool:
            found = dict(zip(kinds, pool.map(_measured_of_timm, kinds.values(), chunksize=8), strict=True))
    for name in _in_order(listed, FIRST_OF_TIMM):
        cfg = timm.get_pretrained_cfg(name)
        yield {
            "name": name,
            "size": str(cfg.input_size[1]),
            "licence": cfg.license or "unknown",
            "file": "" if cfg.hf_hub_id else str(cfg.url).rpartition("/")[2],
            **found[_kind(name)],
        }


def _takes_photos(cfg: timm.models.PretrainedCfg) -> bool:
    channels, height, width = cfg.input_size
    return channels == 3 and height == width


def _kind(name: str) -> tuple[str, int]:
    return name.partition(".")[0], timm.get_pretrained_cfg(name).input_size[1]


def _measured_of_timm(name: str) -> dict[str, str]:
    from headstart.backbones.timm_network import UNFIT, model

    cfg = timm.get_pretrained_cfg(name)
    size = cfg.input_size[1]
    try:
        with torch.device("meta"):  # some have billions of parameters
            made = model(name, cfg, size=size, drawn=False)
    except UNFIT:  # a few compute with values while they are made
        made = model(name, cfg, size=size, drawn=False)
    return {
        "width": str(made.head_hidden_size),  # timm's word for it; references.py compares it with the features
        "parameters": str(sum(parameter.numel() for parameter in made.parameters())),
    }


def main(names: list[str]) -> None:
    for name in names:
        rows, columns = {
            "torchvision": (torchvision_rows, TORCHVISION),
            "timm": (timm_rows, TIMM),
        }[name]
        lines = list(rows())  # before the old table goes
        with (FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
