"""Look up the networks that timm publishes weights for: their names, pictures, widths and licences.

A table, and nothing is imported for it. It is written by `python -m tests.conformance.tables timm` and held against the
installed timm by tests/test_timm.py. timm itself may know more than stands here, and all of it can be loaded.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One published set of weights."""

    name: str  # architecture.tag
    size: int  # pixels of a side
    width: int
    parameters: int  # without the classifier
    licence: str
    file: str  # its name among torchvision's, where the Hugging Face Hub has none


@cache
def members() -> tuple[Member, ...]:
    """Every one, the best general choice first."""
    text = files("headstart.backbones").joinpath("timm.csv").read_text(encoding="utf-8")
    return tuple(
        Member(
            name=row["name"],
            size=int(row["size"]),
            width=int(row["width"]),
            parameters=int(row["parameters"]),
            licence=row["licence"],
            file=row["file"],
        )
        for row in csv.DictReader(text.splitlines())
    )
