"""Make the batches of an epoch: the same photos in the same order, changed in the same way, for the same seed."""

from __future__ import annotations

import itertools
import math
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float, Int, UInt8

from headstart.data.dataset import Dataset, Item
from headstart.data.member import bytes_of
from headstart.errors import BadData
from headstart.features import Features
from headstart.modalities.modality import Modality, Undecodable
from headstart.modalities.spec import InputSpec
from headstart.networks.network import INPUT, Batch, Cut
from headstart.training.loop import key

AHEAD = 3  # batches that are read before they are asked for


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
        """The batches of an epoch, read out of the store while the network computes.

        Their inputs are float16 where that holds every row. The arrays are filled again as soon as nobody has them.
        """
        slices, labels = list(self.order.epoch(number, first)), self.dataset.labels
        with ThreadPoolExecutor(1, thread_name_prefix="rows") as pool:
            read = _ahead(slices, lambda part: pool.submit(self._rows, part.rows, number))
            with closing(read):
                for part, rows in zip(slices, read, strict=True):
                    yield Batch(rows.result(), labels[part.rows], part.weights, self.start)

    def _rows(self, positions: Int[np.ndarray, "n"], number: int) -> Float[np.ndarray, "n ..."]:
        rows = self._arrays.take(len(positions))
        turns = (self._firsts[positions] + number) % len(self.views)
        for turn in np.unique(turns):
            places = np.flatnonzero(turns == turn)
            ids = [self.dataset.items[position].id for position in positions[places]]
            self.views[turn].copy(ids, rows, places.tolist())
        return rows

    @cached_property
    def _firsts(self) -> Int[np.ndarray, "n"]:
        # Each photo begins with a view of its own, so that no epoch sees all photos plain.
        turns = (key(self.order.seed, item.id) % len(self.views) for item in self.dataset.items)
        return np.fromiter(turns, np.int64, len(self.dataset))

    @cached_property
    def _arrays(self) -> _Arrays:
        halves = all(view.halves for view in self.views)
        return _Arrays(self.views[0].shape, np.float16 if halves else np.float32)


class _Arrays:
    """Arrays to fill again and again: new memory for every batch costs more than what is copied into it."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> None:
        self.shape, self.dtype = shape, dtype
        self._made: list[np.ndarray] = [np.empty(0)]
        self._alone = self._holders(0)

    def _holders(self, place: int) -> int:
        return sys.getrefcount(self._made[place])

    def take(self, n: int) -> np.ndarray:
        """One of `n` rows that nobody else holds, not a view of it either: a step may still be at work on the last."""
        for place in range(len(self._made)):
            if self._holders(place) == self._alone and len(self._made[place]) == n:
                return self._made[place]
        self._made.append(np.empty((n, *self.shape), self.dtype))
        return self._made[-1]


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
            read = _ahead(slices, lambda part: _Pictures(self._submit(pool, part, number)))
            with closing(read):
                for part, pictures in zip(slices, read, strict=True):
                    yield Batch(pictures.result(), labels[part.rows], part.weights, INPUT)

    def _submit(self, pool: ThreadPoolExecutor, part: Slice, epoch: int) -> list[Future[UInt8[np.ndarray, "h w c"]]]:
        items: Sequence[Item] = [self.dataset.items[row] for row in part.rows]
        return [pool.submit(self._picture, item, epoch) for item in items]

    def _picture(self, item: Item, epoch: int) -> UInt8[np.ndarray, "h w c"]:
        try:
            content = bytes_of(self.dataset.file(item.path))
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


@dataclass(frozen=True)
class _Pictures:
    """The pictures of one batch, decoded one by one."""

    each: list[Future[UInt8[np.ndarray, "h w c"]]]

    def result(self) -> UInt8[np.ndarray, "n h w c"]:
        """All of them, as soon as they are there."""
        return np.stack([future.result() for future in self.each])

    def cancel(self) -> None:
        """Do not begin with those that wait."""
        for future in self.each:
            future.cancel()


class _Awaited(Protocol):
    def cancel(self) -> object:
        """Do not begin with it, if it waits."""


Submitted = TypeVar("Submitted", bound=_Awaited)


def _ahead(slices: Sequence[Slice], submit: Callable[[Slice], Submitted]) -> Generator[Submitted, None, None]:
    """What was submitted for each slice, in order; up to `AHEAD` are under way when one is asked for."""
    waiting: deque[Submitted] = deque()
    left = iter(slices)
    try:
        for _ in slices:
            waiting.extend(submit(part) for part in itertools.islice(left, AHEAD - len(waiting)))
            yield waiting.popleft()
    finally:
        for late in waiting:
            late.cancel()
