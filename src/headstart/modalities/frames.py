"""Bring a photo of any shape to the square that a backbone takes, plainly or changed at random."""

from __future__ import annotations

import numpy as np
from PIL import Image

from headstart.modalities.spec import InputSpec

PART_AREA = (0.5, 1.0)  # where photos are cropped: share of the photo's area that a random view shows
PART_RATIO = (3 / 4, 4 / 3)  # its width over its height, before it is made square
# Where photos are shown whole: share of its plain area that the photo takes in a random view. Never more than 1, as
# whoever pads or squashes does it for the sake of what is at the edge.
WHOLE_AREA = (0.5, 1.0)
WHOLE_RATIO = (6 / 7, 7 / 6)  # by how much its shape changes

Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def framed(image: Image.Image, spec: InputSpec) -> Image.Image:
    """The photo in the backbone's square, as `spec.fit` says."""
    if spec.fit == "crop":
        return _cut(image, middle(image.size, spec), spec)
    width, height = whole(image.size, spec)
    return _placed(image, (width, height), ((spec.size - width) // 2, (spec.size - height) // 2), spec)


def randomly_framed(image: Image.Image, spec: InputSpec, rng: np.random.Generator) -> Image.Image:
    """A random part of the photo where it is cropped; else the whole of it, smaller and anywhere in the square."""
    if spec.fit == "crop":
        return _cut(image, random_part(image.size, rng), spec)
    width, height = whole(image.size, spec)
    area, ratio = rng.uniform(*WHOLE_AREA), _ratio(WHOLE_RATIO, rng)
    width = min(spec.size, max(1, round(width * (area * ratio) ** 0.5)))
    height = min(spec.size, max(1, round(height * (area / ratio) ** 0.5)))
    left, upper = rng.integers(spec.size - width + 1), rng.integers(spec.size - height + 1)
    return _placed(image, (width, height), (int(left), int(upper)), spec)


def middle(photo: tuple[int, int], spec: InputSpec) -> Box:
    """The part of a photo that is left when it is resized and its middle cut out, both in whole pixels."""
    short = min(photo)
    (left, right), (upper, lower) = (
        _middle_of_side(side, int(side * spec.resized / short), spec.size) for side in photo
    )
    return left, upper, right, lower


def _middle_of_side(side: int, resized: int, size: int) -> tuple[float, float]:
    start = round((resized - size) / 2)
    return start * side / resized, min(side, (start + size) * side / resized)


def whole(photo: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """Width and height of the whole photo in the backbone's square, padded or squashed; at least a pixel each."""
    if spec.fit == "squash":
        return spec.size, spec.size
    width, height = (max(1, round(side * spec.size / max(photo))) for side in photo)
    return width, height


def random_part(photo: tuple[int, int], rng: np.random.Generator) -> Box:
    """A box of random area, shape and place; as near to the drawn shape as the photo allows."""
    width, height = photo
    area = rng.uniform(*PART_AREA) * width * height
    ratio = _ratio(PART_RATIO, rng)
    box_width, box_height = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
    left, upper = rng.random() * (width - box_width), rng.random() * (height - box_height)
    return left, upper, min(width, left + box_width), min(height, upper + box_height)


def _ratio(between: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(between))))


def _cut(image: Image.Image, box: Box, spec: InputSpec) -> Image.Image:
    """A part of the photo at the backbone's size, antialiased. What lies outside it is not resized in vain."""
    return _resized(image, (spec.size, spec.size), box, spec)


def _placed(image: Image.Image, size: tuple[int, int], at: tuple[int, int], spec: InputSpec) -> Image.Image:
    """The whole photo at this size, its corner here in a black square."""
    small = _resized(image, size, (0, 0, *image.size), spec)
    if size == (spec.size, spec.size):
        return small
    square = Image.new("RGB", (spec.size, spec.size))
    square.paste(small, at)
    return square


def _resized(image: Image.Image, size: tuple[int, int], box: Box, spec: InputSpec) -> Image.Image:
    """A part of the photo at this size, antialiased: first each row, then each column, rounded after both.

    From 13 on Pillow begins with the columns of tall photos, which saves it work and rounds elsewhere: answers would
    hang on its version, and exported graphs, which know one order, would not agree with their run.
    """
    filters = _RESAMPLING[spec.interpolation]
    if image.height - size[1] > 2 * max(0, image.width - size[0]):  # its rule
        left, upper, right, lower = box
        image = image.resize((size[0], image.height), filters, box=(left, 0, right, image.height))
        box = (0, upper, size[0], lower)
    return image.resize(size, filters, box=box)
