"""Encoders of transformers: the library's own numbers, its files and its Hub, and refusals in one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from headstart import cli
from headstart.backbones.backbone import Wanted
from headstart.backbones.huggingface import catalogue, load
from headstart.backbones.huggingface_families import FAMILIES
from headstart.backbones.huggingface_input import input_spec
from headstart.backbones.huggingface_model import encoder_config
from headstart.backbones.huggingface_quiet import quiet
from headstart.backbones.loading import load_backbone, restore_backbone
from headstart.errors import BadBackbone, BadSetting
from headstart.heads import Head, Pool
from headstart.modalities.image import ImageModality
from headstart.networks.network import HEAD, Batch, Optimization

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'headstart[hf]'")

from .conformance import huggingface as reference  # noqa: E402  not before it is known to be there

REAL = Path(__file__).parents[2] / "shared" / "data" / "hymenoptera"
RESIZABLE = sorted(set(reference.MODELS) - {"levit", *reference.WHOLE})
TAKES_POSITIONS = {  # families whose own models want to be told that the size is another one
    "vit", "deit", "vit_msn", "ijepa", "clip", "clip_vision_model", "metaclip_2", "siglip", "siglip_vision_model",
    "swin", "swinv2", "hiera",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small ViT that tells five classes apart. Read it, do not change it."""
    folder = tmp_path_factory.mktemp("vit")
    reference.saved(reference.model("vit"), folder, size=32)
    return folder


@pytest.fixture
def copied(vit: Path, tmp_path: Path) -> Path:
    """The same, to do with as one likes."""
    return Path(shutil.copytree(vit, tmp_path / "copied"))


def features(network: Any, size: int = 32) -> np.ndarray:
    found: np.ndarray = network.features(reference.pictures(size), network.cuts[-1])
    return found


# ---- the families


def test_every_family_that_is_taken_apart_is_checked() -> None:
    assert set(FAMILIES) <= {*reference.MODELS, "metaclip_2_vision_model"}  # the last is what metaclip_2 holds


@pytest.mark.parametrize("family", reference.MODELS)
def test_a_family_gives_the_librarys_own_answers_and_is_whole_in_a_run(family: str) -> None:
    found = reference.check(f"hf/{family}")
    assert {name for name, value in found.items() if value is False} == set(), found
    if family not in reference.WHOLE:
        assert 3 <= len(found["groups"]) <= 16
        assert found["cuts"] == len(found["groups"]) + 2


@pytest.mark.parametrize("family", RESIZABLE)
def test_another_size_gives_the_librarys_own_answers_for_it(family: str, tmp_path: Path) -> None:
    size, theirs = reference.size_of(family), reference.model(family)
    network = load_backbone(reference.saved(theirs, tmp_path, size=size), size=size + 32).build()
    said, ours = reference.theirs_and_ours(
        theirs, network, reference.pictures(size + 32), resized=family in TAKES_POSITIONS
    )
    assert reference.difference(said, ours) <= reference.ROUNDING


@pytest.mark.parametrize("family", ["vit", "clip", "siglip", "dinov3_vit", "swin", "convnext", "resnet"])
def test_the_map_is_the_librarys_last_hidden_state(family: str, tmp_path: Path) -> None:
    size, theirs = reference.size_of(family), reference.model(family)
    network = load_backbone(reference.saved(theirs, tmp_path, size=size)).build()
    images = reference.pictures(size)
    inner = getattr(theirs, "vision_model", None) or getattr(theirs, theirs.base_model_prefix, theirs)
    inner = theirs if family == "dinov3_vit" else inner
    with torch.no_grad():
        said = inner(network.native.normalise(torch.from_numpy(images).permute(0, 3, 1, 2))).last_hidden_state
    said = said.permute(0, 2, 3, 1) if said.ndim == 4 else said
    ours = network.features(images, network.cuts[-2])
    np.testing.assert_allclose(ours, said.numpy(), atol=1e-5 * float(said.abs().max()))


def test_a_wrong_pool_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.backbones import huggingface_stages

    first_token = huggingface_stages.Tokens.forward
    monkeypatch.setattr(huggingface_stages.Tokens, "forward", lambda self, tokens: first_token(self, tokens.flip(1)))
    assert not reference.check("hf/vit")["equal"]


def test_levit_does_not_keep_biases_of_before_its_training(tmp_path: Path) -> None:
    network = load_backbone(reference.saved(reference.model("levit"), tmp_path, size=64)).build()
    before = features(network, 64)
    changed = {
        key: value + 1 if key.endswith("attention_biases") and value.size > 8 else value
        for key, value in network.weights().items()
    }
    rng = np.random.default_rng(0)
    changed |= {k: rng.normal(size=v.shape).astype(v.dtype) for k, v in changed.items() if k.endswith("_biases")}
    network.load_weights(changed)
    assert not np.allclose(features(network, 64), before)


def test_a_deep_encoder_has_groups_of_several_layers(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**{**reference.MODELS["vit"][2], "num_hidden_layers": 26})
    network = load_backbone(
        reference.saved(transformers.ViTModel(config, add_pooling_layer=False), tmp_path, size=32)
    ).build()
    names = [group.name for group in network.groups]
    assert names[:2] == ["embeddings", "layers1_3"]
    assert names[-1] == "layers25_26"


def test_the_last_group_learns(vit: Path) -> None:
    network = load_backbone(f"hf/{vit}").build()
    network.set_head(Head((Pool(),)), 2, seed=0)
    network.prepare(Optimization())
    network.thaw({HEAD: 1e-2, network.groups[-1].name: 1e-3})
    batch = Batch(reference.pictures(32, 4), np.array([0, 1, 0, 1]), np.full(4, 0.25))
    losses = network.read([network.step(batch, scale=1.0, key=key) for key in range(20)])
    assert losses[-1] < 0.5 * losses[0]


# ---- pictures

PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "a ViT's": ("vit", {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}),
    "an old file's": ("vit", {"feature_extractor_type": "ViTFeatureExtractor", "size": 192, "image_mean": [0.4] * 3}),
    "DINOv2's": (
        "dinov2",
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "resample": 3,
        },
    ),
    "CLIP's": ("clip_vision_model", {"image_processor_type": "CLIPImageProcessor", "size": 224, "crop_size": 224}),
    "SigLIP's": (
        "siglip_vision_model",
        {"image_processor_type": "SiglipImageProcessor", "size": {"height": 256, "width": 256}},
    ),
    "a small ConvNeXt's": (
        "convnext",
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
    ),
    "a large ConvNeXt's": (
        "convnext",
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    ),
    "MobileViT's": ("mobilevit", {"image_processor_type": "MobileViTImageProcessor", "size": 288, "crop_size": 256}),
    "EfficientNet's": (
        "efficientnet",
        {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 224, "width": 224}},
    ),
    "LeViT's": ("levit", {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224}}),
    "PoolFormer's": (
        "poolformer",
        {"image_processor_type": "PoolFormerImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.9},
    ),
    "one that scales by itself": (
        "vit",
        {"image_processor_type": "ViTImageProcessor", "do_rescale": True, "rescale_factor": 1 / 127.5, "resample": 1},
    ),
    "plain pixels": ("vit", {"image_processor_type": "ViTImageProcessor", "do_normalize": False}),
}


def some_photos() -> list[Path]:
    if not REAL.is_dir():
        pytest.skip("no real photos beside this checkout (../shared/data)")
    return sorted(REAL.glob("*/*.jpg"))[::100]


@pytest.mark.parametrize("whose", PROCESSORS)
def test_pictures_are_those_of_the_librarys_processor(whose: str) -> None:
    """On real photos, within one and a half steps of 256 in the mean."""
    family, fields = PROCESSORS[whose]
    spec, remarks = input_spec(fields, transformers.CONFIG_MAPPING[family](), size=None, what="backbone 'hf/x'")
    assert remarks == ()
    name = fields.get("image_processor_type", "ViTImageProcessor")
    theirs = getattr(transformers, f"{name}Pil")(**fields)
    for path in some_photos():
        ours = ImageModality().decode(path.read_bytes(), spec).astype(np.float64)
        ours = ours[..., ::-1] if spec.order == "bgr" else ours
        said = np.moveaxis(theirs(Image.open(path).convert("RGB"), return_tensors="np").pixel_values[0], 0, -1)
        said = said * np.array(spec.std) + np.array(spec.mean)
        assert min(apart(ours, said, down, right) for down in (0, 1) for right in (0, 1)) < 1.5, path


def apart(ours: np.ndarray, theirs: np.ndarray, down: int, right: int) -> float:
    """The mean difference: where half a pixel is left over, one library cuts one pixel further down or right."""
    h, w, _ = ours.shape
    return float(np.abs(ours[: h - down, : w - right] - theirs[down:, right:]).mean())


def test_a_file_about_pictures_may_be_missing_and_then_a_remark_says_so(copied: Path) -> None:
    (copied / "preprocessor_config.json").unlink()
    backbone = load_backbone(f"hf/{copied}")
    assert backbone.spec.size == 32
    assert "no preprocessor_config.json" in backbone.remarks[0]


@pytest.mark.parametrize(("fields", "words"), [
    ({"size": {"height": 224, "width": 320}}, "224 x 320 pixels, and the network must get squares"),
    ({"image_processor_type": "NobodysImageProcessor"}, "'NobodysImageProcessor', which is not known here"),
    ({"image_mean": [0.5]}, "not one number for each of three colours"),
])  # fmt: skip
def test_pictures_that_no_network_here_can_take_are_refused(fields: dict[str, Any], words: str, copied: Path) -> None:
    path = copied / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(BadBackbone, match=words):
        load_backbone(f"hf/{copied}")


# ---- weights


def test_a_classifier_or_a_text_tower_in_the_file_is_left_out(tmp_path: Path) -> None:
    theirs = reference.model("clip")
    with quiet():
        dual = transformers.CLIPModel(theirs.config)
    dual.vision_model.load_state_dict(theirs.vision_model.state_dict())
    ours = load_backbone(reference.saved(dual, tmp_path / "dual", size=32)).build()
    alone = load_backbone(reference.saved(theirs, tmp_path / "alone", size=32)).build()
    np.testing.assert_array_equal(features(ours), features(alone))
    assert not any("text" in name for name in ours.weights())


def test_weights_in_several_files_are_those_in_one(vit: Path, copied: Path) -> None:
    whole = copied / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, copied / file)
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()
    np.testing.assert_array_equal(
        features(load_backbone(f"hf/{copied}").build()), features(load_backbone(f"hf/{vit}").build())
    )
    (copied / "model-2.safetensors").unlink()
    with pytest.raises(BadBackbone, match=r"incomplete: model-2\.safetensors"):
        load_backbone(f"hf/{copied}")


def test_weights_of_ones_own_are_taken_for_a_known_configuration(copied: Path, tmp_path: Path) -> None:
    own = reference.model("vit", seed=5)
    save_file({name: tensor.contiguous() for name, tensor in own.state_dict().items()}, tmp_path / "own.safetensors")
    (copied / "model.safetensors").unlink()
    backbone = load_backbone(f"hf/{copied}", weights=tmp_path / "own.safetensors")
    assert backbone.weights_hash == hashlib.sha256((tmp_path / "own.safetensors").read_bytes()).hexdigest()
    network = backbone.build()
    said, ours = reference.theirs_and_ours(own, network, reference.pictures(32))
    assert reference.difference(said, ours) <= reference.ROUNDING


def test_half_precision_weights_become_single_precision(copied: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(copied / "model.safetensors").items()}
    save_file(tensors, copied / "model.safetensors")
    config = json.loads((copied / "config.json").read_text()) | {"dtype": "float16"}
    (copied / "config.json").write_text(json.dumps(config))
    weights = load_backbone(f"hf/{copied}").build().weights()
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}


DAMAGES = {
    "a missing tensor": r"do not fit its config\.json: 'layers\.1\.mlp\.fc1\.bias' is missing",
    "another shape": r"'layernorm\.bias' is 7 instead of 32",
    "one too many": r"'.*layers\.0\.bogus' is not in the network",
    "not a number": r"'layernorm\.bias' is not finite",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_do_not_fit_are_one_sentence(damage: str, copied: Path) -> None:
    path = copied / "model.safetensors"
    tensors = load_file(path)
    bias = next(name for name in tensors if name.endswith("layernorm.bias"))
    if damage == "a missing tensor":
        del tensors[
            next(name for name in tensors if "layer.1.intermediate.dense.bias" in name or "1.mlp.fc1.bias" in name)
        ]
    elif damage == "another shape":
        tensors[bias] = torch.zeros(7)
    elif damage == "one too many":
        tensors["vit.encoder.layer.0.bogus"] = torch.zeros(3)
    else:
        tensors[bias] = torch.full_like(tensors[bias], float("nan"))
    save_file(tensors, path)
    with pytest.raises(BadBackbone, match=DAMAGES[damage]):
        load_backbone(f"hf/{copied}").build()


def test_half_a_file_is_refused(copied: Path) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadBackbone, match=r"model\.safetensors"):
        load_backbone(f"hf/{copied}").build()


def test_a_pickle_is_never_read(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(BadBackbone, match=r"pytorch_model\.bin alone, a pickle, which could run code"):
        load_backbone(f"hf/{copied}")
    with pytest.raises(BadBackbone, match="are not safetensors"):
        load_backbone(f"hf/{copied}", weights=copied / "pytorch_model.bin")


def test_weights_from_nowhere_are_the_same_each_time(vit: Path) -> None:
    one, other = (load(str(vit), Wanted(blank=True)) for _ in range(2))
    assert one.weights_hash == f"none/hf/{vit}/0"
    np.testing.assert_array_equal(features(one.build()), features(other.build()))


# ---- what is refused


def changed(folder: Path, **fields: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return f"hf/{folder}"


def test_code_that_a_model_brings_along_is_never_run(copied: Path) -> None:
    (copied / "modeling_evil.py").write_text("raise SystemExit('ran')")
    auto_map = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.EvilConfig"}
    network = load_backbone(changed(copied, auto_map=auto_map)).build()  # of a known type: transformers' own code
    assert len(network.groups) == 4
    with pytest.raises(BadBackbone, match="brings code of its own for its type 'evil', which is never run"):
        load_backbone(changed(copied, model_type="evil"))


def test_an_attention_that_would_be_fetched_from_the_hub_is_not(copied: Path) -> None:
    ways = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "_experts_implementation")
    named = dict.fromkeys(ways, "somebody/kernels")
    config = encoder_config(json.loads((copied / "config.json").read_text()) | named, "it")
    assert "somebody" not in str(vars(config))
    backbone = load_backbone(changed(copied, **named))
    assert "somebody" not in json.dumps(dict(backbone.about))
    assert np.isfinite(features(backbone.build())).all()


@pytest.mark.parametrize(("fields", "words"), [
    ({"model_type": "detr", "backbone": "resnet50"}, "of type 'detr', which is no encoder of single pictures"),
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, "are quantised"),
    ({"model_type": "bert"}, r"of type 'bert', which is no encoder of single pictures\n.*convnext"),
    ({"model_type": "vit_mae"}, "it hides parts of a picture at random"),
    ({"model_type": "perhaps-tomorrow"}, r"which transformers [\d.]+ does not know"),
    ({"model_type": "timm_wrapper", "architecture": "resnet18"}, r"a model of timm\n.*timm/resnet18"),
    ({"num_attention_heads": 5}, "cannot be built|not fit"),
    ({"hidden_size": "wide"}, "the config.json of .* does not fit: Validation error for field 'hidden_size'"),
])  # fmt: skip
def test_a_configuration_that_is_no_image_encoders_is_refused(fields: dict[str, Any], words: str, copied: Path) -> None:
    with pytest.raises(BadBackbone, match=words):
        load_backbone(changed(copied, **fields)).build()


def test_what_is_not_there_or_no_model_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.bin").touch()
    with pytest.raises(BadBackbone, match=r"there is no folder './nowhere'"):
        load_backbone("hf/./nowhere")
    with pytest.raises(BadBackbone, match=r"holds no config\.json"):
        load_backbone("hf/./empty")
    with pytest.raises(BadBackbone, match=r"is a file\n.*: hf/\."):
        load_backbone("hf/./file.bin")
    with pytest.raises(BadBackbone, match="is no name on the Hugging Face Hub"):
        load_backbone("hf/not a name")


def test_a_size_or_a_cut_that_cannot_be_is_refused(tmp_path: Path, vit: Path) -> None:
    name = reference.saved(reference.model("levit"), tmp_path, size=64)
    with pytest.raises(BadBackbone, match="cannot take pictures of 96 x 96 pixels"):
        load_backbone(name, size=96).build()
    with pytest.raises(BadSetting, match="no top to cut"):
        load_backbone(f"hf/{vit}", cut="layer1")
    with pytest.raises(BadSetting, match="PyTorch, not on jax"):
        load_backbone(f"hf/{vit}", framework="jax")


def test_without_transformers_the_way_to_install_it_is_said(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.backbones import huggingface

    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    with pytest.raises(BadBackbone, match=r"needs transformers, which is not installed\n.*headstart\[hf\]"):
        load_backbone(f"hf/{vit}")
    with pytest.raises(BadBackbone, match=r"headstart\[hf\]"):
        restore_backbone({"name": "hf/a/b", "size": 32, "about": {}})


def test_transformers_says_nothing_and_is_left_as_it_was(vit: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    load_backbone(f"hf/{vit}").build()
    assert capfd.readouterr() == ("", "")
    assert (transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()) == before


# ---- the Hub


class Hub:
    """While open, a server that answers as the Hub does, for the models in these folders."""

    commit = "c0ffee" + "0" * 34

    def __init__(self, repositories: dict[str, Path], gated: tuple[str, ...] = ()) -> None:
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Answers, repositories=repositories, gated=gated, asked=self.asked)
        )
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Hub:
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Answers(BaseHTTPRequestHandler):
    def __init__(
        self, *args: Any, repositories: dict[str, Path], gated: tuple[str, ...], asked: list[str], **kwargs: Any
    ) -> None:
        self.repositories, self.gated, self.asked = repositories, gated, asked
        super().__init__(*args, **kwargs)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        self.asked.append(name)
        file = self.repositories.get(repository, Path()) / name
        if repository not in self.repositories:
            return self.refuse(401 if "private" in repository else 404, "RepoNotFound")
        if repository in self.gated:
            return self.refuse(403, "GatedRepo")
        if revision not in ("main", Hub.commit):
            return self.refuse(404, "RevisionNotFound")
        if not file.is_file():
            return self.refuse(404, "EntryNotFound")
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", Hub.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def refuse(self, code: int, reason: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.send_header("X-Repo-Commit", Hub.commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(vit: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pickled = Path(shutil.copytree(vit, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (copied / "README.md").write_text("not wanted")
    with Hub({"some/vit": copied, "some/gated": vit, "some/pickled": pickled}, gated=("some/gated",)) as opened:
        monkeypatch.setenv("HF_ENDPOINT", opened.address)
        yield opened


def test_a_model_on_the_hub_is_downloaded_once_and_then_taken_from_the_cache(
    hub: Hub, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int | None]] = []
    backbone = load_backbone("hf/some/vit", on_progress=lambda done, total: told.append((done, total)))
    size = (copied / "model.safetensors").stat().st_size
    assert told[-1] == (size, size)
    assert backbone.about["revision"] == Hub.commit
    assert set(hub.asked) - {""} == {"config.json", "preprocessor_config.json", "model.safetensors"}
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = load_backbone("hf/some/vit")
    assert hub.asked == []
    assert again.weights_hash == hashlib.sha256((copied / "model.safetensors").read_bytes()).hexdigest()
    np.testing.assert_array_equal(features(again.build()), features(backbone.build()))


def test_a_file_in_the_cache_that_is_not_the_hubs_is_refused(hub: Hub) -> None:
    load_backbone("hf/some/vit")
    [weights] = (Path(os.environ["HF_HOME"]) / "hub").rglob("model.safetensors")
    blob = weights.resolve()
    blob.write_bytes(blob.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(BadBackbone, match=r"are damaged: sha256 .*\n.*remove"):
        load_backbone("hf/some/vit")


def test_configuration_alone_is_fetched_where_weights_are_not_wanted(hub: Hub) -> None:
    load("some/vit", Wanted(blank=True))
    assert "model.safetensors" not in hub.asked


@pytest.mark.parametrize(("name", "words"), [
    ("some/gated", r"is gated: its owners want you to agree(.|\n)*hf auth login"),
    ("some/other", r"'some/other' is not on the Hugging Face Hub, or is private"),
    ("some/vit@v9", "'some/vit' has no revision 'v9'"),
    ("some/pickled", r"holds its weights as pytorch_model\.bin alone"),
])  # fmt: skip
def test_what_the_hub_refuses_is_one_sentence(name: str, words: str, hub: Hub) -> None:
    with pytest.raises(BadBackbone, match=words):
        load_backbone(f"hf/{name}")


def test_without_a_network_repository_files_and_way_out_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        BadBackbone, match=r"config\.json of 'some/vit' cannot be downloaded from http.* into (.|\n)*hf/\./FOLDER"
    ):
        load_backbone("hf/some/vit")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = r"model\.safetensors of 'some/vit' at 'main' are not in '.*hub', and HF_HUB_OFFLINE is set"
    with pytest.raises(BadBackbone, match=words):
        load_backbone("hf/some/vit")


def test_the_catalogue_says_what_is_in_the_cache(vit: Path) -> None:
    first = catalogue()[0]
    assert not any(entry.available for entry in catalogue())
    place = Path(os.environ["HF_HOME"]) / "hub" / f"models--{first.name.replace('/', '--')}"
    shutil.copytree(vit, place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    assert [entry.name for entry in catalogue() if entry.available] == [first.name]


# ---- all of it


def test_a_run_answers_when_the_folder_is_gone(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL.is_dir():
        pytest.skip("no real photos beside this checkout (../shared/data)")
    monkeypatch.chdir(tmp_path)
    for kind in ("ants", "bees"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for path in sorted((REAL / kind).glob("*.jpg"))[:20]:
            shutil.copy(path, tmp_path / "photos" / kind)
    assert cli.run(["train", "photos", "--backbone", f"hf/{copied}", "--quality", "fast", "--out", "run"]) == 0
    assert cli.run(["predict", "run", "photos/ants", "--json"]) == 0
    shutil.rmtree(copied)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.run(["predict", "run", "photos/ants", "--json"]) == 0
