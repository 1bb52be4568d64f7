"""The scores: a judge's grades of the interviews, and the judge-free metrics beside them.

A judge reads one answer (or one whole interview) for one dimension, with the profile's most fitting paragraphs, and
gives 1 to 7. What it reads was written by a model that may want to be graded well, so the text is fenced: a turn is one line, every
line begins with a bar, control tokens are broken up, and the fence holds a digest of the text, which the text itself cannot know.
A reply that does not parse is unscored: no grade, a reason, and counted; never a zero and never left out.
This module knows no store, no file, and of a model nothing but `ask`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from charforge import evidence, metrics
from charforge.dialogue import one_line
from charforge.llm.request import Request
from charforge.templates import render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from charforge.llm.request import Ask

VERSION = 1

DIMENSIONS = ("memorization", "values", "personality", "hallucination", "stability")
"""The paper's dimensions (section 4.3); `stability` is asked of multi-turn interviews only."""

LOW, HIGH = 1, 7
EVIDENCE = 2
"""Profile paragraphs that the judge gets to read."""

REASON_CHARACTERS = 2
"""Characters of reasoning allowed per token of a constrained local judge, which does not end by itself."""

_LAST_LINE = re.compile(r"[*_ ]*Score: ?([1-7])[*_. ]*")
_FENCED_JSON = re.compile(r"\s*```(?:json)?\s*(\{.*\})\s*```\s*", re.DOTALL)
_CHAT_MARKS = re.compile(r"</?s>|\[/?INST\]|<(?:start|end)_of_turn>")


class Judge(TypedDict):
    """Who grades and how. `limit` is the number of questions and subjects to grade, None for all of them."""

    model: str
    weights: str | None
    temperature: float
    max_tokens: int
    repeats: int
    limit: int | None


class Results(NamedTuple):
    """What the stage makes: scores.jsonl, metrics.json, and calls.jsonl ({"id": score id, "call": digest})."""

    scores: list[dict[str, Any]]
    metrics: dict[str, dict[str, float | int | None]]
    calls: list[dict[str, Any]]


class Verdict(NamedTuple):
    """A judge's reply, read. Exactly one of the two is None."""

    score: int | None
    unscored: str | None


async def score(
    *,
    single: Sequence[Mapping[str, Any]],
    turns: Sequence[Mapping[str, Any]],
    profile: Mapping[str, Any],
    dimensions: Sequence[str],
    judge: Judge,
    name: str,
    short_name: str,
    knows_until: str,
    never: Sequence[str],
    seed: int | None,
    prompts: Mapping[str, str],
    ask: Ask,
    on_progress: Callable[[int, int], None],
) -> Results:
    """Grade and measure the interviews' records; scores are sorted by id.

    `prompts` holds the source of `judge` (the embedded one where the judge is embedded). `knows_until` is an ISO date,
    `never` names things beyond the knowledge boundary. `on_progress(done, total)` counts grades. Raises CharForgeError
    where the judge could not be reached, after the other calls came to their end.
    """
    chosen = sample(single, turns, judge["limit"])
    wanted = [
        (record, dimension, repeat)
        for record in (*single, *turns)
        if (_kind(record), record["question"]) in chosen
        for dimension in dimensions
        if dimension != "stability" or _kind(record) == "turns"
        for repeat in range(judge["repeats"])
    ]
    done = 0

    async def grade(record: Mapping[str, Any], dimension: str, repeat: int) -> tuple[dict[str, Any], str]:
        nonlocal done
        lines = said(record)
        spoken = "\n".join(content for _, content in lines)
        facts = evidence.relevant(profile["paragraphs"], spoken, EVIDENCE)
        judged = "\n".join(f"{role}: {content}" for role, content in lines)
        prompt = render(
            prompts["judge"],
            "judge.j2",
            dimension=dimension,
            name=name,
            short_name=short_name,
            until=knows_until,
            never=list(never),
            facts=[one_line(str(paragraph["text"])) for paragraph in facts],
            multi=_kind(record) == "turns",
            fence=fence(judged),
            judged=quoted(judged),
        )
        answered = await ask(
            Request(
                model=judge["model"],
                weights=judge["weights"],
                messages=(("user", prompt.strip()),),
                schema=reply_schema(judge["model"], judge["max_tokens"]),
                max_tokens=judge["max_tokens"],
                temperature=judge["temperature"],
                seed=seed,
                draw=repeat,
            )
        )
        verdict = read_verdict(answered.reply.text, answered.reply.finish_reason, judged=judged)
        done += 1
        on_progress(done, len(wanted))
        graded = {
            "id": f"{record['id']}/{dimension}/{repeat}",
            "answer": record["id"],
            "contestant": record["contestant"],
            "topic": record["topic"],
            "dimension": dimension,
            "score": verdict.score,
            "unscored": verdict.unscored,
            "verdict": answered.reply.text,
            "judge": judge["model"],
            "evidence": [paragraph["id"] for paragraph in facts],
        }
        return graded, answered.call

    results = await asyncio.gather(*(grade(*one) for one in wanted), return_exceptions=True)
    graded = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        graded.append(result)
    graded.sort(key=lambda one: str(one[0]["id"]))
    return Results(
        [record for record, _ in graded],
        metrics.measure(single, turns, profile=profile, name=name, short_name=short_name),
        [{"id": record["id"], "call": call} for record, call in graded],
    )


def _kind(record: Mapping[str, Any]) -> str:
    return "turns" if "turns" in record else "single"


def sample(
    single: Sequence[Mapping[str, Any]], turns: Sequence[Mapping[str, Any]], limit: int | None
) -> set[tuple[str, str]]:
    """Return which (kind, question id) are graded: the same for every contestant, spread over kinds and topics.

    Groups are the single-turn topics and the interviews. They are served in turn; within a group the order is that of the
    digests of the questions' texts, so that adding a question moves no more than one other in or out.
    """
    groups: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for record in (*single, *turns):
        kind = _kind(record)
        text = str(record["text"] if kind == "single" else record["subject"])
        group = groups.setdefault((kind, record["topic"] if kind == "single" else ""), {})
        group[kind, record["question"]] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    queues = [sorted(groups[key], key=lambda one: (groups[key][one], one)) for key in sorted(groups)]
    everything = [
        queue[place]
        for place in range(max(map(len, queues), default=0))
        for queue in queues
        if place < len(queue)
    ]
    return set(everything if limit is None else everything[:limit])


def said(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was said aloud as (speaker, one line of text): the judge sees no thoughts, as the interviewer saw none."""
    if _kind(record) == "single":
        return [("Question", defused(record["text"])), ("Answer", defused(record["answer"]))]
    return [
        (turn["role"], defused(turn["content"])) for turn in record["turns"] if turn["action"] == "speaking"
    ]


def defused(text: str) -> str:
    """Return text on one line, without control characters, invisible characters, or working control tokens."""
    visible = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace() or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn"}
    )
    return one_line(_CHAT_MARKS.sub(lambda match: " ".join(match.group()), visible))


def quoted(text: str) -> str:
    """Return text with a bar before each line."""
    return "\n".join(f"| {line}" for line in text.split("\n"))


def fence(text: str) -> str:
    """Return a mark that does not stand in `text`: eight hex digits of its digest, hashed on until they do not."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    while digest[:8] in text:
        digest = hashlib.sha256(digest.encode()).hexdigest()
    return digest[:8]


def reply_schema(model: str, max_tokens: int) -> dict[str, Any]:
    """Return the JSON Schema of a verdict.

    For local models the reason is bounded so that the verdict fits into `max_tokens`; not every provider knows how to.
    """
    reason: dict[str, Any] = {"type": "string"}
    if model.startswith(("embedded/", "local/")):
        reason["maxLength"] = max(0, max_tokens - 16) * REASON_CHARACTERS
    return {
        "type": "object",
        "properties": {
            "reason": reason,
            "score": {"type": "integer", "enum": list(range(LOW, HIGH + 1))},
        },
        "required": ["reason", "score"],
        "additionalProperties": False,
    }


def read_verdict(reply: str, finish_reason: str, *, judged: str = "") -> Verdict:
    """Read a judge's reply: the whole reply as one JSON object, else its last line as `Score: N`; anything else is unscored.

    `judged` is the text that was graded: a reply that stands in it word for word was copied, not given.
    """
    text = reply.strip()
    if finish_reason == "filtered":
        return Verdict(None, "filtered")
    if not text:
        return Verdict(None, "empty reply")
    if one_line(text) in judged:
        return Verdict(None, "copied from the answer")
    fenced = _FENCED_JSON.fullmatch(text)
    body = fenced[1] if fenced else text
    if body.startswith("{"):
        return _read_json(body, finish_reason)
    if finish_reason != "stop":
        return Verdict(None, "cut off")
    last = _LAST_LINE.fullmatch(text.splitlines()[-1])
    if last is None:
        return Verdict(None, "no verdict in the last line")
    return Verdict(int(last[1]), None)


def _read_json(body: str, finish_reason: str) -> Verdict:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        data = json.loads(body, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return Verdict(None, "cut off" if finish_reason == "length" else "not JSON")
    value = data.get("score")
    if isinstance(value, bool) or not isinstance(value, int):
        return Verdict(None, "score is no whole number")
    if not LOW <= value <= HIGH:
        return Verdict(None, f"score is not between {LOW} and {HIGH}")
    return Verdict(value, None)
