"""Fill in the report's page: one HTML file that needs no script, no other file and no host."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from headstart import amounts
from headstart.report import advice, charts, numbers, sentences, trust
from headstart.report.drawing import Chart, missing
from headstart.report.pictures import LABEL_ERRORS, MOVED, Pictures, grouped

if TYPE_CHECKING:
    from jinja2 import Environment

Facts = dict[str, Any]
WEAKEST = 20  # classes whose figures are open to view where there are many; the others unfold
FILTERS: dict[str, Callable[..., str]] = {
    "percent": numbers.percent,
    "interval": numbers.interval,
    "count": numbers.count,
    "plain": numbers.plain,
    "several": numbers.several,
    "listed": numbers.listed,
    "duration": amounts.duration,
    "moved": sentences.moved,
    "kept": sentences.kept,
    "sure": numbers.sure,
    "milliseconds": numbers.milliseconds,
    "day": numbers.day,
    "took": lambda seconds: numbers.NOTHING if seconds is None else amounts.duration(seconds),
}
CONTENTS = [
    ("accuracy", "Accuracy"),
    ("data", "Data"),
    ("training", "Training"),
    ("classes", "Classes"),
    ("trust", "Confidence"),
    ("pictures", "Mistakes"),
    ("labels", "Labels"),
    ("more", "More photos?"),
    ("costs", "Cost"),
    ("use", "Use it"),
    ("again", "Reproduce"),
]


def page(facts: Facts, pictures: Pictures) -> str:
    """The whole page, as text.

    Raises:
        MissingLibrary: matplotlib or Jinja is not installed.
    """
    facts = numbers.cleaned(facts)
    template = environment().get_template("page.html.j2")
    return template.render(
        facts=facts,
        css=(files(__package__) / "templates" / "report.css").read_text(encoding="utf-8"),
        charts={name: chart.svg for name, chart in drawn(facts).items() if chart is not None},
        said=said(facts),
        advice=advised(facts),
        use=use(facts),
        made=sentences.made(facts),
        names=dict(CONTENTS),
        sure=facts["sure"],
        baselines=baselines(facts),
        photos={numbers.shown(path): shown for path, shown in pictures.photos.items()},
        pictures=pictures,
        not_shown=grouped(pictures.missing),
        moved_away=MOVED,
        most_suspected=LABEL_ERRORS,
        weakest=WEAKEST,
        weak=sorted(facts["classes"], key=lambda each: (each["f1"] is None, each["f1"]))[:WEAKEST],
        contents=CONTENTS,
        calibration=trust.calibration(facts["calibration"]),
        abstention=trust.abstention(facts["abstention"]),
        lacking=trust.lacking(facts["result"]["calibration_error"], facts["result"]["n"]),
        few=charts.FEW,
        beginning=beginning(facts),
        command=facts["run"]["command"].replace(" --", "\n--").split("\n"),
        settings=[(name.replace("_", " "), _setting(value)) for name, value in facts["settings"].items()],
    )


def environment() -> Environment:
    """Jinja with our templates and filters; everything that is filled in is escaped.

    Raises:
        MissingLibrary: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as problem:
        raise missing("jinja2", problem) from problem
    loader = PackageLoader("headstart.report")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= FILTERS
    return made


def said(facts: Facts) -> dict[str, Any]:
    """Every sentence that stands on its own."""
    return {
        each.__name__: each(facts)
        for each in (
            *(sentences.task, sentences.asked, sentences.outcome, sentences.promise),
            *(sentences.against, sentences.caveats, sentences.mistakes),
        )
    }


def advised(facts: Facts) -> dict[str, Any]:
    """What the first screen says of using the model, and of making it better."""
    return {each.__name__: each(facts) for each in (advice.verdict, advice.uses, advice.limits, advice.steps)}


def use(facts: Facts) -> list[tuple[str, str]]:
    """What to do with the model, and the commands for it."""
    run = shlex.quote(facts["run"]["path"])
    return [
        ("answer for photos", f"headstart predict {run} PHOTOS"),
        ("try it on a page of its own", f"headstart serve {run}"),
        ("see why it answers so", f"headstart explain {run} PHOTO"),
        ("test it on labelled photos from elsewhere", f"headstart evaluate {run} PHOTOS"),
        ("take it to another program or machine", f"headstart export {run} --to onnx"),
    ]


def baselines(facts: Facts) -> list[Facts]:
    """The model's accuracy and those that it is to be compared with, the model's first."""
    result = facts["result"]
    test = f"{numbers.count(result['n'])} test photos"
    rows = [
        {
            "name": "this model",
            "accuracy": result["accuracy"],
            "interval": result["accuracy_interval"],
            "on": test,
            "main": True,
        }
    ]
    if frozen := result["frozen"]:
        same = result["shipped"] == "frozen"
        rows.append(
            {
                "name": "this model, cross-validated" if same else "frozen network, before tuning",
                **{name: frozen[name] for name in ("accuracy", "interval")},
                "on": f"{numbers.count(frozen['n'])} other photos, cross-validated",
                "main": False,
            }
        )
    most = result["majority"]
    name = f"always {numbers.called(most['name'])}"
    rows.append({"name": name, "accuracy": most["accuracy"], "interval": most["interval"], "on": test, "main": False})
    return rows


def drawn(facts: Facts) -> dict[str, Chart | None]:
    """Every chart that these facts have figures for."""
    found: dict[str, Chart | None] = {
        "comparison": charts.comparison(baselines(facts)),
        "confusion": charts.confusion(facts["confusion"]["classes"], facts["confusion"]["matrix"]),
    }
    for place, stage in enumerate(facts["training"]["stages"]):
        found[f"stage-{place}"] = charts.curves(stage, f"stage-{place}")
    if bins := trust.bins(facts["calibration"]):
        found["reliability"] = charts.reliability(*bins)
    if curve := facts["more_labels"]:
        found["more_labels"] = charts.more_labels(curve)
    if spent := facts["costs"]:
        found["times"] = charts.times(spent["phases"])
    return found


def beginning(facts: Facts) -> list[tuple[str, str]]:
    """The backbone and its weights, by name and hash; and where the run lies."""
    backbone = facts["backbone"]
    rows = {
        "backbone": backbone["name"],
        "framework": facts["asked"]["framework"],
        "photos enter as": f"{backbone['size']} x {backbone['size']} pixels ({backbone.get('fit', 'crop')})",
        "hash of its weights": backbone.get("weights_hash"),
        "licence of its weights": backbone.get("licence"),
        "photos": facts["data"]["root"],
        "run": facts["run"]["path"],
    }
    return [(name, str(value)) for name, value in rows.items() if value]


def _setting(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
