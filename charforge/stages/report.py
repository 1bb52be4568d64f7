"""The report: what a character was made of, whether training changed it, and whether that beats a prompt.

Pure: records in, one HTML page and one JSON summary out. The page says first what was measured, shows the words
themselves untouched, and says plainly what is no evidence. It has no date, so that equal inputs give equal bytes.
How the page looks is charforge/report's business.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from charforge.metrics import METRICS, TRAPS, Metric
from charforge.report import page, plots, training, words
from charforge.stages.interviews import INTERVIEWER, MARKS, SCRIPTED_QUESTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Record = Mapping[str, Any]

VERSION = 2

TRAINED = "trained"
BASE = "base"
CHOSEN = 10
CHOSEN_TRAPS = 3
REJECTED_SHOWN = 12
TEXT_SHOWN = 600
"""Characters of a rejected reply that are shown; the whole of it is in the call."""


def build(
    *,
    spec: Record,
    profile: Record,
    dataset_stats: Record,
    yields: Mapping[str, Record],
    rejected: Sequence[Record],
    train_log: Sequence[Record],
    train_summary: Record,
    probes: Sequence[Record],
    single: Sequence[Record],
    turns: Sequence[Record],
    scores: Sequence[Record],
    metrics: Mapping[str, Record],
    samples: Sequence[Record],
    provenance: Record,
    contestants: Sequence[Record] = (),
    measures: Sequence[Record] = (),
    statistics: Record | None = None,
    exam: Record | None = None,
    pairs: Sequence[Record] = (),
    set_aside: Sequence[Record] = (),
    sft: Sequence[Record] = (),
    scenes: Sequence[Record] = (),
    dialogues: Sequence[Record] = (),
    usage: Mapping[str, Mapping[str, Record]] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return (report.html, report.json). Arguments are the records of the stages' artifacts; any may be empty.

    `yields` maps a stage's name to its yield.json, in the order in which to show them; `samples` are records of
    dialogues.jsonl, `probes` answers to the probe questions before and after training; `provenance` is any JSON data, shown as it is.
    """
    people = _Contestants(_names(metrics, single, turns), str(spec["short_name"]))
    trained = training.section(train_summary, train_log, spec)
    judged = _judged(scores, people, spec)
    grades = _grades(scores)
    chosen = choose(single)
    questions = _questions(single, people, grades)
    measured = _metrics(metrics, people)
    html = page.fill(
        {
            "name": spec["name"],
            "short_name": spec["short_name"],
            "lede": _lede(spec, dataset_stats, trained["report"]),
            "profile": {
                "paragraphs": len(profile["paragraphs"]),
                "words": words.count(sum(len(str(one["text"]).split()) for one in profile["paragraphs"])),
                "licence": profile.get("licence"),
                "source": profile.get("source"),
            },
            "figures": _figures(trained["report"], metrics, people, judged["report"]),
            "contestants": people.legend(),
            "training": trained,
            "probes": [dict(one) for one in probes],
            "metrics": measured,
            "metrics_note": _metrics_note(metrics),
            "judge": judged,
            "chosen": [question for question in questions if question["id"] in chosen],
            "chosen_title": f"{words.in_words(len(chosen)).capitalize()} answers, side by side"
            if chosen
            else "Answers, side by side",
            "chosen_note": _chosen_note(chosen, single),
            "stats": _stats(dataset_stats),
            "yields": [_yield(stage, one) for stage, one in yields.items()],
            "rejected": _rejected(rejected),
            "samples": [_sample(one, str(spec["short_name"])) for one in samples],
            "talks": _talks(turns, people, grades),
            "scripted": _scripted(turns),
            "questions": questions,
            "provenance": words.flat(provenance),
            "spec": json.dumps(spec, indent=2, ensure_ascii=False),
            "spec_lines": json.dumps(spec, indent=2).count("\n") + 1,
        }
    )
    report = {
        "name": spec["name"],
        "contestants": people.names,
        "training": trained["report"],
        "dataset": dict(dataset_stats),
        "yields": {stage: dict(one) for stage, one in yields.items()},
        "metrics": {contestant: dict(values) for contestant, values in metrics.items()},
        "scores": judged["report"],
        "answers_shown": chosen,
        "provenance": dict(provenance),
    }
    return html, report


# --- Contestants -----------------------------------------------------------------------------------------------------


def _names(metrics: Mapping[str, Record], *records: Sequence[Record]) -> list[str]:
    found = {*metrics, *(record["contestant"] for several in records for record in several)}
    return sorted(found, key=lambda name: (name != TRAINED, name != BASE, name))


class _Contestants:
    """Order, names and colours: the trained character first, its base next."""

    def __init__(self, names: list[str], short_name: str) -> None:
        self.names = names
        self._labels = {TRAINED: f"{short_name}, trained", BASE: "Base model, prompted"}

    def label(self, name: str) -> str:
        return self._labels.get(name, name)

    def kind(self, name: str) -> str:
        return f"c{min(self.names.index(name), 3)}"

    def legend(self) -> list[dict[str, Any]]:
        return [{"label": self.label(n), "kind": self.kind(n), "own": n == TRAINED} for n in self.names]


# --- What stands above -----------------------------------------------------------------------------------------------


def _lede(spec: Record, stats: Record, trained: Record) -> list[str]:
    train = spec["train"]
    method = {
        "full": "all of its weights",
        "lora": "a LoRA adapter",
        "qlora": "a LoRA adapter on 4-bit weights",
    }.get(train["method"], train["method"])
    base = train["base_model"]
    if isinstance(base, dict):
        base = f"{base['onto']} with the weight difference {base['delta']}"
    parameters = trained["parameters"]
    size = f", {words.size(parameters)} parameters," if parameters else ""
    totals = _totals(stats)
    scenes, length = totals.get("dialogues", totals.get("scenes")), totals.get("words")
    experience = ""
    if isinstance(scenes, int) and isinstance(length, int):
        experience = f", trained on {words.count(scenes)} dialogues ({words.count(length)} words)"
    first = f"A language model that answers as {spec['name']}: {base}{size} with {method} tuned{experience}."
    until = spec["knows"]["until"]
    return [first, f"It should know nothing after {until}, and should not pretend to."]


def _figures(
    trained: Record, metrics: Mapping[str, Record], people: _Contestants, judged: Record
) -> list[dict[str, Any]]:
    figures = []
    before, after = trained["held_out_before"], trained["held_out_after"]
    if after is not None:
        kept = trained["chosen_epoch"]
        figures.append(
            {
                "label": "Loss on held-out dialogues",
                "before": None if before is None else f"{before:.2f}",
                "value": f"{after:.2f}",
                "under": "before → after training, nats per token"
                + (f"; epoch {kept} was kept" if kept else ""),
            }
        )
    what = {"trap_ignorance": "Traps met with ignorance", "third_person": "Answers in the third person"}
    for key, label in what.items():
        own = metrics.get(TRAINED, {}).get(key)
        if own is None:
            continue
        others = [
            f"{people.label(name).lower() if name == BASE else name} {_value(METRICS[key], metrics[name][key])}"
            for name in people.names
            if name != TRAINED and metrics.get(name, {}).get(key) is not None
        ]
        figures.append(
            {
                "label": label,
                "before": None,
                "value": _value(METRICS[key], own),
                "under": "; ".join(others) or METRICS[key].meaning,
            }
        )
    scored = sum(cell["scored"] for row in judged["means"].values() for cell in row.values())
    unscored = sum(cell["unscored"] for row in judged["means"].values() for cell in row.values())
    if scored + unscored:
        figures.append(
            {
                "label": "Judge’s verdicts",
                "before": None,
                "value": f"{scored} of {scored + unscored}",
                "under": "gave a score"
                + ("; from so small a judge they are no evidence" if judged["embedded"] else ""),
            }
        )
    return figures


# --- Metrics and scores ----------------------------------------------------------------------------------------------


def _metrics(metrics: Mapping[str, Record], people: _Contestants) -> list[dict[str, Any]]:
    rows = []
    for key, metric in METRICS.items():
        values = [metrics.get(name, {}).get(key) for name in people.names]
        texts = [None if value is None else _value(metric, value) for value in values]
        rows.append(
            {
                "label": metric.label,
                "meaning": metric.meaning,
                "better": metric.better,
                "cells": [
                    {"text": text, "own": name == TRAINED}
                    for name, text in zip(people.names, texts, strict=True)
                ],
            }
        )
    return rows if metrics else []


def _metrics_note(metrics: Mapping[str, Record]) -> str:
    answers = max((one.get("answers") or 0 for one in metrics.values()), default=0)
    traps = max((one.get("trap_answers") or 0 for one in metrics.values()), default=0)
    parts = []
    if answers:
        parts.append(f"One answer is {_value(METRICS['empty'], 1 / answers)} of all answers")
    if traps:
        parts.append(f"one trap answer {_value(METRICS['trap_claims'], 1 / traps)} of the trap answers")
    return f"{', '.join(parts)}: differences of that size mean nothing." if parts else ""


def _value(metric: Metric, value: float) -> str:
    if metric.unit == "share":
        percent = 100 * value
        return f"{percent:.1f}\u202f%" if 0 < percent < 10 else f"{percent:.0f}\u202f%"
    return f"{value:.1f}" if metric.unit == "words" else words.count(int(value))


def _judged(scores: Sequence[Record], people: _Contestants, spec: Record) -> dict[str, Any]:
    cells: dict[tuple[str, str], list[int | None]] = defaultdict(list)
    for one in scores:
        cells[one["dimension"], one["contestant"]].append(one["score"])
    order = list(spec["judge"]["dimensions"])
    dimensions = sorted(
        {one["dimension"] for one in scores}, key=lambda d: (order.index(d) if d in order else 99, d)
    )
    means: dict[str, dict[str, Any]] = {}
    for dimension in dimensions:
        means[dimension] = {}
        for name in people.names:
            given = cells[dimension, name]
            scored = [score for score in given if score is not None]
            means[dimension][name] = {
                "mean": round(math.fsum(scored) / len(scored), 6) if scored else None,
                "scored": len(scored),
                "unscored": len(given) - len(scored),
            }
    judges = sorted({str(one["judge"]) for one in scores})
    embedded = any(judge.startswith("embedded/") for judge in judges)
    reasons = Counter(str(one["unscored"]) for one in scores if one["score"] is None)
    return {
        "report": {
            "judges": judges,
            "embedded": embedded,
            "means": means,
            "unscored": dict(sorted(reasons.items())),
        },
        "caution": _caution(judges, embedded=embedded),
        "rows": [
            {
                "dimension": dimension,
                "cells": [
                    {
                        "mean": None if cell["mean"] is None else f"{cell['mean']:.2f}",
                        "scored": cell["scored"],
                        "unscored": cell["unscored"],
                        "own": name == TRAINED,
                    }
                    for name, cell in row.items()
                ],
            }
            for dimension, row in means.items()
        ],
        "reasons": sorted(reasons.items(), key=lambda item: (-item[1], item[0])),
        "plot": plots.dot_plot(
            "judge",
            [
                plots.Row(
                    dimension,
                    tuple(
                        (people.label(name), people.kind(name), cell["mean"])
                        for name, cell in reversed(row.items())
                    ),
                )
                for dimension, row in means.items()
            ],
            title="Mean judge score by dimension",
            description="The table below gives the same numbers.",
            low=1,
            high=7,
            marks=range(1, 8),
        ),
    }


def _caution(judges: Sequence[str], *, embedded: bool) -> str:
    if not judges:
        return "No judge was asked, so nothing is said here about how good the answers are."
    if embedded:
        return (
            f"These scores are not evidence. The judge was {', '.join(judges)}, a model of 135 million parameters that cannot tell "
            "a good answer from a bad one; it is here so that the whole path runs without a key. Name a capable judge in the spec "
            "for scores that mean something, and read the answers below."
        )
    return f"The judge was {', '.join(judges)}. These are means without intervals: do not read small differences as differences."


def _grades(scores: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in scores:
        why = f"unscored: {one['unscored']}" if one["score"] is None else str(one["verdict"])
        found[one["answer"]].append(
            {"dimension": one["dimension"], "score": one["score"], "why": words.shortened(why, 400)}
        )
    return found


# --- Interviews ------------------------------------------------------------------------------------------------------


def choose(single: Sequence[Record]) -> list[str]:
    """Return the ids of the questions shown side by side, traps last: CHOSEN of them, CHOSEN_TRAPS of those traps.

    Chosen by the digests of their texts and spread over the topics: by no one's liking, and the same in every build.
    """
    texts = {record["question"]: (str(record["topic"]), str(record["text"])) for record in single}
    by_topic: dict[str, list[str]] = defaultdict(list)
    for question in sorted(
        texts, key=lambda q: (hashlib.sha256(texts[q][1].encode("utf-8", "replace")).hexdigest(), q)
    ):
        by_topic[texts[question][0]].append(question)
    traps = by_topic.pop(TRAPS, [])
    ordinary = [
        several[place]
        for place in range(max(map(len, by_topic.values()), default=0))
        for _, several in sorted(by_topic.items())
        if place < len(several)
    ]
    shown_traps = traps[: max(CHOSEN_TRAPS, CHOSEN - len(ordinary))]
    return [*ordinary[: CHOSEN - len(shown_traps)], *shown_traps]


def _chosen_note(chosen: Sequence[str], single: Sequence[Record]) -> str:
    total = len({record["question"] for record in single})
    if not chosen:
        return "No single questions were asked."
    return (
        f"Untouched, and picked from {total} questions by the digest of their text, not by hand; "
        "traps, about what could not be known, come last. All others stand further below."
    )


def _questions(
    single: Sequence[Record], people: _Contestants, grades: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    by_question: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in single:
        by_question[record["question"]][record["contestant"]] = record
    shown = []
    for question, answers in by_question.items():
        one = next(iter(answers.values()))
        shown.append(
            {
                "id": question,
                "text": one["text"],
                "topic": one["topic"],
                "trap": one["topic"] == TRAPS,
                "sides": [
                    {
                        "kind": people.kind(name),
                        "label": people.label(name),
                        "answer": answers[name]["answer"],
                        "thoughts": answers[name]["thoughts"],
                        "marks": _marks(answers[name]["marks"]),
                        "grades": grades.get(answers[name]["id"], []),
                    }
                    for name in people.names
                    if name in answers
                ],
            }
        )
    return sorted(shown, key=lambda one: (one["trap"], one["topic"], one["id"]))


def _talks(
    turns: Sequence[Record], people: _Contestants, grades: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    by_subject: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in turns:
        by_subject[record["question"]][record["contestant"]] = record
    shown = []
    for subject, talks in by_subject.items():
        one = next(iter(talks.values()))
        shown.append(
            {
                "id": subject,
                "subject": one["subject"],
                "topic": one["topic"],
                "trap": one["topic"] == TRAPS,
                "sides": [
                    {
                        "kind": people.kind(name),
                        "label": people.label(name),
                        "turns": _turns(talks[name]["turns"], own=lambda role: role != INTERVIEWER),
                        "grades": grades.get(talks[name]["id"], []),
                    }
                    for name in people.names
                    if name in talks
                ],
            }
        )
    return sorted(shown, key=lambda one: (one["trap"], one["topic"], one["id"]))


def _turns(turns: Iterable[Record], own: Any) -> list[dict[str, Any]]:
    return [
        {
            "role": turn["role"],
            "thinking": turn["action"] == "thinking",
            "content": turn["content"],
            "own": own(turn["role"]),
            "marks": _marks(turn.get("marks", ())),
        }
        for turn in turns
    ]


def _marks(marks: Iterable[str]) -> list[dict[str, str]]:
    return [{"name": mark, "meaning": MARKS.get(mark, mark)} for mark in marks]


def _scripted(turns: Sequence[Record]) -> str:
    asked = [turn for record in turns for turn in record["turns"] if turn["role"] == INTERVIEWER]
    scripted = sum(SCRIPTED_QUESTION in turn["marks"] for turn in asked)
    if not scripted:
        return ""
    return f"In {scripted} of {len(asked)} turns its own questions failed, and a scripted one was asked instead; those are marked."


# --- Experience ------------------------------------------------------------------------------------------------------


_COLUMNS = {"scenes": "Scenes", "dialogues": "Dialogues", "words": "Words", "mean_turns": "Mean turns"}


def _totals(stats: Record) -> Record:
    """Return the part of stats.json that tells of the whole data set."""
    whole = stats.get("all")
    return whole if isinstance(whole, dict) else stats


def _stats(stats: Record) -> dict[str, Any] | None:
    """Return the data set's table: the paper's columns, a row for each kind that stats.json tells of, and all of it."""
    totals = _totals(stats)
    columns = [key for key in _COLUMNS if words.figure(totals.get(key)) is not None]
    if not columns:
        return None

    def row(label: str, one: Record, *, total: bool = False) -> dict[str, Any]:
        return {"label": label, "cells": [words.figure(one.get(key)) for key in columns], "total": total}

    kinds = stats.get("by_kind")
    rows = [row(str(kind), one) for kind, one in (kinds or {}).items() if isinstance(one, dict)]
    rows.append(row("all", totals, total=bool(rows)))
    more = [
        f"{key.replace('_', ' ')} {text}"
        for key, value in totals.items()
        if key not in _COLUMNS and (text := words.figure(value)) is not None
    ]
    return {
        "columns": ["Kind", *(_COLUMNS[key] for key in columns)],
        "rows": rows,
        "more": f"Besides: {', '.join(more)}." if more else "",
    }


def _yield(stage: str, one: Record) -> dict[str, Any]:
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
        "bar": "" if share is None else plots.bar(share),
        "rejected": sorted(one["rejected"].items(), key=lambda item: (-item[1], item[0])),
    }


def _rejected(rejected: Sequence[Record]) -> dict[str, Any]:
    """Return some rejected replies, one of each rule in turn, so that no frequent rule fills the list."""
    by_rule: dict[str, list[Record]] = defaultdict(list)
    for one in sorted(rejected, key=lambda record: str(record["id"])):
        by_rule[one["rule"]].append(one)
    spread = [
        several[place]
        for place in range(max(map(len, by_rule.values()), default=0))
        for _, several in sorted(by_rule.items())
        if place < len(several)
    ]
    shown = spread[:REJECTED_SHOWN]
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
        "note": f"{len(shown)} of {words.count(len(rejected))} rejected replies, one of each rule in turn.",
    }


def _sample(one: Record, short_name: str) -> dict[str, Any]:
    return {
        "id": one["id"],
        "title": one.get("title") or one.get("background") or one["id"],
        "kind": one["kind"],
        "location": str(one.get("location") or "").rstrip("."),
        "background": one.get("background") or "" if one.get("title") else "",
        "provocation": one.get("provocation"),
        "paragraphs": list(one.get("paragraphs") or []),
        "turns": _turns(one["turns"], own=lambda role: role == short_name),
    }
