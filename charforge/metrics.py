"""The metrics stage: what can be counted in interview answers without a model and without an opinion. See docs/metrics.md.

Pure functions of records: interviews in, one measure an answer and one row of metrics a contestant out. Knows no store. What
cannot be measured (no such answer, too few words) is None, never 0. Every rule here can be wrong about a single answer; each
says how in docs/metrics.md, and a test holds that page to `METRICS`.

All of it is linear in the number of words, but for the language, which py3langid guesses in about 0.1 ms an answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from charforge import evidence, traps
from charforge.marks import own_words
from charforge.traps import TRAPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Record = Mapping[str, Any]

__all__ = ["METRICS", "TRAPS", "VERSION", "Metric", "losses", "measure"]

VERSION = 1

FLAG, VALUE, CONTESTANT = "answer-flag", "answer-value", "contestant"


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is shown, and what has it.

    `unit` is `count`, `words`, `share` (0 to 1), `bits`, `grade` (school years) or `nats`; `better` is `low`, `high` or None. `per` is
    `answer-flag` (the share of answers whose flag is set), `answer-value` (the mean over answers), or `contestant` (one number).
    """

    label: str
    unit: str
    better: str | None
    meaning: str
    per: str


METRICS = {
    "answers": Metric("Answers", "count", None, "Spoken answers, single-turn and multi-turn.", CONTESTANT),
    "words_mean": Metric("Words, mean", "words", None, "Mean number of words in an answer.", VALUE),
    "words_median": Metric(
        "Words, median", "words", None, "Median number of words in an answer.", CONTESTANT
    ),
    "empty": Metric("Empty", "share", "low", "Answers without a word.", FLAG),
    "cut_off": Metric("Cut off", "share", "low", "Answers that hit the token limit.", FLAG),
    "unfinished": Metric(
        "Unfinished", "share", "low", "Answers that do not end as a sentence does, whatever the reason.", FLAG
    ),
    "wrong_speaker": Metric(
        "Wrong speaker", "share", "low", "Answers that go on to speak for somebody else.", FLAG
    ),
    "special_tokens": Metric(
        "Control tokens", "share", "low", "Answers with control tokens of a chat format in them.", FLAG
    ),
    "leaves_role": Metric(
        "Leaves the role", "share", "low", "Answers that talk as an assistant or a language model.", FLAG
    ),
    "first_person": Metric(
        "First person", "share", "high", "Answers that say I, me, my, mine or myself.", FLAG
    ),
    "third_person": Metric(
        "Third person", "share", "low", "Answers that tell of the character by name, as of another.", FLAG
    ),
    "other_language": Metric(
        "Other language", "share", "low", "Answers that are not in the profile's language.", FLAG
    ),
    "reading_grade": Metric(
        "Reading grade", "grade", None, "School years that an answer asks of its reader (ARI).", VALUE
    ),
    "repeated": Metric(
        "Repeated answers", "share", "low", "Answers equal to an earlier answer to another question.", FLAG
    ),
    "repeated_phrases": Metric(
        "Repeated phrases",
        "share",
        "low",
        "Runs of four words of an answer that stand in an earlier answer, too.",
        VALUE,
    ),
    "loops": Metric(
        "Goes in circles", "share", "low", "Runs of four words that the same answer has had before.", VALUE
    ),
    "distinct_2": Metric(
        "Distinct word pairs",
        "share",
        "high",
        "Different word pairs among equally many of each contestant.",
        CONTESTANT,
    ),
    "profile_bits": Metric(
        "Facts of the profile",
        "bits",
        "high",
        "Information of the profile's names, numbers and rare words in an answer, if neither asked for nor copied.",
        VALUE,
    ),
    "profile_density": Metric(
        "Facts in 100 words", "bits", None, "The same information for each 100 words of the answer.", VALUE
    ),
    "copied": Metric(
        "Copied",
        "share",
        "low",
        "Words of an answer in runs of six or more that stand so in the profile.",
        VALUE,
    ),
    "held_out_loss": Metric(
        "Held-out loss",
        "nats",
        "low",
        "Nats a token on the character's turns in dialogues kept out of training.",
        CONTESTANT,
    ),
    "trap_answers": Metric(
        "Trap answers",
        "count",
        None,
        "Answers to questions about what the character cannot know.",
        CONTESTANT,
    ),
    "claims_unknown": Metric(
        "Claims the unknown",
        "share",
        "low",
        "Trap answers that take the unknown for known, as far as rules can tell.",
        FLAG,
    ),
    "anachronisms": Metric(
        "Anachronisms",
        "share",
        "low",
        "Answers to ordinary questions that speak of things that the character cannot know.",
        FLAG,
    ),
    "knows_own_death": Metric(
        "Knows its own death",
        "share",
        "low",
        "Answers that tell of the character's own death, burial or later fame, as far as rules can tell: about half are missed.",
        FLAG,
    ),
    "shows_ignorance": Metric(
        "Shows ignorance", "share", "high", "Trap answers that are puzzled, deny, or ask what is meant.", FLAG
    ),
}
"""Every metric of metrics.json, in the order in which they are shown."""

PHRASE = 4
"""Words in a run that counts as said before. Runs of three are common idiom (`one of the`, `I do not`)."""
COPIED_RUN = 6
"""Words in a run that counts as copied from the profile."""
LANGUAGE_WORDS = 8
"""Below this many words, py3langid is wrong too often to be asked."""
READABLE_WORDS = 10

_LEAVES_ROLE = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|(?:ai |virtual |digital )?assistant|chatbot)\b"
    r"|\b(?:ai|artificial intelligence|(?:large |ai )language) model\b"
    r"|\bi(?: am|['’]m)(?: just| only| actually| merely)? an? (?:ai|(?:large )?language model|chatbot|bot|computer program|machine learning"
    r"|(?:\w+ )?(?:ai|virtual|digital|writing) assistant|(?:fictional|simulated) )\b"
    r"|\bmy (?:training data|knowledge cut-?off|programming|developers)\b|\bi was (?:trained on|programmed|created by openai)\b"
    r"|\bhow (?:can|may) i (?:help|assist) you\b"
    r"|\bi (?:can(?:not|['’]t)|do(?: not|n['’]t)) (?:have|provide|access|browse) (?:personal (?:experiences?|opinions?|feelings)|real-time|the internet)\b"
    r"|\b(?:chatgpt|openai|hugging face|smollm\d*|gpt-\d\w*)\b",
    re.IGNORECASE,
)

_VERBS = (
    "was|is|had|has|did|does|would|could|lived|wrote|composed|became|died|made|began|never|himself|herself"
    "|went|played|felt|loved|believed|said"
)

_SENTENCE_END = re.compile(r"[.!?…]++[\"”’')\]*]*+(\s|$)?")
_FINISHED = re.compile(r"[.!?…。！？][\"”’'»)\]*_]*\s*$")


@dataclass(frozen=True, slots=True)
class _Spoken:
    """One spoken answer. `asked` is the question's words, `turn` counts an interview's questions from 0 (single: None).

    `own` is what of the answer the character says himself, up to the first turn that it invents for somebody else.
    """

    id: str
    record: str
    contestant: str
    kind: str
    question: str
    topic: str
    turn: int | None
    asked: str
    answer: str
    own: str
    marks: frozenset[str]
    finish_reason: str | None


def measure(
    single: Sequence[Record],
    turns: Sequence[Record],
    *,
    contestants: Sequence[Record],
    profile: Record,
    name: str,
    short_name: str,
    knows_until: str | None,
    never: Sequence[str],
    losses: Mapping[str, float],
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float | int | None]]]:
    """Return the measures, one a spoken answer, and {contestant: {metric: value}} with the keys of METRICS.

    `single` and `turns` are the interviews' records, `contestants` those of contestants.json, `knows_until` is a date such as
    `1827-03-26` or None, `losses` are nats per token by contestant. A measure is
    {"id", "record", "contestant", "kind", "question", "topic", "turn", "words", "values": {metric: float|None},
    "flags": {metric: bool|None}}; its id is the record's, in interviews with `/` and the turn behind it. Values are rounded to six
    digits. Repetitions are looked for in the order of the records.
    """
    names = (name, short_name)
    spoken = _spoken(single, turns, names)
    known = _Profile(profile, names)
    # Only what people wrote: an interviewer's model may have asked about anything.
    ordinary = {
        stem for one in single if one["topic"] != TRAPS for stem in evidence.content_words(one["text"])
    }
    person = traps.Person(
        names=names, until=knows_until, never=tuple(never), known=known.stems | frozenset(ordinary)
    )
    by_contestant: dict[str, list[_Spoken]] = {str(one["name"]): [] for one in contestants}
    for answer in spoken:
        by_contestant.setdefault(answer.contestant, []).append(answer)
    pairs = {contestant: _pairs(own) for contestant, own in by_contestant.items()}
    counted = min((len(own) for own in pairs.values() if own), default=0)
    measures: list[dict[str, Any]] = []
    metrics = {}
    for contestant, own in by_contestant.items():
        # Imported records say where an answer was cut off, if at all, and never that it was not.
        ends_known = any(one.finish_reason == "stop" for one in own) or not any(
            one["name"] == contestant and one["kind"] == "imported" for one in contestants
        )
        made = _measures(own, known, person, ends_known=ends_known)
        measures += made
        metrics[contestant] = _metrics(made, pairs[contestant][:counted], losses.get(contestant))
    return measures, metrics


def losses(train_summary: Record) -> dict[str, float]:
    """Return nats per token on the held-out character turns, before training (`base`) and at the chosen epoch (`trained`).

    `train_summary` is train_summary.json; what it does not have is left out.
    """
    found = {}
    if train_summary.get("base_loss") is not None:
        found["base"] = float(train_summary["base_loss"])
    for epoch in train_summary.get("epochs", ()):
        if epoch["epoch"] == train_summary.get("chosen_epoch") and epoch.get("held_out_loss") is not None:
            found["trained"] = float(epoch["held_out_loss"])
    return found


def _spoken(single: Sequence[Record], turns: Sequence[Record], names: Sequence[str]) -> list[_Spoken]:
    """Return every spoken answer in the records' order; thoughts are not among them.

    What is said in several turns after one question is one answer.
    """
    found = [
        _Spoken(
            id=one["id"],
            record=one["id"],
            contestant=one["contestant"],
            kind="single",
            question=one["question"],
            topic=one["topic"],
            turn=None,
            asked=one["text"],
            answer=one["answer"],
            own=own_words(one["answer"], names),
            marks=frozenset(one["marks"]),
            finish_reason=one["finish_reason"],
        )
        for one in single
    ]
    for record in turns:
        asker = record["turns"][0]["role"] if record["turns"] else ""
        question, number = "", -1
        said: dict[int, tuple[str, list[str], set[str]]] = {}
        for turn in record["turns"]:
            if turn["role"] == asker:
                question, number = turn["content"], number + 1
            elif turn["action"] == "speaking":
                _, texts, marks = said.setdefault(number, (question, [], set()))
                texts.append(turn["content"])
                marks.update(turn["marks"])
        for number, (question, texts, marks) in said.items():
            answer = "\n".join(texts)
            found.append(
                _Spoken(
                    id=f"{record['id']}/{number}",
                    record=record["id"],
                    contestant=record["contestant"],
                    kind="turns",
                    question=record["question"],
                    topic=record["topic"],
                    turn=number,
                    asked=question,
                    answer=answer,
                    own=own_words(answer, names),
                    marks=frozenset(marks),
                    finish_reason=None,
                )
            )
    return found


# --- What one answer shows -------------------------------------------------------------------------------------------


def _measures(
    answers: Sequence[_Spoken], known: _Profile, person: traps.Person, *, ends_known: bool
) -> list[dict[str, Any]]:
    """Return the measures of one contestant's answers, in their order."""
    whole: dict[tuple[str, ...], str] = {}  # an answer's words → the question it answered first
    phrases: dict[tuple[str, ...], str] = {}  # a run of words → the question in whose answer it stood first
    measures = []
    for one in answers:
        spoken = evidence.words(one.answer)
        own = evidence.words(one.own)
        filled = bool(spoken)
        bits, copied = known.information(own, one.asked) if filled else (None, None)
        flags: dict[str, bool | None] = {
            "empty": not filled,
            "cut_off": "cut-off" in one.marks if ends_known else None,
            "unfinished": _FINISHED.search(one.answer) is None if filled else None,
            "wrong_speaker": "wrong-speaker" in one.marks,
            "special_tokens": "special-token" in one.marks,
            "leaves_role": leaves_role(one.own) if filled else None,
            "first_person": first_person(one.own) if filled else None,
            "third_person": third_person(one.own, person.names) if filled else None,
            "other_language": known.other_language(one.own, own),
            "repeated": whole.setdefault(tuple(spoken), one.asked) != one.asked if filled else None,
        }
        trapped = traps.flags(one.asked, one.own, topic=one.topic, person=person)
        claims = trapped["claims_unknown"]
        if one.topic == TRAPS:
            claims = claims or flags["leaves_role"]  # an assistant knows all that it is asked about
        flags |= trapped | {
            "claims_unknown": claims if one.topic == TRAPS else None,
            "anachronisms": None if one.topic == TRAPS else claims,
        }
        values: dict[str, float | None] = {
            "words_mean": float(len(one.answer.split())),
            "reading_grade": reading_grade(one.own),
            "repeated_phrases": _said_before(spoken, one.question, phrases),
            "loops": _loops(spoken),
            "profile_bits": bits,
            "profile_density": None if bits is None or not own else 100 * bits / len(own),
            "copied": copied,
        }
        measures.append(
            {
                "id": one.id,
                "record": one.record,
                "contestant": one.contestant,
                "kind": one.kind,
                "question": one.question,
                "topic": one.topic,
                "turn": one.turn,
                "words": len(one.answer.split()),
                "values": {
                    key: None if (value := values[key]) is None else _rounded(value)
                    for key, metric in METRICS.items()
                    if metric.per == VALUE
                },
                "flags": {key: flags[key] for key, metric in METRICS.items() if metric.per == FLAG},
            }
        )
    return measures


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
    return _by_name(tuple(names)).search(answer) is not None


@cache
def _by_name(names: tuple[str, ...]) -> re.Pattern[str]:
    own = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"\b(?:{own})(?:['’]s? \w|,? (?:{_VERBS})\b)")


def reading_grade(answer: str) -> float | None:
    """Return the Automated Readability Index (Smith and Senter 1967), or None below READABLE_WORDS words.

    Of the established formulas it is the one that counts letters and not syllables, so it needs no dictionary and guesses nothing.
    """
    spoken = evidence.words(answer)
    if len(spoken) < READABLE_WORDS:
        return None
    letters = sum(character.isalnum() for character in answer)
    sentences = max(1, sum(1 for end in _SENTENCE_END.finditer(answer) if end[1] is not None))
    return 4.71 * letters / len(spoken) + 0.5 * len(spoken) / sentences - 21.43


def _said_before(spoken: list[str], question: str, phrases: dict[tuple[str, ...], str]) -> float | None:
    """Return the share of an answer's runs of PHRASE words that an answer to another question had; add its runs to `phrases`."""
    runs = _runs(spoken, PHRASE)
    before = sum(phrases.get(run, question) != question for run in runs)
    for run in runs:
        phrases.setdefault(run, question)
    return before / len(runs) if runs else None


def _loops(spoken: list[str]) -> float | None:
    runs = _runs(spoken, PHRASE)
    return 1 - len(set(runs)) / len(runs) if runs else None


def _runs(spoken: list[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(spoken[start:] for start in range(length)), strict=False))


class _Profile:
    """What a profile tells: how many bits each of its content words is worth, its runs of words, and its language.

    A word in d of the profile's n paragraphs is worth log2((n + 1) / d) bits. Names (words never written small) and numbers count
    whole. Other words count half: they may come by chance. Words of the character's own name count nothing.
    """

    def __init__(self, profile: Record, names: Sequence[str]) -> None:
        texts = [str(paragraph["text"]) for paragraph in profile["paragraphs"]]
        small = {word.replace("’", "'") for text in texts for word in _SMALL.findall(text)}
        having: Counter[str] = Counter()
        telling: set[str] = set()
        self._runs: set[tuple[str, ...]] = set()
        for text in texts:
            spoken = evidence.words(text)
            self._runs.update(_runs(spoken, COPIED_RUN))
            stems = {evidence.stem(word): word for word in spoken if _counts(word)}
            having.update(stems.keys())
            telling.update(stem for stem, word in stems.items() if word[0].isdigit() or word not in small)
        own = {evidence.stem(word) for word in evidence.words(" ".join(names))}
        self.stems = frozenset(having)
        self._bits = {
            stem: math.log2((len(texts) + 1) / count) * (1 if stem in telling else 0.5)
            for stem, count in having.items()
            if stem not in own
        }
        self._language = _language(" ".join(texts)) if texts else None

    def information(self, spoken: list[str], asked: str) -> tuple[float, float]:
        """Return the bits of the profile's words that an answer adds to the question, and the share of its words that is copied."""
        copied = [False] * len(spoken)
        for start, run in enumerate(_runs(spoken, COPIED_RUN)):
            if run in self._runs:
                copied[start : start + COPIED_RUN] = [True] * COPIED_RUN
        given = {evidence.stem(word) for word in evidence.words(asked)}
        own = {
            evidence.stem(word)
            for word, taken in zip(spoken, copied, strict=True)
            if not taken and _counts(word)
        }
        bits = math.fsum(self._bits.get(stem, 0.0) for stem in own - given)
        return bits, sum(copied) / len(copied) if copied else 0.0

    def other_language(self, answer: str, spoken: list[str]) -> bool | None:
        """Say whether an answer is in another language than the profile; None where there is too little to say."""
        if self._language is None or len(spoken) < LANGUAGE_WORDS:
            return None
        return _language(answer) != self._language


_SMALL = re.compile(r"(?<![\w'’-])[^\W\d_A-ZÀ-ÖØ-Þ][\w'’-]*")


def _counts(word: str) -> bool:
    """Say whether a word can be worth something: a content word, or a number of two digits and more."""
    return (len(word) > 2 or (word.isdigit() and len(word) > 1)) and word not in evidence.STOPWORDS


def _language(text: str) -> str:
    """Return the most probable language, as a code such as `en`."""
    import py3langid  # its model takes a third of a second to load

    return str(py3langid.classify(text)[0])


# --- What a contestant shows -----------------------------------------------------------------------------------------


def _metrics(
    measures: Sequence[Record], pairs: Sequence[tuple[str, str]], loss: float | None
) -> dict[str, float | int | None]:
    lengths = [one["words"] for one in measures]
    alone: dict[str, float | int | None] = {
        "answers": len(measures),
        "words_median": float(median(lengths)) if lengths else None,
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else None,
        "held_out_loss": loss,
        "trap_answers": sum(one["topic"] == TRAPS for one in measures),
    }
    values: dict[str, float | int | None] = {}
    for key, metric in METRICS.items():
        if metric.per == CONTESTANT:
            values[key] = alone[key]
            continue
        where = "flags" if metric.per == FLAG else "values"
        values[key] = _mean([float(one[where][key]) for one in measures if one[where][key] is not None])
    return {key: _rounded(value) if isinstance(value, float) else value for key, value in values.items()}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _rounded(value: float) -> float:
    return round(value, 6) + 0.0


def _pairs(answers: Sequence[_Spoken]) -> list[tuple[str, str]]:
    """Return the word pairs of all answers, taken in turn from each, so that a cut of the list holds all of them."""
    several = [list(pairwise(evidence.words(answer.answer))) for answer in answers]
    longest = max((len(one) for one in several), default=0)
    return [one[index] for index in range(longest) for one in several if index < len(one)]
