"""Write down what a verb gave back: as text for people, as JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from headstart.aligned import columns
from headstart.plan_text import plan_text
from headstart.printable import cell

if TYPE_CHECKING:
    from headstart.backbones.backbone import Entry
    from headstart.dry_run import Plan
    from headstart.explaining.explanation import Explanation
    from headstart.exporting.bundle import Bundle
    from headstart.prediction import Prediction
    from headstart.runs import Run
    from headstart.store import CacheUsage

SHOWN = 200  # lines of a list that nobody narrowed
FIRST = 10  # then so many of each source


def as_json(result: Any) -> str:
    """The result as one JSON value."""
    return json.dumps(plain(result), indent=2, default=str, allow_nan=False)


def plain(value: Any) -> Any:
    """What JSON can say: a run or a plan as its summary, an evaluation as in its file, other dataclasses by field."""
    for words in ("summary", "to_json"):
        if hasattr(value, words):
            return plain(getattr(value, words)())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for "not a number"
    return value


def trained_text(result: Run | Plan) -> str:
    """How well a run does and where it lies, or what a plan would do."""
    facts = plain(result)
    if "forecast" in facts:
        return plan_text(facts)
    if "run" not in facts or "test" not in facts:
        return facts_text(facts)
    low, high = facts["accuracy_interval"]
    photos = ", ".join(f"{count} {split}" for split, count in facts["photos"].items())
    skipped = f"; {facts['skipped']} skipped, see skipped.csv" if facts["skipped"] else ""
    lines = [("note", note) for note in facts["notes"]]
    lines += [
        ("photos", photos + skipped),
        ("accuracy", f"{facts['accuracy']:.3f} on the test photos, 95 % interval {low:.3f} to {high:.3f}"),
        *([("balanced", _balanced(facts["test"]))] if facts.get("class_weights") else []),
        *([("unsure", _abstained(facts["unsure"]))] if facts.get("unsure") else []),
        ("run", facts["run"]),
        *([("report", facts["report"])] if facts.get("report") else []),
        ("next", f"headstart predict {shlex.quote(facts['run'])} PHOTOS"),
    ]
    return columns(lines)


def _balanced(test: dict[str, Any]) -> str:
    low, high = test["balanced_accuracy_interval"]
    return f"{test['balanced_accuracy']:.3f} with each class counted alike, {low:.3f} to {high:.3f}"


def exported_text(bundle: Bundle) -> str:
    """Where a bundle lies, how large it is, how it compares with its run, and the program to copy."""
    manifest, path = bundle.manifest, bundle.path
    parity = manifest.parity
    agreed = f"{parity['agreeing']} of {parity['n']} answers as the run's, probabilities within {parity['largest']:.1e}"
    lost = f"; accuracy {parity['accuracy']:.3f}, the run's {parity['run_accuracy']:.3f}"
    low, high = parity["lost_interval"]
    loss = f"{lost}, lost {parity['lost']:.3f} ({low:.3f} to {high:.3f})" if parity["tolerance"] is None else ""
    program = path / "use.py"
    lines = [
        ("bundle", str(path)),
        ("format", f"{manifest.format}, {manifest.precision}"),
        ("size", f"{sum(file.bytes for file in manifest.files.values()) / 1e6:,.1f} MB"),
        ("parity", agreed + loss),
        ("next", f"headstart predict {shlex.quote(str(path))} PHOTOS"),
        *([("or", f"python {shlex.quote(str(program))} PHOTO, which is:")] if program.is_file() else []),
    ]
    text = f"\n\n{program.read_text(encoding='utf-8').rstrip()}" if program.is_file() else ""
    return columns(lines) + text


def _abstained(unsure: dict[str, Any]) -> str:
    return f"of {unsure['unsure']} of {unsure['n']} test photos, as of any that is like none of the training"


def facts_text(result: Any) -> str:
    """Every fact in a result, one a line."""
    return columns(_lines(plain(result), ""))


def _lines(facts: dict[str, Any], above: str) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, item in facts.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(item, dict):
            lines += _lines(item, f"{name} ")
        else:
            lines.append((name, _words(item)))
    return lines


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_words(item) for item in value) or "-"
    return "-" if value is None else str(value)


def predictions_text(predictions: Sequence[Prediction]) -> str:
    """Path, name and probability, one line a photo; a photo that cannot be read has its reason.

    Where any is unsure, a column says which.
    """
    rows = [("path", "label", "probability", "unsure")]
    rows += [
        (p.path, f"- ({p.error})", "", "") if p.error else (p.path, p.label, f"{p.probability:.3f}", _unsure(p))
        for p in predictions
    ]
    return columns(rows if any(p.unsure for p in predictions) else [row[:3] for row in rows])


def _unsure(prediction: Prediction) -> str:
    return "unsure" if prediction.unsure else ""


def predictions_csv(predictions: Sequence[Prediction]) -> str:
    """The same as CSV, numbers in full; `unsure` and `distance` are empty where the model cannot tell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "probability", "error", "unsure", "distance"))
    for p in predictions:
        unsure = "" if p.unsure is None else str(p.unsure).lower()
        distance = "" if p.distance is None else p.distance
        probability = "" if p.error else p.probability
        writer.writerow((cell(p.path), cell(p.label), probability, cell(p.error or ""), unsure, distance))
    return text.getvalue().rstrip("\n")


def explained_text(explanation: Explanation) -> str:
    """What was answered, which class is explained and how, and where the picture lies."""
    answer, label = explanation.answer, explanation.label
    sure = f"{explanation.probabilities[answer]:.3f}"
    strange = "unsure: it is like none of the training photos; else " if explanation.unsure else ""
    lines = [("photo", explanation.photo), ("answer", f"{strange}{answer}, probability {sure}")]
    if label != answer:
        lines.append(("explained", f"{label}, probability {explanation.probability:.3f}"))
    return columns([*lines, ("method", explanation.method), ("picture", str(explanation.picture))])


def backbones_text(entries: Sequence[Entry]) -> str:
    """One line a backbone; of several sources together, only so many of each as a reader looks through."""
    rows = [("name", "pixels", "features", "parameters", "here", "licence", "note")]
    shown = entries if len(entries) <= SHOWN else _first_of_each(entries)
    for e in shown:
        here = "yes" if e.available else "no"
        rows.append((e.name, str(e.size), str(e.width), f"{e.parameters / 1e6:.1f} M", here, e.licence, e.note))
    left = Counter(_source(e) for e in entries) - Counter(_source(e) for e in shown)
    more = [f"{count} more of {source}: headstart backbones {source}/" for source, count in left.items()]
    return "\n".join([columns(rows), *([""] if more else []), *more])


def _first_of_each(entries: Sequence[Entry]) -> list[Entry]:
    """The first of each source and those that are on this machine; all where there is one source alone."""
    if len({_source(e) for e in entries}) == 1:
        return list(entries)
    seen: Counter[str] = Counter()
    shown = []
    for entry in entries:
        seen[_source(entry)] += 1
        if entry.available or seen[_source(entry)] <= FIRST:
            shown.append(entry)
    return shown


def _source(entry: Entry) -> str:
    return entry.name.partition("/")[0]


def cache_text(usage: CacheUsage) -> str:
    """Place, size and limit, and a line for each way of computing features."""
    total = columns([("cache", str(usage.root)), ("size", f"{_megabytes(usage.bytes)} of {_megabytes(usage.limit)}")])
    rows = [("features of", "photos", "size", "last used")] + [
        (shelf.what, str(shelf.items), _megabytes(shelf.bytes), f"{shelf.last_used:%Y-%m-%d %H:%M}")
        for shelf in usage.shelves
    ]
    beside = [("beside them", "size")] + [(each.what, _megabytes(each.bytes)) for each in usage.beside]
    tables = [columns(table) for table in (rows, beside) if len(table) > 1]
    return "\n\n".join([total, *tables])


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
