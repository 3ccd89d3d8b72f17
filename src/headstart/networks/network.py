"""What a framework must be able to do for a network to be trained here. Everything above speaks only this.

Arrays that cross this border are NumPy: images `uint8 [n h w c]`, features `float32 [n d]` or `[n h w c]`,
logits `float32 [n k]`. What enters at a cut may be float16 too, and counts as the same numbers in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from headstart.heads import Head, LinearHead, Native
from headstart.novelty import Novelty

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped, UInt8

HEAD = "head"  # the name of the group that is new
OUTPUTS = ("probabilities", "distance", "heat")  # of a whole model, in this order; the last two where it has them

StepPrecision = Literal["fp32", "bf16"]  # what a training step computes in; weights and slots are fp32 in any case


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring layers that are thawed together."""

    name: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    flops: int  # multiply-adds times two, of one forward pass of one item at the backbone's own size


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where a single tensor crosses from the groups before to the groups after.

    `after` counts the groups before it: 0 is the input. `"map"` and `"pooled"` both follow the last group.
    """

    name: str
    after: int


INPUT = Cut("input", 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees: `inputs` enter the network at the cut `start`.

    `weights` sum to 1 over the whole batch of all processes; a padding item weighs 0.
    """

    inputs: Shaped[np.ndarray, "n ..."]
    labels: Int[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]
    start: Cut = INPUT


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How weights move, the same for every stage of a recipe."""

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0  # largest norm of the gradient of all live weights
    label_smoothing: float = 0.0
    average: float = 0.0  # decay of the moving average of the weights per step; 0 keeps none
    precision: StepPrecision = "fp32"  # of stages that do not choose one
    statistics: Literal["stored", "batch"] = "stored"  # batch: live normalisation layers learn theirs, from scratch


@dataclass(frozen=True, kw_only=True)
class Own:
    """The framework's own optimizer, loss and metrics, as a user made them.

    Optimizer and loss stand in place of those of the `Optimization`. A stage's rates replace the optimizer's own; the
    optimizer that was given is copied and never changed.
    """

    optimizer: Any = None
    loss: Any = None
    metrics: tuple[Any, ...] = ()


class Network(Protocol):
    """A pre-trained network without its top, and from `set_head` on with a new one.

    A group that no `thaw` has named is frozen: its parameters and buffers keep their bits, and its
    normalisation uses its stored statistics, also while groups above it train.
    """

    @property
    def groups(self) -> tuple[Group, ...]:
        """The backbone's groups from input to output; the head is not among them."""

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The legal boundaries from input to output; the first is `INPUT`, the last is `"pooled"`."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures."""

    @property
    def engine(self) -> str:
        """Library, version, device: part of what identifies features, e.g. `torch-2.13.0-cpu`."""

    @property
    def concurrency(self) -> int:
        """How many threads may call `features` at the same time with profit: the cores on a CPU, 1 on a GPU."""

    def concurrent(self, workers: int) -> AbstractContextManager[None]:
        """While open, `workers` threads share the processor: each call of `features` uses its own share."""

    def features(
        self, inputs: Shaped[np.ndarray, "n ..."], upto: Cut, start: Cut = INPUT
    ) -> Float[np.ndarray, "n ..."]:
        """What crosses the cut `upto`, in inference mode. Rows do not depend on each other."""

    def part(self, upto: Cut, start: Cut = INPUT) -> Any:
        """The framework's own model of what lies between two cuts, for runtimes that convert or compile it.

        It takes and gives what `features` does, on the same weights: PyTorch a module, Keras a model.
        """

    @property
    def head_cut(self) -> Cut:
        """The cut that the head stands on."""

    def set_head(self, head: Head | LinearHead | Native, classes: int, *, seed: int = 0) -> None:
        """Put a new head on: layers with fresh weights drawn from `seed`, or the exact linear solution.

        Raises:
            BadSetting: the user's own layers do not fit.
        """

    @property
    def moved(self) -> frozenset[str]:
        """The groups that have been thawed since the head was put on: they are no longer as pre-trained."""

    @property
    def shard(self) -> tuple[int, int]:
        """The process's number and how many train together; each takes its slice of every batch."""

    def leading(self) -> AbstractContextManager[None]:
        """While it is open in the first process, the others wait to enter: for work whose result all find on disk."""

    def agree(self, value: float) -> float:
        """The first process's value, in every process; call it in all of them. For choices that hang on a clock."""

    def prepare(self, plan: Optimization, own: Own | None = None) -> None:
        """Make the optimizer, with a slot for everything that will ever move. Needs a head.

        Raises:
            BadSetting: the user's own optimizer or loss is not one of this framework.
        """

    def check_adapters(self, groups: Collection[str]) -> None:
        """Nothing, if these groups can train through adapters.

        Raises:
            BadSetting: the network knows no adapters, the groups have no layer for them, or PEFT is missing.
        """

    @property
    def precisions(self) -> tuple[StepPrecision, ...]:
        """Those that a training step can compute in here; `fp32` is the first. Which is faster, `rehearse` tells."""

    def thaw(self, rates: Mapping[str, float], adapter: int = 0, *, precision: StepPrecision | None = None) -> None:
        """Let exactly these groups (and `HEAD`) train, at these rates; freeze all others. Slots are kept.

        With a rank in `adapter`, groups train through low-rank adapters of their dense layers, which `weights` adds in.
        `precision` is that of all steps until the next `thaw`; None: the plan's. It is no part of `state`.

        Raises:
            BadSetting: as `check_adapters`; or no step can compute in this precision here.
        """

    def rehearse(self, batch: Batch, rates: Mapping[str, float] | None = None, *, precision: StepPrecision) -> float:
        """Seconds that a step on such a batch takes in this precision once it is warm: the lowest of a few.

        It steps as if `thaw(rates)` had just been called, or as the network is thawed where there are none. Nothing
        changes by it, to the bit: no weight, slot, step count, average, statistic, gradient or random state, nor which
        groups are live or have `moved`. With several processes all of them call it, and each gives its own time.

        Raises:
            BadSetting: no step can compute in this precision here.
        """

    def step(self, batch: Batch, *, scale: float, key: int) -> Any:
        """One update at `scale` times the rates; `key` seeds dropout. Gives a loss that is still on the device."""

    def read(self, losses: Sequence[Any]) -> list[float]:
        """Wait for these losses and give them as numbers: the only synchronisation."""

    def logits(self, inputs: Shaped[np.ndarray, "n ..."], start: Cut = INPUT) -> Float[np.ndarray, "n k"]:
        """The answers, in inference mode and full precision."""

    def measured(self, labels: Int[np.ndarray, "n"], logits: Float[np.ndarray, "n k"]) -> dict[str, float]:
        """The user's own metrics for these answers, by name; empty without any."""

    def averaged(self) -> AbstractContextManager[None]:
        """While open, the moving average of the weights stands in for the weights. Without one: no change."""

    def weights(self) -> dict[str, np.ndarray]:
        """Every parameter and buffer of backbone and head by name, copied."""

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Put such weights back; names and shapes must match exactly."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything an interrupted training needs: weights that move, slots, step counts, the average."""

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from `state()`, to the same bits; `prepare` comes before and `thaw` after."""

    def to(self, device: str) -> None:
        """Move to `cpu`, `cuda`, `mps` or `auto`. Call before `prepare`."""

    @property
    def native(self) -> Any:
        """The framework's own model with preprocessing, backbone and head, from pixels 0..255.

        PyTorch: `[n 3 h w]` to logits. Keras: `[n h w 3]` to probabilities.
        """

    def gradients(
        self, pictures: UInt8[np.ndarray, "n h w c"], classes: Int[np.ndarray, "n"], cut: Cut | None = None
    ) -> tuple[Float[np.ndarray, "n ..."], Float[np.ndarray, "n ..."]]:
        """What crosses the cut, by default the last map, and the gradient there of the logit of each picture's class.

        Both `[n h w d]`, or `[n t d]` where the backbone gives tokens; in inference mode. `cut` lies before the head's.
        Nothing of the network changes, to the bit: no weight, statistic, gradient, random state, nor what is live.
        """

    def whole(self, *, temperature: float, views: Sequence[str], novelty: Novelty | None, heat: bool) -> Any:
        """The framework's own model of everything from photos to answers, for the formats of export.

        In: `pixels uint8 [n h w 3]`, upright photos of any one size. Out, in this order and by these names, the
        `outputs` of `headstart.exporting.bundle.Manifest`: `probabilities` at this temperature, averaged over these
        views; `distance` where there is a `novelty`; `heat` where it is asked for (see `linear_on_mean`). The photo is
        brought to the backbone's square as `headstart.modalities.frames` does it, its rounding included. PyTorch: a
        module that gives a tuple. Keras: a model made of Keras's own layers and operations, which gives a dictionary.
        """

    @property
    def linear_on_mean(self) -> tuple[Float[np.ndarray, "d k"], Float[np.ndarray, "k"]] | None:
        """Weights and bias of the head, where logits are linear in the mean over the places of the last map.

        Then `map @ weights / places` is what each place adds to each logit: with the bias it sums to the logit. None
        for other heads and poolings, and where the backbone gives tokens, not all of which may be places.
        """

    def save(self, folder: Path, *, classes: Sequence[str], temperature: float, views: Sequence[str]) -> None:
        """Write the framework's own file of the whole model, where it has one that needs no code of ours to load.

        It gives the probabilities of the finished model: at this temperature, averaged over these views of a photo.
        """
