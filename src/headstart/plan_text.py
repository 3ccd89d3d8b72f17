"""Write what a dry run found out, for people: the data, the network, the stages, and what each part takes."""

from __future__ import annotations

from typing import Any

from headstart.aligned import columns
from headstart.amounts import duration

Row = tuple[str, ...]


def plan_text(plan: dict[str, Any]) -> str:
    """The facts, what each part takes, and what does not fit and why."""
    parts = [columns(_facts(plan)), columns(_costs(plan)), "\n".join(_changes(plan))]
    return "\n\n".join(part for part in parts if part)


def _facts(plan: dict[str, Any]) -> list[Row]:
    """What would be done, a line each."""
    photos = ", ".join(f"{count} {split}" for split, count in plan["photos"].items())
    skipped = f"; {plan['skipped']} files are not used" if plan["skipped"] else ""
    forecast, recipe = plan["forecast"], plan["recipe"]
    cached = f", {forecast['cached']} of {forecast['photos']} photos are in the cache" if forecast["cached"] else ""
    solved = ", solved exactly" if recipe["probe"] else ""
    views = f"; judged by {' and '.join(recipe['views'])} views" if len(recipe["views"]) > 1 else ""
    return [
        ("data", plan["data"]),
        ("photos", f"{photos}, of {len(plan['classes'])} classes{skipped}"),
        ("backbone", f"{plan['backbone']} at {plan['pixels']} pixels, fit {plan['fit']}"),
        ("features", f"by {forecast['computed_by']}{cached}"),
        ("head", f"{recipe['head']}{solved}{views}"),
        *(row for stage in recipe["stages"] for row in _stage(stage, plan)),
    ]


def _stage(stage: dict[str, Any], plan: dict[str, Any]) -> list[Row]:
    name = stage["name"] or f"unfreeze-{stage['unfreeze']}"
    rates = ", ".join(f"{group} {rate:.2g}" for group, rate in plan["rates"].get(name, {}).items())
    lora = f" through adapters of rank {stage['lora']}" if stage["lora"] else ""
    return [(f"stage {name}", f"{stage['epochs']} epochs in batches of {stage['batch_size']}{lora}; rates {rates}")]


def _costs(plan: dict[str, Any]) -> list[Row]:
    """What each part takes, as a table; the total is its last row."""
    forecast = plan["forecast"]
    rows: list[Row] = [("part", "time", "GFLOP", "cache", "work")]
    for phase in forecast["phases"]:
        work = "; ".join(filter(None, ("done by now" if phase["done"] else "", phase["work"])))
        rows.append((phase["name"], duration(phase["seconds"]), _gflop(phase), _megabytes(phase), work))
    limit = "" if forecast["limit"] is None else f"; the limit is {duration(forecast['limit'])}"
    gflop = sum(phase["gflop"] for phase in forecast["phases"])
    room = sum(phase["bytes"] for phase in forecast["phases"])
    total = {"gflop": gflop, "bytes": room}
    rows.append(("total", duration(forecast["seconds"]), _gflop(total), _megabytes(total), f"on this machine{limit}"))
    return rows


def _changes(plan: dict[str, Any]) -> list[str]:
    """What is left out or shortened, and why; and what was found out by measuring."""
    found = [f"{name}: {decision}" for name, decision in plan["decisions"].items()]
    return [*plan["forecast"]["changes"], *found]


def _gflop(phase: dict[str, Any]) -> str:
    return f"{phase['gflop']:,.0f}" if phase["gflop"] >= 0.5 else "-"


def _megabytes(phase: dict[str, Any]) -> str:
    return f"{phase['bytes'] / 1e6:,.1f} MB" if phase["bytes"] else "-"
