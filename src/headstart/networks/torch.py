"""Train and run a PyTorch network behind the `Network` protocol."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read once, when PyTorch starts its threads. Threads that spin for long at the barrier after each layer make a step ten
# times slower as soon as another program wants a core; threads that go to sleep at once make it a little slower always.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from headstart.errors import BadSetting
from headstart.heads import Dense, Dropout, Flatten, Head, LinearHead, Native, Pool
from headstart.modalities.spec import InputSpec
from headstart.networks.network import HEAD, INPUT, Batch, Cut, Group, Optimization, Own
from headstart.networks.torch_adapters import (
    adaptable,
    add_adapters,
    is_adapter,
    load_merged,
    merged,
    plain_name,
    rank_of,
)
from headstart.networks.torch_graph import GroupOf, flops_of_groups, grouped, take_apart
from headstart.networks.torch_modules import (
    ACTIVATIONS,
    Between,
    ChannelsLastFlatten,
    Live,
    SeededDropout,
    TransferModel,
    forgetful,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


class TorchNetwork:
    """A `Network` over ordered PyTorch modules.

    What crosses between two of them is a map `[n c h w]`, tokens `[n t d]` or features `[n d]`.

    Args:
        stages: group name -> module; applied in turn to a normalised `[n 3 h w]` float tensor they give the map.
        spec: the pictures that the backbone takes.
        channels: pooled features; by default they are counted.
        pool: makes pooled features `[n d]` of the last map; its weights belong to the last group. By default the mean.
        groups: for a single stage that could not be taken apart: the group of each of its parameters and buffers,
            by their names in it.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        *,
        spec: InputSpec,
        channels: int | None = None,
        pool: nn.Module | None = None,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        self.spec = spec
        self.model = TransferModel(stages, spec, pool)
        forgetful(self.model)
        self._channels = channels
        self._within = dict(groups) if groups is not None else None  # the groups of a stage that stays whole
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = torch.device("cpu")
        self._accelerator: Accelerator | None = None
        self._classes = 0
        self._plan = Optimization()
        self._optimizer: torch.optim.AdamW | None = None
        self._rates: dict[str, float] = {}
        self._moved: set[str] = set()  # groups that have ever been live
        self._moving: list[tuple[str, nn.Parameter]] = []  # what the next step changes
        self._average: dict[str, Tensor] = {}
        self._average_steps = 0
        self._live: nn.Module = Live(self.model, len(stages) + 1)
        self._freeze_all()

    @classmethod
    def of(
        cls, body: nn.Module, *, spec: InputSpec, pool: nn.Module | None = None, group_of: GroupOf = lambda name: None
    ) -> TorchNetwork:
        """A network of one module, taken apart where a single tensor crosses between groups.

        Where that cannot be done it stays whole: its groups are still thawed one by one, but there is no cut between
        them, so that the frozen part is computed anew in every step of tuning.

        Args:
            body: normalised `[n 3 h w]` float tensor -> the map.
            spec: the pictures that it takes.
            pool: the map -> pooled features `[n d]`; by default the mean.
            group_of: full name of a parameter or buffer of `body` -> its group; None: that of the one before it.
        """
        body.eval()
        groups = grouped(body, group_of)
        blank = torch.zeros(2, 1 if spec.order == "grey" else 3, spec.size, spec.size)
        parts = take_apart(body, groups, blank)
        if parts is not None:
            return cls(parts, spec=spec, pool=pool)
        return cls({"whole": body}, spec=spec, pool=pool, groups=groups)

    # ---- what it is made of

    @property
    def groups(self) -> tuple[Group, ...]:
        """The backbone's groups from input to output."""
        return self._groups

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        flops = self._flops()
        # A tensor that several layers share has several names: it moves with the first of them, and is kept under each.
        first: dict[Tensor, str] = {}
        parameters = {
            key: self._owner(first.setdefault(parameter, key))
            for key, parameter in self.model.named_parameters(remove_duplicate=False)
        }
        kept = self.model.state_dict().keys()
        buffers = {
            key: self._owner(first.setdefault(buffer, key))
            for key, buffer in self.model.named_buffers(remove_duplicate=False)
            if key in kept
        }
        return tuple(
            Group(
                name,
                tuple(key for key, owner in parameters.items() if owner == name),
                tuple(key for key, owner in buffers.items() if owner == name),
                flops[name],
            )
            for name in self._names
        )

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The groups from input to output."""
        return tuple(dict.fromkeys(self._within.values() if self._within is not None else self.model.backbone))

    def _owner(self, name: str) -> str:
        """The group of the parameter or buffer of this name."""
        top, _, key = name.partition(".")
        if top == "head":
            return HEAD
        if top == "pool":
            return self._names[-1]
        stage, _, inner = key.partition(".")
        if self._within is None:
            return stage
        layer = plain_name(inner).rpartition(".")[0]
        near = (group for known, group in self._within.items() if known.rpartition(".")[0] == layer)
        return self._within.get(inner) or next(near)

    def _buffers(self) -> dict[str, Tensor]:
        kept = self.model.state_dict().keys()  # indices of positions and the like are made anew, and are no weights
        return {key: buffer for key, buffer in self.model.named_buffers() if key in kept}

    def _flops(self) -> dict[str, int]:
        pixels = torch.zeros(1, 3, self.spec.size, self.spec.size, device=self.device)
        counted = {}
        with torch.no_grad():
            if self._within is not None:
                return flops_of_groups(self.model.backbone["whole"], self.model.normalise(pixels), self._within)
            for position, name in enumerate(self.model.backbone):
                with FlopCounterMode(display=False) as counter:
                    pixels = self.model.between(pixels, position, position + 1)
                counted[name] = counter.get_total_flops()
        return counted

    @cached_property
    def channels(self) -> int:
        """Pooled features of a photo."""
        return self._channels or int(self._blank(self.cuts[-1]).size)

    def _blank(self, upto: Cut) -> Float[np.ndarray, "1 ..."]:
        return self.features(np.zeros((1, *self.input_shape), np.uint8), upto)

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The input, one after each group, and the pooled features; the one after the last group is `map`."""
        names = self._names
        between = [Cut(name, after) for after, name in enumerate(names[:-1], start=1) if self._within is None]
        return (INPUT, *between, Cut("map", len(names)), Cut("pooled", len(names)))

    def _position(self, cut: Cut) -> int:
        return self.cuts.index(cut)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures."""
        return (self.spec.size, self.spec.size, 3)

    @property
    def engine(self) -> str:
        """Library, version and kind of device."""
        return f"torch-{torch.__version__}-{self.device.type}"

    @property
    def native(self) -> TransferModel:
        """The `torch.nn.Module`: pixels 0..255 `[n 3 h w]` in, logits `[n k]` out."""
        return self.model

    def to(self, device: str) -> None:
        """Move to `cpu`, `cuda`, `mps` or `auto`.

        Raises:
            BadSetting: this machine or this PyTorch has no such device.
        """
        present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if device == "auto":
            device = next(name for name in ("cuda", "mps", "cpu") if present[name])
        if not present[device]:
            usable = ", ".join(name for name, there in present.items() if there)
            raise BadSetting(f"device {device!r} is not usable here", fix=f"use one of: auto, {usable}")
        self.device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device)
        self.model.to(self.device)
        if self.shard[1] > 1:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=self.device.type == "cpu")
            atexit.register(_part)

    # ---- the frozen part

    @property
    def concurrency(self) -> int:
        """The threads of the processor, or 1 on a GPU."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    @contextlib.contextmanager
    def concurrent(self, workers: int) -> Iterator[None]:
        """Give each of `workers` threads its share of the cores.

        Threads that compute side by side need no barrier after every layer; one computation on all cores does.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // max(1, workers)))
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def features(
        self, inputs: Shaped[np.ndarray, "n ..."], upto: Cut, start: Cut = INPUT
    ) -> Float[np.ndarray, "n ..."]:
        """What crosses the cut `upto`, channels last."""
        with torch.inference_mode():
            crossing = self.model.between(self._tensor(inputs), self._position(start), self._position(upto))
        return _array(crossing)

    def part(self, upto: Cut, start: Cut = INPUT) -> Between:
        """What lies between two cuts as a module: `[n h w c]` or `[n d]` in and out, as `features` takes and gives."""
        return Between(self.model, self._position(start), self._position(upto))

    def logits(self, inputs: Shaped[np.ndarray, "n ..."], start: Cut = INPUT) -> Float[np.ndarray, "n k"]:
        """The answers, in inference mode and fp32."""
        with torch.inference_mode():
            return _array(self.model(self._tensor(inputs), self._position(start)))

    def _tensor(self, inputs: Shaped[np.ndarray, "n ..."]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(inputs)).to(self.device, non_blocking=True)
        # A view: `[n h w c]` in memory is what PyTorch calls channels_last.
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor

    # ---- the new top

    @property
    def head_cut(self) -> Cut:
        """The cut that the head stands on."""
        return self.cuts[self.model.head_input]

    def set_head(self, head: Head | LinearHead | Native, classes: int, *, seed: int = 0) -> None:
        """Put on the exact linear solution, or layers with fresh weights drawn from `seed`.

        Raises:
            BadSetting: the head is made of another framework's layers.
        """
        if isinstance(head, Native):
            raise BadSetting(
                f"head layers of your own ({head}) do not fit a PyTorch backbone",
                fix='write the head as "flatten, dense(1024, relu), dropout(0.5)"',
            )
        self._classes = classes
        if isinstance(head, LinearHead):
            dense = nn.Linear(head.weights.shape[0], classes)
            dense.weight.data = torch.from_numpy(head.weights.T.astype(np.float32)).contiguous()
            dense.bias.data = torch.from_numpy(head.bias.astype(np.float32))
            layers: list[nn.Module] = [dense]
        else:
            layers = self._layers(head, classes, seed)
        self.model.head = nn.Sequential(*layers).to(self.device).eval()
        on_map = isinstance(head, Head) and head.input == "map"
        self.model.head_input = self._position(
            next(cut for cut in self.cuts if cut.name == ("map" if on_map else "pooled"))
        )
        for parameter in self.model.head.parameters():
            parameter.requires_grad_(False)
        self._forget()

    def _layers(self, head: Head, classes: int, seed: int) -> list[nn.Module]:
        width = self._width(head)
        layers: list[nn.Module] = []
        # A fork keeps the draw of fresh weights from touching, or being touched by, anybody else's random state.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in (*head.layers, Dense(classes, "linear")):
                match layer:
                    case Pool():
                        pass
                    case Flatten():
                        layers.append(ChannelsLastFlatten())
                    case Dropout(rate):
                        layers.append(SeededDropout(rate))
                    case Dense(units, activation):
                        layers += [nn.Linear(width, units), ACTIVATIONS[activation]()]
                        width = units
        return layers

    def _width(self, head: Head) -> int:
        if head.input == "pooled":
            return self.channels
        return int(self._blank(self.cuts[-2]).size)

    # ---- training

    @property
    def moved(self) -> frozenset[str]:
        """The groups that have been thawed since the head was put on."""
        return frozenset(self._moved)

    @property
    def shard(self) -> tuple[int, int]:
        """The process's number and how many there are; each takes its slice of every batch."""
        return (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def prepare(self, plan: Optimization, own: Own | None = None) -> None:
        """Make the AdamW optimizer over all weights, with decay for matrices and kernels alone.

        Raises:
            BadSetting: an optimizer or loss is given, which is for Keras backbones.
        """
        if own is not None and own != Own():
            raise BadSetting(
                "a PyTorch backbone is trained with AdamW and cross-entropy and has metrics of its own",
                fix="leave optimizer, loss and metrics out and set optimization=, or take a Keras backbone",
            )
        self._plan = plan
        self._forget()
        self._optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "group": name, "weight_decay": decay, "lr": 0.0}
                for name in (*self._names, HEAD)
                for parameters, decay in self._by_decay(name)
                if parameters
            ],
            betas=plan.betas,
            fused=self.device.type in ("cpu", "cuda"),
        )

    def _by_decay(self, group: str) -> tuple[tuple[list[nn.Parameter], float], tuple[list[nn.Parameter], float]]:
        parameters = [p for key, p in self._named({group}) if not is_adapter(key)]
        decayed = [parameter for parameter in parameters if parameter.ndim > 1]
        return (decayed, self._plan.weight_decay), ([p for p in parameters if p.ndim <= 1], 0.0)

    def _forget(self) -> None:
        self._optimizer = None
        self._rates, self._moved, self._moving = {}, set(), []
        self._average, self._average_steps = {}, 0

    def _freeze_all(self) -> None:
        self.model.eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)

    def thaw(self, rates: Mapping[str, float], adapter: int = 0) -> None:
        """Let exactly these groups train at these rates; through low-rank adapters where their rank is given.

        Normalisation layers keep their stored statistics in every group, live ones too: with a few hundred photos
        the statistics of a batch are worse than those of the pre-training. So no module ever enters training mode,
        unless the plan wants the statistics of batches, and then for the length of a step.

        Raises:
            BadSetting: adapters are wanted and no layer of these groups can have one, or PEFT is missing.
        """
        if self._optimizer is None:
            self.prepare(self._plan)
        self._freeze_all()
        self._rates = dict(rates)
        if adapter and set(rates) != {HEAD}:
            self._adapt(set(rates), adapter)
        named = self._named(rates)
        self._moving = [(key, p) for key, p in named if is_adapter(key) == bool(adapter) or self._owner(key) == HEAD]
        for _, parameter in self._moving:
            parameter.requires_grad_(True)
        if self._plan.average:
            self._average |= {key: p.detach().clone() for key, p in self._moving if key not in self._average}
        self._moved |= set(rates)
        live = [place for place, name in enumerate(self._names) if name in rates]
        first = min(live, default=self.model.head_input)
        self._live = Live(self.model, first if self._within is None or not live else 0)
        if self._accelerator is not None:
            self._live = self._accelerator.prepare_model(self._live)

    def _named(self, groups: Mapping[str, float] | set[str]) -> list[tuple[str, nn.Parameter]]:
        """The parameters of these groups, in the model's own order."""
        return [(key, p) for key, p in self.model.named_parameters() if self._owner(key) in groups]

    def check_adapters(self, groups: Collection[str]) -> None:
        """Nothing, if these groups can train through adapters.

        Raises:
            BadSetting: they have no dense layer, or PEFT is missing.
        """
        adaptable(self.model, lambda key: self._owner(key) in groups)

    def _adapt(self, groups: set[str], rank: int) -> None:
        """Put adapters into these groups, and slots for them into the optimizer."""
        assert self._optimizer is not None, "prepare before adapters are made"
        before = {key for key, _ in self.model.named_parameters()}
        add_adapters(self.model, lambda key: self._owner(key) in groups - {HEAD}, rank)
        for key, parameter in self.model.named_parameters():
            if is_adapter(key) and key not in before:
                # No decay: it would pull the sum towards the pre-trained weights, where it began anyway.
                self._optimizer.add_param_group(
                    {"params": [parameter], "group": self._owner(key), "weight_decay": 0.0, "lr": 0.0}
                )

    def step(self, batch: Batch, *, scale: float, key: int) -> Tensor:
        """One AdamW update; the loss stays on the device."""
        optimizer = self._optimizer
        assert optimizer is not None, "thaw before the first step"
        for group in optimizer.param_groups:
            group["lr"] = self._rates.get(group["group"], 0.0) * scale
        with self._training(key), torch.autocast(self.device.type, torch.bfloat16, self._plan.precision == "bf16"):
            logits = self._live(self._tensor(batch.inputs), self._position(batch.start)).float()
        labels = torch.from_numpy(batch.labels).to(self.device)
        each = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self._plan.label_smoothing)
        loss = (each * torch.from_numpy(batch.weights.astype(np.float32)).to(self.device)).sum()
        # Processes average their gradients, while the weights of a batch sum to 1 over all of them together.
        torch.autograd.backward(loss * self.shard[1])
        if self._plan.clip:
            nn.utils.clip_grad_norm_((p for p in self.model.parameters() if p.requires_grad), self._plan.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._follow()
        return loss.detach()

    @contextlib.contextmanager
    def _training(self, key: int) -> Iterator[None]:
        dropouts = [module for module in self.model.head if isinstance(module, SeededDropout)]
        learning = self._learning_statistics()
        for norm in learning:
            norm.train()
        generator = torch.Generator().manual_seed(key)
        for dropout in dropouts:
            dropout.generator, dropout.shard = generator, self.shard
        try:
            yield
        finally:
            for dropout in dropouts:
                dropout.generator = None
            for norm in learning:
                norm.eval()

    def _learning_statistics(self) -> list[nn.Module]:
        """The normalisation layers that take their statistics from batches now."""
        if self._plan.statistics == "stored":
            return []
        return [
            module
            for name, module in self.model.named_modules()
            if getattr(module, "running_mean", None) is not None and self._owner(f"{name}.running_mean") in self._rates
        ]

    def _follow(self) -> None:
        if not self._plan.average:
            return
        self._average_steps += 1
        # A short memory at first: a long one would hold on to the weights from before training.
        decay = min(self._plan.average, (1 + self._average_steps) / (10 + self._average_steps))
        live = [(self._average[key], p.detach()) for key, p in self._moving]
        torch._foreach_lerp_([average for average, _ in live], [p for _, p in live], 1 - decay)

    def read(self, losses: Sequence[Tensor]) -> list[float]:
        """Wait for these losses; with several processes, their sum over the slices."""
        if not losses:
            return []
        stacked = torch.stack(list(losses))
        if self._accelerator is not None:
            stacked = self._accelerator.reduce(stacked, "sum")
        return [float(loss) for loss in stacked.tolist()]

    def leading(self) -> contextlib.AbstractContextManager[None]:
        """While it is open in the first process, the others wait to enter."""
        if self._accelerator is None:
            return contextlib.nullcontext()
        first: contextlib.AbstractContextManager[None] = self._accelerator.main_process_first()
        return first

    def agree(self, value: float) -> float:
        """The first process's value, in every process."""
        if self._accelerator is None:
            return value
        from accelerate.utils import broadcast

        return float(broadcast(torch.tensor([value], dtype=torch.float64, device=self.device), 0).item())

    def measured(self, labels: Int[np.ndarray, "n"], logits: Float[np.ndarray, "n k"]) -> dict[str, float]:
        """None: metrics of a user's own are for Keras backbones."""
        return {}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """While open, the moving average stands in for the weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for key, parameter in self.model.named_parameters():
            if key in self._average:
                parameter.data, self._average[key] = self._average[key], parameter.data

    # ---- keeping

    def save(self, folder: Path, *, classes: Sequence[str], temperature: float, views: Sequence[str]) -> None:
        """Nothing: a PyTorch model without its code is its weights, and those are kept in any case."""

    def weights(self) -> dict[str, np.ndarray]:
        """Every parameter and buffer of backbone and head by name, copied; what adapters learnt is added in."""
        return {key: _copy(value) for key, value in merged(self.model).items()}

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Put such weights back, in place; names and shapes must match exactly. Adapters begin again at nothing."""
        load_merged(self.model, {key: torch.from_numpy(np.array(value)) for key, value in weights.items()})
        # The average goes on from here: what it remembers belongs to other weights.
        self._average = {key: p.detach().clone() for key, p in self.model.named_parameters() if key in self._average}

    def state(self) -> dict[str, np.ndarray]:
        """Weights that have moved, their slots and step counts, the average."""
        assert self._optimizer is not None, "prepare before asking for the state"
        kept: dict[str, np.ndarray] = {"average_steps": np.array(self._average_steps)}
        for key, parameter in self._named(self._moved):
            kept[f"weight/{key}"] = _copy(parameter)
            if key in self._average:
                kept[f"average/{key}"] = _copy(self._average[key])
            for slot, value in self._optimizer.state[parameter].items() if parameter in self._optimizer.state else ():
                kept[f"slot/{slot}/{key}"] = _copy(value)
        if self._plan.statistics == "batch":
            moved = {key: value for key, value in self._buffers().items() if self._owner(key) in self._moved}
            kept |= {f"buffer/{key}": _copy(value) for key, value in moved.items()}
        return kept

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from `state()`; call `thaw` afterwards, as at the start of a stage."""
        assert self._optimizer is not None, "prepare before loading a state"
        adapters = {key[7:]: value for key, value in state.items() if key.startswith("weight/") and is_adapter(key)}
        if adapters:
            self._adapt({self._owner(key) for key in adapters}, rank_of(adapters))
        named, buffers = dict(self.model.named_parameters()), self._buffers()
        self._average_steps = int(state["average_steps"])
        for full, value in state.items():
            what, _, key = full.partition("/")
            tensor = torch.from_numpy(np.array(value))
            if what == "weight":
                named[key].data.copy_(tensor)
                self._moved.add(self._owner(key))
            elif what == "buffer":
                buffers[key].copy_(tensor)
            elif what == "average":
                self._average[key] = tensor.to(self.device)
            elif what == "slot":
                slot, _, key = key.partition("/")
                # AdamW's fused kernel wants its step counts where the weights are.
                self._optimizer.state[named[key]][slot] = tensor.to(self.device)


def _part() -> None:
    """Leave the group of processes together: threads of it that the end of a program meets would abort it."""
    group = torch.distributed
    if group.is_initialized():
        if group.get_backend() == "gloo":  # which tells at once when another process has died
            with contextlib.suppress(RuntimeError):
                group.barrier()
        group.destroy_process_group()


def _array(tensor: Tensor) -> Float[np.ndarray, "n ..."]:
    last = tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor
    return np.ascontiguousarray(last.float().cpu().numpy())


def _copy(tensor: Tensor) -> Any:
    return np.array(tensor.detach().cpu().contiguous().numpy())
