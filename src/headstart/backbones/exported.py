"""Hold a PyTorch network as plain data, a list of known operations on named tensors: no code in it, so none can run.

A run keeps such a program, and a `.pt2` file that `torch.export.save` wrote is read as one. PyTorch's own reader is not
used for either: it unpickles, looks up any function of `torch` by its name, and evaluates texts as Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.errors import BadBackbone

OPERATORS = frozenset({"add", "sub", "mul", "floordiv", "mod", "neg", "getitem"})  # on lengths of axes
# Operations of ATen that compute values from values. What reads files, prints or hands out raw memory is not here.
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
_ATEN = """
abs acos adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add addbmm addcdiv addcmul addmm alias amax amin
arange argmax argmin asin atan atan2 avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bitwise_and bitwise_not
bitwise_or bmm broadcast_to cat ceil celu channel_shuffle chunk clamp clamp_max clamp_min clone col2im concat
concatenate constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d convolution cos
cosine_similarity cumsum detach diagonal div divide dot einsum elu embedding eq erf exp expand expand_as expm1 eye
fill flatten flip floor floor_divide fold full full_like gather ge gelu glu grid_sampler group_norm gt hardsigmoid
hardswish hardtanh im2col index index_select instance_norm isnan layer_norm le leaky_relu lerp lift_fresh_copy
linalg_norm linalg_vector_norm linear linspace log log1p log_sigmoid log_softmax logical_and logical_not logical_or
logsumexp lt masked_fill matmul max max_pool1d max_pool2d max_pool2d_with_indices maximum mean meshgrid min minimum
mish mm movedim moveaxis mul multiply mv nan_to_num narrow native_batch_norm native_group_norm native_layer_norm
_native_batch_norm_legit_no_training ne neg new_full new_ones new_zeros norm ones ones_like outer pad permute
pixel_shuffle pixel_unshuffle pow prelu prod reciprocal reflection_pad1d reflection_pad2d relu relu6 remainder repeat
repeat_interleave replication_pad1d replication_pad2d reshape reshape_as rms_norm roll rot90 round rsqrt rsub
scalar_tensor scaled_dot_product_attention select selu sigmoid sign silu sin slice softmax _softmax _log_softmax
softplus softshrink split split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims
sym_size t take_along_dim tan tanh tensor_split threshold tile to _to_copy topk transpose tril triu true_divide
type_as unbind unflatten unfold unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d var var_mean view view_as where zeros zeros_like
"""
KNOWN = frozenset(_ATEN.split())


@dataclass(frozen=True, slots=True)
class Value:
    """What an earlier operation gave, or the picture."""

    name: str


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter or buffer by its full name."""

    name: str


@dataclass(frozen=True, slots=True)
class Length:
    """How long the batch is, as an earlier value shows."""

    name: str


@dataclass(frozen=True, slots=True)
class Named:
    """A constant of PyTorch: `dtype` float32, `memory_format` channels_last."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation. Its arguments are numbers, texts, lists and the four classes above."""

    op: str  # `aten.conv2d.default`, or `operator.mul` on lengths of axes
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    gives: tuple[str, ...]  # names of the results; with `several` they are a tuple
    several: bool = False
    layer: str = ""  # full name of the module that did it
    shape: tuple[int | None, ...] = ()  # of the first result; None where it depends on the picture, as the batch does
    moving: bool = False  # whether the first axis of the first result is the batch

    @property
    def name(self) -> str:
        """The operation's own name, without its family and variant."""
        return self.op.split(".")[1]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter or buffer, without its values."""

    shape: tuple[int, ...]
    dtype: str
    parameter: bool


@dataclass(frozen=True, kw_only=True)
class Program:
    """A network: `picture` `[n c h w]` in, the value `result` out."""

    picture: str
    shape: tuple[int | None, ...]  # of the picture; None is any
    steps: tuple[Step, ...]
    result: str
    tensors: Mapping[str, Tensor]

    def step(self, value: str) -> Step | None:
        """The operation that gives this value; None for the picture."""
        return next((step for step in self.steps if value in step.gives), None)

    def upto(self, value: str) -> Program:
        """The part that `value` needs."""
        needed, kept = {value}, []
        for step in reversed(self.steps):
            if needed & set(step.gives):
                kept.append(step)
                needed |= {part.name for part in parts(step) if isinstance(part, Value | Length)}
        steps = tuple(reversed(kept))
        used = {part.name for step in steps for part in parts(step) if isinstance(part, Weight)}
        return replace(
            self, steps=steps, result=value, tensors={name: t for name, t in self.tensors.items() if name in used}
        )

    def check(self, what: str) -> None:
        """Refuse operations that are not known to compute and do nothing else.

        Raises:
            BadBackbone: there is one.
        """
        for name in self.tensors:
            # PyTorch writes the names into the source text of the module that it makes.
            if not _NAME.fullmatch(name):
                raise BadBackbone(f"{what} calls a tensor {name!r}", fix="name it by letters, digits, _ and - only")
        for step in self.steps:
            family, _, rest = step.op.partition(".")
            name, _, variant = rest.partition(".")
            known = name in OPERATORS if family == "operator" else family == "aten" and name in KNOWN
            if not known or "out" in variant or not all(option.isidentifier() for option in step.options):
                raise BadBackbone(
                    f"{what} does {step.op!r} in layer {step.layer!r}, which is not an operation that may be kept",
                    fix="build the network from the layers of torch.nn, or cut it before that layer with --cut",
                )

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return {
            "picture": self.picture,
            "shape": list(self.shape),
            "result": self.result,
            "steps": [_step_to_json(step) for step in self.steps],
            "tensors": {n: [list(t.shape), t.dtype, t.parameter] for n, t in self.tensors.items()},
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Program:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is no such thing.
        """
        return cls(
            picture=str(given["picture"]),
            shape=tuple(given["shape"]),
            steps=tuple(_step_from_json(step) for step in given["steps"]),
            result=str(given["result"]),
            tensors={
                str(name): Tensor(tuple(map(int, shape)), str(dtype), bool(parameter))
                for name, (shape, dtype, parameter) in given["tensors"].items()
            },
        )


def parts(step: Step) -> Iterator[Any]:
    """Everything that the arguments of this operation are made of."""
    waiting: list[Any] = [*step.args, *step.options.values()]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting += part
        else:
            yield part


def mapped(argument: Any, change: Any) -> Any:
    """The argument with `change` done to everything in it that is no list."""
    if isinstance(argument, list | tuple):
        return [mapped(part, change) for part in argument]
    return change(argument)


_WORDS = {Value: "value", Weight: "weight", Length: "length"}


def _step_to_json(step: Step) -> dict[str, Any]:
    def plain(part: Any) -> Any:
        if isinstance(part, Named):
            return {part.kind: part.name}
        if (isinstance(part, float) and part != part) or part in (float("inf"), float("-inf")):
            return {"float": str(part)}
        return {_WORDS[type(part)]: part.name} if type(part) in _WORDS else part

    return {
        "op": step.op,
        "args": mapped(step.args, plain),
        "options": {name: mapped(value, plain) for name, value in step.options.items()},
        "gives": list(step.gives),
        "several": step.several,
        "layer": step.layer,
        "shape": list(step.shape),
        "moving": step.moving,
    }


def _step_from_json(given: Mapping[str, Any]) -> Step:
    def own(part: Any) -> Any:
        if not isinstance(part, Mapping):
            if part is not None and not isinstance(part, bool | int | float | str):
                raise TypeError(part)
            return part
        [(word, name)] = part.items()
        known = next((kind for kind, said in _WORDS.items() if said == word), None)
        if word == "float":
            return float(name)
        return known(str(name)) if known is not None else Named(str(word), str(name))

    return Step(
        op=str(given["op"]),
        args=tuple(mapped(given["args"], own)),
        options={str(name): mapped(value, own) for name, value in given["options"].items()},
        gives=tuple(map(str, given["gives"])),
        several=bool(given["several"]),
        layer=str(given["layer"]),
        shape=tuple(given["shape"]),
        moving=bool(given["moving"]),
    )


def described(shape: Sequence[int | None]) -> str:
    """A shape in words, without the batch: `a map of 7 x 7 x 512`, `a sequence of 50 x 768`, `a vector of 512`."""
    kinds = {1: "a vector", 2: "a sequence", 3: "a map"}
    own = list(shape[1:])
    sides = [*own[1:], own[0]] if len(own) == 3 else own
    return f"{kinds.get(len(own), 'features')} of {' x '.join('any' if side is None else str(side) for side in sides)}"
