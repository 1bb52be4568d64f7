"""Curves and dots as inline SVG text. Knows numbers and words; colours and fonts come from the page's style sheet.

Every plot carries a title and a description for readers who do not see it, uses classes instead of colours (so that
light and dark are the style sheet's business), and scales with its box. Coordinates are rounded to a tenth of a unit,
so the same numbers give the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 640.0


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot. `points` are (x, y), x ascending; `kind` is the CSS class that colours it.

    `dots` marks every point; `highlight` is the index of the point that gets a ring, None for none.
    """

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]
    dots: bool = False
    highlight: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dot plot: a label, and (name, CSS class, value or None) for each contestant."""

    label: str
    values: tuple[tuple[str, str, float | None], ...]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that cover low..high in steps of 1, 2 or 5 times a power of ten; at least two."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("an axis needs finite ends")
    span = high - low
    if span <= 0:
        span = abs(high) * 0.1 or 1.0
        low, high = low - span / 2, high + span / 2
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * about >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def smoothed(points: Sequence[tuple[float, float]], window: int) -> tuple[tuple[float, float], ...]:
    """Return a centred moving average over `window` points, shorter at the ends; x stays."""
    half = window // 2
    values = [y for _, y in points]
    result = []
    for index, (x, _) in enumerate(points):
        near = values[max(0, index - half) : index + half + 1]
        result.append((x, math.fsum(near) / len(near)))
    return tuple(result)


def _n(value: float) -> str:
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def _label(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)


def _open(identity: str, height: float, title: str, description: str) -> list[str]:
    mark = escape(identity)
    return [
        f'<svg class="plot" viewBox="0 0 {_n(WIDTH)} {_n(height)}" role="img" aria-labelledby="{mark}-t {mark}-d">',
        f'<title id="{mark}-t">{escape(title)}</title>',
        f'<desc id="{mark}-d">{escape(description)}</desc>',
    ]


def line_plot(
    identity: str,
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] | None = None,
    height: float = 270.0,
) -> Markup:
    """Return an SVG line plot; empty text where no series has a finite point.

    `identity` becomes the id of its title and must be unique on the page. The y axis covers the data, not zero: a loss
    has no natural zero in sight. Points that are not finite are left out.
    """
    shown = [
        Series(
            one.name,
            one.kind,
            tuple((x, y) for x, y in one.points if math.isfinite(x) and math.isfinite(y)),
            one.dots,
            one.highlight if len(one.points) == sum(math.isfinite(y) for _, y in one.points) else None,
        )
        for one in series
    ]
    shown = [one for one in shown if one.points]
    if not shown:
        return Markup()
    xs = [x for one in shown for x, _ in one.points]
    ys = [y for one in shown for _, y in one.points]
    y_ticks = ticks(min(ys), max(ys), 4)
    x_marks = list(x_ticks) if x_ticks else ticks(min(xs), max(xs), 6)
    x_low, x_high = min([*xs, *x_marks[:1]]), max([*xs, *x_marks[-1:]])
    left, right, top, bottom = 46.0, 20.0, 12.0, 40.0
    width_in, height_in = WIDTH - left - right, height - top - bottom

    def at(x: float, y: float) -> tuple[float, float]:
        share = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return (
            left + share * width_in,
            top + (y_ticks[-1] - y) / (y_ticks[-1] - y_ticks[0]) * height_in,
        )

    parts = [
        *_open(identity, height, title, description),
    ]
    for tick in y_ticks:
        y = at(x_low, tick)[1]
        parts.append(
            f'<line class="grid" x1="{_n(left)}" x2="{_n(WIDTH - right)}" y1="{_n(y)}" y2="{_n(y)}"/>'
        )
        parts.append(
            f'<text class="tick" x="{_n(left - 10)}" y="{_n(y)}" dy="0.34em" text-anchor="end">{_label(tick)}</text>'
        )
    for tick in x_marks:
        x = at(tick, y_ticks[0])[0]
        parts.append(
            f'<text class="tick" x="{_n(x)}" y="{_n(height - bottom + 19)}" text-anchor="middle">{_label(tick)}</text>'
        )
    parts.append(
        f'<text class="axis" x="{_n(left + width_in / 2)}" y="{_n(height - 5)}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(9 {_n(top + height_in / 2)}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    for one in shown:
        path = [at(x, y) for x, y in one.points]
        if len(path) > 1:
            parts.append(f'<path class="line {escape(one.kind)}" d="{_path(path)}"/>')
        for index, (x, y) in enumerate(path):
            if index == one.highlight:
                parts.append(f'<circle class="ring {escape(one.kind)}" cx="{_n(x)}" cy="{_n(y)}" r="8"/>')
            if one.dots or len(path) == 1:
                parts.append(
                    f'<circle class="dot {escape(one.kind)}" cx="{_n(x)}" cy="{_n(y)}" r="4">'
                    f"<title>{escape(one.name)}: {y:.3f}</title></circle>"
                )
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704  # every text above went through escape()


def dot_plot(
    identity: str,
    rows: Sequence[Row],
    *,
    title: str,
    description: str,
    low: float,
    high: float,
    marks: Sequence[float],
    row_height: float = 30.0,
) -> Markup:
    """Return an SVG with one line a row and one dot a contestant on the scale low..high; a None value has no dot."""
    left, right, top, bottom = 156.0, 16.0, 4.0, 26.0
    height = top + bottom + row_height * len(rows)
    width_in = WIDTH - left - right

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * width_in

    parts = [
        *_open(identity, height, title, description),
    ]
    for mark in marks:
        x = at(mark)
        parts.append(
            f'<line class="grid" x1="{_n(x)}" x2="{_n(x)}" y1="{_n(top)}" y2="{_n(height - bottom)}"/>'
            f'<text class="tick" x="{_n(x)}" y="{_n(height - 5)}" text-anchor="middle">{_label(mark)}</text>'
        )
    for index, row in enumerate(rows):
        y = top + row_height * (index + 0.5)
        parts.append(
            f'<text class="row" x="{_n(left - 16)}" y="{_n(y)}" dy="0.34em" text-anchor="end">{escape(row.label)}</text>'
        )
        known = [value for _, _, value in row.values if value is not None]
        if known:
            parts.append(
                f'<line class="span" x1="{_n(at(min(known)))}" x2="{_n(at(max(known)))}" y1="{_n(y)}" y2="{_n(y)}"/>'
            )
        for name, kind, value in row.values:
            if value is not None:
                parts.append(
                    f'<circle class="dot {escape(kind)}" cx="{_n(at(value))}" cy="{_n(y)}" r="5.5">'
                    f"<title>{escape(name)}, {escape(row.label)}: {value:.2f}</title></circle>"
                )
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704  # every text above went through escape()


def bar(share: float) -> Markup:
    """Return a thin bar of which `share` (0 to 1) is filled; the number itself must stand beside it."""
    filled = _n(100 * min(max(share, 0.0), 1.0))
    return Markup(  # noqa: S704  # numbers only
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rest" width="100" height="8" rx="4"/>'
        f'<rect class="part" width="{filled}" height="8" rx="4"/></svg>'
    )
