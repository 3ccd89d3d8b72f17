"""Networks of torchvision: the same answers as the library's own, from the same weights and the same photos."""

from __future__ import annotations

import functools
import hashlib
import io
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from headstart import api
from headstart.backbones import torchvision as source
from headstart.backbones import torchvision_network
from headstart.backbones.backbone import Wanted
from headstart.backbones.loading import load_backbone, restore_backbone
from headstart.backbones.torch_blank import first_values
from headstart.backbones.torchvision_members import Member, members
from headstart.backbones.torchvision_network import build
from headstart.errors import BadBackbone, BadSetting, HeadstartError
from headstart.modalities.image import ImageModality
from headstart.networks.network import Network
from headstart.networks.torch import TorchNetwork

from .conformance import tables
from .conformance.references import PIXELS, PIXELS_MEAN, check, shaken, some_photos

SHARED = Path(__file__).parents[1].parent / "shared"
VGG16 = SHARED / "weights" / "keras" / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"

SMALL = "shufflenet_v2_x0_5"  # the quickest of all


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEADSTART_TORCH_WEIGHTS", raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


def state(name: str, seed: int = 0, **options: object) -> dict[str, torch.Tensor]:
    """Random weights of torchvision's own network with its top."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = torchvision.models.get_model(name, weights=None, **options)
    return dict(shaken(made, seed=seed).state_dict())


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    return state(SMALL)


@pytest.fixture
def small_file(small_state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    return kept(small_state, tmp_path / "small.pth")


def kept(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def features(network: Network, seed: int = 0) -> np.ndarray:
    pictures = np.random.default_rng(seed).integers(0, 256, (2, *network.input_shape), dtype=np.uint8)
    return network.features(pictures, network.cuts[-1])


def refusal(name: str, **wanted: object) -> str:
    with pytest.raises(HeadstartError) as caught:
        load_backbone(f"torchvision/{name}", **wanted).build()  # type: ignore[arg-type]
    return str(caught.value)


# ---- the same as the library's own


def test_the_table_is_that_of_the_installed_torchvision() -> None:
    rows = list(tables.torchvision_rows(measured=False))
    assert [(row["name"], row["weights"]) for row in rows] == [
        (member.name, weights.name) for member in members().values() for weights in member.weights
    ], "write it again: python -m tests.conformance.tables torchvision"
    for row in rows:
        weights = members()[row["name"]].named(row["weights"])
        assert weights is not None
        assert (weights.file, weights.licence, weights.interpolation) == (
            row["file"],
            row["licence"],
            row["interpolation"],
        )
        assert (weights.size, weights.resized) == (int(row["size"]), int(row["resized"]))
        assert " ".join(map(repr, weights.mean)) == row["mean"]
        assert " ".join(map(repr, weights.std)) == row["std"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("alexnet@64", marks=pytest.mark.slow),
        pytest.param("convnext_tiny@64", marks=pytest.mark.slow),
        "densenet121@64",
        "efficientnet_b0@64",
        "googlenet@64",
        pytest.param("inception_v3@75", marks=pytest.mark.slow),
        "mnasnet0_5@64",
        "mobilenet_v2@64",
        "mobilenet_v3_small@64",
        "regnet_y_400mf@64",
        "resnet18@64",
        "shufflenet_v2_x0_5",
        "squeezenet1_1@64",
        pytest.param("swin_t@64", marks=pytest.mark.slow),
        pytest.param("vit_b_32@64", marks=pytest.mark.slow),
        pytest.param("maxvit_t", marks=pytest.mark.slow),
        pytest.param("swin_v2_t@64", marks=pytest.mark.slow),
        pytest.param("vgg16_bn@64", marks=pytest.mark.slow),
        pytest.param("inception_v3", marks=pytest.mark.slow),
        pytest.param("googlenet", marks=pytest.mark.slow),
    ],
)
def test_our_answers_are_those_of_torchvision(name: str) -> None:
    own, _, size = name.partition("@")
    found = check(f"torchvision/{own}", size=int(size) if size else None)
    assert found["passed"], found
    assert 4 <= len(found["groups"]) <= 16
    assert found["cuts"] == len(found["groups"]) + 2, "tuning would compute the whole network in each step"


def small(kind: str) -> torch.nn.Module:
    """A small network of a kind of which torchvision has large ones alone."""
    zoo = torchvision.models
    many = {"num_classes": 5}
    if kind == "vit":
        return zoo.VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, **many)
    if kind == "maxvit":
        return zoo.MaxVit((64, 64), 8, 2, [16, 16], [1, 2], 8, 0.0, **many)
    if kind == "convnext":
        return zoo.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)], **many)
    windows = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if kind == "swin_v2" else {}
    return zoo.SwinTransformer([4, 4], 8, [1, 2], [1, 2], [7, 7], **windows, **many)


@pytest.mark.parametrize("kind", ["vit", "maxvit", "convnext", "swin", "swin_v2"])
def test_kinds_that_are_large_are_taken_apart_in_the_same_way(kind: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = shaken(small(kind))
    body, pool = torchvision_network._cut(theirs)
    spec = replace(members()["resnet50"].spec(members()["resnet50"].weights[0]), size=64)
    groups = torchvision_network._groups(theirs, body)
    network = TorchNetwork.of(body, spec=spec, pool=pool, group_of=groups.get)
    assert len(network.cuts) == len(network.groups) + 2 > 3
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    linear = [layer for layer in theirs.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        ours = linear(torch.from_numpy(network.features(pictures, network.cuts[-1])))
        expected = theirs(network.model.normalise(torch.from_numpy(pictures).permute(0, 3, 1, 2)))
    assert float((ours - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("fault", ["crop", "mean", "pool", "layer"])
def test_the_comparison_notices_what_is_wrong(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = members()[SMALL]
    weights = own.weights[0]
    wrong = replace(weights, resized=weights.resized + 8) if fault == "crop" else weights
    wrong = replace(wrong, mean=(0.485, 0.456, 0.42)) if fault == "mean" else wrong
    monkeypatch.setattr(source, "members", lambda: {SMALL: replace(own, weights=(wrong,))})
    cut = torchvision_network._cut

    def faulty(model: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module | None]:
        body, pool = cut(model)
        if fault == "layer":
            body = torch.nn.Sequential(OrderedDict([*body.named_children(), ("more", torch.nn.Softplus())]))
        if fault == "pool":
            pool = torch.nn.Sequential(torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten())
        return body, pool

    monkeypatch.setattr(torchvision_network, "_cut", faulty)
    found = check(f"torchvision/{SMALL}")
    assert not found["passed"]
    assert found["equal"] == (fault in ("crop", "mean"))
    assert not (found["same_pictures"] and found["equal_from_files"])


def test_pictures_are_those_of_torchvisions_transforms() -> None:
    photos, seen = some_photos(), set()
    for member in members().values():
        for weights in member.weights:
            key = (weights.size, weights.resized, weights.interpolation)
            if key in seen:
                continue
            seen.add(key)
            transform = torchvision.models.get_model_weights(member.name)[weights.name].transforms()
            for content in photos[: 1 if weights.size > 400 else None]:
                theirs = transform(Image.open(io.BytesIO(content)).convert("RGB"))
                mean, std = (torch.tensor(each).view(3, 1, 1) for each in (transform.mean, transform.std))
                pixels = ((theirs * std + mean) * 255).permute(1, 2, 0).numpy()
                ours = ImageModality().decode(content, member.spec(weights))
                apart = np.abs(pixels - ours)
                assert apart.max() <= PIXELS, (member.name, weights.name)
                assert apart.mean() <= PIXELS_MEAN, (member.name, weights.name)
    assert len(seen) > 15


def test_inception_gets_pixels_from_minus_one_to_one() -> None:
    member = members()["inception_v3"]
    spec = member.spec(member.weights[0])
    assert (spec.mean, spec.std) == ((127.5,) * 3, (127.5,) * 3)


@pytest.mark.slow  # two frameworks in one process
@pytest.mark.skipif(not VGG16.is_file(), reason="the weights of Keras's VGG16 are not on this machine")
def test_keras_and_torchvision_give_the_same_features_with_the_same_vgg16(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="reads the weights of Keras")
    keras_side = load_backbone("keras/vgg16", size=64, weights=VGG16)
    kernels: list[np.ndarray] = []
    with h5py.File(VGG16) as file:
        for block, layers in enumerate((2, 2, 3, 3, 3), start=1):
            for layer in range(1, layers + 1):
                inner = file[f"block{block}_conv{layer}"]
                while not all(isinstance(each, h5py.Dataset) for each in inner.values()):
                    [inner] = inner.values()
                kernels += sorted((each[()] for each in inner.values()), key=np.ndim, reverse=True)
    own = list(build("vgg16", size=64, drawn=False).whole.state_dict())
    content = {
        key: torch.from_numpy(value.transpose(3, 2, 0, 1).copy() if value.ndim == 4 else value)
        for key, value in zip(own, kernels, strict=True)
    }
    ours = load_backbone("torchvision/vgg16", size=64, weights=kept(content, tmp_path / "vgg16.pth"))
    networks = ours.build(), keras_side.build()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    # What Keras's normalisation makes of them, blue first, and the pixels of which ours makes the same.
    same = pictures[..., ::-1] - np.array(keras_side.spec.mean, np.float32)
    mean, std = (np.array(each, np.float32) for each in (ours.spec.mean, ours.spec.std))
    a = networks[0].features(same * std + mean, networks[0].cuts[-1])
    b = networks[1].features(pictures, networks[1].cuts[-1])
    assert a.std() > 0
    assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


# ---- names and sizes


def test_every_network_is_listed_with_what_it_needs() -> None:
    entries = {entry.name: entry for entry in source.catalogue()}
    assert next(iter(entries)) == "resnet50"
    assert len(entries) == 80
    assert entries["vit_b_16"].note.startswith("IMAGENET1K_V1; also IMAGENET1K_SWAG_E2E_V1")
    assert entries["vit_h_14"].licence == "CC-BY-NC-4.0"
    assert not any(entry.available for entry in entries.values())


def test_a_set_of_weights_is_named_after_a_dot(small_file: Path) -> None:
    first = load_backbone("torchvision/ResNet50.imagenet1k_v1", weights=kept(state("resnet50"), small_file))
    default = members()["resnet50"].spec(members()["resnet50"].weights[0])
    assert first.spec.resized == 256
    assert default.resized == 232


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "no network is named"),
        ("resnet51", "did you mean 'torchvision/resnet50'"),
        ("vgg16.V3", r"use one of torchvision/vgg16.IMAGENET1K_V1, torchvision/vgg16.IMAGENET1K_FEATURES"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, said: str) -> None:
    with pytest.raises(BadBackbone) as caught:
        source.load(name, Wanted())
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("vit_b_16", 100, "use a multiple of 16: 96 or 112"),
        ("vit_h_14", 224 + 7, "use a multiple of 14: 224 or 238"),
        ("maxvit_t", 256, "use a multiple of 224: 224 or 448"),
        ("maxvit_t", 192, "use 224 pixels or more"),
        ("inception_v3", 64, "use 75 pixels or more; it was trained at 299"),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_those_that_can(name: str, size: int, said: str) -> None:
    with pytest.raises(BadSetting) as caught:
        source.load(name, Wanted(size=size, blank=True))
    assert said in str(caught.value)


def test_another_framework_and_a_cut_are_refused() -> None:
    assert "runs on PyTorch" in refusal("resnet18", framework="jax")
    assert "leave the cut out" in refusal("resnet18", cut="layer3")


def test_a_missing_torchvision_is_said_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "find_spec", lambda name: None)
    assert 'pip install "headstart[torchvision]"' in refusal("resnet18")


def test_a_torchvision_for_another_pytorch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def broken(name: str, *rest: object) -> object:
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(BadBackbone, match=r"cannot be imported: operator torchvision::nms(.|\n)*of the same release"):
        source.load("resnet18", Wanted(blank=True))


# ---- weights


def test_blank_weights_are_the_same_each_time() -> None:
    first, second = (source.load(SMALL, Wanted(blank=True, size=64)) for _ in range(2))
    assert first.weights_hash == f"none/torchvision/{SMALL}/0"
    assert np.array_equal(features(first.build()), features(second.build()))
    assert features(first.build()).std() > 0


@pytest.mark.parametrize("drawn", [True, False])
def test_making_a_network_touches_nobody_elses_chance(drawn: bool) -> None:
    torch.manual_seed(7)
    untouched = torch.rand(1)
    torch.manual_seed(7)
    build(SMALL, size=64, drawn=drawn)
    assert torch.rand(1) == untouched


@pytest.mark.parametrize("bounds", [{"std": 0.02}, {"a": 2.5, "b": 3.0}])
def test_a_network_is_made_though_what_lies_in_memory_is_no_draw(
    bounds: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch draws again what does not lie between the bounds, and without drawing that would never end."""
    weights = torch.nn.Parameter(torch.full((8, 8), 1e9))
    monkeypatch.setattr(torch, "empty_like", lambda tensor: torch.full_like(tensor, 1e9))

    def make() -> None:
        with first_values(drawn=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its mean lies out of its bounds
            torch.nn.init.trunc_normal_(weights, **bounds)

    made = threading.Thread(target=make, daemon=True)
    made.start()
    made.join(timeout=60)
    assert not made.is_alive()


@pytest.mark.parametrize("how", ["as it is", "module.", "nested", "without a top", "another top", "safetensors"])
def test_a_file_of_weights_is_taken_as_people_save_it(
    how: str, small_state: dict[str, torch.Tensor], small_file: Path
) -> None:
    expected = features(load_backbone(f"torchvision/{SMALL}", size=64, weights=small_file).build())
    content: dict[str, object] = dict(small_state)
    path = small_file.with_name("other.pth")
    if how == "module.":
        content = {f"module.{name}": tensor for name, tensor in small_state.items()}
    elif how == "nested":
        content = {"epoch": 3, "state_dict": dict(small_state), "optimizer": {"lr": 0.1}}
    elif how == "without a top":
        content = {name: tensor for name, tensor in small_state.items() if not name.startswith("fc.")}
    elif how == "another top":
        content |= {"fc.weight": torch.zeros(3, 1024), "fc.bias": torch.zeros(3)}
    if how == "safetensors":
        from safetensors.torch import save_file

        path = path.with_suffix(".safetensors")
        save_file(small_state, path)
    else:
        kept(content, path)
    found = features(load_backbone(f"torchvision/{SMALL}", size=64, weights=path).build())
    assert np.array_equal(found, expected)


def test_weights_of_another_network_are_refused_in_one_sentence(small_file: Path) -> None:
    said = refusal("mnasnet0_5", weights=small_file)
    assert "of torchvision/mnasnet0_5 do not fit the network" in said
    assert said.count("\n") == 1
    wider = kept(state("shufflenet_v2_x1_0"), small_file)
    assert "instead of" in refusal(SMALL, weights=wider)


def test_older_names_of_weights_are_understood() -> None:
    for name, changes in (
        ("densenet121", {"norm1": "norm.1", "norm2": "norm.2", "conv1": "conv.1", "conv2": "conv.2"}),
        ("vit_b_32", {"mlp.0": "mlp.linear_1", "mlp.3": "mlp.linear_2"}),
    ):
        own = set(build(name, size=64, drawn=False).whole.state_dict())
        older = set(own)
        for new, old in changes.items():
            older = {key.replace(f".{new}.", f".{old}.") if "layer" in key else key for key in older}
        assert older != own
        assert {source._today(key) for key in older} == own


def test_a_transformers_positions_are_resized_as_torchvision_does_it() -> None:
    from torchvision.models.vision_transformer import interpolate_embeddings

    name = "encoder.pos_embedding"
    given = {name: torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(0))}
    for size in (96, 320):
        theirs = interpolate_embeddings(size, 32, dict(given))
        ours = source._resized(dict(given), {name: torch.zeros(1, (size // 32) ** 2 + 1, 8)})
        torch.testing.assert_close(ours[name], theirs[name])


# ---- the cache and the server


@pytest.fixture
def published(small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file under the name that its own hash gives it, and that the table says."""
    digest = hashlib.sha256(small_file.read_bytes()).hexdigest()[:8]
    path = tmp_path / "server" / f"small-{digest}.pth"
    path.parent.mkdir()
    path.write_bytes(small_file.read_bytes())
    own = members()[SMALL]
    changed = {SMALL: replace(own, weights=(replace(own.weights[0], file=path.name),))}

    def listed() -> dict[str, Member]:
        return changed

    monkeypatch.setattr(source, "members", listed)
    return path


@pytest.fixture
def server(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    handler = functools.partial(Quiet, directory=str(published.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setenv("HEADSTART_TORCH_WEIGHTS", address)
        yield address
        running.shutdown()
        thread.join()


def test_what_lies_in_torchvisions_cache_is_used(published: Path, home: Path, small_file: Path) -> None:
    home.mkdir(parents=True)
    (home / published.name).write_bytes(published.read_bytes())
    assert source.catalogue()[0].available
    expected = features(source.load(SMALL, Wanted(weights=small_file, size=64)).build())
    assert np.array_equal(features(source.load(SMALL, Wanted(size=64)).build()), expected)


def test_a_cache_that_a_program_has_moved_is_followed(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "moved"))
    place = tmp_path / "moved" / "checkpoints"
    place.mkdir(parents=True)
    (place / published.name).write_bytes(published.read_bytes())
    assert source.load(SMALL, Wanted()).weights_hash == hashlib.sha256(published.read_bytes()).hexdigest()


def test_weights_are_downloaded_once_with_their_progress_told(server: str, published: Path, home: Path) -> None:
    told: list[tuple[int, int | None]] = []
    for _ in range(2):
        source.load(SMALL, Wanted(on_progress=lambda *at: told.append(at)))
    size = published.stat().st_size
    assert told[-1] == (size, size)
    assert [at for at, _ in told].count(size) == 1
    assert (home / published.name).read_bytes() == published.read_bytes()


def test_what_the_name_of_the_file_does_not_vouch_for_is_not_used(server: str, published: Path, home: Path) -> None:
    published.write_bytes(published.read_bytes() + b"x")
    with pytest.raises(BadBackbone, match="not the published file: sha256"):
        source.load(SMALL, Wanted())
    assert not (home / published.name).exists()


def test_a_damaged_file_in_the_cache_is_refused_and_left_alone(published: Path, home: Path) -> None:
    home.mkdir(parents=True)
    (home / published.name).write_bytes(b"damaged")
    with pytest.raises(BadBackbone, match="are not the published file"):
        source.load(SMALL, Wanted())
    assert (home / published.name).read_bytes() == b"damaged"


def test_offline_the_file_its_address_and_its_folder_are_said(
    published: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_TORCH_WEIGHTS", "http://127.0.0.1:9")
    with pytest.raises(BadBackbone) as caught:
        source.load(SMALL, Wanted())
    said = str(caught.value)
    assert f"http://127.0.0.1:9/{published.name}" in said
    assert f"put it into {home} as {published.name}" in said


# ---- a run


def test_a_run_of_a_torchvision_network_answers_without_its_file_of_weights(
    photos: Path, small_file: Path, tmp_path: Path
) -> None:
    run = api.train(
        photos, backbone=f"torchvision/{SMALL}", weights=small_file, size=64, quality="fast", out=tmp_path / "run"
    )
    small_file.unlink()
    answers = api.predict(tmp_path / "run", [photos / "brick"])
    assert all(answer.error is None for answer in answers)
    assert run is not None


def test_a_network_is_restored_under_the_weights_that_it_began_with(small_file: Path) -> None:
    began = load_backbone("torchvision/resnet50.IMAGENET1K_V1", weights=small_file)
    again = restore_backbone({"name": began.name, "size": 64, "about": dict(began.about)})
    assert again.spec == replace(began.spec, size=64)
    assert again.weights_hash == began.weights_hash
