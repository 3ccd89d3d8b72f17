"""A folder of photos becomes a manifest by stated rules, or a clear refusal."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import headstart.data.folder as folder_module
import headstart.data.loading as loading_module
from headstart.data.dataset import Dataset, Item, Split
from headstart.data.loading import drop_unreadable, load_dataset, load_labelled
from headstart.data.splits import assign, write_splits
from headstart.errors import BadData, BadSetting, DiskFull
from headstart.modalities.sniff import FORMATS, HEAD, refusal, sniff

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def photo(number: int, format: str = "PNG") -> bytes:
    """A small real image, another for each number."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 99)).save(file, format)
    return file.getvalue()


def fill(root: Path, files: dict[str, int | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photo(content) if isinstance(content, int) else content)
    return root


def two_classes(root: Path, n: int = 30) -> Path:
    files: dict[str, int | bytes] = {f"cat/{number:03}.png": number for number in range(n)}
    return fill(root, files | {f"dog/{number:03}.png": 1000 + number for number in range(n)})


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "pets")


def skipped(dataset: Dataset) -> dict[str, str]:
    return {file.path: file.reason for file in dataset.skipped}


def sides(dataset: Dataset) -> dict[str, Split]:
    return {item.path: item.split for item in dataset.items}


def labels(dataset: Dataset) -> dict[str, str]:
    return {item.path: dataset.classes[item.label] for item in dataset.items}


def refused(source: str | Path, splits: Path | None = None) -> BadData:
    with pytest.raises(BadData) as caught:
        load_dataset(source, splits=splits)
    assert "\n" not in caught.value.what
    assert caught.value.fix
    return caught.value


# The plain folder


def test_a_class_whose_name_is_two_lines_is_refused_as_files_list_a_class_a_line(pets: Path) -> None:
    (pets / "dog").rename(pets / "big\ndog")
    assert "'big\\ndog'" in refused(pets).what


def test_each_folder_is_a_class_and_nothing_is_lost(pets: Path) -> None:
    data = load_dataset(pets)
    assert data.classes == ("cat", "dog")
    assert len(data) == 60
    assert data.skipped == ()
    assert data.notes == ()
    assert not data.user_splits
    assert data.root == pets
    assert {path.split("/")[0] for path in labels(data)} == {"cat", "dog"}
    assert all(path.split("/")[0] == name for path, name in labels(data).items())
    assert len(data.train) + len(data.validation) + len(data.test) == 60
    assert all({item.split for item in data.items if item.label == label} >= {"train", "test"} for label in (0, 1))


def test_items_come_in_the_order_of_their_paths_every_time(pets: Path) -> None:
    data = load_dataset(fill(pets, {"cat/deep/1.png": 4321, "cat.2/1.png": 4322, "cat.2/2.png": 4323}))
    assert list(labels(data)) == sorted(labels(data))
    assert load_dataset(pets) == data


def test_a_relative_source_gives_absolute_places(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pets.parent)
    data = load_dataset("pets")
    assert data == load_dataset(pets)
    assert all(path.is_absolute() and path.is_file() for path in data.paths)


def test_photos_in_nested_folders_belong_to_their_top_class(tmp_path: Path) -> None:
    data = load_dataset(fill(tmp_path, {"a/1.png": 1, "a/x/y/2.png": 2, "b/dog/3.png": 3, "b/4.png": 4}))
    assert labels(data) == {"a/1.png": "a", "a/x/y/2.png": "a", "b/dog/3.png": "b", "b/4.png": "b"}


def test_clutter_is_passed_over_in_silence(pets: Path) -> None:
    before = load_dataset(pets)
    hidden = (".DS_Store", ".hidden.png", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/1.png", "__MACOSX/cat/1.png")
    for place in ("", "cat/"):
        fill(pets, {place + name: 5000 + number for number, name in enumerate(hidden)})
    fill(pets, {".hidden/1.png": 1, "cat/._000.png": 2})
    assert load_dataset(pets) == before


def test_a_hidden_folder_may_itself_be_the_source(tmp_path: Path) -> None:
    assert len(load_dataset(two_classes(tmp_path / ".cache"))) == 60


def test_photos_outside_class_folders_are_listed(pets: Path) -> None:
    data = load_dataset(fill(pets, {"loose.png": 77, "LICENCE.txt": b"free"}))
    assert skipped(data) == {"loose.png": "not in a class folder", "LICENCE.txt": "not in a class folder"}


def test_a_class_folder_without_photos_is_listed_and_no_class(pets: Path) -> None:
    (pets / "empty").mkdir()
    data = load_dataset(fill(pets, {"texts/a.txt": b"hello"}))
    assert data.classes == ("cat", "dog")
    assert skipped(data)["empty"] == skipped(data)["texts"] == "a class folder without a usable photo"
    assert data.notes == ("no usable photo in 'empty', 'texts': not a class",)


@pytest.mark.parametrize("format", FORMATS)
def test_content_and_not_the_suffix_makes_a_photo(pets: Path, format: str) -> None:
    data = load_dataset(fill(pets, {"cat/photo.txt": photo(7777, format), "cat/noname": photo(7778, format)}))
    assert {"cat/photo.txt", "cat/noname"} <= set(labels(data))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"\0" * 3000, "not a photo"),
        (b"BM is how this text begins, and it is long enough", "not a photo"),
        (b"  <!DOCTYPE html><html>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not read"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC is not read"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "a film"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not a photo"),
    ],
)
def test_a_file_that_is_no_photo_is_listed_with_its_reason(pets: Path, content: bytes, reason: str) -> None:
    data = load_dataset(fill(pets, {"cat/strange.jpg": content}))
    assert len(data) == 60
    assert skipped(data)["cat/strange.jpg"].startswith(reason)


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_bytes_are_enough_to_tell_a_format(format: str) -> None:
    assert sniff(photo(1, format)[:HEAD]) == format
    assert refusal(photo(1, format)[:HEAD]) is None


def test_a_cut_off_photo_is_listed_before_anything_is_trained(pets: Path) -> None:
    data = load_dataset(fill(pets, {"cat/cut.jpg": photo(4321, "JPEG")[:200]}))
    assert "cat/cut.jpg" not in labels(data)
    assert skipped(data) == {"cat/cut.jpg": "damaged: the file ends before the picture does"}


def test_a_photo_larger_than_a_block_is_hashed_to_its_end(pets: Path) -> None:
    long = photo(1) + bytes(folder_module.BLOCK)
    data = load_dataset(fill(pets, {"cat/long1.png": long + b"1", "cat/long2.png": long + b"2"}))
    ids = {item.path: item.id for item in data.items}
    assert ids["cat/long1.png"] != ids["cat/long2.png"]


def test_more_photos_than_one_window_come_in_order(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_dataset(pets)
    monkeypatch.setattr(folder_module, "WINDOW", 7)
    assert load_dataset(pets) == before


@pytest.mark.parametrize(
    "name", ["a,b.png", 'say "hi".png', "two\nlines.png", "é😀.png", "-rf", os.fsdecode(b"\xff\xfe.png")]
)
def test_odd_file_names_are_kept_and_survive_a_file_of_splits(pets: Path, tmp_path: Path, name: str) -> None:
    data = load_dataset(fill(pets, {f"cat/{name}": 4321}), seed=3)
    assert f"cat/{name}" in labels(data)
    write_splits(data, tmp_path / "splits.csv")
    again = load_dataset(pets, splits=tmp_path / "splits.csv")
    assert sides(again) == sides(data)
    assert again.hash == data.hash


def test_an_odd_class_name_is_kept(pets: Path) -> None:
    name = os.fsdecode(b"\xff")
    data = load_dataset(fill(pets, {f"{name}/1.png": 4321, f"{name}/2.png": 4322}))
    assert data.classes == ("cat", "dog", name)
    assert data.hash


def test_a_class_folder_with_decomposed_accents_is_the_same_class(tmp_path: Path) -> None:
    data = load_dataset(fill(tmp_path, {"caf\u00e9/1.png": 1, "cafe\u0301/2.png": 2, "tea/3.png": 3, "tea/4.png": 4}))
    assert data.classes == ("café", "tea")


# Links and special files


def test_a_link_to_a_photo_counts_as_the_photo(pets: Path, tmp_path: Path) -> None:
    fill(tmp_path, {"elsewhere/x.png": 4321})
    (pets / "cat" / "link.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    assert "cat/link.png" in labels(load_dataset(pets))


def test_links_that_lead_nowhere_or_to_themselves_are_listed(pets: Path) -> None:
    (pets / "cat" / "broken.png").symlink_to("gone.png")
    (pets / "cat" / "self.png").symlink_to("self.png")
    reasons = skipped(load_dataset(pets))
    assert reasons == {"cat/broken.png": "a link that leads nowhere", "cat/self.png": "a link that leads to itself"}


def test_links_to_folders_are_followed_but_never_round_in_a_loop(pets: Path, tmp_path: Path) -> None:
    fill(tmp_path, {"more/5.png": 4321, "birds/1.png": 4331, "birds/2.png": 4332})
    (pets / "cat" / "more").symlink_to(tmp_path / "more")
    (pets / "bird").symlink_to(tmp_path / "birds")
    (pets / "cat" / "up").symlink_to("..")
    (pets / "cat" / "round").symlink_to(".")
    (tmp_path / "more" / "back").symlink_to(pets / "cat")
    (pets / "cat" / "above").symlink_to(tmp_path.parent)
    data = load_dataset(pets)
    assert data.classes == ("bird", "cat", "dog")
    assert len(data) == 63
    assert labels(data)["cat/more/5.png"] == "cat"
    assert skipped(data) == {
        "cat/up": "a link to a folder above it",
        "cat/above": "a link to a folder above it",
        "cat/round": "a link to 'cat', which is read already",
        "cat/more/back": "a link to 'cat', which is read already",
    }


def test_a_real_folder_is_read_before_a_link_to_it(tmp_path: Path) -> None:
    fill(tmp_path, {"a/z/1.png": 1, "a/2.png": 2, "b/3.png": 3, "b/4.png": 4})
    (tmp_path / "a" / "k").symlink_to("z")
    data = load_dataset(tmp_path)
    assert "a/z/1.png" in labels(data)
    assert skipped(data) == {"a/k": "a link to 'a/z', which is read already"}


def test_pipes_sockets_and_devices_are_listed_and_never_opened(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(pets / "cat" / "pipe.png")
    (pets / "cat" / "zero.png").symlink_to("/dev/zero")
    monkeypatch.chdir(pets / "cat")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        reasons = skipped(load_dataset(pets))
    assert reasons == dict.fromkeys(("cat/pipe.png", "cat/zero.png", "cat/socket.png"), "not a regular file")


def test_what_may_not_be_read_is_listed(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal is feigned, as root is refused nothing."""
    opened, listed = Path.open, os.scandir
    (pets / "cat" / "locked").mkdir()

    def refuse(real: Callable[..., object], name: str) -> Callable[..., object]:
        def act(path: Path, *arguments: object, **options: object) -> object:
            if Path(path).name == name:
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, *arguments, **options)

        return act

    monkeypatch.setattr(Path, "open", refuse(opened, "003.png"))
    monkeypatch.setattr(os, "scandir", refuse(listed, "locked"))
    data = load_dataset(pets)
    assert len(data) == 58
    assert skipped(data) == dict.fromkeys(("cat/003.png", "cat/locked", "dog/003.png"), "permission denied")


# Folders named for splits


def with_sides(root: Path, *names: str, n: int = 12) -> Path:
    files: dict[str, int | bytes] = {}
    for place, name in enumerate(names):
        for number in range(n):
            files[f"{name}/cat/{number}.png"] = 3000 * place + number
            files[f"{name}/dog/{number}.png"] = 3000 * place + 1000 + number
    return fill(root, files)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Train", "VALID", "Testing"),
        ("training_set", "validation_set", "test_set"),
        ("TRAINING", "dev", "test images"),
        ("train", "eval", "test"),
        ("training", "validation", "evaluation"),
    ],
)
def test_folders_named_for_splits_decide_in_any_spelling(
    tmp_path: Path, train: str, validation: str, test: str
) -> None:
    data = load_dataset(with_sides(tmp_path, train, validation, test))
    meant = {train: "train", validation: "validation", test: "test"}
    assert data.classes == ("cat", "dog")
    assert len(data) == 72
    assert data.user_splits
    assert data.notes == ()
    assert all(side == meant[path.split("/")[0]] for path, side in sides(data).items())


@pytest.mark.parametrize(
    ("given", "missing", "share"), [("val", "test", 0.2), ("test", "validation", 0.1)], ids=["no-test", "no-validation"]
)
def test_a_missing_side_is_taken_out_of_the_training_photos(
    tmp_path: Path, given: str, missing: Split, share: float
) -> None:
    data = load_dataset(with_sides(tmp_path, "train", given, n=100))
    here: dict[str, Split] = {"val": "validation", "test": "test"}
    taken = [path for path, side in sides(data).items() if side == missing]
    assert all((side == here[given]) == path.startswith(f"{given}/") for path, side in sides(data).items())
    assert all(path.startswith("train/") for path in taken)
    assert len(taken) / 200 == pytest.approx(share, abs=0.08)
    assert data.user_splits
    assert data.notes[0].startswith(f"your splits name no {missing} photo: {len(taken)} of the training photos")


def test_a_train_folder_alone_decides_nothing(tmp_path: Path) -> None:
    data = load_dataset(with_sides(tmp_path / "a", "train"))
    plain = load_dataset(with_sides(tmp_path / "b", ".").joinpath("."))
    assert not data.user_splits
    assert data.hash == plain.hash


def test_a_class_called_train_beside_other_classes_is_a_class(tmp_path: Path) -> None:
    data = load_dataset(
        fill(tmp_path, {f"{name}/{n}.png": n + 10 * len(name) for name in ("car", "train") for n in (1, 2)})
    )
    assert data.classes == ("car", "train")


def test_another_folder_beside_train_and_test_is_listed(tmp_path: Path) -> None:
    data = load_dataset(fill(with_sides(tmp_path, "train", "test"), {"docs/a.png": 9, "train/b.png": 8}))
    assert skipped(data) == {
        "docs": "a folder beside train and test folders that names no split",
        "train/b.png": "not in a class folder",
    }


def test_test_photos_without_classes_are_listed_and_others_are_taken_for_testing(tmp_path: Path) -> None:
    data = load_dataset(fill(with_sides(tmp_path, "train"), {"test/1.png": 9, "test/2.png": 8}))
    assert skipped(data) == dict.fromkeys(("test/1.png", "test/2.png"), "not in a class folder")
    assert len(data.test)


def test_of_equal_photos_on_several_sides_the_test_copy_stays_then_the_validation_copy(tmp_path: Path) -> None:
    with_sides(tmp_path, "train", "val", "test")
    fill(tmp_path, {f"{side}/cat/same.png": 9999 for side in ("train", "val", "test")})
    data = load_dataset(fill(tmp_path, {"train/dog/also.png": 8888, "val/dog/also.png": 8888}))
    assert skipped(data) == {
        "train/cat/same.png": "the same photo as 'test/cat/same.png', which is kept for test",
        "val/cat/same.png": "the same photo as 'test/cat/same.png', which is kept for test",
        "train/dog/also.png": "the same photo as 'val/dog/also.png', which is kept for validation",
    }
    assert one_side_each(data)


def one_side_each(data: Dataset) -> bool:
    return len({(item.id, item.split) for item in data.items}) == len({item.id for item in data.items})


def test_a_class_without_a_training_photo_is_refused_with_the_likely_spelling(tmp_path: Path) -> None:
    with_sides(tmp_path, "train", "test")
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "cats")
    problem = refused(tmp_path)
    assert problem.what == "no train photo in class 'cats'"
    assert problem.fix == "did you mean 'cat'?"


def test_classes_are_matched_by_name_when_a_side_lacks_one(tmp_path: Path) -> None:
    """The order of class folders differs between the sides: a position would name the wrong class."""
    fill(tmp_path, {f"train/{name}/{n}.png": 100 * place + n for place, name in enumerate("abc") for n in range(4)})
    fill(
        tmp_path, {f"test/{name}/{n}.png": 1000 * place + 500 + n for place, name in enumerate("cb") for n in range(4)}
    )
    data = load_dataset(tmp_path)
    assert data.classes == ("a", "b", "c")
    assert all(path.split("/")[1] == name for path, name in labels(data).items())
    assert {data.classes[item.label] for item in data.test.items} == {"b", "c"}


# Splits by content


def shuffled_names(root: Path, target: Path) -> Path:
    """The same photos under other names, in an order that has nothing to do with the old one."""
    for name in ("cat", "dog"):
        files = sorted((root / name).iterdir())
        random.Random(5).shuffle(files)
        (target / name / "deep").mkdir(parents=True)
        for number, file in enumerate(files):
            shutil.copy(file, target / name / ("deep" if number % 2 else ".") / f"img{number}.jpg")
    return target


def by_id(data: Dataset) -> dict[str, Split]:
    return {item.id: item.split for item in data.items}


def check_names_do_not_matter(pets: Path, tmp_path: Path) -> None:
    shutil.copy(pets / "cat" / "000.png", pets / "cat" / "copy of 000.png")
    shutil.copy(pets / "cat" / "001.png", pets / "dog" / "copy of 001.png")
    before, after = load_dataset(pets), load_dataset(shuffled_names(pets, tmp_path / "other"))
    assert one_side_each(before)
    assert by_id(after) == by_id(before)
    assert after.hash == before.hash


def test_renaming_and_moving_photos_changes_no_split_and_copies_stay_together(pets: Path, tmp_path: Path) -> None:
    check_names_do_not_matter(pets, tmp_path)


def test_the_check_of_names_fails_when_photos_are_split_by_path(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = loading_module._split

    def by_path(dataset: Dataset, given: dict[str, Split], seed: int) -> Dataset:
        wrong = assign([item.path for item in dataset.items], [item.label for item in dataset.items], seed=seed)
        done = split(dataset, given, seed)
        return done.with_items(
            Item(item.id, item.path, item.label, side) for item, side in zip(dataset.items, wrong, strict=True)
        )

    monkeypatch.setattr(loading_module, "_split", by_path)
    with pytest.raises(AssertionError):
        check_names_do_not_matter(pets, tmp_path)


def test_added_photos_and_added_classes_move_no_old_photo(pets: Path) -> None:
    before = load_dataset(pets)
    fill(pets, {f"cat/new{n}.png": 2000 + n for n in range(20)} | {f"ant/{n}.png": 3000 + n for n in range(20)})
    after = load_dataset(pets)
    assert after.classes == ("ant", "cat", "dog")
    assert {id: by_id(after)[id] for id in by_id(before)} == by_id(before)


def test_five_seeds_are_five_splits(pets: Path) -> None:
    assert len({load_dataset(pets, seed=seed).hash for seed in range(5)}) == 5


def test_equal_photos_in_two_classes_are_told(pets: Path) -> None:
    shutil.copy(pets / "cat" / "001.png", pets / "dog" / "x.png")
    data = load_dataset(pets)
    assert data.notes == ("equal photos in different classes: 'cat/001.png' and 'dog/x.png'",)
    assert one_side_each(data)


# Splits from a file


def test_an_earlier_run_is_split_again_exactly_whatever_the_seed(pets: Path, tmp_path: Path) -> None:
    before = load_dataset(pets, seed=1)
    write_splits(before, tmp_path / "splits.csv")
    after = load_dataset(pets, seed=2, splits=str(tmp_path / "splits.csv"))
    assert sides(after) == sides(before) != sides(load_dataset(pets, seed=2))
    assert after.user_splits
    assert after.notes == ()


def test_renamed_added_and_removed_photos_keep_to_the_file_and_are_told(pets: Path, tmp_path: Path) -> None:
    before = load_dataset(pets, seed=1)
    write_splits(before, tmp_path / "splits.csv")
    other = shuffled_names(pets, tmp_path / "other")
    (other / "cat" / "img0.jpg").unlink()
    fill(other, {"dog/new.png": 4321, "dog/newer.png": 4322})
    after = load_dataset(other, seed=2, splits=tmp_path / "splits.csv")
    assert len(after) == 61
    assert all(by_id(before).get(id, side) == side for id, side in by_id(after).items())
    assert after.notes == (
        "2 photos are not in the splits file and were split as if there were none",
        "1 photos of the splits file are not in the folder",
    )


def test_a_handwritten_file_of_paths_is_enough(pets: Path, tmp_path: Path) -> None:
    lines = [f"cat/{n:03}.png,{'Test' if n < 9 else 'VAL' if n < 12 else 'training'}" for n in range(30)]
    (tmp_path / "mine.csv").write_text("\ufeffPath, Split\n" + "\n".join(lines) + "\n\ndog/001.png,test\n")
    data = load_dataset(pets, splits=tmp_path / "mine.csv")
    cats = [side for path, side in sides(data).items() if path.startswith("cat")]
    assert cats == ["test"] * 9 + ["validation"] * 3 + ["train"] * 18
    assert sides(data)["dog/001.png"] == "test"


def test_a_file_of_splits_that_puts_equal_photos_on_two_sides_keeps_the_test_copy(pets: Path, tmp_path: Path) -> None:
    shutil.copy(pets / "cat" / "001.png", pets / "cat" / "copy.png")
    data = load_dataset(pets)
    write_splits(data, tmp_path / "splits.csv")
    text = (tmp_path / "splits.csv").read_text().splitlines()
    ours = [
        line.rsplit(",", 2)[0] + (",test," if "001" in line else ",train,") + line.rsplit(",", 1)[1] for line in text
    ]
    (tmp_path / "splits.csv").write_text("\n".join([text[0], *ours[1:]]))
    data = load_dataset(pets, splits=tmp_path / "splits.csv")
    assert one_side_each(data)
    assert skipped(data) == {"cat/copy.png": "the same photo as 'cat/001.png', which is kept for test"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has no column 'path'"),
        ("path,label\ncat/001.png,cat\n", "has no column 'split'"),
        ("path,split\ncat/001.png,holdout\n", "line 2 has split 'holdout'"),
        ("path,split\n" + "".join(f"cat/{n}.png,x{n}\n" for n in range(8)), "and 3 more"),
        ("path,split\ncat/001.png\n", "line 2 has split ''"),
        ("path,split\n,test\n", "line 2 has no path"),
        ("path,split\ncat/001.png,test\ncat/001.png,train\n", "line 3 lists 'cat/001.png' once more"),
        ('path,split\n"cat', "cannot be read"),
        ("path,split\nbird/1.png,test\n", "none of the 1 photos"),
        ("path,split\n", "lists no photo"),
        ("path\0,split\n", "splits file"),
    ],
)
def test_a_bad_file_of_splits_is_refused(pets: Path, tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "splits.csv").write_text(text)
    assert what in refused(pets, tmp_path / "splits.csv").what


def test_a_missing_file_of_splits_and_a_folder_in_its_place_are_refused(pets: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused(pets, tmp_path / "gone.csv").what
    assert "cannot be read" in refused(pets, tmp_path).what


def test_a_full_disk_leaves_the_older_file_of_splits(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_dataset(pets)
    write_splits(data, tmp_path / "splits.csv")
    before = (tmp_path / "splits.csv").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        write_splits(data.test, tmp_path / "splits.csv")
    assert (tmp_path / "splits.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


# Photos that turn out to be damaged


def test_unreadable_photos_are_listed_and_the_others_stay_where_they_were(pets: Path) -> None:
    shutil.copy(pets / "cat" / "001.png", pets / "cat" / "copy.png")
    before = load_dataset(pets)
    bad = {before.items[1].id: "cut off", before.items[40].id: "cut off too"}
    after = drop_unreadable(before, bad, seed=0)
    assert skipped(after) == {"cat/001.png": "cut off", "cat/copy.png": "cut off", before.items[40].path: "cut off too"}
    assert sides(after) == {item.path: item.split for item in before.items if item.id not in bad}
    assert drop_unreadable(before, {}, seed=0) == before


def test_a_class_that_loses_its_test_photos_gets_another_one(pets: Path) -> None:
    before = load_dataset(pets)
    bad = {item.id: "cut off" for item in before.test.items if item.label == 0}
    after = drop_unreadable(before, bad, seed=0)
    assert [item.label for item in after.test.items].count(0) == 1


def test_the_users_splits_are_not_assigned_again(tmp_path: Path) -> None:
    before = load_dataset(with_sides(tmp_path, "train", "val", "test"))
    bad = {item.id: "cut off" for item in before.test.items if item.label == 0}
    after = drop_unreadable(before, bad, seed=0)
    assert {item.label for item in after.test.items} == {1}
    assert sides(after) == {item.path: item.split for item in before.items if item.id not in bad}


def test_a_class_that_loses_every_photo_is_no_class_and_the_others_keep_their_names(pets: Path) -> None:
    before = load_dataset(fill(pets, {f"bird/{n}.png": 3000 + n for n in range(5)}))
    after = drop_unreadable(before, {item.id: "cut off" for item in before.items if item.label == 0}, seed=0)
    assert before.classes == ("bird", "cat", "dog")
    assert after.classes == ("cat", "dog")
    assert all(path.split("/")[0] == name for path, name in labels(after).items())
    assert after.notes == ("no usable photo in 'bird': not a class",)


def test_when_no_photo_is_readable_five_are_named_and_the_rest_counted(pets: Path) -> None:
    before = load_dataset(pets)
    with pytest.raises(BadData) as caught:
        drop_unreadable(before, {item.id: "cut off" for item in before.items}, seed=0)
    assert caught.value.what.startswith(f"no readable photo in {str(pets)!r}: 'cat/000.png' (cut off), ")
    assert caught.value.what.endswith("'cat/004.png' (cut off) and 55 more")


def test_too_few_readable_photos_are_refused_as_if_there_had_been_no_others(pets: Path) -> None:
    before = load_dataset(pets)
    cats = [item.id for item in before.items if item.label == 0]
    with pytest.raises(BadData, match=r"in class 'cat' \(1\)"):
        drop_unreadable(before, dict.fromkeys(cats[1:], "cut off"), seed=0)
    with pytest.raises(BadData, match="holds the class 'dog' alone"):
        drop_unreadable(before, dict.fromkeys(cats, "cut off"), seed=0)


# Photos to judge a finished model by


def test_one_labelled_photo_is_enough_to_judge_by_and_its_class_is_matched_by_name(tmp_path: Path) -> None:
    data = load_labelled(fill(tmp_path, {"cat/1.png": 1, "cat/2.txt": b"text"}), classes=("ant", "cat"))
    assert sides(data) == {"cat/1.png": "test"}
    assert labels(data) == {"cat/1.png": "cat"}
    assert data.classes == ("ant", "cat")
    assert list(skipped(data)) == ["cat/2.txt"]
    with pytest.raises(BadData, match="does not know: 'cat'"):
        load_labelled(tmp_path, classes=("dog", "ant"))
    with pytest.raises(BadData, match="does not exist"):
        load_labelled(tmp_path / "gone", classes=("cat",))


# Refusals


def test_a_missing_folder_is_refused_with_the_likely_name(pets: Path) -> None:
    problem = refused(pets.parent / "pet")
    assert "does not exist" in problem.what
    assert problem.fix == "did you mean 'pets'?"
    assert "does not exist" in refused("").what
    assert "does not exist" in refused(pets / "no" / "such" / "folder").what
    assert "does not exist" in refused("nul\0").what


def test_a_file_instead_of_a_folder_is_refused(pets: Path) -> None:
    assert "is a file, not a folder" in refused(pets / "cat" / "000.png").what


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    assert "is empty" in refused(tmp_path).what


def test_photos_without_class_folders_are_refused(tmp_path: Path) -> None:
    assert "holds files (2), but no class folders" in refused(fill(tmp_path, {"1.png": 1, "2.png": 2})).what


def test_a_folder_without_a_readable_photo_is_refused(tmp_path: Path) -> None:
    problem = refused(fill(tmp_path, {"cat/a.jpg": b"", "dog/b.txt": b"text"}))
    assert "no readable photo in" in problem.what
    assert "'cat/a.jpg' (empty file)" in problem.what


def test_one_class_is_refused(tmp_path: Path) -> None:
    assert "holds the class 'cat' alone" in refused(fill(tmp_path, {"cat/1.png": 1, "cat/2.png": 2})).what


def test_one_class_that_holds_the_real_classes_is_pointed_out(pets: Path) -> None:
    assert refused(pets.parent).fix == f"did you mean {str(pets)!r}?"


def test_classes_of_one_photo_are_refused_together(tmp_path: Path) -> None:
    fill(tmp_path, {f"{name}/1.png": number for number, name in enumerate("abcdefg")})
    problem = refused(fill(tmp_path, {"cat/1.png": 101, "cat/2.png": 102, "cat/3.png": 103}))
    assert "'a' (1), 'b' (1), 'c' (1), 'd' (1), 'e' (1) and 2 more" in problem.what


def test_two_copies_of_one_photo_are_one_photo(tmp_path: Path) -> None:
    fill(tmp_path, {"cat/1.png": 1, "cat/2.png": 2, "dog/1.png": 3, "dog/2.png": 3})
    assert "'dog' (1)" in refused(tmp_path).what


def test_classes_that_cannot_all_have_a_test_photo_are_refused(tmp_path: Path) -> None:
    """Each two of three classes share a photo: whichever is for testing, one class has none or nothing else."""
    fill(tmp_path, {"a/x.png": 1, "a/y.png": 2, "b/x.png": 1, "b/z.png": 3, "c/y.png": 2, "c/z.png": 3})
    assert "no test photo in class" in refused(tmp_path).what


def test_an_unknown_modality_is_refused(pets: Path) -> None:
    with pytest.raises(BadSetting, match="smell"):
        load_dataset(pets, modality="smell")


def test_a_folder_that_may_not_be_read_is_refused(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    assert "cannot be read: Permission denied" in refused(pets).what


# Real photos


@pytest.fixture(params=["hymenoptera", "trashnet"])
def real(request: pytest.FixtureRequest) -> Path:
    folder = SHARED / request.param
    if not folder.is_dir():
        pytest.skip("the real photos are not on this machine")
    return folder


def test_real_photos_are_all_found_and_split_about_as_promised(real: Path) -> None:
    data = load_dataset(real)
    files = [path for path in real.rglob("*") if path.is_file()]
    assert len(data) + len(data.skipped) == len(files)
    assert data.skipped == ()
    assert len(data.test) / len(data) == pytest.approx(0.2, abs=0.05)
    assert len(data.validation) / len(data) == pytest.approx(0.1, abs=0.04)
