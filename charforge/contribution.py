"""What a reviewer would ask about a character: rules over what was read of its files. Opens none, and knows no model.

Three kinds of answer. A problem: certainly wrong, for anybody. Unfinished: fit to try things with, not fit to be handed on,
such as the skeleton's own text. A note: a person should look, and may well find that it is right. Rules that guess (languages,
years, likeness) give notes only, one of a kind for each file with the first place and the count, so that a long list of
oddities cannot hide a problem. All are linear in the length of the text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from charforge import checks, skeleton
from charforge.dialogue import Turn
from charforge.errors import Problem
from charforge.evidence import STOPWORDS, stem, words
from charforge.files import excerpt, visible
from charforge.questions import TOPICS
from charforge.safe_yaml import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from charforge.questions import Questions
    from charforge.spec import Examined

    Record = Mapping[str, Any]

MIN_PARAGRAPHS = 5
SHORT, LONG = 8, 300
"""Words of a paragraph: below, no scene can stand on it; above, it is more than one subject, and small models lose it."""
SENTENCE = 8
"""Words from which a sentence that stands in two paragraphs is no common phrase."""
FEW_QUESTIONS = 4
"""Of one topic, below which its mean says little."""
LATELY = 10
"""Years after a death in which the dead person gets a notice as the living do: there are heirs and friends."""
OLDEST = 125
"""Years. Nobody is known to have lived longer than 122."""
OWN_WORK = ("own work", "public domain")
"""Licences in words, beside the identifiers of SPDX."""

_WH = frozenset(("who", "whom", "whose", "what", "which", "when", "where", "why", "how"))
_LANGUAGE_WORDS = 60
"""From which a guess by py3langid is worth something."""
_READ_FOR_LANGUAGE = 20_000  # characters


@dataclass(slots=True)
class Found:
    """What was found, in the order of the rules."""

    problems: list[Problem] = field(default_factory=list)
    unfinished: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


# --- The person ------------------------------------------------------------------------------------------------------


def person(examined: Examined, today: date, found: Found) -> None:
    """Look at whom the spec portrays, what it tells readers of that, and until when the character knows things."""

    def wrong(path: tuple[str, ...], message: str, hint: str) -> None:
        problem = examined.problem(path, message, hint)
        if problem:
            found.problems.append(problem)

    portrays, notice, until = (
        examined.value("portrays"),
        examined.value("notice"),
        examined.value("knows", "until"),
    )
    if portrays is None:
        hint = "say whom the character is made after: historical, living (with a notice) or fictional"
        wrong(("portrays",), "this key is missing", hint)
    if portrays == "living" and not notice:
        hint = "tell readers that it is an imitation, who made it, and whether the person knows of it"
        wrong(("notice",), "a living person needs a notice", hint)
    if not isinstance(until, str) or portrays not in {"historical", "living"}:
        return  # a story may be set in any time
    ago = _years_ago(until, today)
    if ago < 0:
        wrong(("knows", "until"), f"{until} is still to come", "nobody real knows of a day that has not been")
    elif portrays == "living" and ago > OLDEST:
        message = f"nobody who lived on {until} is living"
        wrong(("knows", "until"), message, "correct the year, or write portrays: historical")
    elif portrays == "historical" and ago < LATELY and not notice:
        message = f"of a person who lived until {until} readers need a notice"
        hint = f"for {LATELY} years after a death the rule for the living holds: say that it is an imitation, and whose"
        wrong(("notice",), message, hint)
    if until == skeleton.UNTIL and list(examined.value("knows", "never") or ()) == list(skeleton.NEVER):
        problem = examined.problem(
            ("knows", "until"),
            "the boundary is still the skeleton's",
            "write the last day of which the character can know, and what came later",
        )
        found.unfinished += [problem] if problem else []


def _years_ago(day: str, today: date) -> int:
    """Return how many whole years a day lies back, negative where it is to come. The year may be astronomical."""
    year = int(day[:-6])
    return today.year - year - (day[-5:] > today.isoformat()[-5:])


# --- The profile -----------------------------------------------------------------------------------------------------


def profile(
    file: str,
    text: str,
    life: Record,
    *,
    never: Sequence[str],
    until: str | None,
    language: str | None,
    found: Found,
) -> None:
    """Look at a profile: its licence and source, and its paragraphs one by one and among each other."""
    rows = text.split("\n")
    paragraphs: Sequence[Record] = life["paragraphs"]
    lines = _paragraph_lines(rows)
    _licence(file, rows, str(life["licence"]), found)
    if life["source"] == skeleton.SOURCE:
        found.unfinished.append(
            _at(
                file,
                rows,
                _line(rows, "source:"),
                "the source is still the skeleton's",
                "say where the facts are from: books, archives, an encyclopaedia and its date",
            )
        )
    if len(paragraphs) < MIN_PARAGRAPHS:
        message = f"expected at least {MIN_PARAGRAPHS} paragraphs, got {len(paragraphs)}"
        hint = "scenes are spread over the paragraphs: one for each period or theme of the life"
        found.problems.append(Problem(file, None, None, message, None, hint))

    def each(rule: Callable[[Record], str | None]) -> list[tuple[int | None, str]]:
        told = ((lines.get(one["number"]), rule(one)) for one in paragraphs)
        return [(line, said) for line, said in told if said]

    _several(
        found.unfinished,
        file,
        rows,
        each(
            lambda one: (
                "this is still the skeleton's text" if one["text"].startswith(skeleton.PLACEHOLDER) else None
            )
        ),
        "write what is known of the person",
    )
    first: dict[str, int] = {}

    def twice(one: Record) -> str | None:
        said = " ".join(words(one["text"]))
        if said and said in first:
            return f"this paragraph is there already, on line {first[said]}"
        first.setdefault(said, lines.get(one["number"]) or 0)
        return None

    doubled = each(twice)
    _several(found.problems, file, rows, doubled, "keep one of them")

    def count(one: Record) -> str | None:
        size = len(one["text"].split())
        if size < SHORT:
            return f"{size} words are too few to ground a scene in"
        return f"{size} words are a lot for one paragraph" if size > LONG else None

    _several(found.notes, file, rows, each(count), f"between {SHORT} and {LONG} words, 50 to 90 are best")
    if not doubled:
        _several(
            found.notes,
            file,
            rows,
            each(_Sentences(lines)),
            "keep it where it belongs, and drop it elsewhere",
        )
    if paragraphs and all(one["id"] == f"p{one['number']}" for one in paragraphs):
        message = "no paragraph has an anchor"
        hint = (
            "end each with a name such as {#childhood}: numbers shift when a paragraph is put in, names stay"
        )
        found.notes.append(Problem(file, None, None, message, None, hint))
    later = each(lambda one: checks.anachronism(one["text"], never=never, until=until))
    _several(found.notes, file, rows, later, "what a paragraph tells, a scene may have the character know")
    if language not in {None, "English"}:
        message = f"the profile reads as {language}"
        hint = "prompts and judges' questions are English; so should be what they are about"
        found.notes.append(Problem(file, None, None, message, None, hint))


def _licence(file: str, rows: Sequence[str], licence: str, found: Found) -> None:
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    def known(text: str) -> bool:
        try:
            canonicalize_license_expression(text)
        except InvalidLicenseExpression:
            return False
        return True

    short = licence[:200]
    if licence.casefold() in OWN_WORK or (short == licence and known(licence)):
        return
    joined = re.sub(r"[\s_]+", "-", short.strip())
    if known(joined):
        near = [joined]
    else:
        names = _identifiers()
        plain = joined.casefold()
        begun = [name for name in names if plain.startswith(name.rpartition("-")[0] or name)]
        best = (
            [max(begun, key=lambda name: (len(name), name))] if begun else get_close_matches(plain, names, 1)
        )
        near = [names[name] for name in best]
    hint = (
        f"did you mean {near[0]}?"
        if near
        else "such as CC0-1.0, CC-BY-4.0 or CC-BY-SA-4.0 (spdx.org/licenses)"
    )
    message = f"expected a licence's SPDX identifier, own work or public domain, got {shown(licence)}"
    found.unfinished.append(_at(file, rows, _line(rows, "licence:"), message, hint))


@cache
def _identifiers() -> dict[str, str]:
    """Return the licences that a text is likely to have, by their names in small letters."""
    from packaging.licenses import canonicalize_license_expression

    families = [f"CC-{kind}-{v}" for kind in ("BY", "BY-SA", "BY-NC", "BY-NC-SA") for v in ("4.0", "3.0")]
    return {
        name.casefold(): canonicalize_license_expression(name)
        for name in ("CC0-1.0", *families, "GFDL-1.3", "MIT", "Apache-2.0", "Unlicense")
    }


class _Sentences:
    """Finds a sentence that an earlier paragraph has, paragraph by paragraph."""

    def __init__(self, lines: Mapping[int, int]) -> None:
        self.lines = lines
        self.first: dict[int, int] = {}  # a sentence's hash → the paragraph's line

    def __call__(self, one: Record) -> str | None:
        line = self.lines.get(one["number"]) or 0
        for sentence in re.split(r"(?<=[.!?])\s+", one["text"]):
            said = tuple(words(sentence))
            if len(said) < SENTENCE:
                continue
            before = self.first.setdefault(hash(said), line)
            if before != line:
                return f"a sentence of line {before} again: {excerpt(sentence[:60])}"
        return None


def _paragraph_lines(rows: Sequence[str]) -> dict[int, int]:
    """Return the line on which each paragraph begins, by the paragraph's number, as stages.profile counts them."""
    start = next((i for i, row in enumerate(rows) if i and row.strip() == "---"), -1) + 1
    lines: dict[int, int] = {}
    inside = False
    for number, row in enumerate(rows[start:], start + 1):
        text = bool(row.strip()) and not re.match(r"#+\s+\S", row)
        if text and not inside:
            lines[len(lines) + 1] = number
        inside = text
    return lines


# --- What a person wrote ---------------------------------------------------------------------------------------------


def written(
    file: str,
    text: str,
    scenes: Sequence[Record],
    protective: Sequence[Record],
    *,
    short_name: str,
    never: Sequence[str],
    until: str | None,
    language: str | None,
    found: Found,
) -> None:
    """Look at written dialogues. `language` is the profile's."""
    rows = text.split("\n")
    lines = {match[1]: number for number, row in enumerate(rows, 1) if (match := _ANCHORED.match(row))}

    def each(records: Iterable[Record], rule: Callable[[Record], str | None]) -> list[tuple[int | None, str]]:
        told = ((lines.get(str(one["id"]).rpartition("/")[2]), rule(one)) for one in records)
        return [(line, said) for line, said in told if said]

    everything = (*scenes, *protective)
    samples = skeleton.spoken()

    def sample(one: Record) -> str | None:
        same = one["turns"] and one["turns"][0]["content"] in samples
        return "this dialogue is still the skeleton's" if same else None

    _several(found.unfinished, file, rows, each(everything, sample), "write your own, from the profile")
    first: dict[str, str] = {}

    def twice(one: Record) -> str | None:
        said = " ".join(word for turn in one["turns"] for word in words(turn["content"]))
        other = first.setdefault(said, str(one["id"]))
        return None if other == one["id"] else f"the same words as {{#{other.rpartition('/')[2]}}}"

    _several(found.problems, file, rows, each(everything, twice), "keep one of them")

    def knows(one: Record) -> str | None:
        own = [turn["content"] for turn in one["turns"] if turn["role"] == short_name]
        return checks.anachronism(" ".join([one["location"], *own]), never=never, until=until)

    hint = "what the character says here, it will say again"
    _several(found.notes, file, rows, each(scenes, knows), hint)

    def explains(one: Record) -> str | None:
        turns = [Turn(**turn) for turn in one["turns"]]
        return checks.explains(turns, short_name, never=never, until=until)

    hint = "a protective dialogue shows that the character does not know it"
    _several(found.notes, file, rows, each(protective, explains), hint)
    if language:

        def foreign(one: Record) -> str | None:
            own = checks.language(" ".join(turn["content"] for turn in one["turns"]))
            return f"reads as {own}, the profile as {language}" if own and own != language else None

        _several(found.notes, file, rows, each(everything, foreign), "one language for all of a character")


_ANCHORED = re.compile(r"##\s.*\{#([a-z0-9-]+)\}\s*$")


# --- Questions -------------------------------------------------------------------------------------------------------


def questions(
    file: str,
    text: str,
    asked: Questions,
    *,
    never: Sequence[str],
    until: str | None,
    language: str | None,
    found: Found,
) -> None:
    """Look at the questions that are put to the character: enough of each topic, none twice, traps where they belong."""
    rows = text.split("\n")
    counts = {topic: sum(one.topic == topic for one in asked.single) for topic in TOPICS}
    for topic in TOPICS:
        if not counts[topic]:
            message = f"no question on the topic {topic}"
            hint = f"the report compares the topics {', '.join(TOPICS)}"
            found.problems.append(Problem(file, None, "single", message, None, hint))
    if not asked.multi:
        message = "no subject for a multi-turn interview"
        hint = "stability is judged in those only"
        found.problems.append(Problem(file, None, "multi", message, None, hint))
    few = [f"{topic} {count}" for topic, count in counts.items() if 0 < count < FEW_QUESTIONS]
    if few:
        message = f"few questions on a topic: {', '.join(few)}"
        hint = f"with fewer than {FEW_QUESTIONS} a topic's mean says little; ten are good"
        found.notes.append(Problem(file, None, "single", message, None, hint))
    put = [
        *((one.id, one.topic, one.question) for one in asked.single),
        *((one.id, one.topic, one.subject) for one in asked.multi),
    ]
    lines = {match[1]: number for number, row in enumerate(rows, 1) for match in _ID.finditer(row)}

    def each(rule: Callable[[str, str, str], str | None]) -> list[tuple[int | None, str]]:
        told = ((lines.get(one[0]), rule(*one)) for one in put)
        return [(line, said) for line, said in told if said]

    first: dict[tuple[bool, str], str] = {}
    single = {one.id for one in asked.single}

    def twice(id_: str, _topic: str, text: str) -> str | None:
        other = first.setdefault((id_ in single, " ".join(words(text))), id_)
        return None if other == id_ else f"the same question as {other}, in the same words"

    same = each(twice)
    _several(found.problems, file, rows, same, "keep one of them")
    doubled = {line for line, _ in same}
    alike: defaultdict[tuple[bool, frozenset[str], frozenset[str]], list[str]] = defaultdict(list)

    def like(id_: str, _topic: str, text: str) -> str | None:
        said = words(text)
        content = frozenset(stem(word) for word in said if word not in STOPWORDS)
        known = alike[id_ in single, content, _WH.intersection(said)]
        known.append(id_)
        if len(content) < 2 or len(known) == 1 or lines.get(id_) in doubled:
            return None
        return f"nearly the same question as {known[0]}"

    _several(found.notes, file, rows, each(like), "two answers to one question count it twice")

    def trap(_id: str, topic: str, text: str) -> str | None:
        said = None if topic == "traps" else checks.anachronism(text, never=never, until=until)
        return None if said is None else f"{said}, and the topic is {topic}"

    _several(found.notes, file, rows, each(trap), "what the character cannot know belongs to the topic traps")
    own = checks.language(" ".join(text for _, _, text in put)[:_READ_FOR_LANGUAGE])
    if language and own and own != language:
        message = f"the questions read as {own}, the profile as {language}"
        found.notes.append(Problem(file, None, None, message, None, "one language for all of a character"))


_ID = re.compile(r"\bid:\s*[\"']?([a-z0-9-]+)")


# --- Helpers ---------------------------------------------------------------------------------------------------------


def language(life: Record) -> str | None:
    """Return the language of a profile, None where it is too short to tell."""
    text = " ".join(str(one["text"]) for one in life["paragraphs"])[:_READ_FOR_LANGUAGE]
    known = checks.language(text)
    if known or len(words(text)) < _LANGUAGE_WORDS:
        return known
    import py3langid  # a third of a second, so only for the few that the function words do not tell

    code = str(py3langid.classify(text)[0])
    if code == "zxx":  # no language at all
        return None
    return "English" if code == "en" else f"the language {code}"


def _line(rows: Sequence[str], start: str) -> int | None:
    return next((number for number, row in enumerate(rows, 1) if row.lstrip().startswith(start)), None)


def _at(file: str, rows: Sequence[str], line: int | None, message: str, hint: str) -> Problem:
    shown_row = None if not line else excerpt(rows[line - 1])
    return Problem(file, line or None, None, message, shown_row, hint)


def _several(
    into: list[Problem],
    file: str,
    rows: Sequence[str],
    told: Sequence[tuple[int | None, str]],
    hint: str,
) -> None:
    """Tell of the first place, and of how many there are."""
    if told:
        line, message = told[0]
        more = f" (and {len(told) - 1:,} more like it)" if len(told) > 1 else ""
        into.append(_at(file, rows, line, visible(message) + more, hint))
