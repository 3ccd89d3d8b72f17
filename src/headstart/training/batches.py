"""Make the batches of an epoch: the same photos in the same order, changed in the same way, for the same seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, UInt8

from headstart.data.dataset import Dataset, Item
from headstart.errors import BadData
from headstart.features import Features
from headstart.modalities.modality import Modality, Undecodable
from headstart.modalities.spec import InputSpec
from headstart.networks.network import INPUT, Batch, Cut
from headstart.training.loop import key

AHEAD = 3  # batches that are decoded before they are asked for


@dataclass(frozen=True)
class Slice:
    """One process's part of a batch: positions of its items, and their weights. Padding repeats an item at weight 0."""

    rows: Int[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """In which order `n` items are seen, epoch by epoch, by one of `world` processes.

    An item that weighs as much as several is seen as often in an epoch, in batches of chance, and no item is left out.
    Weights alone would not do: with one rare photo that weighs as thirty, most batches would not know of its class,
    and some would know of nothing else.
    """

    n: int
    batch_size: int  # of all processes together
    seed: int
    stage: str
    shard: tuple[int, int] = (0, 1)
    weights: Float[np.ndarray, "n"] | None = field(default=None, compare=False)  # None: all weigh the same

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self.sights / self.batch_size)

    @property
    def sights(self) -> int:
        """How many pictures an epoch sees: `n`, or more where some weigh as much as several."""
        return len(self._seen[0])

    @cached_property
    def _seen(self) -> tuple[Int[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """What an epoch sees: positions of items, some several times, and what each sight of them weighs."""
        each = np.ones(self.n) if self.weights is None else self.weights / self.weights.mean()
        times = np.maximum(1, np.rint(each)).astype(np.int64)
        return np.repeat(np.arange(self.n), times), np.repeat(each / times, times)

    def epoch(self, number: int, first: int = 0) -> Iterator[Slice]:
        """One process's slices of a fresh shuffle, from batch `first` on.

        All batches have one size, since a compiled step wants one shape. Batches of nearly equal fill, not full ones
        and a remnant: three photos must not steer a step as much as thirty-two.
        """
        rows, each = self._seen
        order = np.random.default_rng(key(self.seed, self.stage, "order", number)).permutation(len(rows))
        (rank, world) = self.shard
        share = math.ceil(self.batch_size / world)
        for part in np.array_split(order, self.steps)[first:]:
            padded = np.resize(part, share * world)
            weights = np.where(np.arange(len(padded)) < len(part), each[padded] / each[part].sum(), 0.0)
            mine = slice(rank * share, (rank + 1) * share)
            yield Slice(rows[padded[mine]], weights[mine])


@dataclass(frozen=True, kw_only=True)
class CachedBatches:
    """Batches of features that are at hand; epoch after epoch the next view of each photo."""

    views: tuple[Features, ...]
    dataset: Dataset
    order: Order
    start: Cut

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.order.steps

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, read out of the store one after the other."""
        labels, ids = self.dataset.labels, [item.id for item in self.dataset.items]
        for part in self.order.epoch(number, first):
            rows = self._rows([ids[row] for row in part.rows], number)
            yield Batch(rows, labels[part.rows], part.weights, self.start)

    def _rows(self, ids: Sequence[str], number: int) -> Float[np.ndarray, "n ..."]:
        # Each photo begins with a view of its own, so that no epoch sees all photos plain.
        turns = [(key(self.order.seed, id) + number) % len(self.views) for id in ids]
        rows = np.empty((len(ids), *self.views[0].shape), np.float32)
        for turn, view in enumerate(self.views):
            places = [place for place, own in enumerate(turns) if own == turn]
            rows[places] = view.take([ids[place] for place in places])
        return rows


@dataclass(frozen=True, kw_only=True)
class PhotoBatches:
    """Batches of photos, decoded and changed at random by threads while the network computes."""

    dataset: Dataset
    modality: Modality
    spec: InputSpec
    order: Order
    augment: bool
    workers: int

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.order.steps

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Raises:
            BadData: a photo vanished or changed since the run began.
        """
        slices, labels = list(self.order.epoch(number, first)), self.dataset.labels
        with ThreadPoolExecutor(self.workers, thread_name_prefix="decode") as pool:
            waiting: list[list[Future[UInt8[np.ndarray, "h w c"]]]] = []
            try:
                for position, part in enumerate(slices):
                    while len(waiting) < AHEAD and position + len(waiting) < len(slices):
                        waiting.append(self._submit(pool, slices[position + len(waiting)], number))
                    pictures = [future.result() for future in waiting.pop(0)]
                    yield Batch(np.stack(pictures), labels[part.rows], part.weights, INPUT)
            finally:
                for future in [future for futures in waiting for future in futures]:
                    future.cancel()

    def _submit(self, pool: ThreadPoolExecutor, part: Slice, epoch: int) -> list[Future[UInt8[np.ndarray, "h w c"]]]:
        items: Sequence[Item] = [self.dataset.items[row] for row in part.rows]
        return [pool.submit(self._picture, item, epoch) for item in items]

    def _picture(self, item: Item, epoch: int) -> UInt8[np.ndarray, "h w c"]:
        try:
            content = self.dataset.file(item.path).read_bytes()
            if not self.augment:
                return self.modality.decode(content, self.spec, reduced=True)
            # Seeded by the photo, not by its place in the batch: a photo's views do not depend on its neighbours.
            rng = np.random.default_rng(key(self.order.seed, self.order.stage, epoch, item.id))
            return self.modality.augment(content, self.spec, rng)
        except (OSError, Undecodable) as problem:
            raise BadData(
                f"photo {item.path!r} could be read when the run began and cannot be now: {problem}",
                fix="put it back as it was and resume the run",
            ) from problem
