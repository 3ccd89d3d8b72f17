"""Turn a user's own Keras file into a backbone: load it without running code, and take its top off."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones import keras_model
from headstart.backbones.backbone import Backbone, Wanted
from headstart.backbones.keras_architecture import architecture, brief, check, foreign
from headstart.backbones.keras_input import input_spec, picture, recognised
from headstart.backbones.keras_top import Place, end_of_features, named_end
from headstart.errors import BadBackbone
from headstart.networks import keras_backend

if TYPE_CHECKING:
    import keras

    from headstart.networks.keras_graph import Piece

LICENCE = "your own"
_SHAPES = {1: "a vector", 2: "a sequence", 3: "a map"}
_TRUST = "if you trust it, say --allow-code; else build the network from Keras's own layers"


def load(name: str, wanted: Wanted) -> Backbone:
    """The network of this file up to its features.

    Raises:
        BadBackbone: the file is damaged or of another kind, holds code, or its top cannot be cut.
        BadSetting: the size or the engine does not fit.
    """
    path, what = Path(name).expanduser(), f"backbone file {name!r}"
    keras_backend.choose(wanted.framework)
    import keras

    model = _opened(path, what, allow_code=wanted.allow_code)
    weights_hash = _sha256(path)
    if wanted.weights is not None:
        keras_model.put_in(model, wanted.weights, what)
        weights_hash = hashlib.sha256((weights_hash + _sha256(wanted.weights)).encode()).hexdigest()
    taken = picture(model.inputs[0].shape[1:], wanted, what)
    whole = keras_model.in_one_graph(model, taken, what)
    parts, places = _places(whole)
    named = None if wanted.cut is None else _last_inside(model, wanted.cut)
    end = end_of_features(places, what) if named is None else named_end(places, named, what)
    kept = keras.Model(whole.inputs[0], parts[end].crossing)
    known = recognised(whole)
    spec, scaling = input_spec(taken, whole, known)
    return keras_model.as_backbone(
        kept,
        name=f"file/{name}",
        spec=spec,
        weights_hash=weights_hash,
        licence=LICENCE,
        remarks=(_where(places[end], what), scaling),
        groups=known.family.groups if known else None,
    )


def restore(name: str, size: int, about: Mapping[str, Any]) -> Backbone:
    """The network of a run that began with this file, for the run's weights.

    Raises:
        BadBackbone: it cannot be built here, or held code.
    """
    return keras_model.from_run(f"file/{name}", about)


def _opened(path: Path, what: str, *, allow_code: bool) -> keras.Model:
    """The model in this file, with one input and one output. Code in it is found before Keras reads it."""
    config = architecture(path)
    check(config, what, way_out=None if allow_code else _TRUST)
    import keras

    for name in foreign(config):
        if keras.saving.get_registered_object(name) is None and not allow_code:
            raise BadBackbone(
                f"{what} needs {name!r}, which is not Keras's own and which no file may bring along",
                fix="in Python, import the module that registers it with @keras.saving.register_keras_serializable() "
                "first; else build the network from Keras's own layers",
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how older versions of Keras wrote their files
            model = _whole(path, config, safe=not allow_code)
    except Exception as problem:
        raise BadBackbone(
            f"{what} cannot be loaded by Keras {keras.__version__}: {brief(problem)}",
            # What older Keras could not put into HDF5, such as additions outside layers, a .keras file can hold.
            fix=keras_model.REGISTER if path.suffix == ".keras" else f"save it as .keras; {keras_model.REGISTER}",
        ) from problem
    inputs, outputs = _ends(model)
    if not inputs:
        raise BadBackbone(f"{what} was saved before it knew its input", fix="put keras.Input((h, w, 3)) first")
    if (inputs, outputs) != (1, 1):
        raise BadBackbone(
            f"{what} has {inputs} inputs and {outputs} outputs",
            fix="save the part with one input, the picture, and one output: keras.Model(inputs, outputs)",
        )
    return model


def _whole(path: Path, config: dict[str, Any], *, safe: bool) -> keras.Model:
    import keras

    from headstart.backbones.keras_blank import blank

    if path.suffix.lower() != ".keras":
        return keras.models.load_model(path, compile=False, safe_mode=safe)
    # As `load_model` does it, but for drawing first values, which takes JAX half a minute for a large network.
    model = blank(lambda: keras.saving.deserialize_keras_object(config, safe_mode=safe))
    if all(_ends(model)):
        model.load_weights(path)
    return model


def _ends(model: keras.Model) -> tuple[int, int]:
    try:
        return len(model.inputs or ()), len(model.outputs or ())
    except (AttributeError, ValueError):  # a Sequential that has never seen an input
        return 0, 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_inside(model: Any, name: str) -> str:
    """The layer that gives the output of the inner model of this name; any other name is a layer's already."""
    inner = next(
        (layer for _, layer in keras_model.with_models(model) if layer.name == name and hasattr(layer, "layers")), None
    )
    return name if inner is None else _last_inside(model, inner.outputs[0]._keras_history.operation.name)


def _places(whole: keras.Model) -> tuple[list[Piece], list[Place]]:
    """The parts of the model that a single tensor leaves, and what has to be known about each tensor."""
    from headstart.networks.keras_graph import pieces

    parts = pieces(whole)
    places = []
    for part in parts:
        last = part.crossing._keras_history.operation
        place = Place(
            layer=last.name,
            kind=type(last).__name__,
            shape=tuple(part.crossing.shape[1:]),
            weighted=part.weighted,
            inside=tuple(layer.name for layer in part.layers),
        )
        places.append(place)
    return parts, places


def _where(place: Place, what: str) -> str:
    if len(place.shape) not in _SHAPES:
        raise BadBackbone(
            f"{what} gives features of {len(place.shape)} axes at {place.layer!r}",
            fix="name a layer with --cut whose output is a map (h, w, c), a sequence (t, d) or a vector (d)",
        )
    size = " x ".join("any" if side is None else str(side) for side in place.shape)
    return (
        f"{what}: features are taken at layer {place.layer!r}, {_SHAPES[len(place.shape)]} of {size}; "
        "--cut LAYER takes them elsewhere"
    )
