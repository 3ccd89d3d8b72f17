"""Data that comes as an object: TensorFlow's, Keras's and NumPy's, from real libraries; the labels are the point."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.data import batches, labels, objects
from headstart.data.dataset import Dataset
from headstart.errors import BadData, BadSetting
from headstart.modalities.image import ImageModality
from headstart.modalities.png import Picture, encode
from headstart.modalities.spec import InputSpec
from headstart.networks import keras_backend

REAL = Path(__file__).parents[2] / "shared" / "data" / "hymenoptera"
COLOURS = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200)])  # what a picture shows tells its class
PLAIN = InputSpec(size=8, crop=1.0, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tf() -> Any:
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    pytest.importorskip("keras", reason="Keras is not installed")
    return tensorflow


@pytest.fixture(scope="module")
def keras(tf: Any) -> Any:
    keras_backend.choose()  # whatever engine this test run is on: the data sets are TensorFlow's on each
    import keras

    return keras


def drawn(n: int, *, seed: int = 0, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `[n 8 8 3]` in the colour of their class, none like another, and their labels."""
    rng = np.random.default_rng(seed)
    positions = np.arange(n) % k
    noise = rng.integers(-30, 30, (n, 8, 8, 3))
    return (COLOURS[positions][:, None, None] + noise).astype(np.uint8), positions


def shown(data: Dataset) -> list[int]:
    """The class of each photo by what its file shows."""
    pictures = [ImageModality().decode(path.read_bytes(), PLAIN) for path in data.paths]
    return [int(picture.reshape(-1, 3).mean(axis=0).argmax()) for picture in pictures]


def check_colours(data: Dataset, names: tuple[str, ...] = ("red", "green", "blue")) -> None:
    assert data.classes == names
    assert data.labels.tolist() == shown(data)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, as Keras likes it. Read it, do not change it."""
    root = tmp_path_factory.mktemp("coloured") / "photos"
    for index, (picture, label) in enumerate(zip(*drawn(36), strict=True)):
        path = root / ("red", "green", "blue")[label] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).resize((40, 30), 0).save(path)
    return root


ORDER = ["red", "green", "blue"]  # not sorted: so that a sorted one is found


def from_directory(keras: Any, folder: Path, **options: Any) -> Any:
    options = {"image_size": (8, 8), "batch_size": 5, "verbose": False, "seed": 1, **options}
    return keras.utils.image_dataset_from_directory(str(folder), **options)


# ---- labels


@pytest.mark.parametrize(
    "given",
    [
        lambda y: y,
        lambda y: y.astype(np.uint8),
        lambda y: y.astype(np.float32),
        lambda y: y[:, None],
        lambda y: np.eye(3)[y],
        lambda y: np.eye(3, dtype=np.int32)[y],
        lambda y: np.eye(3, dtype=bool)[y],
        lambda y: list(y),
    ],
)
def test_labels_of_every_kind_come_to_the_same(given: Callable[[np.ndarray], Any]) -> None:
    pixels, positions = drawn(30)
    check_colours(hs.load_dataset((pixels, given(positions)), classes=ORDER))


@pytest.mark.parametrize("given", [lambda y: y, lambda y: y.astype(np.float32), lambda y: y[:, None] == 1])
def test_binary_labels_are_two_classes(given: Callable[[np.ndarray], np.ndarray]) -> None:
    pixels, positions = drawn(20, k=2)
    check_colours(hs.load_dataset((pixels, given(positions)), classes=["red", "green"]), ("red", "green"))


def test_without_names_classes_are_numbers_that_sort_as_they_count() -> None:
    pixels, _ = drawn(48)
    data = hs.load_dataset((pixels, np.arange(48) % 12))
    assert data.classes == tuple(f"{number:02}" for number in range(12)) == tuple(sorted(data.classes))
    assert hs.load_dataset(drawn(9)).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("wrong", "classes", "sentence"),
    [
        (lambda y: y + 2, ["a", "b", "c"], "labels go up to 4, but 3 class names are given"),
        (lambda y: np.eye(5)[y], ["a", "b", "c"], "labels are rows of 5, but 3 class names are given"),
        (lambda y: np.eye(3)[y], ["a", "b", "c", "d"], "labels are rows of 3, but 4 class names are given"),
        (lambda y: y - 1, None, "whole numbers from 0, but one is -1"),
        (lambda y: y + 0.5, None, "whole numbers from 0, but one is 0.5"),
        (lambda y: np.where(y == 1, np.nan, y), None, "whole numbers from 0, but one is nan"),
        (lambda y: np.eye(3)[y] + np.eye(3)[0], None, "not one-hot: 2, 0, 0"),
        (lambda y: np.minimum(1, np.eye(3)[y] + np.eye(3)[0]), None, "not one-hot: 1, 1, 0"),
        (lambda y: np.eye(3)[y] * 0.9 + 0.1 / 3, None, "not one-hot"),
        (lambda y: np.array(["a", "b", "c"])[y], None, "labels of type str"),
        (lambda y: y[:, None, None], None, r"labels of shape \[9, 1, 1\]"),
        (lambda y: y[:-1], None, "9 pictures, but 8 labels"),
        (lambda y: None, None, "without labels"),
        (lambda y: y, ["a", "b", "b"], "two classes have the same name"),
        (lambda y: y, ["a", "b", ""], "a class has the name ''"),
        (lambda y: y, "abc", "is one name"),
    ],
)
def test_labels_that_mean_nothing_are_refused(wrong: Callable[..., Any], classes: Any, sentence: str) -> None:
    pixels, positions = drawn(9)
    with pytest.raises(BadData, match=sentence):
        hs.load_dataset((pixels, wrong(positions)), classes=classes)


def test_batches_whose_labels_are_of_two_kinds_are_refused() -> None:
    with pytest.raises(BadData, match="rows of 2 in one batch, integers in another"):
        labels.join([labels.parse(np.eye(2)), labels.parse(np.arange(2))])


# ---- arrays


def test_pictures_come_through_unchanged_by_a_bit() -> None:
    pixels, positions = drawn(30)
    data = hs.load_dataset((pixels.astype(np.float32), positions))
    kept = {np.asarray(Image.open(path)).tobytes() for path in data.paths}
    assert kept == {picture.tobytes() for picture in pixels}


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1, 1), (3, 200, 4), (150, 160, 3)])
def test_a_png_of_ours_is_what_others_read(shape: tuple[int, int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "one.png").write_bytes(encode(pixels))
    with Image.open(tmp_path / "one.png") as image:
        image.verify()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "one.png")).reshape(shape), pixels)
    assert Picture(pixels).read_bytes() == encode(pixels)


def test_the_bytes_of_a_png_are_the_same_for_ever() -> None:
    """They decide the split: a change would move photos between train and test."""
    picture = np.arange(160 * 150 * 3, dtype=np.uint32).reshape(160, 150, 3).astype(np.uint8)
    assert (
        hashlib.sha256(encode(picture)).hexdigest()
        == "b7f112e032bca2e9cdd24a7ac6548add0812c0681393586159607dac02af49a9"
    )


@pytest.mark.parametrize("shape", [(-1, 8, 8), (-1, 8, 8, 1)])
def test_grey_pictures_are_pictures(shape: tuple[int, ...]) -> None:
    pixels, positions = drawn(12)
    data = hs.load_dataset((pixels[..., 0].reshape(shape), positions))
    assert ImageModality().decode(data.paths[0].read_bytes(), PLAIN).shape == (8, 8, 3)
    assert len(data) == 12


def test_transparent_pixels_are_white_as_they_are_in_files() -> None:
    pixels, positions = drawn(6)
    clear = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    clear[:, 0, 0, 3] = np.arange(6)  # so that no two are alike
    data = hs.load_dataset((clear, positions))
    assert ImageModality().decode(data.paths[0].read_bytes(), PLAIN)[1:].min() == 255


def test_what_sharp_resizing_puts_a_little_outside_is_cut_off() -> None:
    pixels, positions = drawn(6)
    far = pixels.astype(np.float32)
    far[:, 0, 0] = (-20.4, 280.6, 99.6)
    data = hs.load_dataset((far, positions))
    assert {tuple(np.asarray(Image.open(path))[0, 0]) for path in data.paths} == {(0, 255, 100)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x / 255, r"pixels are scaled already \(0\.\d+\.\.0\.\d+\)"),
        (lambda x: x / 127.5 - 1, r"pixels are scaled already \(-0\.\d+\.\.0\.\d+\)"),
        (lambda x: (x / 255 - 0.45) / 0.22, r"pixels are scaled already \(-\d\.\d+\.\.\d\.\d+\)"),
        (lambda x: (x > 128).astype(np.uint8), r"pixels are scaled already \(0\.\.1\)"),
        (lambda x: x.astype(np.uint16) * 200, "pixels lie between .*, not within 0..255"),
        (lambda x: x - np.array([104.0, 117.0, 124.0]), "pixels lie between -.*, not within 0..255"),
        (lambda x: np.where(x == x.max(), np.nan, x), "no finite numbers"),
        (lambda x: np.where(x == x.max(), np.inf, x), "no finite numbers"),
        (lambda x: x.astype(object), "type object"),
        (lambda x: x > 128, "pictures of type bool"),
        (lambda x: x.transpose(0, 3, 1, 2), r"\[9, 3, 8, 8\], with the channels first"),
        (lambda x: x[..., :2], r"pictures of shape \[9, 8, 8, 2\]"),
        (lambda x: x.reshape(9, -1), r"pictures of shape \[9, 192\]"),
        (lambda x: x[:, :0], r"pictures of shape \[9, 0, 8, 3\]"),
        (lambda x: [x[0], *x[1:, :4]], "pictures that are no array"),
        (lambda x: x.astype(str), "pictures of type str"),
    ],
)
def test_numbers_that_are_no_plain_pixels_are_refused(change: Callable[..., Any], sentence: str) -> None:
    pixels, positions = drawn(9)
    with pytest.raises(BadData, match=sentence):
        hs.load_dataset((change(pixels), positions))


def test_one_black_picture_among_others_is_taken_also_one_by_one() -> None:
    pixels, positions = drawn(9)
    pixels[0] = 0
    assert len(hs.load_dataset(Batches(pixels.astype(np.float32), positions, size=1))) == 9


def test_a_scaled_set_is_refused_before_all_of_it_is_read() -> None:
    pixels, positions = drawn(300)
    source = Batches(pixels / 255, positions, size=10)
    with pytest.raises(BadData, match="scaled already"):
        hs.load_dataset(source)
    assert source.read < 10


# ---- files in the cache


def test_a_second_time_nothing_is_written(cache: Path) -> None:
    pixels, positions = drawn(30)
    first = hs.load_dataset((pixels, positions), classes=ORDER)
    files = {path: path.stat().st_ctime_ns for path in (cache / "pictures").rglob("*")}
    order = np.random.default_rng(1).permutation(30)
    second = hs.load_dataset((pixels[order], np.eye(3)[positions[order]]), classes=ORDER)
    assert second == first
    assert {path: path.stat().st_ctime_ns for path in (cache / "pictures").rglob("*")} == files


def test_a_picture_that_two_data_sets_share_takes_room_once(cache: Path) -> None:
    pixels, positions = drawn(30)
    hs.load_dataset((pixels, positions))
    hs.load_dataset((pixels, positions), classes=ORDER)
    assert len({path.stat().st_ino for path in cache.rglob("*.png")}) == 30


def test_a_picture_cut_short_by_a_crash_is_written_again() -> None:
    pixels, positions = drawn(9)
    data = hs.load_dataset((pixels, positions), classes=ORDER)
    os.truncate(data.paths[0], 40)
    check_colours(hs.load_dataset((pixels, positions), classes=ORDER))


def test_pictures_are_kept_where_there_are_no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    check_colours(hs.load_dataset(drawn(9), classes=ORDER))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadSetting, match="cannot be written"):
        hs.load_dataset(drawn(9))


def test_the_folder_of_the_pictures_is_a_data_set_by_itself() -> None:
    """So `hs.train(data.root)` trains on it."""
    data = hs.load_dataset(drawn(90), validation=drawn(15, seed=1), classes=ORDER)
    folder = hs.load_dataset(data.root)
    assert folder.classes == tuple(sorted(ORDER))
    assert {(item.id, folder.classes[item.label], item.split) for item in folder.items} == {
        (item.id, data.classes[item.label], item.split) for item in data.items
    }
    assert {folder.split("/")[0] for folder in (item.path for item in data.items)} == {"train", "validation"}


@pytest.mark.parametrize("name", ["../../up", "a/b", ".hidden", "con:", "x" * 300, "Thumbs.db", "ä" * 80, "é", "."])
def test_a_class_whose_name_no_folder_can_have_keeps_its_name(name: str, cache: Path) -> None:
    data = hs.load_dataset(drawn(9), classes=["red", name, "blue"])
    check_colours(data, ("red", name, "blue"))
    assert all(cache in path.resolve().parents for path in data.paths)
    assert len(hs.load_dataset(data.root).classes) == 3


# ---- sides


def test_without_a_validation_and_a_test_set_they_are_taken_out_by_content(cache: Path) -> None:
    data = hs.load_dataset(drawn(120))
    assert not data.user_splits
    assert 10 <= len(data.test) <= 40
    assert 3 <= len(data.validation) <= 25
    assert hs.load_dataset(drawn(120), seed=1).test.hash != data.test.hash


def test_sides_that_are_given_stay_and_a_missing_one_is_taken_out_with_a_note() -> None:
    validation = drawn(15, seed=1)
    data = hs.load_dataset(drawn(90), validation=validation)
    assert len(data.validation) == 15
    assert 8 <= len(data.test) <= 30
    assert any("name no test photo" in note for note in data.notes)
    every = hs.load_dataset(drawn(90), validation=validation, test=drawn(12, seed=2))
    assert [len(every.train), len(every.validation), len(every.test)] == [90, 15, 12]


def test_a_picture_on_two_sides_is_kept_for_the_test() -> None:
    pixels, positions = drawn(30)
    data = hs.load_dataset((pixels, positions), test=(pixels[:6], positions[:6]))
    assert len(data.test) == 6
    assert len(data.skipped) == 6
    assert not {item.id for item in data.test.items} & {item.id for item in data.train.items}


def test_equal_pictures_all_count() -> None:
    pixels, positions = drawn(12)
    data = hs.load_dataset((np.concatenate([pixels, pixels[:3]]), np.concatenate([positions, positions[:3]])))
    assert len(data) == 15


def test_splits_of_an_earlier_run_are_used_again(tmp_path: Path) -> None:
    from headstart.data.splits import write_splits

    data = hs.load_dataset(drawn(60), seed=5)
    write_splits(data, tmp_path / "splits.csv")
    assert hs.load_dataset(drawn(60), seed=0, splits=tmp_path / "splits.csv").items == data.items


def test_a_problem_names_its_side() -> None:
    with pytest.raises(BadData, match="validation: a data set without labels"):
        hs.load_dataset(drawn(9), validation=drawn(9)[0])


@pytest.mark.parametrize("options", [{"validation": drawn(9)}, {"test": "photos"}, {"classes": ["a", "b"]}])
def test_what_is_for_objects_is_refused_beside_a_folder(options: dict[str, Any], drawn_photos: Path) -> None:
    with pytest.raises(BadSetting, match="folder"):
        hs.load_dataset(drawn_photos, **options)


def test_a_folder_beside_an_object_is_refused(drawn_photos: Path) -> None:
    with pytest.raises(BadSetting, match="a folder is given for validation, beside data for train"):
        hs.load_dataset(drawn(9), validation=drawn_photos)


@pytest.mark.parametrize("source", [None, 3, drawn(9)[0], [drawn(4), drawn(4)], {"image": 1}, (drawn(4)[0],)])
def test_what_is_no_data_set_is_refused(source: Any) -> None:
    with pytest.raises(BadData):
        hs.load_dataset(source)


# ---- any object that gives batches


class Batches:
    """Batches by number, as a `PyDataset` gives them; counts those in memory."""

    def __init__(self, pixels: np.ndarray, positions: np.ndarray, *, size: int = 4) -> None:
        self.pixels, self.positions, self.size = pixels, positions, size
        self.alive = self.most = self.read = 0

    def __len__(self) -> int:
        return math.ceil(len(self.pixels) / self.size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        some = slice(index * self.size, (index + 1) * self.size)
        batch = self.pixels[some].copy()
        weakref.finalize(batch, self._gone)
        self.read += 1
        self.alive += 1
        self.most = max(self.most, self.alive)
        return batch, self.positions[some]

    def _gone(self) -> None:
        self.alive -= 1


def test_only_a_few_batches_are_in_memory_at_a_time() -> None:
    source = Batches(*drawn(200))
    hs.load_dataset(source)
    assert source.read == 50
    assert source.most <= 2


def test_the_counter_of_batches_finds_one_that_keeps_them() -> None:
    source = Batches(*drawn(40))
    kept = list(batches.batches(source))
    assert source.most == 10
    assert len(kept) == 10


def endless() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while True:
        yield drawn(4)


def test_a_generator_is_refused_since_it_may_have_no_end() -> None:
    with pytest.raises(BadData, match="without an end"):
        hs.load_dataset(endless())


# ---- tf.data


def test_a_tf_data_set_gives_its_pictures_and_labels(tf: Any) -> None:
    pixels, positions = drawn(30)
    source = tf.data.Dataset.from_tensor_slices((pixels, positions))
    expected = hs.load_dataset((pixels, positions), classes=ORDER)
    for given in (
        source.batch(7),
        source.batch(7).map(lambda x, y: (tf.cast(x, tf.float32), tf.one_hot(y, 3))),
        source.shuffle(30).batch(4).prefetch(1),
        source,  # one by one
        source.map(lambda x, y: (x, tf.one_hot(y, 3))),
        source.repeat().batch(10).take(3),
    ):
        assert hs.load_dataset(given, classes=ORDER) == expected
    check_colours(expected)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_mapped_set_takes_its_labels_from_the_batch_itself(
    tf: Any, keras: Any, coloured: Path, shuffled: bool
) -> None:
    source = from_directory(keras, coloured, class_names=ORDER, shuffle=shuffled).map(lambda x, y: (x, y))
    check_colours(hs.load_dataset(source, classes=ORDER))
    assert hs.load_dataset(source).classes == ("0", "1", "2"), "TensorFlow forgets names when it maps"


def test_a_set_that_is_shuffled_anew_each_time_is_gone_through_once(tf: Any) -> None:
    passes = []

    def one() -> Iterator[Any]:
        passes.append(1)
        yield from zip(*drawn(12), strict=True)

    signature = (tf.TensorSpec((8, 8, 3), tf.uint8), tf.TensorSpec((), tf.int64))
    source = tf.data.Dataset.from_generator(one, output_signature=signature).shuffle(12).batch(4)
    check_colours(hs.load_dataset(source, classes=ORDER))
    assert len(passes) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tf, ds: ds.repeat().batch(4), "without an end"),
        (lambda tf, ds: ds.batch(4).map(lambda x, y: x), "without labels"),
        (lambda tf, ds: ds.batch(4).map(lambda x, y: {"image": x, "label": y}), "elements with names: image, label"),
        (lambda tf, ds: ds.batch(4).map(lambda x, y: (x, y, y)), "sample weights"),
        (lambda tf, ds: ds.batch(4).map(lambda x, y: (tf.cast(x, tf.float32) / 255.0, y)), "scaled already"),
        (lambda tf, ds: ds.batch(4).map(lambda x, y: (tf.cast(x, tf.bfloat16), y)), "pictures of type bfloat16"),
        (lambda tf, ds: ds.batch(4).map(lambda x, y: ((x, x), y)), "pictures of shape"),
        (lambda tf, ds: ds.batch(4).take(0), "empty"),
    ],
)
def test_a_tf_data_set_that_cannot_be_used_is_refused(tf: Any, change: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(BadData, match=sentence):
        hs.load_dataset(change(tf, tf.data.Dataset.from_tensor_slices(drawn(12))))


# ---- image_dataset_from_directory


@pytest.mark.parametrize("mode", ["int", "categorical"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_set_from_a_directory_is_read_from_its_files(keras: Any, coloured: Path, mode: str, shuffle: bool) -> None:
    source = from_directory(keras, coloured, label_mode=mode, shuffle=shuffle)
    assert hs.load_dataset(source, seed=3).items == hs.load_dataset(coloured, seed=3).items
    assert objects.FILES_READ in hs.load_dataset(source).notes
    named = hs.load_dataset(from_directory(keras, coloured, label_mode=mode, shuffle=shuffle, class_names=ORDER))
    check_colours(named)


def test_a_set_from_a_directory_keeps_its_files_and_names_when_it_is_only_cached_and_shuffled(
    tf: Any, keras: Any, coloured: Path
) -> None:
    source = from_directory(keras, coloured, class_names=ORDER)
    check_colours(hs.load_dataset(source.cache().shuffle(100).prefetch(1)))
    assert objects.FILES_READ in hs.load_dataset(source.cache().shuffle(100).prefetch(tf.data.AUTOTUNE)).notes
    some = hs.load_dataset(source.take(6).prefetch(1), classes=ORDER)
    assert len(some) == 30, "files that were left out came back"


def test_both_subsets_of_a_directory_are_the_sides(keras: Any, coloured: Path) -> None:
    train, validation = from_directory(keras, coloured, validation_split=0.25, subset="both", class_names=ORDER)
    data = hs.load_dataset(train, validation=validation)
    check_colours(data)
    assert {item.path for item in data.validation.items} == {
        os.path.relpath(path, coloured) for path in validation.file_paths
    }
    with pytest.raises(BadData, match="give the second one as validation"):
        hs.load_dataset((train, validation))


def test_binary_sets_from_a_directory_keep_their_names(keras: Any, coloured: Path, tmp_path: Path) -> None:
    for name in ("red", "blue"):
        shutil.copytree(coloured / name, tmp_path / "two" / name)
    source = from_directory(keras, tmp_path / "two", label_mode="binary", class_names=["red", "blue"])
    data = hs.load_dataset(source)
    assert data.classes == ("red", "blue")
    assert [item.path.split("/")[0] for item in data.items] == [data.classes[label] for label in data.labels]


def test_labels_that_differ_from_the_folders_names_are_the_ones_that_count(keras: Any, tmp_path: Path) -> None:
    """A list of labels given to Keras may say the opposite of the folders."""
    pixels, positions = drawn(20, k=2)
    for index, picture in enumerate(pixels):
        path = tmp_path / "odd" / str(1 - positions[index]) / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    in_order = [*positions[positions == 1], *positions[positions == 0]]  # folder 0 holds what is labelled 1
    source = from_directory(keras, tmp_path / "odd", labels=[int(label) for label in in_order], shuffle=False)
    check_colours(hs.load_dataset(source), ("0", "1"))


def test_a_set_from_a_directory_without_labels_is_refused(keras: Any, coloured: Path) -> None:
    with pytest.raises(BadData, match="without labels"):
        hs.load_dataset(from_directory(keras, coloured, label_mode=None))


def test_where_labels_of_files_cannot_be_told_the_pictures_are_read(keras: Any, coloured: Path) -> None:
    source = from_directory(keras, coloured, class_names=ORDER)
    source._inputs = list  # as if TensorFlow had changed inside
    data = hs.load_dataset(source)
    check_colours(data)
    assert objects.FILES_READ not in data.notes


def test_file_names_copied_to_a_part_of_the_set_bring_no_other_file_back(keras: Any, coloured: Path) -> None:
    source = from_directory(keras, coloured, class_names=ORDER)
    part = source.take(4)
    part.class_names, part.file_paths = source.class_names, source.file_paths[:20]
    assert len(hs.load_dataset(part)) == 20


def test_a_file_that_is_no_photo_or_gone_is_listed_and_not_used(keras: Any, coloured: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(coloured, tmp_path / "photos"))
    source = from_directory(keras, folder)
    first, second = sorted((folder / "red").iterdir())[:2]
    first.unlink()
    second.write_text("no photo")
    data = hs.load_dataset(source)
    assert len(data) == 34
    assert [file.path for file in data.skipped] == [f"red/{first.name}", f"red/{second.name}"]
    assert data.skipped[0].reason == "does not exist"


# ---- older Keras


@pytest.fixture(scope="module")
def generator(tf: Any, keras: Any) -> Any:
    """Scales, turns and mirrors, as in tutorials: nothing of which may reach headstart."""
    return tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255, rotation_range=20, horizontal_flip=True, validation_split=0.25
    )


@pytest.mark.parametrize("mode", ["categorical", "sparse"])
def test_flow_from_directory_is_read_from_its_files(generator: Any, coloured: Path, mode: str) -> None:
    source = generator.flow_from_directory(str(coloured), target_size=(8, 8), class_mode=mode, classes=ORDER)
    data = hs.load_dataset(source, seed=3)
    check_colours(data)
    assert {(item.path, item.split) for item in data.items} == {
        (item.path, item.split) for item in hs.load_dataset(coloured, seed=3).items
    }


def test_flow_from_directory_with_subsets_and_binary_labels(generator: Any, coloured: Path) -> None:
    train, validation = (
        generator.flow_from_directory(
            str(coloured), target_size=(8, 8), class_mode="binary", classes=["red", "blue"], subset=subset
        )
        for subset in ("training", "validation")
    )
    data = hs.load_dataset(train, validation=validation)
    assert [len(data.train) + len(data.test), len(data.validation)] == [18, 6]
    assert [item.path.split("/")[0] for item in data.items] == [data.classes[label] for label in data.labels]


def test_classes_of_two_objects_go_by_name_not_by_number(generator: Any, coloured: Path) -> None:
    train, validation = (
        generator.flow_from_directory(str(coloured), target_size=(8, 8), classes=classes, subset=subset)
        for classes, subset in ((ORDER, "training"), (["blue", "red", "green"], "validation"))
    )
    check_colours(hs.load_dataset(train, validation=validation))
    data = hs.load_dataset(train, validation=validation, classes=["green", "blue", "red"])
    assert data.classes == ("green", "blue", "red")
    assert [item.path.split("/")[0] for item in data.items] == [data.classes[label] for label in data.labels]
    with pytest.raises(BadData, match="not one of red, green: 'blue'"):
        hs.load_dataset(train, classes=["red", "green"])


@pytest.mark.parametrize(("mode", "sentence"), [(None, "without labels"), ("input", "class_mode 'input'")])
def test_flow_from_directory_without_classes_is_refused(
    generator: Any, coloured: Path, mode: str | None, sentence: str
) -> None:
    with pytest.raises(BadData, match=sentence):
        hs.load_dataset(generator.flow_from_directory(str(coloured), target_size=(8, 8), class_mode=mode))


def test_flow_from_arrays_gives_the_arrays_not_changed_pictures(generator: Any) -> None:
    pixels, positions = drawn(30)
    source = generator.flow(pixels, np.eye(3)[positions], batch_size=4)
    assert hs.load_dataset(source, classes=ORDER).items == hs.load_dataset((pixels, positions), classes=ORDER).items
    with pytest.raises(BadData, match="without labels"):
        hs.load_dataset(generator.flow(pixels))
    with pytest.raises(BadData, match="sample weights"):
        hs.load_dataset(generator.flow(pixels, positions, sample_weight=np.ones(30)))


# ---- PyDataset


def test_a_pydataset_gives_each_batch_once(keras: Any) -> None:
    pixels, positions = drawn(30)

    class Photos(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            some = slice(4 * index, 4 * index + 4)
            return pixels[some].astype(np.float32), np.eye(3)[positions[some]]

    assert hs.load_dataset(Photos(), classes=ORDER).items == hs.load_dataset((pixels, positions), classes=ORDER).items

    class Endless(Photos):
        @property
        def num_batches(self) -> None:
            return None

    with pytest.raises(BadData, match="without an end"):
        hs.load_dataset(Endless())


# ---- real photos


@pytest.mark.skipif(not REAL.exists(), reason="the real photos are not at hand")
def test_real_photos_are_the_same_data_set_through_each_door(keras: Any, generator: Any) -> None:
    folder = hs.load_dataset(REAL, seed=2)
    by_tensorflow = hs.load_dataset(from_directory(keras, REAL, label_mode="categorical"), seed=2)
    by_generator = hs.load_dataset(generator.flow_from_directory(str(REAL)), seed=2)
    assert by_tensorflow.items == by_generator.items == folder.items
    assert by_tensorflow.classes == by_generator.classes == folder.classes
    assert by_tensorflow.root == folder.root


def test_a_model_learns_from_arrays_and_tells_colours(cache: Path) -> None:
    data = hs.load_dataset(drawn(60), test=drawn(15, seed=9), classes=ORDER)
    model = hs.Model(hs.load_backbone("bundled", size=64), classes=data.classes).fit(data)
    assert model.evaluate(data.test).accuracy >= 0.9
    shuffled = hs.load_dataset(drawn(60), test=(drawn(15, seed=9)[0], (drawn(15)[1] + 1) % 3), classes=ORDER)
    assert model.evaluate(shuffled.test).accuracy <= 0.1, "wrong labels would not be seen"


def test_arrays_to_predict_are_checked_but_may_be_dark() -> None:
    dark = np.zeros((1, 8, 8, 3), np.uint8)
    assert batches.pictures(dark) is dark
    for wrong in (drawn(2)[0] / 255, drawn(2)[0].transpose(0, 3, 1, 2), np.zeros((2, 5), np.float32)):
        with pytest.raises(BadData):
            batches.pictures(wrong)
