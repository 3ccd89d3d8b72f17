"""Measure what the guide in seven steps tells and shows: python docs/pictures/measure.py FLOWERS WEIGHTS

FLOWERS is a folder of photos in five classes (flowers5), WEIGHTS Keras's VGG16 without its top. Of each class 60
photos train, 20 validate and 40 test, at 96 pixels. What was found goes into results.json; draw.py makes the pictures
of it.

Times are processor seconds of a whole process, all threads together: they hang less than a clock on what else the
machine is doing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_name("results.json")
PARTS = {"train": 60, "validation": 20, "test": 40}
SIZE = 96
EPOCHS = 5  # of both sides, where their times are compared
HEAD_EPOCHS, BLOCK_EPOCHS = 10, 6
HEAD_RATE, BLOCK_RATES = 1e-4, (1e-5, 1e-4, 1e-3)
SEEDS = 3


def lay_out(flowers: Path, place: Path) -> Path:
    """Train, validation and test folders, the same every time."""
    for photos in sorted(path for path in flowers.iterdir() if path.is_dir()):
        files = np.random.default_rng(0).permutation(sorted(photos.iterdir()))
        for split, part in zip(PARTS, np.split(files, np.cumsum(list(PARTS.values()))), strict=False):
            (place / split / photos.name).mkdir(parents=True)
            for file in part:
                (place / split / photos.name / file.name).symlink_to(file.resolve())
    return place


def tutorial(photos: str, weights: str) -> dict[str, Any]:
    """Processor seconds at the end of each epoch of plain Keras, as the tutorials write it."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    read = keras.utils.image_dataset_from_directory
    train, validation = (
        read(f"{photos}/{split}", image_size=(SIZE, SIZE), verbose=False) for split in ("train", "validation")
    )
    base = keras.applications.VGG16(weights=weights, include_top=False, input_shape=(SIZE, SIZE, 3))
    base.trainable = False
    inputs = keras.Input((SIZE, SIZE, 3))
    x = base(keras.applications.vgg16.preprocess_input(inputs), training=False)
    x = layers.Dense(1024, activation="relu")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(len(train.class_names), activation="softmax")(x))
    model.compile(keras.optimizers.Adam(HEAD_RATE), "sparse_categorical_crossentropy", metrics=["accuracy"])
    seconds = [time.process_time()]
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seconds.append(time.process_time()))
    model.fit(train, validation_data=validation, epochs=EPOCHS, verbose=0, callbacks=[note])
    return {"seconds": seconds}


def _model(photos: str, weights: str, seed: int) -> tuple[Any, Any]:
    import keras

    import headstart as hs

    keras.utils.set_random_seed(seed)
    data = hs.load_dataset(photos)
    head = [
        keras.layers.Flatten(),
        keras.layers.Dense(1024, activation="relu"),
        keras.layers.Dense(len(data.classes), activation="softmax"),
    ]
    backbone = hs.load_backbone("keras/vgg16", size=SIZE, weights=weights)
    loss = "sparse_categorical_crossentropy"
    adam = keras.optimizers.Adam()
    return data, hs.Model(backbone, head=head, classes=data.classes, seed=seed, optimizer=adam, loss=loss)


def same(photos: str, weights: str) -> dict[str, Any]:
    """Processor seconds at the end of each epoch of the same with headstart."""
    import headstart as hs

    data, model = _model(photos, weights, 0)
    seconds: list[float] = []

    def note(event: Any) -> None:
        if event.kind == "epoch" or (event.kind == "step" and not seconds):
            seconds.append(time.process_time())

    model.fit(data, hs.Stage(epochs=EPOCHS, lr=HEAD_RATE, schedule="constant", augment=False), on_event=note)
    return {"seconds": seconds}


def steps(photos: str, weights: str) -> dict[str, Any]:
    """The seven steps: the head, then block5 at several rates. One line of curves for each start."""
    import headstart as hs

    rows = []
    for seed in range(SEEDS):
        for rate in BLOCK_RATES if seed == 0 else BLOCK_RATES[1:2]:
            data, model = _model(photos, weights, seed)
            model.fit(data, hs.Stage(epochs=HEAD_EPOCHS, lr=HEAD_RATE))
            row: dict[str, Any] = {"seed": seed, "rate": rate}
            if rate == BLOCK_RATES[1]:
                row["head_test"] = model.evaluate(data.test).accuracy
            model.fit(data, hs.Stage(unfreeze=1, epochs=BLOCK_EPOCHS, lr=rate, views=2))
            row["curve"] = [[epoch.stage, epoch.loss, epoch.validation_accuracy] for epoch in model.history]
            score = model.evaluate(data.test)
            row |= {"test": score.accuracy, "interval": score.accuracy_interval}
            if seed == 0 and rate == BLOCK_RATES[1]:
                row["answers"] = _answers(data.test, model)
            rows.append(row)
            sys.stderr.write(f"seed {seed}, rate {rate}: {row.get('head_test')} -> {row['test']}\n")
    return {"classes": data.classes, "rows": rows}


def solved(photos: str, weights: str) -> dict[str, Any]:
    """The head that is there when none is asked for: linear, on the mean of the map, solved and not trained."""
    import headstart as hs

    data = hs.load_dataset(photos)
    model = hs.Model(hs.load_backbone("keras/vgg16", size=SIZE, weights=weights), classes=data.classes)
    score = model.fit(data).evaluate(data.test)
    return {"test": score.accuracy, "interval": score.accuracy_interval}


def _answers(photos: Any, model: Any) -> list[dict[str, Any]]:
    found = model.predict(photos.paths)
    rows = zip(photos.items, found, strict=True)
    return [
        {"path": item.path, "truth": item.label, "answer": int(each.argmax()), "probability": float(each.max())}
        for item, each in rows
    ]


def apart(part: str, photos: Path, weights: Path, cache: Path) -> dict[str, Any]:
    """What a part finds in a process of its own."""
    own = {"HEADSTART_CACHE": str(cache), "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, part, str(photos), str(weights)]
    done = subprocess.run(command, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(flowers: Path, weights: Path) -> None:
    """Measure all parts in turn and keep what they found."""
    with tempfile.TemporaryDirectory() as temporary:
        photos, cache = lay_out(flowers, Path(temporary) / "photos"), Path(temporary) / "cache"
        found = {
            "parts": PARTS,
            "size": SIZE,
            "first": apart("same", photos, weights, cache),
            "again": apart("same", photos, weights, cache),
            "solved": apart("solved", photos, weights, cache),
            "steps": apart("steps", photos, weights, cache),
            "tutorial": apart("tutorial", photos, weights, cache),
        }
    RESULTS.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        parts = {"tutorial": tutorial, "same": same, "solved": solved, "steps": steps}
        print(json.dumps(parts[sys.argv[1]](*sys.argv[2:])))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
