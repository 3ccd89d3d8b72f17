"""Write the handwritten digits that scikit-learn carries as a folder of PNGs a class: python digits.py FOLDER."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(folder: Path) -> int:
    """Write all 1,797 as `FOLDER/7/0042.png`, 8 x 8 grey pixels each, unless they are there; how many there are."""
    digits = load_digits()
    if len(list(folder.glob("?/*.png"))) == len(digits.images):
        return len(digits.images)
    # Under another name first: a folder that was interrupted must not be taken for a small data set.
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = unfinished / str(digit)
        place.mkdir(parents=True, exist_ok=True)
        grey = np.round(pixels * 255 / 16).astype(np.uint8)  # scikit-learn counts from 0 to 16
        Image.fromarray(grey).save(place / f"{number:04}.png")
    unfinished.rename(folder)
    return len(digits.images)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python digits.py FOLDER")
    write_digits(Path(sys.argv[1]))
