"""Choose where a stage's batches come from, as deep in the network as they may enter, and what judges it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from headstart import pipeline
from headstart.backbones.backbone import Backbone
from headstart.data.dataset import Dataset
from headstart.errors import BadData
from headstart.events import Event
from headstart.features import Features, extract
from headstart.modalities.modality import Modality
from headstart.networks.network import INPUT, Cut, Network
from headstart.runtimes.runtime import CHUNK, Plain
from headstart.store import Store
from headstart.training.batches import CachedBatches, Order, PhotoBatches
from headstart.training.loop import Score, Source
from headstart.training.stages import Stage, learning_rates
from headstart.weighting import ClassWeights, item_weights

Judge = Callable[[], Score]
Weights = Float[np.ndarray, "n"] | None  # of each photo; None: all the same
TEMPERATURES = np.geomspace(0.25, 4.0, 65)  # steps of 4 %: finer would fit the photos, not the network


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What stages work with, and stays the same from one to the next."""

    backbone: Backbone
    network: Network
    modality: Modality
    store: Store
    workers: int
    seed: int
    class_weights: ClassWeights = None

    def features(
        self, photos: Dataset, cut: Cut, *, view: int = 0, reduced: bool = True
    ) -> Generator[Event, None, Features]:
        """Features of these photos out of the store, computed where they are missing."""
        return (
            yield from extract(
                photos,
                self.backbone,
                self.network,
                cut,
                modality=self.modality,
                store=self.store,
                workers=self.workers,
                view=view,
                reduced=reduced,
            )
        )


def entry(network: Network, stage: Stage, head_cut: Cut) -> Cut:
    """The deepest cut at which a stage's batches may enter: below it all is frozen and as it was pre-trained.

    Raises:
        BadSetting: the stage unfreezes more groups than there are.
    """
    trained = network.moved | set(learning_rates(stage, network.groups))
    frozen = next((place for place, group in enumerate(network.groups) if group.name in trained), None)
    if frozen is None:
        return head_cut
    return [cut for cut in network.cuts if cut.after <= frozen][-1]


def open_stage(
    shop: Workshop, stage: Stage, data: Dataset, head_cut: Cut
) -> Generator[Event, None, tuple[Source, Judge | None]]:
    """The batches of a stage, from features where the stage allows it, and the judge on the validation photos.

    Raises:
        BadSetting: the stage unfreezes more groups than there are.
        BadData: a photo cannot be read.
        DiskFull: the store has no room for the features.
    """
    order = Order(
        n=len(data.train),
        batch_size=stage.batch_size,
        seed=shop.seed,
        stage=str(stage),
        shard=shop.network.shard,
        weights=item_weights(data.train, shop.class_weights),
    )
    weights = item_weights(data.validation, shop.class_weights)
    cut = entry(shop.network, stage, head_cut)
    if cut == INPUT or (stage.unfreeze and not stage.views):
        source: Source = PhotoBatches(
            dataset=data.train,
            modality=shop.modality,
            spec=shop.backbone.spec,
            order=order,
            augment=stage.augment,
            workers=shop.workers,
        )
        return source, _judge_of_photos(shop, data.validation, weights)
    views = []
    for view in range(max(1, stage.views if stage.augment else 0)):
        features = yield from shop.features(data.train, cut, view=view)
        views.append(_readable(features, data.train))
    source = CachedBatches(views=tuple(views), dataset=data.train, order=order, start=cut)
    judged = yield from shop.features(data.validation, cut)
    features = _readable(judged, data.validation)
    return source, _judge_of_features(shop.network, features, data.validation, cut, weights)


def bytes_of_views(network: Network, stage: Stage, data: Dataset, head_cut: Cut) -> int:
    """How much room the cached views of a stage take; 0 where it has none."""
    cut = entry(network, stage, head_cut)
    if cut == INPUT or not stage.views:
        return 0
    blank = np.zeros((1, *network.input_shape), np.uint8)
    return int(network.features(blank, cut).nbytes) * (stage.views * len(data.train) + len(data.validation))


def _judge_of_photos(shop: Workshop, photos: Dataset, weights: Weights) -> Judge | None:
    if not len(photos):
        return None
    decode = partial(shop.modality.decode, spec=shop.backbone.spec, reduced=True)

    def judge() -> Score:
        chunks = list(
            pipeline.run(photos.files, decode, Plain(shop.network, shop.network.logits), workers=shop.workers)
        )
        for position, reason in ((p, r) for chunk in chunks for p, r in chunk.failed.items()):
            raise _unreadable(photos.items[position].path, reason)
        return _judged(shop.network, photos, np.concatenate([chunk.values for chunk in chunks]), weights)

    return judge


def _judge_of_features(
    network: Network, features: Features, photos: Dataset, cut: Cut, weights: Weights
) -> Judge | None:
    if not len(photos):
        return None
    ids = [item.id for item in photos.items]

    def judge() -> Score:
        pieces = [ids[first : first + CHUNK] for first in range(0, len(ids), CHUNK)]
        logits = [network.logits(features.take(piece), cut) for piece in pieces]
        return _judged(network, photos, np.concatenate(logits), weights)

    return judge


def _judged(network: Network, photos: Dataset, logits: Float[np.ndarray, "n k"], weights: Weights) -> Score:
    return replace(score(photos.labels, logits, weights), metrics=network.measured(photos.labels, logits))


def score(labels: Int[np.ndarray, "n"], logits: Float[np.ndarray, "n k"], weights: Weights = None) -> Score:
    """Accuracy in [0, 1], and log loss in nats at the temperature that makes it smallest (Guo et al. 2017).

    With `weights` each item counts by its own: where classes are balanced, this is the balanced accuracy.
    """
    losses = [_log_loss(labels, logits / temperature, weights) for temperature in TEMPERATURES]
    best = int(np.argmin(losses))
    accuracy = float(np.average(logits.argmax(axis=1) == labels, weights=weights))
    return Score(losses[best], accuracy, float(TEMPERATURES[best]))


def _log_loss(labels: Int[np.ndarray, "n"], logits: Float[np.ndarray, "n k"], weights: Weights) -> float:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(np.average(-log_probabilities[np.arange(len(labels)), labels], weights=weights))


def live_share(network: Network, groups: Sequence[str]) -> float:
    """The share of a forward pass's FLOPs that lies from the first of these groups on."""
    live = [position for position, group in enumerate(network.groups) if group.name in groups]
    total = sum(group.flops for group in network.groups)
    return sum(group.flops for group in network.groups[min(live) :]) / total if live else 0.0


def _readable(features: Features, photos: Dataset) -> Features:
    for item in photos.items:
        if item.id in features.unreadable:
            raise _unreadable(item.path, features.unreadable[item.id])
    return features


def _unreadable(path: str, reason: str) -> BadData:
    return BadData(
        f"photo {path!r} cannot be used: {reason}", fix="put it back as it was, or leave it out and start anew"
    )
