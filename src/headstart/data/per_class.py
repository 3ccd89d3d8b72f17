"""Read a number for each class: from a CSV or JSON file, or from text such as `ants=0.9,bees=0.1`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headstart.errors import BadSetting, first_five
from headstart.registry import closest


def read(text: str, *, what: str, words: Sequence[str] = ()) -> dict[str, float]:
    """The numbers by class, in the order given.

    Args:
        text: a CSV file of class and number (a line of headings may come first), a JSON file with one object, such
            an object itself, or `CLASS=NUMBER,CLASS=NUMBER`.
        what: what the numbers are, in the plural, for errors: `class weights`.
        words: what might have been meant in place of a file.

    Raises:
        BadSetting: there is no such file, or it holds something else.
    """
    path = Path(text).expanduser()
    if text.lstrip().startswith("{"):
        return _from_json(text, what)
    if path.is_file():
        try:
            content = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as problem:
            raise BadSetting(f"{what} {text!r} cannot be read: {problem}", fix=_ways(words)) from problem
        named = f"{what} {text!r}"
        return _from_json(content, named) if content.lstrip().startswith("{") else _from_csv(content, named)
    if "=" in text and not path.exists():
        pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
        return _numbers([(name.strip(), number.strip()) for name, _, number in pairs], f"{what} {text!r}")
    there = "a folder" if path.is_dir() else "neither a file that exists nor a list such as ants=1,bees=2"
    raise BadSetting(f"{what} {text!r} are {there}", fix=closest(text, list(words)) or _ways(words))


def in_order(numbers: Mapping[str, float], classes: Sequence[str], *, what: str) -> Float[np.ndarray, "k"]:
    """The numbers in the order of the classes.

    Raises:
        BadSetting: a class is missing, or is none of these.
    """
    unknown = [name for name in numbers if name not in classes]
    if unknown:
        hint = closest(str(unknown[0]), list(classes)) or f"the classes are {', '.join(classes)}"
        raise BadSetting(f"{what} name classes that are not there: {first_five([repr(n) for n in unknown])}", fix=hint)
    missing = [repr(name) for name in classes if name not in numbers]
    if missing:
        raise BadSetting(f"{what} say nothing of {first_five(missing)}", fix="give a number for every class")
    return np.array([numbers[name] for name in classes], dtype=np.float64)


def _ways(words: Sequence[str]) -> str:
    several = f"{', '.join(words)}, " if words else ""
    return f"use {several}a list such as ants=1,bees=2, or a CSV file of class and number"


def _from_json(content: str, what: str) -> dict[str, float]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise BadSetting(f"{what} are no JSON: {problem}", fix='write them as {"ants": 1, "bees": 2}') from problem
    if not isinstance(found, dict):
        raise BadSetting(f"{what} are no JSON object", fix='write them as {"ants": 1, "bees": 2}')
    return _numbers(list(found.items()), what)


def _from_csv(content: str, what: str) -> dict[str, float]:
    rows = [row for row in csv.reader(io.StringIO(content)) if any(cell.strip() for cell in row)]
    wide = next((row for row in rows if len(row) != 2), None)
    if wide is not None or not rows:
        seen = f"a row of {len(wide)} cells: {','.join(wide)[:80]!r}" if wide else "no row"
        raise BadSetting(f"{what} have {seen}", fix="write a class and its number in each row, such as ants,1")
    if not _is_number(rows[0][1]) and len(rows) > 1:
        rows = rows[1:]  # the headings
    return _numbers([(name.strip(), number.strip()) for name, number in rows], what)


def _numbers(pairs: Sequence[tuple[str, Any]], what: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in pairs:
        if isinstance(value, bool) or not _is_number(value) or not math.isfinite(float(value)):
            raise BadSetting(f"{what} have {value!r} for class {name!r}", fix="give a finite number")
        if name in found:
            raise BadSetting(f"{what} name class {name!r} twice", fix="give one number for each class")
        found[name] = float(value)
    return found


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
