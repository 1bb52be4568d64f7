"""The exam of a judge: answers whose order is known, graded by the same code as any other answer.

A judge that cannot tell a person's own answer from somebody else's, an assistant's, one that knows the future, silence, or a plea
for a good grade, tells nothing about a character either. For every question of the material the answer `right` has to get a
strictly better grade than each answer that MUST_BE_LOWER names for the dimension. Half right is not enough: SHARE of these pairs
have to come out, and no more than UNSCORED of the grades may be missing; a pair with a missing grade does not come out.
The material is the same for every character, so a judge that is asked the same way pays for the exam once. Passing says that a judge
sees coarse differences, not that it sees fine ones.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from charforge.stages import exam_material as material
from charforge.stages import judging

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.stages.judging import Judge, Person, Room

RIGHT = "right"

SHARE = 0.9
UNSCORED = 0.1

MUST_BE_LOWER: Mapping[str, tuple[str, ...]] = {
    "memorization": ("wrong-character", "assistant", "twisted", "instruction"),
    "values": ("wrong-character", "assistant", "twisted", "instruction"),
    "personality": ("wrong-character", "assistant", "flat", "empty"),
    "hallucination": ("wrong-character", "assistant", "anachronism", "instruction"),
    "stability": ("wrong-character", "assistant", "contradiction", "instruction"),
}
"""Dimension → the answers that have to be graded lower than `right`. Others are not asked for: an anachronism can have the
right temper, and who says nothing knows nothing that he could not know."""


class Paper(NamedTuple):
    """One grade that the exam asks for."""

    person: Person
    who: str
    record: Mapping[str, Any]
    anchor: str
    dimension: str


def papers(dimensions: Sequence[str]) -> list[Paper]:
    """Return what a judge has to grade, in the order of the material."""
    found = []
    for someone in material.PEOPLE:
        for question in someone["questions"]:
            dimension = question["dimension"]
            if dimension not in dimensions:
                continue
            for anchor in (RIGHT, *MUST_BE_LOWER[dimension]):
                record = _record(someone, question, anchor)
                found.append(Paper(someone["person"], someone["id"], record, anchor, dimension))
    return found


def _record(someone: material.Someone, question: material.Question, anchor: str) -> dict[str, Any]:
    """Return an answer of the material in the shape of an interview's record."""
    asked, answered = question["asked"], question["answers"][anchor]
    record = {
        "id": f"exam/{someone['id']}/{question['id']}/{anchor}",
        "contestant": anchor,
        "question": question["id"],
        "topic": question["dimension"],
    }
    if len(asked) == 1:
        return {**record, "text": asked[0], "answer": answered[0]}
    turns = []
    for each, answer in zip(asked, answered, strict=True):
        turns.append({"role": "Visitor", "action": "speaking", "content": each})
        turns.append({"role": someone["person"]["short_name"], "action": "speaking", "content": answer})
    return {**record, "subject": question["subject"], "turns": turns}


async def grade(room: Room, judge: Judge, paper: Paper) -> tuple[dict[str, Any], str | None]:
    """Return the record of exam.jsonl, shaped like a score, and its call."""
    judged = await judging.grade(room, judge, paper.person, paper.record, paper.dimension, draw=0)
    record = judging.score_record(judged, judge, paper.record, paper.dimension, repeat=0)
    return {**record, "anchor": paper.anchor, "person": paper.who}, judged.call


def result(graded: Sequence[Mapping[str, Any]], dimensions: Sequence[str]) -> dict[str, Any]:
    """Return what one judge's grades of the exam come to: {"passed", "dimensions", "means"}, see docs/judge.md.

    With no dimension it is not examined: "passed" is None.
    """
    by_dimension = {
        dimension: _dimension([one for one in graded if one["dimension"] == dimension], dimension)
        for dimension in dimensions
    }
    means: dict[str, dict[str, float | None]] = {}
    for anchor in sorted({str(one["anchor"]) for one in graded}):
        for dimension in dimensions:
            these = [
                one["score"] for one in graded if (one["anchor"], one["dimension"]) == (anchor, dimension)
            ]
            scored = [score for score in these if score is not None]
            if these:
                mean = round(math.fsum(scored) / len(scored), 6) if scored else None
                means.setdefault(anchor, {})[dimension] = mean
    passed = all(one["passed"] for one in by_dimension.values()) if by_dimension else None
    return {"passed": passed, "dimensions": by_dimension, "means": means}


def _dimension(graded: Sequence[Mapping[str, Any]], dimension: str) -> dict[str, Any]:
    scores = {(one["person"], one["question"], one["anchor"]): one["score"] for one in graded}
    right = {(who, question): score for (who, question, anchor), score in scores.items() if anchor == RIGHT}
    pairs = [
        (best, scores[who, question, anchor])
        for (who, question), best in right.items()
        for anchor in MUST_BE_LOWER[dimension]
    ]
    separated = sum(best is not None and other is not None and best > other for best, other in pairs)
    unscored = sum(score is None for score in scores.values())
    needed = math.ceil(SHARE * len(pairs))
    return {
        "passed": separated >= needed and unscored <= UNSCORED * len(scores),
        "separated": separated,
        "pairs": len(pairs),
        "unscored": unscored,
        "needed": needed,
    }
