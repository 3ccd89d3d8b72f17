"""Draw the charts of a report, each from its part of the facts: a function a chart.

They are as wide as a phone, so that their letters can be read there, and tell series apart by more than colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headstart.amounts import duration
from headstart.evaluation.metrics import wilson
from headstart.report.drawing import (
    BLUE,
    FONT,
    INK,
    LETTER,
    LINE,
    MUTED,
    ON_BLUE,
    ORANGE,
    PAPER,
    SMALL,
    WIDTH,
    Chart,
    drawing,
    finished,
    frame,
    room_for,
)
from headstart.report.numbers import count, interval, percent, several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Facts = dict[str, Any]
MOST_CLASSES = 20  # in a confusion matrix: with more of them nobody finds a cell
FEW = 5  # photos below which a dot of the reliability diagram is small: chance moves it anywhere
NUMBERED = 14  # up to so many, cells are wide enough for their numbers


def comparison(rows: Sequence[Facts]) -> Chart:
    """Accuracies one below the other: `name`, `under` (what it was measured on), `accuracy`, `interval`, `main`."""
    height = 46.0 * len(rows) + 40
    with drawing(height) as figure:
        axes = frame(figure, left=12, right=52, bottom=34, top=4)
        for place, row in enumerate(rows):
            colour, (low, high) = (BLUE if row["main"] else MUTED), row["interval"]
            axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=7, alpha=0.3, clip_on=False)
            axes.plot([100 * row["accuracy"]], [place], "o" if row["main"] else "s", color=colour, clip_on=False)
            axes.text(0, place - 0.27, row["name"], va="center", fontweight="bold" if row["main"] else "normal")
            axes.text(102, place, percent(row["accuracy"]), va="center", color=INK, fontsize=FONT)
            axes.axhline(place, color=LINE, linewidth=0.8, zorder=0)
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.55), yticks=[], xticks=range(0, 101, 20))
        axes.set_xlabel("right answers, in per cent")
        axes.spines["left"].set_visible(False)
        each = (f"{row['name']} {percent(row['accuracy'])}, {interval(row['interval'])}" for row in rows)
        return finished(figure, name="comparison", words=f"Accuracy with 95 % intervals: {'; '.join(each)}.")


def curves(stage: Facts, name: str) -> Chart | None:
    """The loss and the accuracy after each epoch of a stage, one above the other; the epoch that is kept is marked."""
    history = stage["history"]
    if not history:
        return None
    judged = [row for row in history if row["validation_accuracy"] is not None]
    with drawing(300.0 if judged else 180.0) as figure:
        low = frame(figure, left=40, right=66, bottom=36, top=172 if judged else 12)
        _loss(low, history)
        low.set_xlabel("epoch: one pass over the training photos")
        panels = [low]
        if judged:
            high = frame(figure, left=40, right=66, bottom=164, top=12, sharex=low)
            epochs, shares = [r["epoch"] for r in judged], [100 * r["validation_accuracy"] for r in judged]
            high.plot(epochs, shares, "o-", color=BLUE, markersize=4)
            high.set_ylabel("right, %")
            _at_end(high, epochs[-1], shares[-1], "validation", BLUE)
            high.tick_params(labelbottom=False)
            high.set_ylim(min(*shares, 100) - 2, max(*shares, 0) + 2)
            panels.append(high)
        for axes in panels:
            _epochs(axes, history, stage["best"])
        ends = f"loss from {history[0]['loss']:.2f} to {history[-1]['loss']:.2f}"
        if judged:
            first, last = judged[0]["validation_accuracy"], judged[-1]["validation_accuracy"]
            ends += f", validation accuracy from {percent(first)} to {percent(last)}"
        return finished(figure, name=name, words=f"Stage {stage['name']}, {several(len(history), 'epoch')}: {ends}.")


def confusion(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> Chart | None:
    """Which class was answered how often for which; None where there are too many classes to see any."""
    k = len(classes)
    if k > MOST_CLASSES:
        return None
    names, left = room_for(list(classes), 16 if k <= 6 else 12)
    left += 16  # for the title of the axis
    cell = min(96.0, (WIDTH - left - 6) / k)
    turned = max(map(len, names)) * LETTER > cell - 4
    top = (left - 10 if turned else 24) + 23
    with drawing(top + cell * k + 6) as figure:
        axes = frame(figure, left=left, right=WIDTH - left - cell * k, top=top, bottom=6)
        for truth, row in enumerate(matrix):
            for answer, number in enumerate(row):
                _cell(axes, answer, truth, number, sum(row), numbered=k <= NUMBERED)
        axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5))
        axes.xaxis.tick_top()
        axes.set_xticks(range(k), names, rotation=90 if turned else 0, color=INK, parse_math=False)
        axes.set_yticks(range(k), names, color=INK, parse_math=False)
        axes.tick_params(length=0, pad=4)
        axes.set_xlabel("answer", labelpad=9)
        axes.xaxis.set_label_position("top")
        axes.set_ylabel("truth", labelpad=4)
        for spine in axes.spines.values():
            spine.set_visible(False)
        right = sum(matrix[label][label] for label in range(k))
        words = f"Confusion matrix: {right} of {sum(map(sum, matrix))} answers are on its diagonal, which is right."
        return finished(figure, name="confusion", words=f"{words} The table beside it names the pairs.")


def reliability(before: Sequence[Facts], after: Sequence[Facts]) -> Chart:
    """How often answers of each confidence are right: `confidence`, `accuracy` and `n` of each bin that holds any."""
    with drawing(330.0) as figure:
        axes = frame(figure, left=44, right=12, bottom=96, top=10)
        bars = frame(figure, left=44, right=12, bottom=36, top=280, sharex=axes)
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        series = [(before, "before calibration", ORANGE, "s--"), (after, "after, as it answers", BLUE, "o-")]
        for bins, name, colour, form in series:
            there = [each for each in bins if each["n"] >= FEW]
            sure = [100 * each["confidence"] for each in there]
            axes.plot(sure, [100 * each["accuracy"] for each in there], form, color=colour, markersize=5, label=name)
            rare = [each for each in bins if 0 < each["n"] < FEW]
            sure = [100 * each["confidence"] for each in rare]
            axes.plot(sure, [100 * each["accuracy"] for each in rare], form[0], color=colour, markersize=3, alpha=0.6)
        for each in (each for each in after if each["n"] >= FEW):
            low, high = wilson(round(each["accuracy"] * each["n"]), each["n"])
            axes.plot([100 * each["confidence"]] * 2, [100 * low, 100 * high], color=BLUE, linewidth=1, alpha=0.6)
        wide = 100 / max(1, len(after or before))
        for place, each in enumerate(after or before):
            bars.bar([(place + 0.5) * wide], [each["n"]], width=0.8 * wide, color=BLUE, alpha=0.55)
        axes.set(xlim=(0, 100), ylim=(0, 102), ylabel="really right, %")
        axes.tick_params(labelbottom=False)
        axes.grid(axis="both")
        axes.legend(loc="lower right")
        bars.set(xlabel="how sure the model says it is, %", ylabel="photos")
        bars.locator_params(axis="y", nbins=2)
        words = "Reliability: the nearer to the diagonal, the more a stated probability can be believed."
        return finished(figure, name="reliability", words=words)


def more_labels(curve: Facts) -> Chart | None:
    """The accuracy with ever more photos: measured up to those that there are, then predicted within a band."""
    line, measured, predicted = curve["curve"], curve["measured"], curve["predicted"]
    if not measured or not line:
        return None
    with drawing(250.0) as figure:
        axes = frame(figure, left=42, right=16, bottom=36, top=20)
        photos, shares = [p["photos"] for p in line], [100 * p["accuracy"] for p in line]
        low, high = zip(*(p["interval"] for p in line), strict=True)
        axes.fill_between(photos, [100 * v for v in low], [100 * v for v in high], color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(photos, shares, color=BLUE, linewidth=1.2)
        axes.plot([p["photos"] for p in measured], [100 * p["accuracy"] for p in measured], "o", color=BLUE)
        ahead = [p["photos"] for p in predicted], [100 * p["accuracy"] for p in predicted]
        axes.plot(*ahead, "D", color=BLUE, markerfacecolor=PAPER, markersize=6)
        now = predicted[0]["photos"] / predicted[0]["times"] if predicted else measured[-1]["photos"]
        axes.axvline(now, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.set_xscale("log")
        marks = sorted({p["photos"] for p in (*measured, *predicted)})
        marks = [mark for mark in marks if mark >= marks[-1] / 40]
        apart = [mark for mark, after in zip(marks, [*marks[1:], math.inf], strict=True) if after / mark > 1.5]
        axes.set_xticks(apart, [count(mark) for mark in apart])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="labelled photos to learn from", ylabel="right, %")
        top = axes.get_ylim()[1]
        for name, side, shift in (("measured", "right", -6), ("predicted", "left", 6)):
            axes.annotate(
                *(name, (now, top), (shift, 4)), textcoords="offset points", ha=side, fontsize=SMALL, color=MUTED
            )
        axes.grid(axis="y")
        each = (f"{percent(p['accuracy'])} with {count(p['photos'])} photos" for p in (measured[-1], *predicted))
        return finished(figure, name="more-labels", words=f"Accuracy with more labels: {', '.join(each)}.")


def times(phases: Sequence[Facts]) -> Chart | None:
    """The seconds of each part of the run, as bars."""
    known = [phase for phase in phases if phase["actual"] is not None]
    if not known or not any(phase["actual"] for phase in known):
        return None
    names, left = room_for([phase["name"] for phase in known], 20)
    with drawing(24.0 * len(known) + 10) as figure:
        axes = frame(figure, left=left, right=70, bottom=4, top=4)
        seconds = [phase["actual"] for phase in known]
        axes.barh(range(len(known)), seconds, height=0.62, color=BLUE, alpha=0.8)
        for place, value in enumerate(seconds):
            axes.text(value + 0.01 * max(seconds), place, f" {duration(value)}", va="center", fontsize=FONT)
        axes.set(ylim=(len(known) - 0.5, -0.5), xlim=(0, max(seconds)), xticks=[])
        axes.set_yticks(range(len(known)), names, color=INK, fontsize=FONT)
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
        each = (f"{phase['name']} {duration(phase['actual'])}" for phase in known)
        return finished(figure, name="times", words=f"Time of each part: {', '.join(each)}.")


# ---- parts of charts


def _loss(axes: Axes, history: Sequence[Facts]) -> None:
    epochs = [row["epoch"] for row in history]
    losses = [row["loss"] for row in history]
    judged = [(row["epoch"], row["validation_loss"]) for row in history if row["validation_loss"] is not None]
    axes.plot(epochs, losses, "s--", color=ORANGE, markersize=4)
    if judged:
        axes.plot(*zip(*judged, strict=True), "o-", color=BLUE, markersize=4)
    axes.set_ylabel("loss")
    axes.set_ylim(0, 1.12 * max([*losses, *(loss for _, loss in judged)]))
    ends = sorted([(losses[-1], "training", ORANGE), *([(judged[-1][1], "validation", BLUE)] if judged else [])])
    gap = 0.13 * axes.get_ylim()[1]
    if len(ends) == 2 and ends[1][0] - ends[0][0] < gap:  # their names would lie on each other
        middle = max(gap / 2, (ends[0][0] + ends[1][0]) / 2)
        ends = [(middle - gap / 2, *ends[0][1:]), (middle + gap / 2, *ends[1][1:])]
    for loss, name, colour in ends:
        _at_end(axes, epochs[-1], loss, name, colour)


def _at_end(axes: Axes, epoch: int, value: float, name: str, colour: str) -> None:
    axes.annotate(name, (epoch, value), (7, 0), textcoords="offset points", va="center", fontsize=SMALL, color=colour)


def _epochs(axes: Axes, history: Sequence[Facts], best: int | None) -> None:
    first, last = history[0]["epoch"], history[-1]["epoch"]
    step = max(1, (last - first + 1) // 8)
    axes.set_xticks(range(first, last + 1, step))
    axes.set_xlim(first - 0.3, last + 0.3)
    axes.grid(axis="y")
    if best:
        axes.axvline(best, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))


def _cell(axes: Axes, column: int, row: int, number: int, of: int, *, numbered: bool) -> None:
    from matplotlib.patches import Rectangle

    share = number / of if of else 0.0
    colour = BLUE if row == column else ORANGE
    strength = 0.06 if not number else 0.15 + 0.85 * share
    fill = LINE if not number else colour
    box = Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=fill, alpha=strength, linewidth=0)
    axes.add_patch(box)
    if numbered and number:
        ink = ON_BLUE if strength > 0.6 else INK
        axes.text(column, row, count(number), ha="center", va="center", color=ink, fontsize=SMALL)
