"""Measure a fine-tuning step of VGG16's block5 against plain Keras's `fit` with the same layers trainable.

    python benchmarks/speed/keras_step.py WEIGHTS [--rounds 3] [--steps 4]

One process, one engine (KERAS_BACKEND, by default TensorFlow); rounds of steps in turn: `fit`, our step from pixels,
and our step from activations that were cached at the freeze boundary. All see the same 32 pictures of random pixels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headstart.backbones.loading import load_backbone
from headstart.heads import parse
from headstart.networks.network import HEAD, INPUT, Batch, Optimization, Own

RESULT = Path(__file__).parents[1] / "results"
CLASSES, BATCH = 5, 32


def plain(weights: str, pixels: np.ndarray, labels: np.ndarray, steps: int) -> Callable[[], None]:
    """`fit` as the tutorial goes on to fine-tune."""
    import keras

    base = keras.applications.VGG16(weights=weights, include_top=False, input_shape=(224, 224, 3))
    for layer in base.layers:
        layer.trainable = layer.name.startswith("block5")
    x = keras.layers.GlobalAveragePooling2D()(base(base.input, training=False))
    model = keras.Model(base.input, keras.layers.Dense(CLASSES, activation="softmax")(x))
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="sparse_categorical_crossentropy")
    inputs = keras.applications.vgg16.preprocess_input(np.tile(pixels, (steps, 1, 1, 1)).astype(np.float32))
    wanted = np.tile(labels, steps)
    return lambda: model.fit(inputs, wanted, batch_size=BATCH, epochs=1, verbose=0, shuffle=False) and None


def ours(network: Any, batch: Batch, steps: int) -> Callable[[], None]:
    return lambda: network.read([network.step(batch, scale=1.0, key=key) for key in range(steps)]) and None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (BATCH, 224, 224, 3), dtype=np.uint8)
    labels, weights = rng.integers(0, CLASSES, BATCH), np.full(BATCH, 1 / BATCH)
    network = load_backbone("keras/vgg16", weights=options.weights).build()
    network.set_head(parse("linear"), CLASSES)
    network.prepare(Optimization(clip=0), Own(optimizer="adam"))
    network.thaw({HEAD: 1e-5, "block5": 1e-5})
    boundary = next(cut for cut in network.cuts if cut.name == "block4")
    cached = np.concatenate([network.features(pixels[i : i + 4], boundary) for i in range(0, BATCH, 4)])
    ways = {
        "plain Keras, fit": plain(options.weights, pixels, labels, options.steps),
        "headstart, from pixels": ours(network, Batch(pixels, labels, weights, INPUT), options.steps),
        "headstart, from the freeze boundary": ours(network, Batch(cached, labels, weights, boundary), options.steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work()  # compiles
    for _ in range(options.rounds):
        for name, work in ways.items():
            began = time.monotonic()
            work()
            seconds[name].append((time.monotonic() - began) / options.steps)
    first = seconds["plain Keras, fit"]
    rows = [
        {
            "step": name,
            "milliseconds": 1000 * statistics.median(times),
            "of fit's time": statistics.median(mine / theirs for mine, theirs in zip(times, first, strict=True)),
            "highest": max(mine / theirs for mine, theirs in zip(times, first, strict=True)),
        }
        for name, times in seconds.items()
    ]
    engine = network.engine.split("-")[2]
    result = {
        "benchmark": f"Fine-tuning VGG16's block5 on {engine}",
        "description": f"A step of {BATCH} photos with Adam, medians of {options.rounds} rounds of {options.steps} "
        "steps in turn. Goal: from pixels, no more than `fit`'s time.",
        "limit": "from pixels: the forward pass of all blocks, and a backward pass through block5 alone",
        "rows": rows,
    }
    (RESULT / f"keras_step_{engine}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
