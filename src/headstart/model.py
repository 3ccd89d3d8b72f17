"""Do transfer learning in steps: a backbone, a head, stages one after the other, and the framework's own model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from headstart import heads
from headstart.answering import Answerer
from headstart.backbones.backbone import Backbone
from headstart.data.archive import at
from headstart.data.batches import pictures
from headstart.data.dataset import Dataset
from headstart.errors import BadData
from headstart.evaluation.metrics import Metrics, measure
from headstart.events import EpochEnded, Event
from headstart.machine import cores
from headstart.modalities.loading import load_modality
from headstart.modalities.png import Picture
from headstart.networks.network import Cut, Network, Optimization, Own
from headstart.outcome import outcome
from headstart.pipeline import Readable
from headstart.probe import probe
from headstart.store import Store
from headstart.training.loop import train
from headstart.training.sources import Workshop, open_stage
from headstart.training.stages import Stage
from headstart.weighting import ClassWeights, item_weights, parse

Result = TypeVar("Result")
HEAD_ALONE = Stage(epochs=30, lr=1e-3, patience=5, augment=False)  # for a head of layers when no stage is given


class Model:
    """A backbone with a new head.

    Args:
        backbone: what `load_backbone` gave.
        head: `heads.linear()`, `heads.mlp(1024)`, any `heads.Head`, or the notation of `--head`. On a Keras backbone
            also Keras layers, as a list or a `keras.Sequential`, the output layer among them: those that begin with a
            dense layer, dropout, activation or normalisation stand on pooled features, others on the feature map.
        classes: names of the outputs, in order: usually `dataset.classes`.
        device: `cpu`, `cuda`, `mps` or `auto`.
        seed: draws the head's first weights, the order of the photos and their augmentation.
        optimization: how weights move; the same for every stage, so that unfreezing keeps the optimizer's state.
        optimizer: on a Keras backbone, any Keras optimizer in place of AdamW. A stage's rates replace its own.
        loss: on a Keras backbone, any Keras loss in place of cross-entropy; labels are made one-hot where it wants it.
        metrics: on a Keras backbone, Keras metrics that are told beside ours: after each epoch in `history`, and by
            `evaluate` as `own`.
        max_pixels: a photo of more is refused; by default one of more than 178,956,970.

    Raises:
        BadSetting: the head does not fit, or the backbone's framework does not know such an optimizer or loss.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: heads.Head | str | Sequence[Any] | Any = "linear",
        *,
        classes: Sequence[str],
        device: str = "auto",
        seed: int = 0,
        optimization: Optimization | None = None,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Sequence[Any] = (),
        max_pixels: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.head = heads.taken(head)
        self.classes = tuple(classes)
        self.seed = seed
        self.modality = load_modality("image", max_pixels=max_pixels)
        self.history: list[EpochEnded] = []
        self.network: Network = backbone.build()
        self.network.to(device)
        self.network.set_head(self.head, len(self.classes), seed=seed)
        own = Own(optimizer=optimizer, loss=loss, metrics=tuple(metrics))
        self.network.prepare(optimization or Optimization(), own)
        self._shop = Workshop(
            backbone=backbone,
            network=self.network,
            modality=self.modality,
            store=Store.default(),
            workers=max(cores(), self.network.concurrency),
            seed=seed,
        )

    @property
    def native(self) -> Any:
        """The framework's own model: a `torch.nn.Module` gives logits, a `keras.Model` probabilities."""
        return self.network.native

    def fit(
        self,
        data: Dataset,
        stage: Stage | None = None,
        *,
        class_weights: str | PathLike[str] | Mapping[str, float] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Model:
        """Train on `data.train`; where there is a validation split, the best epoch's weights are kept.

        Without a stage, a linear head is solved exactly on cached features, and one of layers trained alone. A stage
        that unfreezes nothing reads cached features too.

        Args:
            data: photos with the model's classes.
            stage: which groups move, for how long, how fast.
            class_weights: `balanced` counts each class alike, in training and in what chooses the best epoch; or a
                weight for each class, as a mapping or in a file. `None` and `none` count photos.
            on_event: called with each event.

        Raises:
            BadData: the classes are others, or a photo cannot be read.
            BadSetting: the stage unfreezes more groups than there are, or a class has no weight.
            Diverged: a loss is not a finite number.
        """
        self._check(data)
        weights = parse(class_weights)
        exactly = stage is None and self.head.linear
        for event in self._solve(data, weights) if exactly else self._train(data, stage or HEAD_ALONE, weights):
            if isinstance(event, EpochEnded):
                self.history.append(event)
            if on_event is not None:
                on_event(event)
        return self

    def evaluate(self, data: Dataset) -> Metrics:
        """How well the model does on all photos of `data`, `dataset.test` for instance.

        Raises:
            BadData: the classes are others, there is no photo, or one cannot be read.
        """
        self._check(data)
        probabilities = self._answers(data.files)
        metrics = measure(data.labels, probabilities, self.classes, families=data.families, seed=self.seed)
        return replace(metrics, own=self.network.measured(data.labels, np.log(np.maximum(probabilities, 1e-12))))

    def predict(self, photos: Sequence[str | Path] | np.ndarray) -> Float[np.ndarray, "n k"]:
        """Probabilities for these files, or these pictures `[n h w c]` of 0..255, in the order of `classes`.

        Raises:
            BadData: one of them cannot be read.
        """
        arrays = hasattr(photos, "__array__")
        return self._answers(list(map(Picture, pictures(photos))) if arrays else [at(Path(photo)) for photo in photos])

    def _answers(self, photos: Sequence[Readable]) -> Float[np.ndarray, "n k"]:
        model = Answerer(network=self.network, modality=self.modality, spec=self.backbone.spec)
        probabilities, failed = outcome(model.answer(photos))
        for position, reason in failed.items():
            photo = photos[position]
            name = f"picture {position}" if isinstance(photo, Picture) else f"photo {str(photo)!r}"
            raise BadData(f"{name} cannot be used: {reason}", fix="leave it out")
        return probabilities

    def _solve(self, data: Dataset, weights: ClassWeights) -> Iterator[Event]:
        photos = data.train
        ids = [item.id for item in photos.items]
        features = yield from self._shop.features(photos, self._cut)
        each = item_weights(photos, weights)
        rows = features.take(ids)
        solved = outcome(probe(rows, photos.labels, photos.families, len(self.classes), seed=self.seed, weights=each))
        self.network.set_head(solved.head, len(self.classes))

    def _train(self, data: Dataset, stage: Stage, weights: ClassWeights) -> Iterator[Event]:
        shop = replace(self._shop, class_weights=weights)
        source, judge = yield from open_stage(shop, stage, data, self._cut)
        yield from train(self.network, stage, source, seed=self.seed, judge=judge)

    @property
    def _cut(self) -> Cut:
        return self.network.head_cut

    def _check(self, data: Dataset) -> None:
        if data.classes != self.classes:
            raise BadData(
                f"the data set has the classes {', '.join(data.classes)}, the model {', '.join(self.classes)}",
                fix="make the model with classes=dataset.classes",
            )
        if not len(data):
            raise BadData("the data set has no photo", fix="give one that has")
