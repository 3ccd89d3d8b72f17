"""The same picture once more is found whatever was done to it; others are not, and not all pairs are compared."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from headstart.data import duplicates, hashes, matching
from headstart.data.crops import crops
from headstart.data.duplicates import Pair, near_duplicates
from headstart.data.families import Links, families
from headstart.data.looking import Looks, look_at
from headstart.modalities import look as looks
from headstart.modalities.modality import Undecodable
from headstart.store import Store

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def saved(image: Image.Image, format: str = "JPEG", **how: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def scene(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """A picture with structure of its own: smooth noise and a few shapes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(coarse)
    for _ in range(6):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        draw.ellipse((x, y, x + 40, y + 30), fill=tuple(map(int, rng.integers(0, 255, 3))))
    return coarse


class Bytes:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads = 0

    def read_bytes(self) -> bytes:
        self.reads += 1
        return self.content


def id_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def seen(contents: list[bytes], store: Store) -> Looks:
    return drained({id_of(content): Bytes(content) for content in contents}, store)


def drained(files: dict[str, Bytes], store: Store) -> Looks:
    work = look_at({id: [file] for id, file in files.items()}, store)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Looks = end.value
            return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def light(image: Image.Image) -> Image.Image:
    for change, by in ((ImageEnhance.Brightness, 1.15), (ImageEnhance.Contrast, 0.85), (ImageEnhance.Color, 1.15)):
        image = change(image).enhance(by)
    return image


def marked(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((6, image.height - 16), "(c) somebody 2024", fill="white")
    return image


def scaled(image: Image.Image, by: float) -> Image.Image:
    return image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC)


EDITS: dict[str, Callable[[Image.Image], bytes]] = {
    "saved worse": lambda image: saved(image, quality=30),
    "saved as PNG": lambda image: saved(image, "PNG"),
    "a quarter as large": lambda image: saved(scaled(image, 0.25), quality=90),
    "twice as large": lambda image: saved(scaled(image, 2), quality=90),
    "other light": lambda image: saved(light(image), quality=85),
    "a text on it": lambda image: saved(marked(image), quality=85),
    "mirrored": lambda image: saved(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=85),
    "in grey": lambda image: saved(image.convert("L"), quality=85),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy_is_found_among_other_pictures(edit: str, store: Store) -> None:
    originals = [scene(seed) for seed in range(12)]
    contents = [saved(image, quality=95) for image in originals]
    copies = [EDITS[edit](image) for image in originals[:6]]
    pairs = near_duplicates(seen(contents + copies, store))
    expected = {tuple(sorted((id_of(one), id_of(other)))) for one, other in zip(contents[:6], copies, strict=True)}
    assert {(pair.one, pair.other) for pair in pairs} == expected
    assert all(pair.mirrored == (edit == "mirrored") for pair in pairs)


def test_mirrored_copies_are_passed_over_where_that_is_asked_for(store: Store) -> None:
    contents = [saved(scene(1)), EDITS["mirrored"](scene(1))]
    assert near_duplicates(seen(contents, store), mirrored=False) == []


def test_a_frame_of_a_burst_is_found(store: Store) -> None:
    image = scene(3)
    moved = image.rotate(0.7, Image.Resampling.BICUBIC).crop((3, 2, 237, 178))
    assert len(near_duplicates(seen([saved(image, quality=92), saved(moved, quality=88)], store))) == 1


def on_white(shape: str, colour: str) -> bytes:
    image = Image.new("RGB", (200, 200), "white")
    getattr(ImageDraw.Draw(image), shape)((70, 70, 130, 130), fill=colour)
    return saved(image, quality=90)


def test_different_things_on_a_white_background_are_different(store: Store) -> None:
    contents = [saved(scene(seed, (60, 60))) for seed in range(4)]
    pasted = []
    for content in contents:
        page = Image.new("RGB", (200, 200), "white")
        page.paste(Image.open(io.BytesIO(content)), (70, 70))
        pasted.append(saved(page, quality=90))
    assert near_duplicates(seen([*pasted, on_white("ellipse", "red"), on_white("rectangle", "blue")], store)) == []


def test_plain_surfaces_are_like_nothing(store: Store) -> None:
    flat = [saved(Image.new("RGB", (64, 64), (grey, grey, 99)), "PNG") for grey in range(0, 250, 5)]
    ramp = np.linspace(0, 200, 64)[None, :].repeat(64, 0).astype(np.uint8)
    assert near_duplicates(seen([*flat, saved(Image.fromarray(ramp)), saved(scene(1))], store)) == []


def test_without_the_check_of_plain_surfaces_they_would_all_be_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "blank", lambda grey: np.zeros(len(grey), bool))
    monkeypatch.setattr(duplicates, "_figures", lambda one, other: np.ones(len(one)))
    flat = [saved(Image.new("RGB", (64, 64), (grey, grey, 99)), "PNG") for grey in range(0, 50, 5)]
    assert near_duplicates(seen(flat, store))


def test_every_pair_of_near_hashes_is_found() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**63, 300, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 15), replace=False)) for _ in range(300)]
    values = np.concatenate([values, values ^ np.array(flips, np.uint64)])
    every = {
        (one, other)
        for one, other in itertools.combinations(range(len(values)), 2)
        if (int(values[one]) ^ int(values[other])).bit_count() <= hashes.RADIUS
    }
    assert set(map(tuple, hashes.near(values).tolist())) == every
    assert len(every) > 150


def test_few_of_all_pairs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    measure = hashes.distance
    monkeypatch.setattr(hashes, "distance", lambda one, other: compared.append(len(one)) or measure(one, other))
    n = 5000
    hashes.near(np.random.default_rng(0).integers(0, 2**63, n, dtype=np.uint64))
    assert sum(compared) < 0.05 * n * (n - 1) / 2


def test_a_thousand_equal_hashes_do_not_make_half_a_million_pairs() -> None:
    pairs = hashes.near(np.zeros(1000, np.uint64))
    assert len(pairs) < 5000
    links = Links()
    for one, other in pairs.tolist():
        links.join(str(one), str(other))
    assert [len(family) for family in links.families()] == [1000]


def test_a_photo_is_looked_at_once_ever(store: Store) -> None:
    content = saved(scene(1))
    file = Bytes(content)
    for _ in range(2):
        assert drained({id_of(content): file}, store).ids == (id_of(content),)
    assert file.reads == 1


def test_a_damaged_photo_has_its_reason_also_the_second_time(store: Store) -> None:
    content = saved(scene(1))[:900]
    for _ in range(2):
        assert seen([content], store).reasons == {id_of(content): "damaged: the file ends before the picture does"}


def test_a_file_that_changed_meanwhile_is_not_kept_under_the_old_name(store: Store) -> None:
    old, new = saved(scene(1)), saved(scene(2))
    assert drained({id_of(old): Bytes(new)}, store).reasons == {
        id_of(old): "cannot be read: it changed since the data set was read"
    }
    assert seen([old], store).reasons == {}


def test_a_look_tells_size_sharpness_and_a_thumbnail() -> None:
    image = scene(5, (400, 200))
    rows = np.stack(
        [looks.look(saved(image, quality=95)), looks.look(saved(image.resize((40, 20)).resize((400, 200))))]
    )
    width, height, size, sharpness = looks.facts(rows).T
    assert width.tolist() == [400, 400]
    assert height.tolist() == [200, 200]
    assert size[0] == len(saved(image, quality=95))
    assert sharpness[1] < 0.7 * sharpness[0]
    small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float32)
    assert np.abs(looks.grey(rows)[0] - small).mean() < 4


def test_a_turned_photo_looks_upright() -> None:
    image = scene(5, (400, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif)
    row = looks.look(file.getvalue())[None]
    upright = image.transpose(Image.Transpose.ROTATE_270).convert("L").resize((32, 32), Image.Resampling.BOX)
    assert looks.facts(row)[0, :2].tolist() == [200, 400]
    assert np.abs(looks.grey(row)[0] - np.asarray(upright, np.float32)).mean() < 4


def test_too_many_pixels_are_refused_by_the_same_limit() -> None:
    with pytest.raises(Undecodable, match="too large"):
        looks.look(saved(scene(1)), max_pixels=100)
    assert looks.fingerprint(100) != looks.fingerprint()


def test_two_pictures_agree_after_one_is_laid_over_the_other() -> None:
    one = looks.grey(looks.look(saved(scene(7), quality=95))[None])
    moved = scene(7).crop((14, 3, 234, 168))
    other = looks.grey(looks.look(saved(moved, quality=95))[None])
    as_they_lie = matching.agreement(one, other, aligned=False)
    laid_over = matching.agreement(one, other, aligned=True)
    assert as_they_lie.most[0] < 0.9
    assert laid_over.most[0] > 0.95
    assert laid_over.all[0] > 0.97


# Parts of photos, by features


def test_a_crop_is_found_among_its_neighbours_by_features_and_a_stranger_is_not(store: Store) -> None:
    rng = np.random.default_rng(0)
    wholes = [scene(seed) for seed in range(8)]
    contents = [saved(image, quality=92) for image in wholes]
    parts = [saved(image.crop((50, 30, 210, 150)), quality=88) for image in wholes[:4]]
    shelf = seen(contents + parts, store)
    centre = rng.normal(0, 1, 64)  # all are of one class, so every one is a neighbour of every other
    features = np.stack([centre + rng.normal(0, 0.1, 64) for _ in range(12)])
    found = crops([id_of(content) for content in contents + parts], features, shelf)
    expected = {tuple(sorted((id_of(one), id_of(part)))) for one, part in zip(contents, parts, strict=False)}
    assert {(each.one, each.other) for each in found} <= expected
    alike = np.eye(8)[[*range(8), *range(4)]]  # a part has the features of its whole
    found = crops([id_of(content) for content in contents + parts], alike, shelf)
    assert {(each.one, each.other) for each in found} == expected
    assert near_duplicates(shelf) == []


def test_one_photo_alone_is_a_part_of_nothing(store: Store) -> None:
    content = saved(scene(1))
    assert crops([id_of(content)], np.ones((1, 4)), seen([content], store)) == []


# Families


def pair(one: str, other: str, agreement: float = 0.99) -> Pair:
    return Pair(min(one, other), max(one, other), agreement)


def test_a_family_is_named_by_its_largest_photo_or_by_its_group() -> None:
    ages = {"a": (100.0, 9.0), "b": (400.0, 5.0), "c": (400.0, 7.0), "d": (1.0, 1.0)}
    assert families({}, [pair("a", "b"), pair("b", "c")], ages) == dict.fromkeys("abc", "c")
    grouped = families({"a": ["p2"], "d": ["p1"], "c": ["p2"]}, [pair("a", "b")], ages)
    assert grouped == {"a": "p2", "b": "p2", "c": "p2", "d": "p1"}


def test_the_order_of_pairs_does_not_matter() -> None:
    rng = random.Random(0)
    pairs = [
        pair(f"{a:02}", f"{b:02}") for a, b in ((rng.randrange(60), rng.randrange(60)) for _ in range(40)) if a != b
    ]
    ages = {f"{number:02}": (float(number % 7), 1.0) for number in range(60)}
    expected = families({}, pairs, ages)
    for _ in range(5):
        rng.shuffle(pairs)
        assert families({}, pairs, ages) == expected


def test_a_chain_through_everything_is_taken_apart_at_its_weak_links() -> None:
    ages = {f"{number:03}": (1.0, 1.0) for number in range(200)}
    weak = [pair(f"{number:03}", f"{number + 1:03}", 0.96 if number % 20 == 19 else 0.999) for number in range(199)]
    found = families({}, weak, ages)
    sizes = sorted(list(found.values()).count(name) for name in set(found.values()))
    assert sizes == [20] * 10
    strong = [pair(one.one, one.other, 0.999) for one in weak]
    assert len(set(families({}, strong, ages).values())) == 1, "what is the same throughout stays together"


def test_a_group_is_never_taken_apart() -> None:
    ages = {f"{number:03}": (1.0, 1.0) for number in range(200)}
    assert set(families({id: ["one patient"] for id in ages}, [], ages).values()) == {"one patient"}


# Real photos


def test_copies_of_real_photos_are_found_and_no_others(store: Store) -> None:
    folder = SHARED / "hymenoptera"
    if not folder.is_dir():
        pytest.skip("the hymenoptera photos are not there")
    paths = sorted(folder.rglob("*.jpg"))[::4]
    contents = [path.read_bytes() for path in paths]
    rng = random.Random(0)
    edits = list(EDITS.values())
    copies = [rng.choice(edits)(Image.open(path).convert("RGB")) for path in paths[:60]]
    found = {(each.one, each.other) for each in near_duplicates(seen(contents + copies, store))}
    expected = {tuple(sorted((id_of(one), id_of(other)))) for one, other in zip(contents, copies, strict=False)}
    assert len(found & expected) >= 58
    assert found <= expected
