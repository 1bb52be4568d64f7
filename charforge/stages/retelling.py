"""What a very small model can do for a dialogue: retell one sentence of the profile as `I`, and what leads to and from it.

A model of 135M parameters invents nonsense, but it can turn "In 1792 he left Bonn" into "I left Bonn in 1792" where examples
show how and the first word is given. So an exchange is built from two small calls: the answer (a retelling of one *fact*) and the
question that it answers. Every word is the model's own but the cue (`I`, `My`, or who acts); the rules here hold it to the
fact word by word, because what it adds is almost always wrong. It was asked for thoughts and feelings too ("I was sad, and I
was happy"), and is no longer.

English only, like the prompts of prompts/embedded/ that it serves. Knows no stage and no store.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from charforge import checks
from charforge.dialogue import one_line
from charforge.evidence import STOPWORDS, content_words, stem, words
from charforge.stages.slots import ended

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from charforge.checks import Broken, Rules
    from charforge.llm.request import Answered
    from charforge.stages.slots import Account, Writer

RULES = ("length", "third-person", "copied-prompt", "repetition", "ungrounded")
"""The rules that a `Teller` applies to answers and questions."""

PROMPTS = {
    "answer": "embedded/answer.j2",
    "question": "embedded/question.j2",
}

MAX_FACT_WORDS = 34
COPIED_EXAMPLE = 5
"""Words in a row of a prompt's examples that no reply may have: the examples are short, so the limit is low."""

ROOMS = (
    "a kitchen",
    "a workshop",
    "a small room",
    "a garden",
    "a street",
    "a bench",
    "a doorway",
    "a market",
    "a road",
    "a large hall",
)
"""Where a small model may set a scene: rooms that every century has."""

ANSWER_TOKENS = 56
SHORT_TOKENS = 32

_PLACE = re.compile(
    r"\b(?:in|at|near)\s+((?:the\s+)?[A-ZÄÖÜÉ][a-zäöüéß]{2,}(?:\s+[A-ZÄÖÜÉ][a-zäöüéß]+)*)(?!['’\w])"
)
_NO_PLACE = re.compile(
    r"\b(January|February|March|April|May|June|July|August|September|October|November|December|Count|Prince|Baron|Doctor|Greek|Latin"
    r"|German|French|Italian|English|Saint)\b"
)

_PRONOUNS = {
    "he": frozenset({"he", "his", "him", "himself"}),
    "she": frozenset({"she", "her", "hers", "herself"}),
}
_FIRST = frozenset({"i", "me", "my", "mine", "myself"})
_AUXILIARY = frozenset(
    words("am is are was were have has had do does did could would can will shall should might must never")
)
_ADVERB = frozenset(
    words("also never always often then once soon still already therefore nevertheless only first now")
)
_LEAD = (
    r"(?:(?:In|On|At|From|Since|About|After|Before|Over|By|For|During|Within|Until|Here|There|Then|Later|Afterwards|Now|Once"
    r"|Nevertheless|When|and|but|so)\b[^,;:.]{0,60}?,?\s)?"
)

# Stems that tell of a feeling or of not knowing, and of no fact.
_PLAIN = frozenset(
    stem(word)
    for word in words(
        """happy unhappy proud angry sad glad afraid sorry lonely tired ashamed free alone young old heart mind night
    day love loved hate felt feel feeling wanted wish wished hope hoped fear feared remember forget forgot cry cried laugh laughed
    smile wept weep life live die died pleased grateful joy pain quiet loud poor strong weak sure right wrong best worst
    happier prouder word heard hear know understand speak ask plainly mean meant ever world moment days years silent tears
    excited content bitter bored eager nervous worried relieved better"""
    )
)
# Stems that a question may have though the paragraph does not.
_ASKED = frozenset(
    stem(word)
    for word in words(
        """think tell happen call work play write read learn teach study meet visit begin stay travel lived live doing kind mean day
    win want like enjoy friend place reason idea feel felt love remember say speak"""
    )
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence, or part of one, about the character. `cue` is how a retelling begins: `I`, `My`, or who acts."""

    number: int
    text: str
    cue: str


def pronoun(profile: Mapping[str, Any]) -> str:
    """Return the pronoun by which a profile speaks of its person: `he` or `she`, whichever it says more often."""
    counts = Counter(word for paragraph in profile["paragraphs"] for word in words(str(paragraph["text"])))
    return max(_PRONOUNS, key=lambda name: sum(counts[word] for word in _PRONOUNS[name]))


def facts(paragraph: str, names: Sequence[str], who: str) -> list[Fact]:
    """Return the sentences of a paragraph that the character can retell, in order.

    `names` are full and short name, `who` is `he` or `she`. A sentence is taken where the character is its subject (the pronoun
    or the name stands first, or right after a phrase of time or place), or where somebody named does something to `him`.
    Once the pronoun may mean another person, none is taken until the character is named again: to retell
    somebody else's deeds as `I` is the worst that could happen here.
    """
    named = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    his = "his" if who == "he" else "her"
    him = "him" if who == "he" else "her"
    own = re.compile(rf"{_LEAD}(?P<named>{named})\s+[a-z]")
    meant = re.compile(rf"{_LEAD}(?:(?P<who>{who}|{who.title()})|(?:{his}|{his.title()}))\s+[a-z]")
    somebody = re.compile(
        r"(?P<cue>[A-ZÄÖÜÉ][\w’'-]+(?:\s+(?:von|van|de|del|[A-ZÄÖÜÉ][\w’'-]+))*)[\s,]+[a-z]"
    )
    found = []
    sure_of_he = sure_of_him = True
    for number, part in enumerate(re.split(r"(?<=[.!?])\s+(?=[A-ZÄÖÜÉ])|;\s+", paragraph), 1):
        said = words(part)
        by_name, by_pronoun, other = own.match(part), meant.match(part), somebody.match(part)
        cue = ""
        if by_name:
            # `Beethoven fought his mother`, after a sentence about Karl, is about Karl's mother.
            cue = "I" if sure_of_he or not set(said) & _PRONOUNS[who] else ""
            sure_of_he = sure_of_him = True
        elif by_pronoun:
            cue = ("I" if by_pronoun["who"] else "My") if sure_of_he else ""
        elif other and other["cue"].split()[0].lower() not in STOPWORDS:
            if him in said and sure_of_him and not set(said) & {who, his} - {him}:
                cue = other["cue"]
            sure_of_him = sure_of_him and him in said
            sure_of_he = False
        if cue and 4 <= len(part.split()) <= MAX_FACT_WORDS:
            text = part if part[-1] in ".!?" else f"{part}."
            found.append(Fact(number, text[0].upper() + text[1:], cue))
    return found


def unfaithful(answer: str, fact: Fact, names: Sequence[str], who: str) -> str | None:
    """Say what an answer adds to its fact or gets wrong, None where it retells it.

    It may leave out, and may not add: no content word or number that the fact lacks, the verb after `I` must be one that the
    fact has of the character, nobody becomes `I` who was not, and nobody called `he` may remain.
    """
    said, told = words(answer), words(fact.text)
    own = _PRONOUNS[who] | _own_names(names)
    left = [word for word in said if word in own]
    if left:
        return f"still says {left[0]}"
    had = set(content_words(fact.text)) | {word for word in told if any(c.isdigit() for c in word)}
    added = [word for word in content_words(answer) if word not in had]
    added += [word for word in said if any(c.isdigit() for c in word) and word not in told]
    if added:
        return f"adds {added[0]}"
    counted, spare = Counter(content_words(answer)), Counter(content_words(fact.text))
    twice = [word for word, times in counted.items() if times > spare[word]]
    if twice:
        return f"says {twice[0]} twice"
    if sum(said.count(word) for word in ("my", "me", "myself")) > sum(
        told.count(word) for word in _PRONOUNS[who] if word != who
    ):
        return "says my of somebody else"
    subjects = sum(word == who or word in own - _PRONOUNS[who] for word in told)
    if said.count("i") > max(subjects, 1):
        return "says I of somebody else"
    for other in ("she", "he", "they", "it", "we"):
        if said.count(other) > told.count(other):
            return f"adds {other}"
        if (
            other not in own
            and other != "it"
            and told.count(other)
            and not said.count(other)
            and said.count("i") > 1
        ):
            return f"makes {other} into I"
    after = said[len(words(fact.cue)) :]
    first = next((word for word in after if word not in _ADVERB), "")
    if fact.cue == "I":
        return None if _verb_of_subject(first, told, own) else f"the fact does not say that {who} {first}"
    start = told.index("his" if who == "he" else "her") + 1 if fact.cue == "My" else len(words(fact.cue))
    return None if after[:1] == told[start : start + 1] else f"the fact does not go on with {first}"


def _own_names(names: Sequence[str]) -> set[str]:
    """Return the words of the character's names, without `van` or `de`."""
    return {word for name in names for word in words(name) if len(word) > 3 or len(name.split()) == 1}


def _verb_of_subject(verb: str, told: Sequence[str], own: Iterable[str]) -> bool:
    """Say whether the fact has this verb of the character: within three words of the name or pronoun, or after an `and`."""
    own = set(own)
    for i, word in enumerate(told):
        if word not in own and not (word == "and" and own & set(told[:i])):
            continue
        near = told[i + 1 : i + 4]
        if verb in _AUXILIARY and set(near) & _AUXILIARY:
            return True
        if verb not in _AUXILIARY and stem(verb) in {stem(other) for other in near}:
            return True
    return False


@dataclass(slots=True)
class Exchange:
    """One fact on its way into a dialogue. What is None is asked for by the next `advance`."""

    fact: Fact
    answer: str | None = None
    question: str | None = None
    calls: list[str] = field(default_factory=list)
    answered: Answered | None = None

    @property
    def complete(self) -> bool:
        """Whether it can stand in a dialogue."""
        return self.answer is not None and self.question is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Teller:
    """What is the same for all exchanges of one record."""

    writer: Writer
    rules: Rules
    names: Sequence[str]
    who: str
    paragraph: str
    profile: str
    identity: str

    @property
    def short_name(self) -> str:
        """Return the name that heads the character's turns."""
        return self.names[-1]

    async def advance(self, exchange: Exchange, *, draw: int, attempt: int, account: Account) -> None:
        """Ask for what the exchange lacks; rejected pieces go to `account` as `<record id>/<attempt>/<piece>-<fact>`."""
        number = exchange.fact.number
        if exchange.answer is None:
            exchange.answer = await self._piece(
                "answer",
                exchange,
                draw,
                f"{attempt}/answer-{number}",
                account,
                fact=exchange.fact.text,
                cue=exchange.fact.cue,
                who=self.who,
            )
        if exchange.answer is None:
            return
        if exchange.question is None:
            exchange.question = await self._piece(
                "question", exchange, draw, f"{attempt}/question-{number}", account, answer=exchange.answer
            )

    async def _piece(
        self, key: str, exchange: Exchange, draw: int, piece: str, account: Account, **values: str
    ) -> str | None:
        answered = await self.writer.write(
            key,
            {"short_name": self.short_name, **values},
            draw=draw,
            max_tokens=ANSWER_TOKENS if key == "answer" else SHORT_TOKENS,
        )
        account.asked += 1
        text = one_line(answered.reply.text)
        if key == "answer":
            text = joined(exchange.fact.cue, text)
            broken = self.broken_answer(answered, text, exchange.fact)
        else:
            broken = self.broken_question(answered, text, exchange.answer or "")
        if broken:
            account.reject(f"{self.identity}/{piece}", broken, answered)
            return None
        exchange.calls.append(answered.call)
        exchange.answered = answered
        return text

    def broken_answer(self, answered: Answered, text: str, fact: Fact) -> Broken | None:
        """Return the rule that an answer breaks."""
        return ended(answered) or self.rules.first(
            format=_sentence(text, ".!"),
            length=checks.word_count(text, least=4, most=45),
            copied_prompt=checks.copied(text, self.writer.own_words("answer"), COPIED_EXAMPLE),
            repetition=checks.repetition(text),
            ungrounded=unfaithful(text, fact, self.names, self.who) or _thin(text, fact.text),
        )

    def broken_question(self, answered: Answered, text: str, answer: str) -> Broken | None:
        """Return the rule that the visitor's question breaks."""
        said = set(words(text))
        unknown = [
            word
            for word in content_words(text)
            if word not in _ASKED and word not in set(content_words(self.paragraph))
        ]
        number = re.match(r"How (?:many|much|old|long)\b", text) and not any(c.isdigit() for c in answer)
        return ended(answered) or self.rules.first(
            format=_sentence(text, "?") or (None if said & {"you", "your"} else "not put to anybody"),
            length=checks.word_count(text, least=4, most=24),
            third_person=f"says {min(said & _FIRST)}" if said & _FIRST else None,
            copied_prompt=checks.copied(text, self.writer.own_words("question"), COPIED_EXAMPLE),
            ungrounded="asks for a number that the answer lacks"
            if number
            else _listed("asks about", unknown) or self._names(text),
        )

    def foreign_words(self, text: str) -> list[str]:
        """Return the content words that are neither in the paragraph nor plain words of feeling."""
        had = set(content_words(self.paragraph)) | _PLAIN
        return [word for word in content_words(text) if word not in had]

    def _names(self, text: str) -> str | None:
        return checks.unknown_names(text, [self.profile]) or checks.misnamed(text, self.paragraph)


def place_schema(paragraph: str) -> dict[str, Any]:
    """Return the JSON Schema of a place: one of ROOMS, and one of the places that the paragraph names, if any."""
    places = sorted({found for found in _PLACE.findall(paragraph) if not _NO_PLACE.search(found)})
    properties: dict[str, Any] = {"room": {"enum": list(ROOMS)}}
    if places:
        properties["place"] = {"enum": places}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def read_place(text: str) -> str | None:
    """Return the place that a reply of `place_schema` names, as `A garden, Bonn`; None where the reply is no such thing."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("room"), str) or not value["room"]:
        return None
    room = one_line(value["room"])
    place = one_line(str(value.get("place", "")))
    return f"{room[0].upper()}{room[1:]}, {place}" if place else room[0].upper() + room[1:]


def joined(cue: str, text: str) -> str:
    """Return cue and reply as one text; a reply that goes on with an apostrophe joins without a space."""
    return one_line(f"{cue}{'' if text[:1] in ',’' + chr(39) else ' '}{text}")


def _listed(what: str, found: Sequence[str]) -> str | None:
    return f"{what} {', '.join(found[:4])}" if found else None


def _thin(text: str, fact: str) -> str | None:
    """Refuse an answer with one content word of a fact that has more."""
    return checks.ungrounded(text, fact, least=min(2, len(set(content_words(fact)))))


def _sentence(text: str, ends: str) -> str | None:
    """Refuse a text that does not end as a sentence, holds quotes that never close, or is no plain text."""
    if text[-1:] not in ends:
        return "no whole sentence"
    if text.count('"') % 2 or text.count("(") != text.count(")"):
        return "an open quotation or parenthesis"
    return checks.text_form(text)
