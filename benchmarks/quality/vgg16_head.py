"""Compare the accuracy of the VGG16 tutorial's head, trained by plain Keras and by headstart, over several seeds.

    python benchmarks/quality/vgg16_head.py WEIGHTS [FOLDER] [--seeds 3]

The photos, head, optimizer and epochs of benchmarks/speed/vgg16_tutorial.py. Plain Keras trains on features that it has
computed once, which is the tutorial's mathematics without its repetitions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

SPEED = Path(__file__).parents[1] / "speed"
RESULT = Path(__file__).parents[1] / "results" / "vgg16_head.json"
sys.path.insert(0, str(SPEED))

from vgg16_tutorial import REPOSITORY, SCRIPTS, lay_out, run  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="VGG16's official weights without top")
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY.parent / "shared" / "data" / "flowers5")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    seeds = [str(seed) for seed in range(options.seeds)]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        data = lay_out(options.folder.resolve(), place / "photos")
        asked = [str(data), str(options.weights.resolve())]
        plain = run([sys.executable, str(SCRIPTS / "limit_vgg16.py"), *asked, *seeds], place / "cache")
        ours = [
            run([sys.executable, str(SCRIPTS / "headstart_vgg16.py"), *asked, seed, "untested"], place / "cache")
            for seed in seeds
        ]
    found = {
        "plain Keras, last epoch": plain["validations"],
        "headstart, last epoch": [row["last"] for row in ours],
        "headstart, the epoch that it keeps": [row["validation"] for row in ours],
    }
    result = {
        "benchmark": "The VGG16 tutorial's head, by seed",
        "description": "Validation accuracy on 120 photos of flowers after 10 epochs: flatten, dense(1024), Adam, on a "
        "frozen VGG16.",
        "rows": [
            {"trained by": name, "mean": statistics.mean(values), "by seed": ", ".join(f"{v:.3f}" for v in values)}
            for name, values in found.items()
        ],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(result["rows"])


if __name__ == "__main__":
    main()
