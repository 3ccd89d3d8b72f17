"""Run the frozen part in eight bits on a processor: quantised with NNCF by a sample of photos, run by OpenVINO."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headstart.errors import BadRuntime
from headstart.networks.network import Cut, Network
from headstart.runtimes import kept, openvino
from headstart.runtimes.openvino_conversion import library, untold
from headstart.runtimes.runtime import Offer, Precision, Runner, Sample

NAME = "openvino_int8"
RULES = 1  # part of what identifies features: count up when networks are quantised otherwise
FEWEST = 8  # photos: the ranges of activations that fewer show are those of these photos
QUANTISING = 60.0  # seconds, on a slow machine


def offers(network: Network) -> tuple[Offer, ...]:
    """Eight bits, where NNCF and OpenVINO are here and OpenVINO can run the network."""
    if not (installed() and openvino.installed() and openvino.fits(network)):
        return ()
    return (Offer(NAME, "int8", engine_of(network), openvino.CHUNK),)


def lacks(network: Network, precision: Precision) -> BadRuntime | None:
    """The libraries."""
    if precision != "int8" or not openvino.fits(network) or (installed() and openvino.installed()):
        return None
    missing = "OpenVINO, which runs networks in eight bits" if installed() else "NNCF, which brings them to eight bits"
    return BadRuntime(f"{missing}, is not installed", fix='pip install "headstart[int8]"')


def seconds(network: Network, offer: Offer, upto: Cut, *, identity: str = "") -> float:
    """How long converting, quantising and compiling takes."""
    return openvino.seconds(network, offer, upto, identity=identity) + QUANTISING


def installed() -> bool:
    """Whether NNCF is here."""
    return importlib.util.find_spec("nncf") is not None


def engine_of(network: Network) -> str:
    """Part of what identifies features: another NNCF quantises otherwise."""
    return f"nncf-{version('nncf')}-{RULES}-{openvino.engine_of(network)}"


def open(network: Network, offer: Offer, upto: Cut, *, sample: Sample | None = None, identity: str = "") -> Runner:
    """The part from the input to the cut, quantised by the sample unless that was done before, and compiled.

    Raises:
        BadRuntime: it cannot be converted or quantised, or there are too few photos.
    """
    pictures = sample() if sample is not None else np.empty((0, *network.input_shape), np.uint8)
    if len(pictures) < FEWEST:
        raise BadRuntime(
            f"eight bits need at least {FEWEST} photos to be fitted to, and {len(pictures)} can be read",
            fix="give more photos, or leave the precision out",
        )
    name = _name(network, offer, upto, identity, pictures)
    model = kept.recall(library().Core(), name) if identity else None
    if model is None:
        model = quantised(openvino.converted(network, upto, offer.chunk, identity), pictures)
        if identity:
            kept.keep(model, name)
    # What is not in eight bits runs in the faster of the others, which loses little beside them.
    return openvino.compiled(model, replace(offer, precision="bf16" if openvino.has_bf16() else "fp32"))


def quantised(model: Any, pictures: UInt8[np.ndarray, "n h w c"]) -> Any:
    """The converted model in eight bits; the ranges of its activations are those that these photos show.

    The first layer and the depthwise ones stay as they are: they are few of the FLOPs and make most of the error.

    Raises:
        BadRuntime: NNCF cannot quantise it.
    """
    chunk = int(model.inputs[0].shape[0])
    batches = [pictures[first : first + chunk] for first in range(0, len(pictures) - chunk + 1, chunk)]
    try:
        return fitted(model.clone(), batches, delicate(model))
    # A quantiser meets what others wrote: nearly every built-in error comes out of it.
    except Exception as problem:
        raise BadRuntime(
            f"this network cannot be brought to eight bits ({str(problem).strip().splitlines()[0]})",
            fix="leave the precision out",
        ) from problem


def fitted(model: Any, batches: Sequence[UInt8[np.ndarray, "n h w c"]], ignored: Iterable[str]) -> Any:
    """The model in eight bits but for the nodes that are ignored; the ranges are those that these batches show."""
    with _quiet() as nncf:
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=sorted(ignored)),
            advanced_parameters=_advanced(),
        )


def delicate(model: Any) -> list[str]:
    """The layers that stay out of eight bits: the first, which sees the pixels, and all depthwise ones."""
    layers = [node for node in model.get_ordered_ops() if node.get_type_name() in ("Convolution", "GroupConvolution")]
    return [node.get_friendly_name() for place, node in enumerate(layers) if place == 0 or _is_depthwise(node)]


def _is_depthwise(layer: Any) -> bool:
    """Whether each filter sees one channel: the weights of layers with groups are `[groups out in h w]`."""
    return bool(layer.get_type_name() == "GroupConvolution" and layer.input(1).get_shape()[2] == 1)


def _advanced() -> Any:
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

    # Without SmoothQuant, which shifts ranges from activations to weights: it is made for language models.
    return AdvancedQuantizationParameters(
        smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
    )


def _name(network: Network, offer: Offer, upto: Cut, identity: str, pictures: UInt8[np.ndarray, "n h w c"]) -> str:
    """Under which the quantised part is kept; the photos themselves count, as decoding may have changed."""
    parts = (NAME, offer.engine, network.input_shape, upto.name, upto.after, offer.chunk, identity, pictures.shape)
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    digest.update(pictures.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """NNCF, without its progress bars and advice, and without what would send data about its use."""
    with contextlib.redirect_stdout(io.StringIO()):
        with untold():
            import nncf
        nncf.set_log_level(logging.ERROR)
        yield nncf
