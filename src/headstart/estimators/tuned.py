"""Tune a network on pictures in memory and keep it as arrays: the stages of a run, without its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from headstart import pipeline
from headstart.answering import VIEWS
from headstart.backbones.backbone import Backbone
from headstart.config import Settings
from headstart.data.dataset import Dataset
from headstart.errors import first_five
from headstart.estimators.embedding import Opened
from headstart.estimators.samples import BadSamples, Sample
from headstart.events import Event, StageEnded
from headstart.heads import Head, parse
from headstart.modalities.loading import load_modality
from headstart.model import Model
from headstart.networks.network import Network
from headstart.probe import assign_folds
from headstart.runtimes.runtime import Plain
from headstart.training.recipe import plan
from headstart.training.sources import score
from headstart.weighting import item_weights

TENTH = 10  # one picture in so many is held back while stages run, to choose by


@dataclass(eq=False)
class Tuned:
    """A tuned network as arrays: what is pickled. It is built anew when it is first asked in a process."""

    head: str
    classes: int
    weights: dict[str, np.ndarray]
    temperature: float
    views: tuple[str, ...]
    _network: Network | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Tuned:
        return replace(self, _network=None)

    def logits(self, backbone: Backbone, found: Sequence[Sample], device: str) -> Float[np.ndarray, "n k"]:
        """Logarithms of the probabilities, averaged over the views.

        Raises:
            BadSamples: a picture cannot be read.
        """
        if self._network is None:
            network = backbone.build()
            network.set_head(parse(self.head), self.classes)
            network.load_weights(self.weights)
            network.to(device)
            self._network = network
        compute = partial(_answers, self._network, self.views, self.temperature)
        decode = partial(load_modality("image").decode, spec=backbone.spec, reduced=True)
        chunks = list(pipeline.run([sample.source for sample in found], decode, Plain(self._network, compute)))
        lost = [f"{found[place].name} ({why})" for chunk in chunks for place, why in chunk.failed.items()]
        if lost:
            raise BadSamples(
                f"{len(lost)} of {len(found)} pictures cannot be used: {first_five(lost)}", fix="leave them out of X"
            )
        return np.concatenate([chunk.values for chunk in chunks])


def tune(opened: Opened, photos: Dataset, settings: Settings) -> Tuned | None:
    """The stages that a run of this quality would go through, on these pictures; None where they bring nothing.

    A tenth of the pictures is held back to choose by. Where the head is linear and no stage beats the frozen network
    on them, or they are too few to tell, nothing is kept: then the exact head on all pictures is the better answer.

    Raises:
        HeadstartError: as `Model.fit`.
    """
    data = _held_back(photos, settings.seed)
    network = opened.network
    recipe = plan(settings, validation=len(data.validation), groups=network.groups, gpu="cuda" in network.engine)
    if recipe.probe and not recipe.stages:
        return None
    ends: list[StageEnded] = []

    def note(event: Event) -> None:
        if isinstance(event, StageEnded):
            ends.append(event)

    model = Model(
        opened.backbone,
        recipe.head,
        classes=data.classes,
        device=settings.device,
        seed=settings.seed,
        optimization=recipe.optimization,
    )
    if recipe.probe:
        model.fit(data)
    for stage in recipe.stages:
        model.fit(data, stage, on_event=note)
    if recipe.probe and not any(end.best for end in ends):
        return None
    return _finished(model, recipe.head, recipe.views, data.validation)


def _held_back(photos: Dataset, seed: int) -> Dataset:
    """The same with a tenth for validation, spread over the classes; each class keeps one to learn from."""
    folds = assign_folds(photos.labels, [item.id for item in photos.items], seed=seed, folds=TENTH)
    left = set(photos.labels[folds > 0].tolist())
    sides = zip(photos.items, folds.tolist(), strict=True)
    return photos.with_items(
        replace(item, split="train" if fold or item.label not in left else "validation") for item, fold in sides
    )


def _finished(model: Model, head: Head, views: tuple[str, ...], validation: Dataset) -> Tuned:
    """The model with the views and the temperature that fit its validation pictures best."""
    found = [Sample(item.id, path, item.path) for item, path in zip(validation.items, validation.paths, strict=True)]
    kept = Tuned(str(head), len(model.classes), model.network.weights(), 1.0, ("plain",), model.network)
    if not found:
        return kept
    weights = item_weights(validation, None)
    choices = [replace(kept, views=several) for several in dict.fromkeys((("plain",), views))]
    scores = [score(validation.labels, one.logits(model.backbone, found, "auto"), weights) for one in choices]
    best = len(scores) - 1 if scores[-1].beats(scores[0]) else 0
    return replace(choices[best], temperature=scores[best].temperature)


def _answers(network: Network, views: tuple[str, ...], temperature: float, pictures: np.ndarray) -> np.ndarray:
    each: list[Callable[[Any], Any]] = [VIEWS[view] for view in views]
    logits = [network.logits(view(pictures)).astype(np.float64) / temperature for view in each]
    if len(logits) == 1:
        return logits[0]
    shares = [np.exp(one - one.max(1, keepdims=True)) for one in logits]
    mean: np.ndarray = np.log(np.mean([one / one.sum(1, keepdims=True) for one in shares], axis=0))
    return mean
