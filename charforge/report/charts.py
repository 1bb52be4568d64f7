"""The report's plots: loss while training, scores with intervals, differences with intervals. Numbers in, SVG out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from charforge.report.svg import Drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from charforge.report.people import Person

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval, both in the plot's numbers, low <= value <= high; `title` shows when it is pointed at.

    An interval of (None, None) is unknown and not drawn. `css`, `marker`: whose it is. A `decided` difference is filled.
    """

    value: float
    low: float | None
    high: float | None
    css: str
    marker: str
    title: str
    decided: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """What stands under one label: a dot each contestant, from top to bottom; None leaves its line empty."""

    label: str
    dots: tuple[Dot | None, ...]


def dot(
    person: Person, value: float, ends: tuple[float | None, float | None], text: str, *, decided: bool = True
) -> Dot:
    """Return a contestant's dot. `ends` of its interval may come in either order; both or neither is None."""
    low, high = ends
    if low is not None and high is not None:
        low, high = min(low, high), max(low, high)
    return Dot(value, low, high, person.css, person.marker, text, decided)


def loss_curve(steps: Points, held_out: Points, kept: int | None) -> Markup:
    """Return the curve of training, empty text where there is nothing to draw.

    `steps` are (step, training loss), `held_out` (step, held-out loss), all finite; `kept` is the index of the held-out loss that
    gets a ring. The y axis covers the data, not zero: a loss has no natural zero in sight.
    """
    every = steps + held_out
    if not every:
        return Markup()
    drawing = Drawing("loss", 230, left=44, right=14, top=10, bottom=38)
    x_ticks = _ticks(0, max(x for x, _ in every), 6)
    y_ticks = _ticks(min(y for _, y in every), max(y for _, y in every), 4)
    last = max(x_ticks[-1], *(x for x, _ in every))
    drawing.frame((0, last), (y_ticks[0], y_ticks[-1]))
    for y in y_ticks:
        drawing.line([(0, y), (last, y)], "grid", width=1)
        drawing.text(drawing.offset(-8, 0)[0], y, f"{y:g}", "tick", anchor="right", middle=True)
    below = y_ticks[0] - drawing.offset(0, 17)[1]
    for x in x_ticks:
        drawing.text(x, below, f"{x:g}", "tick")
    drawing.text(last / 2, y_ticks[0] - drawing.offset(0, 33)[1], "optimizer step", "axis")
    if len(steps) > 8:
        drawing.line(steps, "faint", width=1)
        drawing.line(smoothed(steps, max(5, len(steps) // 12)), "mid", width=2)
    elif len(steps) > 1:
        drawing.line(steps, "mid", width=2)
    if len(held_out) > 1:
        drawing.line(held_out, "c0", width=2)
    for index, (x, y) in enumerate(held_out):
        if index == kept:
            drawing.mark(x, y, "c0", size=13, hollow=True)
        drawing.mark(x, y, "c0", title=f"held-out loss at step {x:g}: {y:.3f}")
    told = "; ".join(f"step {x:g}: {y:.3f}" for x, y in held_out) or "none"
    return drawing.markup(
        title="Loss while training", description=f"Held-out loss by optimizer step: {told}."
    )


def differences(identity: str, rows: Sequence[Row], *, title: str, description: str, least: float) -> Markup:
    """Return differences around a line of none, the reference's leads to the right; empty text where there is none.

    The axis reaches as far to both sides, and at least as far as `least`.
    """
    dots = [dot for row in rows for dot in row.dots if dot]
    ends = [end for dot in dots for end in (dot.value, dot.low, dot.high) if end is not None]
    if not ends:
        return Markup()
    reach, ticks = symmetric(ends, least)
    return intervals(
        identity,
        rows,
        title=title,
        description=description,
        low=-reach,
        high=reach,
        ticks=ticks,
        zero=0.0,
        sides=("← worse", "better →"),
    )


def intervals(
    identity: str,
    rows: Sequence[Row],
    *,
    title: str,
    description: str,
    low: float,
    high: float,
    ticks: Sequence[float],
    zero: float | None = None,
    sides: tuple[str, str] | None = None,
    unit: str = "",
) -> Markup:
    """Return rows of dots with their intervals over one axis from `low` to `high`; empty text where no row has a dot.

    `zero` is where a line of no difference is drawn, `sides` says what it means to be left and right of it. What reaches beyond
    the axis is cut there; its title and the table beside the plot say the whole.
    """
    if not any(dot for row in rows for dot in row.dots):
        return Markup()
    line, gap, top = 10.5, 8.0, 22.0 if sides else 6.0
    # Room for the longest label in the size that phones get.
    left = min(190.0, 22 + 8.2 * max(len(row.label) for row in rows))
    heights = [line * max(len(row.dots), 2) + gap for row in rows]
    height = top + sum(heights) + 22
    drawing = Drawing(identity, height, left=left, right=16, top=top, bottom=22)
    # Units from the top, as one reads.
    inner = sum(heights)
    drawing.frame((low, high), (inner, 0))
    for tick in ticks:
        drawing.line([(tick, 0), (tick, inner)], "zero" if tick == zero else "grid", width=1)
        drawing.text(tick, inner + 16, f"{tick:g}".replace("-", "−") + unit, "tick")
    if sides is not None and zero is not None:
        away = drawing.offset(6, 0)[0]
        drawing.text(zero - away, -8, sides[0], "axis", anchor="right")
        drawing.text(zero + away, -8, sides[1], "axis", anchor="left")
    y = 0.0
    for row, space in zip(rows, heights, strict=True):
        if y:
            drawing.line([(low, y), (high, y)], "grid", width=0.6)
        drawing.text(
            low - drawing.offset(10, 0)[0], y + space / 2, row.label, "row", anchor="right", middle=True
        )
        first = y + space / 2 - line * (len(row.dots) - 1) / 2
        for place, dot in enumerate(row.dots):
            if dot is not None:
                _dot(drawing, dot, first + line * place, low, high)
        y += space
    return drawing.markup(title=title, description=description)


def _dot(drawing: Drawing, dot: Dot, y: float, low: float, high: float) -> None:
    if dot.low is not None and dot.high is not None:
        ends = [(min(max(dot.low, low), high), y), (min(max(dot.high, low), high), y)]
        drawing.line(ends, dot.css, width=1.8)
    if low <= dot.value <= high:
        drawing.mark(dot.value, y, dot.css, dot.marker, hollow=not dot.decided, title=dot.title)


def smoothed(points: Points, window: int) -> Points:
    """Return a centred moving average over `window` points, shorter at the ends; x stays."""
    half = window // 2
    means = []
    for index, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, index - half) : index + half + 1]]
        means.append((x, sum(near) / len(near)))
    return means


def symmetric(values: Sequence[float], least: float) -> tuple[float, list[float]]:
    """Return how far an axis around zero reaches, at least `least`, and its marks."""
    reach = max([least, *(abs(value) for value in values)])
    ticks = _ticks(-reach, reach, 5)
    reach = max(-ticks[0], ticks[-1])
    return reach, ticks


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers that cover low..high; at least two."""
    from matplotlib.ticker import MaxNLocator

    if high - low < 1e-9:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    found = MaxNLocator(nbins=about, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [round(float(value), 12) + 0.0 for value in found]
