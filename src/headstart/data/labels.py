"""Read labels given as integers, one-hot rows or binary numbers, and settle what the classes are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from headstart.errors import BadData, first_five


@dataclass(frozen=True, slots=True)
class Labels:
    """The class of each picture, as a position in an order that the object has in mind.

    `names`: the names in that order, where the object knows them. `columns`: those of one-hot labels, else 0.
    """

    positions: Int[np.ndarray, "n"]
    columns: int = 0
    names: tuple[str, ...] = ()


def missing() -> BadData:
    """The error for a data set that has no labels."""
    return BadData(
        "a data set without labels: there is nothing to learn from",
        fix="give pairs of pictures and labels: make the set with label_mode='int' or class_mode='categorical', "
        "or map its elements to such pairs",
    )


def parse(labels: Shaped[np.ndarray, "n *k"]) -> Labels:
    """Positions for integers `[n]`, binary labels `[n]` or `[n 1]`, or one-hot rows `[n k]`, also as whole floats.

    Raises:
        BadData: they are anything else.
    """
    if labels.dtype.kind not in "buif":
        raise BadData(
            f"labels of type {labels.dtype.name}, not numbers",
            fix="give the position of each class as an integer, and the names with classes=[...]",
        )
    if labels.ndim > 2 or labels.ndim == 0:
        raise BadData(f"labels of shape {list(labels.shape)}", fix="give integers [n] or one-hot rows [n k]")
    if labels.ndim == 2 and labels.shape[1] > 1:
        return Labels(_hot(labels), labels.shape[1])
    flat = labels.reshape(-1)
    wrong = flat[~(np.isfinite(flat) & (flat == np.floor(flat)) & (flat >= 0))]
    if len(wrong):
        raise BadData(
            f"labels must be whole numbers from 0, but one is {wrong[0]}", fix="give the position of each class"
        )
    return Labels(flat.astype(np.int64))


def join(parts: Sequence[Labels], names: tuple[str, ...] = ()) -> Labels:
    """The labels of all batches of one object.

    Raises:
        BadData: there are none, they are of several kinds, or do not fit to the names.
    """
    widths = sorted({part.columns for part in parts})
    if len(widths) > 1:
        raise BadData(
            f"labels of several kinds: rows of {widths[-1]} in one batch, {widths[0] or 'integers'} in another",
            fix="give all labels in the same way",
        )
    positions = np.concatenate([part.positions for part in parts]) if parts else np.empty(0, np.int64)
    if not len(positions):
        raise BadData("the data set is empty", fix="give one that has pictures")
    labels = Labels(positions, widths[0], names)
    if names:
        _fit(labels, len(names))
    return labels


def settle(given: Sequence[str] | None, every: Sequence[Labels]) -> tuple[str, ...]:
    """The names of the classes in their order: those given, else those that an object knows, else numbers.

    Numbers are padded with zeros, so that a list sorted by name keeps their order.

    Raises:
        BadData: the names are not different words, or do not fit to the labels.
    """
    known = next((labels.names for labels in every if labels.names), ())
    most = max(labels.columns or int(labels.positions.max()) + 1 for labels in every)
    numbers = tuple(f"{number:0{len(str(most - 1))}}" for number in range(most))
    classes = tuple(map(str, _several(given))) or known or numbers
    odd = [repr(name) for name in classes if name.splitlines() != [name]]
    if odd or len(set(classes)) < len(classes):
        problem = f"a class has the name {odd[0]}" if odd else "two classes have the same name"
        raise BadData(problem, fix="give each class one line of text as its name, another for each")
    for labels in every:
        if not labels.names:
            _fit(labels, len(classes))
    return classes


def named(labels: Labels, classes: Sequence[str]) -> list[str]:
    """The name of each picture's class, where these are the classes of the whole data set.

    Raises:
        BadData: the object has a class that is not among them.
    """
    own = labels.names or classes
    used = [own[position] for position in np.unique(labels.positions)]
    unknown = [repr(name) for name in used if name not in classes]
    if unknown:
        raise BadData(
            f"pictures of a class that is not one of {', '.join(classes)}: {first_five(unknown)}",
            fix="give the same class names everywhere",
        )
    return [own[position] for position in labels.positions]


def _several(given: Sequence[str] | None) -> Sequence[str]:
    if isinstance(given, str):
        raise BadData(f"classes={given!r} is one name", fix=f"give a list of all names: classes=[{given!r}, ...]")
    return () if given is None else given


def _hot(rows: Shaped[np.ndarray, "n k"]) -> Int[np.ndarray, "n"]:
    # NaN is neither 0 nor 1, and so is refused as well.
    wrong = rows[~(((rows == 0) | (rows == 1)).all(axis=1) & (rows.sum(axis=1) == 1))]
    if len(wrong):
        raise BadData(
            f"a row of labels is not one-hot: {first_five([f'{value:g}' for value in wrong[0]])}",
            fix="give each picture exactly one class; several classes a picture, and mixed ones, are not supported",
        )
    positions: Int[np.ndarray, "n"] = rows.argmax(axis=1).astype(np.int64)
    return positions


def _fit(labels: Labels, count: int) -> None:
    highest = int(labels.positions.max())
    fix = "give one class name for each label, in the order of the labels"
    if labels.columns not in (0, count):
        raise BadData(f"labels are rows of {labels.columns}, but {count} class names are given", fix=fix)
    if highest >= count:
        raise BadData(f"labels go up to {highest}, but {count} class names are given", fix=fix)
