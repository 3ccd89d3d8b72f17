"""Low-rank adapters: what they move, that what they learn is in the weights, and what cannot have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headstart.errors import BadSetting
from headstart.heads import mlp
from headstart.modalities.spec import InputSpec
from headstart.networks import torch_adapters
from headstart.networks.network import HEAD, Batch, Optimization
from headstart.networks.torch import TorchNetwork
from headstart.training.loop import train
from headstart.training.stages import Stage

from .conformance.operators import declare_operators

declare_operators()  # PEFT imports what imports torchvision
pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SPEC = InputSpec(size=32, crop=1.0, interpolation="bilinear", mean=(127.0,) * 3, std=(128.0,) * 3)
LIVE = {HEAD: 1e-2, "block1": 1e-2, "block2": 1e-2}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.queries(self.norm(tokens)).chunk(3, dim=-1)
        return tokens + self.out(nn.functional.scaled_dot_product_attention(q, k, v))


class Transformer(nn.Module):
    def __init__(self, *, traceable: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.block0, self.block1, self.block2 = Block(16), Block(16), Block(16)
        self.traceable = traceable

    def forward(self, pixels: Tensor) -> Tensor:
        if not self.traceable and pixels.mean() > 1e9:
            return pixels
        return self.block2(self.block1(self.block0(self.patches(pixels).flatten(2).transpose(1, 2))))


def network(*, traceable: bool = True) -> TorchNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = Transformer(traceable=traceable)
    made = TorchNetwork.of(body, spec=SPEC, group_of=lambda name: name.split(".")[0])
    made.set_head(mlp(8), 3, seed=1)
    made.prepare(Optimization(average=0.9))
    return made


def pictures(n: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def steps(made: TorchNetwork, count: int, first: int = 0) -> None:
    for key in range(first, first + count):
        batch = Batch(pictures(seed=key), np.array([0, 1, 2, 0, 1, 2]), np.full(6, 1 / 6))
        made.read([made.step(batch, scale=1.0, key=key)])


@pytest.mark.parametrize("traceable", [True, False])
def test_only_dense_layers_of_live_groups_change_and_the_names_stay(traceable: bool) -> None:
    made = network(traceable=traceable)
    before = made.weights()
    made.thaw(LIVE, 4)
    steps(made, 3)
    after = made.weights()
    assert before.keys() == after.keys()
    moved = {key for key in before if before[key].tobytes() != after[key].tobytes() and not key.startswith("head")}
    assert {key.split(".", 2)[2].removeprefix("m.") for key in moved} == {
        f"block{number}.{layer}.weight" for number in (1, 2) for layer in ("queries", "out")
    }


def test_a_plain_network_with_the_weights_answers_alike() -> None:
    adapted, plain = network(), network()
    adapted.thaw(LIVE, 4)
    steps(adapted, 3)
    plain.load_weights(adapted.weights())
    np.testing.assert_allclose(plain.logits(pictures()), adapted.logits(pictures()), atol=1e-6)
    adapted.load_weights(adapted.weights())
    np.testing.assert_allclose(plain.logits(pictures()), adapted.logits(pictures()), atol=1e-6)


def test_without_what_the_adapters_learnt_it_would_answer_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, plain = network(), network()
    adapted.thaw(LIVE, 4)
    steps(adapted, 3)
    monkeypatch.setattr(torch_adapters, "_adapted", lambda model: [])
    state = adapted.model.state_dict().items()
    left_out = {torch_adapters.plain_name(k): v.numpy() for k, v in state if not torch_adapters.is_adapter(k)}
    plain.load_weights(left_out)
    assert np.abs(plain.logits(pictures()) - adapted.logits(pictures())).max() > 1e-3


@pytest.mark.parametrize("traceable", [True, False])
def test_training_resumes_to_the_same_bits(traceable: bool) -> None:
    through, resumed = network(traceable=traceable), network(traceable=traceable)
    through.thaw(LIVE, 4)
    steps(through, 2)
    resumed.load_state(through.state())
    resumed.thaw(LIVE, 4)
    for made in (through, resumed):
        steps(made, 2, first=2)
    first, second = through.weights(), resumed.weights()
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)


def test_adapters_train_fewer_numbers_than_their_layers() -> None:
    made = network()
    made.thaw(LIVE, 2)
    adapters = sum(p.numel() for key, p in made.model.named_parameters() if p.requires_grad and ".lora_" in key)
    layers = sum(p.numel() for key, p in made.model.named_parameters() if "base_layer.weight" in key)
    assert 0 < adapters < layers / 3
    assert not any(p.requires_grad for key, p in made.model.named_parameters() if "base_layer" in key)


def test_they_are_a_stage_like_any_other() -> None:
    class Same:
        steps = 2

        def epoch(self, number: int, first: int = 0):  # type: ignore[no-untyped-def]
            for key in range(first, 2):
                yield Batch(pictures(seed=key), np.array([0, 1, 2, 0, 1, 2]), np.full(6, 1 / 6))

    made = network()
    for stage in (
        Stage(epochs=1, lr=1e-2),
        Stage(epochs=1, lr=1e-2, unfreeze=2, lora=4),
        Stage(epochs=1, lr=1e-3, unfreeze=1),
    ):
        before = made.weights()
        list(train(made, stage, Same(), seed=0))
        after = made.weights()
        moved = {key.split(".")[1] for key in before if before[key].tobytes() != after[key].tobytes()}
        assert moved - {"0", "2"} == {0: set(), 2: {"block1", "block2"}, 1: {"block2"}}[stage.unfreeze]


def test_a_network_without_dense_layers_is_refused() -> None:
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    made = TorchNetwork.of(convolutions, spec=SPEC, group_of=lambda name: f"layer{name[0]}")
    made.set_head(mlp(8), 3)
    with pytest.raises(BadSetting, match="the groups to tune have none"):
        made.thaw({HEAD: 1e-2, "layer2": 1e-2}, 4)


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    monkeypatch.setattr(torch_adapters, "find_spec", lambda name: None)
    with pytest.raises(BadSetting) as caught:
        network().thaw(LIVE, 4)
    assert caught.value.fix == 'pip install "headstart[lora]"'
