"""Words, and which paragraphs of a profile a text is about. Knows no model and no stage.

Ranking is Okapi BM25 (Robertson and Zaragoza 2009) by bm25s, over the stems of content words. Scores are rounded before they
are compared, and ties go to the earlier document, so that no machine's last bit decides. numpy and bm25s are imported late.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

K1 = 1.2
B = 0.75
DIGITS = 4
"""To which BM25 scores are rounded; they are sums of a few single-precision numbers below 10."""

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
    order = _index(tuple(str(paragraph["text"]) for paragraph in paragraphs)).order(text)
    return [paragraphs[place] for place, _ in order[:count]]


def nearest(documents: Sequence[str], texts: Iterable[str], count: int) -> list[list[tuple[int, float]]]:
    """Return for each text the places of up to `count` documents most like it, best first, with their scores.

    A document that shares no content word with a text is not among them. Scores compare documents for one text only.
    """
    index = _index(tuple(documents))
    return [[(place, score) for place, score in index.order(text)[:count] if score > 0] for text in texts]


class _Index:
    """Documents, ready to be ranked."""

    def __init__(self, documents: Sequence[str]) -> None:
        import bm25s

        tokens = [content_words(document) for document in documents]
        self._size = len(documents)
        self._known = frozenset().union(*tokens)
        if self._known:  # bm25s cannot index nothing
            self._ranked = bm25s.BM25(k1=K1, b=B)
            self._ranked.index(tokens, show_progress=False)

    def order(self, text: str) -> list[tuple[int, float]]:
        """Return all places with their scores, best first, the earlier first at equal scores."""
        import numpy as np

        query = sorted(self._known.intersection(content_words(text)))
        if not query:
            return [(place, 0.0) for place in range(self._size)]
        scores = np.round(self._ranked.get_scores(query).astype(np.float64), DIGITS)
        places = np.argsort(-scores, kind="stable")
        return list(zip(places.tolist(), scores[places].tolist(), strict=True))


@lru_cache(
    maxsize=8
)  # a profile is asked for hundreds of times, and an index takes as long as some hundred answers
def _index(documents: tuple[str, ...]) -> _Index:
    return _Index(documents)
