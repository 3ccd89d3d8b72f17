"""Train the live groups of a Keras network: optimizer, step, moving average, and what a checkpoint needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from headstart.errors import BadSetting
from headstart.networks import averaging
from headstart.networks.keras_engine import Compiled, Engine, Tensor
from headstart.networks.keras_graph import Piece
from headstart.networks.keras_head import seeds_of
from headstart.networks.keras_losses import cross_entropy, given
from headstart.networks.keras_optimizer import clipped, rated
from headstart.networks.keras_weights import Named, copy_of, switch, thaw, value_of
from headstart.networks.network import HEAD, Batch, Optimization, Own, StepPrecision


class Trainer:
    """AdamW, or the user's own optimizer, over all weights of a model; `thaw` says which move.

    Args:
        engine: compiles the steps.
        pieces: the backbone's groups.
        head: the new top.
        named: every weight and statistic of both.
        constants: what steps read besides.
        answer: what enters at the cut of a position, and that position -> logits, in training mode.
        plan: how weights move.
        own: what the user gave in place of parts of the plan.

    Raises:
        BadSetting: the user's own optimizer or loss is not one of Keras.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        pieces: Sequence[Piece],
        head: Any,
        named: Sequence[Named],
        constants: Sequence[keras.Variable],
        answer: Callable[[Tensor, int], Tensor],
        plan: Optimization,
        own: Own,
    ) -> None:
        self.plan, self.own = plan, own
        self.moved: set[str] = set()  # groups that have ever been live
        self.precision: StepPrecision = "fp32"
        self.traces = 0  # how often a step was compiled
        self._engine, self._pieces, self._head, self._answer = engine, pieces, head, answer
        self._named, self._constants = named, constants
        self._order = [*(piece.name for piece in pieces), HEAD]
        self._seeds = seeds_of(head)
        self._compiled: dict[tuple[Any, ...], Compiled] = {}
        self._rates: dict[str, float] = {}
        self._counts: dict[str, int] = {}  # steps that each group has made
        self._average: dict[str, keras.Variable] = {}
        self._average_steps = 0
        self._one_loss = False  # whether the user's loss gives one number for all items of a batch
        self._weights = [each for each in named if each.parameter]  # what the optimizer has slots for
        self._optimizer = self._made_optimizer()
        engine.place(self._optimizer.variables)
        self._criterion = cross_entropy(plan.label_smoothing) if own.loss is None else given(own.loss)

    def _made_optimizer(self) -> Any:
        chosen, plan = self.own.optimizer, self.plan
        if chosen is None:
            chosen = keras.optimizers.AdamW(weight_decay=plan.weight_decay, beta_1=plan.betas[0], beta_2=plan.betas[1])
        places = {name: place for place, name in enumerate(self._order)}
        try:
            with self._engine.scope():
                return rated(
                    keras.optimizers.get(chosen),
                    [named.variable for named in self._weights],
                    [places[named.group] for named in self._weights],
                    adam=self._engine.adam,
                )
        except (ValueError, TypeError) as problem:
            name = chosen if isinstance(chosen, str) else type(chosen).__name__
            raise BadSetting(
                f"optimizer {name!r} cannot be used: {str(problem).splitlines()[0]}",
                fix="use one of keras.optimizers, 'adam' for instance, at one rate",
            ) from problem

    def _of(self, groups: Mapping[str, float] | set[str]) -> list[Named]:
        """What belongs to these groups, in the model's own order."""
        return [named for named in self._named if named.group in groups]

    @property
    def _live(self) -> list[Named]:
        return [named for named in self._of(self._rates) if named.parameter]

    def _slots(self, of: Sequence[Named]) -> list[keras.Variable]:
        wanted = {id(named.variable) for named in of}
        slots: list[tuple[int, keras.Variable]] = self._optimizer.slots
        return [slot for index, slot in slots if id(self._weights[index].variable) in wanted]

    @property
    def _free_slots(self) -> list[keras.Variable]:
        """What the optimizer keeps that belongs to no weight: its count of all steps, for instance."""
        owned = {id(slot) for _, slot in self._optimizer.slots}
        return [variable for variable in self._optimizer.variables if id(variable) not in owned]

    # ---- what is live

    def thaw(self, rates: Mapping[str, float], *, precision: StepPrecision = "fp32") -> None:
        """Let exactly these groups train at these rates; slots, and compiled steps of the same groups, are kept."""
        self._rates, self.precision = dict(rates), precision
        self._switch_groups()
        self.moved |= set(rates)
        if self.plan.average:
            with self._engine.scope():
                for named in self._live:
                    if named.name not in self._average:
                        self._average[named.name] = copy_of(named.variable)
            self._engine.place(list(self._average.values()))

    def _switch_groups(self) -> None:
        for piece in self._pieces:
            if piece.name in self._rates:
                switch(piece.layers, True) if self.plan.statistics == "batch" else thaw(piece.layers)
            else:
                switch(piece.layers, False)
        # A normalisation in the head is new: it has statistics to learn. Before the first stage, the head is free.
        switch(self._head.layers, HEAD in self._rates or not self._rates)

    # ---- a step

    def step(self, batch: Batch, start: int, *, scale: float, key: int) -> Tensor:
        """One update by inputs that enter at the cut at position `start`; the loss stays on the device."""
        name = (start, frozenset(self._rates), self.precision)
        if name not in self._compiled:
            self._compiled[name] = self._compile(start)
        self._average_steps += 1
        batch = _divisible(batch, self._engine.devices)
        # The shape of the seeds: each copy's, each layer's, the two numbers of one.
        draws = (self._engine.copies, len(self._seeds), 2)
        arrays = (
            batch.inputs,
            batch.labels.astype(np.int32),
            batch.weights.astype(np.float32),
            np.array([self._rates.get(group, 0.0) * scale for group in self._order], np.float32),
            np.array([self._counts.get(group, 0) for group in self._order], np.float32),
            np.random.default_rng(key).integers(0, 2**32, draws, np.uint32),
            np.float32(averaging.decay(self.plan.average, self._average_steps)),
        )
        with self._engine.multiplying_in_bf16(self.precision == "bf16"):
            loss = self._compiled[name](*arrays)
        if self._one_loss and np.ptp(batch.weights[batch.weights > 0]) > 1e-9:
            raise BadSetting(
                "the loss gives one number for a whole batch, so that pictures cannot count by their weights",
                fix="let it give one number for each picture, or train without weights",
            )
        for group in self._rates:
            self._counts[group] = self._counts.get(group, 0) + 1
        return loss

    def _compile(self, start: int) -> Compiled:
        live, optimizer, seeds = self._live, self._optimizer, self._seeds
        weights = [named.variable for named in live]
        learning_too = set(self._rates) if self.plan.statistics == "batch" else {HEAD}
        statistics = [named.variable for named in self._of(learning_too) if not named.parameter]
        averages = [self._average[named.name] for named in live] if self.plan.average else []
        clip = self.plan.clip if self.own.optimizer is None else 0.0

        def update(inputs: Any, labels: Any, shares: Any, rates: Any, counts: Any, keys: Any, decay: Any) -> Any:
            self.traces += 1
            for place, seed in enumerate(seeds):
                seed.assign(keys[self._engine.replica, place])

            def loss() -> Any:
                logits = self._answer(inputs, start)
                penalties = sum(self._head.losses, start=0.0) / self._engine.copies
                each = self._criterion(labels, logits)
                self._one_loss = not len(each.shape)
                return ops.sum(each * shares) + penalties

            value, gradients = self._engine.gradients(loss, weights, statistics)
            if clip:
                gradients = clipped(gradients, clip)
            optimizer.pace.rates, optimizer.pace.counts = rates, counts
            optimizer.apply(gradients, weights)
            for average, weight in zip(averages, weights, strict=bool(averages)):
                average.assign(average + (weight - average) * ops.cast(1 - decay, average.dtype))
            return value

        slots = self._slots(live)
        changes = [*weights, *statistics, *slots, *self._free_slots, *averages, *seeds]
        known = {id(variable) for variable in changes}
        reads = [named.variable for named in self._named if id(named.variable) not in known]
        return self._engine.compile(update, reads=[*reads, *self._constants], changes=changes, shared=3)

    # ---- steps that leave no trace

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """What thawing and stepping change within is put back, to the bit."""
        held = (self._rates, self.precision, self._counts, self.moved, self._average, self._average_steps)
        self._counts, self.moved, self._average = dict(self._counts), set(self.moved), dict(self._average)
        try:
            yield
        finally:
            self._rates, self.precision, self._counts, self.moved, self._average, self._average_steps = held
            self._switch_groups()

    @contextlib.contextmanager
    def values_kept(self) -> Iterator[None]:
        """What steps change within is put back, to the bit."""
        named = self._of({*self._rates, HEAD})
        slots = [*self._slots([each for each in named if each.parameter]), *self._free_slots]
        changing = [*(each.variable for each in named), *slots, *self._average.values(), *self._seeds]
        values = [value_of(variable) for variable in changing]
        try:
            yield
        finally:
            for variable, value in zip(changing, values, strict=True):
                variable.assign(value)
            self._engine.place(changing)

    # ---- the moving average

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """While open, the moving average stands in for the weights."""
        return averaging.swapped(self._swap)

    def _swap(self) -> None:
        for named in self._named:
            if named.name in self._average:
                average = self._average[named.name]
                weight, mean = value_of(named.variable), value_of(average)
                named.variable.assign(mean)
                average.assign(weight)

    def restart_average(self) -> None:
        """From the weights as they are now: what it remembers belongs to others."""
        by_name = {named.name: named.variable for named in self._named}
        for name, average in self._average.items():
            average.assign(value_of(by_name[name]))
        self._engine.place(list(self._average.values()))

    # ---- keeping

    def state(self) -> dict[str, np.ndarray]:
        """Weights that have moved, their slots and step counts, the average."""
        kept: dict[str, np.ndarray] = {"average_steps": np.array(self._average_steps)}
        kept |= {f"count/{group}": np.array(count) for group, count in self._counts.items()}
        kept |= {f"free/{place}": value_of(variable) for place, variable in enumerate(self._free_slots)}
        for named in self._of(self.moved):
            kept[f"weight/{named.name}"] = value_of(named.variable)
            if named.name in self._average:
                kept[f"average/{named.name}"] = value_of(self._average[named.name])
            for place, slot in enumerate(self._slots([named])):
                kept[f"slot/{place}/{named.name}"] = value_of(slot)
        return kept

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from `state()`; call `thaw` afterwards, as at the start of a stage."""
        by_name = {named.name: named for named in self._named}
        self._average_steps = int(state["average_steps"])
        for full, value in state.items():
            what, _, name = full.partition("/")
            if what == "count":
                self._counts[name] = int(value)
            elif what == "free":
                self._free_slots[int(name)].assign(value)
            elif what == "weight":
                by_name[name].variable.assign(value)
                self.moved.add(by_name[name].group)
            elif what == "average":
                with self._engine.scope():
                    self._average[name] = copy_of(by_name[name].variable)
                self._average[name].assign(value)
            elif what == "slot":
                place, _, name = name.partition("/")
                self._slots([by_name[name]])[int(place)].assign(value)


def _divisible(batch: Batch, devices: int) -> Batch:
    """The batch with as many copies of its last item, at weight 0, as all devices need to get the same number."""
    missing = -len(batch.labels) % devices
    if not missing:
        return batch
    inputs, labels = (np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]) for a in (batch.inputs, batch.labels))
    return Batch(inputs, labels, np.append(batch.weights, np.zeros(missing)), batch.start)
