"""What went into a character: the data set, what the generator gave, what was rejected, what it cost, which questions were left out."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from charforge.report import words
from charforge.report.answers import spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.report.links import Links

    Record = Mapping[str, Any]

REJECTED_SHOWN = 12
TEXT_SHOWN = 600
"""Characters of a rejected reply that are shown; the whole of it is in the call."""

_COLUMNS = {"scenes": "Scenes", "dialogues": "Dialogues", "words": "Words", "mean_turns": "Mean turns"}


def totals(stats: Record) -> Record:
    """Return the part of stats.json that tells of the whole data set."""
    whole = stats.get("all")
    return whole if isinstance(whole, dict) else stats


def data_set(stats: Record) -> dict[str, Any] | None:
    """Return the data set's table: the paper's columns, a row for each kind that stats.json tells of, and all of it."""
    whole = totals(stats)
    columns = [key for key in _COLUMNS if words.figure(whole.get(key)) is not None]
    if not columns:
        return None

    def row(label: str, one: Record, *, total: bool = False) -> dict[str, Any]:
        return {"label": label, "cells": [words.figure(one.get(key)) for key in columns], "total": total}

    kinds = stats.get("by_kind")
    rows = [row(str(kind), one) for kind, one in (kinds or {}).items() if isinstance(one, dict)]
    rows.append(row("all", whole, total=bool(rows)))
    more = [
        f"{key.replace('_', ' ')} {text}"
        for key, value in whole.items()
        if key not in _COLUMNS and (text := words.figure(value)) is not None
    ]
    return {
        "columns": ["Kind", *(_COLUMNS[key] for key in columns)],
        "rows": rows,
        "more": f"Besides: {', '.join(more)}." if more else "",
    }


def given(stage: str, one: Record) -> dict[str, Any]:
    """Return a row of the yield table. A record may take several calls, so the share is of replies, not of records."""
    asked = int(one["asked"])
    kept = max(0, asked - sum(one["rejected"].values()))
    share = kept / asked if asked else None
    return {
        "stage": stage,
        "asked": words.count(asked),
        "accepted": words.count(int(one["accepted"])),
        "wanted": words.count(int(one["wanted"])),
        "share": "–" if share is None else f"{100 * share:.0f}\u202f%",
        "rejected": sorted(one["rejected"].items(), key=lambda item: (-item[1], item[0])),
    }


def rejected(records: Sequence[Record]) -> dict[str, Any]:
    """Return some rejected replies, one of each rule in turn, so that no frequent rule fills the list."""
    by_rule: dict[str, list[Record]] = defaultdict(list)
    for one in sorted(records, key=lambda record: str(record["id"])):
        by_rule[one["rule"]].append(one)
    shown = spread(by_rule)[:REJECTED_SHOWN]
    return {
        "shown": [
            {
                "id": one["id"],
                "rule": one["rule"],
                "detail": one.get("detail"),
                "text": words.shortened(str(one["text"]), TEXT_SHOWN),
            }
            for one in shown
        ],
        "note": f"{len(shown)} of {words.count(len(records))} rejected replies, one of each rule in turn.",
    }


def spent(usage: Mapping[str, Mapping[str, Record]]) -> dict[str, Any] | None:
    """Return what each stage's models were asked and what that cost, where it is known; None where nothing is.

    `usage` is {stage: {model: {"calls", "prompt_tokens", "completion_tokens", "cost", "unpriced"}}}; cost in US dollars, of all calls
    but `unpriced` ones.
    """
    rows = [
        {
            "stage": stage,
            "model": model,
            "calls": _number(one.get("calls")),
            "prompt": _number(one.get("prompt_tokens")),
            "completion": _number(one.get("completion_tokens")),
            "cost": _cost(one),
        }
        for stage, models in usage.items()
        for model, one in sorted(models.items())
    ]
    every = [one for models in usage.values() for one in models.values()]
    total = {key: sum(one.get(key) or 0 for one in every) for key in ("cost", "calls", "unpriced")}
    return {"rows": rows, "total": _cost(total)} if rows else None


def _number(value: Any) -> str | None:
    return words.count(value) if isinstance(value, int) else None


def _cost(one: Record) -> str | None:
    """Return dollars as text, None where no call has a price."""
    unpriced, cost = one.get("unpriced") or 0, words.finite(one.get("cost"))
    if cost is None or (unpriced and unpriced == one.get("calls")):
        return None
    text = f"${cost:.4f}" if 0 < cost < 0.1 else f"${cost:.2f}"
    return f"{text} and {words.count(unpriced)} calls of unknown price" if unpriced else text


def left_out(set_aside: Sequence[Record], links: Links) -> list[dict[str, Any]]:
    """Return the questions that were not asked because the training data has them."""
    return [
        {
            "text": one["text"],
            "kind": one["kind"],
            "rule": one["rule"],
            "detail": one.get("detail"),
            "sample": links.sample(str(one["sample"])),
        }
        for one in set_aside
    ]
