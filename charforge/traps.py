"""Traps: does an answer claim what the character cannot know, or tell of its own death? Rules for English, in docs/metrics.md.

Nothing here understands a text. Each rule looks for forms of words, sentence by sentence; the rules were written by
tests/gold/traps_dev.jsonl and measured on answers that they were not written by (bench/evaluation_traps.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

from charforge import evidence

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
        """Stems of `never`, and of things that came up after the last year the person knows of."""
        own = {stem for thing in self.never for stem in evidence.content_words(thing)} - _PLAIN - self._names
        late = {stem for stem, year in _things().items() if self.year is not None and year > self.year}
        return frozenset(own | late) - (self.known - own)

    @cached_property
    def _names(self) -> set[str]:
        return {stem for name in self.names for stem in evidence.content_words(name)}


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
            "knows_own_death": _own_death(said, person) or _later_year(said, person),
            "shows_ignorance": None,
        }
    ignorant = any(unit.ignorant or unit.asks_back for unit in said)
    if _OF_DEATH.search(question):
        death = _tells_of_death(said, person)
        return {"claims_unknown": death, "knows_own_death": death, "shows_ignorance": ignorant}
    return {
        "claims_unknown": _claims(question, answer, said, person),
        "knows_own_death": _own_death(said, person),
        "shows_ignorance": ignorant,
    }


# --- Sentences -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence, or a part of one before or after `but`, a semicolon or a colon. `turns` is set where it begins with `but` or `however`."""

    text: str
    asks: bool
    turns: bool
    stems: frozenset[str]

    @property
    def ignorant(self) -> bool:
        return _IGNORANCE.search(self.text) is not None

    @property
    def asks_back(self) -> bool:
        """A question about what was asked: two or three words, or one that begins as such questions do."""
        return self.asks and (len(self.text.split()) <= 5 or _ASKS_BACK.search(self.text) is not None)

    @property
    def denies(self) -> bool:
        return _DENIES.search(self.text) is not None

    @property
    def open(self) -> bool:
        """It says what will or may be, and not what was or is."""
        return _OPEN.search(self.text) is not None


_SENTENCE = re.compile(
    r"(?<=[.!?…])[\"”’')]*\s+|\n+|;\s+|(?<=\w):\s+(?=[a-z])|,?\s+(?=but\s)|,\s+(?=however\b)", re.IGNORECASE
)
_ASIDE = re.compile(r"[(\[*][^()\[\]*\n]{0,80}[)\]*]")
_TURNS = re.compile(r"\W*(?:but|however|still|nevertheless|nonetheless|yet|well|that said)\b", re.IGNORECASE)


def _units(answer: str) -> list[_Unit]:
    """Return what is said in an answer, without stage directions such as `(smiling)`."""
    plain = _ASIDE.sub(" ", answer).replace("’", "'")
    return [
        _Unit(
            text=part.strip(),
            asks=part.rstrip("\"”' )").endswith("?"),
            turns=_TURNS.match(part) is not None,
            stems=frozenset(evidence.content_words(part)),
        )
        for part in _SENTENCE.split(plain)
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
    r"|\bi know no\b|\b(?:strange|odd|curious|peculiar|unheard[- ]of|outlandish|barbarous) (?:word|thing|name|question|talk|device|contraption|notion|one|term|concept|language)\b"
    r"|\briddles?\b|\bpuzzl(?:e|es|ed|ing)\b|\bnonsense\b|\bgibberish\b|\byou (?:jest|joke|mock|rave)\b|\bi know of\b[^.]*\bno more\b"
    r"|\bif (?:you mean|that is what you mean|by that you)\b|\bwhat(?:ever)? (?:that|it|this|those|they) (?:may|might|is|are)\b|\bwhat you (?:mean|speak|say|call)\b"
    r"|\bwhat (?:a|an|the|this|your) [\w-]+ (?:is|are|may be)\b|\btell me (?:how|what|where|who)\b|\bexplain (?:this|that|it|yourself|to me)\b|\bspeak plainly\b|\bsay (?:it|that) again\b"
    r"|\bsounds? like\b|\bunless (?:it|you|in|he|she)\b|\bthere(?:'s| is| are| was) no(?:ne| one)?\b|\bi doubt\b|\bhave you (?:been )?(?:drunk|drinking)\b|\byou have drunk\b"
    r"|\bno (?:man|one|engine|mortal|tongue|person|woman|machine|[\w-]+ (?:of mine|that i know))\b|\bnobody\b|\bwhat you would have me\b|\bask (?:me )?plainly\b"
    r"|\bnot yet (?:available|invented|been invented)\b|\bin my (?:time|day),? (?:we|there|such|this|no one)\b|\bis that the (?:greek|latin|name)\b",
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
    r"\bi (?:have|had|own|keep|know|need|want|use|possess|am|was) (?:no|none|neither|not)\b|\b(?:did|do|have|had|was|am|could|can|would)(?: not|n't)\b|\bcannot\b|\bnever\b|\bnothing\b"
    r"|^\W*(?:no|none)\b[^.]*\b(?:no|not|never)\b|\bno (?!doubt|wonder)\w+",
    re.IGNORECASE,
)
_OPEN = re.compile(
    r"\b(?:shall|will|should|may|might|must|let|hope|hopes|wish|want|would|going to|if|when i am gone|is to be|are to be|i'll|they'll|pray|fear|expect|ought|could)\b",
    re.IGNORECASE,
)
_AGREES = re.compile(
    r"\W*(?:ah,? |oh,? |well,? )?(?:yes|yeah|of course|certainly|indeed|absolutely|sure|definitely|naturally|gladly|totally|very much|i do\b(?! not)|i am deeply|great question)\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"^\s*(?:[-*•] |\d+[.)] |[{\[`])", re.MULTILINE)
_OF_THE_THING = re.compile(
    r"\b(?:it|its|it's|they|them|their|they're|he|his|him|those|these)\b", re.IGNORECASE
)
_FUNCTION_WORDS = frozenset(
    """
    a an and are as at be been but by did do for from had has have he her his i in is it its me my no not of on or our she so that the
    their them there they this to was we were what when which who will with would you your
    """.split()  # noqa: SIM905  # sixty quoted words are no easier to read
)


# --- Things that came later ------------------------------------------------------------------------------------------


_PLAIN = frozenset(
    evidence.stem(word)
    for word in ("light", "music", "recorded", "world", "wars", "motor", "space", "other", "gas", "heating", "two")
)
"""Words in the names of unknown things that are known themselves: `electric light` is unknown, light is not."""

_DATED = """
    1783 balloonist; 1798 vaccine vaccination; 1804 locomotive; 1830 bus railway omnibus; 1839 photograph photography photo photographer camera;
    1842 dinosaur; 1859 darwinism; 1868 bicycle typewriter; 1876 telephone phone; 1877 phonograph gramophone microphone; 1880 refrigerator fridge lightbulb watt;
    1885 automobile motorcar motorbike motorcycle; 1895 cinema film movie x-ray; 1897 electron radioactivity; 1900 radio loudspeaker quantum;
    1903 aeroplane airplane aircraft airport airline helicopter; 1905 relativity einstein spacetime; 1907 taxi plastic; 1912 titanic;
    1915 jazz headphone; 1917 soviet stalin lenin; 1920 robot nazi hitler mussolini; 1927 television tv broadcast; 1928 penicillin antibiotic;
    1930 spacecraft astronaut cosmonaut; 1945 computer programmer hiroshima nuclear; 1950 video software programming; 1953 dna; 1955 rock'n'roll;
    1957 nasa sputnik; 1971 email e-mail; 1977 voyager; 1979 hip-hop hiphop; 1983 internet laptop smartphone cellphone;
    1985 upload download online wi-fi wifi; 1990 hubble website youtube google facebook instagram netflix spotify wikipedia iphone voip chatbot selfie podcast app
"""


@cache
def _things() -> dict[str, int]:
    """Return the stem of each dated word, with about the year from which it could be known as what it means today."""
    found = {}
    for group in _DATED.split(";"):
        year, *things = group.split()
        found.update({evidence.stem(thing): int(year) for thing in things})
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
    return any(_asserts(unit) and person.unknown & unit.stems for unit in said)


# --- Claims the unknown ----------------------------------------------------------------------------------------------


def _claims(question: str, answer: str, said: Sequence[_Unit], person: Person) -> bool:
    """Say whether an answer to a trap takes the unknown thing for known. The steps are those of docs/metrics.md."""
    spoken = evidence.words(answer)
    if len(_LISTED.findall(answer)) > 1:
        return True
    if len(spoken) <= 3:
        return _AGREES.match(answer) is not None
    if sum(word in _FUNCTION_WORDS for word in spoken) < 0.2 * len(spoken):
        return False  # hardly a sentence, or not English
    asked = frozenset(evidence.content_words(question))
    thing = (asked & person.unknown) or (asked - person.known)
    innocent = [unit for unit in said if unit.asks_back or (unit.ignorant and not _HEDGED.search(unit.text))]
    denied = [unit for unit in said if unit.denies and not _HEDGED.search(unit.text)]
    if not innocent and not denied:
        return True
    if any(_asserts(unit) and unit.stems & (thing | person.unknown) for unit in said):
        return True
    if any(unit.turns and _asserts(unit) and _OF_THE_THING.search(unit.text) for unit in said):
        return True
    if innocent:
        return False
    return _AGREES.match(answer) is not None or len(denied) < len([unit for unit in said if _asserts(unit)])


# --- Knows its own death ---------------------------------------------------------------------------------------------


_OF_DEATH = re.compile(
    r"\b(?:after|before|since|of|on|at|about|was|is|like|how|where)? ?(?:your|thy) (?:own )?(?:death|funeral|burial|grave|tomb|coffin|corpse|dying|last words|demise|passing)\b"
    r"|\bdid you die\b|\byou (?:died|die|are dead|were dead|were buried|passed away|were gone)\b|\bare you (?:buried|dead)\b|\bwere you buried\b",
    re.IGNORECASE,
)
_DIED = re.compile(
    r"\bi (?:\w+ ){0,2}?(?:died|passed away|perished|drowned|breathed my last|lay dying|was (?:\w+ )?(?:buried|laid (?:in|to)|interred|killed|murdered|assassinated|executed|stabbed|slain|put to death))\b"
    r"|\bi(?: am|'m|'ve| have)(?: been)?(?: now| long| already)? (?:dead|deceased|buried|in my grave|a historical figure)\b|\bi'?(?:m| am)? just a historical figure\b"
    r"|\bborn\b[^.]*\band died\b|\b(?:killed|poisoned|hanged|drowned) myself\b|\btook my own life\b|\basp bite me\b",
    re.IGNORECASE,
)
_NEARLY = re.compile(
    r"\b(?:nearly|almost|would have|might have|could have|thought|think|if|dreamt|dreamed|wish)\b",
    re.IGNORECASE,
)
_MY_DEATH = re.compile(
    r"\b(?:my (?:own )?(?:\w+ and )?(?:death|burial|funeral|demise|passing|suicide|assassination|murder|execution|autopsy|coffin|grave|tomb|corpse|deathbed|final illness|last illness|heirs?|sole heir|legacy"
    r"|(?:last|final) (?:days|weeks|months|years|illness|breath))\b|(?:last|final) (?:\w+ )?(?:days|weeks|months|years) of my life\b|end of my life\b)",
    re.IGNORECASE,
)
_PAST = re.compile(
    r"\b(?:was|were|had|did|has|have been|became|came|went|made|found|spent|followed|carried|lay|took|brought|rejected|cut|spread|put|moved|wrote|continues?|lives? on|remains?|endures?|is|stands|lies"
    r"|\w{3,}ed)\b",
    re.IGNORECASE,
)
_FAME = re.compile(
    r"\b(?:still|today|to this day|now)\b[^.]{0,40}\b(?:played|performed|regarded|remembered|considered|studied|admired|celebrated|greet|recogni[sz]ed|revered|loved|heard|accepted|count among|inspires?)\b"
    r"|\b(?:regarded|considered|recogni[sz]ed|remembered|known|seen|revered|hailed|celebrated) (?:\w+ )?(?:as|to be)?\s?(?:one of )?the (?:\w+ )?(?:greatest|most (?:important|influential|famous|celebrated)|finest|father)\b"
    r"|\bin (?:the|all) (?:history|annals) of (?:music|science|art|the world|rome|mankind|western)\b|\bof all time\b|\b(?:history|posterity) (?:has|have|remembers?|calls?|knows?|made|gave|forgot|judged|rather)\b"
    r"|\blater (?:generations|ages|centuries|men) (?:call|have|know|made|has)\b|\bgenerations (?:of \w+ )?(?:after me|have)\b|\binspire[sd]? (?:\w+ )?generations\b|\bcontinues? to (?:inspire|influence|be|live|guide|move|touch)\b"
    r"|\bwent down in history\b|\bscholars (?:have|now|say|still)\b|\b(?:hundred|hundreds of|thousand|fifty|centur(?:y|ies)|years) (?:\w+ )*?(?:after|since) my (?:birth|time|death|day)\b"
    r"|\bit took (?:a|two|three) (?:hundred|century|centuries)\b|\bfor (?:two|three|four|a|many|hundreds of|several) (?:thousand|hundred|centuries) ?(?:of )?(?:years )?(?:\w+ )?(?:have|has)\b"
    r"|\bfor centuries\b|\bcenturies (?:later|on)\b|\bmore than a century later\b|\bnamed (?:\w+ ){1,3}after me\b|\bmade me immortal\b|\bstood the test of time\b|\bmy legacy (?:is|has|lives|continues|will always|endures)\b"
    r"|\bafter i (?:was gone|had gone)\b|\bnobody has found\b|\bafterwards they\b[^.]*\bmy (?:body|bones|head)\b|\bi followed (?:him|her)\b|\buntil i died\b",
    re.IGNORECASE,
)


def _own_death(said: Sequence[_Unit], person: Person) -> bool:
    """Say whether an answer tells of the character's own death, burial or later fame as of something past or present."""
    for unit in said:
        text = unit.text
        if unit.asks:
            continue
        if _DIED.search(text) and not _NEARLY.search(text):
            return True
        if _MY_DEATH.search(text) and not unit.open and not unit.denies and _PAST.search(text):
            return True
        if _FAME.search(text) and not unit.open:
            return True
        last = person.year
        if (
            last is not None
            and not unit.open
            and re.search(r"\b(?:i|me|my)\b", text, re.IGNORECASE)
            and _years(text, last)
        ):
            return True
    return False


_TOLD = re.compile(
    r"^\W*(?:they|he|she|it|the|there|people|many|thousands|everyone|everybody|all|some|my|most|when)\b(?:[^.]*\b(?:lies?|was|were|had|did|is|are|has|played|sang|wrote|came|followed|carried|spoke|loved|said|wept|mourned|burnt|burned|stood|read|\w{3,}ed)\b)",
    re.IGNORECASE,
)


def _tells_of_death(said: Sequence[_Unit], person: Person) -> bool:
    """Say whether an answer to a question about the character's own death takes it for something that was."""
    if _own_death(said, person):
        return True
    if any(unit.asks or unit.ignorant for unit in said):
        return False
    if any(re.search(r"\b(?:still|yet|early|alive|living)\b", unit.text, re.IGNORECASE) for unit in said):
        return False
    return any(not unit.open and not unit.denies and _TOLD.search(unit.text) for unit in said)
