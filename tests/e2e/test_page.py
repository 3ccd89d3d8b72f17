"""The service's page in a real browser: one drops, pastes, chooses or takes a photo and reads the answer."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.serving_model import write

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium is installed to open the page with", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
Image = pytest.importorskip("PIL.Image")

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream")
QUIET += ("--use-fake-ui-for-media-stream",)  # a camera that shows a green picture, and nobody is asked
MODEL = Path(__file__).parents[1] / "serving_model.py"
# What a screen reader has no name for, and what a finger cannot hit, of all that is seen.
SEEN = "[...document.querySelectorAll('button, a, input, img, h1, h2')].filter((e) => e.checkVisibility())"
UNNAMED = f"{SEEN}.filter((e) => !(e.innerText || e.alt || e.labels?.length)).map((e) => e.outerHTML)"
SMALL = f"{SEEN}.filter((e) => e.tagName == 'BUTTON' && e.offsetHeight < 44).map((e) => e.outerHTML)"
TOKEN = "a-token-of-some-length"
EVIL = "<img src=x onerror=document.title='taken'>"


def photo(colour: tuple[int, int, int], kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(file, kind)
    return file.getvalue()


def given(name: str, content: bytes) -> dict[str, object]:
    return {"name": name, "mimeType": "image/jpeg", "buffer": content}


@contextmanager
def serving(folder: Path, **options: object) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.serving_model", str(folder), json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=MODEL.parents[1])
    assert process.stdout is not None
    try:
        yield next(found.group() for line in process.stdout if (found := re.search(r"http://[\d.:]+", line)))
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with a token, and with a class that has a wicked name."""
    folder = write(tmp_path_factory.mktemp("guarded"), classes=("red", "green", EVIL))
    with serving(folder, token=TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(write(tmp_path_factory.mktemp("bundle"))) as found:
        yield found


class Opened:
    """A page, with what it complained about and whom it asked."""

    def __init__(self, browser: object, address: str, **options: object) -> None:
        self.page = browser.new_page(**options)  # type: ignore[attr-defined]
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))
        self.page.on("pageerror", lambda problem: self.complaints.append(str(problem)))
        own = (f"{address}/", "blob:")
        self.page.on("request", lambda asked: asked.url.startswith(own) or self.strangers.append(asked.url))
        self.page.goto(f"{address}/")

    def give(self, *photos: dict[str, object]) -> None:
        self.page.set_input_files("#files", photos)

    @property
    def answer(self) -> str:
        self.page.wait_for_selector("article:not(.busy)")
        return str(self.page.inner_text("article:first-child .answer"))


@pytest.fixture
def opened(browser: object, address: str) -> Iterator[Opened]:
    found = Opened(browser, address)
    yield found
    assert found.complaints == []
    assert found.strangers == []
    found.page.close()


def test_a_chosen_photo_is_named_with_how_sure_and_what_else_it_could_be(opened: Opened) -> None:
    opened.give(given("sky.jpg", photo((10, 20, 240))))
    assert re.match(r"blue\s+8\d % sure", opened.answer)
    assert opened.page.locator(".others .name").all_inner_texts() == ["blue", "green", "red"]
    assert "sky.jpg" in opened.page.inner_text("figcaption")
    assert re.fullmatch(r"blue, 8\d % sure", opened.page.inner_text("#status"))  # what a screen reader says


def test_a_photo_like_none_is_called_unsure(opened: Opened) -> None:
    opened.give(given("fog.jpg", photo((120, 120, 121))))
    assert opened.answer.startswith("Unsure")
    assert "unlike those that the model learnt from" in opened.answer


def test_the_heat_map_comes_and_goes_and_another_class_can_be_explained(opened: Opened) -> None:
    opened.give(given("sky.jpg", photo((10, 20, 240))))
    page = opened.page
    page.click(".why")
    page.wait_for_selector(".heat:visible")
    assert page.get_attribute(".heat", "alt").endswith("speak for blue")
    assert page.evaluate("document.querySelector('.heat').naturalWidth") > 0
    page.focus(".others li:nth-child(2) button")
    page.keyboard.press("Enter")
    page.locator(".method", has_text="green").wait_for()
    assert page.get_attribute(".others li:nth-child(2) button", "aria-pressed") == "true"
    page.wait_for_selector(".heat:visible")
    page.click(".why")
    assert page.is_hidden(".heat")
    assert page.is_visible(".photo")


def test_several_photos_each_have_their_answer_in_their_order(opened: Opened) -> None:
    opened.give(*(given(f"{n}.jpg", photo(colour)) for n, colour in enumerate([(240, 0, 0), (0, 240, 0), (0, 0, 240)])))
    opened.page.wait_for_function("() => document.querySelectorAll('article:not(.busy)').length == 3")
    assert opened.page.locator("article .answer h2").all_inner_texts() == ["red", "green", "blue"]


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photo_can_be_dropped_and_pasted(way: str, opened: Opened) -> None:
    opened.page.evaluate(
        """([way, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "leaf.png", { type: "image/png" }));
            const event = way === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            document.body.dispatchEvent(event);
        }""",
        [way, list(photo((0, 200, 0), "PNG"))],
    )
    assert opened.answer.startswith("green")


def test_a_photo_can_be_taken_by_the_camera(opened: Opened) -> None:
    opened.page.click("#take")
    opened.page.wait_for_function("() => document.querySelector('#video').videoWidth > 0")
    opened.page.click("#snap")
    assert re.search(r"\d %", opened.answer)
    assert opened.page.evaluate("document.querySelector('#video').srcObject.active") is False


def test_a_file_that_is_no_photo_has_its_reason(browser: object, address: str) -> None:
    opened = Opened(browser, address)
    opened.give(given("notes.jpg", b"these are words"))
    assert "cannot be read" in opened.answer
    assert "its content is none of JPEG" in opened.answer
    opened.page.close()


def test_the_token_is_asked_for_once_and_the_photo_is_not_lost(browser: object, guarded: str) -> None:
    opened = Opened(browser, guarded)
    opened.page.wait_for_selector("#token-form:visible")
    assert opened.page.evaluate(UNNAMED) == []
    opened.give(given("leaf.jpg", photo((10, 240, 20))))
    opened.page.wait_for_function("() => !document.querySelector('article')")
    opened.page.fill("#token", TOKEN)
    opened.page.keyboard.press("Enter")
    assert opened.answer.startswith("green")
    assert "Knows 3 classes" in opened.page.inner_text("#about")
    opened.page.reload()
    assert opened.page.is_hidden("#token-form")
    opened.page.close()


def test_names_of_classes_and_files_are_text_and_nothing_else(browser: object, guarded: str) -> None:
    opened = Opened(browser, guarded)
    opened.page.fill("#token", TOKEN)
    opened.page.keyboard.press("Enter")
    opened.complaints.clear()  # of the question before the token was known
    opened.give(given(f"{EVIL}.jpg", photo((10, 20, 240))))
    assert opened.answer.startswith(EVIL)
    opened.page.wait_for_timeout(200)
    assert opened.page.title() == "What is on this photo?"
    assert opened.complaints == []
    opened.page.close()


@pytest.mark.parametrize("options", [{"viewport": {"width": 320, "height": 640}}, {"color_scheme": "dark"}])
def test_it_fits_a_phone_and_follows_dark_mode(options: dict[str, object], browser: object, address: str) -> None:
    opened = Opened(browser, address, **options)
    opened.give(given("a-very-long-name-without-any-blank-" * 4 + ".jpg", photo((10, 20, 240))))
    assert opened.answer.startswith("blue")
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 25, 27)") == ("color_scheme" in options)
    opened.page.close()


def test_a_busy_service_is_asked_again(opened: Opened) -> None:
    replies = iter([503, 503])

    def busy(route: object) -> None:
        if status := next(replies, 0):
            route.fulfill(status=status, headers={"retry-after": "0.1"}, body="{}")  # type: ignore[attr-defined]
        else:
            route.continue_()  # type: ignore[attr-defined]

    opened.page.route("**/predict*", busy)
    opened.give(given("sky.jpg", photo((10, 20, 240))))
    assert opened.answer.startswith("blue")
    assert next(replies, None) is None
    opened.complaints.clear()  # a browser tells of each 503


def test_a_service_that_is_gone_is_told_in_words_and_the_photo_stays(browser: object, address: str) -> None:
    opened = Opened(browser, address)
    page = opened.page
    page.context.set_offline(True)
    opened.give(given("sky.jpg", photo((10, 20, 240))))
    page.wait_for_selector(".again:visible")
    assert page.inner_text("#problem") == "The service cannot be reached."
    page.context.set_offline(False)
    page.click(".again")
    page.wait_for_selector(".others button")
    assert opened.answer.startswith("blue")
    assert page.is_hidden("#problem")
    assert page.is_hidden(".again")
    page.click("#clear")
    assert page.locator("article").count() == 0
    assert page.evaluate("document.activeElement.id") == "choose"
    page.close()


def test_what_is_dropped_and_is_no_file_is_told(opened: Opened) -> None:
    opened.page.evaluate("document.dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer() }))")
    assert opened.page.inner_text("#problem").startswith("That was no file")


@pytest.mark.parametrize("state", ["empty", "answered", "explained", "refused"])
def test_every_state_makes_sense_to_a_screen_reader(state: str, opened: Opened) -> None:
    page = opened.page
    if state == "refused":
        opened.give(given("notes.jpg", b"these are words"))
        page.wait_for_selector("article.refused")
        opened.complaints.clear()  # a browser tells of each 422
    elif state != "empty":
        opened.give(given("sky.jpg", photo((10, 20, 240))))
        page.wait_for_selector(".others button")
    if state == "explained":
        page.click(".why")
        page.wait_for_selector(".heat:visible")
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("[...document.querySelectorAll('h1')].length") == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )
    assert page.get_attribute("#status", "role") == "status"
    assert page.get_attribute("#problem", "role") == "alert"
    assert page.evaluate(SMALL) == []
