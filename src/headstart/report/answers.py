"""Look through the answers to the test photos: the surest wrong and right ones, and how far sure ones can be taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart.evaluation.metrics import interval_of
from headstart.run_files import read_csv, sound
from headstart.runs import Run

Facts = dict[str, Any]
MISTAKES = 12  # pictures of the surest wrong answers
CONFIDENT = 8  # and of the surest right ones
AT_LEAST = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # said here and not chosen by the test photos, which would flatter


def tested(run: Run) -> list[Facts]:
    """The answer to each test photo, the surest first."""
    with sound(run.path, "predictions.csv") as path:
        answers: list[Facts] = [
            {
                **{name: row[name] for name in ("path", "label", "predicted")},
                "probability": float(row["probability"]),
                "unsure": (row.get("unsure") or "").lower() in ("true", "yes", "1"),
            }
            for row in read_csv(path)
            if row["split"] == "test"
        ]
    return sorted(answers, key=lambda answer: (-answer["probability"], answer["path"]))


def chosen(answers: Sequence[Facts]) -> Facts:
    """The surest wrong answers and the surest right ones, these of all classes in turn."""
    wrong = [answer for answer in answers if not _right(answer)]
    right = [answer for answer in answers if _right(answer)]
    return {"mistakes": wrong[:MISTAKES], "wrong": len(wrong), "confident": _in_turn(right)[:CONFIDENT]}


def above(answers: Sequence[Facts], families: Mapping[str, str] | None = None) -> list[Facts]:
    """How many answers are at least so sure, and how many of these are right: what is gained by leaving the others.

    `families` are those of the photos by their paths: where they are alike, intervals are wider.
    """
    rows: list[Facts] = []
    for least in AT_LEAST:
        taken = [answer for answer in answers if answer["probability"] >= least]
        right, n = np.array([_right(answer) for answer in taken], bool), len(taken)
        alike = [families[answer["path"]] for answer in taken] if families else None
        rows.append(
            {
                "at_least": least,
                "photos": n,
                "of": len(answers),
                "right": int(right.sum()),
                "accuracy": float(right.mean()) if n else None,
                "interval": list(interval_of(right, alike)) if n else None,
            }
        )
    return rows


def _right(answer: Facts) -> bool:
    return bool(answer["label"] == answer["predicted"])


def _in_turn(answers: Sequence[Facts]) -> list[Facts]:
    """The best of each class, then the second of each: else one easy class would fill the page."""
    turns: Counter[str] = Counter()
    placed: list[tuple[int, Facts]] = []
    for answer in answers:
        placed.append((turns[answer["label"]], answer))
        turns[answer["label"]] += 1
    return [answer for _, answer in sorted(placed, key=lambda pair: pair[0])]
