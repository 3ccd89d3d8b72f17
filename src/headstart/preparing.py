"""Make ready what a run needs before it begins: the photos, the backbone, the recipe, and all that is open for it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from headstart import workers
from headstart.backbones.backbone import Backbone, OnProgress
from headstart.backbones.fetching import fetched
from headstart.backbones.loading import load_backbone
from headstart.config import Settings
from headstart.data.dataset import Dataset
from headstart.data.loading import survey
from headstart.events import Event
from headstart.machine import cores
from headstart.modalities.loading import load_modality
from headstart.networks.network import HEAD, Cut, Network
from headstart.runs import Run, default_path
from headstart.runtimes import framework
from headstart.runtimes.runtime import Offer, Runner
from headstart.session import Session
from headstart.store import Store
from headstart.training.recipe import Recipe
from headstart.training.recipe import plan as plan_recipe
from headstart.training.stages import learning_rates
from headstart.weighting import item_weights, parse, written


def without_files(settings: Settings) -> Settings:
    """The same with what a file of class weights says: it may be another by the time that the run is resumed."""
    return replace(settings, class_weights=written(parse(settings.class_weights)))


def _loaded(settings: Settings, on_progress: OnProgress | None = None) -> Backbone:
    return load_backbone(
        settings.backbone,
        size=settings.size,
        weights=settings.weights,
        framework=settings.framework,
        cut=settings.cut,
        allow_code=settings.allow_code,
        factory=settings.factory,
        fit=None if settings.fit == "best" else settings.fit,
        on_progress=on_progress,
    )


def fetched_backbone(settings: Settings) -> Generator[Event, None, Backbone]:
    """The backbone; while its weights are downloaded, how far that is. Leaving early stops the download."""
    return (yield from fetched(partial(_loaded, settings)))


def folder_for(settings: Settings) -> Path:
    """Where the run goes."""
    return Path(settings.out) if settings.out else default_path(settings.data)


def surveyed(settings: Settings) -> Generator[Event, None, Dataset]:
    """The photos, each looked at: what cannot be decoded is listed before a run folder exists."""
    found = yield from survey(
        settings.data,
        seed=settings.seed,
        splits=settings.splits,
        columns=settings.columns,
        max_pixels=settings.max_pixels,
    )
    return found.dataset


def recipe_of(settings: Settings, dataset: Dataset, network: Network) -> Recipe:
    """The recipe, refused where a stage asks for more groups than there are, or class weights fit to other classes."""
    recipe = plan_recipe(
        settings,
        validation=len(dataset.validation),
        groups=network.groups,
        gpu="cuda" in network.engine,
    )
    for stage in recipe.stages:
        rates = learning_rates(stage, network.groups)
        if stage.lora:
            network.check_adapters(set(rates) - {HEAD})
    item_weights(dataset.train, parse(settings.class_weights))
    return recipe


def identity(backbone: Backbone) -> dict[str, Any]:
    """What a run remembers of its backbone."""
    return {
        "name": backbone.name,
        "size": backbone.spec.size,
        "fit": backbone.spec.fit,
        "weights_hash": backbone.weights_hash,
        "licence": backbone.licence,
        "framework": backbone.framework,
        "about": dict(backbone.about),
    }


def head_cut(recipe: Recipe, network: Network) -> Cut:
    """The cut that the recipe's head stands on."""
    return next(cut for cut in network.cuts if cut.name == recipe.head.input)


def opened(run: Run, backbone: Backbone, network: Network, began: float, *, looking: float = 0.0) -> Session:
    """What one process has open to work on this run, of whose time it has spent so much looking at the photos."""
    session = Session(
        run=run,
        settings=run.settings,
        backbone=backbone,
        network=network,
        modality=load_modality("image", max_pixels=run.settings.max_pixels),
        dataset=run.dataset,
        store=Store.default(),
        workers=run.settings.workers or max(cores(), network.concurrency),
        began=began,
    )
    session.took = {"start": session.used - looking, "looking at photos": looking}
    return session


def staff(session: Session, photos: Dataset, cut: Cut, offer: Offer) -> Generator[Event, None, None]:
    """Settle how many threads read, decode and compute: as asked for, or by measuring, and once in a run."""
    wanted, network = session.shop.wanted(photos, cut), session.network

    def opened() -> Runner:
        # What has nothing to compute is not opened only to be measured.
        return session.choices.runner(wanted, offer if wanted.missing(offer) else framework.offer_of(network))

    number, reason = session.workers, "asked for"
    if session.settings.workers is None and session.run.decision("workers") is None:
        decode = partial(session.modality.decode, spec=session.backbone.spec, reduced=True)
        number, reason = workers.chosen(
            photos.files, decode, opened, cores=session.workers, gpu=not network.engine.endswith("cpu")
        )
    session.workers = int((yield from session.decide("workers", number, reason)))
