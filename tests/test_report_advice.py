"""What a report advises: whether a model can be used, for what, and what next; never more than the figures bear."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from headstart.evaluation.metrics import wilson
from headstart.report import advice, numbers, sentences
from headstart.report.answers import above
from headstart.report.facts import gather
from headstart.runs import Run

from .made_up_run import made_up


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return gather(Run.open(made_up(tmp_path_factory.mktemp("advice"))))


@pytest.fixture
def facts(known: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(known)


def with_right(facts: dict[str, Any], right: int, n: int, *, majority: float = 0.5) -> dict[str, Any]:
    facts["result"] |= {"n": n, "right": right, "accuracy": right / n, "accuracy_interval": list(wilson(right, n))}
    facts["result"]["majority"]["accuracy"] = majority
    return facts


def words(facts: dict[str, Any]) -> str:
    told = " ".join(f"{step['words']} {step['command']}" for step in advice.steps(facts))
    return told.replace(numbers.SPACE, " ")


@pytest.mark.parametrize(
    ("right", "n", "majority", "said"),
    [
        (1, 2, 0.1, "Too early to say: 2 test photos are too few"),
        (1, 1, 0.1, "Too early to say: 1 test photo is too few"),
        (265, 291, 0.2, "Yes, where a person can put right what is wrong: about 1 answer in 11, at worst 1 in 7."),
        (60, 100, 0.2, "As a suggestion only: about 4 answers in 10 would have to be put right."),
        (50, 100, 0.45, "Not yet: it is not clearly better than always answering “ants”."),
        (60, 60, 0.5, "Yes, for photos like these: none of the test was named wrongly; at worst 1 in 16 is."),
    ],
)
def test_whether_it_can_be_used_is_said_first(
    right: int, n: int, majority: float, said: str, facts: dict[str, Any]
) -> None:
    assert advice.verdict(with_right(facts, right, n, majority=majority)).startswith(said)


def test_a_model_no_better_than_one_answer_is_advised_for_nothing(facts: dict[str, Any]) -> None:
    assert advice.uses(with_right(facts, 50, 100)) == []
    assert advice.uses(with_right(facts, 90, 100))


def test_weak_classes_are_named_only_where_it_is_more_than_chance(facts: dict[str, Any]) -> None:
    with_right(facts, 90, 100)
    facts["classes"] = [
        {"name": "ants", "recall": 0.98, "recall_interval": wilson(49, 50), "right": 49, "n": 50},
        {"name": "bees", "recall": 0.6, "recall_interval": wilson(30, 50), "right": 30, "n": 50},
        {"name": "rare", "recall": 0.0, "recall_interval": wilson(0, 2), "right": 0, "n": 2},
    ]
    assert advice.weak_classes(facts) == ["bees"]
    assert "Finding “bees”: clearly fewer" in " ".join(advice.limits(facts))
    facts["data"]["classes"] = [{"name": name, "train": 30, "validation": 3} for name in ("ants", "bees", "rare")]
    assert "Take more photos of “bees”: 60 % of them are recognised, with 33 photos" in words(facts)


def test_where_all_is_right_no_class_is_weak(facts: dict[str, Any]) -> None:
    with_right(facts, 60, 60)
    facts["classes"] = [{"name": "ants", "recall": 1.0, "recall_interval": wilson(30, 30), "right": 30, "n": 30}]
    assert advice.weak_classes(facts) == []


def test_a_class_of_few_photos_is_named(facts: dict[str, Any]) -> None:
    facts["classes"] = []
    facts["data"]["classes"] = [
        {"name": "ants", "train": 100, "validation": 10},
        {"name": "bees", "train": 1, "validation": 0},
    ]
    assert "Take more photos of “bees”: it has 1 photo to learn from, “ants” has 110." in words(facts)


@pytest.mark.parametrize(("twice", "said"), [(0.93, "Label more photos"), (0.905, "headstart rank")])
def test_more_photos_are_advised_where_they_pay(twice: float, said: str, facts: dict[str, Any]) -> None:
    now = {"photos": 100, "accuracy": 0.9, "interval": [0.85, 0.95], "times": 1.0}
    ahead = now | {"photos": 200, "accuracy": twice, "times": 2.0}
    facts["more_labels"] = {"measured": [now], "curve": [now, ahead], "predicted": [ahead]}
    told = words(with_right(facts, 90, 100))
    assert said in told
    assert ("Label more photos" in told) == (twice > 0.92)


def test_commands_bear_a_path_with_blanks(facts: dict[str, Any]) -> None:
    facts["asked"] |= {"data": "my photos", "quality": "fast"}
    facts["result"]["shipped"] = "frozen"
    assert "headstart train 'my photos' --quality balanced" in words(with_right(facts, 90, 100))


def test_sure_answers_are_counted_by_what_is_stated_beforehand() -> None:
    rows = above(
        [
            {"path": "1", "label": "a", "predicted": "a", "probability": 0.95},
            {"path": "2", "label": "b", "predicted": "a", "probability": 0.9},
            {"path": "3", "label": "b", "predicted": "b", "probability": 0.6},
        ]
    )
    at = {row["at_least"]: (row["photos"], row["right"]) for row in rows}
    assert at == {0.5: (3, 2), 0.7: (2, 1), 0.8: (2, 1), 0.9: (2, 1), 0.95: (1, 1), 0.99: (0, 0)}
    assert rows[-1]["accuracy"] is None


def test_photos_that_are_alike_tell_less_of_sure_answers() -> None:
    answers = [{"path": str(n), "label": "a", "predicted": "ab"[n > 5], "probability": 0.9} for n in range(12)]
    alone, alike = above(answers)[0], above(answers, {str(n): str(n // 6) for n in range(12)})[0]
    assert alike["accuracy"] == alone["accuracy"] == 0.5
    assert alike["interval"][0] < alone["interval"][0]


def test_a_report_says_when_its_run_was_made(facts: dict[str, Any]) -> None:
    facts["run"] |= {"ended": "2026-11-22T08:09:30+00:00", "seconds": 93.0, "headstart": "0.1.0"}
    assert sentences.made(facts) == "Made on 22 November 2026 with headstart 0.1.0 in 1 min 33 s"
    facts["run"] |= {"ended": None, "seconds": None}
    assert sentences.made(facts) == "Made with headstart 0.1.0"
    assert numbers.day("<script>") == ""


@pytest.mark.parametrize(
    ("share", "digits", "said"),
    [(1.0, 1, "100 %"), (1 - 1e-12, 1, "100 %"), (0.996, 0, "99.6 %"), (0.9999, 1, "99.99 %"), (0.911, 1, "91.1 %")],
)
def test_no_figure_short_of_all_is_rounded_to_all(share: float, digits: int, said: str) -> None:
    assert numbers.percent(share, digits).replace(numbers.SPACE, " ") == said


@pytest.mark.parametrize(
    ("share", "said"),
    [(1 / 11, "1 answer in 11"), (0.25, "1 answer in 4"), (0.41, "4 answers in 10"), (0.99, "9 answers in 10")],
)
def test_a_share_of_answers_can_be_pictured(share: float, said: str) -> None:
    assert numbers.one_in(share) == said


def test_names_that_begin_alike_are_still_told_apart() -> None:
    names = [f"{'a long beginning ' * 5}{number}" for number in range(12)]
    assert len({numbers.shortened(name, 16) for name in names}) == 12
    assert all(numbers.width(numbers.shortened(name, 16)) <= 16 for name in names)
    assert numbers.all_called(names[:1]).endswith("0”")


def test_a_name_written_to_the_left_turns_nothing_but_itself() -> None:
    assert numbers.called("نحلة") == "“\N{FIRST STRONG ISOLATE}نحلة\N{POP DIRECTIONAL ISOLATE}”"
    assert numbers.listed(["a", "b"]) == "a and b"


def test_the_date_is_one_of_the_run_and_not_of_the_report(tmp_path: Path) -> None:
    run = made_up(tmp_path)
    assert gather(Run.open(run))["run"]["ended"] is None
    (run / "plan.json").write_text('{"predicted": null, "actual": {"seconds": "<b>", "ended": 3}}')
    assert gather(Run.open(run))["run"] | {"seconds": None, "ended": None} == gather(Run.open(run))["run"]
