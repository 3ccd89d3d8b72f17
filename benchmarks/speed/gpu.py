"""Measure extraction and tuning on a GPU against bare PyTorch: ResNet50 in bf16, random weights.

    python benchmarks/speed/gpu.py [FOLDER] [--photos 4096] [--rounds 5] [--batch 64] [--workers N]

Extraction goes from files to kept features; beside it stand the compiled forward pass alone, on a batch that is on the
GPU already, decoding alone, and decoding by nvJPEG where torchvision has it. A step of tuning stands beside the step of
a loop written by hand, compiled, on the same batch. Every round measures all of them, one after the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import load_backbone
from headstart.data.dataset import Dataset
from headstart.data.loading import load_dataset
from headstart.features import extract
from headstart.heads import LinearHead
from headstart.machine import cores
from headstart.modalities.image import ImageModality
from headstart.networks.network import HEAD, Batch, Network, Optimization
from headstart.outcome import outcome
from headstart.runtimes import torch_gpu
from headstart.store import Store

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "gpu.json"
CLASSES, STEPS, RATE = 10, 30, 1e-4
WHOLE, BARE, DECODE, NVJPEG = "extraction", "bare compiled forward", "decode", "decode by nvJPEG and resize"
STEP, BY_HAND = "tuning step", "compiled loop by hand"

Rate = Callable[[], float]  # photos a second


def timed(work: Callable[[], object], photos: int) -> float:
    """Photos a second, with the GPU's work finished."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return photos / (time.perf_counter() - began)


def extraction(dataset: Dataset, backbone: Backbone, workers: int) -> dict[str, Rate]:
    """What is measured of frozen features."""
    network = backbone.build()
    network.to("cuda")
    cut, modality, photos = network.cuts[-1], ImageModality(), len(dataset)
    offer = next(offer for offer in torch_gpu.offers(network) if offer.precision == "bf16")
    runner = torch_gpu.open(network, offer, cut)  # compiling is paid once a network, and not counted
    contents = [path.read_bytes() for path in dataset.paths]

    def whole() -> None:
        with tempfile.TemporaryDirectory() as place:
            outcome(
                extract(
                    dataset, backbone, network, cut, modality=modality, store=Store(Path(place)), workers=workers,
                    offer=offer, runner=lambda: runner,
                )
            )  # fmt: skip

    def decode() -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda content: modality.decode(content, backbone.spec, reduced=True).shape, contents))

    found = {
        WHOLE: partial(timed, whole, photos),
        BARE: bare(network, offer.chunk),
        DECODE: partial(timed, decode, photos),
    }
    gpu_decode = nvjpeg(contents, backbone, offer.chunk)
    if gpu_decode is not None:
        found[NVJPEG] = partial(timed, gpu_decode, photos)
    return found


def bare(network: Network, chunk: int) -> Rate:
    """The forward pass as PyTorch's documentation compiles it, on a batch that is on the GPU already."""
    forward = torch.compile(network.part(network.cuts[-1]), mode="reduce-overhead")
    batch = torch.randint(0, 256, (chunk, *network.input_shape), dtype=torch.uint8, device="cuda")

    def passes() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            for _ in range(STEPS):
                forward(batch)

    return partial(timed, passes, STEPS * chunk)


def nvjpeg(contents: list[bytes], backbone: Backbone, chunk: int) -> Callable[[], None] | None:
    """Decoding on the GPU; None where torchvision cannot. Prints by how many levels it differs from our own."""
    with suppress(ImportError, RuntimeError):
        from torchvision.io import ImageReadMode, decode_jpeg

        size = backbone.spec.size

        def decoded(some: list[bytes]) -> torch.Tensor:
            data = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in some]
            return torch.cat([fitted(picture, size) for picture in decode_jpeg(data, ImageReadMode.RGB, device="cuda")])

        def everything() -> None:
            for first in range(0, len(contents), chunk):
                decoded(contents[first : first + chunk])

        ours = [ImageModality().decode(content, backbone.spec, reduced=False) for content in contents[:chunk]]
        gap = np.abs(decoded(contents[:chunk]).permute(0, 2, 3, 1).cpu().numpy() - np.stack(ours)).mean()
        print(f"nvJPEG differs from headstart's decoding by {gap:.2f} of 255 on average")
        return everything
    print("torchvision with nvJPEG is not here: decoding on the GPU is not measured")
    return None


def fitted(picture: torch.Tensor, size: int) -> torch.Tensor:
    """A picture `[3 h w]` resized with antialiasing and cropped to its middle, nearly as on the processor."""
    short = round(size / 0.875)
    height, width = picture.shape[1:]
    shape = [max(short, round(short * side / min(height, width))) for side in (height, width)]
    large = functional.interpolate(picture[None].float(), shape, mode="bilinear", antialias=True)
    top, left = ((side - size) // 2 for side in shape)
    return large[:, :, top : top + size, left : left + size].round().clamp(0, 255)


def tuning(backbone: Backbone, size: int) -> dict[str, Rate]:
    """A step of training on all groups, and the same written by hand."""
    random = np.random.default_rng(0)
    network = backbone.build()
    network.to("cuda")
    inputs = random.integers(0, 256, (size, *network.input_shape), dtype=np.uint8)
    labels = random.integers(0, CLASSES, size)
    width = network.features(inputs[:2], network.cuts[-1]).shape[1]
    network.set_head(LinearHead(np.zeros((width, CLASSES), np.float32), np.zeros(CLASSES, np.float32)), CLASSES)
    by_hand = hand_written(backbone, width, inputs, labels)
    network.prepare(Optimization(precision="bf16"))
    network.thaw({HEAD: RATE, **{group.name: RATE for group in network.groups}})
    batch = Batch(inputs, labels, np.full(size, 1 / size, np.float32))

    def ours() -> None:
        network.read([network.step(batch, scale=1.0, key=number) for number in range(STEPS)])

    return {STEP: partial(timed, ours, STEPS * size), BY_HAND: partial(timed, by_hand, STEPS * size)}


def hand_written(backbone: Backbone, width: int, inputs: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """Compiled forward and backward pass, autocast, fused AdamW, page-locked batches, normalisation as in training."""
    network = backbone.build()
    network.to("cuda")
    model = torch.nn.Sequential(network.part(network.cuts[-1]), torch.nn.Linear(width, CLASSES)).cuda()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    pictures, answers = torch.from_numpy(inputs).pin_memory(), torch.from_numpy(labels).pin_memory()

    @torch.compile
    def loss_of(batch: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return functional.cross_entropy(model(batch), target)

    def steps() -> None:
        for _ in range(STEPS):
            loss = loss_of(pictures.to("cuda", non_blocking=True), answers.to("cuda", non_blocking=True))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()

    return steps


def rounds(parts: dict[str, Rate], number: int) -> list[dict[str, float]]:
    """The rates of each round; the first warms up and compiles, and does not count."""
    told = [{name: rate() for name, rate in parts.items()} for _ in range(number + 1)]
    return told[1:]


def row(what: str, told: list[dict[str, float]], ours: str, other: str, goal: float) -> dict[str, Any]:
    """Medians over rounds, and the share of the bare way that is reached."""
    shares = [found[ours] / found[other] for found in told]
    return {
        "what": what,
        **{f"{name}, photos/s": statistics.median(found[name] for found in told) for name in told[0]},
        "share of the bare way": statistics.median(shares),
        "from round to round": [min(shares), max(shares)],
        "goal": goal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY.parent / "shared" / "data" / "flowers5")
    parser.add_argument("--photos", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64, help="photos in a step of tuning")
    parser.add_argument("--workers", type=int, default=cores() + torch_gpu.SLOTS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU that PyTorch can use, and there is none: nothing was measured")
    dataset = load_dataset(arguments.folder)
    dataset = dataset.with_items(dataset.items[: arguments.photos])
    backbone = load_backbone("torchvision/resnet50", weights="none")
    frozen = rounds(extraction(dataset, backbone, arguments.workers), arguments.rounds)
    tuned = rounds(tuning(backbone, arguments.batch), arguments.rounds)
    result = {
        "benchmark": "on a GPU",
        "description": f"ResNet50 in bf16 on {torch.cuda.get_device_name()}, {arguments.workers} workers; medians of "
        "interleaved rounds. Goals: extraction at least 0.8 of the bare compiled forward pass, a step of tuning at "
        "least 0.9 of a compiled loop written by hand.",
        "limit": "the compiled forward pass on a batch that is on the GPU already; the same step written by hand",
        "rows": [
            row("frozen features", frozen, WHOLE, BARE, 0.8),
            row("tuning all groups", tuned, STEP, BY_HAND, 0.9),
        ],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    main()
