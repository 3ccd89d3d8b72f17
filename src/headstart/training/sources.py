"""Choose where a stage's batches come from, as deep in the network as they may enter, and what judges it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from headstart import pipeline
from headstart.backbones.backbone import Backbone
from headstart.choosing import Choices, Wanted
from headstart.data.dataset import Dataset
from headstart.errors import BadData, DiskFull
from headstart.evaluation.calibration import TEMPERATURES
from headstart.events import Decision, Event
from headstart.features import Features
from headstart.modalities.modality import Modality
from headstart.networks.network import INPUT, Cut, Network
from headstart.runtimes.runtime import CHUNK, Offer, Plain
from headstart.store import Store
from headstart.training.batches import CachedBatches, Order, PhotoBatches
from headstart.training.loop import Score, Source
from headstart.training.stages import Stage, learning_rates
from headstart.training.views import FEWEST, Cost
from headstart.weighting import ClassWeights, item_weights

Judge = Callable[[], Score]
Weights = Float[np.ndarray, "n"] | None  # of each photo; None: all the same


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
    choices: Choices = field(default_factory=Choices)

    def features(
        self,
        photos: Dataset,
        cut: Cut,
        *,
        view: int = 0,
        reduced: bool = True,
        half: bool = False,
        exact: bool = False,
    ) -> Generator[Event, None, Features]:
        """Features of these photos out of the store, computed where they are missing; in float16 if `half`.

        What computes them is chosen at the first need of each cut. `exact`: by the network's own framework, for photos
        that judge: what is promised is measured on what ships.
        """
        wanted = self.wanted(photos, cut, view=view, reduced=reduced, half=half)
        return (yield from self.choices.features(wanted, workers=self.workers, exact=exact))

    def wanted(self, photos: Dataset, cut: Cut, *, view: int = 0, reduced: bool = True, half: bool = False) -> Wanted:
        """Which features these are, whoever computes them."""
        return Wanted(
            dataset=photos,
            backbone=self.backbone,
            network=self.network,
            cut=cut,
            modality=self.modality,
            store=self.store,
            reduced=reduced,
            view=view,
            half=half,
        )

    def choose(self, photos: Dataset, cut: Cut, *, views: int = 1) -> Generator[Event, None, Offer]:
        """What computes the features at this cut: with several processes before any of them waits for another.

        The more `views` of each photo will be wanted, the more it pays to prepare something fast.

        Raises:
            BadRuntime: no way allows the precision that was asked for.
        """
        return (yield from self.choices.offer(replace(self.wanted(photos, cut), views=views)))


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

    Where the disk has no room for what enters at the boundary, a decision says so and the batches are photos.

    Raises:
        BadSetting: the stage unfreezes more groups than there are.
        BadData: a photo cannot be read.
        DiskFull: the store has no room for the features that the head itself starts from.
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
    if cut != INPUT and (stage.views or not stage.unfreeze):
        kept = yield from _kept(shop, stage, data, cut, half=cut != head_cut)
        if kept is not None:
            source = CachedBatches(views=kept.views, dataset=data.train, order=order, start=cut)
            return source, _judge_of_features(shop.network, kept.judged, data.validation, cut, weights)
    photos = PhotoBatches(
        dataset=data.train,
        modality=shop.modality,
        spec=shop.backbone.spec,
        order=order,
        augment=stage.augment,
        workers=shop.workers,
    )
    return photos, _judge_of_photos(shop, data.validation, weights)


@dataclass(frozen=True)
class _Kept:
    """What a stage starts from: each view of the photos to train on, and the plain one of those to judge by."""

    views: tuple[Features, ...]
    judged: Features


def _kept(shop: Workshop, stage: Stage, data: Dataset, cut: Cut, *, half: bool) -> Generator[Event, None, _Kept | None]:
    """What crosses the cut for all views of the stage: fewer, or nothing, where the disk turns out to be too full.

    Raises:
        DiskFull: the cut is the head's own, whose features are too small to do without.
    """
    wanted = max(1, stage.views if stage.augment else 0)
    views: list[Features] = []
    yield from shop.choose(data.train, cut, views=wanted)  # while no process waits for another
    judged = yield from _filled(shop, data.validation, cut, half=half, exact=True)
    while judged is not None and len(views) < wanted:
        found = yield from _filled(shop, data.train, cut, view=len(views), half=half)
        if found is None:
            break
        views.append(found)
    enough = judged is not None and len(views) >= min(wanted, FEWEST)
    if len(views) < wanted:
        told = f"activations of {len(views)} of {wanted} views" if enough else "no activations"
        yield Decision(
            name=f"views/{stage}",
            value=len(views) if enough else 0,
            reason=f"the disk is full: {told} are kept" + ("" if enough else ", every epoch computes them anew"),
        )
    return _Kept(tuple(views), judged) if enough and judged is not None else None


def _filled(
    shop: Workshop, photos: Dataset, cut: Cut, *, view: int = 0, half: bool, exact: bool = False
) -> Generator[Event, None, Features | None]:
    """What crosses the cut for one view of these photos; None where the disk is full.

    Of several processes each computes its share, then the first what is missing still, and the others find it.

    Raises:
        DiskFull: the disk is full, and these are not `half`: features at the head's own cut.
        BadData: a photo cannot be read.
    """
    rank, world = shop.network.shard
    if world > 1:
        with suppress(DiskFull):
            share = photos.with_items(photos.items[rank::world])
            yield from shop.features(share, cut, view=view, half=half, exact=exact)
        with shop.network.leading():
            pass  # all meet here
    found: Features | None = None
    if rank == 0:
        try:
            found = yield from shop.features(photos, cut, view=view, half=half, exact=exact)
        except DiskFull:
            if not half:
                raise
    if not shop.network.agree(float(found is not None)):
        return None
    if found is None:
        found = yield from shop.features(photos, cut, view=view, half=half, exact=exact)
    return _readable(found, photos)


def cost_of(
    network: Network, stage: Stage, data: Dataset, head_cut: Cut, *, class_weights: ClassWeights = None
) -> Cost:
    """What a stage works on, in FLOPs; of a stage without a boundary, all of it is live.

    Multiply `frozen` and `live` by seconds a FLOP to compare it with a clock.

    Raises:
        BadSetting: the stage unfreezes more groups than there are, or a class has no weight.
    """
    cut = entry(network, stage, head_cut)
    weights = item_weights(data.train, class_weights)
    total = sum(group.flops for group in network.groups)
    frozen = sum(group.flops for group in network.groups[: cut.after])
    # A backward pass costs two forward passes, and goes no deeper than what this stage moves.
    backward = 2 * live_share(network, list(learning_rates(stage, network.groups))) * total
    return Cost(
        photos=len(data.train),
        judged=len(data.validation),
        sights=Order(n=len(data.train), batch_size=1, seed=0, stage="", weights=weights).sights,
        epochs=stage.epochs,
        frozen=frozen,
        live=total - frozen + backward,
        bytes=_bytes_of_photo(network, cut, half=cut != head_cut),
    )


def _bytes_of_photo(network: Network, cut: Cut, *, half: bool) -> int:
    blank = np.zeros((1, *network.input_shape), np.uint8)
    return 0 if cut == INPUT else network.features(blank, cut).size * (2 if half else 4)


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
