"""Decide which photos train, choose and judge, by their content alone so that it lasts; or keep it in a file."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.data.dataset import Dataset, Split
from headstart.errors import BadData, first_five
from headstart.writing import whole

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
COLUMNS = ("path", "label", "split", "id")
MORE = ("group", "weight")  # written where some photo has one
STRONGER: tuple[Split, ...] = ("test", "validation", "train")  # equal photos on two sides: the first of these keeps its

_SPELLINGS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_ENDINGS = ("set", "data", "images", "photos", "split", "folder")


def spelled(name: str) -> Split | None:
    """The split that a user means by this name, in any spelling: `Train`, `VAL`, `test_set`; None: no split."""
    word = "".join(letter for letter in name.casefold() if letter.isalpha())
    for ending in _ENDINGS:
        if word not in _SPELLINGS:
            word = word.removesuffix(ending)
    return _SPELLINGS.get(word)


def position(id: str, seed: int) -> float:
    """Where a photo falls in [0, 1): uniform over contents, elsewhere for each seed."""
    digest = hashlib.blake2b(f"{seed}:{id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # 53 bits: more would be rounded, at worst to 1


def assign(
    ids: Sequence[str], labels: Sequence[int], *, seed: int, given: Mapping[str, Split] | None = None
) -> list[Split]:
    """The split of each photo: test below `TEST_SHARE`, then validation, then train, by a hash of content and seed.

    Equal contents get equal splits, also in different classes; order, names and the numbers of the classes do not
    matter. Shares are approximate. Each class of two different photos gets a test and a train photo. Adding photos
    never moves an old one, with one exception: a class in which no photo falls into test (or train) has one moved
    there, the nearest, and a later photo that is nearer releases it. A class of n photos is so with a chance of
    0.8^n for test (n = 20: 1 %) and 0.3^n for train; writing the splits to a file and giving it again pins them.
    No rule without a memory does better: of photos a, b, c each pair, being a class, must hold one test and one train
    photo, but when the third joins, two of the three are on the same side. No validation photo is forced, since
    that would break the promise more often (0.9^n): a class, or a small data set, may have none.

    A class of which all photos are one cannot have both: it trains, unless another class needs that photo for its test.

    Args:
        ids: a hash of each photo's content, or the name of its family: what has the same one moves as one.
        labels: the class of each photo.
        seed: another seed, other splits.
        given: splits that the user has decided, by id; they stay. But where `given` names no test photo at all, the
            training photos that fall into test are taken for it; the same for validation.
    """
    given = given or {}
    named = set(given.values())
    places = {id: (position(id, seed), id) for id in ids}
    sides = {id: _side(places[id][0], given.get(id), named) for id in places}
    free = {id for id in places if id not in given or (given[id] == "train" and "test" not in named)}
    # Classes that share photos depend on each other: let their contents give the order, not their numbers.
    classes = _classes(ids, labels)
    lacking = [members for members in classes if not {"train", "test"} <= {sides[id] for id in members}]
    for members in sorted(lacking, key=lambda members: sorted(places[id] for id in members)):
        near = sorted(members & free, key=places.__getitem__)
        _force("test", members, near, sides, classes)
        _force("train", members, near[::-1], sides, classes)
    return [sides[id] for id in ids]


def _side(place: float, given: Split | None, named: set[Split]) -> Split:
    falls: Split = "train"
    if place < TEST_SHARE:
        falls = "test"
    elif place < TEST_SHARE + VALIDATION_SHARE:
        falls = "validation"
    if given is None or (given == "train" and falls not in named):
        return falls
    return given


def _classes(ids: Sequence[str], labels: Sequence[int]) -> list[set[str]]:
    classes: dict[int, set[str]] = {}
    for id, label in zip(ids, labels, strict=True):
        classes.setdefault(label, set()).add(id)
    return list(classes.values())


def _force(
    side: Split, members: set[str], candidates: Iterable[str], sides: dict[str, Split], classes: list[set[str]]
) -> None:
    """Move the first candidate to a side that has no member, unless some class would lose its last on the other."""
    if any(sides[id] == side for id in members):
        return
    for id in candidates:
        # A class of one photo has nothing to lose on the side of its tests: without training it is none.
        holders = [other for other in classes if id in other and (side != "train" or len(other) > 1)]
        if sides[id] == "validation" or all(_stays_covered(id, holder, sides) for holder in holders):
            sides[id] = side
            return


def _stays_covered(id: str, members: set[str], sides: Mapping[str, Split]) -> bool:
    return any(sides[other] == sides[id] for other in members if other != id)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file of splits. `id` is empty where a user wrote the file by hand."""

    path: str
    split: Split
    id: str = ""


def match(rows: Sequence[Row], photos: Mapping[str, str]) -> dict[str, Split]:
    """The split of each photo (path -> id) that `rows` list, by path: content decides, then the path.

    So renamed photos keep their split, and a path speaks only where no photo has the content that its row names.
    """
    strongest = sorted(rows, key=lambda row: STRONGER.index(row.split), reverse=True)  # the last one stays in a dict
    contents = set(photos.values())
    exact = {(row.path, row.id): row.split for row in strongest}
    by_id = {row.id: row.split for row in strongest if row.id}
    by_path = {row.path: row.split for row in strongest if row.id not in contents}
    found = {path: exact.get((path, id)) or by_id.get(id) or by_path.get(path) for path, id in photos.items()}
    return {path: split for path, split in found.items() if split}


def write_splits(dataset: Dataset, path: Path) -> None:
    """Write path, class, split, and id of every photo as CSV, whole or not at all.

    Names that are not UTF-8 keep their bytes.

    Raises:
        DiskFull: there is no room; an older file of this name stays as it was.
    """
    with (
        whole(path) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        more = any(item.group or item.weight != 1 for item in dataset.items)
        writer.writerow((*COLUMNS, *MORE) if more else COLUMNS)
        for item in dataset.items:
            row = (item.path, dataset.classes[item.label], item.split, item.id)
            writer.writerow((*row, item.group, repr(item.weight)) if more else row)


def read_splits(path: Path) -> tuple[Row, ...]:
    """The lines of a file that `write_splits` or a user wrote: columns `path` and `split`, and `id` if known.

    Raises:
        BadData: there is no such file, it is no CSV, lacks a column or names a split that does not exist.
    """
    fix = f"give a CSV file with the columns {','.join(COLUMNS)}, such as the splits.csv of an earlier run"
    try:
        # Spreadsheets put a mark before the first column's name, which -sig takes away.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().casefold() for name in next(reader, [])]
            lines = [dict(zip(header, line, strict=False)) | {"": str(reader.line_num)} for line in reader if line]
    except FileNotFoundError as problem:
        raise BadData(f"splits file {str(path)!r} does not exist", fix=fix) from problem
    except (OSError, csv.Error) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise BadData(f"splits file {str(path)!r} cannot be read: {reason}", fix=fix) from problem
    for column in ("path", "split"):
        if column not in header:
            raise BadData(f"splits file {str(path)!r} has no column {column!r}", fix=fix)
    if not lines:
        raise BadData(f"splits file {str(path)!r} lists no photo", fix=fix)
    return _rows(lines, path)


def _rows(lines: Sequence[Mapping[str, str]], path: Path) -> tuple[Row, ...]:
    rows: dict[str, Row] = {}
    problems = []
    for line in lines:
        split = spelled(line.get("split", ""))
        row = Row(line.get("path", ""), split or "train", line.get("id", "").strip())
        if not split:
            problems.append(f"line {line['']} has split {line.get('split', '')!r}")
        elif not row.path:
            problems.append(f"line {line['']} has no path")
        elif rows.setdefault(row.path, row) != row:
            problems.append(f"line {line['']} lists {row.path!r} once more, otherwise")
    if problems:
        raise BadData(
            f"splits file {str(path)!r}: {first_five(problems)}",
            fix="list each path once, with the split train, validation or test",
        )
    return tuple(rows.values())
