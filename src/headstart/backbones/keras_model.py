"""Make a backbone out of a Keras model in memory, and again out of the description that a run keeps of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones.backbone import Backbone
from headstart.backbones.keras_architecture import brief, code_in, more_than_computing
from headstart.backbones.keras_input import Picture
from headstart.errors import BadBackbone
from headstart.modalities.spec import InputSpec
from headstart.networks import keras_backend

if TYPE_CHECKING:
    import keras
    import numpy as np

    from headstart.networks.network import Network

# What to do where Keras does not know a class.
REGISTER = (
    "use the Keras that wrote it, or a newer one; in Python, import the module that registers your own layers with "
    "@keras.saving.register_keras_serializable() first"
)
Weights = Mapping[str, "list[np.ndarray]"]  # by layer


def as_backbone(
    model: keras.Model,
    *,
    name: str,
    spec: InputSpec,
    weights_hash: str,
    licence: str,
    remarks: Sequence[str] = (),
    groups: str | None = None,
) -> Backbone:
    """The backbone of this functional model, from normalised pixels to features. Its weights are copied.

    A run of it can be opened without the file that it came from, unless a layer of it is code.
    """
    import keras

    text = _described(model, name)
    code = code_in(json.loads(text))
    about = {"spec": asdict(spec), "engine": keras.config.backend(), "weights_hash": weights_hash, "licence": licence}
    if code is not None:
        lost = (
            f"{name} holds a {code} layer: its runs cannot be opened or resumed, for code is never taken out of a run"
        )
        remarks = [*remarks, lost]
    constant = keras.layers.Normalization
    weights = {layer.name: layer.get_weights() for layer in model.layers if not isinstance(layer, constant)}
    return Backbone(
        name=name,
        spec=spec,
        weights_hash=weights_hash,
        licence=licence,
        framework="keras",
        build=partial(_build, text, spec, groups, weights=weights, safe=code is None),
        about=about | ({"code": code} if code else {"architecture": json.loads(text), "groups": groups}),
        remarks=tuple(remarks),
    )


def _described(model: keras.Model, name: str) -> str:
    from headstart.networks.keras_alone import without_tensorflow

    try:
        with warnings.catch_warnings(), without_tensorflow():
            warnings.simplefilter("ignore")  # about functions without names, which the user has allowed
            return json.dumps(_with_constants(json.loads(model.to_json()), model))
    except Exception as problem:  # from any layer that is not Keras's own
        raise BadBackbone(
            f"backbone {name!r} cannot be described by Keras: {brief(problem)}",
            fix="give its own layers a get_config() that says how to make them again",
        ) from problem


def _with_constants(described: dict[str, Any], model: keras.Model) -> dict[str, Any]:
    """The description with what Normalization layers have learnt about pixels as settings of theirs.

    As weights they would be of no use: such a layer computes with a copy, which values put in later do not change.
    """
    import keras

    learnt = {layer.name: layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)}
    for layer in described["config"].get("layers", ()):
        own = learnt.get(layer.get("name"))
        if own is not None and own.input_mean is None:
            mean, variance, *_ = own.get_weights()
            layer["config"] |= {"mean": mean.tolist(), "variance": variance.tolist()}
    return described


def from_run(name: str, about: Mapping[str, Any]) -> Backbone:
    """The backbone of a run; what its `build` gives has fresh weights, for the run's own to be put in.

    Raises:
        BadBackbone: it was code, or cannot be built here.
        BadSetting: no engine for Keras is installed.
    """
    code = about.get("code") or code_in(about.get("architecture"))
    if code:
        raise BadBackbone(
            f"backbone {name!r} of this run holds a {code} layer, and code is never taken out of a run",
            fix="if you trust it, load the run's model.keras in Keras itself: "
            "keras.models.load_model(PATH, safe_mode=False)",
        )
    if more := more_than_computing(about.get("architecture")):
        raise BadBackbone(
            f"backbone {name!r} of this run names {more}, which may do more than compute", fix="do not use this run"
        )
    keras_backend.choose_again(about.get("engine"))
    try:
        spec = InputSpec(**{key: _tuple(value) for key, value in about["spec"].items()})
        text, groups = json.dumps(about["architecture"]), about["groups"]
        weights_hash, licence = str(about["weights_hash"]), str(about["licence"])
    except (KeyError, TypeError, AttributeError) as problem:
        raise BadBackbone(
            f"this run does not say what its backbone {name!r} is made of", fix="the run is damaged: train anew"
        ) from problem
    return Backbone(
        name=name,
        spec=spec,
        weights_hash=weights_hash,
        licence=licence,
        framework="keras",
        build=partial(_restored, name, text, spec, groups),
        about=about,
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _restored(name: str, text: str, spec: InputSpec, groups: str | None) -> Network:
    try:
        return _build(text, spec, groups)
    except Exception as problem:
        raise BadBackbone(
            f"backbone {name!r} of this run cannot be built by Keras: {brief(problem)}", fix=REGISTER
        ) from problem


def _build(
    text: str, spec: InputSpec, groups: str | None, *, weights: Weights | None = None, safe: bool = True
) -> Network:
    import keras

    from headstart.backbones.keras_blank import blank
    from headstart.networks.keras import KerasNetwork

    # Anew each time: a network changes its model, and the next one has to start from the same.
    model = blank(lambda: keras.saving.deserialize_keras_object(json.loads(text), safe_mode=safe))
    for layer, values in (weights or {}).items():
        model.get_layer(layer).set_weights(values)
    return KerasNetwork(model, spec=spec, groups=groups)


def put_in(model: keras.Model, weights: Path, what: str) -> None:
    """Load these weights into the model.

    Raises:
        BadBackbone: the file is missing, or of another model.
    """
    if not weights.is_file():
        raise BadBackbone(
            f"weights file {str(weights)!r} does not exist", fix="name a file that model.save_weights wrote"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dozens about a file that does not fit, before it is refused
            model.load_weights(weights)
    except Exception as problem:
        raise BadBackbone(
            f"weights {str(weights)!r} do not fit {what}: {brief(problem)}",
            fix="give weights of exactly this model, or leave them out: the file has its own",
        ) from problem


def in_one_graph(model: keras.Model, taken: Picture, what: str) -> keras.Model:
    """The model on pictures of the one size, with the layers of models inside it as its own.

    Raises:
        BadBackbone: it cannot take them.
    """
    import keras

    from headstart.networks.keras_graph import flattened

    _tell_apart(model)
    source = keras.Input((taken.size, taken.size, taken.channels))
    as_taken = source if len(taken.shape) == 3 else keras.layers.Reshape(taken.shape, name="as_it_is_taken")(source)
    try:
        return flattened(keras.Model(source, model(as_taken)))
    except Exception as problem:
        raise BadBackbone(
            f"{what} cannot be used on pictures of {taken.size} pixels: {brief(problem)}",
            fix="choose another size, or save the network up to its features as a model of its own",
        ) from problem


def _tell_apart(model: keras.Model) -> None:
    """Give layers of models within the model names that none of the others has."""
    named: dict[str, Any] = {}
    for inner, layer in with_models(model):
        while named.setdefault(layer.name, layer) is not layer:
            layer.name = f"{inner.name}_{layer.name}"


def with_models(model: Any) -> Iterator[tuple[Any, Any]]:
    """Every layer or operation with the model that it stands in, also within models inside."""
    for layer in getattr(model, "operations", model.layers):
        yield model, layer
        if hasattr(layer, "layers"):
            yield from with_models(layer)
