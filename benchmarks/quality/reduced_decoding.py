"""Measure what decoding large JPEGs at a reduced scale does to features and to the accuracy of a probe on them.

    python benchmarks/quality/reduced_decoding.py [FOLDER] [--photos 400]

Two kinds of large photos: real ones brought to 3000 x 2000 pixels (as heavy as a camera's, but soft), and real ones as
they are before a network of small pictures (light, but as sharp against its input as a camera's before 224 pixels).
"""

from __future__ import annotations

import argparse
import io
import json
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import load_backbone
from headstart.machine import cores
from headstart.modalities import image
from headstart.modalities.image import ImageModality
from headstart.networks.network import Network
from headstart.runtimes.runtime import CHUNK

REPOSITORY = Path(__file__).parents[2]
RESULT = REPOSITORY / "benchmarks" / "results" / "reduced_decoding.json"
FULL = "full"


def enlarged(content: bytes) -> bytes:
    """The photo at 3000 x 2000 pixels, quality 90."""
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").resize((3000, 2000), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=90
    )
    return file.getvalue()


def pictures(contents: Sequence[bytes], backbone: Backbone, margin: int | str) -> tuple[np.ndarray, float]:
    """All photos decoded in one way, and photos per second of one core."""
    modality = ImageModality()
    if isinstance(margin, int):
        image.REDUCED_MARGIN = margin
    begin = time.process_time()
    decoded = [modality.decode(content, backbone.spec, reduced=margin != FULL) for content in contents]
    return np.stack(decoded), len(contents) / (time.process_time() - begin)


def features(batch: np.ndarray, network: Network) -> np.ndarray:
    """Pooled features of all pictures."""
    parts = [network.features(batch[first : first + CHUNK], network.cuts[-1]) for first in range(0, len(batch), CHUNK)]
    return np.concatenate(parts)


def accuracy(fitted: np.ndarray, judged: np.ndarray, labels: np.ndarray) -> float:
    """Of a probe fitted on one kind of features and judged on another, each photo by a fold that has not seen it."""
    right = 0
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(fitted, labels):
        scaler = StandardScaler().fit(fitted[train])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe = LogisticRegression(C=0.01, max_iter=300).fit(scaler.transform(fitted[train]), labels[train])
        right += int((probe.predict(scaler.transform(judged[test])) == labels[test]).sum())
    return right / len(labels)


def cosine_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over photos of 1 - cosine."""
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other))
    return float(1 - (one * other).sum(axis=1).mean())


def rows_of(name: str, contents: Sequence[bytes], labels: np.ndarray, size: int | None) -> list[dict[str, Any]]:
    """A row for each way of decoding."""
    backbone = load_backbone("bundled", size=size)
    network = backbone.build()
    full: np.ndarray | None = None
    rows = []
    for margin in (FULL, 4, 2, 1):
        batch, rate = pictures(contents, backbone, margin)
        here = features(batch, network)
        full = here if full is None else full
        rows.append(
            {
                "photos": name,
                "input": backbone.spec.size,
                "decoded to at least": "full size" if margin == FULL else f"{margin} x {backbone.spec.resized}",
                "photos/s of one core": rate,
                "cosine distance": cosine_distance(full, here),
                "accuracy": accuracy(here, here, labels),
                "accuracy, judged on full": accuracy(here, full, labels),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = REPOSITORY.parent / "shared" / "data" / "caltech101-20"
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--photos", type=int, default=400)
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*/*.jpg"))
    paths = paths[:: max(1, len(paths) // arguments.photos)]
    classes = sorted({path.parent.name for path in paths})
    labels = np.array([classes.index(path.parent.name) for path in paths])
    contents = [path.read_bytes() for path in paths]
    with ThreadPoolExecutor(cores()) as pool:
        large = list(pool.map(enlarged, contents))
    result = {
        "benchmark": "reduced decoding",
        "description": f"{len(paths)} photos of {arguments.folder.name}; accuracy of a logistic regression over five "
        "folds. What ships is judged on photos decoded in full: the last column. headstart takes "
        f"{ImageModality().fingerprint(reduced=True).split()[1]}.",
        "limit": "",
        "rows": [
            *rows_of("brought to 3000 x 2000", large, labels, None),
            *rows_of("as they are", contents, labels, 48),
        ],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
