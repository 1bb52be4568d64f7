"""Several evaluations side by side: what each says of its contestants, and where they may be compared, by how much they differ.

Two characters are compared over the questions that both were asked, word for word; where there are none, they stand side by side
and no more is said. Pure functions of records; knows no file, no store and no terminal. Text comes back unescaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charforge import intervals, questions
from charforge.metrics import METRICS
from charforge.report import page, words
from charforge.report.people import people
from charforge.stages.judging import DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Record = Mapping[str, Any]

TEMPLATE = "compare.html.j2"
UNDECIDED = "cannot tell"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The artifacts of one character's evaluation. `label` tells it from the others it is compared with."""

    label: str
    name: str
    short_name: str
    contestants: Sequence[Record]
    single: Sequence[Record]
    turns: Sequence[Record]
    measures: Sequence[Record]
    metrics: Mapping[str, Record]
    scores: Sequence[Record]
    statistics: Record
    exam: Record

    @property
    def reference(self) -> str | None:
        """Whom the others of this evaluation are compared with."""
        name = self.statistics["reference"]
        return None if name is None else str(name)

    def asked(self) -> dict[tuple[str, str], str]:
        """Return the id of each question in this evaluation by (kind, what tells its text)."""
        found: dict[tuple[str, str], str] = {}
        for kind, text, records in (("single", "text", self.single), ("turns", "subject", self.turns)):
            for record in records:
                said = questions.question_id(kind, str(record[text]))
                found.setdefault((kind, said), str(record["question"]))
        return found


# --- The comparison as data ------------------------------------------------------------------------------------------


def compare(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return {"characters": one each, "against": the first against each other}, as JSON data."""
    return {
        "characters": [_character(one) for one in evaluations],
        "against": [_against(evaluations[0], other) for other in evaluations[1:]],
    }


def _character(one: Evaluation) -> dict[str, Any]:
    found = one.statistics
    shown = people(one.contestants, one.short_name)
    names = [person.name for person in shown]
    asked = one.asked()
    return {
        "label": one.label,
        "name": one.name,
        "reference": one.reference,
        "contestants": [
            {"name": person.name, "label": person.label, "what": person.what, "model": person.model}
            for person in shown
        ],
        "asked": {kind: sum(key[0] == kind for key in asked) for kind in ("single", "turns")},
        "metrics": [
            {
                "key": key,
                "label": metric.label,
                "unit": metric.unit,
                "better": metric.better,
                "cells": {name: _measured(one, key, name) for name in names},
            }
            for key, metric in METRICS.items()
            if any(one.metrics.get(name, {}).get(key) is not None for name in names)
        ],
        "judges": {judge: said["passed"] for judge, said in found["judges"].items()},
        "usable": found["usable"],
        "scores": {
            dimension: {
                name: {**cell, "decided": _decided(found["differences"].get(dimension, {}), name)}
                for name, cell in cells.items()
            }
            for dimension, cells in found["scores"].items()
            if any(cell["scored"] + cell["unscored"] for cell in cells.values())
        },
        "pairwise": {
            other: dict(cell)
            for other, cell in found["pairwise"].items()
            if cell["wins"] + cell["ties"] + cell["losses"] + cell["unscored"]
        },
        "comparisons": found["comparisons"],
    }


def _measured(one: Evaluation, key: str, name: str) -> dict[str, Any]:
    interval = one.statistics["metrics"].get(key, {}).get(name, {})
    return {
        "value": one.metrics.get(name, {}).get(key),
        "low": interval.get("low"),
        "high": interval.get("high"),
        "decided": _decided(one.statistics["metric_differences"].get(key, {}), name),
    }


def _decided(differences: Record, name: str) -> bool | None:
    """Say whether a contestant differs from the reference, None where the two were not compared."""
    one = differences.get(name)
    return None if one is None or one["low"] is None else one["decided"]


def _against(one: Evaluation, other: Evaluation) -> dict[str, Any]:
    """Return the reference of `one` minus that of `other`, question by question."""
    asked, asked_there = one.asked(), other.asked()
    shared = sorted(asked.keys() & asked_there.keys())
    facts = {
        "one": one.label,
        "other": other.label,
        "references": [one.reference, other.reference],
        "same_person": one.name == other.name,
        "shared": {kind: sum(key[0] == kind for key in shared) for kind in ("single", "turns")},
        "why": None,
        "metrics": [],
        "scores": {},
        "judges": {},
        "usable": False,
        "comparisons": None,
    }
    if not shared:
        return {**facts, "why": "no question was put to both, so their answers cannot be paired"}
    sides = (
        (one, {(kind, asked[kind, said]): said for kind, said in shared}),
        (other, {(kind, asked_there[kind, said]): said for kind, said in shared}),
    )
    judged = [one.exam.get("judges", {}), other.exam.get("judges", {})]
    found = intervals.summarise(
        contestants=[{"name": "one", "reference": True}, {"name": "other", "reference": False}],
        measures=_renamed(sides, "measures"),
        metrics_units=METRICS,
        scores=_renamed(sides, "scores"),
        pairs=[],
        exam={
            "judges": {
                judge: {"passed": judged[0][judge]["passed"] and judged[1][judge]["passed"]}
                for judge in judged[0].keys() & judged[1].keys()
            }
        },
        dimensions=DIMENSIONS,
    )
    return {
        **facts,
        "metrics": [
            {
                "key": key,
                "label": METRICS[key].label,
                "unit": METRICS[key].unit,
                "better": METRICS[key].better,
            }
            | cell["other"]
            for key, cell in found["metric_differences"].items()
            if cell["other"]["pairs"]
        ],
        "scores": {
            dimension: cell["other"]
            for dimension, cell in found["differences"].items()
            if cell["other"]["pairs"]
        },
        "judges": {judge: said["passed"] for judge, said in found["judges"].items()},
        "usable": found["usable"],
        "comparisons": found["comparisons"],
    }


def _renamed(sides: Sequence[tuple[Evaluation, Mapping[tuple[str, str], str]]], what: str) -> list[Record]:
    """Return the references' records on shared questions, the contestants called `one` and `other`, questions by their text."""
    return [
        {**record, "contestant": name, "question": same[record["kind"], record["question"]]}
        for name, (side, same) in zip(("one", "other"), sides, strict=True)
        for record in getattr(side, what)
        if record["contestant"] == side.reference and (record["kind"], record["question"]) in same
    ]


# --- In words --------------------------------------------------------------------------------------------------------


def verdict(cell: Record, better: str | None) -> str:
    """Say what a difference means: better, worse, higher, lower, or that nobody can tell."""
    if cell["low"] is None:
        return str(cell["method"])
    if not cell["decided"]:
        return UNDECIDED
    if better is None:
        return "higher" if cell["mean"] > 0 else "lower"
    return "better" if (cell["mean"] > 0) == (better == "high") else "worse"


def value(unit: str, number: float | None) -> str:
    """Return a metric's value as text."""
    return "–" if number is None else words.amount(unit, number)


def span(unit: str, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return an interval as text, empty where there is none."""
    return words.between(unit, low, high, signed=signed)


def by_chance(comparisons: Record | None) -> str:
    """Say how many differences are decided, and how many of as many would be if nothing differed."""
    several = [] if comparisons is None else list(comparisons.values())
    made = sum(one["made"] for one in several)
    if not made:
        return ""
    decided = sum(one["decided"] for one in several)
    chance = sum(one["by_chance"] for one in several)
    return (
        f"{decided} of {made} differences are decided; of as many, about {chance:.0f} would be by chance if nothing differed."
        if chance >= 0.5
        else f"{decided} of {made} differences are decided."
    )


def judges(passed: Mapping[str, bool | None]) -> list[str]:
    """Return a line a judge: who it is, and whether its scores may be used."""
    said = {
        True: "passed its exam: usable",
        False: "failed its exam: not usable",
        None: "was not examined: not usable",
    }
    return [f"{judge} {said[ok]}" for judge, ok in passed.items()]


def asked(character: Record) -> str:
    """Say how many questions and interviews there were."""
    counts = character["asked"]
    return f"{counts['single']} questions and {counts['turns']} interviews"


def paired(against: Record) -> str:
    """Say what two evaluations are compared on."""
    shared = against["shared"]
    who = " and ".join(
        f"{reference} of {label}"
        for reference, label in zip(against["references"], (against["one"], against["other"]), strict=True)
    )
    text = f"{who}, on {shared['single']} questions and {shared['turns']} interviews that both were given"
    return (
        text
        if against["same_person"]
        else f"{text}. They are different persons, so a difference is one of persons, too"
    )


# --- The page --------------------------------------------------------------------------------------------------------


def html(comparison: Record) -> str:
    """Return the comparison as one self-contained page."""
    return page.fill(
        {
            "characters": [shown(one) for one in comparison["characters"]],
            "against": [shown_against(one) for one in comparison["against"]],
        },
        TEMPLATE,
    )


def shown(one: Record) -> dict[str, Any]:
    """Return a character of a comparison as texts, for a table."""
    names = [person["name"] for person in one["contestants"]]
    return {
        "label": one["label"],
        "name": one["name"],
        "anchor": words.anchor("character", one["label"]),
        "asked": asked(one),
        "reference": one["reference"],
        "contestants": [
            {**person, "reference": person["name"] == one["reference"]} for person in one["contestants"]
        ],
        "metrics": [
            {
                "label": row["label"],
                "cells": [
                    {
                        "text": value(row["unit"], cell["value"]),
                        "span": span(row["unit"], cell["low"], cell["high"]),
                        "decided": cell["decided"],
                        "unscored": 0,
                    }
                    for cell in (row["cells"][name] for name in names)
                ],
            }
            for row in one["metrics"]
        ],
        "judges": judges(one["judges"]),
        "usable": one["usable"],
        "scores": [
            {
                "label": dimension,
                "cells": [
                    {
                        "text": value("grade", cell["mean"]),
                        "span": span("grade", cell["low"], cell["high"]),
                        "decided": cell["decided"] and one["usable"],
                        "unscored": cell["unscored"],
                    }
                    for cell in (cells[name] for name in names)
                ],
            }
            for dimension, cells in one["scores"].items()
        ],
        "pairwise": [_won(other, cell) for other, cell in one["pairwise"].items()],
        "chance": by_chance(one["comparisons"]),
    }


def _won(other: str, cell: Record) -> dict[str, Any]:
    return {
        "other": other,
        **{key: cell[key] for key in ("wins", "ties", "losses", "unscored", "disagreed", "decided")},
        "rate": value("share", cell["rate"]),
        "span": span("share", cell["low"], cell["high"]),
    }


def shown_against(one: Record) -> dict[str, Any]:
    """Return a difference between two characters as texts, for a table. Scores of unfit judges decide nothing."""
    rows = [
        {
            **_differs(row, row["unit"]),
            "label": row["label"],
            "verdict": verdict(row, row["better"]),
            "decided": row["decided"],
        }
        for row in one["metrics"]
    ]
    rows += [
        {
            **_differs(row, "grade"),
            "label": f"judge: {dimension}",
            "verdict": verdict(row, "high") if one["usable"] else "not usable",
            "decided": row["decided"] and one["usable"],
        }
        for dimension, row in one["scores"].items()
    ]
    return {
        "one": one["one"],
        "other": one["other"],
        "why": one["why"],
        "paired": paired(one),
        "judges": judges(one["judges"]) if one["scores"] else [],
        "chance": by_chance(one["comparisons"]),
        "rows": rows,
    }


def _differs(row: Record, unit: str) -> dict[str, Any]:
    return {
        "text": words.amount(unit, row["mean"], signed=True),
        "span": span(unit, row["low"], row["high"], signed=True),
        "pairs": row["pairs"],
    }
