"""KerasHub's presets as backbones: scaled as their converters say, and refused clearly where KerasHub is missing."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.backbones import kerashub
from headstart.backbones.backbone import Wanted
from headstart.backbones.loading import load_backbone, restore_backbone
from headstart.errors import BadBackbone, BadSetting
from headstart.networks import keras_backend

needs_it = pytest.mark.skipif(find_spec("keras_hub") is None, reason="KerasHub is not installed")


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VGG of KerasHub with weights that nobody trained, as a folder."""
    keras_backend.choose()
    import keras_hub

    folder = tmp_path_factory.mktemp("presets") / "vgg_small"
    backbone = keras_hub.models.VGGBackbone(
        stackwise_num_repeats=[1, 1], stackwise_num_filters=[4, 8], image_shape=(None, None, 3)
    )
    backbone.save_to_preset(str(folder))
    converter = keras_hub.layers.VGGImageConverter(
        image_size=(32, 32), scale=[0.02, 0.018, 0.017], offset=[-2.0, -1.9, -1.8], interpolation="bicubic"
    )
    converter.save_to_preset(str(folder))
    return folder


@needs_it
def test_a_preset_gives_what_kerashub_gives_for_the_same_pixels(preset: Path) -> None:
    import keras_hub

    backbone = load_backbone(f"kerashub/{preset}")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    converter = keras_hub.layers.ImageConverter.from_preset(str(preset))
    own: Any = keras_hub.models.Backbone.from_preset(str(preset))(converter(pixels.astype(np.float32)))
    network = backbone.build()
    features = network.features(pixels, next(cut for cut in network.cuts if cut.name == "map"))
    assert (backbone.spec.size, backbone.spec.interpolation) == (32, "bicubic")
    np.testing.assert_allclose(features, np.asarray(own), rtol=1e-4, atol=1e-5)


@needs_it
def test_a_run_gives_the_same_features_without_the_preset(preset: Path) -> None:
    backbone = load_backbone(f"kerashub/{preset}", size=64)
    kept = json.loads(json.dumps({"name": backbone.name, "size": 64, "about": dict(backbone.about)}))
    network = restore_backbone(kept).build()
    network.load_weights(backbone.build().weights())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    last = next(cut for cut in network.cuts if cut.name == "map")
    assert network.features(pixels, last).tobytes() == backbone.build().features(pixels, last).tobytes()


@needs_it
def test_a_preset_without_a_converter_says_that_its_scaling_is_unknown(preset: Path, tmp_path: Path) -> None:
    for file in preset.iterdir():
        if file.name != "image_converter.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    backbone = load_backbone(f"kerashub/{tmp_path}")
    assert "says nothing about scaling" in backbone.remarks[0]
    assert (backbone.spec.size, backbone.spec.std) == (224, (1.0,) * 3)


@needs_it
def test_a_preset_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBackbone, match="cannot be loaded by KerasHub"):
        load_backbone(f"kerashub/{tmp_path}/none")


def test_without_kerashub_its_backbones_are_refused_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kerashub, "find_spec", lambda name: None)
    with pytest.raises(BadBackbone, match=r"needs KerasHub(.|\n)*pip install 'headstart\[kerashub\]'"):
        load_backbone("kerashub/resnet_50_imagenet")
    with pytest.raises(BadBackbone, match="no preset of KerasHub is named"):
        load_backbone("kerashub")


def test_a_cut_has_no_place_in_a_preset() -> None:
    with pytest.raises(BadSetting, match="no top to cut"):
        kerashub.load("resnet_50_imagenet", Wanted(cut="conv1"))
