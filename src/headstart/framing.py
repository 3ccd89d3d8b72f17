"""Choose how photos are brought to the backbone's square, cropped, padded or squashed, by cross-validation."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from headstart.backbones.backbone import Backbone
from headstart.data.dataset import Dataset
from headstart.events import Event
from headstart.features import Features
from headstart.modalities.spec import Fit
from headstart.outcome import outcome
from headstart.probe import probe
from headstart.session import Session
from headstart.weighting import item_weights

FITS: tuple[Fit, ...] = ("crop", "pad", "squash")


def best_fit(session: Session) -> Generator[Event, None, None]:
    """Give the session the backbone with the fit that is best for its training photos, or that a resumed run chose.

    Each fit is judged by the exact linear head on pooled features, out of fold, so validation photos stay unseen. The
    backbone's own fit is kept unless the best is more accurate by more than the standard error of that difference.

    Raises:
        BadData: the training photos are all the same.
        DiskFull: the store has no room for the features.
    """
    told = session.run.decision("fit")
    if told is not None:
        session.backbone = fitted(session.backbone, told.value)
        return
    photos, features = session.dataset.train, {}
    for fit in FITS:
        features[fit] = yield from _features(session, photos, fit)
    # What cannot be read leaves the data set, with its reason, in the extraction that follows.
    readable = set.intersection(*(set(found.ids) for found in features.values()))
    photos = photos.with_items(item for item in photos.items if item.id in readable)
    weights = item_weights(photos, session.class_weights)
    rights = {fit: right_out_of_fold(found, photos, weights, session.settings.seed) for fit, found in features.items()}
    chosen, reason = choose(rights, session.backbone.spec.fit, weights)
    value = yield from session.decide("fit", chosen, reason)
    session.backbone = fitted(session.backbone, value)


def fitted(backbone: Backbone, fit: Fit) -> Backbone:
    """The same backbone, its photos brought to a square in this way."""
    return replace(backbone, spec=replace(backbone.spec, fit=fit))


def choose(
    rights: Mapping[Fit, Bool[np.ndarray, "n"]], own: Fit, weights: Float[np.ndarray, "n"] | None = None
) -> tuple[Fit, str]:
    """The fit to take and why, from which photos each fit got right; all in the same order, each with its weight."""
    shares = np.ones(len(rights[own])) if weights is None else np.asarray(weights, dtype=np.float64)
    shares = shares / shares.sum()
    accuracies = {fit: float(shares @ right) for fit, right in rights.items()}
    best = max(rights, key=lambda fit: (accuracies[fit], fit == own))
    gains = rights[best].astype(np.float64) - rights[own]  # paired: what both get right or wrong says nothing
    gain = float(shares @ gains)
    error = float(np.sqrt((shares**2) @ (gains - gain) ** 2))
    figures = ", ".join(f"{fit} {accuracy:.3f}" for fit, accuracy in accuracies.items())
    found = f"accuracy of a linear head on {len(gains)} training photos, out of fold: {figures}"
    if best == own:
        return own, f"{found}; it is the backbone's own, and none is better"
    if gain <= error:
        return own, f"{found}; it is the backbone's own, and {best} is not better by more than the standard error"
    return best, f"{found}; better than the backbone's own {own} by {gain:.3f}, with a standard error of {error:.3f}"


def _features(session: Session, photos: Dataset, fit: Fit) -> Generator[Event, None, Features]:
    shop = replace(session.shop, backbone=fitted(session.backbone, fit))
    yield from shop.choose(photos, session.network.cuts[-1])
    with session.network.leading():
        return (yield from shop.features(photos, session.network.cuts[-1]))


def right_out_of_fold(
    features: Features, photos: Dataset, weights: Float[np.ndarray, "n"] | None, seed: int
) -> Bool[np.ndarray, "n"]:
    """Which of these photos a linear head names rightly that was fitted on the others."""
    ids = [item.id for item in photos.items]
    path = probe(features.take(ids), photos.labels, photos.families, len(photos.classes), seed=seed, weights=weights)
    right: Bool[np.ndarray, "n"] = outcome(path).out_of_fold.argmax(1) == photos.labels
    return right
