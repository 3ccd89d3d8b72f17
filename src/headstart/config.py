"""Say once what a run shall do: typed settings, read from a TOML file and from options, and written back exactly."""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from headstart.errors import BadSetting
from headstart.registry import closest

Quality = Literal["fast", "balanced", "best"]
Framework = Literal["torch", "tensorflow", "jax"]
Device = Literal["cpu", "cuda", "mps", "auto"]
Fit = Literal["crop", "pad", "squash", "best"]
Precision = Literal["auto", "fp32", "bf16", "int8"]
Switch = Literal["on", "off"]

CODE = ("factory", "allow_code")  # settings that make code of others run: never on the word of a file
RECIPE = "recipe"  # the table of a run's config.toml that says what the settings led to; not a setting itself
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
_ADAPTER = re.compile(r"lora(?::([1-9]\d{0,3}))?")
_RANK = 8  # of low-rank adapters where none is named: what most published results use
_DURATION_HINT = "write it like 90s, 10m or 1h30m, or as a number of seconds above 0"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run shall do. `None`: the recipe decides (`time_limit`: no limit; `out`: a new folder under `runs/`)."""

    data: str
    backbone: str = "bundled/efficientnet_lite0"
    out: str | None = None
    quality: Quality = "balanced"
    time_limit: float | None = None  # seconds
    seed: int = 0
    head: str = "linear"
    unfreeze: int | None = None  # how many of the backbone's last groups train; 0 = the head alone
    epochs: int | None = None
    lr: float | None = None  # of the head
    batch_size: int | None = None
    size: int | None = None  # pixels of the squares that enter the network
    device: Device = "auto"
    splits: str | None = None  # the splits.csv of an earlier run
    weights: str | None = None  # a file with the backbone's weights; none: train it from scratch
    framework: Framework | None = None  # the engine, where a backbone runs on several
    cut: str | None = None  # the layer of a user's own network that gives the features
    allow_code: bool = False  # a file that holds code may be loaded
    factory: str | None = None  # MODULE:FUNCTION or FILE.py:FUNCTION that makes the user's own network
    adapt: str | None = None  # lora, or lora:RANK: tune small additions to the layers instead of the layers
    fit: Fit | None = None  # how a photo is brought to a square; best: whichever cross-validation likes best
    class_weights: str | None = None  # none, balanced, or a file with a weight for each class
    columns: str | None = None  # of a table: path=COLUMN,label=COLUMN,split=...,group=...,weight=...
    max_pixels: int | None = None  # a photo of more is refused
    precision: Precision = "auto"  # in which the frozen part is computed
    workers: int | None = None  # threads that read, decode and compute
    report: Switch = "on"  # written at the end

    @classmethod
    def resolve(cls, config: Path | None = None, **given: Any) -> Settings:
        """Settings from what was given, else from the file, else the defaults. A given `None` counts as not given.

        Raises:
            BadSetting: the file is unreadable or broken, a key is unknown, a value cannot be used, or no data is named.
        """
        named = {name: _checked(name, value) for name, value in given.items() if value is not None}
        read = _read_file(config, named) if config is not None else {}
        if "data" not in {**read, **named}:
            raise BadSetting("no data is named", fix="name a folder of photos: headstart train FOLDER")
        return cls(**{**read, **named})

    @property
    def from_scratch(self) -> bool:
        """Whether the backbone begins with random weights."""
        return self.weights == "none"

    def command(self) -> str:
        """The command line that asks for the same again. Not `out`: that folder is there by then."""
        asked = {
            name: value
            for name, value in asdict(self).items()
            if value is not None and value is not False and name not in ("data", "out")
        }
        options = [
            word
            for name, value in asked.items()
            for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
        ]
        return shlex.join(["headstart", "train", *options, "--", self.data])


def parse_duration(text: str | float) -> float:
    """Seconds from `90s`, `10m`, `1h30m`, or from a plain number of seconds.

    Raises:
        BadSetting: it is no duration above 0.
    """
    seconds = 0.0
    if isinstance(text, str):
        match = _DURATION.fullmatch(text.strip().lower().replace(" ", ""))
        hours, minutes, rest = match.groups() if match else (None, None, None)
        seconds = 3600 * float(hours or 0) + 60 * float(minutes or 0) + float(rest or 0)
    elif not isinstance(text, bool):
        seconds = float(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise BadSetting(f"time limit {text!r} is not a duration", fix=_DURATION_HINT)
    return seconds


def adapter_rank(adapt: str | None) -> int:
    """The rank of the adapters that the setting asks for; 0 without."""
    match = _ADAPTER.fullmatch(adapt or "")
    return int(match.group(1) or _RANK) if match else 0


def to_toml(settings: Settings, recipe_tables: dict[str, Any] | None = None) -> str:
    """The text of a run's config.toml: every setting that has a value, then what they led to as `[recipe]`."""
    import tomli_w

    values: dict[str, Any] = {name: value for name, value in asdict(settings).items() if value is not None}
    if recipe_tables is not None:
        values[RECIPE] = recipe_tables
    return tomli_w.dumps(values)


def from_toml(text: str, *, source: str = "the configuration") -> Settings:
    """The settings that `to_toml` wrote; a `[recipe]` is passed over. `source` names the text in errors.

    Raises:
        BadSetting: as `Settings.resolve`.
    """
    return Settings.resolve(**_known(_parse(text, source), source))


def _read_file(path: Path, named: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in this file. What makes code run must be among those `named` outside it as well."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise BadSetting(f"config file {str(path)!r} is not UTF-8 text", fix="save it as UTF-8") from problem
    except OSError as problem:
        raise BadSetting(
            f"config file {str(path)!r} cannot be read: {problem.strerror}", fix="name a TOML file that exists"
        ) from problem
    source = f"config file {str(path)!r}"
    values = _parse(text, source)
    if RECIPE in values:  # it is a run's own: its recipe follows from the settings, and its folder is there already
        values.pop("out", None)
    for name in CODE:
        if values.get(name) and name not in named:
            option = f"--{name.replace('_', '-')}" + ("" if values[name] is True else f" {values[name]}")
            raise BadSetting(
                f"{source} asks for code to be run ({name} = {values[name]!r}), and code is only run at your own word",
                fix=f"if you trust it, say so on the command line: {option}",
            )
    return _known(values, source)


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as problem:  # also: digits without end, brackets without end
        raise BadSetting(
            f"{source} is not valid TOML: {problem}", fix='correct that line; strings need quotes: quality = "fast"'
        ) from problem


def _known(values: dict[str, Any], source: str) -> dict[str, Any]:
    """The values, checked; every key but the recipe has to be a setting."""
    settings = {name: value for name, value in values.items() if name != RECIPE}
    for name in settings:
        if name not in _EXPECT:
            known = list(_EXPECT)
            raise BadSetting(
                f"{source} has the unknown key {name!r}", fix=closest(name, known) or f"use one of {', '.join(known)}"
            )
    return {name: _checked(name, value) for name, value in settings.items()}


@dataclass(frozen=True, slots=True)
class _Expect:
    """What a value has to be, in words and as a check that gives the value in its own type, or `None`."""

    words: str
    take: Callable[[Any], Any]


def _checked(name: str, value: Any) -> Any:
    expect = _EXPECT[name]
    taken = expect.take(value)
    if taken is None:
        option = name.replace("_", " ")
        raise BadSetting(f"{option} is {value!r}, which is not {expect.words}", fix=f"give {option} as {expect.words}")
    return taken


def _text() -> _Expect:
    def take(value: Any) -> str | None:
        if not isinstance(value, str | Path) or not str(value):
            return None
        try:
            str(value).encode()  # a file name outside Unicode could not be written into config.toml
        except UnicodeEncodeError:
            return None
        return str(value)

    return _Expect("a text of Unicode characters that is not empty", take)


def _one_of(choices: tuple[str, ...]) -> _Expect:
    return _Expect(f"one of {', '.join(choices)}", lambda value: value if value in choices else None)


def _yes_or_no() -> _Expect:
    return _Expect("true or false", lambda value: value if isinstance(value, bool) else None)


def _whole(low: int, high: int = 2**63 - 1) -> _Expect:
    def take(value: Any) -> int | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return int(value) if fits else None

    top = "" if high == 2**63 - 1 else f" to {high}"
    return _Expect(f"a whole number from {low}{top}{'' if top else ' on'}", take)


def _positive() -> _Expect:
    def take(value: Any) -> float | None:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        return number if 0 < number < math.inf else None

    return _Expect("a number above 0", take)


def _adapter() -> _Expect:
    return _Expect(
        "lora, or lora:RANK such as lora:16",
        lambda value: value if isinstance(value, str) and _ADAPTER.fullmatch(value) else None,
    )


def _duration() -> _Expect:
    def take(value: Any) -> float | None:
        return parse_duration(value) if isinstance(value, str | int | float) else None

    return _Expect("a duration such as 90s, 10m or 1h30m", take)


# Every field of Settings has its rule here; a test holds the two lists together.
_EXPECT: dict[str, _Expect] = {
    "data": _text(),
    "backbone": _text(),
    "out": _text(),
    "quality": _one_of(get_args(Quality)),
    "time_limit": _duration(),
    "seed": _whole(0),
    "head": _text(),
    "unfreeze": _whole(0),
    "epochs": _whole(1),
    "lr": _positive(),
    "batch_size": _whole(1),
    "size": _whole(32, 2048),
    "device": _one_of(get_args(Device)),
    "splits": _text(),
    "weights": _text(),
    "framework": _one_of(get_args(Framework)),
    "cut": _text(),
    "allow_code": _yes_or_no(),
    "factory": _text(),
    "adapt": _adapter(),
    "fit": _one_of(get_args(Fit)),
    "class_weights": _text(),
    "columns": _text(),
    "max_pixels": _whole(1),
    "precision": _one_of(get_args(Precision)),
    "workers": _whole(1, 1024),
    "report": _one_of(get_args(Switch)),
}
