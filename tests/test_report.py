"""What a report says about a run: honest sentences, everybody's names as plain text, and gaps that are named."""

from __future__ import annotations

import json
import os
import re
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

import headstart as hs
from headstart.data.dataset import Skipped
from headstart.errors import BadRun, BadSetting
from headstart.outcome import outcome
from headstart.report import charts, numbers, sentences
from headstart.report.card import card
from headstart.report.drawing import MissingLibrary
from headstart.report.facts import gather
from headstart.report.making import Report
from headstart.report.making import report as work
from headstart.report.page import page
from headstart.report.pictures import Pictures, read
from headstart.runs import Run

from .made_up_run import EACH, MadeUp, made_up

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single' ]]> -->",
    "نحلة",  # right to left
    "🐝 bee ‮reversed‬",
    "$a_b$ | `tick` {{ 7 * 7 }} *star* #010207",
    "x" * 220,
)
VOID = {"meta", "link", "img", "br"}


class Seen(HTMLParser):
    """What a browser would find in a page: its elements with their attributes, its text, and whether all closes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"{tag} closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


def rendered(run: Path) -> str:
    """The page of a run, without pictures."""
    return page(gather(Run.open(run)), Pictures())


# ---- the whole, of a run that was trained


@pytest.fixture(scope="module")
def trained(drawn_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = hs.train(drawn_photos, out=tmp_path_factory.mktemp("trained") / "run", quality="fast", size=64, report="off")
    return run.path


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return hs.report(trained, out=tmp_path_factory.mktemp("report") / "new")


def test_a_report_says_what_the_run_says(trained: Path, made: Report) -> None:
    facts = json.loads(made.facts.read_text(encoding="utf-8"))
    evaluation = Run.open(trained).evaluation
    assert facts["result"]["accuracy"] == evaluation.accuracy
    assert facts["result"]["accuracy_interval"] == list(evaluation.accuracy_interval)
    assert facts["data"]["photos"] == Run.open(trained).summary()["photos"]
    text = made.page.read_text(encoding="utf-8")
    assert numbers.percent(evaluation.accuracy) in text
    assert numbers.percent(evaluation.accuracy) in made.card.read_text(encoding="utf-8")


def test_a_report_has_all_its_parts(made: Report) -> None:
    seen = Seen(made.page.read_text(encoding="utf-8"))
    parts = ("accuracy", "data", "training", "classes", "trust", "pictures", "labels", "more", "costs", "again")
    assert [each for each in seen.values("id") if each in parts] == list(parts)
    assert not seen.open
    assert "headstart train" in seen.text


def test_photos_stand_beside_their_heat(made: Report) -> None:
    seen = Seen(made.page.read_text(encoding="utf-8"))
    photos = [attributes for tag, attributes in seen.elements if tag == "img"]
    facts = json.loads(made.facts.read_text(encoding="utf-8"))
    shown = len(facts["answers"]["mistakes"]) + len(facts["answers"]["confident"])
    assert shown
    assert len(photos) >= 2 * shown
    assert all((each["src"] or "").startswith("data:image/jpeg;base64,") and each["alt"] for each in photos)


def test_a_page_asks_no_host_for_anything(made: Report) -> None:
    seen = Seen(made.page.read_text(encoding="utf-8"))
    assert not [tag for tag, _ in seen.elements if tag in ("script", "iframe", "object", "embed", "form", "base")]
    for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
        assert all(value.startswith(("data:", "#")) for value in seen.values(name)), name
    assert not re.search(r"@import|url\((?!#|data:)", made.page.read_text(encoding="utf-8"))
    policies = [a["content"] for tag, a in seen.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies
    assert (policies[0] or "").startswith("default-src 'none'; img-src data:")


def test_the_same_run_gives_the_same_page(trained: Path, made: Report, tmp_path: Path) -> None:
    again = outcome(work(trained, out=tmp_path))
    assert again.page.read_bytes() == made.page.read_bytes()
    assert again.card.read_bytes() == made.card.read_bytes()


def test_photos_that_have_moved_leave_gaps_that_are_named(trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    moved.mkdir()
    for file in trained.iterdir():
        if file.is_file():
            (moved / file.name).write_bytes(file.read_bytes())
    about = json.loads((moved / "data.json").read_text())
    (moved / "data.json").write_text(json.dumps({**about, "root": str(tmp_path / "gone")}))
    told: list[str] = []
    made = outcome(work(moved), lambda event: told.append(getattr(event, "text", "")))
    text = Seen(made.page.read_text(encoding="utf-8")).text
    assert "cannot be shown: there is no file where the run had found one" in text
    assert str(tmp_path / "gone") in text
    assert any("cannot be shown" in each for each in told)


# ---- strangers' names


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skipped = (Skipped("<b>bad</b>.jpg", "<i>empty</i>"), Skipped("\udcff.jpg", "not a picture"))
    asked = MadeUp(
        classes=HOSTILE, name="- a: 'b' #<h1>", file='"><img src=x onerror=alert(1)> \udcfe', skipped=skipped
    )
    return made_up(tmp_path_factory.mktemp("hostile"), asked)


@pytest.fixture(scope="module")
def hostile_page(hostile: Path) -> Seen:
    return Seen(rendered(hostile))


def test_names_of_strangers_are_text_and_nothing_else(hostile_page: Seen) -> None:
    seen = hostile_page
    tags = {tag for tag, _ in seen.elements}
    assert not tags & {"script", "i", "img"} - {"i"}
    assert not [name for _, attributes in seen.elements for name in attributes if name.startswith("on")]
    for name in ("- a: 'b' #<h1>", *HOSTILE):
        assert numbers.shown(name) in seen.text, name
    assert "49" not in re.findall(r"`tick` (\S+) ", seen.text)
    assert "<b>bad</b>.jpg" in seen.text
    assert not seen.open


def test_a_page_is_valid_utf_8_whatever_names_are(hostile: Path, tmp_path: Path) -> None:
    made = outcome(work(hostile, out=tmp_path))
    for path in (made.page, made.facts, made.card):
        path.read_bytes().decode("utf-8")
    assert json.loads(made.facts.read_text())["data"]["skipped"][0]["examples"]


def test_a_report_takes_names_apart_from_the_colours_of_charts(hostile: Path) -> None:
    matrix = [[1] * len(HOSTILE)] * len(HOSTILE)
    drawn = charts.confusion(["#010207", *HOSTILE[1:]], matrix)
    assert drawn is not None
    assert "#010207" in Seen(drawn.svg).text


def test_ids_are_unique_on_a_page(hostile_page: Seen) -> None:
    ids = hostile_page.values("id")
    assert len(ids) == len(set(ids))


def test_a_card_is_yaml_and_tables_whatever_names_are(hostile: Path) -> None:
    yaml = pytest.importorskip("yaml")
    text = card(gather(Run.open(hostile)))
    _, head, body = text.split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["model-index"][0]["name"] == "- a: 'b' #<h1>"
    assert facts["license"] == "apache-2.0"
    assert facts["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(0.75, abs=0.01)
    rows = [line for line in body.splitlines() if line.startswith("|") and "training" not in line]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in rows if line.count("|") >= 5 and "interval" not in line}
    assert cells <= {4, 5}
    prose = body.partition("```")[0]  # the command below stands as it is
    assert "<script>" not in prose
    assert re.search(r"(?<!\\)<", prose) is None


def test_hubs_read_the_card(hostile: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard(card(gather(Run.open(hostile))))
    assert read.data.license == "apache-2.0"
    assert [each.metric_type for each in read.data.eval_results] == ["accuracy", "f1"]


# ---- sentences


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.9107, "91"),
        (0.996, "99.6"),
        (0.9996, "99.9"),
        (0.9968, "99.7"),
        (1.0, "100"),
        (0.004, "0.4"),
        (0.0, "0"),
        (0.5, "50"),
    ],
)
def test_nothing_short_of_all_is_called_a_hundred(share: float, words: str) -> None:
    assert numbers.of_hundred(share) == words


@pytest.mark.parametrize(("share", "words"), [(0.97, "97 %"), (0.996, "99.6 %"), (1.0, "over 99.9 %")])
def test_no_answer_is_called_certain(share: float, words: str) -> None:
    assert numbers.sure(share).replace(numbers.SPACE, " ") == words


@pytest.mark.parametrize(
    ("ends", "words"),
    [((0.878, 0.932), "between 87 and 94"), ((0.951, 1.0), "between 95 and 100"), ((0.87, 0.94), "between 87 and 94")],
)
def test_a_range_is_rounded_outwards(ends: tuple[float, float], words: str) -> None:
    assert numbers.span_of_hundred(ends) == words


def test_a_model_no_better_than_one_answer_is_called_so(tmp_path: Path) -> None:
    poor = gather(Run.open(made_up(tmp_path, MadeUp(accuracy=0.5))))
    assert "not clearly better than that" in sentences.against(poor)


def test_few_test_photos_are_warned_of(tmp_path: Path) -> None:
    found = sentences.caveats(gather(Run.open(made_up(tmp_path))))
    assert any(f"only {2 * EACH['test']} photos" in each for each in found)


def test_no_mistake_is_not_promised_for_ever(tmp_path: Path) -> None:
    facts = gather(Run.open(made_up(tmp_path, MadeUp(accuracy=1.0))))
    assert "all answers were right" in sentences.outcome(facts)
    assert sentences.promise(facts) == "Of 100 new photos like these, between 67 and 100 would be named rightly."
    assert "There is no mistake" in Seen(page(facts, Pictures())).text


def test_tuning_is_not_praised_for_what_chance_may_do(tmp_path: Path) -> None:
    facts = gather(Run.open(made_up(tmp_path)))
    assert "too few to tell the two apart" in sentences.against(facts)


def test_calibration_and_abstention_are_told(tmp_path: Path) -> None:
    text = Seen(rendered(made_up(tmp_path))).text
    assert "the temperature of 0.70, makes the model surer" in text
    assert "On the test photos it does of 1 of 8" in text


# ---- gaps


def test_an_older_run_has_a_report_too(tmp_path: Path) -> None:
    run = made_up(tmp_path, MadeUp(old=True, tuned=False))
    (run / "plan.json").unlink(missing_ok=True)
    text = Seen(rendered(run)).text
    assert "This run has not stored what a diagram of it is drawn from" in text
    assert "there are no learning curves" in text


def test_a_model_that_does_not_open_here_leaves_pictures_without_heat(tmp_path: Path) -> None:
    run = made_up(tmp_path, MadeUp(photos=True))
    made = outcome(work(run, out=tmp_path / "out"))
    seen = Seen(made.page.read_text(encoding="utf-8"))
    assert "There are no heat maps: model of run" in seen.text
    assert [tag for tag, _ in seen.elements if tag == "img"]


def test_a_damaged_part_of_a_run_is_named_and_ends_nothing(tmp_path: Path) -> None:
    run = made_up(tmp_path)
    (run / "plan.json").write_text('{"predicted": 3}')
    assert "time and cost: " in Seen(rendered(run)).text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_a_run_names_need_not_be_a_file_that_ends(tmp_path: Path) -> None:
    run = Run.open(made_up(tmp_path))
    dataset = run.dataset
    pipe = dataset.root / dataset.items[0].path
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no file where the run"):
        read(dataset, dataset.items[0].path)


def test_many_classes_get_the_pairs_instead_of_a_picture_that_none_can_read(tmp_path: Path) -> None:
    run = made_up(tmp_path, MadeUp(classes=[f"kind {number:03}" for number in range(120)]))
    text = rendered(run)
    seen = Seen(text)
    assert not [each for each in seen.values("aria-label") if each.startswith("Confusion")]
    assert "What is taken for what" in seen.text
    assert "All 120 classes" in seen.text
    assert len(text) < 500_000


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named_with_the_way_out(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_up(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibrary, match=library) as refused:
        outcome(work(run))
    assert refused.value.fix == 'pip install "headstart[report]"'
    assert not (run / "report.html").exists()


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRun, match="does not exist"):
        hs.report(tmp_path / "none")
    run = made_up(tmp_path)
    (run / "INCOMPLETE").touch()
    with pytest.raises(BadRun, match="not finished"):
        hs.report(run)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    run = made_up(tmp_path)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BadSetting, match="cannot be written"):
        hs.report(run, out=tmp_path / "taken" / "inside")
    with pytest.raises(BadSetting, match="cannot be written"):
        hs.report(run, out=tmp_path / "taken")


# ---- looks


def test_charts_take_every_colour_from_the_page(tmp_path: Path) -> None:
    found = re.findall(r"<svg.*?</svg>", rendered(made_up(tmp_path)), flags=re.DOTALL)
    assert len(found) >= 3
    for svg in found:
        assert re.findall(r"#[0-9a-f]{6}\b|black|white", svg) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "muted", "blue", "orange"])
def test_every_ink_can_be_read_on_the_paper(ink: str, theme: str) -> None:
    css = (files("headstart.report") / "templates" / "report.css").read_text(encoding="utf-8")
    rules = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)[("light", "dark").index(theme)]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", rules))
    for paper in ("paper", "ground", "tint"):
        assert contrast(colours[ink], colours[paper]) >= 4.5, paper


def contrast(one: str, other: str) -> float:
    """Of two colours, by WCAG 2."""
    lights = []
    for colour in (one, other):
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
