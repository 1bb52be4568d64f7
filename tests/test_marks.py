"""What went wrong with an answer is marked, in the many ways in which models spell it, and its words stay as they came."""

from __future__ import annotations

import pytest

from charforge import marks


def test_every_mark_has_a_meaning():
    assert sorted(marks.MARKS) == list(marks.MARKS)
    assert all(meaning.endswith(".") for meaning in marks.MARKS.values())


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("By the sea", "By the sea", []),
        (" \n", "", ["empty"]),
        ("Anna (speaking): Yes.", "Yes.", ["own-header"]),
        ("**Anna Ley:** Yes.", "Yes.", ["own-header"]),
        ("Anna:", "", ["empty", "own-header"]),
        ("Yes.<|im_end|>", "Yes.<|im_end|>", ["special-token"]),
        ("Yes.\nUser: And then?", "Yes.\nUser: And then?", ["wrong-speaker"]),
    ],
)
def test_an_answer_loses_its_own_header_only(text, answer, found):
    assert marks.mark_answer(text, ("Anna Ley", "Anna")) == (answer, found)
