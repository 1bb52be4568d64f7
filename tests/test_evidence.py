"""Paragraphs are ranked by the content words they share with a text."""

from __future__ import annotations

import math

import pytest

from charforge import evidence

PARAGRAPHS = [
    {"id": "who", "text": "Anna Ley was born by the sea in a house of stone."},
    {"id": "lamp", "text": "She kept the lamp of the lighthouse, and trimmed its wick each night."},
    {"id": "log", "text": "Her log of the lighthouse told of ships, weather, and more ships."},
]


def ids(text, count=3):
    return [paragraph["id"] for paragraph in evidence.relevant(PARAGRAPHS, text, count)]


def test_the_paragraph_with_the_rarer_words_comes_first():
    assert ids("Did the lighthouse have a lamp?") == ["lamp", "log", "who"]


def test_a_plural_finds_its_singular():
    assert ids("lamps", 1) == ["lamp"]


def test_a_text_that_shares_nothing_gets_the_first_paragraphs():
    assert ids("What is a computer?", 2) == ["who", "lamp"]


def test_no_paragraphs_give_none():
    assert evidence.relevant([], "lamp", 2) == []


def test_paragraphs_without_a_word_come_in_their_order():
    empty = [{"id": "1", "text": ""}, {"id": "2", "text": "…"}]
    assert evidence.relevant(empty, "lamp", 2) == empty


def test_equal_paragraphs_come_in_their_order():
    alike = [{"id": str(number), "text": "A lamp."} for number in range(20)]
    assert evidence.relevant(alike, "The lamp", 3) == alike[:3]


def test_a_word_asked_twice_counts_once():
    assert ids("log lamp lamp lamp lamp lighthouse") == ids("log lamp lighthouse")


def test_the_nearest_documents_share_words_and_are_fewer_than_asked_for():
    documents = [str(paragraph["text"]) for paragraph in PARAGRAPHS]
    found = evidence.nearest(documents, ["the lamp of the lighthouse", "computers", "a stone"], 2)
    assert [[place for place, _ in one] for one in found] == [[1, 2], [], [0]]
    assert found[0][0][1] > found[0][1][1] > 0
    assert evidence.nearest([], ["lamp"], 2) == [[]]


def test_ranking_prints_nothing(capfd):
    evidence.nearest([f"lamp number {number}" for number in range(300)], ["lamp"], 2)
    assert capfd.readouterr() == ("", "")


def test_ranking_is_that_of_okapi_bm25():
    documents = [evidence.content_words(str(paragraph["text"])) for paragraph in PARAGRAPHS]
    mean = sum(map(len, documents)) / len(documents)

    def score(document, query):
        total = 0.0
        for word in query:
            having = sum(word in each for each in documents)
            weight = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            times = document.count(word)
            norm = evidence.K1 * (1 - evidence.B + evidence.B * len(document) / mean)
            total += weight * times / (times + norm)
        return total

    text = "ships and the lighthouse"
    expected = sorted(
        (
            (round(score(document, set(evidence.content_words(text))), 4), place)
            for place, document in enumerate(documents)
        ),
        key=lambda each: (-each[0], each[1]),
    )
    found = evidence.nearest([str(paragraph["text"]) for paragraph in PARAGRAPHS], [text], 3)[0]
    assert found == [(place, pytest.approx(value, abs=1e-4)) for value, place in expected if value]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("camera", "cameras"),
        ("phone", "phones"),
        ("box", "boxes"),
        ("movie", "movies"),
        ("city", "cities"),
        ("love", "loved"),
        ("wash", "washing"),
        ("beethoven", "beethoven's"),
        ("glass", "glasses"),
    ],
)
def test_forms_of_a_word_have_one_stem(one, other):
    assert evidence.stem(one) == evidence.stem(other)


def test_words_keep_inner_apostrophes_and_hyphens():
    assert evidence.words("“Don’t,” said Jean-Paul; 2 Kärntner 'ways'.") == [
        "don't",
        "said",
        "jean-paul",
        "2",
        "kärntner",
        "ways",
    ]
