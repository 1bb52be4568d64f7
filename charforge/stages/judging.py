"""One verdict of a judge: what it gets to read, in what form it has to answer, and how its reply is read.

What is judged was written by a model that may want to be graded well, or by a stranger. So each turn is one line behind a bar,
nothing in it can work as a control token or hide from the eye, and it stands between two lines with a mark: a digest of the
material, which the material cannot know. A verdict names the mark again, so that none can be copied out of an answer.
A reply that does not parse is unscored: no grade, a reason, and counted; never a zero and never left out.
The interviews, the exam and the comparisons all come through here. Knows no store, no file, and of a model nothing but `ask`.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from charforge import evidence
from charforge.dialogue import one_line
from charforge.llm.request import Request
from charforge.templates import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.llm.request import Ask

DIMENSIONS = ("memorization", "values", "personality", "hallucination", "stability")
"""The paper's dimensions (section 4.3); `stability` is asked of multi-turn interviews only."""

LOW, HIGH = 1, 7

BETTER = ("first", "second", "tie")
"""What a comparison may say."""

MOST = 60_000
"""Characters of material. What is longer is unscored without a call: an imported answer can have any length."""

SMALL_TOKENS, TOKENS = 48, 1024
"""What a judge may write: a small one, whose form they bound, and any other, which reasons first."""

REASON_CHARACTERS = 2
"""Characters of reasoning allowed per token of a constrained local judge, which does not end by itself."""

SMALL_FACT = 240
"""Characters of a paragraph that an embedded judge gets to read; it loses its way in longer prompts."""

NOTHING = "(says nothing)"

_EMBEDDED = "embedded/"
_LOCAL = (_EMBEDDED, "local/")


class Judge(TypedDict):
    """Who judges and how it is sampled. `weights` is the digest of the weights where we know it."""

    model: str
    weights: str | None
    temperature: float
    max_tokens: int


class Person(TypedDict):
    """Who is played: `paragraphs` of the profile {"id", "number", "text"}, `until` an ISO date, `never` things beyond it."""

    name: str
    short_name: str
    until: str
    never: Sequence[str]
    paragraphs: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Room:
    """What is the same for every verdict of a stage. `prompts` has the sources of the judges' templates, by the names of `template`.

    `evidence` is the number of paragraphs quoted to the judge. `found` keeps them, by person and query: an answer is
    judged many times.
    """

    evidence: int
    seed: int | None
    prompts: Mapping[str, str]
    ask: Ask
    found: dict[tuple[str, str], Sequence[Mapping[str, Any]]] = field(default_factory=dict)


class Verdict(NamedTuple):
    """A judge's reply, read. Exactly one of `value` (a grade, or one of BETTER) and `unscored` (why there is none) is None.

    `cites` are the paragraphs that it names and that it was shown, in order; `miscited` counts those that it was not shown.
    """

    value: int | str | None
    unscored: str | None
    cites: tuple[int, ...] = ()
    miscited: int = 0


class Judged(NamedTuple):
    """A verdict with the raw reply, the paragraphs quoted, and the call that it took: None where none was made."""

    verdict: Verdict
    reply: str
    shown: Sequence[Mapping[str, Any]]
    call: str | None


def room_for(model: str) -> int:
    """Return the tokens that a judge needs: a small one's form is bounded by them, any other reasons first."""
    return SMALL_TOKENS if model.startswith(_LOCAL) else TOKENS


def template(name: str, model: str) -> str:
    """Return which file under prompts/ a judge is asked with: an embedded one has its own, shorter ones."""
    return f"embedded/{name}.j2" if model.startswith(_EMBEDDED) else f"{name}.j2"


# --- Asking ----------------------------------------------------------------------------------------------------------


async def grade(
    room: Room, judge: Judge, person: Person, record: Mapping[str, Any], dimension: str, *, draw: int
) -> Judged:
    """Return the judge's grade of an answer, or of a whole interview, for one dimension."""
    lines = said(record)
    material = "\n".join(f"{role}: {content}" for role, content in lines)
    return await _judge(
        room,
        judge,
        person,
        name="judge",
        query="\n".join(content for _, content in lines),
        judged=material,
        draw=draw,
        values={"dimension": dimension, "multi": kind(record) == "turns", "judged": quoted(material)},
    )


async def compare(
    room: Room,
    judge: Judge,
    person: Person,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    query: str,
    draw: int,
) -> Judged:
    """Return which of two records answers better: the judge knows them as first and second. `query` finds the evidence."""
    multi = kind(first) == "turns"
    opened, one, other = said(first), said(first), said(second)
    if multi:
        about = f"An interview. {defused(str(first['subject']))}"
    else:
        about, one, other = f"Question: {opened[0][1]}", one[1:], other[1:]
    texts = ["\n".join(f"{role}: {content}" for role, content in lines) for lines in (one, other)]
    return await _judge(
        room,
        judge,
        person,
        name="pairwise",
        query=query,
        judged="\n".join([about, *texts]),
        draw=draw,
        values={
            "multi": multi,
            "about": quoted(about),
            "first": quoted(texts[0]),
            "second": quoted(texts[1]),
        },
    )


async def _judge(
    room: Room,
    judge: Judge,
    person: Person,
    *,
    name: str,
    query: str,
    judged: str,
    draw: int,
    values: Mapping[str, Any],
) -> Judged:
    small = judge["model"].startswith(_EMBEDDED)
    if len(judged) > MOST:
        return Judged(Verdict(None, f"longer than {MOST:,} characters"), "", (), None)
    key = person["name"], query
    if key not in room.found:
        room.found[key] = evidence.relevant(person["paragraphs"], query, room.evidence)
    shown = room.found[key]
    facts = [{"number": one["number"], "text": _fact(str(one["text"]), small=small)} for one in shown]
    mark = fence(judged)
    file = template(name, judge["model"])
    prompt = render(
        room.prompts[file],
        file,
        name=person["name"],
        short_name=person["short_name"],
        until=person["until"],
        never=list(person["never"]),
        facts=facts,
        mark=mark,
        **values,
    )
    comparing = name == "pairwise"
    answered = await room.ask(
        Request(
            model=judge["model"],
            weights=judge["weights"],
            messages=(("user", prompt.strip()),),
            schema=schema(judge["model"], judge["max_tokens"], comparing=comparing),
            max_tokens=judge["max_tokens"],
            temperature=judge["temperature"],
            seed=room.seed,
            draw=draw,
        )
    )
    verdict = read(
        answered.reply.text,
        answered.reply.finish_reason,
        comparing=comparing,
        mark=None if small else mark,
        judged=judged,
        numbers=[int(one["number"]) for one in shown],
    )
    return Judged(verdict, answered.reply.text, shown, answered.call)


def schema(model: str, max_tokens: int, *, comparing: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of a verdict.

    For local models everything is bounded so that the verdict fits into `max_tokens`; not every provider knows how to. An
    embedded judge gives a reason and a grade only: it cannot copy a mark, and what it would cite means nothing.
    """
    reason: dict[str, Any] = {"type": "string"}
    cites: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
    small = model.startswith(_EMBEDDED)
    if model.startswith(_LOCAL):
        reason["maxLength"] = max(0, max_tokens - (16 if small else 64)) * REASON_CHARACTERS
        cites["maxItems"] = 6
    verdict = (
        {"better": {"type": "string", "enum": list(BETTER)}}
        if comparing
        else {"score": {"type": "integer", "enum": list(range(LOW, HIGH + 1))}}
    )
    properties = {
        **({} if small else {"mark": {"type": "string"}}),
        "reason": reason,
        **({} if small else {"cites": cites}),
        **verdict,
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# --- What the judge reads --------------------------------------------------------------------------------------------


def kind(record: Mapping[str, Any]) -> str:
    """Return `turns` for the record of an interview and `single` for one of a single answer."""
    return "turns" if "turns" in record else "single"


def said(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was said aloud as (speaker, one line of text): the judge sees no thoughts, as the interviewer saw none."""
    if kind(record) == "single":
        return [("Question", defused(record["text"])), ("Answer", defused(record["answer"]) or NOTHING)]
    return [
        (defused(turn["role"]), defused(turn["content"]) or NOTHING)
        for turn in record["turns"]
        if turn["action"] == "speaking"
    ]


# Letters, marks and symbols that print nothing or as a blank: Unicode's Default_Ignorable_Code_Point beyond the categories Cf and Cn,
# and the empty Braille cell. They can carry a message that only a tokenizer sees.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\uffa0\ufe00-\ufe0f\u2800\U000e0100-\U000e01ef]"
)
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
# `<|im_end|>`, `</s>`, `[INST]`, `<｜User｜>`, and a note's number `[12]`: none is one when a space follows the bracket.
_OPENING = re.compile("([<＜﹤‹〈⟨《［\\[【〔「])(?=[^\\s])")


def defused(text: str) -> str:
    """Return text on one line, without control characters, invisible characters, working control tokens, or a note's number."""
    visible = "".join(
        " " if character.isspace() else character
        for character in _UNSEEN.sub("", text)
        if character.isspace() or unicodedata.category(character) not in _HIDDEN
    )
    return one_line(_OPENING.sub(r"\1 ", visible))


def quoted(text: str) -> str:
    """Return text with a bar before each line."""
    return "\n".join(f"| {line}" for line in text.split("\n"))


def fence(text: str) -> str:
    """Return a mark that does not stand in `text`: eight hex digits of its digest, hashed on until they do not."""
    known = f"{text}\n{_folded(text)}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    while digest[:8] in known:
        digest = hashlib.sha256(digest.encode()).hexdigest()
    return digest[:8]


def _fact(text: str, *, small: bool) -> str:
    """Return a paragraph on one line; for an embedded judge its beginning, up to a word's end."""
    line = defused(text)
    if small and len(line) > SMALL_FACT:
        line = line[: SMALL_FACT - 1].rpartition(" ")[0] + "…"
    return line


# --- Reading a verdict -----------------------------------------------------------------------------------------------

_THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_LAST_SCORE = re.compile(r"[*_` ]*(?:(?P<mark>[0-9a-f]{8}) )?Score: ?(?P<value>[1-7])[*_`. ]*")
_LAST_BETTER = re.compile(r"[*_` ]*(?:(?P<mark>[0-9a-f]{8}) )?Better: ?(?P<value>first|second|tie)[*_`. ]*")
_CITED = re.compile(r"\[(\d{1,6}(?:, ?\d{1,6})*)\]")
_OBJECTS = 20
"""Places where a verdict's object may begin that are tried, from the last one of the reply."""


def read(
    reply: str,
    finish_reason: str,
    *,
    comparing: bool = False,
    mark: str | None = None,
    judged: str = "",
    numbers: Sequence[int] = (),
) -> Verdict:
    """Read a judge's reply: it has to end with one JSON object, or else with a line `MARK Score: N` (`MARK Better: first`).

    `mark` is the mark that the verdict has to name, None where none is asked for. `judged` is the material: what stands in it
    word for word was copied, not given. `numbers` are the paragraphs that the judge was shown.
    """
    text = reply.strip()
    if finish_reason in {"filtered", "malformed"}:
        return Verdict(None, finish_reason)
    thoughts = _THOUGHTS.match(text)
    if thoughts:
        text = text[thoughts.end() :].strip()
    elif text.startswith("<think>"):
        return Verdict(None, "cut off" if finish_reason == "length" else "thoughts without an end")
    if not text:
        return Verdict(None, "cut off" if finish_reason == "length" else "empty reply")
    if (whole := _folded(text)) and whole in _folded(judged):
        return Verdict(None, "copied from the answer")
    key = "better" if comparing else "score"
    ended = text.removesuffix("```").rstrip()
    if ended.endswith("}") or ended.startswith("{"):
        found = _last_object(ended)
        if found is None:
            return Verdict(None, "cut off" if finish_reason == "length" else "not JSON")
        problem = _problem(found.get(key), comparing=comparing)
        if problem is not None:
            return Verdict(None, problem)
        value, reason, given = found[key], found.get("reason"), found.get("mark")
        named = _numbers(found.get("cites"))
        before = reason if isinstance(reason, str) else ""
    else:
        if finish_reason != "stop":
            return Verdict(None, "cut off")
        before, _, line = text.rpartition("\n")
        last = (_LAST_BETTER if comparing else _LAST_SCORE).fullmatch(line.strip())
        if last is None:
            return Verdict(None, "no verdict in the last line")
        value = last["value"] if comparing else int(last["value"])
        given, named = last["mark"], []
    if mark is not None and given != mark:
        return Verdict(None, "no mark" if not given else "not the mark of this answer")
    if _stands_in(judged, key, value, before):
        return Verdict(None, "copied from the answer")
    named += [int(number) for match in _CITED.findall(before) for number in match.split(",")]
    cites = tuple(sorted({number for number in named if number in numbers}))
    return Verdict(value, None, cites, len({number for number in named if number not in numbers}))


def _last_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text ends with, None where it ends with none, or with one that has a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    begins = [match.end() - 1 for match in re.finditer(r"(?:^|\n)[ \t]*\{", text)]
    for begin in begins[-_OBJECTS:]:
        try:
            # Not strict: models write line breaks into their strings.
            data = json.loads(text[begin:], object_pairs_hook=unique, strict=False)
        except (ValueError, RecursionError):
            continue
        return data if isinstance(data, dict) else None
    return None


def _numbers(listed: Any) -> list[int]:
    """Return the numbers of a list; `"3"` and `"[3]"` are numbers too."""
    if not isinstance(listed, list):
        return []
    found = (re.fullmatch(r"\[?(\d{1,6})\]?", str(one)) for one in listed if not isinstance(one, bool))
    return [int(match[1]) for match in found if match]


def _problem(value: Any, *, comparing: bool) -> str | None:
    """Say why a value is no verdict, or None if it is one."""
    if comparing:
        return (
            None if isinstance(value, str) and value in BETTER else f"better is none of {', '.join(BETTER)}"
        )
    if type(value) is not int:
        return "score is no whole number"
    return None if LOW <= value <= HIGH else f"score is not between {LOW} and {HIGH}"


def _folded(text: str) -> str:
    """Return the letters and digits of a text, without case and with look-alike forms made one."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def _stands_in(judged: str, key: str, value: int | str, reason: str) -> bool:
    """Say whether the material itself holds this verdict, and the judge adds no word of its own."""
    if f"{key}{value}" not in (folded := _folded(judged)):
        return False
    return _folded(reason) in folded


# --- Records ---------------------------------------------------------------------------------------------------------


def score_record(
    judged: Judged, judge: Judge, record: Mapping[str, Any], dimension: str, *, repeat: int
) -> dict[str, Any]:
    """Return a grade as scores.jsonl has it."""
    return {
        "id": f"{record['id']}/{dimension}/{judge['model']}/{repeat}",
        "answer": record["id"],
        "contestant": record["contestant"],
        "kind": kind(record),
        "question": record["question"],
        "topic": record["topic"],
        "dimension": dimension,
        "judge": judge["model"],
        "repeat": repeat,
        "score": judged.verdict.value,
        "unscored": judged.verdict.unscored,
        "verdict": judged.reply,
        "evidence": shown_record(judged),
        "cites": list(judged.verdict.cites),
        "miscited": judged.verdict.miscited,
    }


def shown_record(judged: Judged) -> list[dict[str, Any]]:
    """Return the paragraphs that the judge was shown, by id and number, in the order of the prompt."""
    return [{"id": one["id"], "number": one["number"]} for one in judged.shown]
