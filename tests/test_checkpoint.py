"""Weights from a file that anyone may have written: every usual form is read, and no code in it ever runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from headstart.backbones import checkpoint
from headstart.errors import BadBackbone

State = dict[str, torch.Tensor]


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.fixture
def state() -> State:
    torch.manual_seed(1)
    return network().state_dict()


FORMS: dict[str, Callable[[State, Path], Any]] = {
    "safetensors": lambda state, path: save_file(state, path),
    "a state_dict": lambda state, path: torch.save(state, path),
    "a state_dict of an older PyTorch": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "a training checkpoint": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "a checkpoint of a checkpoint": lambda state, path: torch.save({"model": {"state_dict": state}}, path),
    "of DataParallel": lambda state, path: torch.save({f"module.{k}": v for k, v in state.items()}, path),
    "of torch.compile": lambda state, path: save_file({f"_orig_mod.{k}": v for k, v in state.items()}, path),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_of_weights_is_read_to_the_bit(form: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / "net.bin"  # what it is shows in its bytes, whatever its name
    FORMS[form](state, path)
    given = checkpoint.read(path)
    assert given.keys() == state.keys()
    assert all(torch.equal(given[name], state[name]) for name in state)


class Hostile:
    """A pickle of it makes the folder that it names when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("form", ["new", "old", "plain"])
def test_code_in_a_pickle_does_not_run(form: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "net.pth", tmp_path / "it-ran"
    if form == "plain":
        path.write_bytes(pickle.dumps({"weight": Hostile(mark)}))
    else:
        torch.save({"weight": Hostile(mark)}, path, _use_new_zipfile_serialization=form == "new")
    with pytest.raises(BadBackbone, match=r"could run code, so they are not read\nhint: save the weights alone"):
        checkpoint.read(path)
    assert not mark.exists()
    with path.open("rb") as file:  # the file does what the test says it does
        pickle.load(file) if form == "plain" else torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "net.pt")
    with pytest.raises(BadBackbone, match=r"Python objects \(.*Linear.*\n.*model.state_dict\(\)"):
        checkpoint.read(tmp_path / "net.pt")


STRANGE = {
    b"": "are an empty file",
    b"<!DOCTYPE html><title>Sign in</title>": "are a web page",
    b"version https://git-lfs.github.com/spec/v1\noid": r"Git LFS pointer.*\n.*git lfs pull",
    b"\x89HDF\r\n\x1a\n": "are an HDF5 file",
    b"hello, I am a text": "are neither a safetensors file nor",
    b"\x80\x02}q\x00": "are damaged",
    b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all": "are damaged",
}


@pytest.mark.parametrize("content", STRANGE)
def test_a_strange_file_is_called_by_what_it_is(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(BadBackbone, match=STRANGE[content]):
        checkpoint.read(tmp_path / "net.pth")


def test_a_file_cut_short_and_a_missing_one_are_refused(state: State, tmp_path: Path) -> None:
    for save, name in ((torch.save, "whole.pth"), (save_file, "whole.safetensors")):
        save(state, tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / "cut").write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(BadBackbone, match="are damaged"):
            checkpoint.read(tmp_path / "cut")
    with pytest.raises(BadBackbone, match=r"absent.pth' cannot be read.*\n.*there: .*whole.pth"):
        checkpoint.read(tmp_path / "absent.pth")


def test_one_of_several_networks_in_a_file_is_not_guessed(state: State, tmp_path: Path) -> None:
    torch.save({"student": state, "teacher": state}, tmp_path / "two.pth")
    with pytest.raises(BadBackbone, match="several things, 'student', 'teacher'"):
        checkpoint.read(tmp_path / "two.pth")


def test_weights_are_put_into_a_module_and_one_on_no_device(state: State) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with torch.device("meta"):
        unmade = network()
    for module, given in ((network(), state), (network(), half), (unmade, half)):
        checkpoint.load_into(module, given)
        for name, tensor in module.state_dict().items():
            assert tensor.dtype == state[name].dtype
            assert torch.allclose(tensor, state[name], atol=1e-3)


def test_a_prefix_that_only_one_side_has_is_no_obstacle(state: State) -> None:
    checkpoint.load_into(network(), {f"model.net.{name}": tensor for name, tensor in state.items()})
    checkpoint.load_into(nn.ModuleDict({"inner": network()}), state)


def test_a_top_that_is_not_used_may_be_in_the_file_and_old_files_lack_counters(state: State) -> None:
    old = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    checkpoint.load_into(network(), {**old, "fc.weight": torch.zeros(9, 4)}, dropped=("fc.",))


def test_a_tensor_with_two_names_is_written_once_and_read_twice(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

    written, read = Tied(), Tied()
    save_model(written, str(tmp_path / "tied.safetensors"))
    checkpoint.load_into(read, checkpoint.read(tmp_path / "tied.safetensors"))
    assert torch.equal(read.two.weight, written.one.weight)
    assert read.two.weight is read.one.weight


MISFITS: dict[str, tuple[Callable[[State], Any], str]] = {
    "another shape": (lambda s: s.update({"2.weight": torch.zeros(7, 4)}), "'2.weight' is 7 x 4 instead of 2 x 4"),
    "missing": (lambda s: s.pop("0.weight"), "'0.weight' 4 x 3 x 3 x 3 is missing"),
    "unexpected": (lambda s: s.update({"fc.bias": torch.zeros(5)}), "'fc.bias' 5 is not in the network"),
    "not finite": (lambda s: s.update({"2.bias": torch.full((2,), float("nan"))}), "'2.bias' is not finite"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_of_another_network_are_refused_with_names_and_shapes(misfit: str, state: State) -> None:
    change, said = MISFITS[misfit]
    change(state)
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(BadBackbone, match=f"weights 'mine.pth' do not fit the network: {said}") as caught:
        checkpoint.load_into(module, state, what="weights 'mine.pth'")
    assert "\n" not in caught.value.what
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items()), "half loaded"
