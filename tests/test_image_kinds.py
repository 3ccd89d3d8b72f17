"""Every kind of file that people have becomes what docs/images.md says, or is refused as it says."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import features

from headstart.data.loading import load_dataset
from headstart.modalities.image import ImageModality
from headstart.modalities.modality import Undecodable
from headstart.modalities.sniff import HEAD, refusal
from headstart.modalities.spec import InputSpec

from .kinds import Kind, kinds, noise, saved, scene

PAGE = Path(__file__).parents[1] / "docs" / "images.md"
SQUARE = InputSpec(size=64, crop=1.0, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3, fit="squash")
NOT_FILES = {"a file that you may not read"}  # what no bytes can be: tested by itself
KINDS = kinds()


def rows(page: str) -> dict[str, str]:
    """Kind -> what happens, out of the page's first table."""
    table = page.partition("| kind | what happens |")[2].partition("\n\n")[0]
    cells = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return {kind.strip(): happens.strip() for kind, happens in cells}


ROWS = rows(PAGE.read_text(encoding="utf-8"))


def test_every_kind_in_the_page_has_a_file_and_every_file_a_row() -> None:
    assert set(ROWS) - NOT_FILES == set(KINDS)
    assert all(kind.files or kind.needs for kind in KINDS.values())


@pytest.mark.parametrize("name", KINDS)
def test_a_file_becomes_what_the_page_says(name: str) -> None:
    check(KINDS[name], ROWS[name])


def check(kind: Kind, says: str) -> None:
    """Each file of this kind is read or refused as the page says it."""
    if kind.needs and not features.check(kind.needs):
        pytest.skip(f"this Pillow has no {kind.needs}")
    promised = re.search(r'refused: "(.*?)"', says)
    assert says.startswith("refused") == (promised is not None) == bool(kind.reason)
    for content in kind.files:
        if promised is None:
            assert quarters(ImageModality().decode(content, SQUARE)) == near(kind.quarters, kind.near)
            assert quarters(ImageModality().decode(content, SQUARE, reduced=True)) == near(kind.quarters, kind.near)
        else:
            with pytest.raises(Undecodable) as problem:
                ImageModality().decode(content, SQUARE)
            assert promised[1] in str(problem.value)
            assert kind.reason in str(problem.value)


def quarters(picture: np.ndarray) -> list[tuple[int, ...]]:
    """The colours in the middle of each quarter."""
    places = ((16, 16), (16, 48), (48, 16), (48, 48))
    return [tuple(int(channel) for channel in picture[place]) for place in places]


def near(colours: object, off: int) -> object:
    """Equal to colours that differ by no more than this."""

    class Near:
        def __eq__(self, other: object) -> bool:
            return bool(np.abs(np.array(other, int) - np.array(colours, int)).max() <= off)

        def __repr__(self) -> str:
            return f"{colours} by {off}"

    return Near()


def test_a_wrong_colour_or_a_wrong_reason_would_be_found() -> None:
    with pytest.raises(AssertionError):
        check(Kind(files=[saved(scene().rotate(180), "PNG")]), "read")
    with pytest.raises(AssertionError):
        check(Kind(files=[b""], reason="empty file"), 'refused: "damaged"')
    with pytest.raises(AssertionError):
        check(Kind(files=[b""], reason="empty file"), "read")


def test_what_is_refused_by_its_first_bytes_is_not_read_to_its_end() -> None:
    for kind in KINDS.values():
        for content in kind.files:
            early = refusal(content[:HEAD])
            assert early is None or early in (refusal(content) or "")
            assert early is None or kind.reason in early


def test_a_file_that_may_not_be_read_is_listed_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's refusal is feigned, as root is refused nothing."""
    for number, path in enumerate(["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "b/locked.jpg"]):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(saved(noise(number), "JPEG"))
    opened = Path.open

    def denied(path: Path, *rest: object, **more: object) -> object:
        if path.name == "locked.jpg":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *rest, **more)

    monkeypatch.setattr(Path, "open", denied)
    (locked,) = load_dataset(tmp_path).skipped
    assert f'refused: "{locked.reason}"' in ROWS["a file that you may not read"]


def test_the_limit_of_pixels_can_be_raised_and_lowered_without_touching_pillows_own() -> None:
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    content = saved(scene(400, 300), "PNG")
    with pytest.raises(Undecodable, match=r"400 x 300 pixels are more than 119,999 \(see --max-pixels\)"):
        ImageModality(max_pixels=119_999).decode(content, SQUARE)
    assert ImageModality(max_pixels=120_000).decode(content, SQUARE).shape == (64, 64, 3)
    large = saved(Image.new("1", (13_500, 13_500)), "PNG")  # Pillow's own limit would be in the way
    with pytest.raises(Undecodable, match="178,956,970"):
        ImageModality().decode(large, SQUARE)
    assert ImageModality(max_pixels=200_000_000).decode(large, SQUARE).max() == 0
    assert before == Image.MAX_IMAGE_PIXELS


def test_another_limit_does_not_find_what_was_kept_under_the_first() -> None:
    usual = ImageModality().fingerprint(reduced=True)
    assert ImageModality(max_pixels=1000).fingerprint(reduced=True) != usual
    assert ImageModality(max_pixels=178_956_970).fingerprint(reduced=True) == usual
