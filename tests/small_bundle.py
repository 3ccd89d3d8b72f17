"""A bundle whose graph is made by hand, so that tests of prediction need no training framework."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from headstart.exporting.bundle import MANIFEST, Bundle, Manifest
from headstart.modalities.spec import InputSpec
from headstart.runtimes.openvino_conversion import library

CLASSES = ("red", "green", "blue")
SPEC = InputSpec(size=32, crop=1.0, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
SURE = 0.5  # farther than this from a pure colour, a photo is unsure


def make(folder: Path, format: str = "openvino") -> Path:
    """Names the colour that most of a photo has; a grey one is like none."""
    folder.mkdir(parents=True)
    library().save_model(graph(), folder / "model.xml", compress_to_fp16=False)
    Bundle.seal(folder, manifest(format))
    return folder


def graph() -> Any:
    """Probabilities are shares of the light; the distance is what the largest lacks to the whole."""
    ov = library()
    ops = ov.opset13
    pixels = ops.parameter([-1, -1, -1, 3], ov.Type.u8, name="pixels")
    means = ops.reduce_mean(ops.convert(pixels, "f32"), np.array([1, 2]), keep_dims=False)
    shares = ops.divide(means, ops.add(ops.reduce_sum(means, np.array([1]), keep_dims=True), np.float32(1e-3)))
    distance = ops.subtract(np.float32(1), ops.reduce_max(shares, np.array([1]), keep_dims=False))
    for node, name in ((pixels, "pixels"), (shares, "probabilities"), (distance, "distance")):
        node.output(0).get_tensor().set_names({name})
    return ov.Model([shares, distance], [pixels], "colour")


def manifest(format: str) -> Manifest:
    """Of that graph."""
    return Manifest(
        format=format,
        precision="fp32",
        classes=CLASSES,
        spec=SPEC,
        outputs=("probabilities", "distance"),
        temperature=1.0,
        threshold=SURE,
        false_alarms=0.05,
        backbone={"name": "none", "licence": "none", "framework": "torch"},
        max_pixels=10_000_000,
        created="2026-01-01T00:00:00Z",
    )


def sealed_again(folder: Path, **changes: Any) -> Path:
    """The bundle with another manifest and hashes that fit: whoever made it wanted it so."""
    path = folder / MANIFEST
    row = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    row["files"] = {}
    path.write_text(json.dumps(row | changes), encoding="utf-8")
    if "files" not in changes:
        bundle = Bundle.seal(folder, manifest(row["format"]))
        row["files"] = bundle.manifest.to_json()["files"]
        path.write_text(json.dumps(row | changes), encoding="utf-8")
    return folder
