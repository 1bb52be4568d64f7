"""Paragraphs are ranked by the content words they share with a text."""

from __future__ import annotations

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
