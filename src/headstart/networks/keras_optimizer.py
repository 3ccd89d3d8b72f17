"""Give any Keras optimizer a rate and a step count of its own for each group of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


class Pace:
    """How fast each weight moves in the step that is being traced: tensors, so that new rates need no new trace."""

    def __init__(self) -> None:
        self.rates: Any = None  # float32 `[g]`, of each group
        self.counts: Any = None  # float32 `[g]`, steps that each group has made before this one
        self.group: int | None = None  # of the weight that is being updated


class _Rated:
    """To be mixed into an optimizer's class: it updates each weight at its group's rate and by its group's count."""

    pace: Pace
    group_of: list[int]  # of the weight at each index
    decayed: set[int]  # indices of weights that decay
    slots: list[tuple[int, Any]]  # which weight each slot belongs to
    adam: Any  # the engine's own Adam in one pass over the weights, where it has one and this is Adam

    def add_variable_from_reference(self, reference_variable: Any, *arguments: Any, **options: Any) -> Any:
        """A slot, remembered with the index of its weight."""
        slot = super().add_variable_from_reference(reference_variable, *arguments, **options)  # type: ignore[misc]
        self.slots.append((self._get_variable_index(reference_variable), slot))  # type: ignore[attr-defined]
        return slot

    @property
    def iterations(self) -> Any:
        """Steps so far: while a weight is updated, those of its group.

        Adam corrects its averages by this count; with another group's count, the first update of a group that joins
        late would be up to three times its rate.
        """
        pace = self.pace
        return super().iterations if pace.group is None else pace.counts[pace.group]  # type: ignore[misc]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One update of one weight, at the rate of its group."""
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        self.pace.group = self.group_of[index]
        rate = self.pace.rates[self.pace.group]
        try:
            if self.weight_decay and index in self.decayed:  # type: ignore[attr-defined]
                decay = ops.cast(rate * self.weight_decay, variable.dtype)  # type: ignore[attr-defined]
                self.assign_sub(variable, variable * decay)  # type: ignore[attr-defined]
            if self.adam is None:
                super().update_step(gradient, variable, rate)  # type: ignore[misc]
            else:
                self.adam(
                    variable,
                    slots=(self._momentums[index], self._velocities[index]),  # type: ignore[attr-defined]
                    gradient=gradient,
                    rate=rate,
                    step=self.pace.counts[self.pace.group] + 1,
                    betas=(self.beta_1, self.beta_2),  # type: ignore[attr-defined]
                    epsilon=self.epsilon,  # type: ignore[attr-defined]
                )
        finally:
            self.pace.group = None

    def _all_reduce_sum_gradients(self, pairs: Any) -> Any:
        """As they are: several devices under TensorFlow have summed them already, to clip the sum."""
        return pairs

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing: Keras's own would decay at the rate of the optimizer; `update_step` does it at the group's."""


def rated(
    optimizer: keras.optimizers.Optimizer,
    weights: Sequence[keras.Variable],
    group_of: Sequence[int],
    *,
    adam: Callable[..., None] | None = None,
) -> Any:
    """A copy of this optimizer with slots for these weights, that moves them group by group.

    Args:
        optimizer: any of `keras.optimizers`, or a class of one's own; its settings are copied, its slots are not.
        weights: everything that will ever move.
        group_of: the position of each weight's group.
        adam: the engine's own, for an optimizer that is Adam or AdamW and nothing else.

    Raises:
        ValueError: the optimizer averages weights itself, collects gradients over steps, or has a schedule of rates.
    """
    kind = type(optimizer)
    config = optimizer.get_config()
    if config.get("use_ema") or config.get("gradient_accumulation_steps"):
        raise ValueError("it averages weights or collects gradients over several steps")
    if isinstance(config["learning_rate"], dict):
        raise ValueError("it has a schedule of rates, and a stage has its own: Stage(lr=..., schedule='constant')")
    config["learning_rate"] = 1.0  # a stage's rates stand in its place
    own: Any = type(kind.__name__, (_Rated, kind), {})
    # Before its constructor, which makes variables already.
    made = own.__new__(own)
    plain = kind in (keras.optimizers.Adam, keras.optimizers.AdamW) and not config["amsgrad"]
    first = {"pace": Pace(), "group_of": list(group_of), "decayed": set(), "slots": [], "adam": adam if plain else None}
    for name, value in first.items():
        object.__setattr__(made, name, value)
    made.__init__(**config)
    made.decayed |= {index for index, weight in enumerate(weights) if len(weight.shape) > 1}
    made.build(list(weights))
    return made


def clipped(gradients: Sequence[Any], largest: float) -> list[Any]:
    """Gradients scaled so that their norm together is at most `largest`."""
    norm = ops.sqrt(sum(ops.sum(ops.square(ops.cast(gradient, "float32"))) for gradient in gradients))
    factor = ops.minimum(1.0, largest / (norm + 1e-6))
    return [gradient * ops.cast(factor, gradient.dtype) for gradient in gradients]
