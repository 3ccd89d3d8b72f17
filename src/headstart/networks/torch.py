"""Train and run a PyTorch network behind the `Network` protocol."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

# Read once, when PyTorch starts its threads. Threads that spin for long at the barrier after each layer make a step ten
# times slower as soon as another program wants a core; threads that go to sleep at once make it a little slower always.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from headstart.errors import BadSetting
from headstart.heads import Head, LinearHead, Native
from headstart.machine import keep_freed_memory
from headstart.modalities.spec import InputSpec
from headstart.networks.network import INPUT, Batch, Cut, Group, Optimization, Own, StepPrecision
from headstart.networks.rehearsal import rehearsed
from headstart.networks.torch_adapters import adaptable, load_merged, merged
from headstart.networks.torch_anatomy import Anatomy
from headstart.networks.torch_arrays import array, copied
from headstart.networks.torch_device import device_of, has_bf16, part
from headstart.networks.torch_graph import GroupOf, grouped, take_apart
from headstart.networks.torch_head import drawn, solved
from headstart.networks.torch_heat import crossing_and_gradient, linear, means
from headstart.networks.torch_modules import Between, TransferModel, forgetful
from headstart.networks.torch_training import Trainer, frozen
from headstart.networks.torch_whole import Whole
from headstart.novelty import Novelty

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
        keep_freed_memory()
        self.spec = spec
        self.model = TransferModel(stages, spec, pool)
        forgetful(self.model)
        self._channels = channels
        self._anatomy = Anatomy(self.model, groups, spec.size)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = torch.device("cpu")
        self._accelerator: Accelerator | None = None
        self._classes = 0
        self._plan = Optimization()
        self._trainer: Trainer | None = None
        frozen(self.model)

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
        return self._anatomy.groups

    @cached_property
    def channels(self) -> int:
        """Pooled features of a photo."""
        return self._channels or int(self._blank(self.cuts[-1]).size)

    def _blank(self, upto: Cut) -> Float[np.ndarray, "1 ..."]:
        return self.features(np.zeros((1, *self.input_shape), np.uint8), upto)

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The input, one after each group, and the pooled features; the one after the last group is `map`."""
        names = self._anatomy.names
        between = [Cut(name, after) for after, name in enumerate(names[:-1], start=1) if self._anatomy.within is None]
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
        self.device = device_of(device)
        self.model.to(self.device)
        if self.shard[1] > 1:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=self.device.type == "cpu")
            atexit.register(part)

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
        return array(crossing)

    def part(self, upto: Cut, start: Cut = INPUT) -> Between:
        """What lies between two cuts as a module: `[n h w c]` or `[n d]` in and out, as `features` takes and gives."""
        return Between(self.model, self._position(start), self._position(upto))

    def logits(self, inputs: Shaped[np.ndarray, "n ..."], start: Cut = INPUT) -> Float[np.ndarray, "n k"]:
        """The answers, in inference mode and fp32."""
        with torch.inference_mode():
            return array(self.model(self._tensor(inputs), self._position(start)))

    # ---- what an answer hangs on

    def gradients(
        self, pictures: UInt8[np.ndarray, "n h w c"], classes: Int[np.ndarray, "n"], cut: Cut | None = None
    ) -> tuple[Float[np.ndarray, "n ..."], Float[np.ndarray, "n ..."]]:
        """What crosses the cut, by default the last map, and the gradient there of the logit of each class."""
        at = len(self.cuts) - 2 if cut is None else self._position(cut)
        labels = torch.from_numpy(np.asarray(classes, np.int64)).to(self.device)
        crossing, gradient = crossing_and_gradient(self.model, self._tensor(pictures), labels, at)
        return array(crossing), array(gradient)

    @property
    def linear_on_mean(self) -> tuple[Float[np.ndarray, "d k"], Float[np.ndarray, "k"]] | None:
        """Weights and bias of the head, where it is linear on the mean over the places of the last map."""
        pooled = self.model.head_input == len(self.cuts) - 1
        return linear(self.model.head) if pooled and means(self.model, self._map_shape) else None

    @cached_property
    def _map_shape(self) -> tuple[int, ...]:
        return self._blank(self.cuts[-2]).shape[1:]

    def _tensor(self, inputs: Shaped[np.ndarray, "n ..."]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(inputs)).to(self.device, non_blocking=True)
        if tensor.dtype == torch.float16:
            tensor = tensor.float()  # activations are kept in half the bytes, and widened where it is fastest
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
        width = self._width(head) if isinstance(head, Head) else 0
        layers = solved(head, classes) if isinstance(head, LinearHead) else drawn(head, classes, width, seed)
        self.model.head = nn.Sequential(*layers).to(self.device).eval()
        on_map = isinstance(head, Head) and head.input == "map"
        self.model.head_input = self._position(
            next(cut for cut in self.cuts if cut.name == ("map" if on_map else "pooled"))
        )
        for parameter in self.model.head.parameters():
            parameter.requires_grad_(False)
        self._trainer = None

    def _width(self, head: Head) -> int:
        if head.input == "pooled":
            return self.channels
        return int(self._blank(self.cuts[-2]).size)

    # ---- training

    @property
    def moved(self) -> frozenset[str]:
        """The groups that have been thawed since the head was put on."""
        return frozenset(self._trainer.moved if self._trainer is not None else ())

    @property
    def shard(self) -> tuple[int, int]:
        """The process's number and how many there are; each takes its slice of every batch."""
        return (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def precisions(self) -> tuple[StepPrecision, ...]:
        """bf16 too, where the device has products of bf16 matrices."""
        return ("fp32", "bf16") if has_bf16(self.device) else ("fp32",)

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
        self._trainer = Trainer(self.model, self._anatomy, plan, self.shard)

    def _prepared(self) -> Trainer:
        if self._trainer is None:
            self.prepare(self._plan)
        assert self._trainer is not None
        return self._trainer

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, *, precision: StepPrecision | None = None) -> None:
        """Let exactly these groups train at these rates; through low-rank adapters where their rank is given.

        Raises:
            BadSetting: adapters are wanted and no layer of these groups can have one, or PEFT is missing;
                or the device has no such precision.
        """
        if precision is not None:
            self._check_precision(precision)
        trainer = self._prepared()
        trainer.thaw(rates, adapter, precision=precision)
        if self._accelerator is not None:
            trainer.live = self._accelerator.prepare_model(trainer.live)

    def _check_precision(self, precision: StepPrecision) -> None:
        if precision not in self.precisions:
            raise BadSetting(
                f"training in {precision} is not possible on this {self.device.type}",
                fix=f"use {' or '.join(self.precisions)}",
            )

    def step(self, batch: Batch, *, scale: float, key: int) -> Tensor:
        """One AdamW update; the loss stays on the device."""
        inputs, start = self._tensor(batch.inputs), self._position(batch.start)
        return self._prepared().step(inputs, start, batch, scale=scale, key=key)

    def rehearse(self, batch: Batch, rates: Mapping[str, float] | None = None, *, precision: StepPrecision) -> float:
        """Seconds that a step on such a batch takes once it is warm; everything is put back as it was."""
        self._check_precision(precision)
        before, trainer = self._trainer, self._prepared()
        try:
            return rehearsed(self, trainer, batch, rates, precision)
        finally:
            self._trainer = before

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """While open, the moving average stands in for the weights."""
        return contextlib.nullcontext() if self._trainer is None else self._trainer.averaged()

    def check_adapters(self, groups: Collection[str]) -> None:
        """Nothing, if these groups can train through adapters.

        Raises:
            BadSetting: they have no dense layer, or PEFT is missing.
        """
        adaptable(self.model, lambda key: self._anatomy.owner(key) in groups)

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

    # ---- leaving

    def whole(self, *, temperature: float, views: Sequence[str], novelty: Novelty | None, heat: bool) -> Whole:
        """Everything from photos `uint8 [n h w 3]` of any size to answers, as a module that gives a tuple."""
        linear = self.linear_on_mean if heat else None
        whole = Whole(self.model, self.spec, temperature=temperature, views=views, novelty=novelty, linear=linear)
        return whole.eval().requires_grad_(False)

    # ---- keeping

    def save(self, folder: Path, *, classes: Sequence[str], temperature: float, views: Sequence[str]) -> None:
        """Nothing: a PyTorch model without its code is its weights, and those are kept in any case."""

    def weights(self) -> dict[str, np.ndarray]:
        """Every parameter and buffer of backbone and head by name, copied; what adapters learnt is added in."""
        return {key: copied(value) for key, value in merged(self.model).items()}

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Put such weights back, in place; names and shapes must match exactly. Adapters begin again at nothing."""
        load_merged(self.model, {key: torch.from_numpy(np.array(value)) for key, value in weights.items()})
        if self._trainer is not None:
            self._trainer.restart_average()  # it goes on from here: what it remembers belongs to other weights

    def state(self) -> dict[str, np.ndarray]:
        """Weights that have moved, their slots and step counts, the average."""
        return self._prepared().state()

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from `state()`; call `thaw` afterwards, as at the start of a stage."""
        self._prepared().load_state(state)
