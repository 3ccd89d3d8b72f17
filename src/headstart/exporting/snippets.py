"""Write the programs that lie in a bundle for whoever has no headstart: the same for every format but a few lines."""

from __future__ import annotations

_PYTHON = '''"""Say what is on a photo: python use.py PHOTO. Needs {needs}."""

import json
import sys
from pathlib import Path

import numpy as np
{imports}
from PIL import Image, ImageOps

bundle = Path(__file__).parent
about = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
{opening}

photo = ImageOps.exif_transpose(Image.open(sys.argv[1]))
if photo.has_transparency_data:  # laid over white, as on a web page
    photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA"))
pixels = np.array(photo.convert("RGB"))[None]  # uint8 [1 height width 3], of any size

{answering}
probabilities = np.asarray(answer["probabilities"])[0]
for place in probabilities.argsort()[::-1][:5]:
    print(about["classes"][place], f"{{probabilities[place]:.4f}}")
if about["threshold"] is not None and answer["distance"][0] > about["threshold"]:
    print("unsure: this photo is like none of those that the model learnt from")
'''


def python(*, needs: str, imports: str, opening: str, answering: str) -> str:
    """A program that says what is on a photo: `class probability` for up to five classes, the most probable first.

    Args:
        needs: what must be installed, in words, beside numpy and pillow.
        imports: lines that import the format's library.
        opening: lines that load the graph out of the folder `bundle`.
        answering: lines that turn `pixels` into the dictionary `answer` of the outputs that `about["outputs"]` names.
    """
    return _PYTHON.format(needs=f"{needs}, numpy and pillow", imports=imports, opening=opening, answering=answering)
