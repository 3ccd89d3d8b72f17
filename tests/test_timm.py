"""Networks of timm: the same answers as the library's own, from the same weights and the same photos."""

from __future__ import annotations

import functools
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from headstart import api
from headstart.backbones import timm as source
from headstart.backbones import timm_weights
from headstart.backbones.backbone import Wanted
from headstart.backbones.loading import load_backbone
from headstart.backbones.timm_members import members
from headstart.errors import BadBackbone, BadSetting, HeadstartError
from headstart.heads import Head, Pool
from headstart.networks.network import HEAD, Batch, Network
from headstart.output import backbones_text

from .conformance import tables
from .conformance.references import check, shaken

SMALL = "test_resnet.r160_in1k"  # timm's own for tests


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hf" / "hub"


def state(name: str, seed: int = 0, **options: object) -> dict[str, torch.Tensor]:
    """Random weights of timm's own network with its top."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = timm.create_model(name, pretrained=False, **options)  # type: ignore[arg-type]
    return dict(shaken(made, seed=seed).state_dict())


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_file(state(SMALL), path)
    return path


def features(network: Network) -> np.ndarray:
    pictures = np.random.default_rng(0).integers(0, 256, (2, *network.input_shape), dtype=np.uint8)
    return network.features(pictures, network.cuts[-1])


def refusal(name: str, **wanted: object) -> str:
    with pytest.raises(HeadstartError) as caught:
        load_backbone(f"timm/{name}", **wanted).build()  # type: ignore[arg-type]
    return str(caught.value)


# ---- the same as the library's own


def test_the_table_is_that_of_the_installed_timm() -> None:
    rows = {row["name"]: row for row in tables.timm_rows(measured=False)}
    listed = {member.name: member for member in members()}
    assert list(listed) == list(rows), "write it again: python -m tests.conformance.tables timm"
    for name, row in rows.items():
        assert (str(listed[name].size), listed[name].licence, listed[name].file) == (
            row["size"],
            row["licence"],
            row["file"],
        )


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet.r160_in1k",
        "test_vit.r160_in1k",
        "test_convnext.r160_in1k",
        "test_efficientnet.r160_in1k",
        "test_mambaout",
        "legacy_xception.tf_in1k@64",
        "mobilenetv3_small_050.lamb_in1k@64",
        "swin_tiny_patch4_window7_224.ms_in1k@64",
        "deit_tiny_distilled_patch16_224.fb_in1k@64",
        "eva02_tiny_patch14_224.mim_in22k@56",
        "regnety_002.pycls_in1k@64",
        pytest.param("convnextv2_atto.fcmae_ft_in1k@64", marks=pytest.mark.slow),  # of a kind that stands above
        pytest.param("vit_tiny_patch16_224.augreg_in21k_ft_in1k@64", marks=pytest.mark.slow),
        pytest.param("densenet121.ra_in1k@64", marks=pytest.mark.slow),
        pytest.param("efficientvit_m0.r224_in1k@64", marks=pytest.mark.slow),  # a batch norm in its classifier
        pytest.param("coat_tiny.in1k@64", marks=pytest.mark.slow),  # layers that several groups share
        pytest.param("volo_d1_224.sail_in1k@64", marks=pytest.mark.slow),  # a second head
        pytest.param("rdnet_tiny.nv_in1k@64", marks=pytest.mark.slow),  # timm knows its layers alone
        pytest.param("crossvit_tiny_240.in1k", marks=pytest.mark.slow),  # two branches: nothing crosses alone
    ],
)
def test_our_answers_are_those_of_timm(name: str) -> None:
    own, _, size = name.partition("@")
    found = check(f"timm/{own}", size=int(size) if size else None)
    assert found["passed"], found
    assert len(found["groups"]) <= 16


# ---- names, pictures and sizes


def test_the_default_weights_of_an_architecture_are_named_in_full(small_file: Path) -> None:
    assert source.load("test_resnet", Wanted(weights=small_file)).name == f"timm/{SMALL}"


def test_a_former_name_leads_to_todays() -> None:
    assert source.load("xception", Wanted(blank=True)).name == "timm/legacy_xception.tf_in1k"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "no network is named"),
        ("resnet51", "did you mean 'timm/resnet5"),
        ("resnet50.a7_in1k", "did you mean 'timm/resnet50."),
        ("resnet50.zzz", "timm/resnet50 has no weights 'zzz'"),
    ],
)
def test_an_unknown_name_is_refused_with_a_known_one(name: str, said: str) -> None:
    with pytest.raises(BadBackbone) as caught:
        source.load(name, Wanted())
    assert said in str(caught.value)


def test_pictures_are_brought_to_a_square_as_timm_does_it() -> None:
    assert source.load("resnet50.a1_in1k", Wanted(blank=True)).spec.resized == 235  # 224 / 0.95, rounded down
    for mode, fit in source.FITS.items():
        name = next(each for each in timm.list_pretrained() if timm.get_pretrained_cfg(each).crop_mode == mode)
        assert source.load(name, Wanted(blank=True)).spec.fit == fit


def test_pictures_that_are_not_square_or_not_of_three_colours_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = timm.get_pretrained_cfg(SMALL)
    cfg.input_size = (3, 120, 160)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: cfg)
    with pytest.raises(BadSetting, match=r"120 x 160 pixels(.|\n)*--size 120"):
        source.load(SMALL, Wanted(blank=True))
    assert source.load(SMALL, Wanted(blank=True, size=96)).spec.size == 96
    cfg.input_size = (1, 120, 120)
    with pytest.raises(BadBackbone, match="1 channels"):
        source.load(SMALL, Wanted(blank=True))


def test_a_size_that_cannot_be_is_refused_with_those_that_can() -> None:
    with pytest.raises(BadSetting) as caught:
        source.load("maxvit_nano_rw_256", Wanted(size=100, blank=True))
    assert "size 100 does not fit timm/maxvit_nano_rw_256" in str(caught.value)
    assert "use 96, 128, or its own: 256" in str(caught.value)


def test_a_missing_timm_is_said_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "find_spec", lambda name: None)
    assert 'pip install "headstart[timm]"' in refusal("resnet50")


def test_a_long_list_is_cut_for_readers_and_says_how_to_see_the_rest() -> None:
    from headstart.backbones.loading import list_backbones

    shown = backbones_text(list_backbones())
    assert len(shown.splitlines()) < 150
    assert "more of timm: headstart backbones timm/" in shown
    assert "keras/" in shown
    assert len(backbones_text(list_backbones("timm/")).splitlines()) == len(members()) + 1


# ---- weights


def test_weights_of_another_network_are_refused_in_one_sentence(small_file: Path) -> None:
    said = refusal("resnet18", weights=small_file)
    assert "do not fit the network" in said
    assert said.count("\n") == 1


def test_a_classifiers_batch_norm_is_left_out_with_it_and_nothing_else(tmp_path: Path) -> None:
    content = state("efficientvit_m0", img_size=64)
    assert "head.bn.weight" in content
    torch.save(content, tmp_path / "whole.pth")
    load_backbone("timm/efficientvit_m0", size=64, weights=tmp_path / "whole.pth").build()
    torch.save(content | {"head.bn.more": torch.zeros(3)}, tmp_path / "more.pth")
    said = refusal("efficientvit_m0", weights=tmp_path / "more.pth", size=64)
    assert "'head.bn.more' 3 is not in the network" in said
    assert "head.bn.weight" not in said


def test_biases_that_timm_keeps_in_a_cache_count_and_learn() -> None:
    network = source.load("levit_128s", Wanted(size=64, blank=True)).build()
    network.to("cpu")
    before, weights = features(network), network.weights()
    last = network.groups[-1]
    biases = [key for key in last.parameters if key.endswith("attention_biases")]
    rng = np.random.default_rng(0)
    network.load_weights(weights | {key: rng.normal(size=weights[key].shape).astype(np.float32) for key in biases})
    changed = features(network)
    assert not np.allclose(changed, before)
    network.set_head(Head((Pool(),)), 2, seed=0)
    network.thaw({HEAD: 1e-2, last.name: 1e-2})
    pictures = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    began = network.weights()
    network.read([network.step(Batch(pictures, np.array([0, 1]), np.array([0.5, 0.5])), scale=1.0, key=0)])
    assert biases
    assert all(not np.array_equal(network.weights()[key], began[key]) for key in biases)


# From timm's names of ConvNeXt's layers to those of its makers.
ORIGINAL = (
    (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"stages\.(\d)\.blocks\.", r"stages.\1."),
    (r"^stem\.", "downsample_layers.0."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
)


def test_weights_under_their_makers_names_are_converted_by_timm(tmp_path: Path) -> None:
    own = state("convnext_atto")
    theirs = {functools.reduce(lambda name, way: re.sub(*way, name), ORIGINAL, name): own[name] for name in own}
    assert not [name for name in theirs if name.startswith(("stem", "head.fc"))]
    results = []
    for content in (own, theirs):
        torch.save(content, tmp_path / "weights.pth")
        results.append(features(load_backbone("timm/convnext_atto", size=64, weights=tmp_path / "weights.pth").build()))
    assert np.array_equal(*results)


def test_what_timm_leaves_out_or_over_while_it_converts_is_not_passed_over(tmp_path: Path) -> None:
    """resnet34's weights hold all of resnet18's under the same names, of the same shapes, and more."""
    torch.save(state("resnet34"), tmp_path / "34.pth")
    assert "is not in the network" in refusal("resnet18", weights=tmp_path / "34.pth", size=64)
    fewer = {name: tensor for name, tensor in state("resnet18").items() if not name.startswith("layer3.1")}
    torch.save(fewer, tmp_path / "fewer.pth")
    assert "is missing" in refusal("resnet18", weights=tmp_path / "fewer.pth", size=64)


def test_a_transformer_at_another_size_gets_its_positions_resized(tmp_path: Path) -> None:
    torch.save(state("test_vit"), tmp_path / "vit.pth")
    network = load_backbone("timm/test_vit", size=96, weights=tmp_path / "vit.pth").build()
    assert np.isfinite(features(network)).all()


def test_blank_weights_are_the_same_each_time() -> None:
    backbones = [source.load(SMALL, Wanted(blank=True)) for _ in range(2)]
    assert backbones[0].weights_hash == f"none/timm/{SMALL}/0"
    assert np.array_equal(*(features(backbone.build()) for backbone in backbones))


# ---- the cache and the Hub


class Hub(ThreadingHTTPServer):
    """A Hub with one file."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        content = self.server.content
        if not re.fullmatch(rf"/timm/{SMALL}/resolve/(main|a+)/model.safetensors", self.path):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def hub(small_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(small_file.read_bytes()) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        yield running
        running.shutdown()
        thread.join()


def put_into_cache(home: Path, path: Path) -> Path:
    place = home / f"models--timm--{SMALL}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("b" * 40)
    kept = place / "snapshots" / ("b" * 40) / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(path.read_bytes())
    return kept


def test_what_lies_in_the_hubs_cache_is_used(home: Path, small_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_into_cache(home, small_file)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    backbone = source.load("test_resnet", Wanted())
    assert backbone.weights_hash == hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert np.array_equal(features(backbone.build()), features(source.load(SMALL, Wanted(weights=small_file)).build()))
    assert [entry.name for entry in source.catalogue() if entry.available] == [SMALL]


def test_weights_are_downloaded_once_with_their_progress_told(hub: Hub, small_file: Path) -> None:
    told: list[tuple[int, int | None]] = []
    found = [source.load(SMALL, Wanted(on_progress=lambda *at: told.append(at))) for _ in range(2)]
    assert found[0].weights_hash == found[1].weights_hash == hashlib.sha256(small_file.read_bytes()).hexdigest()
    assert sum(asked.startswith("GET") for asked in hub.asked) == 1
    assert told[-1][0] == small_file.stat().st_size


def test_offline_the_file_its_address_and_its_folder_are_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadBackbone) as caught:
        source.load(SMALL, Wanted())
    said = str(caught.value)
    assert "HF_HUB_OFFLINE" in said
    assert f"huggingface.co/timm/{SMALL}/resolve/main/model.safetensors" in said
    assert str(home) in said


def test_a_hub_that_cannot_be_reached_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between its tries
    with pytest.raises(BadBackbone, match=rf"model.safetensors of 'timm/{SMALL}' cannot be downloaded into"):
        source.load(SMALL, Wanted())


def test_an_architecture_without_published_weights_says_so() -> None:
    name = next(each for each in timm.list_models() if not timm.list_pretrained(f"{each}.*"))
    with pytest.raises(BadBackbone, match=r"publishes no weights(.|\n)*--weights"):
        source.load(name, Wanted())


def test_weights_that_the_hub_has_not_come_from_their_own_server(
    tmp_path: Path, small_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = timm.get_pretrained_cfg(SMALL)
    digest = hashlib.sha256(small_file.read_bytes()).hexdigest()[:9]
    cfg.hf_hub_id, cfg.url = None, f"https://example.org/small-{digest}.pth"
    place = tmp_path / "torch" / "hub" / "checkpoints"
    place.mkdir(parents=True)
    (place / f"small-{digest}.pth").write_bytes(small_file.read_bytes())
    path, weights_hash = timm_weights.obtain(SMALL, cfg, None)
    assert (path.parent, weights_hash[:9]) == (place, digest)


def test_a_run_of_a_timm_network_answers_without_its_file_of_weights(
    photos: Path, small_file: Path, tmp_path: Path
) -> None:
    api.train(photos, backbone=f"timm/{SMALL}", weights=small_file, size=64, quality="fast", out=tmp_path / "run")
    small_file.unlink()
    answers = api.predict(tmp_path / "run", [photos / "brick"])
    assert all(answer.error is None for answer in answers)
