"""Train and run a Keras 3 network, on TensorFlow or JAX, behind the `Network` protocol."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
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
from headstart.networks.keras_head import input_of, seeds_of, top
from headstart.networks.keras_heat import linear
from headstart.networks.keras_losses import Measures, measures
from headstart.networks.keras_native import FILE, joined, preprocessing, write
from headstart.networks.keras_training import Trainer
from headstart.networks.keras_weights import Named, named_in, switch, value_of
from headstart.networks.keras_whole import from_photos
from headstart.networks.network import HEAD, INPUT, Batch, Cut, Group, Optimization, Own, StepPrecision
from headstart.networks.rehearsal import rehearsed
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
        self._compiled: dict[tuple[Any, ...], Compiled] = {}
        self._trainer: Trainer | None = None
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
                tuple(named.name for named in self._body if named.group == piece.name and named.parameter),
                tuple(named.name for named in self._body if named.group == piece.name and not named.parameter),
                flops(piece.layers),
            )
            for piece in self._pieces
        )

    @property
    def _all(self) -> list[Named]:
        return [*self._body, *self._head_named]

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
            reads = [*(named.variable for named in used), *self._preprocess.variables, *seeds_of(self._head)]
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
        self._engine.place([*(named.variable for named in self._head_named), *seeds_of(self._head)])
        self._compiled = {key: run for key, run in self._compiled.items() if key[0] == "features"}
        self._trainer = None

    # ---- training

    @property
    def moved(self) -> frozenset[str]:
        """The groups that have been thawed since the head was put on."""
        return frozenset(self._trainer.moved if self._trainer is not None else ())

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
        self._trainer = None
        self._training_steps = self._between_cuts(learns=True) if plan.statistics == "batch" else self._steps
        self._trainer = Trainer(
            self._engine,
            pieces=self._pieces,
            head=self._head,
            named=self._all,
            constants=self._preprocess.variables,
            answer=self._training_answer,
            plan=plan,
            own=self._own,
        )
        self._measures = measures(self._own.metrics)

    def _prepared(self) -> Trainer:
        if self._trainer is None:
            self.prepare(self._plan, self._own)
        assert self._trainer is not None
        return self._trainer

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
            BadSetting: adapters are wanted, which are for PyTorch backbones; or no step can compute in this
                precision here.
        """
        if precision is not None:
            self._check_precision(precision)
        if adapter:
            self.check_adapters(rates)
        self._prepared().thaw(rates, precision=precision or "fp32")

    def _check_precision(self, precision: StepPrecision) -> None:
        if precision not in self.precisions:
            raise BadSetting(
                f"training in {precision} is not possible on {self._engine.name}",
                fix=f"use {' or '.join(self.precisions)}",
            )

    def step(self, batch: Batch, *, scale: float, key: int) -> Tensor:
        """One update; the loss stays on the device."""
        return self._prepared().step(batch, self.cuts.index(batch.start), scale=scale, key=key)

    @property
    def traces(self) -> int:
        """How often a training step was compiled since the network was prepared."""
        return self._trainer.traces if self._trainer is not None else 0

    def rehearse(self, batch: Batch, rates: Mapping[str, float] | None = None, *, precision: StepPrecision) -> float:
        """Seconds that a step on such a batch takes once it is warm; everything is put back as it was."""
        self._check_precision(precision)
        before, trainer = self._trainer, self._prepared()
        try:
            return rehearsed(self, trainer, batch, rates, precision)
        finally:
            self._trainer = before

    def read(self, losses: Sequence[Tensor]) -> list[float]:
        """Wait for these losses."""
        return [float(loss) for loss in self._engine.read(losses)]

    def measured(self, labels: Int[np.ndarray, "n"], logits: Float[np.ndarray, "n k"]) -> dict[str, float]:
        """The user's own metrics for these answers, by name."""
        return {name: measure(labels, logits) for name, measure in self._measures.items()}

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """While open, the moving average stands in for the weights."""
        return contextlib.nullcontext() if self._trainer is None else self._trainer.averaged()

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
        self._engine.place([named.variable for named in self._all])
        if self._trainer is not None:
            self._trainer.restart_average()  # it goes on from here: what it remembers belongs to other weights

    def state(self) -> dict[str, np.ndarray]:
        """Weights that have moved, their slots and step counts, the average."""
        return self._prepared().state()

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from `state()`; call `thaw` afterwards, as at the start of a stage."""
        self._prepared().load_state(state)

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


def _array(values: np.ndarray) -> Float[np.ndarray, "n ..."]:
    return np.ascontiguousarray(values, dtype=np.float32)
