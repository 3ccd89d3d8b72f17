"""Get cached features for any pictures, from networks that stay loaded between calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headstart.backbones.backbone import Backbone
from headstart.backbones.loading import load_backbone
from headstart.choosing import Choices, Wanted
from headstart.data.dataset import Dataset
from headstart.errors import first_five
from headstart.estimators.samples import BadSamples, Sample, dataset_of
from headstart.machine import cores
from headstart.modalities.loading import load_modality
from headstart.modalities.spec import Fit
from headstart.networks.network import Network
from headstart.outcome import outcome
from headstart.store import Store

LOADED = 4  # networks that are kept: a grid over backbones goes back and forth between them


@dataclass(frozen=True, eq=False)
class Opened:
    """A frozen backbone that is ready to compute."""

    backbone: Backbone
    network: Network
    choices: Choices = field(default_factory=Choices)  # what computes features: the same for every fold

    @property
    def width(self) -> int:
        """Numbers a picture."""
        blank = np.zeros((1, *self.network.input_shape), np.uint8)
        return int(self.network.features(blank, self.network.cuts[-1]).shape[1])

    def features(self, found: Sequence[Sample]) -> Float[np.ndarray, "n d"]:
        """Pooled features, in order; computed where they are not in the cache.

        Raises:
            BadSamples: a picture cannot be read.
            DiskFull: the cache has no room left.
        """
        return self.features_of(dataset_of(found), found)

    def features_of(self, photos: Dataset, found: Sequence[Sample]) -> Float[np.ndarray, "n d"]:
        """The same for samples that are a data set already."""
        wanted = Wanted(
            dataset=photos,
            backbone=self.backbone,
            network=self.network,
            cut=self.network.cuts[-1],
            modality=load_modality("image"),
            store=Store.default(),
        )
        features = outcome(self.choices.features(wanted, workers=max(cores(), self.network.concurrency)))
        lost = [f"{s.name} ({features.unreadable[s.id]})" for s in found if s.id in features.unreadable]
        if lost:
            raise BadSamples(
                f"{len(lost)} of {len(found)} pictures cannot be used: {first_five(lost)}", fix="leave them out of X"
            )
        rows: Float[np.ndarray, "n d"] = features.take([sample.id for sample in found])
        return rows


def opened(
    backbone: str | Backbone,
    *,
    size: int | None = None,
    framing: Fit | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> Opened:
    """The frozen network of this name; the same one for the same arguments, as long as few others are asked for.

    Raises:
        BadBackbone: there is no such backbone, or its weights cannot be read.
        BadSetting: the backbone does not take such a size, or there is no such device.
    """
    if not isinstance(backbone, str):
        return _kept(backbone, device)
    stamp = None
    if weights is not None and Path(weights).is_file():
        status = os.stat(weights)
        stamp = (status.st_size, status.st_mtime_ns)
    return _loaded(backbone, size, framing, None if weights is None else os.fspath(weights), device, stamp)


@lru_cache(LOADED)
def _loaded(name: str, size: int | None, framing: Fit | None, weights: str | None, device: str, stamp: Any) -> Opened:
    return _built(load_backbone(name, size=size, fit=framing, weights=weights), device)


# Backbones that were given as objects: scikit-learn copies an estimator's parameters for every fold.
_objects: dict[tuple[str, ...], Opened] = {}


def _kept(backbone: Backbone, device: str) -> Opened:
    key = (backbone.name, backbone.weights_hash, backbone.spec.fingerprint, device)
    if key not in _objects:
        while len(_objects) >= LOADED:
            _objects.pop(next(iter(_objects)))
        _objects[key] = _built(backbone, device)
    return _objects[key]


def _built(backbone: Backbone, device: str) -> Opened:
    network = backbone.build()
    network.to(device)
    return Opened(backbone, network)
