"""Read and write the files of a run: written whole and the same each time, read as what a stranger may have written."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from headstart.errors import BadRun
from headstart.writing import whole, write_text

LARGEST = 256 << 20  # bytes of a run's texts: a confusion of three thousand classes fits
# What a file that is damaged, or made to do harm, raises in its reader.
_BREAKING = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, MemoryError),
    *(csv.Error, SafetensorError),
)


@contextlib.contextmanager
def sound(run: Path, name: str, *, largest: int | None = LARGEST) -> Iterator[Path]:
    """The path of a file that a stranger may have written: whatever in it breaks its reader becomes a sentence.

    Raises:
        BadRun: it is missing, larger than any can be, or makes no sense.
    """
    path = run / name
    fix = "copy the run again, or train again"
    try:
        if largest is not None and path.stat().st_size > largest:
            raise ValueError("it is larger than any can be")
        yield path
    except FileNotFoundError as problem:
        raise BadRun(f"run {str(run)!r} has no {name}", fix=fix) from problem
    except RecursionError as problem:
        raise BadRun(f"{name} of run {str(run)!r} is nested too deep", fix=fix) from problem
    except _BREAKING as problem:
        told = f"{type(problem).__name__}: {problem}"[:200]
        raise BadRun(f"{name} of run {str(run)!r} makes no sense ({told})", fix=fix) from problem


def write_json(path: Path, value: Any) -> None:
    """Write it as JSON for people.

    Raises:
        DiskFull: there is no room.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table.

    Raises:
        DiskFull: there is no room.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield from csv.DictReader(file)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, str], *, fix: str) -> None:
    """Write tensors, and what is said of them, as safetensors.

    Raises:
        DiskFull: there is no room; `fix` says what to do then.
    """
    with whole(path, fix=fix) as temporary:
        try:
            # Not `ascontiguousarray`: it makes a row of one out of a single number.
            rows = {name: np.asarray(value, order="C") for name, value in tensors.items()}
            save_file(rows, temporary, dict(about))
            _order_metadata(temporary)
        except OSError:
            raise
        except Exception as problem:
            raise OSError(None, str(problem)) from problem


def _order_metadata(path: Path) -> None:
    """Sort what the file says of itself: its library writes that in another order each time, and equal runs are equal
    to the byte.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if about := header.get("__metadata__"):
            header["__metadata__"] = dict(sorted(about.items()))
            ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            if len(ordered) <= length:  # the same characters, unless the library escapes one in its own way
                file.seek(8)
                file.write(ordered.ljust(length))
