"""Train and run a Keras 3 network, on TensorFlow or JAX, behind the `Network` protocol."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from keras import ops

from headstart.errors import BadSetting
from headstart.heads import Head, LinearHead, Native
from headstart.machine import cores, keep_freed_memory
from headstart.modalities.spec import InputSpec
from headstart.networks.keras_engine import Compiled, Engine, Tensor, engine
from headstart.networks.keras_graph import Piece, flattened, flops, grouped, learning, pieces, pooling
from headstart.networks.keras_head import input_of, top
from headstart.networks.keras_heat import linear
from headstart.networks.keras_losses import Criterion, Measures, cross_entropy, given, measures
from headstart.networks.keras_native import FILE, joined, preprocessing, write
from headstart.networks.keras_optimizer import clipped, rated
from headstart.networks.keras_weights import Named, copy_of, named_in, switch, thaw, value_of
from headstart.networks.keras_whole import from_photos
from headstart.networks.network import HEAD, INPUT, Batch, Cut, Group, Optimization, Own, StepPrecision
from headstart.networks.rehearsal import lowest
from headstart.novelty import Novelty
from headstart.writing import whole


class KerasNetwork:
    """A `Network` over a Keras model.

    Args:
        model: from normalised float pixels `[n h w c]` to a map `[n h w c]`, a sequence `[n t d]` or features `[n d]`.
        spec: the pictures, and the preprocessing that is added before the model.
        groups: a regular expression over names of layers (see `keras_graph.grouped`); by default by structure.
        on: the engine, by default the one that Keras runs on, with all its devices.

    Raises:
        ValueError: the model has no graph, or not one input and one output.
    """

    def __init__(
        self, model: keras.Model, *, spec: InputSpec, groups: str | None = None, on: Engine | None = None
    ) -> None:
        keep_freed_memory()
        self.spec = spec
        self.traces = 0  # how often a training step was compiled
        self._engine = on or engine()
        self.backbone = flattened(model)
        self._pieces = grouped(pieces(self.backbone), groups)
        self._preprocess = preprocessing(spec)
        self._pool = pooling(self.backbone)
        self._steps = self._between_cuts()
        self._body = [named for piece in self._pieces for named in named_in(f"backbone.{piece.name}", piece)]
        self._head: Any = None
        self._head_named: list[Named] = []
        self._head_input = len(self._steps)
        self._training_steps = self._steps
        self._plan, self._own = Optimization(), Own()
        self._measures: Measures = {}
        self._criterion: Criterion = cross_entropy(0.0)
        self._compiled: dict[tuple[Any, ...], Compiled] = {}
        self._optimizer: Any = None
        self._weights: list[Named] = []  # what the optimizer has slots for
        self._one_loss = False  # whether the user's loss gives one number for all items of a batch
        self._rates: dict[str, float] = {}
        self._precision: StepPrecision = "fp32"
        self._counts: dict[str, int] = {}  # steps that each group has made
        self._moved: set[str] = set()  # groups that have ever been live
        self._average: dict[str, keras.Variable] = {}
        self._average_steps = 0
        for piece in self._pieces:
            switch(piece.layers, False)
        self._engine.place([named.variable for named in self._body])

    # ---- what it is made of

    def _between_cuts(self, *, learns: bool = False) -> list[Callable[[Tensor], Tensor]]:
        """`_steps[i]` leads from `cuts[i]` to `cuts[i + 1]`; with `learns`, by the statistics of batches."""
        steps: list[Callable[[Tensor], Tensor]] = []
        source = self.backbone.inputs[0]
        for piece in self._pieces:
            if piece.crossing is not None:
                part = keras.Model(source, piece.crossing)
                # In inference mode otherwise: with a few hundred photos the statistics of a batch are worse than those
                # of the pre-training, and a frozen layer must not notice that others train.
                steps.append(learning(part) if learns else partial(part, training=False))
                source = piece.crossing
        first = steps[0]
        return [lambda pixels: first(self._preprocess(pixels)), *steps[1:], self._pool]

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The input, one after each group that a single tensor leaves, and the pooled features."""
        places = [place for place, piece in enumerate(self._pieces, start=1) if piece.crossing is not None]
        between = [Cut(self._pieces[place - 1].name, place) for place in places[:-1]]
        last = len(self._pieces)
        return (INPUT, *between, Cut("map", last), Cut("pooled", last))

    @property
    def _crossings(self) -> list[tuple[int, ...]]:
        """The shape of one item at each cut after the input."""
        between = [piece.crossing.shape[1:] for piece in self._pieces if piece.crossing is not None]
        return [*between, self._pool.output_shape[1:]]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The backbone's groups from input to output."""
        return tuple(
            Group(
                piece.name,
                tuple(named.name for named in self._of([piece.name]) if named.parameter),
                tuple(named.name for named in self._of([piece.name]) if not named.parameter),
                flops(piece.layers),
            )
            for piece in self._pieces
        )

    @property
    def _all(self) -> list[Named]:
        return [*self._body, *self._head_named]

    def _of(self, groups: Mapping[str, float] | Sequence[str] | set[str]) -> list[Named]:
        """What belongs to these groups, in the model's own order."""
        return [named for named in self._all if named.group in groups]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures."""
        return (self.spec.size, self.spec.size, 3)

    @property
    def engine(self) -> str:
        """Library, engine, their versions, and kind of device."""
        return f"keras-{keras.__version__}-{self._engine.name}"

    def to(self, device: str) -> None:
        """Check that the engine computes there: it took its device when it started.

        Raises:
            BadSetting: it does not, or a launcher has started several processes.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise BadSetting(
                "a Keras backbone is trained by one process, which uses all GPUs",
                fix="start headstart itself, without a launcher of several processes",
            )
        here = {"cpu": not self._engine.accelerated, "cuda": self._engine.accelerated, "auto": True}
        if not here.get(device):
            fix = "hide the GPU with CUDA_VISIBLE_DEVICES=-1" if device == "cpu" else "leave the device out"
            raise BadSetting(f"{self._engine.name} does not compute on {device!r} here", fix=fix)

    # ---- the frozen part

    @property
    def concurrency(self) -> int:
        """The cores that this process may use, or 1 on a GPU."""
        if self._engine.accelerated:
            return 1
        return cores()

    def concurrent(self, workers: int) -> contextlib.AbstractContextManager[None]:
        """Nothing to prepare: the engines share their threads among callers."""
        return contextlib.nullcontext()

    def features(
        self, inputs: Shaped[np.ndarray, "n ..."], upto: Cut, start: Cut = INPUT
    ) -> Float[np.ndarray, "n ..."]:
        """What crosses the cut `upto`."""
        begin, end = self.cuts.index(start), self.cuts.index(upto)
        run = self._once("features", (begin, end), lambda: partial(self._between, start=begin, stop=end))
        return _array(self._engine.read([run(inputs)])[0])

    def part(self, upto: Cut, start: Cut = INPUT) -> keras.Model:
        """What lies between two cuts as a model: takes and gives what `features` does."""
        begin, end = self.cuts.index(start), self.cuts.index(upto)
        shape = self.input_shape if begin == 0 else self._crossings[begin - 1]
        source = keras.Input(shape)
        return keras.Model(source, self._between(source, begin, end))

    def logits(self, inputs: Shaped[np.ndarray, "n ..."], start: Cut = INPUT) -> Float[np.ndarray, "n k"]:
        """The answers, in inference mode and fp32."""
        begin = self.cuts.index(start)
        run = self._once("logits", (begin,), lambda: lambda pixels: self._answer(pixels, begin))
        return _array(self._engine.read([run(inputs)])[0])

    def _once(self, what: str, places: tuple[int, ...], function: Callable[[], Callable[..., Any]]) -> Compiled:
        key = (what, *places)
        if key not in self._compiled:
            used = self._body if what == "features" else self._all
            reads = [*(named.variable for named in used), *self._preprocess.variables, *self._seeds]
            # Threads may come here together; all take what the first has put down.
            self._compiled.setdefault(key, self._engine.compile(function(), reads=reads))
        return self._compiled[key]

    def _between(self, inputs: Tensor, start: int, stop: int) -> Tensor:
        return _through(self._steps[start:stop], inputs)

    def _answer(self, inputs: Tensor, start: int) -> Tensor:
        return self._head(self._between(inputs, start, self._head_input), training=False)

    def _training_answer(self, inputs: Tensor, start: int) -> Tensor:
        return self._head(_through(self._training_steps[start : self._head_input], inputs), training=True)

    # ---- what an answer hangs on

    def gradients(
        self, pictures: UInt8[np.ndarray, "n h w c"], classes: Int[np.ndarray, "n"], cut: Cut | None = None
    ) -> tuple[Float[np.ndarray, "n ..."], Float[np.ndarray, "n ..."]]:
        """What crosses the cut, by default the last map, and the gradient there of the logit of each class."""
        at = len(self._steps) - 1 if cut is None else self.cuts.index(cut)

        def crossing_and_gradient(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            crossing = self._between(pixels, 0, at)

            def chosen(entering: Tensor) -> Tensor:
                return ops.sum(self._answer(entering, at) * labels)  # a row's logits hang on its own picture alone

            return crossing, self._engine.slope(chosen, crossing)

        run = self._once("gradients", (at,), lambda: crossing_and_gradient)
        crossing, gradient = self._engine.read(run(pictures, np.eye(self._classes, dtype=np.float32)[classes]))
        return _array(crossing), _array(gradient)

    @property
    def _classes(self) -> int:
        return int(self._head.output_shape[-1])

    @property
    def linear_on_mean(self) -> tuple[Float[np.ndarray, "d k"], Float[np.ndarray, "k"]] | None:
        """Weights and bias of the head, where it is linear on the mean over the places of the last map."""
        if len(self.backbone.output_shape) != 4:
            return None
        return linear(self._head.layers, self._head.input_shape[1:])

    # ---- the new top

    @property
    def head_cut(self) -> Cut:
        """The cut that the head stands on."""
        return self.cuts[self._head_input]

    def set_head(self, head: Head | LinearHead | Native, classes: int, *, seed: int = 0) -> None:
        """Put a new head on: fresh layers drawn from `seed`, the exact linear solution, or a user's own layers.

        Raises:
            BadSetting: the user's own layers do not fit.
        """
        self._head_input = len(self._steps) - (input_of(head) == "map")
        shape = self._pool.output.shape if self._head_input == len(self._steps) else self.backbone.output_shape
        self._head = top(head, shape[1:], classes, seed=seed)
        self._head_named = named_in(HEAD, Piece(HEAD, self._head.layers))
        self._engine.place([*(named.variable for named in self._head_named), *self._seeds])
        self._compiled = {key: run for key, run in self._compiled.items() if key[0] == "features"}
        self._forget()

    @property
    def _seeds(self) -> list[keras.Variable]:
        """What the head's dropout draws from."""
        found = self._head.variables if self._head is not None else []
        return [variable for variable in found if variable.name == "seed_generator_state"]

    @property
    def _draws(self) -> tuple[int, int, int]:
        """The shape of the seeds of a step: each copy's, each layer's, the two numbers of one."""
        return (self._engine.copies, len(self._seeds), 2)

    # ---- training

    @property
    def moved(self) -> frozenset[str]:
        """The groups that have been thawed since the head was put on."""
        return frozenset(self._moved)

    @property
    def shard(self) -> tuple[int, int]:
        """One process sees the whole batch and divides it among its devices."""
        return (0, 1)

    def leading(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to wait for: there is one process."""
        return contextlib.nullcontext()

    def agree(self, value: float) -> float:
        """The value: there is one process."""
        return value

    def prepare(self, plan: Optimization, own: Own | None = None) -> None:
        """Make the optimizer, AdamW or the user's own, with slots for all weights.

        Raises:
            BadSetting: the user's own optimizer or loss is not one of Keras.
        """
        self._plan, self._own = plan, own or Own()
        self._forget()
        self._training_steps = self._between_cuts(learns=True) if plan.statistics == "batch" else self._steps
        chosen = self._own.optimizer
        if chosen is None:
            chosen = keras.optimizers.AdamW(weight_decay=plan.weight_decay, beta_1=plan.betas[0], beta_2=plan.betas[1])
        places = {name: place for place, name in enumerate(self._order)}
        self._weights = [named for named in self._all if named.parameter]
        try:
            with self._engine.scope():
                self._optimizer = rated(
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
        self._engine.place(self._optimizer.variables)
        loss = self._own.loss
        self._criterion = cross_entropy(plan.label_smoothing) if loss is None else given(loss)
        self._measures = measures(self._own.metrics)

    @property
    def _order(self) -> list[str]:
        return [*(piece.name for piece in self._pieces), HEAD]

    def _forget(self) -> None:
        self._optimizer, self._weights = None, []
        self._rates, self._counts, self._moved = {}, {}, set()
        self._average, self._average_steps = {}, 0
        self._compiled = {key: run for key, run in self._compiled.items() if key[0] != "step"}

    def check_adapters(self, groups: Collection[str]) -> None:
        """Refuse them.

        Raises:
            BadSetting: always.
        """
        raise BadSetting(
            "low-rank adapters are for PyTorch backbones",
            fix="leave adapt out, or take a PyTorch transformer such as timm/vit_small_patch16_224",
        )

    @property
    def precisions(self) -> tuple[StepPrecision, ...]:
        """bf16 too, where TensorFlow computes on a processor that multiplies in it."""
        return ("fp32", "bf16") if self._engine.has_bf16 else ("fp32",)

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, *, precision: StepPrecision | None = None) -> None:
        """Let exactly these groups train at these rates; slots, and compiled steps of the same groups, are kept.

        Raises:
            BadSetting: adapters are wanted, which are for PyTorch backbones; or another precision than fp32.
        """
        if precision is not None:
            self._check_precision(precision)
        if adapter:
            self.check_adapters(rates)
        if self._optimizer is None:
            self.prepare(self._plan, self._own)
        self._rates, self._precision = dict(rates), precision or "fp32"
        self._switch_groups()
        self._moved |= set(rates)
        if self._plan.average:
            with self._engine.scope():
                for named in self._live:
                    if named.name not in self._average:
                        self._average[named.name] = copy_of(named.variable)
            self._engine.place(list(self._average.values()))

    def _switch_groups(self) -> None:
        for piece in self._pieces:
            if piece.name in self._rates:
                switch(piece.layers, True) if self._plan.statistics == "batch" else thaw(piece.layers)
            else:
                switch(piece.layers, False)
        # A normalisation in the head is new: it has statistics to learn. Before the first stage, the head is free.
        switch(self._head.layers, HEAD in self._rates or not self._rates)

    @property
    def _live(self) -> list[Named]:
        return [named for named in self._of(self._rates) if named.parameter]

    def step(self, batch: Batch, *, scale: float, key: int) -> Tensor:
        """One update; the loss stays on the device."""
        start = self.cuts.index(batch.start)
        name = ("step", start, frozenset(self._rates), self._precision)
        if name not in self._compiled:
            self._compiled[name] = self._compile_step(start)
        self._average_steps += 1
        batch = _divisible(batch, self._engine.devices)
        given = (
            batch.inputs,
            batch.labels.astype(np.int32),
            batch.weights.astype(np.float32),
            np.array([self._rates.get(group, 0.0) * scale for group in self._order], np.float32),
            np.array([self._counts.get(group, 0) for group in self._order], np.float32),
            np.random.default_rng(key).integers(0, 2**32, self._draws, np.uint32),
            # A short memory at first: a long one would hold on to the weights from before training.
            np.float32(min(self._plan.average, (1 + self._average_steps) / (10 + self._average_steps))),
        )
        with self._engine.multiplying_in_bf16(self._precision == "bf16"):
            loss = self._compiled[name](*given)
        if self._one_loss and np.ptp(batch.weights[batch.weights > 0]) > 1e-9:
            raise BadSetting(
                "the loss gives one number for a whole batch, so that pictures cannot count by their weights",
                fix="let it give one number for each picture, or train without weights",
            )
        for group in self._rates:
            self._counts[group] = self._counts.get(group, 0) + 1
        return loss

    def _check_precision(self, precision: StepPrecision) -> None:
        if precision not in self.precisions:
            raise BadSetting(
                f"training in {precision} is not possible on {self._engine.name}",
                fix=f"use {' or '.join(self.precisions)}",
            )

    def rehearse(self, batch: Batch, rates: Mapping[str, float] | None = None, *, precision: StepPrecision) -> float:
        """Seconds that a step on such a batch takes once it is warm; everything is put back as it was."""
        self._check_precision(precision)
        before = self._precision
        held = (
            self._optimizer,
            self._weights,
            self._rates,
            self._counts,
            self._moved,
            self._average,
            self._average_steps,
        )
        self._counts, self._moved, self._average = dict(self._counts), set(self._moved), dict(self._average)
        try:
            if rates is not None:
                self.thaw(rates)
            self._precision = precision
            with self._kept():
                return lowest(lambda: self.read([self.step(batch, scale=1.0, key=0)]))
        finally:
            if self._optimizer is not held[0]:
                self._forget()  # its compiled steps with it
            self._optimizer, self._weights, self._rates, self._counts, self._moved = held[:5]
            self._average, self._average_steps = held[5:]
            self._precision = before
            self._switch_groups()

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """What steps change is put back, to the bit."""
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

    def _compile_step(self, start: int) -> Compiled:
        live, optimizer, seeds = self._live, self._optimizer, self._seeds
        weights = [named.variable for named in live]
        learning_too = set(self._rates) if self._plan.statistics == "batch" else {HEAD}
        statistics = [named.variable for named in self._of(learning_too) if not named.parameter]
        averages = [self._average[named.name] for named in live] if self._plan.average else []
        clip = self._plan.clip if self._own.optimizer is None else 0.0

        def update(inputs: Any, labels: Any, shares: Any, rates: Any, counts: Any, keys: Any, decay: Any) -> Any:
            self.traces += 1
            for place, seed in enumerate(seeds):
                seed.assign(keys[self._engine.replica, place])

            def loss() -> Any:
                logits = self._training_answer(inputs, start)
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
        reads = [named.variable for named in self._all if id(named.variable) not in known]
        return self._engine.compile(update, reads=[*reads, *self._preprocess.variables], changes=changes, shared=3)

    def _slots(self, of: Sequence[Named]) -> list[keras.Variable]:
        wanted = {id(named.variable) for named in of}
        slots: list[tuple[int, keras.Variable]] = self._optimizer.slots
        return [slot for index, slot in slots if id(self._weights[index].variable) in wanted]

    @property
    def _free_slots(self) -> list[keras.Variable]:
        """What the optimizer keeps that belongs to no weight: its count of all steps, for instance."""
        owned = {id(slot) for _, slot in self._optimizer.slots}
        return [variable for variable in self._optimizer.variables if id(variable) not in owned]

    def read(self, losses: Sequence[Tensor]) -> list[float]:
        """Wait for these losses."""
        return [float(loss) for loss in self._engine.read(losses)]

    def measured(self, labels: Int[np.ndarray, "n"], logits: Float[np.ndarray, "n k"]) -> dict[str, float]:
        """The user's own metrics for these answers, by name."""
        return {name: measure(labels, logits) for name, measure in self._measures.items()}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """While open, the moving average stands in for the weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for named in self._all:
            if named.name in self._average:
                average = self._average[named.name]
                weight, mean = value_of(named.variable), value_of(average)
                named.variable.assign(mean)
                average.assign(weight)

    # ---- keeping

    def weights(self) -> dict[str, np.ndarray]:
        """Every parameter and statistic of backbone and head by name, copied."""
        return {named.name: value_of(named.variable) for named in self._all}

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Put such weights back; names and shapes must match exactly.

        Raises:
            RuntimeError: they do not.
        """
        own = {named.name: tuple(named.variable.shape) for named in self._all}
        other = {name: value.shape for name, value in weights.items()}
        if own != other:
            differing = sorted(set(own.items()) ^ set(other.items()))
            raise RuntimeError(f"{len(differing)} names or shapes differ, first {differing[0]}")
        for named in self._all:
            named.variable.assign(weights[named.name])
        for name, average in self._average.items():
            average.assign(weights[name])  # it goes on from here: what it remembers belongs to other weights
        self._engine.place([*(named.variable for named in self._all), *self._average.values()])

    def state(self) -> dict[str, np.ndarray]:
        """Weights that have moved, their slots and step counts, the average."""
        assert self._optimizer is not None, "prepare before asking for the state"
        kept: dict[str, np.ndarray] = {"average_steps": np.array(self._average_steps)}
        kept |= {f"count/{group}": np.array(count) for group, count in self._counts.items()}
        kept |= {f"free/{place}": value_of(variable) for place, variable in enumerate(self._free_slots)}
        for named in self._of(self._moved):
            kept[f"weight/{named.name}"] = value_of(named.variable)
            if named.name in self._average:
                kept[f"average/{named.name}"] = value_of(self._average[named.name])
            for place, slot in enumerate(self._slots([named])):
                kept[f"slot/{place}/{named.name}"] = value_of(slot)
        return kept

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from `state()`; call `thaw` afterwards, as at the start of a stage."""
        assert self._optimizer is not None, "prepare before loading a state"
        by_name = {named.name: named for named in self._all}
        self._average_steps = int(state["average_steps"])
        for full, value in state.items():
            what, _, name = full.partition("/")
            if what == "count":
                self._counts[name] = int(value)
            elif what == "free":
                self._free_slots[int(name)].assign(value)
            elif what == "weight":
                by_name[name].variable.assign(value)
                self._moved.add(by_name[name].group)
            elif what == "average":
                with self._engine.scope():
                    self._average[name] = copy_of(by_name[name].variable)
                self._average[name].assign(value)
            elif what == "slot":
                place, _, name = name.partition("/")
                self._slots([by_name[name]])[int(place)].assign(value)

    @property
    def native(self) -> keras.Model:
        """A `keras.Model`: uint8 pixels `[n h w 3]` in, probabilities `[n k]` out, on the very same weights."""
        return joined(self.spec, self._logits_of)

    def save(self, folder: Path, *, classes: Sequence[str], temperature: float, views: Sequence[str]) -> None:
        """Write `model.keras`, which Keras alone loads, on any engine, with preprocessing and class names inside."""
        model = joined(self.spec, self._logits_of, temperature=temperature, views=views)
        with whole(folder / FILE, fix="free some space, then resume the run") as temporary:
            write(model, temporary, classes)

    def whole(self, *, temperature: float, views: Sequence[str], novelty: Novelty | None, heat: bool) -> keras.Model:
        """From photos `uint8 [n h w 3]` of any size to a dictionary of answers, on the very same weights."""
        on_map = self._head_input < len(self._steps)
        return from_photos(
            self.spec,
            mapped=lambda pictures: self.backbone(self._preprocess(pictures)),
            pooled=self._pool,
            answered=lambda last, features: self._head(last if on_map else features),
            temperature=temperature,
            views=views,
            novelty=novelty,
            linear=self.linear_on_mean if heat else None,
        )

    def _logits_of(self, pixels: Any) -> Any:
        found = self.backbone(self._preprocess(pixels))
        return self._head(self._pool(found) if self._head_input == len(self._steps) else found)


def _through(steps: Sequence[Callable[[Tensor], Tensor]], inputs: Tensor) -> Tensor:
    if keras.backend.standardize_dtype(inputs.dtype) == "float16":
        inputs = ops.cast(inputs, "float32")  # activations are kept in half the bytes, and widened where it is fastest
    for step in steps:
        inputs = step(inputs)
    return inputs


def _divisible(batch: Batch, devices: int) -> Batch:
    """The batch with as many copies of its last item, at weight 0, as all devices need to get the same number."""
    missing = -len(batch.labels) % devices
    if not missing:
        return batch
    inputs, labels = (np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]) for a in (batch.inputs, batch.labels))
    return Batch(inputs, labels, np.append(batch.weights, np.zeros(missing)), batch.start)


def _array(values: np.ndarray) -> Float[np.ndarray, "n ..."]:
    return np.ascontiguousarray(values, dtype=np.float32)
