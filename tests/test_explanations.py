"""What an explanation shows: the places that speak for a class, where they are, and how they were found."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from headstart import api, cli, output
from headstart.backbones.loading import load_backbone
from headstart.errors import BadData, BadRun, BadSetting
from headstart.explaining import heat as heats
from headstart.explaining.heat import heat_of
from headstart.explaining.methods import EXACT, GRAD_CAM, OCCLUSION, TOKENS
from headstart.explaining.occlusion import nothing, occlusion
from headstart.explaining.places import on_grid
from headstart.exporting.bundle import Manifest
from headstart.exporting.format import Outputs
from headstart.heads import LinearHead, parse
from headstart.modalities import heat as drawing
from headstart.modalities.heat import overlay
from headstart.modalities.image import ImageModality
from headstart.modalities.modality import Undecodable
from headstart.modalities.spec import Fit, InputSpec
from headstart.networks.network import Batch
from headstart.networks.torch import TorchNetwork
from headstart.predictor import Predictor
from headstart.runs import Run

SHARED = Path(__file__).parents[2] / "shared"
SPEC = InputSpec(size=64, crop=0.8, interpolation="bilinear", mean=(127.0,) * 3, std=(64.0,) * 3)
RED = (255, 0, 0)


class Cells(nn.Module):
    """The mean colour of each of 8 x 8 cells: a map whose places see nothing but themselves."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(pixels, pixels.shape[-1] // 8)


class Attending(nn.Module):
    """A class token that takes from each patch by how red it is; the patches stay as they are."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        patches = tokens[:, 1:]
        shares = (3 * (patches[..., :1] - patches[..., 1:2])).softmax(dim=1)
        return torch.cat([tokens[:, :1] + (shares * patches).sum(dim=1, keepdim=True), patches], dim=1)


class Patches(nn.Module):
    """Cells as tokens, behind a class token."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        cells = Cells()(pixels).flatten(2).permute(0, 2, 1)
        return torch.cat([torch.zeros_like(cells[:, :1]), cells], dim=1)


class First(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 0]


class Vector(nn.Module):
    """Of the cells no place is left."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return Cells()(pixels).flatten(1)


REDNESS = LinearHead(np.array([[1.0, -1.0], [-0.5, 0.5], [-0.5, 0.5]]), np.array([0.3, -0.2]))


def with_redness(stages: dict[str, nn.Module], spec: InputSpec = SPEC, pool: nn.Module | None = None) -> TorchNetwork:
    network = TorchNetwork(stages, spec=spec, pool=pool)
    network.set_head(REDNESS, 2)
    return network


def scene(size: tuple[int, int] = (64, 64), at: tuple[float, float] = (0.7, 0.3), side: float = 0.2) -> Image.Image:
    """A grey photo with a red square whose middle lies at these shares of width and height."""
    image = Image.new("RGB", size, (120, 120, 120))
    half = side * min(size) / 2
    left, upper = int(at[0] * size[0] - half), int(at[1] * size[1] - half)
    image.paste(RED, (left, upper, int(left + 2 * half), int(upper + 2 * half)))
    return image


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float64)


def warmest(picture: np.ndarray) -> tuple[float, float]:
    """The middle of what is warmest in a picture, as shares of its width and height."""
    warmth = picture[..., 0] - picture[..., 2]  # the photo beneath has lost its colours
    rows, columns = np.nonzero(warmth > 0.9 * warmth.max())
    return (float(columns.mean()) + 0.5) / picture.shape[1], (float(rows.mean()) + 0.5) / picture.shape[0]


def hottest(heat: np.ndarray) -> tuple[int, ...]:
    return tuple(int(place) for place in np.unravel_index(heat.argmax(), heat.shape))


# ---- the heat


def real_photos(count: int) -> np.ndarray:
    folder = SHARED / "data" / "hymenoptera"
    if not folder.is_dir():
        pytest.skip("the photos of ants and bees are not here")
    files = [file for name in ("ants", "bees") for file in sorted((folder / name).glob("*.jpg"))[: count // 2]]
    spec = load_backbone("bundled").spec
    return np.stack([ImageModality().decode(file.read_bytes(), spec) for file in files])


def solved(network: Any, classes: int = 3) -> Any:
    rng = np.random.default_rng(0)
    width = network.channels
    network.set_head(LinearHead(rng.normal(0, 0.1, (width, classes)), rng.normal(size=classes)), classes)
    return network


def test_the_places_of_a_real_network_sum_to_the_logit() -> None:
    backbone = load_backbone("bundled")
    network, photos, labels = solved(backbone.build()), real_photos(4), np.array([0, 1, 2, 1])
    heat, method = heat_of(network, backbone.spec, photos, labels)
    assert method == EXACT == "class activation map, exact"
    assert heat.shape == (4, 7, 7)
    bias = network.linear_on_mean[1]
    logits = network.logits(photos)[np.arange(4), labels]
    np.testing.assert_allclose(heat.sum(axis=(1, 2)) + bias[labels], logits, atol=1e-4)


def test_grad_cam_says_of_a_real_network_what_the_exact_map_says(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("bundled")
    network, photos, labels = solved(backbone.build()), real_photos(4), np.array([0, 1, 2, 1])
    exact, _ = heat_of(network, backbone.spec, photos, labels)
    monkeypatch.setattr(type(network), "linear_on_mean", None)
    other, method = heat_of(network, backbone.spec, photos, labels)
    assert method == GRAD_CAM
    np.testing.assert_allclose(other, exact, atol=1e-5)


@pytest.mark.parametrize(
    ("stages", "pool", "head", "method"),
    [
        ({"cells": Cells()}, None, None, EXACT),
        ({"cells": Cells()}, None, "pool, dense(8, tanh)", GRAD_CAM),
        ({"patches": Patches()}, None, None, TOKENS),
        ({"patches": Patches(), "attending": Attending()}, First(), None, f"{TOKENS} after patches"),
        ({"vector": Vector()}, None, "dense(8, tanh)", OCCLUSION),
    ],
    ids=["exact", "grad-cam", "tokens", "class token", "no places"],
)
def test_the_hottest_place_is_where_the_thing_is(
    stages: dict[str, nn.Module], pool: nn.Module | None, head: str | None, method: str
) -> None:
    network = with_redness(stages, pool=pool)
    if head is not None:
        learn_redness(network, head)
    square = np.asarray(scene())[None].copy()
    heat, how = heat_of(network, SPEC, square, np.array([0]))
    assert how == method
    row, column = hottest(heat[0])
    cells = heat.shape[1]
    assert abs((column + 0.5) / cells - 0.7) <= 1 / cells
    assert abs((row + 0.5) / cells - 0.3) <= 1 / cells
    against, _ = heat_of(network, SPEC, square, np.array([1]))
    assert hottest(-against[0]) == (row, column)


def learn_redness(network: TorchNetwork, head: str) -> None:
    """Whether there is a red square anywhere."""
    rng = np.random.default_rng(0)
    shown = [scene(at=tuple(rng.uniform(0.2, 0.8, 2))) for _ in range(24)] + [
        Image.new("RGB", (64, 64), (120,) * 3)
    ] * 8
    images = np.stack([np.asarray(image) for image in shown])
    labels = np.array([0] * 24 + [1] * 8)
    network.set_head(parse(head), 2, seed=0)
    network.thaw({"head": 1e-2})
    for key in range(60):
        network.step(Batch(images, labels, np.full(32, 1 / 32)), scale=1.0, key=key)


def test_a_head_on_the_whole_map_gets_grad_cam() -> None:
    network = with_redness({"cells": Cells()})
    network.set_head(parse("flatten, dense(8, relu)"), 2, seed=0)
    heat, method = heat_of(network, SPEC, np.asarray(scene())[None].copy(), np.array([0]))
    assert method == GRAD_CAM
    assert heat.shape == (1, 8, 8)


def test_many_pictures_are_explained_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heats, "BATCH", 2)
    network = with_redness({"cells": Cells()})
    squares = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1, 1])
    together, _ = heat_of(network, SPEC, squares, labels)
    for place in range(5):
        alone, _ = heat_of(network, SPEC, squares[place : place + 1], labels[place : place + 1])
        np.testing.assert_allclose(together[place], alone[0], atol=1e-6)


@pytest.mark.parametrize(("tokens", "side"), [(196, 14), (197, 14), (198, 14), (50, 7), (261, 16), (16, 4)])
def test_tokens_of_places_are_found_behind_those_of_none(tokens: int, side: int) -> None:
    values = np.arange(tokens, dtype=np.float32)[None, :, None]
    grid = on_grid(values)
    assert grid is not None
    assert grid.shape == (1, side, side, 1)
    assert grid[0, -1, -1, 0] == tokens - 1


def test_a_few_numbers_are_no_places() -> None:
    assert on_grid(np.zeros((2, 8), np.float32)) is None
    assert on_grid(np.zeros((2, 3, 8), np.float32)) is None
    assert on_grid(np.zeros((2, 120, 8), np.float32)) is None


# ---- hiding


def redness(pictures: np.ndarray) -> np.ndarray:
    share = ((pictures[..., 0] > 200) & (pictures[..., 1] < 60)).mean(axis=(1, 2))
    odds = 1 / (1 + np.exp(4 - 200 * share))
    return np.stack([odds, 1 - odds], axis=1).astype(np.float32)


def test_hiding_finds_the_thing_also_of_an_answer_that_is_sure() -> None:
    square = np.asarray(scene(side=0.35)).copy()
    assert redness(square[None])[0, 0] > 0.999
    heat = occlusion(redness, square, 0, SPEC)
    row, column = hottest(heat)
    assert (row, column) == (int(0.3 * 7), int(0.7 * 7))
    assert heat[-1, 0] == 0
    np.testing.assert_allclose(occlusion(redness, square, 1, SPEC), -heat, atol=1e-3)


def test_what_is_hidden_takes_the_colour_that_a_network_is_taught_to_ignore() -> None:
    assert nothing(SPEC).tolist() == [127, 127, 127]
    caffe = InputSpec(
        size=64, crop=1.0, interpolation="bilinear", mean=(103.9, 116.8, 123.7), std=(1.0,) * 3, order="bgr"
    )
    assert nothing(caffe).tolist() == [124, 117, 104]
    plain = InputSpec(size=64, crop=1.0, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    assert nothing(plain).tolist() == [127, 127, 127]


class Counting:
    """A graph that answers by redness and counts how often it is asked."""

    concurrency = 1

    def __init__(self, heat: np.ndarray | None = None) -> None:
        self.heat = heat
        self.asked: list[int] = []

    def squares(self, pictures: np.ndarray) -> Outputs:
        self.asked.append(len(pictures))
        return Outputs(redness(pictures), None, self.heat)

    photos = squares


def predictor(graph: Counting, *outputs: str) -> Predictor:
    manifest = Manifest(
        format="onnx",
        precision="fp32",
        classes=("red", "other"),
        spec=SPEC,
        outputs=("probabilities", *outputs),
        temperature=1.0,
        threshold=None,
        false_alarms=None,
        backbone={},
        max_pixels=10**7,
        created="2026-01-01T00:00:00Z",
    )
    return Predictor(manifest=manifest, graph=graph)


def test_a_bundle_tells_the_heat_of_its_graph() -> None:
    told = np.random.default_rng(0).normal(size=(1, 7, 7, 2)).astype(np.float32)
    model = predictor(Counting(told), "heat")
    assert model.method == EXACT
    np.testing.assert_array_equal(model.heat(np.asarray(scene()), 1), told[0, :, :, 1])


def test_a_bundle_without_heat_finds_it_by_hiding_in_two_batches() -> None:
    graph = Counting()
    model = predictor(graph)
    assert model.method == OCCLUSION
    heat = model.heat(np.asarray(scene(side=0.35)), 0)
    assert hottest(heat) == (2, 4)
    assert graph.asked == [25, 25]


# ---- the picture


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(600, 300), (300, 600), (50, 40)], ids=str)
@pytest.mark.parametrize("turned", [1, 6, 8, 3, 5])
def test_the_warm_place_lies_over_the_thing_in_the_photo(fit: Fit, size: tuple[int, int], turned: int) -> None:
    """However the photo is brought to the square, and however the camera was held."""
    spec = InputSpec(size=64, crop=0.8, interpolation="bilinear", mean=(127.0,) * 3, std=(64.0,) * 3, fit=fit)
    at = (0.6, 0.42) if fit == "crop" else (0.8, 0.25)  # as far from the middle as the network sees
    exif = Image.Exif()
    exif[0x0112] = turned
    upright = scene(size, at=at, side=0.25)
    back = {1: None, 6: 2, 8: 4, 3: 3, 5: 5}[turned]  # Pillow's number of the opposite turn
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    content = saved(stored, exif=exif.tobytes())
    square = ImageModality().decode(content, spec)
    heat, _ = heat_of(with_redness({"cells": Cells()}, spec), spec, square[None].copy(), np.array([0]))
    picture = pixels_of(overlay(content, heat[0], spec, 240, kind="png"))
    assert picture.shape[:2] == tuple(round(240 * own / max(size)) for own in size[::-1])
    sides = {"crop": (0.8 * min(size),) * 2, "pad": (max(size),) * 2, "squash": size}[fit]  # of the square in the photo
    place = np.array(sides) / 8 / size  # of the map, as a share of the photo
    assert (np.abs(np.subtract(warmest(picture), at)) < 0.75 * place).all(), (warmest(picture), at)


def test_what_the_network_did_not_see_is_dim_and_never_warm() -> None:
    content = saved(Image.new("RGB", (200, 100), (200, 200, 200)))
    picture = pixels_of(overlay(content, np.ones((7, 7), np.float32), SPEC, 200, kind="png"))
    outside, inside = picture[50, 10], picture[50, 100]
    assert outside.max() < 100
    assert np.ptp(outside) < 2, "there is colour where nothing was seen"
    assert inside[0] - inside[2] > 80


def test_only_what_speaks_for_the_class_is_warm() -> None:
    content = saved(Image.new("RGB", (100, 100), (150, 150, 150)))
    spec = InputSpec(size=64, crop=1.0, interpolation="bilinear", mean=(127.0,) * 3, std=(64.0,) * 3)
    against = -np.ones((7, 7), np.float32)
    assert np.ptp(pixels_of(overlay(content, against, spec, 100, kind="png")), axis=2).max() < 2
    against[0, 0] = 0.01  # little beside what speaks against it
    assert np.ptp(pixels_of(overlay(content, against, spec, 100, kind="png")), axis=2).max() < 40
    nothing_at_all = np.zeros((7, 7), np.float32)
    assert np.ptp(pixels_of(overlay(content, nothing_at_all, spec, 100, kind="png")), axis=2).max() < 2


def test_more_heat_is_lighter_by_even_steps() -> None:
    """In OKLab, so that it reads on paper and to the colour-blind."""
    table = drawing.colours().astype(np.float64) / 255
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    lightness = np.cbrt(linear @ to_cones.T) @ np.array([0.2104542553, 0.793617785, -0.0040720468])
    steps = np.diff(lightness[::25])
    assert steps.min() > 0
    assert steps.max() / steps.min() < 1.5
    assert lightness[0] < 0.45
    assert lightness[-1] > 0.9


def test_a_thumbnail_is_small_and_a_bad_photo_has_a_reason() -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((800, 600))
    thumbnail = overlay(saved(photo), rng.normal(size=(7, 7)).astype(np.float32), SPEC, 160)
    assert thumbnail[:2] == b"\xff\xd8"
    assert len(thumbnail) < 12_000
    with pytest.raises(Undecodable, match="not a photo"):
        overlay(b"hello", np.zeros((7, 7), np.float32), SPEC, 160)


# ---- the verb


@pytest.fixture(scope="module")
def run(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("explained") / "run"
    return api.train(drawn_photos, quality="fast", size=64, out=out)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_answer_is_the_one_that_predict_gives_and_the_picture_is_written(run: Run, drawn_photos: Path) -> None:
    photo = drawn_photos / "grass" / "03.jpg"
    found = api.explain(run, photo)
    [told] = api.predict(run, photo)
    assert (found.answer, found.label) == (told.label, told.label)
    assert found.probability == pytest.approx(told.probability, abs=1e-6)
    assert found.probabilities == pytest.approx(told.probabilities, abs=1e-6)
    assert found.method == EXACT
    assert found.picture == Path("03-explained.png")
    assert max(pixels_of(found.picture.read_bytes()).shape) == 512, "a small photo is shown larger"


def test_no_file_is_ever_overwritten(run: Run, drawn_photos: Path) -> None:
    photo = drawn_photos / "grass" / "03.jpg"
    pictures = [api.explain(run, photo).picture for _ in range(2)]
    assert [str(path) for path in pictures] == ["03-explained.png", "03-explained-2.png"]
    Path("mine.png").write_bytes(b"mine")
    with pytest.raises(BadSetting, match="exists already"):
        api.explain(run, photo, out="mine.png")
    assert Path("mine.png").read_bytes() == b"mine"


def test_another_class_is_explained_when_asked(run: Run, drawn_photos: Path) -> None:
    photo = drawn_photos / "grass" / "03.jpg"
    plain, other = api.explain(run, photo), api.explain(run, photo, label="water", out="water.jpg")
    assert (other.answer, other.label) == ("grass", "water")
    assert other.probability == pytest.approx(plain.probabilities["water"], abs=1e-6)
    assert not np.allclose(other.heat, plain.heat)
    assert Path("water.jpg").read_bytes()[:2] == b"\xff\xd8"
    text = output.explained_text(other)
    assert "answer     grass, probability" in text
    assert "explained  water, probability" in text
    assert EXACT in text
    assert "water.jpg" in text


def test_numbers_are_kept_for_programs(run: Run, drawn_photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", str(run.path), str(drawn_photos / "grass" / "03.jpg"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert np.array(told["heat"]).shape == (2, 2)
    assert told["method"] == EXACT


@pytest.mark.parametrize(
    ("photo", "options", "kind", "words"),
    [
        ("good.jpg", {"label": "gras"}, BadSetting, "no class 'gras'\nhint: did you mean 'grass'"),
        ("good.jpg", {"label": "7"}, BadSetting, "no class '7'\nhint: it knows 'brick', 'grass', 'water'"),
        ("none.jpg", {}, BadData, "'none.jpg' does not exist"),
        ("text.jpg", {}, BadData, "cannot be read: not a photo"),
        ("folder", {}, BadData, "is a folder"),
        ("good.jpg", {"out": "x.gif"}, BadSetting, "end its name in .png, .jpg, .jpeg"),
        ("good.jpg", {"out": "nowhere/x.png"}, BadSetting, "cannot be written"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_the_way_out(
    run: Run, drawn_photos: Path, photo: str, options: dict[str, str], kind: type[Exception], words: str
) -> None:
    Path("good.jpg").write_bytes((drawn_photos / "grass" / "03.jpg").read_bytes())
    Path("text.jpg").write_text("hello")
    Path("folder").mkdir()
    before = sorted(Path().iterdir())
    with pytest.raises(kind) as refused:
        api.explain(run, photo, **options)
    assert words in str(refused.value)
    assert sorted(Path().iterdir()) == before


def test_without_a_run_there_is_nothing_to_explain(drawn_photos: Path) -> None:
    with pytest.raises(BadRun, match="does not exist"):
        api.explain("nowhere", drawn_photos / "grass" / "03.jpg")
