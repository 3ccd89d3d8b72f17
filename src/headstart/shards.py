"""Keep rows of numbers with the ids that they belong to in immutable files, and copy single rows out of them.

A shard is a `.npy` file of float32 or float16 `[n ...]` that any NumPy can open, followed by n ids of 16 bytes each.
Its name tells a hash of the ids, n, and the CRC-32 of the whole content: the same rows written twice are one file, and
damage is noticed on opening.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headstart.errors import BadData
from headstart.writing import whole

ID_BYTES = 16
OPEN = 256  # files that one `Rows` keeps mapped: each holds a file descriptor, of which many systems grant 1024
LARGEST = 65504.0  # what float16 can hold
SMALLEST = (
    2.0**-8
)  # of a row's largest number: below 2^-14 float16 counts in steps of 2^-24, as little of this as 2^-16
_BLOCK = 1 << 20
_PLACE_BITS = 20  # of a row within its file
_NAME = re.compile(r"[0-9a-f]{16}-(\d+)-([0-9a-f]{8})\.(?:npy|json)")


def items_in(path: Path) -> int | None:
    """How many items a finished file holds, told by its name; None for any other file."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def halved(rows: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    """The rows rounded to float16, and as float16 where that holds each of them.

    Rounding changes a number by at most 2^-11 of itself, or by 2^-25 where it is smaller than 2^-14. A row stays as it
    is where a number is not finite or beyond 65504, or where all are so small that 2^-25 would be much. Then all come
    back as float32, the others rounded all the same: a row's numbers must not depend on the rows beside it.
    """
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    size = np.maximum(flat.max(axis=1, initial=0.0), -flat.min(axis=1, initial=0.0))  # NaN stays NaN, and fits nowhere
    fits = (size <= LARGEST) & ((size >= SMALLEST) | (size == 0))
    if fits.all():
        return rows.astype(np.float16)
    mixed = np.array(rows, np.float32)
    mixed[fits] = rows[fits].astype(np.float16)
    return mixed


def write_rows(folder: Path, ids: Sequence[str], rows: Float[np.ndarray, "n ..."]) -> Path:
    """Write a shard, whole or not at all: of float16 where the rows are, else of float32.

    Raises:
        DiskFull: there is no room; nothing is left behind.
    """
    header = io.BytesIO()
    numbers = "<f2" if rows.dtype == np.float16 else "<f4"
    shape = {"descr": numbers, "fortran_order": False, "shape": rows.shape}
    np.lib.format.write_array_header_1_0(header, shape)
    content = np.ascontiguousarray(rows, dtype=numbers)
    return write_blocks(folder, ids, [header.getvalue(), content.reshape(-1).view(np.uint8).data, _packed(ids)], ".npy")


def write_blocks(folder: Path, ids: Sequence[str], blocks: Sequence[bytes | memoryview], suffix: str) -> Path:
    """Write blocks of bytes about these ids to a file whose name says what they must be."""
    checksum = 0
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    digest = hashlib.blake2b(_packed(ids), digest_size=8).hexdigest()
    path = folder / f"{digest}-{len(ids)}-{checksum:08x}{suffix}"
    with whole(path) as temporary, temporary.open("wb") as file:
        for block in blocks:
            file.write(block)
    return path


def intact(path: Path) -> bool:
    """Whether a finished file still holds what was written."""
    match = _NAME.fullmatch(path.name)
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return match is not None and checksum == int(match[2], 16)


def read_ids(path: Path) -> list[str] | None:
    """The ids of a shard in the order of its rows, themselves not checked; None where the file has a wrong length."""
    with path.open("rb") as file:
        try:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError:
            return None
        if dtype.str not in ("<f2", "<f4") or not shape or min(shape) < 0:
            return None  # nobody here has written it: numbers of another kind could be objects
        length = ID_BYTES * shape[0]
        if os.fstat(file.fileno()).st_size != file.tell() + math.prod(shape) * dtype.itemsize + length:
            return None
        file.seek(-length, os.SEEK_END)
        text = file.read(length).hex()
    return [text[place : place + 2 * ID_BYTES] for place in range(0, len(text), 2 * ID_BYTES)]


def _packed(ids: Sequence[str]) -> bytes:
    return bytes.fromhex("".join(ids))


class Rows:
    """Rows by id, copied out of memory-mapped shards when asked for; until then only their places are kept."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.shape: tuple[int, ...] = ()  # of one row, once there is one
        self.halves = True  # whether float16 holds every row
        self._place: dict[str, int] = {}  # the number of the shard, then of the row in it, in one number: it is small
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()  # the least recently used first

    def __contains__(self, id: str) -> bool:
        return id in self._place

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def add(self, path: Path, ids: Iterable[tuple[int, str]]) -> None:
        """Take in these rows, `(row, id)`, of an intact shard.

        Raises:
            BadData: another process deleted the shard.
        """
        number = len(self.paths)
        # Mapped at once: a mapped file stays readable, even when another process deletes it.
        self._keep(number, rows := _mapped(path))
        self.paths.append(path)
        self.shape = rows.shape[1:]
        self.halves = self.halves and rows.dtype == np.float16
        for row, id in ids:
            self._place.setdefault(id, number << _PLACE_BITS | row)

    def take(self, ids: Sequence[str]) -> Float[np.ndarray, "n ..."]:
        """A float32 copy of the rows of these ids, in their order.

        Raises:
            KeyError: there is no row of an id.
            BadData: another process deleted the shard.
        """
        taken = np.empty((len(ids), *self.shape), np.float32)
        self.copy(ids, taken)
        return taken

    def copy(
        self, ids: Sequence[str], to: Float[np.ndarray, "m ..."], places: Sequence[int] | range | None = None
    ) -> None:
        """Copy the rows of these ids to these places of an array, by default to its beginning.

        Raises:
            KeyError: there is no row of an id.
            BadData: another process deleted the shard.
        """
        targets = places if places is not None else range(len(ids))
        rows = np.fromiter((self._place[id] for id in ids), np.int64, len(ids))
        # As they lie on the disk, which is then read forwards, each file once; one by one, which needs no memory.
        for turn in rows.argsort().tolist():
            number, row = divmod(int(rows[turn]), 1 << _PLACE_BITS)
            to[targets[turn]] = self._map(number)[row]

    def _map(self, number: int) -> np.ndarray:
        rows = self._maps.pop(number, None)
        return self._keep(number, _mapped(self.paths[number]) if rows is None else rows)

    def _keep(self, number: int, rows: np.ndarray) -> np.ndarray:
        self._maps[number] = rows
        while len(self._maps) > OPEN:
            self._maps.popitem(last=False)
        return rows


def _mapped(path: Path) -> np.ndarray:
    try:
        mapped: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped.view(np.ndarray)  # to take a row out of a memmap takes ten times as long
    except FileNotFoundError as problem:
        raise BadData(
            f"cached features {str(path)!r} were deleted while they were in use",
            fix="run it again: what is missing is computed anew",
        ) from problem
