"""What a user notices who gives a table, a list or a data set of Hugging Face: the photos, and what was left out."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.data import sources
from headstart.data.columns import parsed
from headstart.data.dataset import Dataset, Skipped
from headstart.data.folder import Photo, Scan
from headstart.data.listing import listed
from headstart.data.loading import folder_of, load_dataset, load_labelled
from headstart.data.records import read_table
from headstart.data.splits import write_splits
from headstart.data.table import SOURCE
from headstart.errors import BadData, BadSetting, HeadstartError
from headstart.modalities.png import encode
from headstart.modalities.sniff import refusal


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photo(seed: int) -> bytes:
    """A PNG that no other seed gives."""
    return encode(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder without class folders: `photos/0.png` to `photos/11.png`."""
    folder = tmp_path / "pets"
    (folder / "photos").mkdir(parents=True)
    for number in range(12):
        (folder / "photos" / f"{number}.png").write_bytes(photo(number))
    return folder


def names(number: int) -> str:
    return ("cat", "dog")[number % 2]


ROWS = [(f"photos/{number}.png", names(number)) for number in range(12)]


def table(path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("path", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def content(data: Dataset) -> set[tuple[str, str]]:
    """Ids and classes."""
    return {(item.id, data.classes[item.label]) for item in data.items}


def reasons(data: Dataset) -> dict[str, str]:
    return {file.path: file.reason for file in data.skipped}


def refused(source: Any, **options: Any) -> HeadstartError:
    with pytest.raises(HeadstartError) as caught:
        load_dataset(source, **options)
    return caught.value


@pytest.fixture
def expected(pets: Path) -> set[tuple[str, str]]:
    return content(load_dataset(table(pets / "expected.csv", ROWS)))


# ---- every kind of table says the same


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    return table(path.with_suffix(".csv"), [tuple(row.values()) for row in rows], tuple(rows[0]))


def as_semicolons(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [";".join(map(str, each)) for each in [tuple(rows[0]), *(row.values() for row in rows)]]
    path.with_suffix(".csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    return path.with_suffix(".csv")


def as_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = ["\t".join(map(str, each)) for each in [tuple(rows[0]), *(row.values() for row in rows)]]
    path.with_suffix(".tsv").write_text("\n".join(lines))
    return path.with_suffix(".tsv")


def as_spreadsheet_text(path: Path, rows: list[dict[str, Any]]) -> Path:
    return as_tsv(path, rows).rename(path.with_suffix(".csv"))


def as_utf16(path: Path, rows: list[dict[str, Any]]) -> Path:
    whole = as_tsv(path, rows)
    whole.write_text(whole.read_text(), encoding="utf-16")
    return whole


def as_json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path.with_suffix(".jsonl")


def as_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    return path.with_suffix(".json")


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


KINDS = [as_csv, as_semicolons, as_tsv, as_spreadsheet_text, as_utf16, as_json_lines, as_json, as_parquet]


@pytest.mark.parametrize("write", KINDS)
def test_every_kind_of_table_gives_the_same_photos(
    write: Callable[[Path, list[dict[str, Any]]], Path], pets: Path, expected: set[tuple[str, str]]
) -> None:
    rows = [{"file_name": path, "Species": name, "patient": f"p{at // 3}"} for at, (path, name) in enumerate(ROWS)]
    path = write(pets / "list", rows)
    data = load_dataset(path)
    assert content(data) == expected
    assert data.root == pets
    assert {item.group for item in data.items} >= {"p0"} or all(item.group for item in data.items)
    assert f"columns of table '{path.name}': path=file_name, label=Species, group=patient; change with --columns" in (
        data.notes
    )
    assert not data.skipped


def test_a_pandas_table_is_a_table(pets: Path, expected: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(pets)
    frame = pandas.DataFrame([*ROWS, (None, "cat")], columns=["path", "label"])
    data = load_dataset(frame)
    assert content(data) == expected
    assert reasons(data) == {"row 13 of the table": "no path"}


def test_absolute_paths_and_paths_that_lead_up_are_allowed(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    rows = [(str(pets / path) if at % 2 else f"../pets/./{path}", name) for at, (path, name) in enumerate(ROWS)]
    data = load_dataset(table(tmp_path / "lists" / "list.csv", rows))
    assert len(data) == 12
    assert [file.read_bytes() for file in data.files] == [(data.root / item.path).read_bytes() for item in data.items]


def test_paths_written_on_windows_are_found(pets: Path) -> None:
    assert len(load_dataset(table(pets / "list.csv", [(path.replace("/", "\\"), name) for path, name in ROWS]))) == 12


def test_a_table_that_is_not_utf8_is_read_and_told(pets: Path) -> None:
    text = "path,label\n" + "".join(f"{path},{'café' if name == 'cat' else name}\n" for path, name in ROWS)
    (pets / "list.csv").write_bytes(text.encode("cp1252"))
    data = load_dataset(pets / "list.csv")
    assert data.classes == ("café", "dog")
    assert any("is not UTF-8 and was read as cp1252" in note for note in data.notes)


def test_labels_that_are_numbers_are_classes_in_their_order(pets: Path) -> None:
    rows = [(path, (2, 10)[at % 2]) for at, (path, _) in enumerate(ROWS)]
    assert load_dataset(table(pets / "a.csv", rows)).classes == ("2", "10")
    rows = [(path, at % 2) for at, (path, _) in enumerate(ROWS)]
    assert load_dataset(table(pets / "b.csv", rows), classes=["cat", "dog"]).classes == ("cat", "dog")
    floats = as_parquet(pets / "c", [{"path": path, "label": float(at % 2)} for at, (path, _) in enumerate(ROWS)])
    assert load_dataset(floats).classes == ("0", "1")
    assert "not among the classes: '1'" in refused(pets / "b.csv", classes=["cat"]).what


# ---- columns


def test_named_columns_count_and_others_are_passed_over(pets: Path, expected: set[tuple[str, str]]) -> None:
    rows = [(at, path, "x", name) for at, (path, name) in enumerate(ROWS)]
    path = table(pets / "list.csv", rows, ("id", "where it is", "label", "Kind"))
    assert content(load_dataset(path, columns="path=where it is, label=kind")) == expected


def test_columns_that_are_not_there_or_not_written_well_are_refused(pets: Path) -> None:
    path = table(pets / "list.csv", ROWS, ("path", "species"))
    assert refused(path, columns="label=specie").fix == "did you mean 'species'?"
    for text, what in {
        "lable=species": "unknown role 'lable'",
        "species": "names no column",
        "label=": "names nothing for label",
        "label=a,label=b": "names label twice",
        ",": "names no column",
        "label=path,path=path": "is named for",
    }.items():
        assert what in refused(path, columns=text).what
    with pytest.raises(BadSetting, match="columns are named"):
        folder_of(pets, columns="label=x")


def test_a_table_without_a_column_of_labels_or_a_header_is_refused_with_the_way_out(pets: Path) -> None:
    problem = refused(table(pets / "a.csv", ROWS, ("path", "colour")))
    assert "no column that is known to hold the label, among 'path', 'colour'" in problem.what
    assert "--columns label=COLUMN" in problem.fix
    assert "known to hold the path" in refused(table(pets / "b.csv", ROWS[1:], ROWS[0])).what
    assert "has 2 columns 'label'" in refused(table(pets / "c.csv", [(*row, "x") for row in ROWS],
                                                    ("path", "label", "label"))).what  # fmt: skip


def test_a_column_with_a_label_for_nearly_each_photo_is_told(pets: Path) -> None:
    for number in range(12, 44):
        (pets / "photos" / f"{number}.png").write_bytes(photo(number))
    rows = [(f"photos/{number}.png", f"breed {max(20, number)}") for number in range(44)]
    (note,) = [note for note in _notes(pets, rows) if "different labels" in note]
    assert "holds 24 different labels in 44 lines: is it the right one?" in note


def _notes(pets: Path, rows: list[tuple[Any, ...]]) -> tuple[str, ...]:
    path = table(pets / "list.csv", rows)
    return listed(read_table(path), {}, None, lambda cell: (str(pets / cell), "")).notes


# ---- splits, groups, weights


def test_splits_groups_and_weights_reach_the_manifest(pets: Path, tmp_path: Path) -> None:
    sides = ["Train", "Train", "VAL", "val", "testing", "Test"]
    rows = [(path, name, sides[at // 2], f"g{at}", 0.5 + at) for at, (path, name) in enumerate(ROWS)]
    data = load_dataset(table(pets / "list.csv", rows, ("path", "label", "subset", "patient_id", "weight")))
    assert data.user_splits
    by_path = {item.path: item for item in data.items}
    assert [by_path[path].split for path, _ in ROWS] == [
        side for side in ("train", "validation", "test") for _ in range(4)
    ]
    assert by_path["photos/3.png"].group == "g3"
    assert by_path["photos/3.png"].weight == 3.5
    write_splits(data, tmp_path / "splits.csv")
    with (tmp_path / "splits.csv").open() as file:
        assert {row["path"]: (row["group"], float(row["weight"])) for row in csv.DictReader(file)} == {
            path: (f"g{at}", 0.5 + at) for at, (path, _) in enumerate(ROWS)
        }


def test_a_fold_that_names_no_split_is_not_used_and_told(pets: Path) -> None:
    rows = [(path, name, at % 5) for at, (path, name) in enumerate(ROWS)]
    path = table(pets / "list.csv", rows, ("path", "label", "fold"))
    assert "column 'fold' is not used: it names no splits, but holds '0'" in load_dataset(path).notes
    assert "names splits that do not exist: line 2 has '0'" in refused(path, columns="split=fold").what


def test_a_misspelt_split_is_refused_with_its_line(pets: Path) -> None:
    rows = [(path, name, "tset" if at == 4 else "train") for at, (path, name) in enumerate(ROWS)]
    path = table(pets / "list.csv", rows, ("path", "label", "split"))
    assert "line 6 has 'tset'" in refused(path).what
    assert len(load_dataset(path, columns="split=")) == 12


def test_tables_for_each_split_can_be_given(pets: Path) -> None:
    parts = [table(pets / f"{number}.csv", ROWS[4 * number : 4 * number + 4]) for number in range(3)]
    data = load_dataset(parts[0], validation=parts[1], test=parts[2])
    assert [item.split for item in sorted(data.items, key=lambda item: int(item.path[7:-4]))] == [
        side for side in ("train", "validation", "test") for _ in range(4)
    ]
    with pytest.raises(BadSetting, match="both in the same way"):
        load_dataset(parts[0], test=pets)


# ---- rows that cannot be used


def test_each_row_that_cannot_be_used_is_listed_with_its_line_and_reason(pets: Path) -> None:
    (pets / "photos" / "notes.txt").write_text("words")
    os.mkfifo(pets / "photos" / "pipe")
    odd = [
        ("photos/gone.png", "cat", 1),
        ("photos", "cat", 1),
        ("", "cat", 1),
        ("photos/0.png", "", 1),
        ("https://example.org/a.png", "cat", 1),
        ("photos/notes.txt", "cat", 1),
        ("photos/pipe", "cat", 1),
        ("a\0b.png", "cat", 1),
        ("photos/1.png", "dog", "heavy"),
        ("photos/1.png", "dog", 0),
        ("photos/1.png", "dog", "nan"),
        ("photos/1.png", "two\nlines", 1),
        ("photos/1.png", "dog", 1, "more"),
        ("x" * 3000, "cat", 1),
    ]
    rows = [(*row, 1) for row in ROWS]
    data = load_dataset(table(pets / "list.csv", [*rows, *odd], ("path", "label", "weight")))
    assert len(data) == 12
    told = sorted((file.reason if ":" in file.reason else f"{file.path}: {file.reason}") for file in data.skipped)
    assert len(told) == len(odd)
    for line, reason in {
        14: "does not exist",
        15: "a folder, not a file",
        16: "no path",
        17: "no label",
        18: "an address, not a file: download it first",
        20: "not a regular file",
        21: "a name that no file can have",
        22: "its weight 'heavy' is not a number above 0",
        23: "its weight '0' is not a number above 0",
        24: "its weight 'nan' is not a number above 0",
        25: "its label is more than one line of text",
    }.items():
        assert f"line {line} of table 'list.csv': {reason}" in told
    assert any(words.startswith("line 27 of table 'list.csv': 4 cells, where the first line names 3") for words in told)
    assert any("File name too long" in words for words in told)
    assert any("notes.txt" in file.path for file in data.skipped)


def test_a_row_once_more_counts_once_and_contradicting_rows_not_at_all(pets: Path) -> None:
    rows = [*ROWS, ROWS[0], ("photos/../photos/1.png", "dog"), ("photos/2.png", "dog")]
    data = load_dataset(table(pets / "list.csv", rows))
    assert len(data) == 11
    assert sorted(file.reason for file in data.skipped) == [
        "line 14 of table 'list.csv': the same photo as in line 2 of table 'list.csv', which counts",
        "line 15 of table 'list.csv': the same photo as in line 3 of table 'list.csv', which counts",
        "line 16 of table 'list.csv' gives it the label 'dog', but line 4 of table 'list.csv' the label 'cat'",
        "line 4 of table 'list.csv' gives it the label 'cat', but line 16 of table 'list.csv' the label 'dog'",
    ]


def test_of_rows_in_two_splits_the_test_photo_stays(pets: Path) -> None:
    sides = ["train"] * 8 + ["test"] * 4
    rows = [(path, name, side) for (path, name), side in zip(ROWS, sides, strict=True)]
    data = load_dataset(table(pets / "list.csv", [*rows, (*ROWS[0], "test")], ("path", "label", "split")))
    (item,) = [item for item in data.items if item.path == "photos/0.png"]
    assert item.split == "test"
    assert "('train' there 'test')" not in "".join(reasons(data).values())
    assert "(split 'train' there 'test')" in "".join(reasons(data).values())


def test_a_table_of_which_nothing_is_there_says_where_was_looked(pets: Path) -> None:
    problem = refused(table(pets / "a.csv", [(f"images/{number}.jpg", names(number)) for number in range(4)]))
    assert "none of the 4 photos that table 'a.csv' lists is there" in problem.what
    assert str(pets) in problem.what
    assert "images/0.jpg" in problem.what
    nested = refused(table(pets / "b.csv", [(f"{number}", names(number)) for number in range(4)]))
    assert "'photos/0.png' is there: put the table into 'photos'" in nested.fix
    addresses = refused(table(pets / "c.csv", [(f"http://x.org/{number}", names(number)) for number in range(4)]))
    assert addresses.fix == "download the photos and list their paths"


@pytest.mark.parametrize(
    "cells",
    [
        ["cat|dog", "cat", "dog", "cat|dog"],
        ["cat;dog", "cat;emu", "dog;emu"],
        ["cat, dog", "cat", "dog"],
        ["['cat', 'dog']", "cat", "dog"],
        ['["cat"]', '["dog"]', '["dog"]'],
    ],
)
def test_several_labels_a_photo_are_refused(cells: list[str], pets: Path) -> None:
    rows = [(path, cells[at % len(cells)]) for at, (path, _) in enumerate(ROWS)]
    problem = refused(table(pets / "list.csv", rows))
    assert "gives a photo several labels: line" in problem.what
    lists = [{"path": path, "label": ["cat", "dog"]} for path, _ in ROWS]
    assert "gives a photo several labels: line 1" in refused(as_json_lines(pets / "a", lists)).what


def test_names_with_commas_and_bars_are_names(pets: Path) -> None:
    rows = [(path, ("tiger, Bengal", "tiger, Siberian")[at % 2]) for at, (path, _) in enumerate(ROWS)]
    assert load_dataset(table(pets / "list.csv", rows)).classes == ("tiger, Bengal", "tiger, Siberian")


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.csv", "", "lists nothing"),
        ("a.csv", "path,label\n", "lists nothing"),
        ("a.csv", 'path,label\n"a.png,cat\n', "cannot be read from line 2 on"),
        ("a.jsonl", "words\nmore words\n", "holds no JSON object"),
        ("a.json", "{}", "is no JSON list of objects"),
        ("a.json", "[" * 100_000, "is no JSON list of objects"),
        ("a.parquet", "words", "is no Parquet file"),
        ("a.csv", "\0\xff", "lists nothing"),
    ],
)
def test_a_table_that_is_none_is_refused(name: str, text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert what in refused(tmp_path / name).what


def test_lines_that_are_no_json_are_listed(pets: Path) -> None:
    path = as_json_lines(pets / "list", [{"path": path, "label": name} for path, name in ROWS])
    path.write_text(path.read_text() + 'no json\n[1]\n{"path": "photos/0.png", "label": "\\ud800"}\n')
    data = load_dataset(path)
    assert len(data) == 12
    assert sorted(file.reason.rpartition(": ")[2] for file in data.skipped) == [
        "not a JSON object", "not a JSON object", "text that is not Unicode",
    ]  # fmt: skip


def test_a_missing_library_for_parquet_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_parquet(pets / "list", [{"path": path, "label": name} for path, name in ROWS])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused(path).fix == 'pip install "headstart[tables]"'


def test_a_table_may_hold_a_part_of_a_models_classes(pets: Path) -> None:
    path = table(pets / "list.csv", [row for row in ROWS if row[1] == "dog"], ("photo", "kind"))
    data = load_labelled(path, classes=("cat", "dog"), columns="label=kind")
    assert [item.label for item in data.items] == [1] * 6
    assert {item.split for item in data.items} == {"test"}


def test_a_hundred_thousand_lines_are_read_in_seconds(tmp_path: Path) -> None:
    rows = [(f"photos/{number}.jpg", f"class {number % 100}", f"p{number // 7}") for number in range(100_000)]
    path = table(tmp_path / "list.csv", rows, ("path", "label", "patient"))
    began = time.process_time()
    found = listed(read_table(path), {}, None, lambda cell: (os.path.join(tmp_path, cell), ""))
    assert len(found.rows) == 100_000
    assert time.process_time() - began < 5


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".csv", ".tsv", ".jsonl", ".json"]),
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet='path,label;\t"\n\r{}[]:0.1e\\/|é\x00\u2028', max_size=200).map(
            lambda text: ("path,label,weight,split\n" + text).encode()
        ),
        st.lists(
            st.dictionaries(
                st.sampled_from(["path", "label", "weight", "split", "group"]),
                st.one_of(st.none(), st.text(max_size=8), st.integers(), st.floats(), st.lists(st.integers())),
            )
        ).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    ),
)
def test_whatever_a_table_holds_it_is_read_or_refused(tmp_path: Path, suffix: str, text: bytes) -> None:
    (tmp_path / f"any{suffix}").write_bytes(text)
    with suppress(HeadstartError):
        SOURCE.read(sources.Asked(sources={"train": tmp_path / f"any{suffix}"}, refusal=refusal))


# ---- a folder with a table in it


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_with_metadata_and_no_class_folders_is_its_table(
    name: str, pets: Path, expected: set[tuple[str, str]]
) -> None:
    rows = [{"file_name": path, "label": names} for path, names in ROWS]
    (as_csv if name.endswith("csv") else as_json_lines)(pets / "metadata", rows)
    assert content(load_dataset(pets)) == expected


def test_folders_for_splits_with_metadata_are_splits(tmp_path: Path) -> None:
    for place, side in enumerate(("train", "val", "test")):
        (tmp_path / "set" / side).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "set" / side / f"{number}.png").write_bytes(photo(10 * place + number))
        table(tmp_path / "set" / side / "metadata.csv", [(f"{n}.png", names(n)) for n in range(4)],
              ("file_name", "label"))  # fmt: skip
    data = load_dataset(tmp_path / "set")
    assert [len(data.only(side)) for side in ("train", "validation", "test")] == [4, 4, 4]


def test_class_folders_count_more_than_a_table_beside_them(pets: Path) -> None:
    for number in range(12):
        (pets / names(number)).mkdir(exist_ok=True)
        (pets / "photos" / f"{number}.png").rename(pets / names(number) / f"{number}.png")
    (pets / "photos").rmdir()
    table(pets / "metadata.csv", [("cat/0.png", "emu")])
    data = load_dataset(pets)
    assert data.classes == ("cat", "dog")
    assert reasons(data) == {"metadata.csv": "not in a class folder"}


def test_class_folders_in_folders_for_splits_count_more_than_tables_beside_them(pets: Path) -> None:
    for number in range(12):
        place = pets / ("train", "test")[number // 6] / names(number)
        place.mkdir(parents=True, exist_ok=True)
        (pets / "photos" / f"{number}.png").rename(place / f"{number}.png")
    (pets / "photos").rmdir()
    for side in ("train", "test"):
        table(pets / side / "metadata.csv", [("cat/0.png", 3)], ("file_name", "brightness"))
    assert load_dataset(pets).classes == ("cat", "dog")


# ---- lists


def test_lists_of_paths_and_labels_are_a_data_set(pets: Path, expected: set[tuple[str, str]]) -> None:
    paths, labels = [pets / path for path, _ in ROWS], [name for _, name in ROWS]
    numbers = [int(name == "dog") for name in labels]
    for source in (
        list(zip(paths, labels, strict=True)),
        [[str(path), name] for path, name in zip(paths, labels, strict=True)],
        (paths, labels),
        [list(map(str, paths)), labels],
        (np.array(list(map(str, paths))), np.array(labels)),
    ):
        assert content(load_dataset(source)) == expected
    for one in (numbers, np.array(numbers), np.eye(2)[numbers]):
        assert content(load_dataset((paths, one), classes=["cat", "dog"])) == expected
    assert load_dataset((paths, numbers)).classes == ("0", "1")
    data = load_dataset((paths[:8], labels[:8]), test=(paths[8:], labels[8:]))
    assert len(data.test) == 4


def test_lists_that_mean_nothing_are_refused(pets: Path) -> None:
    paths, labels = [str(pets / path) for path, _ in ROWS], [name for _, name in ROWS]
    for source, what in [
        ((paths, labels[1:]), "12 photos, but 11 labels"),
        ((paths, [*labels[1:], 3]), "labels of several kinds"),
        ((paths, [*labels[1:], None]), "labels of several kinds"),
        ((paths, ["", *labels[1:]]), "photo 1 of the list has no label"),
        ((paths, None), "without labels"),
        ([(paths[0], "cat"), "dog"], "photo 2 of the list is no pair"),
        ([(paths[0], "cat"), (3, "dog")], "photo 2 of the list is a int"),
        ((paths, [["cat", "dog"]] * 12), "a photo with several labels"),
        ([("gone.png", "cat"), ("lost.png", "dog")], "no usable photo in the list"),
    ]:
        with pytest.raises(BadData, match=what):
            load_dataset(source)


def test_pil_images_are_kept_as_their_files_would_be_read(tmp_path: Path, cache: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3), np.uint8)
    pictures: list[Image.Image] = [Image.fromarray(each) for each in pixels]
    pictures[1] = pictures[1].convert("P")
    pictures[2] = pictures[2].convert("CMYK")
    pictures[3] = pictures[3].convert("1")
    data = load_dataset([(picture, names(at)) for at, picture in enumerate(pictures)])
    assert len(data) == 12
    assert data.root.is_relative_to(cache)
    assert {path.read_bytes()[:4] for path in data.paths} == {b"\x89PNG"}
    turned = Image.fromarray(pixels[0])
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as opened:
        data = load_dataset([(one if at else opened, names(at)) for at, one in enumerate(pictures)])
    assert sum(b"eXIf" in path.read_bytes() for path in data.paths) == 1


# ---- Hugging Face


@pytest.fixture
def library() -> Any:
    """Hugging Face's library."""
    return pytest.importorskip("datasets")


def hugging(library: Any, pets: Path, *, embedded: bool) -> Any:
    """The pets as a data set; with the files' bytes in it, or their paths."""
    pictures = [
        {"bytes": (pets / path).read_bytes(), "path": None} if embedded else {"bytes": None, "path": str(pets / path)}
        for path, _ in ROWS
    ]
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog"])})
    return library.Dataset.from_dict(
        {"image": pictures, "label": [int(name == "dog") for _, name in ROWS]}, features=features
    )


@pytest.mark.parametrize("embedded", [False, True])
def test_a_hugging_face_data_set_gives_its_files_bytes(
    embedded: bool, library: Any, pets: Path, expected: set[tuple[str, str]], cache: Path, tmp_path: Path
) -> None:
    source = hugging(library, pets, embedded=embedded)
    data = load_dataset(source)
    assert content(data) == expected
    assert data.root.is_relative_to(cache if embedded else pets)
    assert content(load_dataset(source.with_format("numpy"))) == expected
    library.disable_progress_bars()
    source.save_to_disk(tmp_path / "saved")
    assert content(load_dataset(tmp_path / "saved")) == expected
    assert folder_of(tmp_path / "saved") == tmp_path / "saved"


def test_the_parts_of_a_hugging_face_data_set_are_splits(library: Any, pets: Path, tmp_path: Path) -> None:
    whole = hugging(library, pets, embedded=True)
    parts = library.DatasetDict(
        {name: whole.select(range(4 * at, 4 * at + 4)) for at, name in enumerate(("train", "validation", "test"))}
    )
    data = load_dataset(parts)
    assert [len(data.only(side)) for side in ("train", "validation", "test")] == [4, 4, 4]
    library.disable_progress_bars()
    parts.save_to_disk(tmp_path / "saved")
    assert load_dataset(tmp_path / "saved").hash == data.hash
    assert load_dataset(parts["train"], test=parts["test"]).hash != data.hash
    strange = library.DatasetDict({"train": whole, "unsupervised": whole})
    assert "a split 'unsupervised'" in refused(strange).what
    assert len(load_dataset(library.DatasetDict({"anything": whole}))) == 12


def test_hugging_face_rows_that_cannot_be_used_are_listed(library: Any, pets: Path) -> None:
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog", "emu"])})
    pictures = [{"bytes": photo(at), "path": None} for at in range(12)]
    odd: list[Any] = [{"bytes": b"words", "path": None}, None, {"bytes": photo(50), "path": None}]
    source = library.Dataset.from_dict(
        {"image": pictures + odd, "label": [at % 2 for at in range(14)] + [-1]}, features=features
    )
    data = load_dataset(source)
    assert data.classes == ("cat", "dog")
    assert any("no usable photo in 'emu': not a class" in note for note in data.notes)
    told = reasons(data)
    assert told.pop("row 13 of the data set").startswith("not a photo")
    assert told == {
        "row 14 of the data set": "no picture",
        "row 15 of the data set": "no label",
    }


def test_hugging_face_sets_that_cannot_be_used_are_refused(
    library: Any, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = hugging(library, pets, embedded=True)
    assert "streamed" in refused(source.to_iterable_dataset()).what
    assert "known to hold the label" in refused(source.remove_columns("label")).what
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    assert "does not load" in refused(tmp_path / "saved").what
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refused(tmp_path / "saved").fix == 'pip install "headstart[huggingface]"'


# ---- a source of somebody else's


def test_a_source_of_another_package_is_asked_too(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Herd:
        """A thing that only another package knows."""

    def read(asked: sources.Asked) -> sources.Found:
        photos = tuple(Photo(path, f"{at:032x}", name, None) for at, (path, name) in enumerate(ROWS))
        return sources.Found(root=pets, scan=Scan(photos, (Skipped("photos/x", "why not"),), ()))

    theirs = sources.Source(what="a herd", takes=lambda source: isinstance(source, Herd), read=read)
    ours = sources.SOURCES.loadable()
    monkeypatch.setattr(sources.Registry, "loadable", lambda self: {**ours, "theirs": theirs})
    found, _ = sources.find({"train": Herd()})
    assert found is theirs
    assert "a herd" in sources.kinds()
    assert sources.find({"train": pets})[0] is not theirs


def test_columns_are_read_as_they_are_written() -> None:
    assert parsed(None) == {}
    assert parsed(" path = a b , group=, ") == {"path": "a b", "group": ""}
