"""Get a backbone from KerasHub, where it is installed: `kerashub/resnet_50_imagenet`, or the folder of a preset."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from headstart.backbones import keras_model
from headstart.backbones.backbone import Backbone, Entry, Wanted
from headstart.backbones.keras_architecture import brief
from headstart.backbones.keras_input import PLAIN, picture
from headstart.errors import BadBackbone, BadSetting
from headstart.modalities.spec import InputSpec
from headstart.networks import keras_backend

if TYPE_CHECKING:
    import keras

PAGE = "keras.io/keras_hub/presets"


def catalogue() -> tuple[Entry, ...]:
    """Nothing: KerasHub's own list cannot be had without importing all of it."""
    return ()


def load(name: str, wanted: Wanted) -> Backbone:
    """The image backbone of this preset, or of a preset's folder; KerasHub finds or downloads its weights.

    Raises:
        BadBackbone: KerasHub is missing, has no such preset, or it is not of pictures.
        BadSetting: the engine, the size or a cut does not fit.
    """
    what = f"backbone 'kerashub/{name}'"
    if not name:
        raise BadBackbone("no preset of KerasHub is named", fix=f"name one: kerashub/PRESET; see {PAGE}")
    if wanted.cut is not None:
        raise BadSetting(f"{what} has no top to cut at {wanted.cut!r}", fix="leave the cut out")
    if wanted.blank:
        raise BadSetting(
            f"{what} comes with its weights, and weights none are wanted",
            fix="take a network of keras/ for training from scratch, keras/resnet50 for instance",
        )
    keras_hub = _keras_hub(what, wanted)
    try:
        model = keras_hub.models.Backbone.from_preset(name)
    except Exception as problem:
        raise BadBackbone(
            f"{what} cannot be loaded by KerasHub {keras_hub.__version__}: {brief(problem)}",
            fix=f"name a preset of an image backbone, see {PAGE}, or its folder: kerashub/./FOLDER",
        ) from problem
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BadBackbone(
            f"{what} has {len(model.inputs)} inputs and {len(model.outputs)} outputs, so it is not of pictures alone",
            fix=f"name a preset of an image backbone, see {PAGE}",
        )
    if wanted.weights is not None:
        keras_model.put_in(model, wanted.weights, what)
    converter = _converter(keras_hub, name)
    usual = converter.image_size[0] if converter is not None and converter.image_size else None
    taken = picture(model.inputs[0].shape[1:], wanted, what, usual=usual)
    return keras_model.as_backbone(
        keras_model.in_one_graph(model, taken, what),
        name=f"kerashub/{name}",
        spec=_input_spec(converter, taken.size),
        weights_hash=_hash(model),
        licence=f"see {PAGE}",
        remarks=() if converter is not None else (f"{what} says nothing about scaling: it gets plain pixels 0 to 255",),
    )


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The backbone of a run, from the run's own description of it.

    Raises:
        BadBackbone: KerasHub is missing, or it cannot be built here.
    """
    _keras_hub(f"backbone 'kerashub/{name}'", Wanted())  # some of its layers are its own: importing registers them
    return keras_model.from_run(f"kerashub/{name}", about)


def _keras_hub(what: str, wanted: Wanted) -> Any:
    if find_spec("keras_hub") is None:
        raise BadBackbone(f"{what} needs KerasHub, which is not installed", fix="pip install 'headstart[kerashub]'")
    keras_backend.choose(wanted.framework)
    import keras_hub

    return keras_hub


def _converter(keras_hub: Any, name: str) -> Any:
    try:
        return keras_hub.layers.ImageConverter.from_preset(name)
    except (ValueError, OSError):  # the preset has none
        return None


def _input_spec(converter: Any, size: int) -> InputSpec:
    """KerasHub computes `pixels * scale + offset` where we say `(pixels - mean) / std`."""
    spec = replace(PLAIN, size=size, crop=1.0)
    if converter is None:
        return spec
    scale, offset = _thrice(converter.scale, 1.0), _thrice(converter.offset, 0.0)
    return replace(
        spec,
        interpolation="bicubic" if converter.interpolation == "bicubic" else "bilinear",
        mean=_thrice([-o / s for o, s in zip(offset, scale, strict=True)], 0.0),
        std=_thrice([1 / s for s in scale], 1.0),
    )


def _thrice(value: Any, default: float) -> tuple[float, float, float]:
    if value is None:
        value = default
    red, green, blue = value if isinstance(value, list | tuple) else (value,) * 3
    return float(red), float(green), float(blue)


def _hash(model: keras.Model) -> str:
    """Of the values: the files may be many, and KerasHub does not say where they lie."""
    found = hashlib.sha256()
    for values in model.get_weights():
        found.update(values.tobytes())
    return found.hexdigest()
