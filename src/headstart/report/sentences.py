"""Say in plain sentences what the figures of a run mean, and no more than they can bear."""

from __future__ import annotations

from typing import Any

from headstart.amounts import duration
from headstart.report.numbers import called, count, day, listed, of_hundred, percent, several, span_of_hundred

Facts = dict[str, Any]
WIDE = 0.15  # a 95 % interval of more than this is worth a warning


def task(facts: Facts) -> str:
    """What the model is for, as a heading's second line."""
    names = facts["asked"]["names"]
    if len(names) <= 6:
        return f"A model that tells {listed(names)} apart on photos"
    return f"A model that tells {count(len(names))} kinds of photos apart: {listed(names)}"


def made(facts: Facts) -> str:
    """When, with what and how long; without what an older run has not kept."""
    run = facts["run"]
    words = [f"on {day(run['ended'])}"] if day(run["ended"]) else []
    words += [f"with headstart {run['headstart']}"] if run["headstart"] else []
    words += [f"in {duration(run['seconds'])}"] if run["seconds"] is not None else []
    return f"Made {' '.join(words)}" if words else ""


def asked(facts: Facts) -> str:
    """What was asked, and what it was made of."""
    given, photos = facts["asked"], facts["data"]["photos"]
    network = given["backbone"].rpartition("/")[2]
    begun = (
        f"The network {network} began with random weights"
        if given["from_scratch"]
        else f"It builds on {network}, a network that had already learnt from millions of other photos"
        if given["backbone"].startswith(("bundled/", "keras/", "torchvision/"))
        else f"It builds on {network}, a network that had already learnt from other photos"
    )
    learnt = photos["train"] + (photos["validation"] if facts["result"]["shipped"] == "frozen" else 0)
    chosen = f", and {count(photos['validation'])} more were there to choose by" if learnt == photos["train"] else ""
    chosen = chosen if photos["validation"] else ""
    return (
        f"{begun}, and learnt the {count(given['classes'])} classes from {several(learnt, 'labelled photo')}{chosen}."
    )


def outcome(facts: Facts) -> str:
    """What came out: the sentence that is to be remembered."""
    result = facts["result"]
    n, right = result["n"], result["right"]
    tested = f"On {several(n, 'photo')} that it had never seen, "
    tested += "all answers were right." if right == n else f"{count(right)} answers were right."
    return tested


def promise(facts: Facts) -> str:
    """What to expect of new photos."""
    result = facts["result"]
    range_ = span_of_hundred(result["accuracy_interval"])
    if result["right"] == result["n"]:
        return f"Of 100 new photos like these, {range_} would be named rightly."
    return f"Of 100 new photos like these, about {of_hundred(result['accuracy'])} would be named rightly: {range_}."


def against(facts: Facts) -> str:
    """How that stands beside an answer that needs no model, and beside the frozen network."""
    result = facts["result"]
    most = result["majority"]
    words = [f"Always answering {called(most['name'])} would be right for {of_hundred(most['accuracy'])} of 100."]
    if result["accuracy_interval"][0] <= most["accuracy"]:
        words.append("The model is not clearly better than that.")
    frozen = result["frozen"]
    if frozen is None:
        return " ".join(words)
    share = percent(frozen["accuracy"])
    if result["shipped"] == "frozen":
        words.append(
            f"The network itself was left as it was and only its last layer is new; cross-validation on "
            f"{several(frozen['n'], 'other photo')} had said {share}."
        )
    else:
        words.append(
            f"The same network left as it was, with only its last layer new, reaches {share} {_beside(facts)}."
        )
    return " ".join(words)


def _beside(facts: Facts) -> str:
    """What a difference between the tuned model and the frozen one is worth: they were measured on other photos."""
    result, frozen = facts["result"], facts["result"]["frozen"]
    where = f"in cross-validation on {several(frozen['n'], 'other photo')}"
    if result["accuracy_interval"][0] > frozen["accuracy"]:
        return f"{where}: tuning has clearly helped"
    if result["accuracy_interval"][1] < frozen["accuracy"]:
        return f"{where}: these test photos are harder, or tuning has not helped"
    return f"{where}: these test photos are too few to tell the two apart"


def caveats(facts: Facts) -> list[str]:
    """What a reader must know so as not to trust the figures too far."""
    result, data = facts["result"], facts["data"]
    low, high = result["accuracy_interval"]
    found = []
    if high - low > WIDE:
        found.append(
            f"The range is wide because only {several(result['n'], 'photo')} {'was' if result['n'] == 1 else 'were'} "
            "there to test on: with four times as many it would be half as wide."
        )
    if result["absent"]:
        found.append(f"There is no test photo of {listed(result['absent'])}: nothing is known of how well these go.")
    few = [each["name"] for each in facts["classes"] if 0 < each["n"] < 10]
    if few and high - low <= WIDE:
        found.append(f"Fewer than ten test photos show {listed(few)}: figures of these classes mean little.")
    if data["skipped"]:
        files = sum(each["files"] for each in data["skipped"])
        found.append(f"{several(files, 'file')} could not be used; the reasons stand under “Data”.")
    return found


def mistakes(facts: Facts) -> str:
    """Which confusion is the most frequent."""
    if not facts["confused"]:
        return "There is no mistake among the test photos."
    worst = facts["confused"][0]
    share = f"{count(worst['photos'])} of {several(worst['of'], 'test photo')} of {called(worst['truth'])}"
    return f"The most frequent mistake: {share} taken for {called(worst['answer'])}."


def moved(stage: Facts) -> str:
    """What was frozen in a stage, and how fast the rest moved."""
    rates = stage["rates"]
    groups = [name for name in rates if name != "head"]
    size = f", {stage['batch_size']} photos a step" if stage["batch_size"] else ""
    epochs = several(len(stage["history"]), "epoch")
    planned = f" of {stage['epochs']}" if stage["epochs"] != len(stage["history"]) else ""
    if not groups:
        return f"{epochs}{planned}{size}. Only the head learnt; the whole network stayed frozen."
    how = f"small additions of rank {stage['lora']} to the layers of" if stage["lora"] else "the head and"
    return (
        f"{epochs}{planned}{size}. What learnt: {how} {listed(groups, 12)}. "
        "Everything between the photo and these layers stayed frozen."
    )


def kept(stage: Facts) -> str:
    """Which epoch's weights were kept, and why the stage ended."""
    if stage["best"] is None:
        return ""
    reason = f" (it ended: {stage['reason']})" if stage["reason"] else ""
    if not stage["best"]:
        return f"No epoch did better on validation photos than what there was before: that was kept{reason}."
    return f"The weights of epoch {stage['best']} did best on validation photos and were kept{reason}."
