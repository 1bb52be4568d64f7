"""From a matplotlib figure to SVG text that may stand in a page which allows no inline style, no script and no request.

matplotlib lays out and draws; this module takes its file apart and keeps shapes. Colours become classes (`f-c0` fills, `s-c0`
strokes), so that light, dark and print are the style sheet's business, and so do the sizes of text. Labels never pass
through matplotlib: a `$` would be mathematics to it, and a letter that its font lacks a warning. It draws short marks in
their place, and each is exchanged for the escaped label here. Nothing depends on the user's matplotlibrc, the date or
chance: the same figure gives the same bytes.
"""

from __future__ import annotations

import io
import logging
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 480.0
"""Units across every drawing: few, so that it can be read on a phone. How wide it is on the page is the style sheet's business."""

COLOURS = (
    "c0",
    "c1",
    "c2",
    "c3",
    "c4",
    "c5",
    "c6",
    "c7",
    "card",
    "grid",
    "zero",
    "faint",
    "mid",
    "tick",
    "axis",
    "row",
)
"""What may have a colour of its own; a class of the style sheet each."""

_SENTINEL = {name: f"#fe{index:02x}dc" for index, name in enumerate(COLOURS)}
_NAME = {colour: name for name, colour in _SENTINEL.items()}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
# What the page says by class, or says once for all drawings.
_LEFT_TO_THE_PAGE = {"font", "font-size", "font-family", "stroke-linecap", "stroke-linejoin"}
_KEPT = {"x", "y", "d", "href", "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity"}
_KEPT |= {"fill-opacity", "opacity", "text-anchor", "class", "dy", "id", "transform"}


def colour(name: str) -> str:
    """Return the colour to draw with where the page shall use the class `name`, one of COLOURS."""
    return _SENTINEL[name]


class Drawing:
    """One axis system with x to the right and y upwards, its frame given by margins in units; `axes` is matplotlib's own.

    `identity` becomes the beginning of every id in it and must be unique on the page.
    """

    def __init__(
        self, identity: str, height: float, *, left: float, right: float, top: float, bottom: float
    ) -> None:
        self.identity = identity
        self.height = height
        self._labels: list[tuple[str, bool]] = []
        self._titles: list[str] = []
        with _defaults():
            from matplotlib.figure import Figure

            self._figure = Figure(figsize=(WIDTH / 72, height / 72))
            box = (
                left / WIDTH,
                bottom / height,
                1 - (left + right) / WIDTH,
                1 - (top + bottom) / height,
            )
            self.axes: Any = self._figure.add_axes(box)
            self.axes.set_axis_off()

    def frame(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        """Set what the axes reach over; all that is drawn afterwards stands in these numbers."""
        self.axes.set_xlim(*x)
        self.axes.set_ylim(*y)

    def line(
        self, points: list[tuple[float, float]], kind: str, *, width: float = 1.5, title: str = ""
    ) -> None:
        """Draw a line through `points`."""
        made = self.axes.plot(*zip(*points, strict=True), color=colour(kind), linewidth=width, clip_on=False)
        self._title(made[0], title)

    def mark(
        self,
        x: float,
        y: float,
        kind: str,
        shape: str = "o",
        *,
        size: float = 7.5,
        hollow: bool = False,
        title: str = "",
    ) -> None:
        """Draw one of matplotlib's markers, with a title that shows when it is pointed at."""
        made = self.axes.plot(
            [x],
            [y],
            marker=shape,
            markersize=size,
            markerfacecolor=colour("card" if hollow else kind),
            markeredgecolor=colour(kind if hollow else "card"),
            markeredgewidth=1.1,
            linestyle="none",
            clip_on=False,
        )
        self._title(made[0], title)

    def text(
        self, x: float, y: float, label: str, kind: str, *, anchor: str = "center", middle: bool = False
    ) -> None:
        """Write a label with its baseline at y, or its middle there. `anchor`: which side of it stands at x."""
        self.axes.text(
            x,
            y,
            f"@{len(self._labels)}",
            color=colour(kind),
            ha=anchor,
            va="baseline",
            clip_on=False,
            parse_math=False,
        )
        self._labels.append((label, middle))

    def offset(self, dx: float, dy: float) -> tuple[float, float]:
        """Return how far in the axes' numbers a way of `dx`, `dy` units is."""
        (x0, y0), (x1, y1) = self.axes.transData.inverted().transform([(0, 0), (dx, dy)])
        return x1 - x0, y1 - y0

    def markup(self, *, title: str, description: str) -> Markup:
        """Return the drawing as an `svg` element; title and description are for readers who do not see it."""
        root = ET.fromstring(self._file())  # noqa: S314  # matplotlib's own file, with no text of others in it
        body = "".join(_written(element) for group in root for element in self._plain(group))
        mark = escape(self.identity)
        return Markup(  # noqa: S704  # numbers, our classes, and labels that went through escape()
            f'<svg class="plot" viewBox="0 0 {WIDTH:g} {self.height:g}" role="img" aria-labelledby="{mark}-t {mark}-d">'
            f'<title id="{mark}-t">{escape(title)}</title><desc id="{mark}-d">{escape(description)}</desc>{body}</svg>'
        )

    def _title(self, artist: Any, title: str) -> None:
        if title:
            artist.set_gid(f"title-{len(self._titles)}")
            self._titles.append(title)

    def _file(self) -> str:
        with _defaults():
            from matplotlib.backends.backend_svg import FigureCanvasSVG

            self._figure.patch.set_visible(False)
            file = io.StringIO()
            FigureCanvasSVG(self._figure).print_svg(
                file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
            )
        return file.getvalue()

    def _plain(self, element: Any) -> Iterator[Any]:
        """Yield what is left of an element: itself with plain attributes, or its children where it says nothing more."""
        tag = element.tag.removeprefix(_SVG)
        if tag in {"metadata", "style"}:
            return
        made = ET.Element(tag, _attributes(element))
        made.extend(child for each in element for child in self._plain(each))
        identity = element.get("id", "")
        if tag == "text":
            label, middle = self._labels[int((element.text or "")[1:])]
            made.text = label
            made.attrib.pop("transform", None)
            if middle:
                made.set("dy", "0.34em")
        if tag == "g" and identity.startswith("title-"):
            title = ET.Element("title")
            title.text = self._titles[int(identity.removeprefix("title-"))]
            made.insert(0, title)
            del made.attrib["id"]
        elif tag == "g":
            yield from made
            return
        if tag == "defs" and not len(made):
            return
        for name in ("id", "href"):
            if name in made.attrib:
                value = made.attrib[name].removeprefix("#")
                made.set(name, f"{'#' * (name == 'href')}{self.identity}-{value}")
        yield made


def _attributes(element: Any) -> dict[str, str]:
    """Return an element's attributes with its style among them, and the page's classes in place of our colours."""
    found = {name: value for name, value in element.attrib.items() if name != "style"}
    if _HREF in found:
        found["href"] = found.pop(_HREF)
    for part in filter(None, (one.strip() for one in element.get("style", "").split(";"))):
        name, value = (side.strip() for side in part.split(":", 1))
        if name not in _LEFT_TO_THE_PAGE:
            found[name] = value
    classes = [
        f"{name[0]}-{_NAME[found.pop(name)]}" for name in ("fill", "stroke") if found.get(name) in _NAME
    ]
    if classes:
        found["class"] = " ".join(classes)
    if "d" in found:
        found["d"] = " ".join(found["d"].split())
    return {
        name: value if name in {"id", "href", "class"} else _NUMBER.sub(_short, value)
        for name, value in found.items()
        if name in _KEPT
    }


def _short(match: re.Match[str]) -> str:
    """Return a number to a tenth of a unit, which is less than a hair on any screen."""
    text = f"{float(match[0]):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _written(element: Any) -> str:
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in element.attrib.items())
    inside = escape(element.text or "") + Markup("").join(Markup(_written(child)) for child in element)  # noqa: S704
    return f"<{element.tag}{attributes}>{inside}</{element.tag}>"


def _defaults() -> Any:
    """Return a context in which matplotlib is as released, whatever a matplotlibrc of the user or the folder says.

    Imported here and late: it takes half a second. On import it reads a matplotlibrc, and its list of fonts from the user's
    cache folder (a temporary one where there is no home); it logs both, which is no business of whoever builds a character.
    """
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        **{k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")},
        "svg.fonttype": "none",
        "svg.hashsalt": "charforge",
        "path.simplify": False,
        "savefig.dpi": 72,
        "figure.dpi": 72,
    }
    return mpl.rc_context(settings)
