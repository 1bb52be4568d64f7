"""Judge-free metrics of interview answers: counts and shares that need no model and no opinion. See docs/metrics.md.

Pure functions of text. What cannot be measured (no such answer, no such word) is None, never 0. Every rule here can be
wrong about a single answer; each says how in docs/metrics.md, and a test holds that page to `METRICS`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from charforge import evidence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TRAPS = "traps"
"""The topic of questions about what the character cannot know."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is shown. `unit` is `count`, `words` or `share` (0 to 1); `better` is `low`, `high` or None."""

    label: str
    unit: str
    better: str | None
    meaning: str


METRICS = {
    "answers": Metric("Answers", "count", None, "Spoken answers, single-turn and multi-turn."),
    "words_mean": Metric("Words, mean", "words", None, "Mean number of words in an answer."),
    "words_median": Metric("Words, median", "words", None, "Median number of words in an answer."),
    "empty": Metric("Empty", "share", "low", "Answers without a word."),
    "cut_off": Metric("Cut off", "share", "low", "Answers that hit the token limit."),
    "wrong_speaker": Metric(
        "Wrong speaker", "share", "low", "Answers that go on to speak for somebody else."
    ),
    "special_tokens": Metric(
        "Control tokens", "share", "low", "Answers with control tokens of a chat format in them."
    ),
    "leaves_role": Metric(
        "Leaves the role", "share", "low", "Answers that talk as an assistant or a language model."
    ),
    "first_person": Metric("First person", "share", "high", "Answers that say I, me, my, mine or myself."),
    "third_person": Metric(
        "Third person", "share", "low", "Answers that tell of the character by name, as of another."
    ),
    "repeated": Metric(
        "Repeated answers", "share", "low", "Answers equal to an earlier answer to another question."
    ),
    "distinct_2": Metric(
        "Distinct word pairs", "share", "high", "Different word pairs among equally many of each contestant."
    ),
    "profile_overlap": Metric(
        "Profile words", "share", None, "Content words of an answer that stand in the profile, too."
    ),
    "trap_answers": Metric(
        "Trap answers", "count", None, "Answers to questions about what the character cannot know."
    ),
    "trap_claims": Metric(
        "Falls into the trap",
        "share",
        "low",
        "Trap answers that speak of the unknown thing as of something known.",
    ),
    "trap_ignorance": Metric(
        "Shows ignorance", "share", "high", "Trap answers that are puzzled, deny, or ask what is meant."
    ),
}
"""Every metric of metrics.json, in the order in which they are shown."""

_LEAVES_ROLE = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|(?:ai |virtual |digital )?assistant|chatbot)\b"
    r"|\b(?:ai|artificial intelligence|(?:large |ai )language) model\b"
    r"|\bi(?: am|['’]m)(?: just| only)? an? (?:ai|(?:large )?language model|chatbot|computer program"
    r"|(?:\w+ )?(?:ai|virtual|digital|writing) assistant)\b"
    r"|\bmy (?:training data|knowledge cut-?off)\b|\bi was trained on\b|\bhow (?:can|may) i (?:help|assist) you\b"
    r"|\b(?:chatgpt|openai|hugging face|smollm\d*)\b",
    re.IGNORECASE,
)

_VERBS = (
    "was|is|had|has|did|does|would|could|lived|wrote|composed|became|died|made|began|never|himself|herself"
    "|went|played|felt|loved|believed|said"
)

_IGNORANCE = re.compile(
    r"\bnever (?:\w+ )?(?:heard|seen|used|owned|known|met|been|had|read|ridden|flown|travelled|taken|held|touched|come across)\b"
    r"|\b(?:do|did|does|have|has|had|am|is|are|was|were|can|could)(?: not|n['’]t) (?:\w+ )?"
    r"(?:know|knew|known|understand|recognise|recognize|familiar|acquainted|heard|follow|comprehend|grasp|aware|sure what)\b"
    r"|\bcannot (?:\w+ )?(?:know|understand|follow|comprehend|grasp|imagine|make sense|tell what)\b"
    r"|\b(?:no|not the (?:faintest|least|slightest)) (?:idea|notion|knowledge|understanding)\b|\bnot familiar\b"
    r"|\bunfamiliar\b|\b(?:unknown|strange|foreign|new|greek) to me\b|\bmeans? nothing\b|\bmakes? no sense\b|\bno sense of\b"
    r"|\b(?:no|without) such (?:thing|word|man|person|place|machine|instrument|device|name|article)\b"
    r"|\bi know (?:of )?no\b|\b(?:strange|odd|curious|peculiar|unheard[- ]of) (?:word|thing|name|question|talk|device|contraption|notion)\b"
    r"|\briddles?\b|\bpuzzl(?:e|es|ed|ing)\b|\bnonsense\b|\bwhat(?:ever)? (?:is|are|was) (?:a|an|the|this|that|these|those|it)\b[^.!]*\?"
    r"|\bwhat (?:sort|kind|manner) of\b[^.!]*\?|\bwhat (?:do|can|could) you mean\b|\bwhat are you (?:talking|speaking)\b"
    r"|\bwho is (?:this|that|he|she)\b|\bexplain (?:this|that|it|yourself)\b|\bspeak plainly\b",
    re.IGNORECASE,
)

_AGREES = re.compile(
    r"\W*(?:yes|yeah|of course|certainly|indeed|absolutely|sure|definitely|naturally)\b", re.IGNORECASE
)
_LISTED = re.compile(r"^\s*(?:[-*•] |\d+[.)] |[{\[`])", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.!?…])[\"”’)]*\s+")


@dataclass(frozen=True, slots=True)
class Spoken:
    """One spoken answer. `question` is what was asked, `marks` those of the interviews."""

    contestant: str
    topic: str
    question: str
    answer: str
    marks: tuple[str, ...]


def spoken_answers(single: Sequence[Mapping[str, Any]], turns: Sequence[Mapping[str, Any]]) -> list[Spoken]:
    """Return every spoken answer of the interviews' records, in their order; thoughts are not among them."""
    found = [Spoken(r["contestant"], r["topic"], r["text"], r["answer"], tuple(r["marks"])) for r in single]
    for record in turns:
        question = ""
        asker = record["turns"][0]["role"] if record["turns"] else ""
        for turn in record["turns"]:
            if turn["role"] == asker:
                question = turn["content"]
            elif turn["action"] == "speaking":
                found.append(
                    Spoken(
                        record["contestant"], record["topic"], question, turn["content"], tuple(turn["marks"])
                    )
                )
    return found


def measure(
    single: Sequence[Mapping[str, Any]],
    turns: Sequence[Mapping[str, Any]],
    *,
    profile: Mapping[str, Any],
    name: str,
    short_name: str,
) -> dict[str, dict[str, float | int | None]]:
    """Return {contestant: {metric: value}}; shares are rounded to six digits, what cannot be measured is None."""
    answers = spoken_answers(single, turns)
    known = {
        stem for paragraph in profile["paragraphs"] for stem in evidence.content_words(str(paragraph["text"]))
    }
    by_contestant: dict[str, list[Spoken]] = {}
    for answer in answers:
        by_contestant.setdefault(answer.contestant, []).append(answer)
    # Only what people wrote: an interviewer's model may have asked about anything.
    ordinary = {
        stem for one in single if one["topic"] != TRAPS for stem in evidence.content_words(one["text"])
    } | set(evidence.content_words(f"{name} {short_name}"))
    pairs = {contestant: _pairs(own) for contestant, own in by_contestant.items()}
    counted = min((len(own) for own in pairs.values() if own), default=0)
    return {
        contestant: _one(own, pairs[contestant][:counted], known, ordinary, (name, short_name))
        for contestant, own in sorted(by_contestant.items())
    }


def _one(
    answers: Sequence[Spoken],
    pairs: Sequence[tuple[str, str]],
    known: set[str],
    ordinary: set[str],
    names: Sequence[str],
) -> dict[str, float | int | None]:
    filled = [answer for answer in answers if answer.answer.strip()]
    lengths = [len(answer.answer.split()) for answer in answers]
    traps = [answer for answer in answers if answer.topic == TRAPS]
    values: dict[str, float | int | None] = {
        "answers": len(answers),
        "words_mean": _mean([float(length) for length in lengths]),
        "words_median": float(median(lengths)) if lengths else None,
        "empty": _share([not answer.answer.strip() for answer in answers]),
        "cut_off": _share(["cut-off" in answer.marks for answer in answers]),
        "wrong_speaker": _share(["wrong-speaker" in answer.marks for answer in answers]),
        "special_tokens": _share(["special-token" in answer.marks for answer in answers]),
        "leaves_role": _share([leaves_role(answer.answer) for answer in filled]),
        "first_person": _share([first_person(answer.answer) for answer in filled]),
        "third_person": _share([third_person(answer.answer, names) for answer in filled]),
        "repeated": _repeated(filled),
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else None,
        "profile_overlap": _mean([share for a in filled if (share := _overlap(a.answer, known)) is not None]),
        "trap_answers": len(traps),
        "trap_claims": _share([claims(a.answer, unknown_words(a.question, known | ordinary)) for a in traps]),
        "trap_ignorance": _share([shows_ignorance(a.answer) for a in traps]),
    }
    assert list(values) == list(METRICS)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}


def leaves_role(answer: str) -> bool:
    """Say whether an answer talks as an assistant or a language model."""
    return _LEAVES_ROLE.search(answer) is not None


def first_person(answer: str) -> bool:
    """Say whether an answer has I, me, my, mine or myself in it."""
    return any(
        word in {"i", "me", "my", "mine", "myself"} or word.startswith("i'")
        for word in evidence.words(answer)
    )


def third_person(answer: str, names: Sequence[str]) -> bool:
    """Say whether an answer tells of the character by name, such as `Beethoven was`, or `Beethoven's`."""
    own = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.search(rf"\b(?:{own})(?:['’]s? \w|,? (?:{_VERBS})\b)", answer) is not None


def unknown_words(question: str, known: set[str]) -> set[str]:
    """Return the stems of a trap question that are neither in the profile nor in any ordinary question."""
    return set(evidence.content_words(question)) - known


def claims(answer: str, unknown: set[str]) -> bool:
    """Say whether a trap's answer takes the unknown thing for known.

    True where it leaves the role; where it agrees at once and shows no ignorance; where it answers in the form of a list or
    of JSON; or where a sentence that is no question and shows no ignorance holds one of the unknown words.
    """
    if leaves_role(answer) or _LISTED.search(answer):
        return True
    if _AGREES.match(answer) and not shows_ignorance(answer):
        return True
    return any(
        not sentence.rstrip('"”’) ').endswith("?")
        and not _IGNORANCE.search(sentence)
        and unknown & set(evidence.content_words(sentence))
        for sentence in _SENTENCE.split(answer)
    )


def shows_ignorance(answer: str) -> bool:
    """Say whether an answer is puzzled, denies knowledge, or asks what is meant."""
    return _IGNORANCE.search(answer) is not None


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _repeated(answers: Sequence[Spoken]) -> float | None:
    """Return the share of answers whose words are those of an answer to another question, the first one not counted."""
    first: dict[str, str] = {}
    again = 0
    for answer in answers:
        key = " ".join(evidence.words(answer.answer))
        again += first.setdefault(key, answer.question) != answer.question
    return again / len(answers) if answers else None


def _pairs(answers: Sequence[Spoken]) -> list[tuple[str, str]]:
    """Return the word pairs of all answers, taken in turn from each, so that a cut of the list holds all of them."""
    several = []
    for answer in answers:
        spoken = evidence.words(answer.answer)
        several.append(list(pairwise(spoken)))
    longest = max((len(one) for one in several), default=0)
    return [one[index] for index in range(longest) for one in several if index < len(one)]


def _overlap(answer: str, known: set[str]) -> float | None:
    found = Counter(evidence.content_words(answer))
    total = sum(found.values())
    return sum(count for stem, count in found.items() if stem in known) / total if total else None


# Until measures are taken answer by answer.
VERSION = 1
_by_contestant = measure


def losses(train_summary: Mapping[str, Any]) -> dict[str, float]:
    """Nothing yet."""
    del train_summary
    return {}


def measure(  # type: ignore[no-redef]  # noqa: F811
    single: Sequence[Mapping[str, Any]],
    turns: Sequence[Mapping[str, Any]],
    *,
    profile: Mapping[str, Any],
    name: str,
    short_name: str,
    **_more: Any,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float | int | None]]]:
    """Return no measures, and the metrics."""
    return [], _by_contestant(single, turns, profile=profile, name=name, short_name=short_name)
