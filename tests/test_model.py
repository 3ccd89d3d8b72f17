"""Transfer learning in steps, on real photos where they are at hand and on drawn ones elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import headstart as hs
from headstart.events import EpochEnded, Progress, StageEnded
from headstart.training.sources import entry

REAL = Path(__file__).parents[2] / "shared" / "data" / "hymenoptera"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone() -> object:
    return hs.load_backbone("bundled", size=96)


@pytest.fixture
def data(drawn_photos: Path) -> object:
    return hs.load_dataset(drawn_photos)


def test_head_then_last_group_then_native(data, backbone) -> None:
    model = hs.Model(backbone, head=hs.heads.mlp(32, dropout=0.2), classes=data.classes)
    model.fit(data, hs.Stage(epochs=6, lr=3e-3))
    assert model.evaluate(data.test).accuracy >= 0.8
    before = {key: value.clone() for key, value in model.native.state_dict().items()}
    model.fit(data, hs.Stage(unfreeze=1, epochs=1, lr=1e-4))
    moved = {key for key, value in model.native.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[1] for key in moved if key.startswith("backbone")} == {"top"}
    assert not any("running" in key for key in moved)
    assert isinstance(model.native, torch.nn.Module)
    assert [event.stage for event in model.history] == ["head"] * 6 + ["unfreeze-1"]


def test_the_native_module_gives_the_models_probabilities_from_raw_pixels(data, backbone) -> None:
    model = hs.Model(backbone, classes=data.classes).fit(data)
    path = data.test.paths[0]
    pixels = model.modality.decode(path.read_bytes(), backbone.spec)
    with torch.inference_mode():
        logits = model.native(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
    np.testing.assert_allclose(torch.softmax(logits, 1)[0].numpy(), model.predict([path])[0], atol=1e-5)


def test_a_linear_head_without_a_stage_is_solved_exactly(data, backbone) -> None:
    model = hs.Model(backbone, classes=data.classes).fit(data)
    assert model.evaluate(data.test).accuracy >= 0.8
    assert not model.history, "it was trained by steps"


@pytest.mark.skipif(not REAL.exists(), reason="the real photos are not at hand")
def test_a_solved_head_tells_ants_from_bees(backbone) -> None:
    data = hs.load_dataset(REAL)
    model = hs.Model(backbone, classes=data.classes).fit(data)
    assert model.evaluate(data.test).accuracy > 0.7  # at 96 pixels; 0.95 at the backbone's own 224


def test_a_second_fit_reads_the_features_of_the_first(data, backbone) -> None:
    hs.Model(backbone, classes=data.classes).fit(data)
    seen: list[Progress] = []
    hs.Model(backbone, classes=data.classes).fit(data, on_event=lambda e: seen.append(e))
    assert [(event.done, event.total) for event in seen if isinstance(event, Progress)] == [(len(data.train),) * 2]


def test_what_has_been_trained_is_never_read_from_the_cache_of_the_pre_trained(data, backbone) -> None:
    model = hs.Model(backbone, head="dense(8)", classes=data.classes)
    network, pooled = model.network, model.network.cuts[-1]
    assert entry(network, hs.Stage(epochs=1, lr=1e-3), pooled) == pooled
    assert entry(network, hs.Stage(epochs=1, lr=1e-3, unfreeze=2), pooled).name == "block6"
    model.fit(data, hs.Stage(epochs=1, lr=1e-3, unfreeze=3, views=2))
    assert entry(network, hs.Stage(epochs=1, lr=1e-3), pooled).name == "block5"
    assert entry(network, hs.Stage(epochs=1, lr=1e-3, unfreeze=9), pooled).name == "input"


def test_cached_views_train_like_the_same_views_from_the_input(data, backbone) -> None:
    """Starting at the freeze boundary changes nothing but rounding, which an optimizer makes much of here and there."""
    results = [backbone.build().weights()]
    for views in (0, 1):
        model = hs.Model(backbone, head="dense(8)", classes=data.classes)
        model.fit(data, hs.Stage(epochs=1, lr=1e-3, unfreeze=2, augment=False, views=views))
        results.append(model.network.weights())
    began, fresh, cached = ({key: w[key] for key in results[0] if key.startswith("backbone.")} for w in results)
    way = sum(float(np.abs(fresh[key] - began[key]).sum()) for key in began)
    apart = sum(float(np.abs(fresh[key] - cached[key]).sum()) for key in began)
    assert 0 < apart < 0.01 * way  # 0.0008 was measured


def test_the_stage_tells_what_it_kept(data, backbone) -> None:
    events: list[object] = []
    model = hs.Model(backbone, head="dense(8)", classes=data.classes)
    model.fit(data, hs.Stage(epochs=3, lr=1e-3), on_event=events.append)
    ended = [event for event in events if isinstance(event, StageEnded)]
    assert len(ended) == 1
    assert ended[0].epochs == 3 == sum(isinstance(event, EpochEnded) for event in events)


def test_other_classes_are_refused(data, backbone) -> None:
    model = hs.Model(backbone, classes=data.classes[::-1])
    with pytest.raises(hs.HeadstartError, match="has the classes brick, grass, water, the model water, grass, brick"):
        model.fit(data)


def test_too_many_groups_are_refused(data, backbone) -> None:
    model = hs.Model(backbone, classes=data.classes)
    with pytest.raises(hs.HeadstartError, match="unfreezes 10 groups, but the backbone has 9"):
        model.fit(data, hs.Stage(unfreeze=10, epochs=1, lr=1e-3))
