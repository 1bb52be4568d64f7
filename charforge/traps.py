"""Traps: does an answer claim what the character cannot know, or tell of its own death? Rules for English, in docs/metrics.md.

Nothing here understands a text. Each rule looks for forms of words, sentence by sentence; the rules were written by
the parts `dev` and `used` of tests/gold/ and are measured on answers that they were not written by (bench/evaluation_traps.py).
The longer lists of words are in traps_words.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

from charforge import evidence, traps_words

if TYPE_CHECKING:
    from collections.abc import Sequence

TRAPS = "traps"
"""The topic of questions about what the character cannot know."""


@dataclass(frozen=True)
class Person:
    """Of whom the answers are.

    `until` is the last day the person knows of, such as `1827-03-26` (`-0030-08-10` is before Christ), or None. `never` are things the
    person cannot know. `known` are stems of words that are no sign of knowing them: the profile's, and those of ordinary questions.
    """

    names: tuple[str, ...]
    until: str | None = None
    never: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()

    @cached_property
    def year(self) -> int | None:
        """The last year the person knows of; negative before Christ."""
        found = re.match(r"(-?\d+)-\d+-\d+$", self.until or "")
        return int(found[1]) if found else None

    @cached_property
    def unknown(self) -> frozenset[str]:
        """Words of `never` in the singular, and of things that came up after the last year the person knows of."""
        own = (
            {word for thing in self.never for word in _content(thing)}
            - traps_words.PLAIN
            - _content(" ".join(self.names))
        )
        late = {thing for thing, year in _things().items() if self.year is not None and year > self.year}
        return frozenset(own | {thing for thing in late if evidence.stem(thing) not in self.known})


def flags(question: str, answer: str, *, topic: str, person: Person) -> dict[str, bool | None]:
    """Return the flags of one answer: claims_unknown, knows_own_death, shows_ignorance.

    On a trap question (topic `traps`), claims_unknown says whether the answer takes the unknown for known; on others, whether it speaks of
    something of `person.unknown` as known. shows_ignorance is None but for traps. All three are None for an answer without words.
    """
    said = _units(answer)
    if not said:
        return dict.fromkeys(("claims_unknown", "knows_own_death", "shows_ignorance"))
    if topic != TRAPS:
        return {
            "claims_unknown": _anachronism(said, person),
            "knows_own_death": _own_death(said, person)
            or _later_year(said, person)
            or _tells_where(question, said),
            "shows_ignorance": None,
        }
    ignorant = any(unit.ignorant or unit.asks_back for unit in said)
    if traps_words.OF_DEATH.search(question):
        death = _tells_of_death(said, person)
        return {"claims_unknown": death, "knows_own_death": death, "shows_ignorance": ignorant}
    death = _own_death(said, person)
    return {
        "claims_unknown": death or _claims(question, answer, said, person),
        "knows_own_death": death,
        "shows_ignorance": ignorant,
    }


# --- Sentences -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Unit:
    """A sentence, or a part of one before or after `but`, a semicolon or a colon. `turns` is set where it begins with `but` or `however`."""

    text: str
    asks: bool
    turns: bool
    content: frozenset[str]

    @cached_property
    def ignorant(self) -> bool:
        return _IGNORANCE.search(self.text) is not None

    @cached_property
    def asks_back(self) -> bool:
        """A question about what was asked: a few words, or one that begins as such questions do."""
        if not self.asks or _PASSES_ON.search(self.text):
            return False
        return len(self.text.split()) <= 5 or _ASKS_BACK.search(self.text) is not None

    @cached_property
    def denies(self) -> bool:
        return _DENIES.search(self.text) is not None

    @cached_property
    def open(self) -> bool:
        """It says what will or may be, and not what was or is."""
        return _OPEN.search(self.text) is not None


def _singular(word: str) -> str:
    """Return a word without its possessive and plural: `cars` is `car`. A stem would not do: that of `care` is the same."""
    word = word.removesuffix("'").removesuffix("'s")
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def _content(text: str) -> frozenset[str]:
    """Return the content words of a text in the singular."""
    return frozenset(
        _singular(word) for word in evidence.words(text) if len(word) > 2 and word not in evidence.STOPWORDS
    )


_SENTENCE = re.compile(
    r"(?<=[.!?…])[\"”’')]*\s+|\n+|;\s+|(?<=\w):\s+(?=[a-z])|,?\s+(?=(?:but|though|although|even though)\s)|,\s+(?=however\b)",
    re.IGNORECASE,
)
_SPACES, _LINES = re.compile(r"[^\S\n]+"), re.compile(r"\s*\n\s*")
_PIECES = re.compile(r".{1,600}(?:\s|$)|.{1,600}", re.DOTALL)
"""Six hundred characters without a full stop are no sentence; the patterns below may look back and forth within one piece."""
_ASIDE = re.compile(r"[(\[*](?!\s*(?:\d|born|died|c\.))[^()\[\]*\n]{0,80}[)\]*]")
_TURNS = re.compile(r"\W*(?:but|however|still|nevertheless|nonetheless|yet|well|that said)\b", re.IGNORECASE)


def _units(answer: str) -> list[_Unit]:
    """Return what is said in an answer, without stage directions such as `(smiling)`."""
    plain = _SPACES.sub(" ", _LINES.sub("\n", _ASIDE.sub(" ", answer).replace("’", "'")))
    parts = (piece for part in _SENTENCE.split(plain) for piece in _PIECES.findall(part))
    return [
        _Unit(
            text=part.strip(),
            asks=part.rstrip("\"”' )").endswith("?"),
            turns=_TURNS.match(part) is not None,
            content=_content(part),
        )
        for part in parts
        if evidence.words(part)
    ]


_NOT = r"(?:not|n't|never|hardly|scarcely)"
_IGNORANCE = re.compile(
    r"\bnever (?:\w+ )?(?:heard|seen|used|owned|known|met|been|had|read|ridden|flown|travelled|taken|held|touched|come across|set foot"
    r"|learn(?:ed|t)|listened|watched|driven|tasted|played)\b(?! it done)"
    r"|\b(?:do|did|does|have|has|had|am|is|are|was|were|can|could)(?: not|n't) (?:quite |rightly |really |even |yet |fully )?"
    r"(?:know|knew|known|understand|understood|recogni[sz]e|acquainted|heard|follow|comprehend|grasp|aware|possess|own|drive|say|guess|tell|see|seen|met|read)\b"
    r"|\bcannot (?:\w+ )?(?:know|understand|follow|comprehend|grasp|imagine|make sense|tell|say|guess|conceive|answer|comply)\b"
    r"|\b(?:no|not the (?:faintest|least|slightest)) (?:idea|notion|knowledge|understanding|conception|acquaintance|interest|use)\b"
    r"|\bnot (?:at all )?(?:familiar|acquainted|well-versed|versed)\b|\bunfamiliar\b|\b(?:unknown|strange|foreign|new|greek|a mystery) to me\b"
    r"|\bmeans? nothing\b|\bmakes? no sense\b|\bknow nothing\b|\bnothing of (?:it|this|that|such)\b|\bi know of (?:no|none|one \w+ only)\b"
    r"|\b(?:no|without) such (?:thing|word|man|person|place|machine|instrument|device|name|article|luxury|pleasure)\b|\bof no such\b"
    r"|\bi know no\b|\b(?:strange|odd|peculiar|unheard[- ]of|outlandish|barbarous) (?:word|thing|name|question|talk|device|contraption|notion|one|term|concept|language)\b"
    r"|\briddles?\b|\bpuzzl(?:e|es|ed|ing)\b|\bnonsense\b|\bgibberish\b|\byou (?:jest|joke|mock|rave)\b|\bi know of\b[^.]*\bno more\b"
    r"|\bif (?:you mean|that is what you mean|by that you)\b|\bwhat(?:ever)? (?:that|it|this|those|they) (?:may|might|is|are)\b|\bwhat you (?:mean|speak|say|call)\b"
    r"|\bwhat (?:a|an|the|this|your) [\w-]+ (?:is|are|may be)\b|\btell me (?:how|what|where|who)\b|\bexplain (?:this|that|it|yourself|to me)\b|\bspeak plainly\b|\bsay (?:it|that) again\b"
    r"|\bsounds? like\b|\bunless (?:it|you|in|he|she)\b|\bthere(?:'s| is| are| was) no(?:ne| one)?\b|\bi doubt\b|\bnone\b|\bi am no (?:\w+ ?){1,3}$|\bi am no (?:prophet|seer|soothsayer|oracle|bird|swallow|magician)\b|\b(?:sorcery|witchcraft|magic|soothsayers?|prophec(?:y|ies)|fables?|fairy tales?)\b|\byou (?:must )?(?:have )?(?:mistake|mistaken|confuse|confused)\b|\byou are mistaken\b|\b(?:wrong|another|some other) (?:man|person|woman|house)\b|\bsome mistake\b|\b(?:are you|have you a|you have a) (?:ill|unwell|mad|drunk|fever|feverish)\b|\b(?:does|do|did|has|have)(?: not|n't) (?:yet )?(?:exist|been (?:invented|built|written|born|discovered|made))\b|\bi take it (?:that )?you\b|\bi suppose you mean\b|\blive to see\b|\bno word (?:of|in|for)\b|\bnot a word (?:of|in|i)\b|\bhave you (?:been )?(?:drunk|drinking)\b|\byou have drunk\b"
    r"|\bno (?:man|one|engine|mortal|tongue|person|woman|machine|[\w-]+ (?:of mine|that i know))\b|\bnobody (?:i know|here|has|can|could|knows)\b|\bwhat you would have me\b|\bask (?:me )?plainly\b"
    r"|\bnot yet (?:available|invented|been invented)\b|\bin my (?:time|day),? (?:we|there|such|this|no one)\b|\bis that the (?:greek|latin|name)\b"
    r"|" + traps_words.IGNORANCE_MORE,
    re.IGNORECASE,
)
_HEDGED = re.compile(
    r"\b(?:not|n't) (?:\w+ )?(?:very|too|so|all that|entirely|totally|overly|usually) (?:familiar|sure|fond|averse)\b|\bnot sure\b"
    r"|\bnot had the (?:pleasure|chance|time)\b[^.]*\b(?:in full|yet|lately|recently)\b|\bnever (?:noticed|been so|had such|miss|tire)\b",
    re.IGNORECASE,
)
_ASKS_BACK = re.compile(
    r"\bwhat(?:ever)?(?:'s| is| are| was)? (?:a|an|the|this|that|these|those|it|on earth)\b|\b(?:what|which) (?:sort|kind|manner|\w+\?|is\b|are\b|net|voyager|letter|language|leaf)"
    r"|\bwhat (?:do|can|could) you mean\b|\bwhat are you (?:talking|speaking)\b|\bdo you (?:mean|speak of|take me)\b|\bdo i look like\b|\bmust you\b"
    r"|\bwho (?:is|was|are|wrote|has)\b|\bis (?:he|she|it|that|this|the \w+|an? \w+) \w+|\bare they\b|\bhow many times\b|\bwhat .{0,30}should i\b|\bwhich \w+\?"
    r"|\b(?:could|would|can|will) you (?:please )?(?:explain|tell|describe|say|write)\b|\bsome (?:kind|sort) of\b|\bperhaps you (?:could|can|would)\b|\bwhat is it\b|\bto a what\b"
    r"|\bpray,? (?:tell|what|explain)\b|\bwhat (?:shall|should)\b|^\W*(?:and )?has\b",
    re.IGNORECASE,
)
_DENIES = re.compile(
    r"\b(?:i|we)(?:'\w+)? (?:\w+ ){0,2}?(?:not|never|no|none|neither|nothing|cannot)\b(?! (?:only|just|merely|even|wait|help)\b)|\b(?:i|we) (?:\w+ ){0,1}?\w+n't\b|\bi am no \w+"
    r"|^\W*(?:no|none)\b[^.]{0,60}\b(?:no|not|never|none)\b|^\W*no [a-z]+\b|\b(?:that|this|it) is no(?:t| )|^\W*nothing\b",
    re.IGNORECASE,
)
_PASSES_ON = re.compile(
    r"\b(?:what|how) about\b|\band you\?|[,;] ?(?:is|are|do|does|did|will|would|can|could|was|were|has|have|am)(?:n't)? (?:it|you|he|she|they|that|we|i)(?: not)?\?\W*$",
    re.IGNORECASE,
)
"""A question that only passes the word on, or a tag: `isn't it?`"""
_OPEN = re.compile(
    r"\b(?:shall|will|should|may|might|must|(?<!and )let|hope|hopes|wish|want|would|going to|if|when i am gone|is to be|are to be|i'll|they'll|pray|fear|expect|ought|could)\b",
    re.IGNORECASE,
)
_AGREES = re.compile(
    r"\W*(?:ah,? |oh,? |well,? )?(?:yes|yeah|of course|certainly|indeed|absolutely|sure|definitely|naturally|gladly|totally|very much|i do\b(?! not)|i am deeply|great question)\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"^[ \t]*(?:[-*•] |\d+[.)] |[{\[`])", re.MULTILINE)
_OF_THE_THING = re.compile(
    r"^\W*\w+\W+(?:[\w']+\W+){0,3}?(?:it|its|it's|they|them|their|they're|he|his|him|those|these)\b",
    re.IGNORECASE,
)
"""A pronoun soon after `but`: further on it may stand for anything."""
_FUNCTION_WORDS = frozenset(
    """
    a an and are as at be been but by did do for from had has have he her his i in is it its me my no not of on or our she so that the
    their them there they this to was we were what when which who will with would you your
    """.split()  # noqa: SIM905  # sixty quoted words are no easier to read
)


# --- Things that came later ------------------------------------------------------------------------------------------


@cache
def _things() -> dict[str, int]:
    """Return each dated word in the singular, with about the year from which it could be known as what it means today."""
    found = {}
    for group in traps_words.DATED.split(";"):
        year, *things = group.split()
        found.update({_singular(thing): int(year) for thing in things})
    return found


def _years(text: str, after: int) -> bool:
    """Say whether a text names a year after `after`, as `in 1954`; numbers of other things are not told apart from years."""
    return any(
        after < int(year) <= 2100 for year in re.findall(r"(?<![\d.,£$])(1\d{3}|20\d\d)(?![\d,]*\d)", text)
    )


def _later_year(said: Sequence[_Unit], person: Person) -> bool:
    """Say whether a year after the last that the person knows of is named as one that was."""
    last = person.year
    return last is not None and any(
        not unit.asks and not unit.ignorant and not unit.open and _years(unit.text, last) for unit in said
    )


def _asserts(unit: _Unit) -> bool:
    return not unit.asks and not (unit.ignorant and not _HEDGED.search(unit.text)) and not unit.denies


def _anachronism(said: Sequence[_Unit], person: Person) -> bool:
    """Say whether an answer to an ordinary question speaks of something of `person.unknown` as known."""
    return any(_asserts(unit) and person.unknown & unit.content for unit in said)


# --- Claims the unknown ----------------------------------------------------------------------------------------------


_LATER = re.compile(rf"\b{traps_words.LATER}\b", re.IGNORECASE)
_LATER_FROM = 1850


def _claims(question: str, answer: str, said: Sequence[_Unit], person: Person) -> bool:
    """Say whether an answer to a trap takes the unknown thing for known. The steps are those of docs/metrics.md."""
    spoken = evidence.words(answer)
    innocent = [unit for unit in said if _innocent(unit)]
    if len(_LISTED.findall(answer)) > 1 and not innocent:
        return True
    if len(spoken) <= 3:
        return _short(answer, question, person)
    if sum(word in _FUNCTION_WORDS for word in spoken) < 0.2 * len(spoken):
        return False  # hardly a sentence, or not English
    asked = _content(question)
    thing = _thing(question, asked, person)
    if any(_asserts(unit) and _brings_up(unit, question, asked, person) for unit in said):
        return True
    if any(
        _asserts(unit)
        and unit.content & thing
        and not _echo(unit, thing)
        and (unit.turns or not _old(unit))
        and not any(map(_innocent, said[number + 1 :]))
        for number, unit in enumerate(said)
    ):
        return True
    if any(unit.turns and _asserts(unit) and _OF_THE_THING.search(unit.text) for unit in said):
        return True
    if any(_asserts(unit) and _CLAIMS_ANYHOW.search(unit.text) for unit in said):
        return True
    taken = any(_takes_up(unit) for unit in said)
    if any(not unit.asks or unit.asks_back or unit.content & thing or not taken for unit in innocent):
        return False
    if _AGREES.match(answer):
        return True
    if taken:
        return True
    if any((unit.denies and not _HEDGED.search(unit.text)) or _old(unit) for unit in said):
        return False
    return _goes_along(question, said)


_FRAGMENT = re.compile(
    r"\W*(?:(?:oh|ah|well),? )?(?:in|on|with|for|by|at|from|of|about|through|after|before|whenever|when|because|once|twice|every|two|three|four|five|ten|only|an?|some|several|mostly|often|usually|seldom|rarely|sometimes|daily|never mind|plenty"
    r"|neither|either|that|the (?!\w+ (?:is|are|was|were|has|have|had)\b)|[\w-]+,|[\w-]+ and [\w-]+,)(?:\b|(?<=,))",
    re.IGNORECASE,
)
_OBJECT = re.compile(
    r"\b(?:[Ii]|[Ww]e) \w+ (?:it|them)\b|\b(?:with|of|to|at|on|in|by|for|about|from|into|without|\w{3,}(?:ed|es|s|t|e|d|k|p|n)) (?:it|them)\b|\b[A-Z]{2,}-?\d+\b|\bdid\b[^.]{0,3}(?:,|$)|\b(?:i am|i'm) (?:not )?sure\b",
)
_THEN_I = re.compile(
    r"\W*(?:i|we) (?:\w+ly )?(?:was|were|had|flew|took|saw|went|came|sat|bought|ate|\w{2,}ed)\b",
    re.IGNORECASE,
)
_ASKED_THEN = re.compile(r"\b(?:did|was|were|last|have|has|yesterday)\b", re.IGNORECASE)


def _goes_along(question: str, said: Sequence[_Unit]) -> bool:
    """Say whether an answer without any other sign goes along with its question: elliptically, by a pronoun, or in the past it asked for.

    A whole sentence on something else, as `The winters are harder than they were`, changes the subject.
    """
    return (
        _FRAGMENT.match(said[0].text) is not None
        or any(_OBJECT.search(unit.text) for unit in said)
        or (_ASKED_THEN.search(question) is not None and _THEN_I.match(said[0].text) is not None)
    )


def _innocent(unit: _Unit) -> bool:
    return (
        unit.asks_back
        or (unit.asks and not _PASSES_ON.search(unit.text))
        or (unit.ignorant and not _HEDGED.search(unit.text))
    )


def _short(answer: str, question: str, person: Person) -> bool:
    """Say whether an answer of three words at most claims: agreement, a thing of later, or a bare name as the fact asked for."""
    if _AGREES.match(answer):
        return True
    said = _units(answer)
    return any(not unit.asks and (person.unknown - _content(question)) & unit.content for unit in said)


def _thing(question: str, asked: frozenset[str], person: Person) -> frozenset[str]:
    """Return the words of a question that stand for the unknown thing."""
    found = asked & person.unknown
    if found:
        return found
    names = {_singular(name.lower()) for name in re.findall(r"(?<=[a-z,] )[A-Z][\w'’-]+", question)}
    return frozenset(
        word for word in asked - names - traps_words.COMMON if evidence.stem(word) not in person.known
    )


def _brings_up(unit: _Unit, question: str, asked: frozenset[str], person: Person) -> bool:
    """Say whether a part names a thing of later, or a year, that the question did not."""
    if (unit.content & person.unknown) - asked:
        return True
    last = person.year
    if last is None:
        return False
    found = _LATER.search(unit.text) if last < _LATER_FROM else None
    return (found is not None and found[0].lower() not in question.lower()) or (
        _years(unit.text, last) and not _later_years(unit, question)
    )


def _later_years(unit: _Unit, question: str) -> bool:
    """Say whether the question named the years of a part before."""
    return all(year in question for year in re.findall(r"\b(?:1\d{3}|20\d\d)\b", unit.text))


def _old(unit: _Unit) -> bool:
    """Say whether a part speaks of things of the world before machines."""
    return traps_words.OLD.search(unit.text) is not None


_TAKES_UP = re.compile(
    r"^\W*(?:(?:ah|oh|well|why|and|for),? )?(?:it|they|its|their|he|she|both|neither|that i|the one|the ones|only|mostly|about)\b(?! (?:was|were) (?:\w+ )?(?:that|who)\b)"
    r"|\b(?:i|we) (?:\w+ )?(?:like|love|adore|enjoy|use|own|prefer|watch|drive|keep|have) (?:it|them|one)\b|\b(?:marvel\w*|wonderful|delight\w*|remarkable|impressive|fascinat\w+|amazing|excellent question|great question)\b",
    re.IGNORECASE,
)


_CLAIMS_ANYHOW = re.compile(
    r"^\W*(?:still|nevertheless|nonetheless|that said|however)\b|\bi gather\b|\b(?:i hear|i am told|they tell me|they say) (?:that )?(?:it|they|he|she)\b",
    re.IGNORECASE,
)
"""However puzzled the rest is: `Still, …`, and what is known by hearsay."""


def _takes_up(unit: _Unit) -> bool:
    """Say whether a part goes on about the thing by a pronoun, or praises it; a tag such as `isn't it?` does not ask."""
    if unit.denies or unit.ignorant or (unit.asks and not _PASSES_ON.search(unit.text)):
        return False
    return _TAKES_UP.search(unit.text) is not None


def _echo(unit: _Unit, thing: frozenset[str]) -> bool:
    """Say whether a part only says the thing's name again."""
    return unit.content <= thing and len(evidence.words(unit.text)) <= 3


# --- Knows its own death ---------------------------------------------------------------------------------------------


_NEARLY = re.compile(
    r"\b(?:nearly|almost|would have|might have|could have|thought|think|if|dreamt|dreamed|wish|shall|will|may|when i (?:am|die)|as if|as though|feared?|rather)\b",
    re.IGNORECASE,
)
_PAST = re.compile(
    r"\b(?:was|were|had|did|has|have been|became|came|went|made|found|spent|followed|carried|lay|took|brought|rejected|cut|spread|put|moved|wrote|continues?|lives? on|remains?|endures?|is|are|stands?|lies?"
    r"|\w{3,}ed)\b",
    re.IGNORECASE,
)
_SELF = re.compile(r"\b(?:i|me|my|mine|our|us|it|its|they|them)\b", re.IGNORECASE)
_MINE = re.compile(r"\b(?:i|me|my|mine|our|us)\b", re.IGNORECASE)
_THEN = re.compile(
    r"\bof (?:my|our|their|his|her|the) (?:own )?(?:time|day|age|era|century)\b", re.IGNORECASE
)
"""The greatest of one's time one may be called while one lives."""


def _own_death(said: Sequence[_Unit], person: Person) -> bool:
    """Say whether an answer tells of the character's own death, burial or later fame as of something past or present."""
    mine = any(_MINE.search(unit.text) for unit in said)
    return any(not unit.asks and _death_in(unit, person, mine=mine) for unit in said)


def _death_in(unit: _Unit, person: Person, *, mine: bool) -> bool:
    text = unit.text
    died = traps_words.DIED.search(text)
    if died and ("would" in died[0] or not _NEARLY.search(text[: died.end()])) and not _NOT_DEAD.search(text):
        return True
    fame = traps_words.FAME.search(text)
    if (
        fame
        and mine
        and _SELF.search(text)
        and not _THEN.search(text)
        and not _OPEN.search(text[: fame.end()])
    ):
        return True
    if unit.open:
        return False
    if traps_words.KNOWN_NOW.search(text):
        return True
    if traps_words.AFTER.search(text):
        return True
    if traps_words.MY_DEATH.search(text) and not unit.denies and _PAST.search(text):
        return True
    return person.year is not None and _MINE.search(text) is not None and _years(text, person.year)


_NOT_DEAD = re.compile(
    r"\b(?:i am|i'm|i have|i did|i was) (?:not|never|hardly|far from)\b|\bhaven't\b|\bnot (?:yet )?dead\b",
    re.IGNORECASE,
)


def _tells_where(question: str, said: Sequence[_Unit]) -> bool:
    """Say whether a grave is named to who asks where the person rests, or dying to who asks of what he or she died."""
    asked = traps_words.RESTS.search(question), re.search(r"\bdid you die\b", question)
    return any(
        not unit.asks
        and not unit.open
        and not unit.ignorant
        and (
            (asked[0] and traps_words.GRAVE.search(unit.text))
            or (asked[1] and traps_words.DYING.search(unit.text))
        )
        for unit in said
    )


_TOLD = re.compile(
    r"^\W*(?:that|they|he|she|it|the(?! (?:question|answer|earth))|there|people|many|thousands|everyone|everybody|all|some|most|my(?! name)|when)\b(?:[^.]*\b(?:lies?|was|were|had|did|is|are|has|played|sang|wrote|came|followed|carried|spoke|loved|said|wept|mourned|burnt|burned|stood|read|\w{3,}ed)\b)",
    re.IGNORECASE,
)


def _tells_of_death(said: Sequence[_Unit], person: Person) -> bool:
    """Say whether an answer to a question about the character's own death takes it for something that was."""
    if _own_death(said, person):
        return True
    if any(unit.asks or unit.ignorant for unit in said):
        return False
    if any(
        re.search(
            r"\b(?:i am (?:\w+ )?still|i still|still (?:alive|living|here|warm|breathing)|yet|early|alive|living)\b",
            unit.text,
            re.IGNORECASE,
        )
        for unit in said
    ):
        return False
    return any(
        not unit.open and not unit.denies and (_TOLD.search(unit.text) or traps_words.DYING.search(unit.text))
        for unit in said
    ) or any(traps_words.FAME.search(unit.text) for unit in said)
