"""Measure a stage of ten epochs of tuning from cached activations, their filling counted, against computing all anew.

    python benchmarks/speed/tuning.py [FOLDER] [--only lite0 resnet50 vgg16] [--weights VGG16.h5] [--rounds 1]

Each backbone is measured in a process of its own, all ways in turn: the whole stage runs, no epoch is extrapolated.
Every way starts with an empty cache, from JPEG files, in fp32 unless it says otherwise, and takes batches of 32.
`--weights` is Keras's own file of VGG16 without its top; without it VGG16 is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import load_backbone
from headstart.data.dataset import Dataset
from headstart.data.loading import load_dataset
from headstart.events import EpochEnded
from headstart.heads import parse
from headstart.machine import cores
from headstart.modalities.image import ImageModality
from headstart.networks.network import HEAD, INPUT, Batch, Network, Optimization, StepPrecision
from headstart.store import Store
from headstart.training.loop import Source, train
from headstart.training.sources import Workshop, cost_of, open_stage
from headstart.training.stages import Stage

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "tuning.json"
EPOCHS, BATCH, RATE, VIEWS = 10, 32, 1e-4, 4
CACHED, ANEW, PLAIN = "headstart, cached", "headstart, anew in every epoch", "plain loop"


@dataclass(frozen=True)
class Case:
    """What is tuned: so many of the last groups, on as many photos as keep the whole within minutes."""

    backbone: str
    unfreeze: int
    photos: int
    goal: float
    anew: bool = True  # whether our own loop without the cache is run too


CASES = {
    "lite0": Case("bundled/efficientnet_lite0", 2, 192, 2.5),
    "resnet50": Case("torchvision/resnet50", 1, 64, 1.7),
    "vgg16": Case("keras/vgg16", 1, 64, 2.5, anew=False),
}


@dataclass
class Timed:
    """A source that counts how long batches were waited for."""

    source: Source
    waited: float = 0.0

    @property
    def steps(self) -> int:
        return self.source.steps

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        batches = self.source.epoch(number, first)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def ours(backbone: Backbone, data: Dataset, stage: Stage) -> dict[str, Any]:
    """Our stage from an empty cache: seconds in all, of filling, and of an epoch."""
    network = built(backbone, data)
    with tempfile.TemporaryDirectory() as cache:
        shop = Workshop(
            backbone=backbone,
            network=network,
            modality=ImageModality(),
            store=Store(Path(cache)),
            workers=cores(),
            seed=0,
        )
        began = time.perf_counter()
        work = open_stage(shop, stage, data, network.head_cut)
        while True:
            try:
                next(work)
            except StopIteration as end:
                source = Timed(end.value[0])
                break
        filled = time.perf_counter()
        epochs = [event.seconds for event in train(network, stage, source, seed=0) if isinstance(event, EpochEnded)]
        ended = time.perf_counter()
        size = shop.store.usage().bytes
    return {
        "seconds": ended - began,
        "filling": filled - began if stage.views else None,
        "an epoch": statistics.median(epochs),
        "waiting for rows": source.waited / sum(epochs),
        "MB in the cache": size / 1e6 or None,
    }


def built(backbone: Backbone, data: Dataset) -> Network:
    network = backbone.build()
    network.set_head(parse("linear"), len(data.classes))
    network.prepare(Optimization())
    return network


def torch_loop(backbone: Backbone, data: Dataset, unfreeze: int) -> dict[str, Any]:
    """What people write: a DataLoader, frozen parameters, the whole network forward in every step."""
    import torch
    from torch.utils.data import DataLoader

    network = built(backbone, data)
    live = {group.name for group in network.groups[-unfreeze:]}
    model = network.native.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head") or name.split(".")[1] in live)

    class Photos(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, place: int) -> Any:
            content = data.paths[place].read_bytes()
            picture = ImageModality().augment(content, backbone.spec, np.random.default_rng())
            return torch.from_numpy(picture.copy()).permute(2, 0, 1), int(data.labels[place])

    began = time.perf_counter()
    loader = DataLoader(Photos(), BATCH, shuffle=True, num_workers=cores(), persistent_workers=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    seconds = []
    for _ in range(EPOCHS):
        started = time.perf_counter()
        for pictures, labels in loader:
            pictures = pictures.contiguous(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(pictures), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    return {"seconds": time.perf_counter() - began, "an epoch": statistics.median(seconds)}


def keras_fit(backbone: Backbone, data: Dataset, weights: str) -> dict[str, Any]:
    """The tutorial's next step: `fit` with block5 trainable. Its photos are decoded before the clock starts."""
    import keras

    base = keras.applications.VGG16(weights=weights, include_top=False, input_shape=(224, 224, 3))
    for layer in base.layers:
        layer.trainable = layer.name.startswith("block5")
    x = keras.layers.GlobalAveragePooling2D()(base(base.input, training=False))
    model = keras.Model(base.input, keras.layers.Dense(len(data.classes), activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss="sparse_categorical_crossentropy")
    pictures = [ImageModality().decode(path.read_bytes(), backbone.spec, reduced=True) for path in data.paths]
    inputs = keras.applications.vgg16.preprocess_input(np.stack(pictures).astype(np.float32))
    began = time.perf_counter()
    model.fit(inputs, data.labels, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "an epoch": seconds / EPOCHS}


def allowed(network: Network, data: Dataset, stage: Stage) -> float:
    """Seconds of an epoch by the FLOPs of the live part alone, at the rate of full training on this machine."""
    cost = cost_of(network, stage, data, network.head_cut)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (BATCH, *network.input_shape), dtype=np.uint8)
    labels, weights = rng.integers(0, len(data.classes), BATCH), np.full(BATCH, 1 / BATCH)
    network.thaw(dict.fromkeys([group.name for group in network.groups] + [HEAD], 1e-6))
    times = []
    for key in range(3):
        began = time.perf_counter()
        network.read([network.step(Batch(pixels, labels, weights, INPUT), scale=1.0, key=key)])
        times.append(time.perf_counter() - began)
    whole = 3 * sum(group.flops for group in network.groups)
    return cost.live / whole * min(times) * cost.sights / BATCH


def ways(case: Case, backbone: Backbone, data: Dataset, weights: str | None) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is measured, by name."""
    stage = Stage(epochs=EPOCHS, lr=RATE, unfreeze=case.unfreeze, batch_size=BATCH, views=VIEWS)
    found = {CACHED: lambda: ours(backbone, data, stage)}
    if case.anew:
        found[ANEW] = lambda: ours(backbone, data, replace(stage, views=0))
    if backbone.framework == "keras":
        found["plain Keras, fit"] = lambda: keras_fit(backbone, data, str(weights))
    else:
        found[PLAIN] = lambda: torch_loop(backbone, data, case.unfreeze)
        faster: StepPrecision = "bf16"
        if faster in backbone.build().precisions:
            found[f"{CACHED}, steps in bf16"] = lambda: ours(backbone, data, replace(stage, precision=faster))
    return found


def measured(
    name: str, folder: Path, weights: str | None, rounds: int, photos: int | None = None
) -> list[dict[str, Any]]:
    """The rows of one backbone."""
    case = replace(CASES[name], photos=photos or CASES[name].photos)
    options = {"weights": weights} if name == "vgg16" else {} if name == "lite0" else {"weights": "none"}
    backbone = load_backbone(case.backbone, **options)
    data = load_dataset(folder)
    places = np.random.default_rng(0).permutation(len(data))[: case.photos]
    data = data.with_items(replace(data.items[place], split="train") for place in places)
    told: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for way, work in ways(case, backbone, data, weights).items():
            before = os.times()
            told.setdefault(way, []).append(work())
            told[way][-1]["processor"] = sum(os.times()[:4]) - sum(before[:4])
            print(name, way, {key: value and round(value, 2) for key, value in told[way][-1].items()}, file=sys.stderr)
    stage = Stage(epochs=EPOCHS, lr=RATE, unfreeze=case.unfreeze, batch_size=BATCH, views=VIEWS)
    limit = None if backbone.framework == "keras" else allowed(built(backbone, data), data, stage)
    rows = []
    for way, runs in told.items():
        row: dict[str, Any] = {"backbone": name, "photos": case.photos, "way": way}
        for column in ("seconds", "processor", "filling", "an epoch", "waiting for rows", "MB in the cache"):
            values = [run[column] for run in runs if run.get(column) is not None]
            row[column] = statistics.median(values) if values else None
        ratios = [mine["seconds"] / best["seconds"] for mine, best in zip(runs, told[CACHED], strict=True)]
        row["times as long as cached"] = statistics.median(ratios)
        row["goal"] = None if way.startswith(CACHED) else case.goal
        if limit and way == CACHED:
            row["of what FLOPs allow"] = limit / row["an epoch"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=REPOSITORY.parent / "shared" / "data" / "flowers5")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--weights")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--photos", type=int, help="fewer, to see whether it runs at all: nothing is written")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [name for name in options.only if name != "vgg16" or options.weights]
    if options.alone:
        (name,) = names
        print(json.dumps(measured(name, options.folder, options.weights, options.rounds, options.photos)))
        return
    rows = []
    for name in names:
        command = [sys.executable, __file__, str(options.folder), "--only", name, "--rounds", str(options.rounds)]
        more = ["--weights", options.weights] if options.weights else []
        more += ["--photos", str(options.photos)] if options.photos else []
        told = subprocess.run([*command, *more, "--alone"], stdout=subprocess.PIPE, text=True, check=True).stdout
        rows += json.loads(told.splitlines()[-1])
    if options.photos:
        print(json.dumps(rows, indent=2))
        return
    RESULT.write_text(json.dumps(described(rows), indent=2) + "\n")


def described(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "benchmark": "Tuning from cached activations",
        "description": f"A stage of {EPOCHS} epochs in batches of {BATCH}, {VIEWS} views of each photo kept at the "
        "freeze boundary, computed and written within the time; last two groups of lite0, last stage of ResNet50 "
        "(random weights), block5 of VGG16. Opponents compute the whole network in every step. `processor` counts "
        "seconds of all cores. Medians of the rounds.",
        "limit": "the last column: seconds that an epoch's FLOPs of the live part alone, forward and twice that "
        "backward, take at the rate of full training here, over the seconds that it took (goal 0.8)",
        "rows": rows,
    }


if __name__ == "__main__":
    main()
