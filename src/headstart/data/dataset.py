"""Hold what is to be learnt from: which items, where each lives, its label, its split. No pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from headstart.data.archive import Readable, reader

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled file. `id` is a hash of its bytes, so equal files have equal ids wherever they lie."""

    id: str
    path: str  # relative to the data set's root, with forward slashes
    label: int  # position of its class in `Dataset.classes`
    split: Split
    group: str = ""  # what it shares with others that must stay on its side: a patient, a burst; empty: nothing
    weight: float = 1.0  # how many plain items it counts for while training


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A manifest of labelled files. `user_splits`: the splits come from the user and are never reassigned.

    `root` is a folder, or an archive that is read in place: so bytes are read through `files` or `file`.
    `notes` are sentences that a user should read once.
    """

    root: Path
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()
    user_splits: bool = False
    modality: str = "image"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> Int[np.ndarray, "n"]:
        """The class of each item, as a position in `classes`."""
        return np.array([item.label for item in self.items], dtype=np.int64)

    @property
    def families(self) -> tuple[str, ...]:
        """For each item, what it shares with those that must stay on its side: its group, or else its content."""
        return tuple(item.group or item.id for item in self.items)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where each item lies; in an archive, paths that lead into it and that only `files` can read."""
        return tuple(self.root / item.path for item in self.items)

    @property
    def files(self) -> tuple[Readable, ...]:
        """What gives the bytes of each item, in a folder or in an archive; nothing is opened before `read_bytes()`."""
        read = reader(self.root)
        return tuple(read(item.path) for item in self.items)

    def file(self, path: str) -> Readable:
        """The same for one item's path, or for that of a skipped file."""
        return reader(self.root)(path)

    @property
    def hash(self) -> str:
        """A hash of contents, labels and splits; the place of the files does not count."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr(self.classes).encode())
        for item in sorted(self.items, key=lambda item: (item.id, item.label, item.path)):
            digest.update(f"{item.id} {item.label} {item.split}\n".encode())
        return digest.hexdigest()

    def only(self, *splits: Split) -> Dataset:
        """The same data set with the items of these splits alone, in their order."""
        return replace(self, items=tuple(item for item in self.items if item.split in splits))

    def with_items(self, items: Iterable[Item]) -> Dataset:
        """The same data set with other items."""
        return replace(self, items=tuple(items))

    @property
    def train(self) -> Dataset:
        """The photos that weights are fitted on."""
        return self.only("train")

    @property
    def validation(self) -> Dataset:
        """The photos that choices are made on."""
        return self.only("validation")

    @property
    def test(self) -> Dataset:
        """The photos that the finished model is judged on, once."""
        return self.only("test")
