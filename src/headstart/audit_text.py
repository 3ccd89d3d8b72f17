"""Write down an audit for people: a table of classes, then each finding with its first examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstart.aligned import columns

if TYPE_CHECKING:
    from headstart.auditing import Audit, Outlier

SHOWN = 5  # examples of each finding; --json has all


def audit_text(audit: Audit) -> str:
    """What matters first: what training would refuse, then photos by class and split, then findings."""
    refused = [("refusal", f"training refuses this data: {audit.refusal}")] if audit.refusal else []
    origin = "as you gave them" if audit.user_splits else "as train makes them"
    sides = ", ".join(f"{count} {side}" for side, count in audit.splits.items())
    head = [*refused, ("photos", f"{audit.photos} in {audit.data}"), ("splits", f"{sides} ({origin})")]
    parts = [columns(head), _classes(audit), *_findings(audit), _sizes(audit)]
    return "\n\n".join(part for part in parts if part)


def _classes(audit: Audit) -> str:
    rows = [("class", "photos", *audit.splits, "different", "95 % interval")]
    for each in audit.classes:
        width = "-" if each.interval is None else f"+-{each.interval / 2:.3f}" + (" (few)" if each.few else "")
        counts = (str(each.splits[side]) for side in audit.splits)
        rows.append((each.name, str(each.photos), *counts, str(each.families), width))
    lines = [columns(rows)]
    if len(audit.few):
        lines.append(
            f"{len(audit.few)} of {len(audit.classes)} classes have too few test photos to judge each by itself "
            "(the interval is that of a class named right 9 times in 10)"
        )
    if audit.imbalance >= 2:
        lines.append(
            f"the largest class has {audit.imbalance:.1f} times the photos of the smallest: --class-weights balanced"
        )
    return "\n".join(lines)


def _findings(audit: Audit) -> list[str]:
    """Each finding that there is, as a heading with lines below it."""
    alike = [
        f"{each.one} and {each.other} ({'mirrored, ' if each.mirrored else ''}agreement {each.agreement:.3f})"
        for each in audit.near_duplicates
    ]
    families = sum(len(paths) > 1 for paths in audit.families.values())
    return [
        _finding(
            f"{_count(sum(each.files for each in audit.skipped), 'file')} not used",
            [f"{each.files} x {each.reason}: {', '.join(each.examples)}" for each in audit.skipped],
        ),
        _finding(
            f"{_count(len(audit.leaks), 'leak')} between splits, which flatter{'s' * (len(audit.leaks) == 1)} the test",
            [
                f"{each.one} ({each.one_split}) and {each.other} ({each.other_split}): {each.why}"
                for each in audit.leaks
            ],
        ),
        _finding(
            f"{_count(len(audit.conflicts), 'pair')} of the same picture with two labels",
            [f"{each.one} and {each.other}" + ("" if each.equal else " (nearly the same)") for each in audit.conflicts],
        ),
        _finding(
            f"{_count(len(audit.bridging), 'photo')} like photos on several of your sides, which train",
            audit.bridging,
        ),
        _finding(f"{_count(len(audit.equal), 'picture')} there more than once", [" = ".join(p) for p in audit.equal]),
        _finding(
            f"{_count(len(audit.near_duplicates), 'pair')} of near-duplicates; "
            f"{_count(families, 'family', 'families')} that stay on one side",
            alike,
        ),
        _finding(
            f"{_count(len(audit.crops or ()), 'pair')} where one photo probably is a part of the other (told only)",
            [f"{each.one} and {each.other} (agreement {each.agreement:.3f})" for each in audit.crops or ()],
        ),
        _outliers("blurred (sharpness over the usual one)", audit.blurred),
        _outliers("dark (95 % of the pixels are below this grey level)", audit.dark),
        _outliers("bright (95 % of the pixels are above this grey level)", audit.bright),
        _outliers("small (pixels of the shorter side)", audit.small),
        _outliers("very long (longer over shorter side)", audit.long),
        _finding(f"{_count(len(audit.blank), 'photo')} blank", audit.blank),
    ]


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one}" if number == 1 else f"{number} {several or one + 's'}"


def _outliers(what: str, found: Sequence[Outlier]) -> str:
    return _finding(f"{_count(len(found), 'photo')} {what}", [f"{each.path} ({each.value:.3g})" for each in found])


def _finding(heading: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    more = [f"... and {len(lines) - SHOWN} more (all of them: --json)"] if len(lines) > SHOWN else []
    return "\n".join([heading, *(f"  {line}" for line in [*lines[:SHOWN], *more])])


def _sizes(audit: Audit) -> str:
    if not any(audit.sizes.values()):
        return ""
    names = list(next(iter(audit.sizes.values())))
    rows = [(name, *(f"{quantiles[share]:,.6g}" for share in names)) for name, quantiles in audit.sizes.items()]
    return columns([("size", *names), *rows])
