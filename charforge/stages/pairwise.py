"""Two contestants' answers to the same question side by side: which is better, asked in both orders.

A judge may like what it reads first. So each pair is shown twice, once in each order, as `first` and `second` and without a name; only
where both verdicts agree there is a winner, otherwise it is a tie, and where one of them is unscored there is none. One of the pair is
always the reference contestant. The lengths of both go with the verdict, since a judge may like length too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from charforge import evidence
from charforge.stages import judging
from charforge.stages.interviews import INTERVIEWER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.stages.judging import Judge, Person, Room

TIE = "tie"


class Pair(NamedTuple):
    """Two records about the same question; `one` is the reference's."""

    one: Mapping[str, Any]
    other: Mapping[str, Any]


def pairs(records: Sequence[Mapping[str, Any]], reference: str) -> list[Pair]:
    """Return the reference's records paired with the other contestants' of the same kind and question."""
    ours = {(judging.kind(one), one["question"]): one for one in records if one["contestant"] == reference}
    return [
        Pair(ours[key], other)
        for other in records
        if other["contestant"] != reference and (key := (judging.kind(other), other["question"])) in ours
    ]


async def compare(
    room: Room, judge: Judge, person: Person, pair: Pair, *, repeat: int
) -> tuple[dict[str, Any], list[tuple[str, str | None]]]:
    """Return the record of pairs.jsonl, and (id, call) of both orders."""
    one, other = pair
    query = "\n".join(content for record in pair for _, content in judging.said(record))
    forth, back = await asyncio.gather(
        judging.compare(room, judge, person, one, other, query=query, draw=repeat),
        judging.compare(room, judge, person, other, one, query=query, draw=repeat),
    )
    kind = judging.kind(one)
    identity = f"{kind}/{one['question']}/{one['contestant']}/{other['contestant']}/{judge['model']}/{repeat}"
    first = {"first": "one", "second": "other", TIE: TIE, None: None}[forth.verdict.value]  # type: ignore[index]
    second = {"first": "other", "second": "one", TIE: TIE, None: None}[back.verdict.value]  # type: ignore[index]
    record = {
        "id": identity,
        "kind": kind,
        "question": one["question"],
        "topic": one["topic"],
        "one": one["contestant"],
        "other": other["contestant"],
        "judge": judge["model"],
        "repeat": repeat,
        "first": first,
        "second": second,
        "winner": _winner(first, second, one["contestant"], other["contestant"]),
        "unscored": [each.verdict.unscored for each in (forth, back) if each.verdict.unscored is not None],
        "words": [_words(one), _words(other)],
        "verdicts": [forth.reply, back.reply],
        "evidence": judging.shown_record(forth),
        "cites": [list(each.verdict.cites) for each in (forth, back)],
    }
    return record, [(f"pair/{identity}/first", forth.call), (f"pair/{identity}/second", back.call)]


def _winner(first: str | None, second: str | None, one: str, other: str) -> str | None:
    if first is None or second is None:
        return None
    return {"one": one, "other": other, TIE: TIE}[first] if first == second else TIE


def _words(record: Mapping[str, Any]) -> int:
    """Return how many words the character said aloud."""
    if judging.kind(record) == "single":
        return len(evidence.words(record["answer"]))
    return sum(
        len(evidence.words(turn["content"]))
        for turn in record["turns"]
        if turn["action"] == "speaking" and turn["role"] != INTERVIEWER
    )
