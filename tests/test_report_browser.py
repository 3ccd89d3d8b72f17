"""A report in a real browser: nothing is asked of any host, phones and the dark are served, paper too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from headstart.outcome import outcome
from headstart.report.making import report

from .made_up_run import MadeUp, made_up
from .test_report import HOSTILE

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Tables, charts and pictures that reach out of their part of the page, which need not widen the page itself.
OUTSIDE = """[...document.querySelectorAll('section :is(table, svg, img, pre, p)')].filter(
    each => each.getBoundingClientRect().right > each.closest('section').getBoundingClientRect().right - 8
).map(each => each.innerText || each.tagName)"""
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("browser")
    asked = MadeUp(classes=HOSTILE, file="a-name-" + "long" * 40, photos=True)
    return outcome(report(made_up(folder, asked))).page.as_uri()


class Visit:
    """A page that was opened: what it asked for, and what the browser complained of."""

    def __init__(self, chromium: Any, place: str, **kind: Any) -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page = chromium.new_context(**kind).new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda problem: self.complaints.append(str(problem)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        self.page.goto(place)


def test_a_page_is_all_there_and_asks_for_nothing(chromium: Any, place: str) -> None:
    visit = Visit(chromium, place)
    assert visit.complaints == []
    assert {url.partition(":")[0] for url in visit.asked} <= {"file", "data"}
    assert [url for url in visit.asked if url.startswith("file:")] == [place]
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert visit.page.evaluate("document.images.length") > 5
    assert visit.page.evaluate(broken) == 0


@pytest.mark.parametrize("width", [320, 360, 820, 1440])
def test_nothing_is_wider_than_the_screen(chromium: Any, place: str, width: int) -> None:
    visit = Visit(chromium, place, viewport={"width": width, "height": 700})
    visit.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.page.evaluate(OUTSIDE) == []


def test_charts_can_be_read_on_a_phone(chromium: Any, place: str) -> None:
    visit = Visit(chromium, place, viewport={"width": 360, "height": 700})
    sizes = visit.page.evaluate(
        "[...document.querySelectorAll('svg text')].map(each => "
        "parseFloat(getComputedStyle(each).fontSize) * each.ownerSVGElement.getScreenCTM().a)"
    )
    assert min(sizes) > 6.5  # pixels of a screen that has two or three to each


def test_the_first_screen_says_whether_the_model_can_be_used(chromium: Any, place: str) -> None:
    for width, height in ((1280, 800), (390, 844)):
        visit = Visit(chromium, place, viewport={"width": width, "height": height})
        box = visit.page.locator("#verdict").bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < height
    text = visit.page.inner_text("#summary")
    assert "Do not use it for" in text
    assert "To make it better" in text


def test_the_dark_changes_page_and_charts(chromium: Any, place: str) -> None:
    script = """[getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector('svg text')).fill]"""
    light = Visit(chromium, place, color_scheme="light").page.evaluate(script)
    dark = Visit(chromium, place, color_scheme="dark").page.evaluate(script)
    assert light == ["rgb(245, 246, 248)", "rgb(89, 101, 117)"]
    assert dark == ["rgb(15, 19, 24)", "rgb(155, 166, 181)"]


def test_paper_gets_what_is_folded_away_and_is_never_dark(chromium: Any, place: str, tmp_path: Path) -> None:
    visit = Visit(chromium, place, color_scheme="dark")
    visit.page.emulate_media(media="print")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert visit.page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 35, 48)"
    assert visit.page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    printed = visit.page.pdf(path=tmp_path / "report.pdf")
    assert printed.startswith(b"%PDF")


def test_headings_and_tables_make_sense_to_a_screen_reader(chromium: Any, place: str) -> None:
    visit = Visit(chromium, place)
    levels = visit.page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(each => Number(each.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert visit.page.evaluate("document.querySelectorAll('th:not([scope])').length") == 0
    named = "[...document.querySelectorAll('th, h1, h2, h3, a, summary')].every(each => each.textContent.trim())"
    assert visit.page.evaluate(named)
    dead = "[...document.querySelectorAll('a')].filter(each => !document.querySelector(each.hash)).length"
    assert visit.page.evaluate(dead) == 0
    assert visit.page.evaluate("[...document.images].every(image => image.alt)")
    assert visit.page.evaluate("[...document.querySelectorAll('svg')].every(each => each.getAttribute('aria-label'))")
    assert visit.page.evaluate("document.documentElement.lang") == "en"
