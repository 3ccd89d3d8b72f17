"""Train the live groups of a PyTorch network: optimizer, step, moving average, and what a checkpoint needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from headstart.networks import averaging
from headstart.networks.network import HEAD, Batch, Optimization, StepPrecision
from headstart.networks.torch_adapters import add_adapters, is_adapter, rank_of
from headstart.networks.torch_anatomy import Anatomy
from headstart.networks.torch_arrays import copied
from headstart.networks.torch_convolution import QuickGradients
from headstart.networks.torch_modules import Live, SeededDropout, TransferModel


class Trainer:
    """AdamW over all weights of a model, with decay for matrices and kernels alone; `thaw` says which move.

    Args:
        model: with its head on, and on its device.
        anatomy: which group each weight belongs to.
        plan: how weights move.
        shard: the process's number and how many train together.
    """

    def __init__(self, model: TransferModel, anatomy: Anatomy, plan: Optimization, shard: tuple[int, int]) -> None:
        self.model, self.anatomy, self.plan, self.shard = model, anatomy, plan, shard
        self.device = next(model.parameters()).device
        self.moved: set[str] = set()  # groups that have ever been live
        self.precision: StepPrecision = plan.precision
        self.live: nn.Module = Live(model, len(anatomy.names) + 1)
        self._rates: dict[str, float] = {}
        self._moving: list[tuple[str, nn.Parameter]] = []  # what the next step changes
        self._average: dict[str, Tensor] = {}
        self._average_steps = 0
        self._optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "group": name, "weight_decay": decay, "lr": 0.0}
                for name in (*anatomy.names, HEAD)
                for parameters, decay in self._by_decay(name)
                if parameters
            ],
            betas=plan.betas,
            fused=self.device.type in ("cpu", "cuda"),
        )

    def _by_decay(self, group: str) -> tuple[tuple[list[nn.Parameter], float], tuple[list[nn.Parameter], float]]:
        parameters = [p for key, p in self.anatomy.named({group}) if not is_adapter(key)]
        decayed = [parameter for parameter in parameters if parameter.ndim > 1]
        return (decayed, self.plan.weight_decay), ([p for p in parameters if p.ndim <= 1], 0.0)

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, *, precision: StepPrecision | None = None) -> None:
        """Let exactly these groups train at these rates; through low-rank adapters where their rank is given.

        Normalisation layers keep their stored statistics in every group, live ones too: with a few hundred photos
        the statistics of a batch are worse than those of the pre-training. So no module ever enters training mode,
        unless the plan wants the statistics of batches, and then for the length of a step.

        Raises:
            BadSetting: adapters are wanted and no layer of these groups can have one, or PEFT is missing;
                or the device has no such precision.
        """
        self.precision = precision or self.plan.precision
        frozen(self.model)
        self._rates = dict(rates)
        if adapter and set(rates) != {HEAD}:
            self._adapt(set(rates), adapter)
        named = self.anatomy.named(rates)
        self._moving = [
            (key, p) for key, p in named if is_adapter(key) == bool(adapter) or self.anatomy.owner(key) == HEAD
        ]
        for _, parameter in self._moving:
            parameter.requires_grad_(True)
        if self.plan.average:
            self._average |= {key: p.detach().clone() for key, p in self._moving if key not in self._average}
        self.moved |= set(rates)
        live = [place for place, name in enumerate(self.anatomy.names) if name in rates]
        first = min(live, default=self.model.head_input)
        self.live = Live(self.model, first if self.anatomy.within is None or not live else 0)

    def _adapt(self, groups: set[str], rank: int) -> None:
        """Put adapters into these groups, and slots for them into the optimizer."""
        before = {key for key, _ in self.model.named_parameters()}
        add_adapters(self.model, lambda key: self.anatomy.owner(key) in groups - {HEAD}, rank)
        for key, parameter in self.model.named_parameters():
            if is_adapter(key) and key not in before:
                # No decay: it would pull the sum towards the pre-trained weights, where it began anyway.
                self._optimizer.add_param_group(
                    {"params": [parameter], "group": self.anatomy.owner(key), "weight_decay": 0.0, "lr": 0.0}
                )

    def step(self, inputs: Tensor, start: int, batch: Batch, *, scale: float, key: int) -> Tensor:
        """One update by inputs that enter at the cut at position `start`; the loss stays on the device."""
        optimizer = self._optimizer
        for group in optimizer.param_groups:
            group["lr"] = self._rates.get(group["group"], 0.0) * scale
        bf16 = torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16")
        with self._training(key), bf16, QuickGradients():
            logits = self.live(inputs, start).float()
        labels = torch.from_numpy(batch.labels).to(self.device)
        each = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.plan.label_smoothing)
        loss = (each * torch.from_numpy(batch.weights.astype(np.float32)).to(self.device)).sum()
        # Processes average their gradients, while the weights of a batch sum to 1 over all of them together.
        torch.autograd.backward(loss * self.shard[1])
        if self.plan.clip:
            nn.utils.clip_grad_norm_((p for p in self.model.parameters() if p.requires_grad), self.plan.clip)
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
        if self.plan.statistics == "stored":
            return []
        return [
            module
            for name, module in self.model.named_modules()
            if getattr(module, "running_mean", None) is not None
            and self.anatomy.owner(f"{name}.running_mean") in self._rates
        ]

    def _follow(self) -> None:
        if not self.plan.average:
            return
        self._average_steps += 1
        decay = averaging.decay(self.plan.average, self._average_steps)
        live = [(self._average[key], p.detach()) for key, p in self._moving]
        torch._foreach_lerp_([average for average, _ in live], [p for _, p in live], 1 - decay)

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """What thawing and stepping change within is put back, to the bit."""
        held = (self._rates, self.moved, self._moving, self._average)
        others = (self._average_steps, self.live, self.precision)
        wanted = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        self.moved, self._average = set(self.moved), dict(self._average)
        try:
            with torch.random.fork_rng(devices=[]):
                yield
        finally:
            self._rates, self.moved, self._moving, self._average = held
            self._average_steps, self.live, self.precision = others
            for parameter, flag in wanted.items():
                parameter.requires_grad_(flag)

    @contextlib.contextmanager
    def values_kept(self) -> Iterator[None]:
        """What steps change within is put back, to the bit."""
        optimizer = self._optimizer
        moving = [p for _, p in self._moving]
        changing = [*(p.data for p in moving), *self.anatomy.buffers().values(), *self._average.values()]
        values = [tensor.clone() for tensor in changing]
        slots = {
            p: {key: value.clone() for key, value in optimizer.state[p].items()} for p in moving if p in optimizer.state
        }
        try:
            yield
        finally:
            for tensor, value in zip(changing, values, strict=True):
                tensor.copy_(value)
            for parameter in moving:
                optimizer.state.pop(parameter, None)
            for parameter, kept in slots.items():
                optimizer.state[parameter] = kept

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """While open, the moving average stands in for the weights."""
        return averaging.swapped(self._swap)

    def _swap(self) -> None:
        for key, parameter in self.model.named_parameters():
            if key in self._average:
                parameter.data, self._average[key] = self._average[key], parameter.data

    def restart_average(self) -> None:
        """From the weights as they are now: what it remembers belongs to others."""
        self._average = {key: p.detach().clone() for key, p in self.model.named_parameters() if key in self._average}

    def state(self) -> dict[str, np.ndarray]:
        """Weights that have moved, their slots and step counts, the average."""
        kept: dict[str, np.ndarray] = {"average_steps": np.array(self._average_steps)}
        for key, parameter in self.anatomy.named(self.moved):
            kept[f"weight/{key}"] = copied(parameter)
            if key in self._average:
                kept[f"average/{key}"] = copied(self._average[key])
            for slot, value in self._optimizer.state[parameter].items() if parameter in self._optimizer.state else ():
                kept[f"slot/{slot}/{key}"] = copied(value)
        if self.plan.statistics == "batch":
            moved = {
                key: value for key, value in self.anatomy.buffers().items() if self.anatomy.owner(key) in self.moved
            }
            kept |= {f"buffer/{key}": copied(value) for key, value in moved.items()}
        return kept

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from `state()`; call `thaw` afterwards, as at the start of a stage."""
        adapters = {key[7:]: value for key, value in state.items() if key.startswith("weight/") and is_adapter(key)}
        if adapters:
            self._adapt({self.anatomy.owner(key) for key in adapters}, rank_of(adapters))
        named, buffers = dict(self.model.named_parameters()), self.anatomy.buffers()
        self._average_steps = int(state["average_steps"])
        for full, value in state.items():
            what, _, key = full.partition("/")
            tensor = torch.from_numpy(np.array(value))
            if what == "weight":
                named[key].data.copy_(tensor)
                self.moved.add(self.anatomy.owner(key))
            elif what == "buffer":
                buffers[key].copy_(tensor)
            elif what == "average":
                self._average[key] = tensor.to(self.device)
            elif what == "slot":
                slot, _, key = key.partition("/")
                # AdamW's fused kernel wants its step counts where the weights are.
                self._optimizer.state[named[key]][slot] = tensor.to(self.device)


def frozen(model: nn.Module) -> None:
    """No weight of it moves, and no layer is in training mode."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
