"""Write what lies beside the graph in a bundle for people: a card, the classes, the licence, programs that use it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.exporting.bundle import Manifest
from headstart.exporting.format import Format
from headstart.printable import escaped
from headstart.runs import Run
from headstart.writing import write_text

CARD, LABELS, LICENCE = "README.md", "labels.txt", "LICENCE.md"
MODEL_CARD = "model-card.md"  # of a run's report


def facts(run: Run) -> dict[str, Any]:
    """The run in a few facts, for the manifest."""
    evaluation, dataset = run.evaluation, run.dataset
    counted = {split: len(dataset.only(split)) for split in ("train", "validation", "test")}
    return {
        "run": run.path.resolve().name,
        "photos": counted,
        "accuracy": evaluation.accuracy,
        "accuracy_interval": list(evaluation.accuracy_interval),
    }


def write(run: Run, manifest: Manifest, form: Format, folder: Path) -> None:
    """All of them, into the bundle's folder.

    Raises:
        DiskFull: there is no room.
    """
    programs = form.snippets(manifest)
    for name, text in programs.items():
        write_text(folder / name, text)
    write_text(folder / LABELS, "".join(f"{name}\n" for name in manifest.classes))
    write_text(folder / LICENCE, _licence(manifest))
    write_text(folder / CARD, _card(manifest, form, programs))
    if (run.path / MODEL_CARD).is_file():
        shutil.copyfile(run.path / MODEL_CARD, folder / MODEL_CARD)


def _licence(manifest: Manifest) -> str:
    name, licence = manifest.backbone.get("name", ""), manifest.backbone.get("licence", "unknown")
    return f"""# Licence

This model was made of {escaped(name)}, whose weights come under this licence: **{escaped(licence)}**.
Whoever gives the model on must keep to it. The photos that it learnt from may have terms of their own.
"""


def _card(manifest: Manifest, form: Format, programs: Mapping[str, str]) -> str:
    card: Mapping[str, Any] = manifest.card
    low, high = card["accuracy_interval"]
    more = len(manifest.classes) - 20
    shown = ", ".join(map(escaped, manifest.classes[:20])) + (f" and {more} more" if more > 0 else "")
    photos, accuracy = card["photos"], f"{card['accuracy']:.3f}"
    parts = [
        f"# {escaped(card['run'])}, as {form.name} in {manifest.precision}",
        f"Tells photos of {len(manifest.classes)} classes apart: {shown}.",
        f"- accuracy {accuracy} on {photos['test']} test photos, 95 % interval {low:.3f} to {high:.3f}\n"
        f"- made of {escaped(manifest.backbone.get('name', ''))} with {photos['train']} photos to learn from\n"
        f"- exported by headstart {manifest.headstart} on {manifest.created[:10]}\n"
        f"- under the licence of those weights, {manifest.backbone.get('licence', 'unknown')}: see `{LICENCE}`",
        "## Use it",
        "\n".join(f"- `{name}`: {_use(text)}" for name, text in programs.items())
        + f"\n- `headstart predict THIS_FOLDER PHOTOS` and `headstart serve THIS_FOLDER`{_FREELY.get(form.name, '')}",
        _borders(manifest),
    ]
    if manifest.parity:
        parts += ["## Compared with its run", _parity(manifest.parity)]
    return "\n\n".join(parts) + "\n"


_FREELY = dict.fromkeys(("onnx", "openvino", "tflite"), ", without any training framework")


def _use(program: str) -> str:
    """What a program says of itself in its first line; a page has nothing there but what it is."""
    first = program.partition("\n")[0]
    return "a page for browsers; it says how to serve it" if first.startswith("<") else first.strip('"/ ')


def _borders(manifest: Manifest) -> str:
    lines = [
        "In: `pixels`, uint8 [n h w 3], upright RGB photos of any one size. Resizing, cropping and scaling are inside.",
        "Out:",
        "- `probabilities`, float32 [n k], calibrated, in the order of `labels.txt`",
    ]
    if "distance" in manifest.outputs:
        lines.append(
            f"- `distance`, float32 [n]: above {manifest.threshold:.6g} a photo is like none of those that the model "
            f"learnt from (so says it of {manifest.false_alarms:.1%} of photos that are)"
        )
    if "heat" in manifest.outputs:
        lines.append("- `heat`, float32 [n r c k]: what each place of the photo adds to the logit of each class")
    return "\n".join([lines[0], "", lines[1], "", *lines[2:]])


def _parity(parity: Mapping[str, Any]) -> str:
    lines = [
        f"- {parity['n']} {parity['split']} photos from the bytes of their files, {parity['whole']} at their own size",
        f"- {parity['agreeing']} answers are the same, {parity['ties']} are ties",
        f"- probabilities differ by up to {parity['largest']:.2g}, by {parity['mean']:.2g} on average",
        f"- accuracy {parity['accuracy']:.3f} on them, the run's {parity['run_accuracy']:.3f}",
    ]
    return "\n".join(lines)
