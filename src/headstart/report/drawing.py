"""Draw with matplotlib, and get SVG that belongs to a page: its colours are the page's, its text is text.

Whatever is drawn in one of the colours below takes the page's own: CSS variables, which are others in the dark and on
paper. The same drawing always gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from headstart.errors import HeadstartError
from headstart.report.numbers import shortened, shown, width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that no one would choose stand for variables of report.css until the drawing is done.
INK, MUTED, LINE, PAPER = "#010203", "#010204", "#010205", "#010206"
BLUE, ORANGE, ON_BLUE = "#010207", "#010208", "#010209"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    BLUE: "blue",
    ORANGE: "orange",
    ON_BLUE: "on-blue",
}
WIDTH = 400.0  # units of the drawing; on the page it is as wide as there is room, from 300 to 560 pixels
LETTER = 5.9  # units that a letter of `FONT` takes, roughly
FONT = 11.0
SMALL = 9.5
_REFERENCE = re.compile(r"(?:^|url\()#([^)]+)")  # to another part of the drawing
_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headstart",
    "text.parse_math": False,  # a class may be called $x$
    "font.size": FONT,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": SMALL,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 1.0,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 7,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "figure.facecolor": "none",
    "figure.dpi": 72,
}


class MissingLibrary(HeadstartError):
    """A library that only reports need is not installed."""


@dataclass(frozen=True)
class Chart:
    """A drawing: an element `svg` for a page, with its description in it; every text in it is escaped."""

    svg: str


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """An empty figure of the usual width, in our style while this is open.

    Raises:
        MissingLibrary: matplotlib is not installed.
    """
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ModuleNotFoundError as problem:
        raise missing("matplotlib", problem) from problem
    # The user's own settings of matplotlib must not decide how a report looks.
    with style.context(["default", _STYLE]):
        yield Figure(figsize=(WIDTH / 72, height / 72))


def missing(library: str, problem: ModuleNotFoundError) -> MissingLibrary:
    """The refusal for a library that only reports need."""
    if (problem.name or "").partition(".")[0] != library:
        raise problem  # another library is broken: to install this one would not help
    return MissingLibrary(f"a report needs {library}, which is not installed", fix='pip install "headstart[report]"')


def frame(figure: Figure, *, left: float, bottom: float, right: float = 10, top: float = 10, **keywords: Any) -> Axes:
    """Axes with margins in units of the drawing: chosen here, since matplotlib cannot know the reader's fonts."""
    wide, high = (72 * side for side in figure.get_size_inches())
    box = (left / wide, bottom / high, (wide - left - right) / wide, (high - bottom - top) / high)
    return figure.add_axes(box, **keywords)


def room_for(names: list[str], most: int) -> tuple[list[str], float]:
    """These names, shortened to `most` letters, and the margin that they need."""
    short = [shortened(shown(name), most) for name in names]
    return short, LETTER * max(map(width, short), default=0) + 10


def finished(figure: Figure, *, name: str, words: str) -> Chart:
    """The figure as SVG. `name` makes its ids unique on the page; `words` say what it shows."""
    import warnings

    text = StringIO()
    with warnings.catch_warnings():
        # Matplotlib's own font lacks many scripts, but only the reader's fonts will be used.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Chart(_of_page(text.getvalue(), name, words))


def _of_page(svg: str, name: str, words: str) -> str:
    """The drawing alone, with the page's colours and fonts, as wide as its place, described, with ids of its own."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        # A style here would be one of the whole page; what the file says of itself, the page says better.
        for child in [child for child in parent if _tag(child) in ("metadata", "style")]:
            parent.remove(child)
    used = {match for each in root.iter() for value in each.attrib.values() for match in _REFERENCE.findall(value)}
    for each in root.iter():
        each.tag = _tag(each)
        each.text, each.tail = (each.text or "").strip() or None, None
        values = {key.rpartition("}")[2]: value for key, value in each.attrib.items()}
        each.attrib.clear()
        each.attrib.update({key: _value(value, name) for key, value in values.items() if key != "id"})
        if values.get("id") in used:
            each.set("id", f"{name}-{values['id']}")
    root.attrib.clear()
    root.attrib.update({"class": "chart", "viewBox": f"0 0 {WIDTH:g} {_height(svg):g}"})
    root.attrib.update({"role": "img", "aria-label": words, "style": "stroke-linejoin: round"})
    return ElementTree.tostring(root, encoding="unicode")


def _value(value: str, name: str) -> str:
    value = _REFERENCE.sub(lambda match: match.group(0).replace("#", f"#{name}-"), value)
    value = _FAMILY.sub("", value)
    for colour, variable in _VARIABLES.items():
        value = value.replace(colour, f"var(--{variable})")
    return value


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _height(svg: str) -> float:
    found = re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)
    return float(found.group(1)) if found else WIDTH
