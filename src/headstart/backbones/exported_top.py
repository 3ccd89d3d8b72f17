"""Take the top off a program: find where its features are, by the layer that a user names or by what its end does."""

from __future__ import annotations

from headstart.backbones.exported import Program, Step, Value, Weight, described
from headstart.errors import BadBackbone
from headstart.registry import closest

# What stands behind a classifier and changes nothing about which class is the likeliest.
_AFTER = ("softmax", "_softmax", "log_softmax", "_log_softmax", "sigmoid", "to", "_to_copy", "clone", "contiguous")
_SHAPES = ("flatten", "reshape", "view", "squeeze", "clone", "contiguous", "to")


def topless(program: Program, cut: str | None, what: str) -> Program:
    """The program up to its features: the output of the layer `cut`, or what enters the last linear layer.

    Where that is the mean of a map the features are the map, whose mean is taken anyway.

    Raises:
        BadBackbone: there is no such layer, it gives no features, or the program has several results and no cut.
    """
    if cut is None and not program.result:
        raise BadBackbone(
            f"{what} gives several results",
            fix=f"name the layer that gives the features with --cut, one of {_known(program)}",
        )
    value = _end(program) if cut is None else _of_layer(program, cut, what)
    step = program.step(value)
    if step is None:
        raise BadBackbone(f"{what} does nothing before its classifier", fix="choose another network")
    if not step.moving or len(step.shape) not in (2, 3, 4) or (None in step.shape[1:] and len(step.shape) < 4):
        raise BadBackbone(
            f"{what} gives {described(step.shape)} at layer {step.layer!r}, which are no features of each picture",
            fix="name a layer with --cut whose output is a map [n c h w], a sequence [n t d] or a vector [n d]",
        )
    return program.upto(value)


def place(program: Program, what: str) -> str:
    """A sentence about where the features are taken."""
    step = program.step(program.result)
    assert step is not None, "a program without its top has steps"
    layer = f"layer {step.layer!r}" if step.layer else f"its operation {step.name!r}"
    return f"{what}: features are taken at {layer}, {described(step.shape)}; --cut LAYER takes them elsewhere"


def _of_layer(program: Program, cut: str, what: str) -> str:
    """What the layer gives to the rest: the last value that it makes."""
    inside = [step for step in program.steps if step.layer == cut or step.layer.startswith(f"{cut}.")]
    if not inside:
        raise BadBackbone(
            f"{what} has no layer {cut!r} that computes anything",
            fix=closest(cut, _layers(program)) or f"name one of {_known(program)}",
        )
    return inside[-1].gives[0]


def _layers(program: Program) -> list[str]:
    """The modules, from the picture to the result."""
    names = [step.layer.split(".") for step in program.steps if step.layer]
    return list(dict.fromkeys(".".join(path[:depth]) for path in names for depth in range(1, len(path) + 1)))


def _known(program: Program) -> str:
    top = [name for name in _layers(program) if name.count(".") < 2]
    return ", ".join(top if len(top) < 13 else [*top[:6], "…", *top[-6:]])


def _end(program: Program) -> str:
    classifier = _back(program, program.result, (*_AFTER, *_SHAPES))
    step = program.step(classifier)
    if step is None or not _classifies(program, step):
        return program.result
    entering = step.args[1 if step.name == "addmm" else 0]
    return _unpooled(program, entering.name) if isinstance(entering, Value) else program.result


def _classifies(program: Program, step: Step) -> bool:
    """Whether this is a linear layer on a vector for each picture, also in the shape of a convolution."""
    weights = [part.name for part in step.args if isinstance(part, Weight)]
    if not weights or not step.moving:
        return False
    if step.name in ("linear", "addmm"):
        return len(step.shape) == 2
    return step.name == "conv2d" and step.shape[2:] == (1, 1) and program.tensors[weights[0]].shape[2:] == (1, 1)


def _back(program: Program, value: str, through: tuple[str, ...]) -> str:
    """The value from which this one comes by these operations alone."""
    step = program.step(value)
    while step is not None and step.name in through and isinstance(step.args[0], Value):
        value = step.args[0].name
        step = program.step(value)
    return value


def _unpooled(program: Program, value: str) -> str:
    """The map whose mean this value is; else the value itself."""
    pooled = _back(program, value, _SHAPES)
    step = program.step(pooled)
    if step is None or not step.args or not isinstance(step.args[0], Value):
        return value
    source = program.step(step.args[0].name)
    if source is None or len(source.shape) != 4 or not source.moving:
        return value
    sides = {axis % 4 for axis in step.args[1]} if step.name == "mean" and isinstance(step.args[1], list) else set()
    globally = sides == {2, 3} or (step.name in ("adaptive_avg_pool2d", "avg_pool2d") and step.shape[2:] == (1, 1))
    return source.gives[0] if globally and _exactly(step, source) else value


def _exactly(step: Step, source: Step) -> bool:
    """Whether an average over a window is one over the whole map."""
    return step.name != "avg_pool2d" or tuple(step.args[1]) * (2 // len(step.args[1])) == source.shape[2:]
