"""Measure which parts of photos are found by features, and what is found among the originals.

    python benchmarks/quality/crops.py [--data clothing-small] [--copies 100] [--sheet PAIRS.png]

Some photos of a data set are cropped, and put among all originals; a crop counts as found if it is paired with the
photo that it came from.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path

from leaks import drained
from near_duplicates import REPOSITORY, cropped, id_of, jpeg, sheet
from PIL import Image

from headstart.backbones.loading import load_backbone
from headstart.data.crops import crops
from headstart.data.loading import survey
from headstart.features import extract
from headstart.modalities.image import ImageModality
from headstart.store import Store

RESULT = REPOSITORY / "benchmarks" / "results" / "crops.json"
SHARES = (0.9, 0.7, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--data", default="clothing-small")
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--wrong", type=int, help="of the pairs of originals, after looking at each of them")
    arguments = parser.parse_args()

    rng = random.Random(0)
    made: dict[float, dict[str, str]] = {share: {} for share in SHARES}  # crop -> original
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(arguments.shared / arguments.data, Path(folder) / arguments.data))
        photos = sorted(root.rglob("*.jpg"))
        originals = {id_of(path.read_bytes()): path for path in photos}
        for share in SHARES:
            for path in rng.sample(photos, arguments.copies):
                copy = jpeg(cropped(Image.open(path).convert("RGB"), rng, share), 85)
                path.with_name(f"{share} of {path.name}").write_bytes(copy)
                made[share][id_of(copy)] = id_of(path.read_bytes())
        found = drained(survey(root))
        backbone = load_backbone("bundled")
        network = backbone.build()
        work = extract(
            found.dataset, backbone, network, network.cuts[-1], modality=ImageModality(), store=Store.default()
        )
        features = drained(work)
        pairs = {(pair.one, pair.other) for pair in crops(features.ids, features.take(features.ids), found.looks)}
        whole = {(pair.one, pair.other) for pair in found.pairs}
        own = sorted(pair for pair in pairs - whole if set(pair) <= set(originals))
        if arguments.sheet and own:
            sheet([(originals[one], originals[other], "") for one, other in own], arguments.sheet)
    rows = []
    for share, crops_of in made.items():
        right = {(min(pair), max(pair)) for pair in crops_of.items()}
        found_by_features = len(pairs & right) / len(right)
        rows.append(
            {
                "part": f"{share:.0%} of the area",
                "found": found_by_features,
                "as near-duplicates": len(whole & right) / len(right),
            }
        )
    looked = "" if arguments.wrong is None else f", of which {arguments.wrong} are wrong, looked at one by one"
    result = {
        "benchmark": "crops",
        "description": f"Share of {arguments.copies} crops each that are found among the {len(originals):,} photos of "
        f"{arguments.data} by features of the bundled network (audit --backbone bundled). Of the originals themselves "
        f"{len(own)} further pairs are found{looked}: so they are told and decide nothing.",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
