"""An earlier run as the backbone of a new one: pre-train, adapt, and the old folder may go; and from scratch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import headstart
from headstart.backbones import run as source
from headstart.backbones.loading import list_backbones, load_backbone, restore_backbone
from headstart.errors import BadBackbone, HeadstartError
from headstart.networks.keras_backend import engines
from headstart.runs import Run

FACTORY = """
from torch import nn


def make(size=32):
    layers = []
    for taken, given in ((3, 16), (16, 32), (32, 64)):
        layers.append(nn.Sequential(nn.Conv2d(taken, given, 3, 2, 1), nn.BatchNorm2d(given), nn.ReLU()))
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
"""


BIG = ("disc", "ring", "square", "frame", "cross", "stripes")
SMALL = ("saltire", "rungs", "cross")


def shape(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A shape in any colour, at any place, on any ground: what it is shows in its outline alone."""
    y, x = np.mgrid[:40, :40] - rng.integers(14, 26, 2)[:, None, None]
    r = int(rng.integers(7, 11))
    inside = {
        "disc": x**2 + y**2 < r**2,
        "ring": (x**2 + y**2 < r**2) & (x**2 + y**2 > (r - 3) ** 2),
        "square": np.maximum(abs(x), abs(y)) < r,
        "frame": (np.maximum(abs(x), abs(y)) < r) & (np.maximum(abs(x), abs(y)) > r - 3),
        "cross": (np.minimum(abs(x), abs(y)) < 3) & (np.maximum(abs(x), abs(y)) < r),
        "stripes": (np.maximum(abs(x), abs(y)) < r) & (x % 5 < 2),
        "saltire": (abs(abs(x) - abs(y)) < 3) & (np.maximum(abs(x), abs(y)) < r),
        "rungs": (np.maximum(abs(x), abs(y)) < r) & (y % 5 < 2),
    }[kind]
    colours = rng.integers(0, 256, (2, 3))
    while abs(colours[0].astype(int) - colours[1]).sum() < 200:
        colours = rng.integers(0, 256, (2, 3))
    return (colours[inside.astype(int)] + rng.normal(0, 8, (40, 40, 3))).clip(0, 255).astype(np.uint8)


def drawn(folder: Path, kinds: tuple[str, ...], each: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for number in range(each):
            Image.fromarray(shape(kind, rng)).save(folder / kind / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two-commands")


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HEADSTART_CACHE", str(place / "cache"))


@pytest.fixture(scope="module")
def pretrained(place: Path) -> Run:
    """The first command: a network of one's own, from scratch; here for hardly long enough to learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HEADSTART_CACHE", str(place / "cache"))
        (place / "own.py").write_text(FACTORY)
        big = drawn(place / "big", BIG, 12, seed=1)
        return headstart.train(
            big, backbone="file", factory="own.py:make", weights="none", epochs=2, lr=3e-3, out="runs/pre"
        )


@pytest.fixture(scope="module")
def adapted(place: Path, pretrained: Run) -> Run:
    """The second: the exact head on what was learnt there, for other classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HEADSTART_CACHE", str(place / "cache"))
        drawn(place / "small", SMALL, 12, seed=2)
        return headstart.train("small", backbone="run/runs/pre", quality="fast", out="runs/adapted")


def chosen(run: Run) -> float:
    """The cross-validated accuracy: of more photos than the few that test."""
    assert run.evaluation.validation is not None
    return run.evaluation.validation.accuracy


@pytest.mark.slow
def test_pretraining_on_many_photos_pays_on_few(place: Path) -> None:
    (place / "own.py").write_text(FACTORY)
    drawn(place / "many", BIG, 120, seed=1)
    drawn(place / "few", SMALL, 30, seed=2)
    own: dict[str, Any] = {"backbone": "file", "factory": "own.py:make"}
    headstart.train("many", **own, weights="none", epochs=15, lr=3e-3, out="runs/many")
    learnt = headstart.train("few", backbone="run/runs/many", quality="fast", out="runs/learnt")
    random = headstart.train("few", **own, quality="fast", out="runs/random")
    assert chosen(learnt) > chosen(random) + 0.1, "pre-trained features are no better than random ones"


def test_training_from_scratch_moves_every_group_and_the_statistics(pretrained: Run) -> None:
    began = load_backbone("file", factory="own.py:make", weights="none").build()
    before, after = began.weights(), pretrained.model()
    still = [name for group in began.groups for name in group.parameters if np.array_equal(before[name], after[name])]
    assert pretrained.settings.from_scratch
    assert still == []
    means = [name for name in before if name.endswith("running_mean")]
    assert means
    assert not any(np.array_equal(before[name], after[name]) for name in means)


def test_the_backbone_is_what_the_run_ended_with(pretrained: Run) -> None:
    backbone = load_backbone("run/runs/pre")
    ended = pretrained.model()
    for name, value in backbone.build().weights().items():
        assert np.array_equal(value, ended[name]), name
    began = load_backbone("file", factory="own.py:make", weights="none")
    assert backbone.weights_hash != began.weights_hash
    assert backbone.spec == began.spec
    assert [group.name for group in backbone.build().groups] == [group.name for group in began.build().groups]


def test_the_old_run_may_go_once_the_new_one_is_finished(adapted: Run, tmp_path: Path) -> None:
    photo = sorted(Path("small/rungs").iterdir())[:2]
    before = [answer.probabilities for answer in headstart.predict(adapted, photo)]
    shutil.move("runs/pre", tmp_path / "pre")
    try:
        assert [answer.probabilities for answer in headstart.predict(adapted, photo)] == before
    finally:
        shutil.move(tmp_path / "pre", "runs/pre")


def test_a_run_of_a_run_keeps_the_first_backbone_and_not_a_chain(adapted: Run) -> None:
    third = load_backbone("run/runs/adapted")
    origin = third.about["origin"]
    assert origin["name"] == "file/own.py:make"
    assert "origin" not in origin["about"]
    identity = {"name": third.name, "size": third.spec.size, "about": json.loads(json.dumps(dict(third.about)))}
    assert restore_backbone(identity).build().weights().keys() == third.build().weights().keys()


def test_finished_runs_are_listed_and_found_by_their_folder(adapted: Run) -> None:
    [entry] = [entry for entry in list_backbones("run/") if entry.name == "run/runs/adapted"]
    assert (entry.size, entry.width, entry.available) == (32, 64, True)
    assert "3 classes" in entry.note
    assert load_backbone("runs/adapted").name == "run/runs/adapted"


def test_what_is_no_run_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapted: Run) -> None:
    shutil.copytree(adapted.path, tmp_path / "runs" / "unfinished")
    (tmp_path / "runs" / "unfinished" / "INCOMPLETE").write_text("")
    shutil.copytree(adapted.path, tmp_path / "runs" / "damaged")
    (tmp_path / "runs" / "damaged" / "backbone.json").write_text("{")
    shutil.copytree(adapted.path, tmp_path / "runs" / "cut")
    (tmp_path / "runs" / "cut" / "model.safetensors").write_bytes(b"\xff" * 12)
    (tmp_path / "runs" / "a-file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert source.catalogue() == ()


def test_a_resumed_run_has_to_find_the_run_that_it_began_with_unchanged(adapted: Run, tmp_path: Path) -> None:
    stopped = Path(shutil.copytree(adapted.path, tmp_path / "stopped"))
    (stopped / "INCOMPLETE").write_text("")
    finished = headstart.resume(stopped)
    assert finished.evaluation.to_json() == adapted.evaluation.to_json()


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "absent": ("run/runs/adaptedd", {}, r"does not exist\nhint: did you mean 'runs/adapted'"),
    "no name": ("run/", {}, r"no run is named after run/\nhint: .*there: .*runs/"),
    "no run": ("run/small", {}, r"run 'small' is not a run folder"),
    "another size": (
        "run/runs/adapted",
        {"size": 64},
        r"32 pixels and no others\nhint: leave the size out",
    ),
    "no weights": ("run/runs/adapted", {"weights": "none"}, r"is wanted for its weights"),
    "other weights": ("run/runs/adapted", {"weights": "x.pth"}, r"is wanted for its weights"),
    "a cut": ("run/runs/adapted", {"cut": "x"}, r"no top to cut"),
    "a factory": ("run/runs/adapted", {"factory": "own.py:make"}, r"made without a factory"),
    "another framework": ("run/runs/adapted", {"framework": "jax"}, r"has a backbone of PyTorch"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_refused_with_the_way_out(case: str, adapted: Run) -> None:
    name, wanted, said = CASES[case]
    with pytest.raises(HeadstartError, match=said) as caught:
        load_backbone(name, **wanted)
    assert "\n" not in caught.value.what


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    identity = json.loads((folder / "backbone.json").read_text())
    change(identity)
    (folder / "backbone.json").write_text(json.dumps(identity))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unfinished": (lambda f: (f / "INCOMPLETE").write_text(""), r"is not finished\nhint: .*headstart resume"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"no weights that can be read"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 99), r"no weights that can be read"),
    "no json": (lambda f: (f / "backbone.json").write_text("{oh"), r"damaged backbone.json"),
    "a list": (lambda f: (f / "backbone.json").write_text("[]"), r"damaged backbone.json"),
    "nothing said": (lambda f: changed(f, dict.clear), r"does not say what its backbone is"),
    "a run for ever": (lambda f: changed(f, lambda i: i["about"].update(origin={"name": "run/x"})), r"does not say"),
    "another backbone": (
        lambda f: changed(f, lambda i: i["about"]["origin"].update(name="bundled/efficientnet_lite0", size=224)),
        r"do not fit bundled/efficientnet_lite0|does not",
    ),
    "a path": (lambda f: changed(f, lambda i: i["about"]["origin"].update(name="file/../../etc/x", about={})), r"not"),
    "a name that is none": (lambda f: changed(f, lambda i: i["about"]["origin"].update(name="magic/x")), r"not known"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_hostile_run_is_refused(damage: str, adapted: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapted.path, tmp_path / "bad"))
    spoil, said = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(BadBackbone, match=said) as caught:
        load_backbone(f"run/{folder}").build()
    assert "\n" not in caught.value.what
    assert caught.value.fix


def test_a_run_that_changes_while_it_is_used_is_noticed(adapted: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapted.path, tmp_path / "moving"))
    backbone = load_backbone(f"run/{folder}")
    weights = load_file(folder / "model.safetensors")
    next(value for name, value in weights.items() if name.startswith("backbone."))[...] = 1
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadBackbone, match="has changed while it was used"):
        backbone.build()


# ---- weights none


def test_the_bundled_network_from_scratch_is_random_and_the_same_each_time() -> None:
    blank, published = load_backbone("bundled", weights="none", size=64), load_backbone("bundled", size=64)
    assert blank.weights_hash == "none/bundled/efficientnet_lite0/0"
    first, again, trained = blank.build().weights(), blank.build().weights(), published.build().weights()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    kernels = [name for name in first if first[name].ndim == 4]
    assert not any(np.array_equal(first[name], trained[name]) for name in kernels)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    network = blank.build()
    given = network.features(pixels, network.cuts[-1])
    assert np.isfinite(given).all()
    assert given.std() > 0


def test_own_weights_of_the_bundled_network_are_taken_as_safetensors(tmp_path: Path) -> None:
    from headstart.backbones.efficientnet_lite import blank

    own = {name: tensor.numpy() for name, tensor in blank("efficientnet_lite0", seed=7).state_dict().items()}
    save_file(own, tmp_path / "mine.safetensors")
    backbone = load_backbone("bundled", weights=tmp_path / "mine.safetensors", size=64)
    [kernel] = [v for n, v in backbone.build().weights().items() if n.endswith("stem.conv.weight")]
    assert np.array_equal(kernel, own["stem.conv.weight"])
    save_file({"stem.conv.weight": own["stem.conv.weight"]}, tmp_path / "part.safetensors")
    with pytest.raises(BadBackbone, match=r"part.safetensors' do not fit the network: .* is missing"):
        load_backbone("bundled", weights=tmp_path / "part.safetensors")


@pytest.mark.skipif(not engines(), reason="no engine of Keras is installed")
def test_a_keras_network_from_scratch_is_drawn_as_keras_draws_and_the_same_each_time() -> None:
    import keras

    from headstart.backbones.keras_blank import _drawn

    blank = load_backbone("keras/mobilenetv2_0.35", weights="none", size=32)
    assert blank.weights_hash == "none/keras/mobilenetv2_0.35/0"
    first, again = blank.build().weights(), blank.build().weights()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(value.ndim == 4 and value.std() > 0 for value in first.values())
    rng = np.random.default_rng(0)
    for own in (
        keras.initializers.GlorotUniform(seed=1),
        keras.initializers.HeNormal(seed=1),
        keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal", seed=1),
        keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal", seed=1),
    ):
        ours, keras_own = _drawn(rng, own, (3, 3, 32, 64)), np.array(own((3, 3, 32, 64)))
        assert ours.std() == pytest.approx(keras_own.std(), rel=0.03)
        assert abs(ours).max() == pytest.approx(abs(keras_own).max(), rel=0.2)


def test_a_file_called_none_is_named_by_its_folder() -> None:
    with pytest.raises(BadBackbone, match="weights 'none' cannot be read"):
        load_backbone("bundled", weights="./none")
