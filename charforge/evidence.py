"""Words, and which paragraphs of a profile a text is about. Knows no model and no stage.

Ranking is Okapi BM25 (Robertson and Zaragoza 2009) over content words, with k1 = 1.2 and b = 0.75: a profile is
some dozens of paragraphs, so scoring all of them each time costs less than keeping an index.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

K1 = 1.2
B = 0.75

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")

STOPWORDS = frozenset(
    """
    a about above after again against all also always am an and another any anyone anything are as at away back be
    became because become been before began behind being below beside between both but by came can cannot come could
    did do does doing done down during each either else enough even ever every everything far few for found from
    gave get give given go goes going gone good got great had has have having he her here hers herself him himself
    his how however i if in indeed into is it its itself just knew know known last later least left less let like
    little long made make man many may me men might mine more most much must my myself near neither never new next
    no none nor not nothing now of off often old on once one only or other others our ourselves out over own people
    perhaps put quite rather really said same saw say says see seem seemed she should since so some something soon
    still such take taken tell than that the their them themselves then there these they thing things think this
    those though thought three through thus time to together told too took toward towards two under until up upon us
    used very want was way we well went were what when where whether which while who whole whom whose why will with
    without would yes yet you your yours yourself
    """.split()  # noqa: SIM905  # a hundred quoted words are no easier to read
)
"""English words that say nothing about a subject; the everyday verbs of questions and answers are among them."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, in order; letters of any script, inner apostrophes and hyphens kept."""
    return list(_long_words(text)) if len(text) > _LONG else _split(text)


_LONG = 500  # characters


@lru_cache(maxsize=64)  # a dozen rules look at the same dialogue one after another
def _long_words(text: str) -> tuple[str, ...]:
    return tuple(_split(text))


def _split(text: str) -> list[str]:
    found = "\n".join(_WORD.findall(text))  # to lower all of them at once is four times as fast
    return found.lower().replace("’", "'").split("\n") if found else []


# A dialogue has a thousand words, and all dialogues of a profile the same few thousand.
@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Return a word without its possessive and its commonest English endings, so that `cameras` meets `camera`.

    Deliberately crude: it only has to send the forms of a word to the same place, not to name its root.
    """
    word = word.removesuffix("'").removesuffix("'s")
    for ending, keep in (("ies", "i"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + keep
            break
    if len(word) > 3 and word.endswith("e"):
        return word[:-1]
    if len(word) > 3 and word.endswith("y"):
        return word[:-1] + "i"
    return word


def content_words(text: str) -> list[str]:
    """Return the stems of the words of a text that are no stopwords and longer than two letters, in order."""
    return [stem(word) for word in words(text) if len(word) > 2 and word not in STOPWORDS]


def relevant(paragraphs: Sequence[Mapping[str, Any]], text: str, count: int) -> list[Mapping[str, Any]]:
    """Return the `count` paragraphs most like `text`, best first; at equal scores the earlier paragraph first.

    `paragraphs` are those of profile.json. A text that shares no content word with the profile gets the first
    paragraphs, which say who the person is.
    """
    documents = [Counter(content_words(str(paragraph["text"]))) for paragraph in paragraphs]
    lengths = [sum(document.values()) for document in documents]
    mean_length = sum(lengths) / len(lengths) if lengths else 0.0
    query = set(content_words(text))
    weights = {}
    for word in sorted(query):
        having = sum(word in document for document in documents)
        weights[word] = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))

    def score(index: int) -> float:
        document, length = documents[index], lengths[index]
        norm = K1 * (1 - B + B * length / mean_length) if mean_length else K1
        found = ((weight, document[word]) for word, weight in weights.items() if word in document)
        return math.fsum(weight * times * (K1 + 1) / (times + norm) for weight, times in found)

    order = sorted(range(len(paragraphs)), key=lambda index: (-score(index), index))
    return [paragraphs[index] for index in order[:count]]
