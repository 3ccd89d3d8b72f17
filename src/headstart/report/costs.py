"""Say what a run has cost and what its model will cost: seconds and work of each phase, memory, size, speed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.amounts import duration
from headstart.errors import BadRun
from headstart.planning import Forecast
from headstart.runs import Run


@dataclass(frozen=True, kw_only=True)
class PhaseCost:
    """One part of the run. None: not known, as for the parts of a run that was interrupted."""

    name: str
    work: str  # in words; empty where there is nothing to say
    gflop: float  # counted beforehand; 0 where it was not
    predicted: float | None  # seconds
    actual: float | None  # seconds


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the run took on its machine, and what an answer takes there. None: not known."""

    phases: tuple[PhaseCost, ...]  # in their order
    predicted: float | None  # seconds of all, before the work began
    actual: float | None  # seconds of all
    gflop: float  # of all phases
    peak_mb: float | None  # most memory that the process held
    photos_per_second: float | None  # decoded and computed while features were extracted; None: all were in the cache
    model_mb: float  # model.safetensors
    answer_ms: float | None  # a photo, from file bytes to probabilities, many at once with all threads
    words: str  # in a sentence or two


def costs(run: Run) -> Costs:
    """The costs of a run, from its files alone.

    Raises:
        BadRun: `plan.json` is damaged.
    """
    model = run.path / "model.safetensors"
    model_mb = model.stat().st_size / 1e6 if model.is_file() else 0.0
    path = run.path / "plan.json"
    try:
        written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        forecast = Forecast.from_json(written["predicted"]) if written else None
        return _costs(forecast, written.get("actual") or {}, model_mb)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise BadRun(
            f"{str(path)!r} does not load: {problem}", fix="delete it: the report then leaves out what the run took"
        ) from problem


def _costs(forecast: Forecast | None, actual: Mapping[str, Any], model_mb: float) -> Costs:
    planned = forecast.phases if forecast else ()
    took: Mapping[str, float] = {name: float(value) for name, value in (actual.get("phases") or {}).items()}
    known = bool(took)
    phases = [
        PhaseCost(
            name=phase.name,
            work=phase.work,
            gflop=phase.gflop,
            predicted=phase.seconds,
            # What a run that is whole has no seconds of, did not happen; but the report's own are still running.
            actual=took.get(phase.name, 0.0 if known and phase.name != "report" else None),
        )
        for phase in planned
    ]
    names = {phase.name for phase in planned}
    phases += [
        PhaseCost(name=name, work="", gflop=0.0, predicted=None, actual=seconds)
        for name, seconds in took.items()
        if name not in names
    ]
    peak, seconds = actual.get("peak_bytes"), actual.get("seconds")
    return Costs(
        phases=tuple(phases),
        predicted=forecast.seconds if forecast else None,
        actual=None if seconds is None else float(seconds),
        gflop=sum(phase.gflop for phase in phases),
        peak_mb=None if peak is None else float(peak) / 1e6,
        photos_per_second=_pace(forecast, took),
        model_mb=model_mb,
        answer_ms=1000 * forecast.answer if forecast and forecast.answer else None,
        words=_words(forecast, seconds, model_mb),
    )


def _pace(forecast: Forecast | None, took: Mapping[str, float]) -> float | None:
    computed = forecast.photos - forecast.cached if forecast else 0
    seconds = took.get("features", 0.0)
    return computed / seconds if computed and seconds else None


def _words(forecast: Forecast | None, seconds: float | None, model_mb: float) -> str:
    parts = []
    if seconds is not None:
        plan = f"; the plan had said {duration(forecast.seconds)}" if forecast else ""
        parts.append(f"The run took {duration(seconds)}{plan}.")
    answer = ""
    if forecast and forecast.answer:
        answer = f" and answers for a photo in about {1000 * forecast.answer:.1f} ms, many at once, on the same machine"
    parts.append(f"The model takes {model_mb:.1f} MB{answer}.")
    return " ".join(parts)
