"""Compute what the frozen part of a network says about each item, once: the rest comes out of the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import overload

import numpy as np
from jaxtyping import Float, UInt8

from headstart import pipeline
from headstart.backbones.backbone import Backbone
from headstart.data.archive import Readable, reader
from headstart.data.contents import content
from headstart.data.dataset import Dataset
from headstart.data.member import bytes_of
from headstart.errors import DiskFull
from headstart.events import Progress
from headstart.modalities.modality import Modality, Undecodable
from headstart.networks.network import Cut, Network
from headstart.runtimes import framework
from headstart.runtimes.opening import open_runner
from headstart.runtimes.runtime import Offer, Runner
from headstart.shards import Rows, halved
from headstart.store import Found, Shelf, Store

RULES = 1  # part of the fingerprint: count up when the same settings begin to give other numbers
SHARD_ROWS = 512  # what a killed extraction loses at most: a few seconds of work
SHARD_BYTES = 16 * 10**6  # of rows that wait in memory: feature maps are fifty times as large as pooled features
_VIEW = "headstart view"


@dataclass(frozen=True)
class Features:
    """What crosses a cut for each item: rows of `shape`, memory-mapped, and reasons where there is none."""

    ids: tuple[str, ...]  # of the items that have a row, each once, in the order of the data set
    fingerprint: str
    shape: tuple[int, ...]  # of one row: `(d,)` or `(h, w, c)`; `()` while there is none
    unreadable: Mapping[str, str]  # id -> reason
    _rows: Rows = field(repr=False)

    def take(self, ids: Sequence[str]) -> Float[np.ndarray, "n ..."]:
        """A float32 copy of the rows of these ids, in their order; only these are read.

        Raises:
            KeyError: an id has no row.
        """
        return self._rows.take(ids)

    @property
    def halves(self) -> bool:
        """Whether float16 holds every row exactly."""
        return self._rows.halves

    def copy(
        self, ids: Sequence[str], to: Float[np.ndarray, "m ..."], places: Sequence[int] | range | None = None
    ) -> None:
        """Copy the rows of these ids to these places of an array, by default to its beginning.

        Raises:
            KeyError: an id has no row.
        """
        self._rows.copy(ids, to, places)


def fingerprint(
    backbone: Backbone,
    offer: Offer,
    cut: Cut,
    modality: Modality,
    *,
    reduced: bool,
    view: int = 0,
    half: bool = False,
) -> str:
    """Changes with everything that decides about the numbers of an item's row, and with nothing else.

    That is: weights, preprocessing, decoding, the cut, the view, precision, rounding, and the engine with its version.
    Not the place of a file, not a date, not a name.
    """
    parts = {
        "rules": RULES,
        "weights": backbone.weights_hash,
        "spec": backbone.spec.fingerprint,
        "decoding": modality.fingerprint(reduced=reduced),
        "cut": [cut.name, cut.after],
        "view": view,
        "precision": offer.precision,
        "engine": offer.engine,
        "chunk": offer.chunk,  # engines choose their kernels by the shape of a batch
    }
    # Left out otherwise: what was kept before there was a choice is found again.
    if half:
        parts["rounded"] = "float16"
    if offer.calibration:
        parts["calibration"] = offer.calibration
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def extract(
    dataset: Dataset,
    backbone: Backbone,
    network: Network,
    cut: Cut,
    *,
    modality: Modality,
    store: Store,
    reduced: bool = True,
    workers: int | None = None,
    view: int = 0,
    offer: Offer | None = None,
    runner: Callable[[], Runner] | None = None,
    half: bool = False,
) -> Generator[Progress, None, Features]:
    """Features of every item of the data set, of which only the missing ones are computed.

    Finished shards stay whatever happens, so an extraction that was stopped goes on where it was. An item whose bytes
    are no photo is kept as such; one whose file is gone or changed is tried again next time.

    Args:
        dataset: Items with equal ids are computed once.
        backbone: Gives the preprocessing and the hash of the weights.
        network: Computes; it must have come from `backbone` and still have its weights below the cut.
        cut: Where the features are taken.
        modality: Decodes.
        store: Keeps what was computed.
        reduced: Allow a cheaper decoding that is nearly the same.
        workers: Threads that read, decode and compute; by default one a core.
        view: 0 is the plain middle of the photo; each other number is a view changed at random, the same every time.
        offer: What runs the network; by default its own framework.
        runner: Gives what is opened already, when it is needed; by default the offer is opened.
        half: Round what crosses to float16, which takes half the room; see `shards.halved`. What such an extraction
            has written goes again when the disk is full: a stage can do without, and the run needs the room.

    Raises:
        DiskFull: the store has no room left.
        BadSetting: the store cannot be written.
    """
    offer = offer or framework.offer_of(network)
    key = fingerprint(backbone, offer, cut, modality, reduced=reduced, view=view, half=half)
    shelf = store.shelf(key, _about(backbone, offer, cut, modality, reduced=reduced, view=view))
    sources = _sources(dataset)
    found = shelf.find(sources)
    missing = [id for id in sources if id not in found.rows and id not in found.reasons]
    done = len(sources) - len(missing)
    what = f"features of view {view}" if view else "features"
    yield Progress(what=what, done=done, total=len(sources))
    photos = _Photos(reader(dataset.root), sources, missing)
    if missing:
        store.trim(found.rows.paths)
        decode = partial(_view, modality=modality, backbone=backbone, reduced=reduced, view=view)
        opened = runner() if runner is not None else open_runner(network, offer, cut)
        chunks = pipeline.run(photos, decode, opened, workers=workers)
        before = len(found.rows.paths)
        try:
            with closing(_keep(chunks, photos, shelf, found, store, half=half)) as counts:
                for count in counts:
                    yield Progress(what=what, done=done + count, total=len(sources))
        except DiskFull:
            shelf.drop(found.rows.paths[before:] if half else ())
            raise
    return Features(
        ids=tuple(id for id in sources if id in found.rows),
        fingerprint=key,
        shape=found.rows.shape,
        unreadable={id: reason for id in sources if (reason := found.reasons.get(id) or photos.lost.get(id))},
        _rows=found.rows,
    )


def kept(ids: Sequence[str], key: str, store: Store) -> Features | None:
    """The features of this fingerprint where the store has those of all of these ids; nothing is computed or written.

    Raises:
        BadSetting: the store cannot be read.
    """
    if not (store.root / key).is_dir():
        return None
    rows = store.shelf(key, {}).find(ids).rows
    if any(id not in rows for id in ids):
        return None
    return Features(tuple(dict.fromkeys(ids)), key, rows.shape, {}, rows)


def missing(
    dataset: Dataset,
    backbone: Backbone,
    cut: Cut,
    offer: Offer,
    *,
    modality: Modality,
    store: Store,
    reduced: bool = True,
    view: int = 0,
    half: bool = False,
) -> list[str]:
    """The ids of what `extract` would compute with this offer; nothing is written, and files are not checked."""
    sources = list(_sources(dataset))
    key = fingerprint(backbone, offer, cut, modality, reduced=reduced, view=view, half=half)
    known = store.known(key, sources)
    return [id for id in sources if id not in known]


def decoded(
    dataset: Dataset, ids: Sequence[str], backbone: Backbone, modality: Modality, *, most: int, reduced: bool = True
) -> UInt8[np.ndarray, "n h w c"]:
    """The pictures of the first `most` of these photos that can be read."""
    photos = _Photos(reader(dataset.root), _sources(dataset), ids)
    pictures: list[UInt8[np.ndarray, "h w c"]] = []
    for photo in photos:
        if len(pictures) == most:
            break
        with suppress(OSError, Undecodable):
            pictures.append(modality.decode(bytes_of(photo), backbone.spec, reduced=reduced))
    size = backbone.spec.size
    return np.stack(pictures) if pictures else np.empty((0, size, size, 3), np.uint8)


def _about(
    backbone: Backbone, offer: Offer, cut: Cut, modality: Modality, *, reduced: bool, view: int
) -> dict[str, str | int]:
    return {
        "what": ", ".join(filter(None, (backbone.name, cut.name, f"view {view}" if view else "", _few(offer)))),
        "backbone": backbone.name,
        "weights": backbone.weights_hash,
        "input": repr(backbone.spec),
        "decoding": modality.fingerprint(reduced=reduced),
        "cut": cut.name,
        "view": view,
        "engine": offer.engine,
        "precision": offer.precision,
    }


def _few(offer: Offer) -> str:
    """The precision, where it is not full."""
    return "" if offer.precision == "fp32" else offer.precision


def _sources(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Each id once, in the order of the data set, with every path that its bytes lie at."""
    sources: dict[str, tuple[str, ...]] = {}
    for item in dataset.items:
        sources[item.id] = (*sources.get(item.id, ()), item.path)
    return sources


class _Photos(Sequence["_Photo"]):
    """What is to be computed, as a sequence that makes each photo when it is its turn: a million need no memory."""

    def __init__(
        self, read: Callable[[str], Readable], sources: Mapping[str, tuple[str, ...]], ids: Sequence[str]
    ) -> None:
        self.read = read  # gives the file at a path
        self.sources = sources
        self.ids = ids
        self.lost: dict[str, str] = {}  # id -> why its file cannot be read; another time it may

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, position: int) -> _Photo: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[_Photo]: ...
    def __getitem__(self, position: int | slice) -> _Photo | Sequence[_Photo]:
        if isinstance(position, slice):
            return [_Photo(self, id) for id in self.ids[position]]
        return _Photo(self, self.ids[position])


@dataclass(frozen=True, slots=True)
class _Photo:
    photos: _Photos
    id: str

    def read_bytes(self) -> bytes:
        """The content that this id stands for, from the first place that still has it.

        Raises:
            OSError: none has.
        """
        try:
            return content(self.id, (self.photos.read(path) for path in self.photos.sources[self.id]))
        except OSError as problem:
            self.photos.lost[self.id] = f"cannot be read: {problem.strerror or problem}"
            raise


def _view(
    content: bytes, *, modality: Modality, backbone: Backbone, reduced: bool, view: int
) -> UInt8[np.ndarray, "h w c"]:
    if not view:
        return modality.decode(content, backbone.spec, reduced=reduced)
    # Seeded by the content: a photo's views hang neither on its place in the data set nor on its name.
    seed = hashlib.blake2b(content, digest_size=16, key=f"{_VIEW} {view}".encode()).digest()
    return modality.augment(content, backbone.spec, np.random.default_rng(int.from_bytes(seed, "little")))


def _keep(
    chunks: Iterator[pipeline.Chunk], photos: _Photos, shelf: Shelf, found: Found, store: Store, *, half: bool
) -> Generator[int, None, None]:
    """Write what comes in shard by shard; tells how many photos are through.

    Chunks come in order, so what is finished is the beginning, and an extraction that goes on later makes the same
    chunks of the rest.
    """
    pending = _Pending(shelf, found, store)
    through = 0
    try:
        for chunk in chunks:
            values = halved(chunk.values) if half else chunk.values
            for position, row in zip(chunk.positions, values, strict=True):
                pending.rows[photos.ids[position]] = row
            for position, reason in chunk.failed.items():
                if photos.ids[position] not in photos.lost:
                    pending.reasons[photos.ids[position]] = reason
            through += len(chunk.positions) + len(chunk.failed)
            if pending.full:
                pending.write(still=len(photos) - through)
            yield through
    finally:
        # Also when the consumer leaves early or a photo brings everything down: what is computed is kept.
        pending.write(still=len(photos) - through)


class _Pending:
    """What is computed and not yet written."""

    def __init__(self, shelf: Shelf, found: Found, store: Store) -> None:
        self.rows: dict[str, np.ndarray] = {}
        self.reasons: dict[str, str] = {}
        self.shelf, self.found, self.store = shelf, found, store

    @property
    def full(self) -> bool:
        """Whether these are enough rows for a shard."""
        each = next(iter(self.rows.values())).nbytes if self.rows else 0
        return len(self.rows) >= SHARD_ROWS or len(self.rows) * each >= SHARD_BYTES

    def write(self, *, still: int) -> None:
        """Put everything on the shelf; `still` photos are to come."""
        reasons, self.reasons = self.reasons, {}
        rows, self.rows = self.rows, {}
        if reasons:
            self.shelf.add_reasons(reasons, self.found)
        if rows:
            block = np.stack(list(rows.values()))
            self.shelf.add(list(rows), block, self.found, needed=block.nbytes // len(block) * (len(block) + still))
            self.store.trim(self.found.rows.paths)
