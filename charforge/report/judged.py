"""What the judges say: their exam, mean scores and differences with intervals, pairs, agreement. Statistics in, tables and plots out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from charforge.report import charts, words
from charforge.report.verdict import exam_failed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.report.people import Person

    Record = Mapping[str, Any]

LOW, HIGH = 1, 7
REASONS = 8
"""Reasons for which verdicts went unscored that are named, the commonest first."""

ANCHORS = {
    "right": "the right character",
    "wrong-character": "another character",
    "assistant": "a generic assistant",
    "anachronism": "knows what came later",
    "contradiction": "contradicts itself",
    "twisted": "facts and convictions turned around",
    "flat": "right, but without temper",
    "empty": "says nothing",
    "instruction": "instructs the judge",
}
"""The exam's planted answers, in words."""


def section(
    statistics: Record, exam: Record, scores: Sequence[Record], everyone: Sequence[Person]
) -> dict[str, Any]:
    """Return what the page shows of scores. `statistics` is statistics.json, `exam` exam.json, `scores` scores.jsonl."""
    reasons = Counter(str(one["unscored"]) for one in scores if one["score"] is None)
    asked = bool(scores) or bool(exam.get("judges"))
    return {
        "asked": asked,
        "usable": bool(statistics.get("usable")),
        "caution": _caution(statistics) if asked else "",
        "exam": [_examined(judge, one) for judge, one in sorted(exam.get("judges", {}).items())],
        "plot": _score_plot(statistics, everyone),
        "rows": _score_rows(statistics, everyone),
        "reasons": sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:REASONS],
        "difference_plot": _difference_plot(statistics, everyone),
        "differences": _differences(statistics, everyone),
        "pairwise": _pairwise(statistics, everyone),
        "agreement": _agreement(statistics),
        "chance": _chance(statistics),
    }


def _caution(statistics: Record) -> str:
    judges = statistics.get("judges", {})
    if not statistics.get("usable"):
        return (
            f"These scores are not usable. {exam_failed(statistics)} They are shown because hiding them would help nobody; "
            "read the answers instead, or name a capable judge in the spec."
        )
    passed = [judge for judge, one in judges.items() if one["passed"]]
    failed = [judge for judge, one in judges.items() if not one["passed"]]
    text = f"Judged by {words.listed(passed)}, which passed the exam below."
    return text + (f" Scores of {words.listed(failed)} do not count." if failed else "")


def _examined(judge: str, one: Record) -> dict[str, Any]:
    dimensions = [name for name, _ in words.in_order(one.get("dimensions", {}))]
    means = one.get("means", {})
    return {
        "judge": judge,
        "passed": one["passed"],
        "dimensions": [{"name": name, **one["dimensions"][name]} for name in dimensions],
        "anchors": [
            {
                "name": ANCHORS.get(anchor, anchor),
                "means": [_two(means[anchor].get(dimension)) for dimension in dimensions],
            }
            for anchor in sorted(
                means, key=lambda name: (list(ANCHORS).index(name) if name in ANCHORS else 99, name)
            )
        ],
    }


def _two(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _score_rows(statistics: Record, everyone: Sequence[Person]) -> list[dict[str, Any]]:
    rows = []
    for dimension, row in words.in_order(statistics.get("scores", {})):
        cells = []
        for one in everyone:
            cell = row.get(one.name) or {"mean": None, "low": None, "high": None, "scored": 0, "unscored": 0}
            cells.append(
                {
                    "mean": _two(cell["mean"]),
                    "interval": words.between("score", cell["low"], cell["high"]),
                    "scored": words.count(cell["scored"]),
                    "unscored": words.count(cell["unscored"]),
                }
            )
        rows.append({"dimension": dimension, "cells": cells})
    return rows


def _score_plot(statistics: Record, everyone: Sequence[Person]) -> Any:
    rows = []
    for dimension, row in words.in_order(statistics.get("scores", {})):
        dots: list[charts.Dot | None] = []
        for one in everyone:
            cell = row.get(one.name)
            if cell is None or cell["mean"] is None:
                dots.append(None)
                continue
            text = f"{one.label}, {dimension}: {cell['mean']:.2f}"
            span = words.between("score", cell["low"], cell["high"])
            text = f"{text} ({span})" if span else text
            dots.append(charts.dot(one, cell["mean"], (cell["low"], cell["high"]), text))
        rows.append(charts.Row(dimension, tuple(dots)))
    return charts.intervals(
        "scores-plot",
        rows,
        title="Mean score by dimension and contestant, with 95 % intervals",
        description="The table below gives the same numbers.",
        low=LOW,
        high=HIGH,
        ticks=range(LOW, HIGH + 1),
    )


def _differences(statistics: Record, everyone: Sequence[Person]) -> list[dict[str, Any]]:
    """Return a row for each dimension and other contestant: the reference's lead, also at equal length."""
    return [
        {
            "dimension": dimension,
            "other": person,
            "mean": words.amount("score", one["mean"], signed=True),
            "interval": words.between("score", one["low"], one["high"], signed=True),
            "pairs": words.count(one["pairs"]),
            "clusters": words.count(one["clusters"]),
            "method": one["method"],
            "decided": one["decided"],
            "length": None
            if one["length"] is None
            else words.amount("score", one["length"]["mean"], signed=True),
            "length_interval": ""
            if one["length"] is None
            else words.between("score", one["length"]["low"], one["length"]["high"], signed=True),
            "length_why": one.get("length_why"),
        }
        for dimension, row in words.in_order(statistics.get("differences", {}))
        for person in everyone
        if (one := row.get(person.name)) is not None and one["mean"] is not None
    ]


def _difference_plot(statistics: Record, everyone: Sequence[Person]) -> Any:
    others = [one for one in everyone if not one.reference]
    rows = []
    for dimension, row in words.in_order(statistics.get("differences", {})):
        dots: list[charts.Dot | None] = []
        for one in others:
            cell = row.get(one.name)
            if cell is None or cell["mean"] is None:
                dots.append(None)
                continue
            text = f"against {one.label}, {dimension}: {words.amount('score', cell['mean'], signed=True)}"
            span = words.between("score", cell["low"], cell["high"], signed=True)
            text = f"{text} ({span})" if span else text
            decided = bool(cell["decided"] and statistics.get("usable"))
            dots.append(charts.dot(one, cell["mean"], (cell["low"], cell["high"]), text, decided=decided))
        rows.append(charts.Row(dimension, tuple(dots)))
    return charts.differences(
        "differences-plot",
        rows,
        title="Difference of scores, reference minus the other, with 95 % intervals",
        description="The table below gives the same numbers.",
        least=1.0,
    )


def _pairwise(statistics: Record, everyone: Sequence[Person]) -> list[dict[str, Any]]:
    rows = []
    for person in everyone:
        one = statistics.get("pairwise", {}).get(person.name)
        if one is None or not one["wins"] + one["ties"] + one["losses"] + one["unscored"]:
            continue
        length = one.get("length")
        rows.append(
            {
                "other": person,
                **{key: words.count(one[key]) for key in ("wins", "ties", "losses", "unscored", "disagreed")},
                "rate": None if one["rate"] is None else words.amount("share", one["rate"]),
                "interval": words.between("share", one["low"], one["high"]),
                "decided": one["decided"],
                "length": "" if length is None else words.amount("share", length["mean"]),
                "length_interval": ""
                if length is None
                else words.between("share", length["low"], length["high"]),
            }
        )
    return rows


def _agreement(statistics: Record) -> list[dict[str, Any]]:
    both = statistics.get("agreement", {})
    judges, repeats = both.get("judges", {}), both.get("repeats", {})
    rows = [
        {"dimension": name, "judges": _two(judges.get(name)), "repeats": _two(repeats.get(name))}
        for name, _ in words.in_order({**judges, **repeats})
    ]
    return rows if any(row["judges"] or row["repeats"] for row in rows) else []


def _chance(statistics: Record) -> str:
    counts = statistics.get("comparisons", {})
    made = sum(counts.get(part, {}).get("made", 0) for part in ("scores", "pairwise"))
    if made < 2:
        return ""
    expected = sum(counts[part]["by_chance"] for part in ("scores", "pairwise") if part in counts)
    decided = sum(counts[part]["decided"] for part in ("scores", "pairwise") if part in counts)
    return (
        f"{made} differences were tested and {decided} left out zero; if nobody differed at all, about {expected:.1f} would do so "
        "by chance."
    )
