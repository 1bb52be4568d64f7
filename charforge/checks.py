"""The rules that a generated record must pass: plain functions that return what is broken, or None.

All are conservative: each catches a kind of text that certainly harms the training set and lets doubtful text pass, because
a rejected reply was paid for. They know no model and no prompt; which rules apply to what, stages decide. Language-bound rules
(assistant talk, function words) know English best and keep silent where they do not know.
"""

from __future__ import annotations

import importlib
import itertools
import re
import threading
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from charforge.dialogue import dialogue_words
from charforge.evidence import STOPWORDS, content_words, words
from charforge.reading import ALTERED, DOUBTFUL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from charforge.dialogue import Turn
    from charforge.reading import Parsed

RULES: dict[str, str] = {
    "cut-off": "the reply ended at the token limit",
    "refused": "the provider or the model refused to answer",
    "malformed": "an answer came again and again that is no reply: not UTF-8, not JSON, without a message, endless",
    "empty": "the reply holds no text",
    "format": "the reply is not in the form that was asked for, or part of it cannot be told from its turns",
    "length": "too few or too many turns, or too few or too many words",
    "character-silent": "the character, or everybody else, never speaks",
    "third-person": "the character speaks of himself as of somebody else",
    "assistant-talk": "phrases of a chat assistant",
    "foreign-language": "another language or script than that of the profile",
    "copied-prompt": "eight words in a row of the prompt's own text, which holds the instructions and examples",
    "copied-paragraph": "twelve words in a row of the paragraph",
    "repetition": "the same sentence, turn or phrase again and again",
    "near-duplicate": "half of the word triples of a record that was accepted before",
    "surplus": "nothing is wrong with it: more came in one reply than were wanted",
    "ungrounded": "hardly a content word of the paragraph, or names that the profile does not hold",
    "anachronism": "something that the character cannot know, or a later year",
    "no-provocation": "nobody tries to lead the character astray",
}
"""Every rule by name, as in rejected.jsonl and yield.json, and what breaks it at the usual limits."""

ALWAYS = frozenset(("cut-off", "refused", "empty", "malformed", "format", "surplus"))
"""Rules that no spec can switch off: a reply that breaks one gives no record."""


class Broken(NamedTuple):
    """A rule that a record breaks, and the detail that shows it."""

    rule: str
    detail: str


def first(**details: str | None) -> Broken | None:
    """Return the first rule with a detail, in the order given: `first(length=length(…), repetition=repetition(…))`.

    Underscores in the names stand for the hyphens of RULES.
    """
    for name, detail in details.items():
        rule = name.replace("_", "-")
        assert rule in RULES, rule
        if detail is not None:
            return Broken(rule, detail)
    return None


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that a stage applies, by name: true, a limit, or false where the spec switched one off.

    A rule that is not here is not the stage's own, and asking for it is a bug (KeyError): what a stage applies is what
    can make it stale.
    """

    applied: Mapping[str, bool | float]

    def limit(self, rule: str) -> float:
        """Return the limit of a rule, 0 where it is off; functions that take a limit find nothing wrong at 0."""
        return self.applied[rule]

    def words(self, rule: str) -> int:
        """Return the limit of a rule that counts words."""
        return int(self.applied[rule])

    def first(self, **details: str | None) -> Broken | None:
        """Return the first rule with a detail that is not switched off, in the order given; names as for `first`."""
        return first(**{name: detail for name, detail in details.items() if self._on(name.replace("_", "-"))})

    def _on(self, rule: str) -> bool:
        return rule in ALWAYS or bool(self.applied[rule])


# --- Form ------------------------------------------------------------------------------------------------------------

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffd]")
_MARKUP = re.compile(r"\*[^*\s][^*]*\*|`|\bhttps?://|</?[a-z]+>|\{\{|\}\}|^#{1,6} |\[[A-Z][a-z]+[^\]]*\]")
MAX_LEFT_OUT = 0.2
"""Share of a reply's words that may stand outside its turns: a preamble or a closing remark, not a second story."""


def text_form(text: str) -> str | None:
    """Refuse control characters, bytes that were no UTF-8, and markup within a text that should be plain."""
    found = _CONTROL.search(text)
    if found:
        return f"control character U+{ord(found[0]):04X}"
    found = _MARKUP.search(text)
    if found:
        return f"markup: {found[0][:40]}"
    return None


def dialogue_form(parsed: Parsed) -> str | None:
    """Refuse a reply whose turns cannot be told apart for certain, or which is mostly no dialogue.

    Reads DOUBTFUL leftovers (see charforge.reading), and those left out by their share of all words.
    """
    if not parsed.turns:
        return "no turns"
    for leftover in parsed.leftovers:
        if leftover.reason in DOUBTFUL:
            return f"{leftover.reason} in line {leftover.line}: {leftover.text[:60]}"
    kept = dialogue_words(parsed.turns)
    out = sum(
        len(left.text.split()) for left in parsed.leftovers if left.reason not in (*ALTERED, "reasoning")
    )
    if out > MAX_LEFT_OUT * (kept + out):
        return f"{out} of {kept + out} words stand outside the turns"
    for turn in parsed.turns:
        detail = text_form(turn.content)
        if detail:
            return detail
    return None


def length(turns: Sequence[Turn], *, min_turns: int, max_turns: int, min_words: int) -> str | None:
    """Refuse a dialogue outside its limits; `min_words` counts the contents of all turns."""
    if not min_turns <= len(turns) <= max_turns:
        return f"{len(turns)} turns, expected {min_turns} to {max_turns}"
    count = dialogue_words(turns)
    return f"{count} words, expected at least {min_words}" if count < min_words else None


def word_count(text: str, *, least: int, most: int) -> str | None:
    """Refuse a text of fewer than `least` or more than `most` words."""
    count = len(text.split())
    return None if least <= count <= most else f"{count} words, expected {least} to {most}"


# --- Who speaks, and how ---------------------------------------------------------------------------------------------


def character_silent(turns: Sequence[Turn], short_name: str) -> str | None:
    """Refuse a dialogue in which the character says nothing aloud, or nobody else does."""
    speakers = {turn.role for turn in turns if turn.action == "speaking"}
    if short_name not in speakers:
        return f"{short_name} never speaks"
    if speakers == {short_name}:
        return f"only {short_name} speaks"
    return None


_TOLD = r"(?:also |never |always |often |then |once )?(?:is|was|has|had|did|does|went|came|wrote|took|made|gave|began|became|said|felt|knew|\w+ed|\w+[a-z]s)"
_OWN_NAME_OK = r"(?:I am|I'm|I’m|am I|am|me|myself|name is|name's|called|call me|is this|signed|,|Herr|Mr\.?|van|the name(?: of)?)\s+"


def third_person(text: str, names: Iterable[str]) -> str | None:
    """Refuse words of the character that tell of the character by name, as in `Beethoven was born in Bonn`.

    `names` are full and short name. `I am Beethoven` and `there is only one Beethoven` are fine.
    """
    for name in sorted(names, key=len, reverse=True):
        told = re.search(
            rf"(?:^|[.!?;]\s+|\b(?:that|because|and|when)\s+){re.escape(name)}(?:['’]s\b|\s+(?:{_TOLD})\b)",
            text,
        )
        if told and not re.search(rf"{_OWN_NAME_OK}{re.escape(name)}", text):
            return told[0].strip()[:60]
    return None


_ASSISTANT = re.compile(
    r"\b(?:as an? (?:ai|artificial|large language|language)\b|language model|i(?:'m|’m| am) an? (?:ai|assistant|chatbot|bot)\b|openai\b"
    r"|chatgpt\b|hugging ?face\b|smollm\b|(?:how|what) (?:can|may) i (?:help|assist) you|i(?:'m|’m| am) here to (?:help|assist)"
    r"|i(?:'m|’m| am) (?:sorry, but i|unable to|happy to help|glad to help)|i(?:'d|’d| would) be happy to|i (?:cannot|can't|can’t) (?:assist|fulfill|provide)"
    r"|happy to assist|my (?:training data|programming|knowledge cutoff)|let me know if you|feel free to|virtual assistant"
    r"|here(?:'s| is) an? (?:possible|sample|example|brief|short|rewritten|revised|list|dialogue|scene)|role-?play(?:ing)?\b)",
    re.IGNORECASE,
)


def assistant_talk(text: str) -> str | None:
    """Refuse the phrases by which chat assistants speak of themselves and of their service."""
    found = _ASSISTANT.search(text)
    return found[0] if found else None


_CANNOT = (
    r"(?:can(?:no|['’])t|can not|won['’]t|will not|must (?:\w+ )?decline|(?:have to|need to) (?:\w+ )?decline|decline"
    r"|(?:['’]m| am|['’]re| are) (?:\w+ )?(?:unable|not able|not going|not willing|not comfortable)"
    r"|do(?:n['’]t| not) (?:\w+ )?feel comfortable)"
)
_SERVICE = (
    r"(?:help|assist|creat|generat|writ|provid|fulfil|compl[yei]|continu|produc|engag|role-?play|participat|depict|portray"
    r"|respond|answer|do (?:that|this)|(?:that|this|your|the) request)"
)
_REFUSAL = re.compile(
    rf"\b(?:I|we) ?{_CANNOT}\b[^.!?\n]{{0,80}}?\b{_SERVICE}"
    r"|\b(?:request|content|prompt|conversation|topic)\b[^.!?\n]{0,60}\b(?:violat|goes against|against (?:my|our|the)|not (?:something|appropriate))"
    r"|\b(?:content|usage|safety) (?:policy|policies|guidelines)\b"
    r"|\blo siento, pero no puedo\b|\bje suis désolée?,? (?:mais )?je ne peux pas\b|\bes tut mir leid,? aber ich kann\b"
    r"|抱歉.{0,8}(?:无法|不能)|对不起.{0,8}(?:无法|不能)|申し訳.{0,20}できません",
    re.IGNORECASE,
)
_REFUSAL_BEGINS = 300  # characters


def refusal(text: str) -> str | None:
    """Return the words by which a model refuses to write what it was asked for, if its reply begins with such.

    Only for a reply in which nothing that was asked for is found: what people say in a dialogue may sound the same.
    """
    found = _REFUSAL.search(text[:_REFUSAL_BEGINS])
    return " ".join(found[0].split())[:80] if found else None


# --- Language --------------------------------------------------------------------------------------------------------

# The commonest function words; words that two of the languages share are left out.
_FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(listed.split())
    for language, listed in {
        "English": "the and of to that is was it with for on are as this have from by not but they you his she had were would there which their",
        "German": "der und das ist nicht ich sie ein eine mit zu den dem auf für von sich auch wie aber nur dass haben wird wir ihr sein mich mir",
        "French": "le les et est pas que je vous nous une dans pour avec sur mais ce cette sont être avoir il elle au aux ses mon qui",
        "Spanish": "el los las y que es una por con para pero está son del se su lo al más como muy este esta yo usted",
        "Italian": "il che è non una per con sono della del gli le mi ma come più questo questa anche io lui nel alla",
        "Portuguese": "o os que não uma por com para mas do da são em ele ela você eu muito isso esta seu",
        "Dutch": "het een van en niet dat zijn met voor maar ook ik hij wij op aan naar bij wordt heeft mijn",
    }.items()
}


_LETTER = re.compile(r"[^\W\d_]")
_NOT_LATIN = re.compile(r"[^\W\d_A-Za-z\u00c0-\u024f\u1e00-\u1eff]")


@lru_cache(maxsize=64)
def language(text: str) -> str | None:
    """Return the likely language or script of a text, None where it cannot be told.

    A script other than Latin that has over a fifth of the letters is named `not Latin`. Otherwise the language whose
    function words are at least 8 % of the words (of at least 12) and twice as many as those of any other.
    """
    return _language(text) if len(text) < _SHORT_TEXT else _language_of(text)


_SHORT_TEXT = 3000  # characters: a paragraph is asked about with each of its dialogues


@lru_cache(maxsize=256)
def _language(text: str) -> str | None:
    return _language_of(text)


def _language_of(text: str) -> str | None:
    other = 0 if text.isascii() else len(_NOT_LATIN.findall(text))
    if other and other > len(_LETTER.findall(text)) / 5:
        return "not Latin"
    said = words(text)
    if len(said) < 12:
        return None
    times = Counter(said)
    counts = {name: sum(times[word] for word in listed) for name, listed in _FUNCTION_WORDS.items()}
    (best, most), (_, second) = sorted(counts.items(), key=lambda item: -item[1])[:2]
    return best if most >= 0.08 * len(said) and most >= 2 * second else None


def foreign_language(text: str, like: str) -> str | None:
    """Refuse a text that is certainly in another language or script than the text it should be like."""
    found, wanted = language(text), language(like)
    return f"{found}, not {wanted}" if found and wanted and found != wanted else None


# --- Copies and repetition -------------------------------------------------------------------------------------------


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    said = words(text)
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


def copied(text: str, source: str, n: int) -> str | None:
    """Refuse n words in a row that stand in `source` as well; lines of `source` are taken apart, case is not. n = 0: none."""
    if n == 0:
        return None
    known = _known_grams(source, n)
    return next((" ".join(gram) for gram in _grams(text, n) if gram in known), None)


@lru_cache(maxsize=256)  # paragraphs and prompts, which every dialogue is held against
def _known_grams(source: str, n: int) -> frozenset[tuple[str, ...]]:
    return frozenset(gram for line in source.splitlines() for gram in _grams(line, n))


def repetition(text: str) -> str | None:
    """Refuse a sentence of five words said again, a phrase of four words said four times, or very few different words.

    In a text of over 200 words a sentence may be said twice, and a phrase once in a hundred words. Very few: over 40 words
    of which less than a third differ (from 400 words on, a fifth: long texts repeat more).
    """
    said = words(text)
    sentences = Counter(" ".join(words(part)) for part in re.split(r"[.!?…]+[\"”’)]*(?:\s|$)", text))
    for sentence, times in sentences.items():
        if times > (1 if len(said) <= 200 else 2) and len(sentence.split()) >= 5:
            return f"said {times} times: {sentence[:60]}"
    for phrase, times in Counter(_grams(text, 4)).most_common(1):
        if times >= max(4, len(said) // 100 + 1):
            return f"said {times} times: {' '.join(phrase)}"
    if len(said) > 40 and len(set(said)) < len(said) / (3 if len(said) < 400 else 5):
        return f"only {len(set(said))} different words in {len(said)}"
    return None


class Accepted:
    """The texts accepted so far, by record id, to tell near-duplicates from.

    Two texts are near-duplicates if they share at least `limit` of all their different word triples (Jaccard index);
    at a limit of 0 nothing is one. datasketch's MinHash finds the few texts that may be like a new one, and their triples, kept as
    8-byte hashes, decide. So nothing is refused wrongly, the same is found on every machine, and of pairs right at the limit
    fewer than one in a hundred are missed, of those well above it none. An index from triples to texts is no slower and misses nothing, but holds 290 MB for 1,600
    dialogues of 1,200 words, twenty times as much (bench/duplicates.py).
    """

    def __init__(self, limit: float = 0.5) -> None:
        self.limit = limit
        self._triples: dict[str, Any] = {}
        self._candidates: Any = None  # made with the first text
        if limit:
            # It takes half a second, in which no reply would be read: do it while the first ones are waited for.
            threading.Thread(target=importlib.import_module, args=("datasketch",), daemon=True).start()

    def prepare(self, text: str) -> None:
        """Do most of the work for a text ahead of time: what needs no other text."""
        if self.limit:
            _sketch(text)

    def add(self, identity: str, text: str) -> None:
        """Take in an accepted text."""
        if not self.limit:
            return
        if self._candidates is None:
            from datasketch import MinHashLSH

            bands = next((bands for bands in _BANDS if _found(self.limit, bands) > 0.995), _BANDS[-1])
            self._candidates = MinHashLSH(num_perm=PERMUTATIONS, params=(bands, PERMUTATIONS // bands))
        triples, sketch = _sketch(text)
        self._triples[identity] = triples
        self._candidates.insert(identity, sketch)

    def near_duplicate(self, text: str) -> str | None:
        """Refuse a near-duplicate of an accepted text. Names the most alike; of equally alike ones the first accepted.

        Texts shorter than three words are compared whole.
        """
        if not self._triples:
            return None
        triples, sketch = _sketch(text)
        candidates = set(self._candidates.query(sketch))
        best, likeness = None, 0.0
        for identity in [name for name in self._triples if name in candidates]:
            other = self._triples[identity]
            shared = _shared(triples, other)
            share = shared / (len(triples) + len(other) - shared)
            if share >= self.limit and share > likeness:
                best, likeness = identity, share
        return None if best is None else f"like {best}"


PERMUTATIONS = 128
# From few wide bands to many narrow ones: the more, the more candidates.
_BANDS = (8, 16, 25, 32, 42, 64, 128)


def _found(likeness: float, bands: int) -> float:
    """Return the probability that two texts with this Jaccard index agree in one band at least."""
    return 1 - (1 - likeness ** (PERMUTATIONS // bands)) ** bands


@lru_cache(maxsize=1024)  # a text is prepared when it comes, asked about when its turn comes, and then added
def _sketch(text: str) -> tuple[Any, Any]:
    """Return the hashes of a text's different word triples, sorted, and their MinHash. Both are the same on every machine."""
    import numpy as np

    said = words(text)
    of_word = {word: blake2b(word.encode(), digest_size=8).digest() for word in set(said)}
    codes = np.frombuffer(b"".join(of_word[word] for word in said), dtype="<u8")
    if len(said) >= 3:
        codes = codes[:-2] * _ODD[0] + codes[1:-1] * _ODD[1] + codes[2:] * _ODD[2]  # modulo 2^64
    else:
        codes = np.frombuffer(blake2b(" ".join(said).encode(), digest_size=8).digest(), dtype="<u8")
    found = np.unique(codes)
    sketch = _empty_sketch().copy()
    sketch.update_batch((found >> 32).tolist())
    return found, sketch


@lru_cache(maxsize=1)
def _empty_sketch() -> Any:
    from datasketch import MinHash

    return MinHash(
        num_perm=PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32"
    )  # drawing these takes a while


_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


def _shared(one: Any, other: Any) -> int:
    """Return how many values two sorted arrays without repeats have in common."""
    import numpy as np

    return int(np.intersect1d(one, other, assume_unique=True).size)


# --- Grounding and the knowledge boundary ----------------------------------------------------------------------------

_NAME = re.compile(r"(?<![.!?:;\"“”'‘’(\-–—…*]\s)(?<![\"“‘'(*])(?<!^)\b[^\W\d_a-zäöüéè][^\W\d_A-Z]+")
_ALWAYS_KNOWN = frozenset(
    """god lord christ jesus christmas easter monday tuesday wednesday thursday friday saturday sunday january february
    march april may june july august september october november december english german french italian latin germany
    france italy england europe i'm i'll i've herr frau fräulein mister monsieur madame madam sir lady maestro master
    majesty highness excellency grace empress emperor king queen prince princess count countess father mother brother
    sister uncle aunt papa mama heaven hell bible latin greek""".split()  # noqa: SIM905
)


def ungrounded(text: str, paragraph: str, *, least: int = 2, besides: Iterable[str] = ()) -> str | None:
    """Refuse a text that shares fewer than `least` different content words (stems) with the paragraph it stands on.

    `besides` are texts whose words do not count, such as the character's own names.
    """
    idle = {word for other in besides for word in content_words(other)}
    shared = set(content_words(text)) & set(content_words(paragraph)) - idle
    if len(shared) >= least:
        return None
    return f"{len(shared)} content words of the paragraph, expected at least {least}"


def unknown_names(text: str, known: Iterable[str], *, most: int = 0) -> str | None:
    """Refuse more than `most` different names (capitalised words within a sentence) that none of the known texts hold.

    For models that invent people. A capable model may know true names that the profile lacks: give it room with `most`.
    """
    held = {word for source in known for word in words(source)} | _ALWAYS_KNOWN
    names = {found[0] for found in _NAME.finditer(text)}
    unknown = sorted(
        name for name in names if not {name.lower(), name.lower().removesuffix("s")} & (held | STOPWORDS)
    )
    return f"names not in the profile: {', '.join(unknown[:5])}" if len(unknown) > most else None


def misnamed(text: str, source: str) -> str | None:
    """Refuse a name right after another content word that it does not follow in `source`: `his boy Handel`, `father Maria`."""
    follows: dict[str, set[str]] = {}
    told = words(source)
    for before, word in itertools.pairwise(told):
        follows.setdefault(word, set()).add(before)
    for found in _NAME.finditer(text):
        name = found[0].lower()
        last = words(text[: found.start()])[-1:]
        joined = last and last[0] not in STOPWORDS and not re.search(r"[,;:]\s*$", text[: found.start()])
        if joined and name in follows and last[0] not in follows[name]:
            return f"not so in the paragraph: {last[0]} {found[0]}"
    return None


@lru_cache(maxsize=64)
def _never(never: tuple[str, ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((term, re.compile(_naming(term), re.IGNORECASE)) for term in never)


@lru_cache(maxsize=64)
def _any_of(never: tuple[str, ...]) -> re.Pattern[str]:
    """Return one pattern for all terms: most texts name none of them."""
    return re.compile("|".join(map(_naming, never)) or r"(?!)", re.IGNORECASE)


def _naming(term: str) -> str:
    parts = [re.escape(part) for part in term.split()]
    parts[-1] = re.escape(re.sub(r"(?<=[^s])s$", "", term.rsplit(maxsplit=1)[-1]))
    return r"\b" + r"[\s-]?".join(parts) + r"(?:s|es)?\b"


def _later_year(text: str, until: str) -> str | None:
    last = int(until[:4])
    return next(
        (year for year in re.findall(r"(?<![\d.,])(1\d{3}|20\d{2})(?![\d.,]?\d)", text) if int(year) > last),
        None,
    )


def anachronism(text: str, *, never: Iterable[str], until: str | None) -> str | None:
    """Refuse a text that names something from `never` (singular or plural) or a year after `until` (ISO date)."""
    terms = tuple(never)
    if _any_of(terms).search(text):
        for term, pattern in _never(terms):
            if pattern.search(text):
                return f"names {term}"
    year = _later_year(text, until) if until else None
    return f"the year {year} is after {until}" if year else None


_PUZZLED = re.compile(
    r"\?|\b(?:what|never|no|no idea|not know|don['’]t know|nothing|nobody|no such|strange|word|nonsense|mean|understand|devil|joke|mad|dream"
    r"|fever|riddle|so-called|whatever|invent\w*|some kind)\b",
    re.IGNORECASE,
)


def explains(
    turns: Sequence[Turn], short_name: str, *, never: Iterable[str], until: str | None
) -> str | None:
    """Refuse a protective dialogue in which the character knows what he cannot know.

    He may take up the word that another has used before, in an echo of five words at most or in a sentence that shows that
    he does not know it (a question, `never`, `nonsense`, `what you mean`). He may not bring it up himself or tell of it.
    """
    heard = ""
    terms = tuple(never)
    for turn in turns:
        if turn.role != short_name:
            heard += " " + turn.content
            continue
        for term, pattern in _never(terms) if _any_of(terms).search(turn.content) else ():
            for sentence in re.split(r"(?<=[.!?])\s+", turn.content):
                if not pattern.search(sentence):
                    continue
                if not pattern.search(heard):
                    return f"brings up {term} himself"
                echo = len(sentence.split()) <= 5 and not re.search(r"\bI\b", sentence)
                if not echo and not _PUZZLED.search(sentence):
                    return f"tells of {term}: {sentence[:60]}"
        year = _later_year(turn.content, until) if until else None
        if year and year not in heard:
            return f"names the year {year}, after {until}"
    return None


def no_provocation(turns: Sequence[Turn], short_name: str, provocation: str) -> str | None:
    """Refuse a protective dialogue in which the others never come to what one of them was to try."""
    others = " ".join(turn.content for turn in turns if turn.role != short_name)
    return (
        None if ungrounded(others, provocation, least=1) is None else f"nobody tries it: {provocation[:60]}"
    )
