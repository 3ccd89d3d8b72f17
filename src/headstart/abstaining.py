"""Learn, at the end of a run, what is like none of its photos: from features that it has, or of a thousand photos."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from headstart import pipeline
from headstart.data.dataset import Dataset
from headstart.errors import DiskFull
from headstart.events import Event
from headstart.machine import product_threads
from headstart.networks.network import HEAD, INPUT, Cut
from headstart.novelty import COMPUTED, FALSE_ALARMS, Novelty, fit, limited, needed, out_of_fold
from headstart.probe import FOLDS, assign_folds
from headstart.runtimes.runtime import Plain, chunk_of
from headstart.session import Session
from headstart.training.sources import entry
from headstart.training.stages import Stage

CACHED = 10_000  # photos whose features are there already: more would tell the mean of a class no better
A_CLASS = 5  # photos of each class at least, where it has as many


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """Where training photos lie, and how far from them photos lie that the fit has not seen, where that is known."""

    novelty: Novelty
    held_out: Float[np.ndarray, "m"] | None
    families: Sequence[str]  # of the photos that it was fitted on

    def limited(self, validation: Float[np.ndarray, "m"], families: Sequence[str]) -> tuple[Novelty | None, str]:
        """With a threshold, by these distances of validation photos where there are no others; and how it came about.

        None where there are too few photos.
        """
        held_out = validation if self.held_out is None else self.held_out
        families = families if self.held_out is None else self.families
        which = f"{len(held_out)} validation photos"
        if self.held_out is not None:
            which = f"{len(held_out)} training and validation photos, each from those of the other {FOLDS - 1} folds"
        apart = len(set(families))
        groups = f" in {apart} groups" if apart < len(held_out) else ""
        found = limited(self.novelty, held_out, families)
        if found is None:
            few = f"{len(held_out)} photos{groups} cannot tell a threshold for {FALSE_ALARMS:.0%} of false alarms"
            return None, f"never unsure: {few}, {needed()}{' groups' if groups else ''} can"
        return found, (
            f"distance of the features, at length 1, from the nearest of the classes' means over {len(self.families)} "
            f"photos; the threshold by the distances of {which}{groups}"
        )


def known(session: Session) -> Generator[Event, None, Known | None]:
    """Where the training photos lie for the network as it is now; None where not one can be read any more.

    A network whose layers have moved knows its training photos better than any other photo, so those cannot tell what
    is far. One that is as pre-trained has seen none: training and validation photos tell it together, out of fold.
    """
    tuned = bool(session.network.moved - {HEAD})
    photos = session.dataset.train if tuned else session.dataset.only("train", "validation")
    photos = sample(photos, COMPUTED if tuned else CACHED, seed=session.settings.seed)
    photos, features = yield from _pooled(session, photos)
    if not len(photos):
        return None
    held_out = None
    with product_threads(1):  # of products as small as these, more threads wait for each other
        if not tuned and len(set(photos.families)) > 1:
            folds = assign_folds(photos.labels, photos.families, seed=session.settings.seed, folds=FOLDS)
            held_out = out_of_fold(features, photos.labels, folds)
        return Known(novelty=fit(features, photos.labels), held_out=held_out, families=photos.families)


def sample(photos: Dataset, most: int, *, seed: int) -> Dataset:
    """So many of these photos, of each class about the same share, and some of each."""
    most = max(most, A_CLASS * len(photos.classes))
    if len(photos) <= most:
        return photos
    order = np.random.default_rng(seed).permutation(len(photos))
    labels = photos.labels[order]
    share = np.empty(len(order))  # of its class that comes before a photo
    for label in np.unique(labels):
        inside = labels == label
        share[inside] = np.arange(inside.sum()) / inside.sum()
    kept = np.sort(order[np.argsort(share, kind="stable")[:most]])
    return photos.with_items(photos.items[row] for row in kept)


def _pooled(session: Session, photos: Dataset) -> Generator[Event, None, tuple[Dataset, Float[np.ndarray, "n d"]]]:
    """The pooled features of the network as it is now, of those photos that can be read.

    What lies below the layers that have moved is in the cache: only they compute.
    """
    network = session.network
    # A stage that moves nothing more starts at the deepest cut below which all is as pre-trained.
    cut = entry(network, Stage(epochs=0, lr=0.0), network.head_cut)
    if cut != INPUT:
        with suppress(DiskFull):  # the photos themselves do as well
            return (yield from _through(session, photos, cut))
    decode = partial(session.modality.decode, spec=session.backbone.spec, reduced=True)
    runner = Plain(network, partial(network.features, upto=network.cuts[-1]))
    rows, kept = [], []
    for chunk in pipeline.run(photos.files, decode, runner, workers=session.workers):
        rows += list(chunk.values)
        kept += list(chunk.positions)
    return photos.with_items(photos.items[row] for row in kept), np.array(rows)


def _through(
    session: Session, photos: Dataset, cut: Cut
) -> Generator[Event, None, tuple[Dataset, Float[np.ndarray, "n d"]]]:
    """The same from what crosses a cut, out of the cache."""
    network, pooled = session.network, session.network.cuts[-1]
    yield from session.shop.choose(photos, cut)  # while no process waits for another
    with network.leading():
        found = yield from session.shop.features(photos, cut, half=cut != network.head_cut)
    there = set(found.ids)
    photos = photos.with_items(item for item in photos.items if item.id in there)
    ids = [item.id for item in photos.items]
    if not ids:
        return photos, np.empty((0, 1))
    if cut == pooled:
        return photos, found.take(ids)
    size = chunk_of(network)
    pieces = [found.take(ids[first : first + size]) for first in range(0, len(ids), size)]
    return photos, np.concatenate([network.features(piece, pooled, cut) for piece in pieces])
