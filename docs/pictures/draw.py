"""Draw the guide's pictures of what measure.py found, and write its figures into the guide's text.

    python docs/pictures/draw.py FLOWERS

Needs the extra `docs`. FLOWERS is the folder of photos that was measured on; which of them are shown, a lot decides.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
GUIDE = HERE.parent / "seven-steps.md"
MEASURED = re.compile(r"(?<=pictures/draw\.py -->\n).*?(?=<!-- end -->)", re.DOTALL)
INK, GREY, BLUE, ORANGE, RED, GREEN = "#222222", "#8a8f98", "#2f6fb0", "#d9822b", "#c0392b", "#2e7d4f"
RATE_COLOURS = {1e-05: GREEN, 0.0001: BLUE, 0.001: RED}
MIDDLE = 1e-4  # the rate that the guide uses
COLUMNS = 5


def read() -> dict[str, Any]:
    """What measure.py found."""
    found: dict[str, Any] = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    return found


def figures(found: dict[str, Any]) -> str:
    """The guide's paragraph and table of results."""
    parts, rows = found["parts"], found["steps"]["rows"]
    k = len(found["steps"]["classes"])
    main = [row for row in rows if row["rate"] == MIDDLE]
    sums = {name: len(found[name]["seconds"]) - 1 for name in ("tutorial", "first", "again")}
    spent = {name: found[name]["seconds"][-1] for name in sums}
    lines = [
        f"{k} kinds of flowers at {found['size']} pixels; of each {parts['train']} photos to train, "
        f"{parts['validation']} to validate, {parts['test']} to test; VGG16, the Keras code above",
        f"with 10 epochs of the head and 6 of `block5`, from {len(main)} seeds.",
        "",
        "| seed | test accuracy, head alone | with block5 | its 95 % interval |",
        "|---|---|---|---|",
    ]
    for row in main:
        low, high = row["interval"]
        lines.append(f"| {row['seed']} | {row['head_test']:.3f} | {row['test']:.3f} | {low:.3f} to {high:.3f} |")
    low, high = found["solved"]["interval"]
    lines += [
        "",
        "The linear head that you get when you ask for none, solved in place of trained, reaches "
        f"{found['solved']['test']:.3f} ({low:.3f} to {high:.3f}) with",
        "the backbone frozen.",
    ]
    lines += ["", "How fast `block5` learns, from seed 0; the best epoch is kept, or the weights from before:", ""]
    lines += [
        "| rate | validation accuracy before | lowest after | highest after | test accuracy |",
        "|---|---|---|---|---|",
    ]
    for row in sorted((row for row in rows if row["seed"] == 0), key=lambda row: float(row["rate"])):
        before, after = _sides(row)
        lines.append(
            f"| {row['rate']:g} | {before[-1]:.2f} | {min(after):.2f} | {max(after):.2f} | {row['test']:.3f} |"
        )
    lines += [
        "",
        f"Processor seconds of a whole process with {sums['tutorial']} epochs of the head: "
        f"{spent['tutorial']:.0f} with the tutorials' code, {spent['first']:.0f} with",
        f"headstart, and {spent['again']:.0f} when it was run again. Of the first, starting Python and TensorFlow and "
        f"loading VGG16 takes {found['tutorial']['seconds'][0]:.0f}.",
    ]
    return "\n".join(lines) + "\n"


def _sides(row: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Validation accuracy, epoch by epoch: of the head's stage, and of block5's."""
    head = [accuracy for stage, _, accuracy in row["curve"] if stage == "head"]
    return head, [accuracy for _, _, accuracy in row["curve"][len(head) :]]


def _plain(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, color=INK, pad=8)
    axis.set_xlabel(x, color=INK)
    axis.set_ylabel(y, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)


def curves(found: dict[str, Any], plt: Any) -> Any:
    """Training loss and validation accuracy: the head alone, then block5 too."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.7), layout="constrained")
    rows = found["steps"]["rows"]
    heads = [sum(stage == "head" for stage, _, _ in row["curve"]) for row in rows]
    boundary = heads[0]
    for row in sorted(rows, key=lambda row: row["rate"] != MIDDLE):
        x = np.arange(1, len(row["curve"]) + 1)
        loss, accuracy = (np.array([epoch[place] for epoch in row["curve"]]) for place in (1, 2))
        width = 2.2 if row["seed"] == 0 else 1.0
        if row["rate"] == MIDDLE:
            left.plot(x[:boundary], loss[:boundary], color=GREY, linewidth=width)
            left.plot(x[boundary - 1 :], loss[boundary - 1 :], color=BLUE, linewidth=width)
        if row["seed"] == 0:
            if row["rate"] == MIDDLE:
                right.plot(x[:boundary], accuracy[:boundary], color=GREY, linewidth=2.2, label="head alone")
            colour, fuller = RATE_COLOURS[row["rate"]], f"block5, rate {row['rate']:g}"
            right.plot(x[boundary - 1 :], accuracy[boundary - 1 :], color=colour, linewidth=2.2, label=fuller)
    left.set_yscale("log")
    _plain(left, "Training loss, three seeds", "epoch", "loss")
    _plain(right, "Validation accuracy, seed 0", "epoch", "share of right answers")
    for axis in (left, right):
        axis.axvline(boundary, color=INK, linewidth=0.8, linestyle=":")
        axis.text(boundary + 0.1, 1.01, "block5 joins", transform=axis.get_xaxis_transform(), fontsize=8.5, color=INK)
    right.legend(frameon=False, fontsize=8.5, loc="best")
    return figure


def time(found: dict[str, Any], plt: Any) -> Any:
    """Processor seconds after each epoch."""
    figure, axis = plt.subplots(figsize=(7.2, 3.5), layout="constrained")
    lines = {
        "tutorial": ("tutorials' code: the frozen network in every epoch", ORANGE),
        "first": ("headstart: once", BLUE),
        "again": ("headstart, run again: out of the cache", GREEN),
    }
    top = max(found["tutorial"]["seconds"])
    for name, (label, colour) in lines.items():
        seconds = found[name]["seconds"]
        axis.plot(range(len(seconds)), seconds, color=colour, linewidth=2.2, marker="o", markersize=4, label=label)
        axis.annotate(
            f"{seconds[-1]:.0f} s",
            (len(seconds) - 1, seconds[-1]),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=10,
        )
    axis.set_ylim(0, top * 1.08)
    axis.set_xlim(-0.1, len(found["tutorial"]["seconds"]) - 0.55)
    axis.set_xticks(range(len(found["tutorial"]["seconds"])))
    _plain(axis, "Where the time goes", "epochs of the head that are done", "processor seconds since the start")
    axis.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def answers(found: dict[str, Any], plt: Any, flowers: Path) -> Any:
    """One test photo a class, drawn by lot, and some of the mistakes."""
    from PIL import Image

    classes = found["steps"]["classes"]
    main = next(row for row in found["steps"]["rows"] if "answers" in row)
    everything = main["answers"]
    lot = [everything[place] for place in np.random.default_rng(1).permutation(len(everything))]
    upper = [next(each for each in lot if each["truth"] == label) for label in range(len(classes))]
    wrong = [each for each in lot if each["truth"] != each["answer"] and each not in upper]
    mistakes = sum(each["truth"] != each["answer"] for each in everything)
    figure, axes = plt.subplots(2, COLUMNS, figsize=(9.6, 4.9), layout="constrained")
    for axis, each in zip(axes.flat, [*upper, *wrong[:COLUMNS]], strict=False):
        path = flowers / Path(*Path(each["path"]).parts[1:])  # without the split's folder
        with Image.open(path) as photo:
            axis.imshow(photo.convert("RGB").resize((170, 170)))
        right = each["truth"] == each["answer"]
        said = f"{classes[each['answer']]}  {each['probability']:.2f}"
        axis.set_title(said, color=GREEN if right else RED, fontsize=11)
        axis.set_xlabel("" if right else f"labelled {classes[each['truth']]}", color=INK, fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("one a class, by lot", fontsize=9, color=INK)
    axes[1, 0].set_ylabel(f"{min(COLUMNS, len(wrong))} of {mistakes} mistakes", fontsize=9, color=INK)
    return figure


def save(figure: Any, name: str, *, dpi: int = 120, colours: int = 256) -> None:
    """A small PNG: so many colours are enough."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, facecolor="white")
    picture = Image.open(drawn).convert("RGB").quantize(colours)
    picture.save(HERE / f"{name}.png", optimize=True)


def main(flowers: Path) -> None:
    """Write the pictures, and the figures into the guide."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9.5, "axes.edgecolor": "#999999", "xtick.color": INK, "ytick.color": INK})
    found = read()
    save(curves(found, pyplot), "curves")
    save(time(found, pyplot), "time")
    save(answers(found, pyplot, flowers), "answers", dpi=90, colours=128)
    GUIDE.write_text(MEASURED.sub(figures(found), GUIDE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
