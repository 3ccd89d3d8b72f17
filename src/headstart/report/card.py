"""Write a model's card: Markdown with a YAML head, as hubs of models read it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from headstart.printable import escaped
from headstart.report import advice, sentences
from headstart.report.numbers import called, cleaned, count, interval, percent, several

Facts = dict[str, Any]
# Licences by the names that hubs know, in lower case. All others are `other` with a name.
KNOWN = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0"}
MOST_CLASSES = 100  # rows of the table of classes; report.json has them all


def card(facts: Facts) -> str:
    """The whole card. Names that strangers chose are escaped: none of them becomes markup."""
    facts = cleaned(facts)
    parts = [_head(facts), _about(facts), _use(facts), _data(facts), _figures(facts), _origin(facts)]
    return "\n\n".join(parts) + "\n"


def _head(facts: Facts) -> str:
    """YAML; a JSON string is one of YAML's."""
    licence = str(facts["backbone"].get("licence") or "unknown")
    known = licence.lower() in KNOWN
    result, source = facts["result"], str(facts["backbone"]["name"])
    lines = [
        "---",
        f"license: {licence.lower() if known else 'other'}",
        *([] if known else [f"license_name: {_yaml(re.sub(r'[^a-z0-9.-]+', '-', licence.lower()).strip('-'))}"]),
        "library_name: headstart",
        "pipeline_tag: image-classification",
        "tags:",
        "- image-classification",
        "- transfer-learning",
        "- headstart",
        *([f"base_model: {_yaml(source.removeprefix('hf/'))}"] if source.startswith("hf/") else []),
        "metrics:",
        "- accuracy",
        "- f1",
        "model-index:",
        f"- name: {_yaml(facts['name'])}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      name: {_yaml(facts['name'])}",
        "      type: imagefolder",
        "      split: test",
        "    metrics:",
        *_metric("accuracy", "Accuracy", result["accuracy"]),
        *_metric("f1", "Macro F1", result["macro_f1"]),
        "---",
    ]
    return "\n".join(lines)


def _metric(kind: str, name: str, value: float) -> list[str]:
    return [f"    - type: {kind}", f"      name: {name}", f"      value: {value:.4f}"]


def _yaml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _about(facts: Facts) -> str:
    words = [
        sentences.asked(facts),
        sentences.outcome(facts),
        f"**{sentences.promise(facts)}**",
        escaped(sentences.against(facts)),
    ]
    return f"# {escaped(facts['name'])}\n\n{escaped(sentences.task(facts))}.\n\n" + " ".join(words)


def _use(facts: Facts) -> str:
    uses = [*advice.uses(facts), "A wrong answer must do no harm, or be put right by somebody."]
    limits = [
        *advice.limits(facts),
        *sentences.caveats(facts),
        "Biases of the photos, and of those that the backbone had learnt from, are its own.",
    ]
    return f"""## Intended use

{escaped(advice.verdict(facts))}

{_listed(uses)}

## Not intended use, and limits

{_listed(limits)}"""


def _listed(words: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(each)}" for each in words)


def _data(facts: Facts) -> str:
    data, photos = facts["data"], facts["data"]["photos"]
    skipped = sum(each["files"] for each in data["skipped"])
    unused = f"; {several(skipped, 'file')} not used" if skipped else ""
    rows = [
        f"| {escaped(each['name'])} | {count(each['train'])} | {count(each['validation'])} | {count(each['test'])} |"
        for each in data["classes"][:MOST_CLASSES]
    ]
    more = [f"\n{count(len(data['classes']) - MOST_CLASSES)} more classes: see `report.json`."]
    how = "came with the data" if data["user_splits"] else "was drawn by content, near-duplicates on one side"
    return "\n".join(
        [
            "## Data",
            "",
            f"{several(sum(photos.values()), 'photo')}{unused}. The split {how}.",
            "",
            "| class | training | validation | test |",
            "|---|---:|---:|---:|",
            *rows,
            *(more if len(data["classes"]) > MOST_CLASSES else []),
        ]
    )


def _figures(facts: Facts) -> str:
    result, most = facts["result"], facts["result"]["majority"]
    rows = [
        ("accuracy", percent(result["accuracy"]), interval(result["accuracy_interval"])),
        ("balanced accuracy", percent(result["balanced_accuracy"]), interval(result["balanced_accuracy_interval"])),
        ("macro F1", percent(result["macro_f1"]), interval(result["macro_f1_interval"])),
        ("log loss, nats", f"{result['log_loss']:.3f}", "{:.3f} to {:.3f}".format(*result["log_loss_interval"])),
        ("calibration error", percent(result["calibration_error"]), ""),
        (f"always {escaped(called(most['name']))}", percent(most["accuracy"]), interval(most["interval"])),
    ]
    if frozen := result["frozen"]:
        name = f"frozen backbone, cross-validated on {several(frozen['n'], 'photo')}"
        rows.append((name, percent(frozen["accuracy"]), interval(frozen["interval"])))
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""## Figures

On {several(result["n"], "test photo")} that nothing was chosen by:

| | value | 95 % interval |
|---|---:|---:|
{lines}"""


def _origin(facts: Facts) -> str:
    backbone, stages = facts["backbone"], facts["training"]["stages"]
    trained = "; ".join(f"stage {escaped(each['name'])}: {sentences.moved(each)}" for each in stages)
    lines = [
        f"- Backbone: {escaped(backbone['name'])}, licence {escaped(backbone.get('licence') or 'unknown')}",
        f"- Hash of its weights: `{escaped(backbone.get('weights_hash') or 'unknown')}`",
        f"- Training: {trained or 'the backbone is as it was; the head on it was solved exactly'}",
        *([f"- {escaped(made)}"] if (made := sentences.made(facts)) else []),
    ]
    command = facts["run"]["command"]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return "## Where it comes from\n\n" + "\n".join(lines) + f"\n\n{fence}\n{command}\n{fence}"
