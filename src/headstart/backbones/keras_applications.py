"""Get any network of keras.applications by its own name, `keras/vgg16` or `keras/mobilenetv2_0.35` for instance.

Its official weights are read from `KERAS_HOME/models`, or downloaded there once. Keras's own download is never used: at
a hash that differs it replaces a user's file, and removes it when that fails.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones import downloads
from headstart.backbones.backbone import Backbone, Entry, Wanted
from headstart.backbones.keras_architecture import brief
from headstart.backbones.keras_families import MEAN, MEMBERS, STD, Member
from headstart.errors import BadBackbone, BadSetting
from headstart.modalities.spec import InputSpec
from headstart.networks import keras_backend
from headstart.registry import closest

if TYPE_CHECKING:
    import keras

    from headstart.networks.network import Network

SUFFIXES = (".h5", ".hdf5", ".keras")  # what Keras can read weights from; `.weights.h5` among them
SEED = 0  # of fresh weights
# What Keras, h5py and zipfile raise for files that are damaged or of another network.
_UNFIT = (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, OSError, zipfile.BadZipFile)


def catalogue() -> tuple[Entry, ...]:
    """Every network of keras.applications, the best general choice first."""
    return tuple(_entry(name, member) for name, member in MEMBERS.items())


def _entry(name: str, member: Member) -> Entry:
    available = downloads.present(member.files()[0].name)
    return Entry(
        name=name,
        size=member.size,
        width=member.width,
        parameters=member.parameters,
        licence=member.family.licence,
        available=available,
        note=member.trained if available else f"{member.trained}; is downloaded",
    )


def load(name: str, wanted: Wanted) -> Backbone:
    """The network of this name, in any case, its official weights checked against the hash that Keras publishes.

    `wanted.weights` takes any file of weights without a top, unchecked, and `wanted.blank` draws fresh ones;
    `wanted.on_progress` is told of a download.

    Raises:
        BadBackbone: the name is unknown, or the weights cannot be had or are not the published ones.
        BadSetting: the size, the engine or a cut does not fit.
        DiskFull: there is no room for the download.
    """
    name = name.lower()
    member = _member(name)
    _check(name, member, wanted)
    engine = keras_backend.choose(wanted.framework)
    remarks = _remarks(name, member, engine)
    path: Path | None
    if wanted.blank:
        path, weights_hash = None, f"none/keras/{name}/{SEED}"
    elif wanted.weights is not None:
        path, weights_hash = wanted.weights, _own(wanted.weights)
    else:
        files = member.files(wanted.size)
        file, path, weights_hash = downloads.obtain(files, on_progress=wanted.on_progress)
        if file != files[0]:
            remarks += (
                f"keras/{name} uses the weights on this machine, which were trained at {member.size} pixels; there are "
                f"others for {wanted.size} pixels: {files[0].url}",
            )
    spec = member.spec(wanted.size)
    return Backbone(
        name=f"keras/{name}",
        spec=spec,
        weights_hash=weights_hash,
        licence=member.family.licence,
        framework="keras",
        build=partial(_build, name, spec, path, SEED if wanted.blank else None),
        about={"engine": engine, "weights_hash": weights_hash},
        remarks=remarks,
    )


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The network of a run with empty weights, for the run's own to be put in; on the run's engine where possible.

    Raises:
        BadBackbone: this version does not know the name.
        BadSetting: no engine can be used.
    """
    member = _member(name)
    engine = keras_backend.choose_again(about.get("engine"))
    spec = member.spec(size)
    return Backbone(
        name=f"keras/{name}",
        spec=spec,
        weights_hash=str(about.get("weights_hash", "")),
        licence=member.family.licence,
        framework="keras",
        build=partial(_build, name, spec, None),
        about=about,
        remarks=_remarks(name, member, engine),
    )


def _member(name: str) -> Member:
    if name in MEMBERS:
        return MEMBERS[name]
    if not name:
        raise BadBackbone("no network is named after keras/", fix="see their names with: headstart backbones keras")
    known = [f"keras/{each}" for each in MEMBERS]
    hint = closest(f"keras/{name}", known) or "see all names with: headstart backbones"
    raise BadBackbone(f"backbone 'keras/{name}' is not known", fix=hint)


def _check(name: str, member: Member, wanted: Wanted) -> None:
    if wanted.framework == "torch":
        raise BadSetting(
            f"backbone 'keras/{name}' runs on TensorFlow or JAX, not on PyTorch",
            fix="leave the framework out, or take a PyTorch backbone, bundled/efficientnet_lite0 for instance",
        )
    if wanted.cut is not None:
        raise BadSetting(f"backbone 'keras/{name}' has no top to cut at {wanted.cut!r}", fix="leave the cut out")
    smallest = member.family.smallest
    if wanted.size is not None and wanted.size < smallest:
        raise BadSetting(
            f"size {wanted.size} is too small for keras/{name}",
            fix=f"use {smallest} pixels or more; it was trained at {member.size}",
        )


def _own(weights: Path) -> str:
    if weights.suffix not in SUFFIXES:
        raise BadBackbone(
            f"weights {str(weights)!r} are not in a format of Keras",
            fix="give a file that model.save_weights or model.save wrote: .h5, .weights.h5 or .keras",
        )
    return downloads.sha256(weights)


def _remarks(name: str, member: Member, engine: keras_backend.Engine) -> tuple[str, ...]:
    if engine != "jax" or not member.family.depthwise:
        return ()
    import jax

    if jax.default_backend() != "cpu":
        return ()
    return (
        f"keras/{name} is made of depthwise convolutions, on which JAX's compiler (XLA) is 5 to 15 times slower than "
        "TensorFlow on a processor without a GPU: use --framework tensorflow, or another backbone",
    )


def _build(name: str, spec: InputSpec, weights: Path | None, seed: int | None = None) -> Network:
    from headstart.networks.keras import KerasNetwork

    member = MEMBERS[name]
    model = _model(member, spec.size, seed)
    if weights is not None:
        _fill(model, weights, name)
    if member.family.first is not None:
        model = _scaled_as_published(model, member.family.first, name, weights)
    return KerasNetwork(model, spec=spec, groups=member.family.groups)


def _model(member: Member, size: int, seed: int | None) -> keras.Model:
    import keras

    from headstart.backbones.keras_blank import blank

    if keras.config.image_data_format() != "channels_last":
        raise BadSetting(
            "Keras is set to pictures with their channels first",
            fix="set image_data_format to channels_last in keras.json",
        )
    function = getattr(keras.applications, member.function)
    width = {} if member.alpha is None else {"alpha": member.alpha}
    return blank(lambda: function(include_top=False, weights=None, input_shape=(size, size, 3), **width), seed=seed)


def _fill(model: keras.Model, weights: Path, name: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dozens about a file that does not fit, before it is refused
            model.load_weights(weights)
    except _UNFIT as problem:
        raise BadBackbone(
            f"weights {str(weights)!r} are damaged or not those of keras/{name} without its top: {brief(problem)}",
            fix="give the file that belongs to this backbone; the official ones end in notop.h5 or no_top.h5",
        ) from problem


def _scaled_as_published(model: keras.Model, first: str, name: str, weights: Path | None) -> keras.Model:
    """The model with the scaling that its published weights were trained with, in one layer without weights.

    EfficientNet's weights want pixels divided by the square root of the deviation once more. Keras adds that layer for
    `weights="imagenet"` alone, neither for a file nor for a fresh network (tensorflow/tensorflow issue 49930). And its
    own layer keeps a copy of its weights, so that values that are put into them later change nothing.
    """
    import keras
    import numpy as np

    [own] = [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)]
    mean, deviation = np.array(MEAN), np.array(STD)
    if weights is not None and not np.allclose(own.get_weights()[:2], [mean, deviation**2], rtol=1e-3):
        raise BadBackbone(
            f"weights {str(weights)!r} are for pixels that are scaled otherwise than keras/{name} was trained with",
            fix="save the whole network with model.save and give it as file/PATH",
        )
    spread = deviation**1.5
    pixels = keras.Input(model.input_shape[1:])
    scaling = keras.layers.Rescaling((1 / (255 * spread)).tolist(), (-mean / spread).tolist(), name="scaling")
    rest = keras.Model(model.get_layer(first).input, model.output)
    return keras.Model(pixels, rest(scaling(pixels)), name=model.name)
