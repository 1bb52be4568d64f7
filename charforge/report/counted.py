"""What can be counted without a judge: the metrics of each contestant, and the reference's difference to each other one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from charforge.metrics import METRICS
from charforge.report import charts, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.report.people import Person

    Record = Mapping[str, Any]


def section(metrics: Mapping[str, Record], statistics: Record, everyone: Sequence[Person]) -> dict[str, Any]:
    """Return the metrics' table and the differences' plot and table. `metrics` is metrics.json, by contestant."""
    return {
        "rows": _rows(metrics, statistics, everyone) if metrics else [],
        "plot": _plot(statistics, everyone),
        "differences": _differences(statistics, everyone),
        "chance": _chance(statistics),
    }


def _rows(
    metrics: Mapping[str, Record], statistics: Record, everyone: Sequence[Person]
) -> list[dict[str, Any]]:
    rows = []
    for key, metric in METRICS.items():
        cells = []
        for one in everyone:
            value = metrics.get(one.name, {}).get(key)
            found = statistics.get("metrics", {}).get(key, {}).get(one.name, {})
            cells.append(
                {
                    "text": None if value is None else words.amount(metric.unit, value),
                    "interval": words.between(metric.unit, found.get("low"), found.get("high")),
                }
            )
        rows.append(
            {"label": metric.label, "meaning": metric.meaning, "better": metric.better, "cells": cells}
        )
    return rows


def _differences(statistics: Record, everyone: Sequence[Person]) -> dict[str, Any] | None:
    """Return a row a metric, a cell for each other contestant."""
    others = [one for one in everyone if not one.reference]
    rows = []
    for key, metric in METRICS.items():
        row = statistics.get("metric_differences", {}).get(key, {})
        cells = []
        for one in others:
            cell = row.get(one.name)
            known = cell is not None and cell["mean"] is not None
            cells.append(
                {
                    "mean": words.amount(metric.unit, cell["mean"], signed=True) if known else None,
                    "interval": words.between(metric.unit, cell["low"], cell["high"], signed=True)
                    if known
                    else "",
                    "decided": known and cell["decided"],
                    "good": known
                    and metric.better is not None
                    and (cell["mean"] > 0) == (metric.better == "high"),
                    "direction": metric.better is not None,
                    "pairs": words.count(cell["pairs"]) if known else "",
                    "method": cell["method"] if known else "",
                }
            )
        if any(cell["mean"] is not None for cell in cells):
            unit = {"share": "points"}.get(metric.unit, metric.unit)
            rows.append({"label": metric.label, "unit": unit, "better": metric.better, "cells": cells})
    return {"others": others, "rows": rows} if rows else None


def _plot(statistics: Record, everyone: Sequence[Person]) -> Any:
    """Plot the shares that have a good and a bad direction, turned so that to the right is better."""
    others = [one for one in everyone if not one.reference]
    rows = []
    for key, metric in METRICS.items():
        row = statistics.get("metric_differences", {}).get(key, {})
        # Where nobody differs there is nothing to see.
        if metric.unit != "share" or metric.better is None or not any(one["mean"] for one in row.values()):
            continue
        turn = 100 if metric.better == "high" else -100
        dots: list[charts.Dot | None] = []
        for one in others:
            cell = row.get(one.name)
            if cell is None or cell["mean"] is None:
                dots.append(None)
                continue
            low, high = (None if cell[end] is None else turn * cell[end] for end in ("low", "high"))
            span = words.between("share", cell["low"], cell["high"], signed=True)
            text = f"{metric.label}, against {one.label}: {words.amount('share', cell['mean'], signed=True)} points"
            text = f"{text} ({span})" if span else text
            dots.append(charts.dot(one, turn * cell["mean"], (low, high), text, decided=cell["decided"]))
        if any(dots):
            rows.append(charts.Row(metric.label, tuple(dots)))
    return charts.differences(
        "metrics-plot",
        rows,
        title="Differences of counted shares in points, reference minus the other, with 95 % intervals",
        description="To the right the reference does better. The table below gives the numbers as they are.",
        least=10.0,
    )


def _chance(statistics: Record) -> str:
    counts = statistics.get("comparisons", {}).get("metrics", {})
    if counts.get("made", 0) < 2:
        return ""
    return (
        f"{counts['made']} differences were tested and {counts['decided']} left out zero; if nobody differed at all, about "
        f"{counts['by_chance']:.1f} would do so by chance."
    )
