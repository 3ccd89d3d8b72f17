"""Photos of every kind become the picture that the backbone takes, or are refused with a reason."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from headstart.modalities import frames, upright
from headstart.modalities import image as image_module
from headstart.modalities.image import ImageModality
from headstart.modalities.modality import Undecodable
from headstart.modalities.spec import InputSpec

DATA = Path(__file__).parents[1].parent / "shared" / "data"
PHOTOS = sorted(DATA.glob("hymenoptera/*/*.jpg"))[:6]
SPEC = InputSpec(size=64, crop=0.875, interpolation="bicubic", mean=(127.0,) * 3, std=(128.0,) * 3)
MODALITY = ImageModality()
needs_photos = pytest.mark.skipif(not PHOTOS, reason=f"no real photos in {DATA}")


def scene(width: int = 150, height: int = 100) -> Image.Image:
    """A smooth picture whose corners all differ."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = [x * 255, y * 255, 127 + 127 * np.sin(7 * x + 3 * y)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def reference(image: Image.Image, spec: InputSpec = SPEC) -> np.ndarray:
    """Resize, then cut out the middle, written as plainly as possible."""
    width, height = image.size
    short = min(image.size)
    resized = (int(width * spec.resized / short), int(height * spec.resized / short))
    left, upper = round((resized[0] - spec.size) / 2), round((resized[1] - spec.size) / 2)
    resample = Image.Resampling[spec.interpolation.upper()]
    return np.asarray(image.resize(resized, resample).crop((left, upper, left + spec.size, upper + spec.size)))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal up to rounding: a part is resized from a box whose corners are rounded fractions, in two passes."""
    return one.shape == other.shape and bool(np.abs(one.astype(int) - other.astype(int)).max() <= 2)


# ---- what a picture becomes


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(150, 100), (100, 150), (64, 64), (30, 47), (601, 333)])
def test_a_picture_is_resized_and_its_middle_cut_out(size, interpolation):
    spec = InputSpec(size=64, crop=0.875, interpolation=interpolation, mean=(127.0,) * 3, std=(128.0,) * 3)
    picture = MODALITY.decode(saved(scene(*size), "PNG"), spec)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert same(picture, reference(scene(*size), spec))


@needs_photos
def test_a_real_photo_is_resized_and_its_middle_cut_out():
    for photo in PHOTOS:
        assert same(MODALITY.decode(photo.read_bytes(), SPEC), reference(Image.open(photo).convert("RGB")))


def test_a_very_long_picture_needs_no_memory_for_what_is_cut_away():
    assert MODALITY.decode(saved(Image.new("RGB", (60_000, 2), "red"), "PNG"), SPEC).shape == (64, 64, 3)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG"])
def test_every_format_gives_nearly_the_same_picture(format):
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    assert difference(MODALITY.decode(saved(scene(), format, **options), SPEC), reference(scene())) < 6


def test_grey_and_one_bit_pictures_become_rgb():
    for mode in ("L", "1"):
        picture = MODALITY.decode(saved(scene().convert(mode), "PNG"), SPEC)
        assert same(picture, reference(scene().convert(mode).convert("RGB")))


def test_a_palette_picture_becomes_rgb_before_it_is_resized():
    palette = scene().quantize(64)
    assert same(MODALITY.decode(saved(palette, "PNG"), SPEC), reference(palette.convert("RGB")))


def test_cmyk_pictures_become_rgb():
    for format in ("JPEG", "TIFF"):
        picture = MODALITY.decode(saved(scene().convert("CMYK"), format), SPEC)
        assert difference(picture, reference(scene())) < 6


def test_of_sixteen_bits_the_upper_eight_count():
    grey = np.asarray(scene().convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    expected = reference(Image.fromarray(grey).convert("RGB"))
    for format in ("PNG", "TIFF"):
        assert same(MODALITY.decode(saved(deep, format), SPEC), expected)


def test_a_hole_in_a_deep_grey_picture_is_white():
    deep = Image.fromarray(np.full((80, 80), 9000, np.uint16))
    assert MODALITY.decode(saved(deep, "PNG", transparency=9000), SPEC).min() == 255
    assert MODALITY.decode(saved(deep, "PNG", transparency=9001), SPEC).max() == 9000 >> 8


def test_a_photo_that_ends_in_the_grey_of_missing_data_is_read():
    for image in (Image.new("RGB", (320, 240), (128, 128, 128)), Image.new("L", (320, 240), 128)):
        for progressive in (False, True):
            content = saved(image, "JPEG", progressive=progressive)
            assert set(MODALITY.decode(content, SPEC).ravel()) == {128}
            assert set(MODALITY.decode(content, SPEC, reduced=True).ravel()) == {128}


@pytest.mark.parametrize(
    "tail", [b"", b"\0" * 5000, b"\xff\xd8\xff\xe0 another picture, or the film of a living photo"]
)
def test_what_follows_the_end_of_a_jpeg_does_not_matter(tail):
    content = saved(scene(), "JPEG")
    assert np.array_equal(MODALITY.decode(content + tail, SPEC), MODALITY.decode(content, SPEC))


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_broken_off_jpeg_is_never_shown_half(progressive, reduced):
    """Broken off anywhere, with and without an end that was put behind it."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)).resize((800, 600))
    content = saved(noise, "JPEG", quality=80, progressive=progressive)
    whole = MODALITY.decode(content, SPEC, reduced=reduced)
    for length in range(300, len(content) - 2, len(content) // 25):
        for end in (b"", b"\xff\xd9", b"\0" * 3000):
            if progressive and end == b"\xff\xd9":
                continue  # its first passes are a whole picture with less detail
            with pytest.raises(Undecodable, match="damaged"):
                difference(MODALITY.decode(content[:length] + end, SPEC, reduced=reduced), whole)


def test_transparent_pixels_are_white():
    layer = scene().convert("RGBA")
    layer.putalpha(0)
    for format in ("PNG", "WEBP", "TIFF"):
        assert MODALITY.decode(saved(layer, format), SPEC).min() == 255
    half = Image.new("RGBA", (80, 80), (0, 0, 0, 128))
    assert abs(int(MODALITY.decode(saved(half, "PNG"), SPEC).mean()) - 127) <= 1


@pytest.mark.parametrize("mode", ["LA", "P", "RGB"])
def test_transparency_is_found_in_every_mode(mode):
    if mode == "P":
        content = saved(Image.new("P", (80, 80), 0), "PNG", transparency=0)
    elif mode == "RGB":
        content = saved(Image.new("RGB", (80, 80), (9, 9, 9)), "PNG", transparency=(9, 9, 9))
    else:
        content = saved(Image.new("LA", (80, 80), (0, 0)), "PNG")
    assert MODALITY.decode(content, SPEC).min() == 255


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("red", "blue")]
    for format, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        content = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert MODALITY.decode(content, SPEC)[0, 0].tolist() == [255, 0, 0]


def test_a_photo_in_a_file_of_several_photos_is_read():
    first, second = scene(), Image.new("RGB", (150, 100), "blue")
    content = saved(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert difference(MODALITY.decode(content, SPEC, reduced=True), reference(first)) < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_camera_orientation_is_applied(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    content = saved(scene(), format, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert same(MODALITY.decode(content, SPEC), reference(upright))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_reduced_decoding_keeps_the_orientation_and_nearly_the_pixels(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(scene(1500, 1000), "JPEG", exif=exif, quality=95)
    full, reduced = MODALITY.decode(content, SPEC), MODALITY.decode(content, SPEC, reduced=True)
    assert not np.array_equal(full, reduced)
    assert difference(full, reduced) < 1.5


def test_reduced_decoding_leaves_small_photos_alone():
    content = saved(scene(150, 140), "JPEG")
    assert np.array_equal(MODALITY.decode(content, SPEC), MODALITY.decode(content, SPEC, reduced=True))


def test_how_a_photo_is_decoded_is_part_of_the_fingerprint():
    assert MODALITY.fingerprint(reduced=True) != MODALITY.fingerprint(reduced=False)
    assert f"pillow-{PIL.__version__}" in MODALITY.fingerprint(reduced=True)


# ---- what is refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is a text", "not a photo"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (saved(scene(), "JPEG")[:200], "damaged"),
        (saved(scene(400, 300), "JPEG")[:-2000], "the file ends before the picture does"),
        (saved(scene(), "PNG")[:-2000], "the file ends before the picture does"),
        (saved(scene(), "PNG")[:30], "damaged"),
        (saved(scene().convert("F").point(lambda value: value * 2), "TIFF"), "nothing says which is white"),
        (saved(Image.fromarray(np.full((80, 80), 1 << 20, np.int32)), "TIFF"), "more than 16 bits"),
    ],
    ids=["empty", "text", "git-lfs", "jpeg-head", "jpeg-cut", "png-cut", "png-head", "float", "32-bit"],
)
def test_what_is_no_usable_photo_is_refused_with_a_reason(content, reason):
    for reduced in (False, True):
        with pytest.raises(Undecodable, match=reason):
            MODALITY.decode(content, SPEC, reduced=reduced)
    with pytest.raises(Undecodable, match=reason):
        MODALITY.augment(content, SPEC, np.random.default_rng(0))


def test_a_reason_is_the_same_every_time():
    content = saved(scene(), "PNG")[:30]
    reasons = set()
    for _ in range(3):
        with pytest.raises(Undecodable) as refusal:
            MODALITY.decode(content, SPEC)
        reasons.add(str(refusal.value))
    assert len(reasons) == 1
    assert "0x" not in reasons.pop()


@pytest.mark.parametrize("side", [13_500, 20_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(side):
    # A header that promises much, with nothing behind it: decoding it would fail in another way.
    header = bytearray(saved(Image.new("1", (8, 8)), "BMP"))
    header[18:22] = header[22:26] = side.to_bytes(4, "little")
    with pytest.raises(Undecodable, match="178,956,970"):
        MODALITY.decode(bytes(header), SPEC)


def test_a_large_picture_below_the_limit_is_read_without_a_warning():
    assert MODALITY.decode(saved(Image.new("1", (12_000, 9_000)), "PNG"), SPEC).max() == 0


SEEDS = {
    "jpeg": saved(
        scene(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06"
    ),
    "progressive": saved(scene(), "JPEG", progressive=True),
    "mpo": saved(scene(), "MPO", save_all=True, append_images=[scene()]),
    "png": saved(scene(), "PNG"),
    "apng": saved(scene(), "PNG", save_all=True, append_images=[scene().rotate(180)]),
    "gif": saved(scene(), "GIF"),
    "webp": saved(scene(), "WEBP"),
    "bmp": saved(scene(), "BMP"),
    "tiff": saved(scene(), "TIFF", compression="tiff_lzw"),
    "tiff-deep": saved(Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 256), "TIFF"),
}


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(SEEDS)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    early=st.booleans(),
    cut=st.floats(0, 1),
)
def test_damaged_bytes_give_a_picture_or_a_reason_and_nothing_else(name, changes, early, cut):
    content = bytearray(SEEDS[name])
    reach = min(len(content), 400) if early else len(content)
    for place, value in changes:
        content[int(place * (reach - 1))] = value
    content = content[: max(1, int(len(content) * (1 - (cut - 0.5 if cut > 0.5 else 0))))]
    for reduced in (False, True):
        with suppress(Undecodable):
            assert MODALITY.decode(bytes(content), SPEC, reduced=reduced).shape == (64, 64, 3)


def test_decoding_in_many_threads_leaves_the_filters_of_warnings_as_they_were():
    before = list(warnings.filters)
    odd = saved(scene(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: MODALITY.decode(odd, SPEC), range(200)))  # raises what a thread raised
    assert list(warnings.filters) == before


def test_the_odd_photo_would_warn_if_it_were_let(monkeypatch):
    class Loud:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(upright, "_QUIET", Loud())
    odd = saved(scene(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12")
    with pytest.raises(Undecodable, match="ends before"):  # a warning is an error here, and so a reason
        MODALITY.decode(odd, SPEC)


# ---- random views


def test_a_random_view_depends_on_its_seed_alone():
    content = saved(scene(300, 200), "JPEG")
    one, same, other = (MODALITY.augment(content, SPEC, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (64, 64, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 2000), height=st.integers(1, 2000), seed=st.integers(0, 2**32))
def test_a_random_part_lies_within_the_photo(width, height, seed):
    left, upper, right, lower = frames.random_part((width, height), np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    assert (right - left) * (lower - upper) <= frames.PART_AREA[1] * width * height * (1 + 1e-9)


def test_random_views_differ_in_place_and_are_mirrored_half_of_the_time(monkeypatch):
    monkeypatch.setattr(image_module, "AUGMENT_JITTER", 0.0)
    content = saved(scene(300, 200), "PNG")
    views = [MODALITY.augment(content, SPEC, np.random.default_rng(seed)).astype(int) for seed in range(60)]
    mirrored = sum(bool(view[:, 0, 0].mean() > view[:, -1, 0].mean()) for view in views)  # red grows to the right
    assert 15 <= mirrored <= 45


# ---- how a photo fits the square

PAD, SQUASH = (replace(SPEC, fit=fit) for fit in ("pad", "squash"))


def striped(width: int, height: int) -> Image.Image:
    """Grey, with a red stripe at the left edge and a blue one at the right, each a tenth of the width."""
    image = Image.new("RGB", (width, height), (90, 90, 90))
    image.paste((255, 0, 0), (0, 0, max(1, width // 10), height))
    image.paste((0, 0, 255), (width - max(1, width // 10), 0, width, height))
    return image


def shares(picture: np.ndarray) -> tuple[float, float]:
    """Of how much of the picture is red, and blue."""
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    return float(((red > 120) & (blue < 80) & (green < 80)).mean()), float(((blue > 120) & (red < 80)).mean())


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (64, 64), (7, 900), (900, 1), (1, 1), (30, 20)])
def test_a_padded_photo_is_whole_and_in_the_middle_of_black(size):
    picture = MODALITY.decode(saved(Image.new("RGB", size, "white"), "PNG"), PAD)
    width, height = (max(1, round(side * 64 / max(size))) for side in size)
    left, upper = (64 - width) // 2, (64 - height) // 2
    assert (picture[upper : upper + height, left : left + width] == 255).all()
    assert (picture > 0).any(axis=2).sum() == width * height


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (64, 64), (30, 20)])
def test_a_padded_photo_keeps_its_proportions_and_a_squashed_one_fills_the_square(size):
    image = scene(*size)
    width, height = (max(1, round(side * 64 / max(size))) for side in size)
    resample = Image.Resampling.BICUBIC
    padded = MODALITY.decode(saved(image, "PNG"), PAD)
    left, upper = (64 - width) // 2, (64 - height) // 2
    # Rows first, for photos of any shape and whatever the version of Pillow.
    small = np.asarray(image.resize((width, size[1]), resample).resize((width, height), resample))
    assert np.array_equal(padded[upper : upper + height, left : left + width], small)
    whole = np.asarray(image.resize((64, size[1]), resample).resize((64, 64), resample))
    assert np.array_equal(MODALITY.decode(saved(image, "PNG"), SQUASH), whole)


def test_what_is_at_the_edge_of_a_wide_photo_is_seen_unless_it_is_cropped():
    content = saved(striped(600, 150), "PNG")
    assert shares(MODALITY.decode(content, SPEC)) == (0, 0)
    for spec in (PAD, SQUASH):
        red, blue = shares(MODALITY.decode(content, spec))
        assert red > 0.01
        assert blue > 0.01


@pytest.mark.parametrize("spec", [PAD, SQUASH], ids=["pad", "squash"])
@pytest.mark.parametrize("size", [(600, 150), (200, 200), (150, 600)])
def test_a_random_view_of_a_whole_photo_keeps_its_edges(spec, size):
    content = saved(striped(*size), "PNG")
    plain = shares(MODALITY.decode(content, spec))
    views = [MODALITY.augment(content, spec, np.random.default_rng(seed)) for seed in range(40)]
    assert {view.shape for view in views} == {(64, 64, 3)}
    for view in views:
        for seen, whole in zip(shares(view), plain, strict=True):
            assert 0.3 * whole < seen < 1.6 * whole
    places = {tuple(np.argwhere(view.any(axis=2)).min(axis=0)) for view in views}
    assert len(places) > 10  # it is not always in the same place


def test_a_cropped_random_view_would_lose_the_edges():
    content = saved(striped(600, 150), "PNG")
    lost = [min(shares(MODALITY.augment(content, SPEC, np.random.default_rng(seed)))) == 0 for seed in range(20)]
    assert any(lost)


@settings(max_examples=150, deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_any_shape_fits_the_square_in_any_way(width, height, seed):
    image = Image.new("L", (width, height)).convert("RGB") if width * height < 10_000 else Image.new("RGB", (1, 1))
    for spec in (SPEC, PAD, SQUASH):
        assert frames.framed(image, spec).size == (64, 64)
        assert frames.randomly_framed(image, spec, np.random.default_rng(seed)).size == (64, 64)
    fitted = frames.whole((width, height), PAD)
    assert max(fitted) == 64
    assert min(fitted) >= 1


@pytest.mark.parametrize(
    ("spec", "size", "decoded"),
    [
        (SPEC, (1600, 1100), (400, 275)),  # the shorter side stays at least twice 73 pixels
        (PAD, (1600, 1200), (200, 150)),  # the longer at least twice 64
        (SQUASH, (1600, 1200), (200, 150)),  # both at least twice 64
        (PAD, (1600, 200), (200, 25)),
        (SQUASH, (1600, 200), (1600, 200)),
    ],
)
def test_reduced_decoding_leaves_each_fit_twice_the_pixels_that_it_needs(spec, size, decoded, monkeypatch):
    seen = []
    plain = frames.framed
    monkeypatch.setattr(image_module, "framed", lambda image, spec: seen.append(image.size) or plain(image, spec))
    content = saved(scene(*size), "JPEG", quality=95)
    reduced, full = (MODALITY.decode(content, spec, reduced=way) for way in (True, False))
    assert seen == [decoded, size]
    assert difference(reduced, full) < 2
