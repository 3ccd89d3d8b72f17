"""Say how far a model's confidence can be believed, and how often it says `unsure`: sentences, figures and bins."""

from __future__ import annotations

from typing import Any

from headstart.report.numbers import count, interval, percent, several

Facts = dict[str, Any]
NEAR = 0.0005  # a change of the calibration error below this is none
CHANGED = 0.02  # a temperature so near to 1 changes nothing that one could see


def bins(calibration: Facts | None) -> tuple[list[Facts], list[Facts]] | None:
    """The bins of the reliability diagram before and after calibration; None where the run has not stored them."""
    if calibration is None:
        return None
    pair = _most(calibration)[1]
    return pair["before"]["bins"], pair["after"]["bins"]


def calibration(stored: Facts | None) -> Facts | None:
    """`words` and `rows` on how far stated confidence can be believed; None where the run says nothing of it."""
    if stored is None:
        return None
    rows = [{"on": name, **pair} for name, pair in _pairs(stored)]
    return {"words": _calibrated(stored), "rows": rows, "drawn": _most(stored)[0]}


def _pairs(stored: Facts) -> list[tuple[str, Facts]]:
    """What calibration was measured on, and how it was before and after."""
    found = [("test photos", stored["test"]), ("validation photos", stored.get("validation"))]
    return [(f"{count(_photos(pair))} {name}", pair) for name, pair in found if pair]


def _most(stored: Facts) -> tuple[str, Facts]:
    """Those of more photos: a diagram of few shows chance. The temperature was fitted without either."""
    return max(_pairs(stored), key=lambda pair: _photos(pair[1]))


def _photos(pair: Facts) -> int:
    return sum(each["n"] for each in pair["after"]["bins"])


def _calibrated(stored: Facts) -> str:
    temperature, test = stored["temperature"], stored["test"]
    if abs(temperature - 1) < CHANGED:
        return "Its confidence is given as the network states it: no other temperature fits the photos better."
    before, after = (test[name]["calibration_error"] for name in ("before", "after"))
    how = "surer" if temperature < 1 else "less sure"
    words = f"A single number, the temperature of {temperature:.2f}, makes the model {how} than it would be without"
    words += f" ({stored['method']}). It changes no answer. " if stored["method"] else ". It changes no answer. "
    gap = f"from {percent(before)} to {percent(after)}"
    chance = test["after"].get("by_chance")  # older runs do not say
    luck = "" if chance is None else f" Of so few photos it would be about {percent(chance)} by chance alone."
    if after < before - NEAR:
        gap = f"the mean gap between how sure it is and how often it is right falls {gap}"
        return f"{words}On the test photos {gap}.{luck}"
    loss = f"its log loss goes from {test['before']['log_loss']:.3f} to {test['after']['log_loss']:.3f}"
    return f"{words}On the test photos, which are few to tell by, the mean gap goes {gap}; {loss}.{luck}"


def abstention(stored: Facts | None) -> str | None:
    """When the model says that it is unsure, and how often that is a false alarm; None where the run does not tell."""
    if stored is None:
        return None
    if stored["threshold"] is None:
        return f"It never says that it is unsure: {stored['method']}."
    words = (
        "It says “unsure” of a photo that is too far from all that it learnt from, since one of its classes would be a "
        f"guess there. Of 100 photos like these it is set to say so of {100 * stored['false_alarms']:g}."
    )
    test = stored["test"]
    if test is None:
        return words
    words += f" On the test photos it does of {count(test['unsure'])} of {count(test['n'])}"
    words += f" ({percent(test['share'])}; 95 % interval {interval(test['interval'])})"
    rest = test["accuracy_of_the_rest"]
    return f"{words}." if rest is None else f"{words}, and of the others {percent(rest)} are answered rightly."


def lacking(error: float, photos: int) -> str:
    """What can be said of an older run, which has stored nothing but its calibration error."""
    return (
        f"How sure it says it is, is off by {percent(error)} in the mean, on {several(photos, 'test photo')}. This run "
        "has not stored what a diagram of it is drawn from; a run of this version of headstart does."
    )
