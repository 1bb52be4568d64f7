"""The rules that a generated record must pass: plain functions that return what is broken, or None.

All are conservative: each catches a kind of text that certainly harms the training set and lets doubtful text pass, because
a rejected reply was paid for. They know no model and no prompt; which rules apply to what, stages decide. Language-bound rules
(assistant talk, function words) know English best and keep silent where they do not know.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from charforge.dialogue import DOUBTFUL, dialogue_words
from charforge.evidence import STOPWORDS, content_words, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from charforge.dialogue import Parsed, Turn

RULES: dict[str, str] = {
    "cut-off": "the reply ended at the token limit",
    "refused": "the provider or the model refused to answer",
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
    "ungrounded": "hardly a content word of the paragraph, or names that the profile does not hold",
    "anachronism": "something that the character cannot know, or a later year",
    "no-provocation": "nobody tries to lead the character astray",
}
"""Every rule by name, as in rejected.jsonl and yield.json, and what breaks it."""


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

    Reads DOUBTFUL leftovers (see charforge.dialogue), and those left out by their share of all words.
    """
    if not parsed.turns:
        return "no turns"
    for leftover in parsed.leftovers:
        if leftover.reason in DOUBTFUL:
            return f"{leftover.reason} in line {leftover.line}: {leftover.text[:60]}"
    kept = dialogue_words(parsed.turns)
    out = sum(
        len(left.text.split())
        for left in parsed.leftovers
        if left.reason not in ("markup", "action", "quotes")
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
    r"as an? (?:ai|artificial|large language|language)\b|language model|\bi(?:'m|’m| am) an? (?:ai|assistant|chatbot|bot)\b|\bopenai\b"
    r"|\bchatgpt\b|\bhugging ?face\b|\bsmollm\b|(?:how|what) (?:can|may) i (?:help|assist) you|i(?:'m|’m| am) here to (?:help|assist)"
    r"|i(?:'m|’m| am) (?:sorry, but i|unable to|happy to help|glad to help)|i(?:'d|’d| would) be happy to|i (?:cannot|can't|can’t) (?:assist|fulfill|provide)"
    r"|happy to assist|my (?:training data|programming|knowledge cutoff)|let me know if you|feel free to|virtual assistant"
    r"|here(?:'s| is) an? (?:possible|sample|example|brief|short|rewritten|revised|list|dialogue|scene)|\brole-?play(?:ing)?\b",
    re.IGNORECASE,
)


def assistant_talk(text: str) -> str | None:
    """Refuse the phrases by which chat assistants speak of themselves and of their service."""
    found = _ASSISTANT.search(text)
    return found[0] if found else None


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


def language(text: str) -> str | None:
    """Return the likely language or script of a text, None where it cannot be told.

    A script other than Latin that has over a fifth of the letters is named `not Latin`. Otherwise the language whose
    function words are at least 8 % of the words (of at least 12) and twice as many as those of any other.
    """
    letters = [c for c in text if c.isalpha()]
    other = sum(
        not ("A" <= c <= "z" or "\u00c0" <= c <= "\u024f" or "\u1e00" <= c <= "\u1eff") for c in letters
    )
    if letters and other > len(letters) / 5:
        return "not Latin"
    said = words(text)
    if len(said) < 12:
        return None
    counts = {name: sum(word in listed for word in said) for name, listed in _FUNCTION_WORDS.items()}
    (best, most), (_, second) = sorted(counts.items(), key=lambda item: -item[1])[:2]
    return best if most >= 0.08 * len(said) and most >= 2 * second else None


def foreign_language(text: str, like: str) -> str | None:
    """Refuse a text that is certainly in another language or script than the text it should be like."""
    found, wanted = language(text), language(like)
    return f"{found}, not {wanted}" if found and wanted and found != wanted else None


# --- Copies and repetition -------------------------------------------------------------------------------------------

COPIED_PROMPT = 8
COPIED_PARAGRAPH = 12


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    said = words(text)
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


def copied(text: str, source: str, n: int) -> str | None:
    """Refuse n words in a row that stand in `source` as well; lines of `source` are taken apart, case is not."""
    known = {gram for line in source.splitlines() for gram in _grams(line, n)}
    return next((" ".join(gram) for gram in _grams(text, n) if gram in known), None)


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

    An index from word triples to records makes one look-up cost what the shared triples cost: comparing 1,600 dialogues of
    1,200 words pair by pair takes minutes.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._having: dict[tuple[str, ...], list[str]] = {}

    def add(self, identity: str, text: str) -> None:
        """Take in an accepted text."""
        triples = self._triples(text)
        self._sizes[identity] = len(triples)
        for triple in triples:
            self._having.setdefault(triple, []).append(identity)

    def near_duplicate(self, text: str) -> str | None:
        """Refuse a text that shares at least half of all word triples (Jaccard index) with an accepted one.

        Names the most alike; of equally alike ones the first accepted. Texts shorter than three words are compared whole.
        """
        triples = self._triples(text)
        shared = Counter(identity for triple in triples for identity in self._having.get(triple, ()))
        best, likeness = None, 0.5
        for identity, size in self._sizes.items():
            share = shared[identity] / (len(triples) + size - shared[identity])
            if share > likeness or (best is None and share == likeness):
                best, likeness = identity, share
        return None if best is None else f"like {best}"

    @staticmethod
    def _triples(text: str) -> set[tuple[str, ...]]:
        return set(_grams(text, 3)) or {tuple(words(text))}


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


def _never(never: Iterable[str]) -> list[tuple[str, re.Pattern[str]]]:
    patterns = []
    for term in never:
        parts = [re.escape(part) for part in term.split()]
        parts[-1] = re.escape(re.sub(r"(?<=[^s])s$", "", term.split()[-1]))
        patterns.append((term, re.compile(r"\b" + r"[\s-]?".join(parts) + r"(?:s|es)?\b", re.IGNORECASE)))
    return patterns


def _later_year(text: str, until: str) -> str | None:
    last = int(until[:4])
    return next(
        (year for year in re.findall(r"(?<![\d.,])(1\d{3}|20\d{2})(?![\d.,]?\d)", text) if int(year) > last),
        None,
    )


def anachronism(text: str, *, never: Iterable[str], until: str | None) -> str | None:
    """Refuse a text that names something from `never` (singular or plural) or a year after `until` (ISO date)."""
    for term, pattern in _never(never):
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
    for turn in turns:
        if turn.role != short_name:
            heard += " " + turn.content
            continue
        for term, pattern in _never(never):
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
