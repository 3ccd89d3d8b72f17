"""Say whether a model can be used, for what and for what not, and what would make it better.

Only the reader knows what a wrong answer costs: so this says how often one comes, and what can be done about it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from headstart.evaluation.metrics import wilson
from headstart.report.numbers import (
    all_called,
    called,
    count,
    interval,
    of_hundred,
    one_in,
    percent,
    several,
    span_of_hundred,
)

Facts = dict[str, Any]
Step = tuple[str, str, str]  # words, where on the page, a command
VAGUE = 0.3  # an interval of more than this says next to nothing
WIDE = 0.15  # and one of more than this is worth more test photos
SUGGESTION = 0.25  # of wrong answers, beyond which nobody should rely on one
SURE = 0.9  # what an answer is called sure from: one of answers.AT_LEAST
UNEVEN = 5  # times as many photos of the largest class as of the smallest
GAIN = 0.01  # of accuracy by twice the photos: with less, they are not worth their labels
OFTEN = 3  # photos of a class that are taken for another: fewer may be chance


def verdict(facts: Facts) -> str:
    """Whether it can be used, in one sentence: what a reader should know who reads no more."""
    result = facts["result"]
    low, high = result["accuracy_interval"]
    wrong = 1 - result["accuracy"]
    if high - low > VAGUE:
        few = several(result["n"], "test photo") + (" is" if result["n"] == 1 else " are")
        return f"Too early to say: {few} too few to tell how good it is."
    if low <= result["majority"]["accuracy"]:
        return f"Not yet: it is not clearly better than always answering {called(result['majority']['name'])}."
    worst = f"at worst 1 in {int(1 / (1 - low))}"
    if not wrong:
        return f"Yes, for photos like these: none of the test was named wrongly; {worst} is."
    if wrong > SUGGESTION:
        return f"As a suggestion only: about {one_in(wrong)} would have to be put right."
    return f"Yes, where a person can put right what is wrong: about {one_in(wrong)}, {worst}."


def uses(facts: Facts) -> list[str]:
    """What it may be used for; nothing where it is not known to be better than no model at all."""
    result = facts["result"]
    low, high = result["accuracy_interval"]
    if high - low > VAGUE or low <= result["majority"]["accuracy"]:
        return []
    found = [f"Photos like those it was tested on, each of one of its {count(facts['asked']['classes'])} classes."]
    sure = next(row for row in facts["sure"] if row["at_least"] == SURE)
    if sure["photos"] and sure["accuracy"] > result["accuracy"]:
        share = of_hundred(sure["photos"] / sure["of"])
        found.append(
            f"Sorting by confidence: {share} of 100 answers are at least {percent(SURE, 0)} sure, and of these "
            f"{percent(sure['accuracy'])} were right ({interval(sure['interval'])}). The others are those to look at."
        )
    return found


def limits(facts: Facts) -> list[str]:
    """What it must not be used for."""
    classes = count(facts["asked"]["classes"])
    unsure = facts["abstention"] and facts["abstention"]["threshold"] is not None
    notices = "says “unsure” of most others, though not of all" if unsure else "does not notice others"
    found = [f"Photos of anything else: it knows its {classes} classes alone, and {notices}."]
    if weak := weak_classes(facts):
        found.append(f"Finding {all_called(weak, 4)}: clearly fewer of these are recognised than of the others.")
    found.append("Photos from elsewhere, of another camera or season for instance, until it was tested on some.")
    found.append("Decisions about people, their health or their safety.")
    return found


def weak_classes(facts: Facts) -> list[str]:
    """Classes of which clearly fewer photos are found than of all, the worst first: by more than chance would do."""
    accuracy = facts["result"]["accuracy"]
    # Of many classes one is outside of its interval by chance: a few photos must be missed as well.
    missed = [each for each in facts["classes"] if each["n"] - each["right"] >= OFTEN]
    weak = [each for each in missed if each["recall_interval"][1] < accuracy]
    return [each["name"] for each in sorted(weak, key=lambda each: each["recall"])]


def steps(facts: Facts) -> list[Facts]:
    """What would make it better, the cheap and sure first.

    `words`; `command`, where one does it; and `where` on the page more stands of it. Both may be empty.
    """
    found = (*_labels(facts), *_photos(facts), *_more(facts), *_tuned(facts), *_tested(facts))
    return [{"words": words, "where": where, "command": command} for words, where, command in found]


def _labels(facts: Facts) -> Iterator[Step]:
    found = len((facts["label_errors"] or {}).get("found", []))
    if found > 1:
        yield f"Look at the {count(found)} photos whose labels may be wrong, and mend those that are.", "labels", ""


def _photos(facts: Facts) -> Iterator[Step]:
    """Which classes need photos more than others."""
    learnt = {each["name"]: each["train"] + each["validation"] for each in facts["data"]["classes"]}
    most, fewest = max(learnt, key=lambda name: learnt[name]), min(learnt, key=lambda name: learnt[name])
    if weak := weak_classes(facts):
        recall = next(each["recall"] for each in facts["classes"] if each["name"] == weak[0])
        has = f"{percent(recall, 0)} of them are recognised, with {several(learnt[weak[0]], 'photo')} to learn from"
        yield f"Take more photos of {called(weak[0])}: {has}.", "classes", ""
    elif learnt[most] >= UNEVEN * max(1, learnt[fewest]):
        has = f"it has {several(learnt[fewest], 'photo')} to learn from, {called(most)} has {count(learnt[most])}"
        yield f"Take more photos of {called(fewest)}: {has}.", "data", ""
    worst = facts["confused"][0] if facts["confused"] else None
    if worst and worst["photos"] >= OFTEN:
        truth, answer = called(worst["truth"]), called(worst["answer"])
        yield f"Add photos that tell {truth} and {answer} apart, or make these one class.", "classes", ""


def _more(facts: Facts) -> Iterator[Step]:
    """Whether more photos of the same kind are worth their labels."""
    curve = facts["more_labels"]
    if not curve or not curve["predicted"]:
        return
    twice = curve["predicted"][0]
    now = next((p["accuracy"] for p in reversed(curve["curve"]) if p["times"] <= 1), curve["measured"][-1]["accuracy"])
    if twice["accuracy"] - now >= GAIN:
        rise = f"from {percent(now)} to {percent(twice['accuracy'])} ({interval(twice['interval'])})"
        yield f"Label more photos: twice as many are expected to lift the accuracy {rise}.", "more", ""
    elif facts["result"]["accuracy"] < 1:
        command = f"headstart rank {_data(facts)}"
        yield "More such photos would bring little; another network might. Compare some:", "more", command


def _tuned(facts: Facts) -> Iterator[Step]:
    """Whether there is a longer training to try."""
    result, asked = facts["result"], facts["asked"]
    if asked["quality"] == "fast" and result["shipped"] == "frozen" and result["accuracy"] < 1:
        command = f"headstart train {_data(facts)} --quality balanced"
        yield "Let layers of the network itself learn too, which takes longer:", "", command


def _tested(facts: Facts) -> Iterator[Step]:
    """Whether more test photos would say more."""
    result = facts["result"]
    low, high = result["accuracy_interval"]
    if high - low > WIDE:
        n = 4 * result["n"]
        span = span_of_hundred(wilson(round(result["accuracy"] * n), n))
        yield f"Test it on more photos: {count(n)} could show that {span} of 100 are right.", "accuracy", ""


def _data(facts: Facts) -> str:
    return shlex.quote(facts["asked"]["data"])
