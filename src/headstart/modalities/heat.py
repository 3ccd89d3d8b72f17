"""Lay a heat map over the photo that it speaks of: warm where it speaks for a class, dim where it was not seen."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from headstart.modalities.frames import Box, middle, whole
from headstart.modalities.spec import InputSpec
from headstart.modalities.thumbnail import shrunk
from headstart.modalities.upright import PIXEL_LIMIT, reasons, sized

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

Kind = Literal["jpeg", "png"]

QUALITY = 75  # of a JPEG: below, blocks show; above, a page of thumbnails gets heavy
# The colours of heat, by OKLab (Ottosson 2020), in which equal steps look equal: from dark red through orange to light
# yellow, so that lightness alone, on paper or to the colour-blind, says the same.
LIGHTNESS = (0.42, 0.92)
HUE = (22.0, 97.0)  # degrees
CHROMA = 0.19  # as far as sRGB goes; less where it does not reach
SHOWN = (512, 1600)  # pixels of the longer side of a picture by itself: at least, for small photos; at most
FULL = 0.66  # share that the hottest colour takes; the rest is the photo beneath
# Photos lose their colours, or a yellow flower would pass for heat.
SEEN, UNSEEN = 0.92, 0.34  # brightness of the photo where the network looked, and where it did not
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def overlay(
    content: bytes,
    heat: Float[np.ndarray, "r c"],
    spec: InputSpec,
    side: int,
    *,
    kind: Kind = "jpeg",
    max_pixels: int = PIXEL_LIMIT,
) -> bytes:
    """The upright photo with its heat over it, as a JPEG or PNG file whose longer side has `side` pixels.

    Warm is what speaks for the class alone; the hottest colour is as strong as the strongest place, for or against. The
    map lies where the backbone's square lies in the photo; what is outside of it is dim.

    Raises:
        Undecodable: with the reason.
    """
    photo, size = shrunk(content, side, max_pixels)
    with reasons():
        width, height = photo.size
        pixels = np.asarray(photo, np.float32)
        left, upper, right, lower = square(size, spec)
        across, down = width / size[0], height / size[1]
        box = (left * across, upper * down, right * across, lower * down)
        return _file(coloured(pixels, _spread(heat, box, (width, height)), _seen(box, (width, height))), kind)


def shown_side(content: bytes, *, max_pixels: int = PIXEL_LIMIT) -> int:
    """Pixels of the longer side of a photo that is looked at by itself: its own, within bounds.

    Raises:
        Undecodable: with the reason.
    """
    _, size = sized(content, reduced_to=SHOWN[0], longer=True, max_pixels=max_pixels)
    return int(np.clip(max(size), *SHOWN))


def square(size: tuple[int, int], spec: InputSpec) -> Box:
    """Where the backbone's square lies in a photo of this width and height, in its pixels.

    It reaches beyond the photo where that is padded.
    """
    if spec.fit == "crop":
        return middle(size, spec)
    width, height = whole(size, spec)
    across, down = size[0] / width, size[1] / height  # pixels of the photo to one of the square
    left, upper = -((spec.size - width) // 2) * across, -((spec.size - height) // 2) * down
    return left, upper, left + spec.size * across, upper + spec.size * down


def coloured(
    pixels: Float[np.ndarray, "h w 3"], warmth: Float[np.ndarray, "h w"], seen: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with `warmth` 0..1 in colours over it, and dim where `seen` is 0."""
    base = ((pixels @ _LUMA) * (UNSEEN + seen * (SEEN - UNSEEN)))[..., None]
    share = (warmth * seen)[..., None] ** 0.8 * FULL  # what is half as hot shall still show
    mixed = (1 - share) * base + share * colours()[np.rint(warmth * 255).astype(int)]
    picture: UInt8[np.ndarray, "h w 3"] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return picture


def colours() -> UInt8[np.ndarray, "256 3"]:
    """Heat from none to all, in sRGB: even steps of lightness and hue."""
    along = np.linspace(0, 1, 256)
    lightness = LIGHTNESS[0] + along * (LIGHTNESS[1] - LIGHTNESS[0])
    hue = np.radians(HUE[0] + along * (HUE[1] - HUE[0]))
    chroma = np.full(256, CHROMA)
    for _ in range(40):  # until each is one that a screen can show
        found = _linear_rgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
        outside = ((found < 0) | (found > 1)).any(axis=1)
        chroma[outside] *= 0.96
    found = np.clip(found, 0, 1)
    encoded = np.where(found <= 0.0031308, 12.92 * found, 1.055 * found ** (1 / 2.4) - 0.055)
    table: UInt8[np.ndarray, "256 3"] = np.rint(encoded * 255).astype(np.uint8)
    return table


def _linear_rgb(
    lightness: Float[np.ndarray, "n"], a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n 3"]:
    """OKLab to linear sRGB, by its definition."""
    cones = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    )
    rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.707614701],
        ]
    )
    found: Float[np.ndarray, "n 3"] = (np.stack([lightness, a, b], axis=1) @ cones.T) ** 3 @ rgb.T
    return found


def _spread(heat: Float[np.ndarray, "r c"], box: Box, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Warmth 0..1 of each pixel, smooth between the centres of the places in the square `box`."""
    strongest = float(np.abs(heat).max(initial=0.0))
    if not strongest or not np.isfinite(strongest):
        return np.zeros(size[::-1], np.float32)  # nothing speaks for or against it
    warm = Image.fromarray((np.maximum(heat, 0) / strongest).astype(np.float32))
    across, down = heat.shape[1] / (box[2] - box[0]), heat.shape[0] / (box[3] - box[1])
    way = (across, 0, -box[0] * across, 0, down, -box[1] * down)
    spread = warm.transform(size, Image.Transform.AFFINE, way, Image.Resampling.BICUBIC)
    warmth: Float[np.ndarray, "h w"] = np.clip(np.asarray(spread), 0, 1)
    return warmth


def _seen(box: Box, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """1 within the square, 0 outside, and between on a pixel that its edge crosses."""
    sides = []
    for start, end, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        pixels = np.arange(length)
        sides.append(np.clip(np.minimum(pixels + 1, end) - np.maximum(pixels, start), 0, 1))
    seen: Float[np.ndarray, "h w"] = np.outer(sides[1], sides[0]).astype(np.float32)
    return seen


def _file(pixels: UInt8[np.ndarray, "h w 3"], kind: Kind) -> bytes:
    written = io.BytesIO()
    image = Image.fromarray(pixels)
    if kind == "jpeg":
        image.save(written, "JPEG", quality=QUALITY, optimize=True)
    else:
        image.save(written, "PNG")
    return written.getvalue()
