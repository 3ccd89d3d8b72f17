"""A user's own PyTorch network, from a factory or a program; and that code runs at the user's own word only."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import headstart
from headstart.backbones.backbone import Backbone
from headstart.backbones.exported import Program
from headstart.backbones.loading import load_backbone, restore_backbone
from headstart.config import Settings
from headstart.errors import BadBackbone, BadRun, BadSetting, HeadstartError
from headstart.heads import Head
from headstart.networks.network import Network
from headstart.runs import Run

SOURCE = '''
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, taken, given):
        super().__init__()
        self.conv = nn.Conv2d(taken, given, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(given)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 8), Block(8, 16), Block(16, 24))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(24, num_classes)

    def forward(self, x):
        return self.fc(self.drop(self.pool(self.blocks(x)).flatten(1)))


class Tokens(nn.Module):
    """A class token, positions, attention: everything that hangs on the length of the batch."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        n = x.shape[0]
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(n, -1, -1), tokens], 1) + self.positions
        tokens = tokens + torch.zeros(n, 1, 16, device=x.device) + torch.arange(16)
        return self.head(self.layers(tokens)[:, 0]).softmax(-1)


def make(num_classes=10, size=32):
    return Net(num_classes)


def tokens():
    return Tokens()


def grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2))


def breaks():
    raise RuntimeError("the disk with my layers is gone")


def wants(depth):
    return Net(depth)


def gives_text():
    return "resnet"


class Chooses(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def chooses():
    return Chooses()
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's file of Python, weights for it, and what torch.export wrote of it."""
    home = tmp_path_factory.mktemp("own")
    (home / "own_net.py").write_text(SOURCE)
    net = made(home)
    save_file(net.state_dict(), home / "net.safetensors")
    said = {"headstart.size": "32", "headstart.mean": "[0.5, 0.5, 0.5]", "headstart.std": "[0.25, 0.25, 0.25]"}
    save_file(net.state_dict(), home / "said.safetensors", said)
    torch.save(net.state_dict(), home / "net.pth")
    torch.save(net, home / "whole.pth")
    export(net.eval(), home / "net.pt2")
    export(net, home / "fixed.pt2", dynamic=False)
    export(net.train(), home / "training.pt2")
    return home


def made(home: Path) -> nn.Module:
    """The user's network with seven classes and statistics that are not the first ones."""
    namespace: dict[str, Any] = {"__name__": "own_net"}
    sys.modules.setdefault("own_net", type(sys)("own_net"))
    exec(SOURCE, namespace)
    vars(sys.modules["own_net"]).update(namespace)  # a module is pickled by its name there
    torch.manual_seed(3)
    net: nn.Module = namespace["make"](7)
    for norm in (layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, 0, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return net


def export(net: nn.Module, path: Path, *, dynamic: bool = True) -> None:
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    torch.export.save(torch.export.export(net, (torch.randn(2, 3, 32, 32),), dynamic_shapes=shapes), path)


@pytest.fixture(autouse=True)
def own_place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def refusal(kind: type[HeadstartError], name: str, **wanted: Any) -> str:
    with pytest.raises(kind) as caught:
        load_backbone(name, **wanted)
    assert caught.value.fix
    assert "\n" not in caught.value.what
    return str(caught.value)


def pictures(backbone: Backbone, n: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, backbone.spec.size, backbone.spec.size, 3), dtype=np.uint8)


def expected(home: Path, backbone: Backbone, inputs: np.ndarray) -> np.ndarray:
    """The features by the user's own code."""
    mean, std = np.array(backbone.spec.mean, np.float32), np.array(backbone.spec.std, np.float32)
    normal = torch.from_numpy(((inputs - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    net = made(home).eval()
    with torch.no_grad():
        return net.get_submodule("blocks")(normal).permute(0, 2, 3, 1).numpy()


def features(network: Network, inputs: np.ndarray) -> np.ndarray:
    return network.features(inputs, next(cut for cut in network.cuts if cut.name == "map"))


# ---- what is loaded

WAYS: dict[str, tuple[str, str | None]] = {
    "weights and a file's factory": ("file/net.safetensors", "own_net.py:make"),
    "a state_dict and a module's factory": ("file/net.pth", "own_net:make"),
    "a program": ("file/net.pt2", None),
}


@pytest.mark.parametrize("way", WAYS)
def test_features_are_those_of_the_users_own_code(way: str, home: Path) -> None:
    name, factory = WAYS[way]
    backbone = load_backbone(name, factory=factory, size=32)
    inputs = pictures(backbone)
    np.testing.assert_allclose(
        features(backbone.build(), inputs), expected(home, backbone, inputs), rtol=1e-4, atol=1e-4
    )
    assert any("features are taken at layer 'blocks.2.act', a map of 4 x 4 x 24" in each for each in backbone.remarks)
    assert any("says nothing about its pixels" in each for each in backbone.remarks)


def test_groups_are_the_blocks_from_the_picture_on_and_hold_every_parameter_once() -> None:
    network = load_backbone("file/net.pt2").build()
    assert [group.name for group in network.groups] == ["blocks_0", "blocks_1", "blocks_2"]
    assert [cut.name for cut in network.cuts] == ["input", "blocks_0", "blocks_1", "map", "pooled"]
    held = [name for group in network.groups for name in (*group.parameters, *group.buffers)]
    assert sorted(held) == sorted(network.weights())


def test_the_same_network_has_the_same_hash_and_another_cut_another() -> None:
    whole = load_backbone("file/net.pt2").weights_hash
    assert load_backbone("file/net.pt2").weights_hash == whole
    assert load_backbone("file/net.pt2", cut="blocks.1").weights_hash != whole


def test_a_network_of_tokens_answers_for_any_number_of_pictures() -> None:
    backbone = load_backbone("file", factory="own_net.py:tokens", size=32)
    assert "a vector of 16" in backbone.remarks[0]
    network = backbone.build()
    inputs = pictures(backbone, 5)
    together = network.features(inputs, network.cuts[-1])
    each = np.concatenate([network.features(inputs[i : i + 1], network.cuts[-1]) for i in range(5)])
    np.testing.assert_allclose(together, each, rtol=1e-4, atol=1e-5)
    assert [group.name for group in network.groups] == ["patches", "layers_0", "layers_1"]
    assert len(network.cuts) == 5, "the batch's length must not cross between blocks"


def test_a_network_of_grey_pictures_gets_grey_ones() -> None:
    spec = load_backbone("file", factory="own_net.py:grey", size=32).spec
    assert (spec.order, spec.size) == ("grey", 32)


def test_cut_takes_the_features_at_a_layer() -> None:
    network = load_backbone("file/net.pt2", cut="blocks.1").build()
    assert [group.name for group in network.groups] == ["blocks_0", "blocks_1"]
    assert "did you mean 'blocks.1'?" in refusal(BadBackbone, "file/net.pt2", cut="block.1")


def test_a_file_says_how_its_pictures_are_made() -> None:
    backbone = load_backbone("file/said.safetensors", factory="own_net.py:make")
    assert backbone.spec.mean == (127.5, 127.5, 127.5)
    assert backbone.spec.std == (63.75, 63.75, 63.75)
    assert not any("says nothing" in remark for remark in backbone.remarks)


@pytest.mark.parametrize(
    ("key", "value"), [("mean", "[1, 2]"), ("size", '"large"'), ("std", "[0, 0, 0]"), ("interpolation", '"magic"')]
)
def test_what_a_file_says_about_its_pictures_is_checked(key: str, value: str, tmp_path: Path, home: Path) -> None:
    save_file(made(home).state_dict(), tmp_path / "odd.safetensors", {f"headstart.{key}": value})
    said = refusal(BadBackbone, f"file/{tmp_path / 'odd.safetensors'}", factory="own_net.py:make")
    assert f"says that the {key} of its pictures is" in said


def test_fresh_weights_are_the_same_each_time_and_not_those_of_the_file() -> None:
    blank = {"factory": "own_net.py:make", "weights": "none"}
    first, again = load_backbone("file", **blank), load_backbone("file", **blank)
    assert first.weights_hash == again.weights_hash
    assert first.weights_hash != load_backbone("file/net.pth", factory="own_net.py:make").weights_hash


# ---- what is refused

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "weights alone": ("file/net.pth", {}, r"holds weights without a network\nhint: .*--factory FILE.py:FUNCTION"),
    "a pickled module": ("file/whole.pth", {"factory": "own_net.py:make"}, r"could run code.*\n.*state_dict"),
    "a fixed batch": ("file/fixed.pt2", {}, r"for batches of exactly 2\nhint: .*dynamic_shapes"),
    "exported while training": ("file/training.pt2", {}, r"exported while training\nhint: call model.eval\(\)"),
    "another size": ("file/net.pt2", {"size": 64}, r"exported for pictures of 32 pixels, not 64"),
    "a program and a factory": ("file/net.pt2", {"factory": "own_net.py:make"}, r"needs no factory"),
    "weights and none": ("file/net.pth", {"factory": "own_net.py:make", "weights": "none"}, r"leave the file out"),
    "nothing": ("file", {}, r"no backbone file is named\nhint: .*--factory"),
    "no such file of Python": ("file", {"factory": "own.py:make"}, r"'own.py' does not exist"),
    "no such module": ("file", {"factory": "owned:make"}, r"there is no module 'owned'"),
    "no such function": ("file", {"factory": "own_net.py:mak"}, r"did you mean 'make'\?"),
    "no function": ("file", {"factory": "own_net.py"}, r"names no function\nhint: .*FILE.py:FUNCTION"),
    "a function that fails": (
        "file",
        {"factory": "own_net.py:breaks"},
        r"is gone\nhint: .*own_net.py, line \d+",
    ),
    "a function that wants more": ("file", {"factory": "own_net.py:wants"}, r"needs depth.*\n.*give 'depth' a default"),
    "no module": ("file", {"factory": "own_net.py:gives_text"}, r"gives a str, not a torch.nn.Module"),
    "a choice by value": ("file", {"factory": "own_net.py:chooses"}, r"cannot be traced on pictures of 3 x 224 x 224"),
    "a factory for another source": ("bundled", {"factory": "own_net.py:make"}, r"made without a factory"),
    "an engine of Keras": ("file/net.pt2", {"framework": "jax"}, r"runs on PyTorch, not on jax"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_way_out(case: str) -> None:
    name, wanted, said = REFUSED[case]
    with pytest.raises(HeadstartError, match=said) as caught:
        load_backbone(name, **wanted)
    assert "\n" not in caught.value.what


def test_weights_of_another_network_are_refused_by_name_and_shape(tmp_path: Path) -> None:
    save_file({"blocks.0.conv.weight": torch.zeros(9, 3, 3, 3)}, tmp_path / "other.safetensors")
    said = refusal(BadBackbone, f"file/{tmp_path / 'other.safetensors'}", factory="own_net.py:tokens")
    assert "is missing" in said
    assert "9 x 3 x 3 x 3 is not in the network" in said or "and" in said


# ---- files and runs that would run code


class Hostile:
    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def pickled(thing: Any) -> bytes:
    content = io.BytesIO()
    torch.save(thing, content)
    return content.getvalue()


def test_a_program_with_pickles_that_run_code_runs_none(home: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    poison = pickled(Hostile(mark))

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return poison if "weights/weight_" in name else content

    path = rewritten(home / "net.pt2", tmp_path / "hostile.pt2", change)
    assert "damaged or not an exported program" in refusal(BadBackbone, f"file/{path}")
    assert not mark.exists()
    with contextlib.suppress(Exception):  # whatever PyTorch's own reader says, it has run the code by then
        torch.export.load(path)
    assert mark.exists(), "the file does not do what this test says it does"


OPERATIONS = ("torch.os.system", "torch.hub.load", "torch.ops.aten.from_file.default", "_operator.attrgetter")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_program_that_calls_other_functions_is_refused(operation: str, home: Path, tmp_path: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        return content.replace(b'"torch.ops.aten.conv2d.default"', json.dumps(operation).encode())

    path = rewritten(home / "net.pt2", tmp_path / "hostile.pt2", change)
    assert "not an operation that may be kept" in refusal(BadBackbone, f"file/{path}")


INJECTED = 'a"); import os; os.mkdir("it-ran"); ("'
DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another operation": lambda p: p["steps"][0].update(op="aten.from_file.default"),
    "a function of PyTorch": lambda p: p["steps"][0].update(op="torch.os.system"),
    "an attribute of an operation": lambda p: p["steps"][0].update(op="aten.relu.__class__"),
    "a text in place of a name": lambda p: p["tensors"].update(
        {'a"); import os; os.mkdir("it-ran"); ("': [[1], "float32", True]}
    ),
    "an option that is code": lambda p: p["steps"][0]["options"].update({"a=1, b": 1}),
    "no steps": lambda p: p.pop("steps"),
    "a value that is nowhere": lambda p: p.update(result="nowhere"),
    "a type that is none": lambda p: p["tensors"].update({"x": [[1], "load", True]}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_whose_program_was_tampered_with_is_refused(damage: str, home: Path) -> None:
    backbone = load_backbone("file/net.pt2")
    identity = {"name": backbone.name, "size": 32, "about": json.loads(json.dumps(dict(backbone.about)))}
    restore_backbone(identity).build()  # as it was, it is fine
    DAMAGES[damage](identity["about"]["program"])
    with pytest.raises(BadBackbone):
        restore_backbone(identity).build()
    assert not (home / "it-ran").exists()


def test_a_program_is_the_same_after_a_way_through_json() -> None:
    about = load_backbone("file", factory="own_net.py:tokens", size=32).about["program"]
    assert Program.from_json(json.loads(json.dumps(about))).to_json() == about


# ---- runs


@pytest.fixture(scope="module")
def run(home: Path, drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that began with the factory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("cache")))
        return headstart.train(
            drawn_photos,
            backbone="file/net.safetensors",
            factory="own_net.py:make",
            quality="fast",
            out=tmp_path_factory.mktemp("runs") / "own",
        )


def test_a_finished_run_answers_without_the_users_code(run: Run, drawn_photos: Path, tmp_path: Path) -> None:
    files = sorted((drawn_photos / "grass").iterdir())[:3]
    before = [answer.probabilities for answer in headstart.predict(run, files)]
    os.chdir(tmp_path)  # where there is no own_net.py
    known = [name for name in sys.modules if "own_net" in name]
    held = {name: sys.modules.pop(name) for name in known}
    try:
        after = [answer.probabilities for answer in headstart.predict(run, files)]
        assert not [name for name in sys.modules if "own_net" in name], "the user's code was imported"
    finally:
        sys.modules.update(held)
    assert after == before


def test_settings_of_a_run_do_not_bring_its_code_along(run: Run) -> None:
    config = run.path / "config.toml"
    with pytest.raises(BadSetting, match=r"asks for code to be run \(factory = 'own_net.py:make'\).*\n.*--factory own"):
        Settings.resolve(config)
    assert Settings.resolve(config, factory="own_net.py:make").factory == "own_net.py:make"


def test_settings_of_a_file_do_not_allow_code(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('data = "photos"\nallow_code = true\n')
    with pytest.raises(BadSetting, match=r"allow_code = True.*\n.*--allow-code"):
        Settings.resolve(tmp_path / "mine.toml")


def test_a_resumed_run_takes_its_factory_from_the_command_line_alone(run: Run, tmp_path: Path) -> None:
    import shutil

    stopped = Path(shutil.copytree(run.path, tmp_path / "stopped"))
    (stopped / "INCOMPLETE").write_text("")
    with pytest.raises(BadRun, match=r"never taken on the word of a run\nhint: .*resume .*--factory own_net.py:make"):
        headstart.resume(stopped)
    finished = headstart.resume(stopped, factory="own_net.py:make")
    assert finished.evaluation.to_json() == run.evaluation.to_json()
    assert finished.model().keys() == run.model().keys()


def test_restored_and_trained_networks_have_the_same_names(run: Run) -> None:
    network = restore_backbone(run.backbone).build()
    network.set_head(Head(), len(run.classes))
    assert network.weights().keys() == run.model().keys()
