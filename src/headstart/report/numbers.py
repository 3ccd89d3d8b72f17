"""Write numbers and names as people read them: shares in per cent, names cleaned and shortened."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from headstart.evaluation.metrics import Interval

NOTHING = "\N{EN DASH}"  # stands where a figure is not known or makes no sense
SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS = "…"
_UNSEEN = {"Cc", "Cs", "Cn"}  # control characters, halves of pairs, nothings: no page, chart or YAML takes them
_TURNING = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}  # other than letters, to the left
ALL = 1 - 1e-9  # what lies above is 1, but for what was lost in computing it
FRACTIONS = ((1, 4), (3, 10), (1, 3), (4, 10), (1, 2), (6, 10), (2, 3), (7, 10), (3, 4), (8, 10), (9, 10))
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
LONGEST = 40  # letters of a name within a sentence


def percent(share: float | None, digits: int = 1) -> str:
    """`91.1 %` for 0.911; as many digits more as keep what is short of all from being called 100."""
    if share is None:
        return NOTHING
    if share > ALL or not share:
        return f"{share:.0%}".replace("%", f"{SPACE}%")
    while digits < 4 and round(100 * share, digits) >= 100:
        digits += 1
    return f"{100 * share:.{digits}f}{SPACE}%"


def sure(share: float) -> str:
    """`97 %`; nothing is called 100 %, as no photo is certain: a stored 1 was rounded."""
    return f"over 99.9{SPACE}%" if share >= 0.9995 else percent(share, 0 if share < 0.995 else 1)


def interval(ends: Interval | None, digits: int = 1) -> str:
    """`87.2 to 93.8 %`."""
    return NOTHING if ends is None else f"{100 * ends[0]:.{digits}f} to {percent(ends[1], digits)}"


def count(number: float | None) -> str:
    """`1,209`."""
    return NOTHING if number is None else f"{number:,.0f}"


def plain(number: float | None) -> str:
    """Three digits that count: `0.249`, `12.3`, `1,210`."""
    if number is None or not math.isfinite(number):
        return NOTHING
    if number == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:,.{digits}f}" if digits < 7 else f"{number:.2e}"


def milliseconds(number: float) -> str:
    """`7.4 ms`, `74 ms`."""
    return f"{number:,.{1 if number < 10 else 0}f}{SPACE}ms"


def several(number: int, one: str, more: str | None = None) -> str:
    """`1 photo`, `2 photos`."""
    return f"{count(number)} {one if number == 1 else more or one + 's'}"


def of_hundred(share: float) -> str:
    """How many of 100 that is; nothing short of all of them is called 100, nothing above none 0."""
    if 0.005 < share < 0.995 or share in (0, 1):
        return f"{100 * share:.0f}"
    return f"{min(max(0.1, 100 * share), 99.9):.1f}"


def span_of_hundred(ends: Interval) -> str:
    """`between 87 and 94`: rounded outwards, so that it never claims more than is known."""
    return f"between {math.floor(100 * ends[0] + 1e-9)} and {math.ceil(100 * ends[1] - 1e-9)}"


def one_in(share: float) -> str:
    """`1 answer in 11`, `3 answers in 10`: a share of answers, above 0, that one can picture."""
    if share < 0.225:
        return f"1 answer in {count(1 / share)}"
    few, of = min(FRACTIONS, key=lambda pair: abs(pair[0] / pair[1] - share))
    return f"{several(few, 'answer')} in {of}"


def day(moment: str | None) -> str:
    """`22 November 2026` of a time as ISO 8601 writes it; empty where it is none. In English, as the page is."""
    try:
        date = datetime.fromisoformat(moment or "")
    except ValueError:
        return ""
    return f"{date.day} {MONTHS[date.month - 1]} {date.year}"


def shown(text: str) -> str:
    """The text without what cannot be shown or turns what follows: strangers choose names of files and classes."""
    unseen = (unicodedata.category(letter) in _UNSEEN or letter in _TURNING for letter in text)
    return "".join(REPLACEMENT if gone else letter for gone, letter in zip(unseen, text, strict=True))


def called(name: str) -> str:
    """A name within a sentence: in quotes, and not longer than a sentence can bear."""
    return f"“{_alone(shortened(name, LONGEST))}”"


def cleaned(value: Any) -> Any:
    """The same facts with every text in them fit to be shown."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown(key) if isinstance(key, str) else key: cleaned(inner) for key, inner in value.items()}
    return [cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value


def width(text: str) -> float:
    """How wide a text is, in ordinary letters: those of East Asia and emoji take two places."""
    return sum(_letter_width(letter) for letter in text)


def shortened(text: str, most: int) -> str:
    """At most so many letters wide: the beginning and the end, which may tell two apart, with dots between."""
    if width(text) <= most:
        return text
    end = (most - 1) // 3
    return _fitting(text, most - 1 - end).rstrip() + ELLIPSIS + _fitting(text[::-1], end)[::-1].lstrip()


def _fitting(text: str, most: float) -> str:
    taken = 0.0
    for place, letter in enumerate(text):
        taken += _letter_width(letter)
        if taken > most:
            return text[:place]
    return text


def listed(names: Sequence[str], most: int = 6) -> str:
    """`a, b and c`; of more than `most` the first few, and how many more there are."""
    return _joined([_alone(shortened(name, LONGEST)) for name in names], most)


def all_called(names: Sequence[str], most: int = 6) -> str:
    """`“a”, “b” and “c”`, likewise."""
    return _joined([called(name) for name in names], most)


def _joined(names: Sequence[str], most: int) -> str:
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _alone(name: str) -> str:
    """A name that is written to the left, so that it turns nothing but itself."""
    turns = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name)
    return f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}" if turns else name


def _letter_width(letter: str) -> float:
    if unicodedata.combining(letter) or unicodedata.category(letter) == "Cf":
        return 0.0
    return 2.0 if unicodedata.east_asian_width(letter) in "WF" else 1.0
