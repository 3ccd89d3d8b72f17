"""Find how much each place of a picture speaks for a class, by the most exact way that the network allows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

from headstart.evaluation.calibration import softmax
from headstart.explaining.methods import EXACT, GRAD_CAM, OCCLUSION, TOKENS
from headstart.explaining.occlusion import occlusion
from headstart.explaining.places import on_grid
from headstart.modalities.spec import InputSpec
from headstart.networks.network import Cut, Network

BATCH = 32  # pictures at a time, for the memory that they take
DEPTH = 3  # cuts from the last map down at which places are looked for; those far below know edges, not things


def heat_of(
    network: Network, spec: InputSpec, pictures: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "n r c"], str]:
    """How much each place of each picture speaks for its class, in units of the logit, and the method in words.

    - Where the head is linear on the mean of the last map, the class activation map (Zhou et al. 2016): what a place
      adds to the logit. With the head's bias, the places sum to the logit.
    - For other heads on maps, Grad-CAM (Selvaraju et al. 2017) before its ReLU, so that what speaks against is kept.
    - For tokens, each token times its gradient. Grad-CAM's mean gradient would forget which tokens are attended to.
      Where the class token alone is read, at the layer before: that is where it looks at the others.
    - Where no gradient reaches a place, occlusion: how far the log-odds fall when it is hidden.
    """
    labels = np.asarray(labels)
    parts, method = [], EXACT
    for start in range(0, len(pictures), BATCH):
        some = slice(start, start + BATCH)
        heat, method = _heat(network, spec, pictures[some], labels[some])
        parts.append(heat)
    return np.concatenate(parts), method


def _heat(
    network: Network, spec: InputSpec, pictures: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "n r c"], str]:
    last = next(cut for cut in network.cuts if cut.name == "map")
    linear = network.linear_on_mean
    if linear is not None:
        return _class_activation(network.features(pictures, last), linear[0], labels), EXACT
    for cut in _cuts(network):
        found = by_gradient(*network.gradients(pictures, labels, cut))
        if found is not None:
            heat, method = found
            return heat, method if cut == last else f"{method} after {cut.name}"
    each = [
        occlusion(lambda shown: softmax(network.logits(shown)), picture, int(label), spec)
        for picture, label in zip(pictures, labels, strict=True)
    ]
    return np.stack(each), OCCLUSION


def _cuts(network: Network) -> list[Cut]:
    """Those at which a gradient is taken, the last map first."""
    return [cut for cut in reversed(network.cuts[1:]) if cut.name != "pooled"][:DEPTH]


def _class_activation(
    maps: Float[np.ndarray, "n r c d"], weights: Float[np.ndarray, "d k"], labels: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n r c"]:
    places = maps.shape[1] * maps.shape[2]
    heat: Float[np.ndarray, "n r c"] = np.einsum("nrcd,dn->nrc", maps, weights[:, labels] / places)
    return heat


def by_gradient(
    crossing: Float[np.ndarray, "n ..."], gradient: Float[np.ndarray, "n ..."]
) -> tuple[Float[np.ndarray, "n r c"], str] | None:
    """Heat by what crosses a cut and the gradient there, and the method in words.

    None where there are no places, or the class does not hang on any of them here.
    """
    values, slopes = on_grid(crossing), on_grid(gradient)
    if values is None or slopes is None or not slopes.any():
        return None
    tokens = crossing.ndim == 3
    weights = slopes if tokens else slopes.mean(axis=(1, 2), keepdims=True)
    heat: Float[np.ndarray, "n r c"] = (values * weights).sum(axis=-1)
    return heat, TOKENS if tokens else GRAD_CAM
