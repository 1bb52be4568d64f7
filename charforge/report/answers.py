"""Every answer of the interviews with what was said of it: marks, flags, scores with their evidence, pairs, and where to look next."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from charforge.marks import MARKS, SCRIPTED_QUESTION
from charforge.metrics import METRICS, TRAPS
from charforge.report.links import reason
from charforge.report.people import TRAINED
from charforge.report.words import anchor, in_order, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from charforge.report.links import Links
    from charforge.report.people import Person

    Record = Mapping[str, Any]

CHOSEN = 10
CHOSEN_TRAPS = 3
EXTREMES = 3
"""The lowest and the highest grades of each dimension that are linked to."""

_MARKED = {"empty", "cut_off", "wrong_speaker", "special_tokens"}
"""Metrics that count marks of the interviews, which stand at the answer already."""
_REASONS = 1_000_000
"""Characters of judges' reasons on a page, shared out evenly: a panel that repeats itself must not make it unreadable."""


class Said:
    """What others said of answers, looked up by the answer's id."""

    def __init__(
        self, scores: Sequence[Record], measures: Sequence[Record], pairs: Sequence[Record], links: Links
    ) -> None:
        self._links = links
        self._limit = max(60, min(400, _REASONS // max(1, len(scores) + 2 * len(pairs))))
        self._scores: dict[str, list[Record]] = defaultdict(list)
        for one in scores:
            self._scores[str(one["answer"])].append(one)
        self._flags: dict[str, set[str]] = defaultdict(set)
        for one in measures:
            bad = {name for name, flag in one["flags"].items() if flag and _bad(name) and name not in _MARKED}
            if bad:
                self._flags[str(one["record"])] |= bad
        self._pairs: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for one in pairs:
            self._pairs[str(one["kind"]), str(one["question"])].append(one)

    def flags(self, record: str) -> list[dict[str, str]]:
        """Return the metrics that count an answer, or a turn of it, as a fault."""
        return [
            {"name": metric.label.lower(), "meaning": f"Counted: {metric.meaning}"}
            for key, metric in METRICS.items()
            if key in self._flags.get(record, ())
        ]

    def grades(self, record: str) -> list[dict[str, Any]]:
        """Return an answer's grades by dimension: of each judge its scores, and the first reason that it gave."""
        found: dict[str, list[Record]] = defaultdict(list)
        for one in self._scores.get(record, ()):
            found[str(one["dimension"])].append(one)
        return [
            {
                "dimension": dimension,
                "scores": [_score(one) for one in several],
                "judges": self._judges(several),
                "evidence": self._evidence(several),
            }
            for dimension, several in in_order(found)
        ]

    def _judges(self, several: Sequence[Record]) -> list[dict[str, Any]]:
        by_judge: dict[str, list[Record]] = defaultdict(list)
        for one in several:
            by_judge[str(one["judge"])].append(one)
        return [
            {
                "judge": judge,
                "scores": ", ".join(_score(one) for one in own),
                "unscored": next((str(one["unscored"]) for one in own if one["score"] is None), ""),
                "reason": reason(str(own[0]["verdict"]), self._limit),
            }
            for judge, own in by_judge.items()
        ]

    def _evidence(self, several: Sequence[Record]) -> list[dict[str, Any]]:
        cited = {number for one in several for number in one.get("cites", ())}
        shown = {str(each["id"]): each["number"] for one in several for each in one["evidence"]}
        return [
            {**self._links.paragraph(identity, number), "cited": number in cited}
            for identity, number in sorted(shown.items(), key=lambda item: item[1])
        ]

    def pairs(self, kind: str, question: str, everyone: Sequence[Person]) -> list[dict[str, Any]]:
        """Return what was said of a question's answers side by side."""
        labels = {one.name: one.label for one in everyone} | {"tie": "a tie"}
        return [
            {
                "one": labels.get(one["one"], one["one"]),
                "other": labels.get(one["other"], one["other"]),
                "judge": one["judge"],
                "winner": labels.get(one["winner"], "unscored"),
                # `first` and `second` say `one` or `other`, whose names stand in the record under just these keys.
                "first": labels.get(one.get(one["first"], one["first"]), "unscored"),
                "second": labels.get(one.get(one["second"], one["second"]), "unscored"),
                "reasons": [reason(str(text), self._limit) for text in one["verdicts"]],
            }
            for one in self._pairs.get((kind, question), ())
        ]


def _bad(flag: str) -> bool:
    metric = METRICS.get(flag)
    return metric is not None and metric.better == "low"


def _score(one: Record) -> str:
    return "unscored" if one["score"] is None else str(one["score"])


# --- Questions and talks ---------------------------------------------------------------------------------------------


def questions(
    single: Sequence[Record], everyone: Sequence[Person], said: Said, links: Links
) -> list[dict[str, Any]]:
    """Return every single question with the contestants' answers beside each other; traps last."""
    return [
        {
            "id": question,
            "anchor": anchor("question", question),
            "text": one["text"],
            "topic": one["topic"],
            "trap": one["topic"] == TRAPS,
            "pairs": said.pairs("single", question, everyone),
            "sides": [
                {
                    **_side(person, answers[person.name], said),
                    "answer": answers[person.name]["answer"],
                    "thoughts": answers[person.name]["thoughts"],
                    "marks": _marks(answers[person.name]["marks"]),
                    "near": _near(person, links, one["text"], answers[person.name]["answer"]),
                }
                for person in everyone
                if person.name in answers
            ],
        }
        for question, one, answers in _by_question(single)
    ]


def talks(
    turns: Sequence[Record], everyone: Sequence[Person], said: Said, links: Links
) -> list[dict[str, Any]]:
    """Return every interview of several turns, the contestants' beside each other; traps last."""
    return [
        {
            "id": question,
            "anchor": anchor("talk", question),
            "subject": one["subject"],
            "topic": one["topic"],
            "trap": one["topic"] == TRAPS,
            "pairs": said.pairs("turns", question, everyone),
            "sides": [
                {
                    **_side(person, answers[person.name], said),
                    "turns": _turns(answers[person.name]["turns"]),
                    "near": _near(
                        person,
                        links,
                        one["subject"],
                        *(turn["content"] for turn in answers[person.name]["turns"]),
                    ),
                }
                for person in everyone
                if person.name in answers
            ],
        }
        for question, one, answers in _by_question(turns)
    ]


def _by_question(records: Sequence[Record]) -> list[tuple[str, Record, dict[str, Record]]]:
    found: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        found[str(record["question"])][str(record["contestant"])] = record
    several = [(question, next(iter(answers.values())), answers) for question, answers in found.items()]
    return sorted(several, key=lambda each: (each[1]["topic"] == TRAPS, each[1]["topic"], each[0]))


def _side(person: Person, record: Record, said: Said) -> dict[str, Any]:
    identity = str(record["id"])
    return {
        "person": person,
        "anchor": anchor("answer", identity),
        "flags": said.flags(identity),
        "grades": said.grades(identity),
    }


def _near(person: Person, links: Links, *texts: str) -> list[dict[str, str]]:
    """Only who was trained on the samples has any that are near."""
    return links.nearest("\n".join(texts)) if person.kind == TRAINED else []


def _turns(turns: Sequence[Record]) -> list[dict[str, Any]]:
    asker = turns[0]["role"] if turns else ""
    return [
        {
            "role": turn["role"],
            "thinking": turn["action"] == "thinking",
            "content": turn["content"],
            "own": turn["role"] != asker,
            "marks": _marks(turn.get("marks", ())),
        }
        for turn in turns
    ]


def _marks(marks: Iterable[str]) -> list[dict[str, str]]:
    return [{"name": mark, "meaning": MARKS.get(mark, mark)} for mark in marks]


def scripted(turns: Sequence[Record]) -> str:
    """Return, in a sentence, how often the interviewer's own question failed; empty where it never did."""
    asked = [turn for record in turns for turn in record["turns"] if _asks(record, turn)]
    failed = sum(SCRIPTED_QUESTION in turn["marks"] for turn in asked)
    if not failed:
        return ""
    return f"In {failed} of {len(asked)} turns its own questions failed, and a scripted one was asked instead; those are marked."


def _asks(record: Record, turn: Record) -> bool:
    return bool(turn["role"] == record["turns"][0]["role"])


def extremes(
    scores: Sequence[Record], everyone: Sequence[Person], titles: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return links to the reference's lowest and highest grades of each dimension. `titles`: what each answer was asked."""
    reference = next((one.name for one in everyone if one.reference), None)
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for one in scores:
        if one["contestant"] == reference and one["score"] is not None and str(one["answer"]) in titles:
            found[str(one["dimension"])].append((int(one["score"]), str(one["answer"])))
    rows = []
    for dimension, graded in in_order(found):
        mean: dict[str, list[int]] = defaultdict(list)
        for score, answer in graded:
            mean[answer].append(score)
        ranked = sorted((sum(several) / len(several), answer) for answer, several in mean.items())
        if len(ranked) < 2:
            continue
        count = min(EXTREMES, len(ranked) // 2)
        shown = {"low": ranked[:count], "high": ranked[::-1][:count]}
        rows.append(
            {"dimension": dimension}
            | {
                side: [
                    {"score": f"{score:g}", "href": f"#{anchor('answer', answer)}", "text": titles[answer]}
                    for score, answer in several
                ]
                for side, several in shown.items()
            }
        )
    return rows


# --- Chosen ----------------------------------------------------------------------------------------------------------


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
    ordinary = spread(by_topic)
    shown_traps = traps[: max(CHOSEN_TRAPS, CHOSEN - len(ordinary))]
    return [*ordinary[: CHOSEN - len(shown_traps)], *shown_traps]


def spread(groups: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Return the members of all groups, one of each in turn."""
    return [
        several[place]
        for place in range(max(map(len, groups.values()), default=0))
        for _, several in sorted(groups.items())
        if place < len(several)
    ]


def chosen_title(chosen: Sequence[str]) -> str:
    """Return the heading of the answers side by side."""
    if not chosen:
        return "Answers, side by side"
    return f"{in_words(len(chosen)).capitalize()} {'answers' if len(chosen) != 1 else 'answer'}, side by side"


def chosen_note(chosen: Sequence[str], single: Sequence[Record]) -> str:
    """Return how the answers side by side were chosen."""
    total = len({record["question"] for record in single})
    if not chosen:
        return "No single questions were asked."
    return (
        f"Untouched, and picked from {total} questions by the digest of their text, not by hand; "
        "traps, about what could not be known, come last. All others stand further below."
    )
