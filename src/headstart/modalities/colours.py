"""Turn the pixels of any kind of picture into RGB of eight bits, by one stated rule for each kind."""

from __future__ import annotations

import numpy as np
from PIL import Image, features

from headstart.modalities.modality import Undecodable

_SAVE = "(save it with 8 or 16 bits a channel)"
_BITS = 0xFFFF  # the largest value of 16 bits


def rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, over white where it is transparent.

    Raises:
        Undecodable: nothing says which value is white.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _of_integers(image).convert("RGB")
    if image.mode == "F":
        return _of_fractions(image).convert("RGB")
    if image.mode == "LAB":
        return _of_lab(image)
    if image.mode == "La":  # Pillow knows no way from it to RGBA
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return image.convert("RGB")


def _of_integers(image: Image.Image) -> Image.Image:
    """Of 16 bits the upper eight; wider integers are taken by their range for 8 bits or for 16."""
    values = np.asarray(image)
    wide = values.dtype.itemsize > 2
    if wide and (values.min() < 0 or values.max() > _BITS):
        raise Undecodable(f"its pixels are integers of more than 16 bits {_SAVE}")
    bytes_ = values if wide and values.max() <= 255 else values >> 8
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # a PNG's value that stands for a hole
        bytes_ = np.where(values == clear, 255, bytes_)
    return Image.fromarray(bytes_.astype(np.uint8))


def _of_fractions(image: Image.Image) -> Image.Image:
    """White is 1 where no pixel is above that, and 255 where the brightest is between 16 and 255."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and (high <= 1 or 16 <= high <= 255)):  # also where one of them is not a number
        raise Undecodable(
            f"its pixels are fractions from {low:.4g} to {high:.4g}, and nothing says which is white {_SAVE}"
        )
    return Image.fromarray(np.rint(values * 255 if high <= 1 else values).astype(np.uint8))


def _of_lab(image: Image.Image) -> Image.Image:
    if not features.check("littlecms2"):
        raise Undecodable("its colours are Lab, which this Pillow cannot turn into RGB (save it as RGB)")
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    picture = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert picture is not None  # it gives None only when told to work in place
    return picture
