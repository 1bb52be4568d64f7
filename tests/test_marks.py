"""What went wrong with an answer is marked, in the many ways in which models spell it, and its words stay as they came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge import marks

NAMES = ("Anna Ley", "Anna")


def test_every_mark_has_a_meaning():
    assert sorted(marks.MARKS) == list(marks.MARKS)
    assert all(meaning.endswith(".") for meaning in marks.MARKS.values())


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("By the sea", "By the sea", []),
        (" \n", "", ["empty"]),
        ("Anna (speaking): Yes.", "Yes.", ["own-header"]),
        ("Anna ((speaking): Yes.", "Yes.", ["own-header"]),
        ("Anna (smiling): Yes.", "Yes.", ["own-header"]),
        ("ANNA: Yes.", "Yes.", ["own-header"]),
        ("**Anna Ley:** Yes.", "Yes.", ["own-header"]),
        ("### Anna: Yes.", "Yes.", ["own-header"]),
        ("[Anna]: Yes.", "Yes.", ["own-header"]),
        ("Anna:", "", ["empty", "own-header"]),
        ("Annabel: Yes.", "Annabel: Yes.", []),
        ("Yes.<|im_end|>", "Yes.<|im_end|>", ["special-token"]),
        ("Yes.</s>", "Yes.</s>", ["special-token"]),
        ("[INST] And then? [/INST]", "[INST] And then? [/INST]", ["special-token"]),
    ],
)
def test_an_answer_loses_its_own_header_only(text, answer, found):
    assert marks.mark_answer(text, NAMES) == (answer, found)


@pytest.mark.parametrize(
    "more",
    [
        "\n\nMan (speaking): And then?",
        "\nUser: And then?",
        "\n### Human: And then?",
        "\n### Instruction:\nAnd then?",
        "\nInterviewer: And then?",
        " Interviewer: And then?",
        "\nThe interviewer: And then?",
        "\n**Interviewer:** And then?",
        "\n**Interviewer**: And then?",
        "\n*Visitor (leaning forward):* And then?",
        "\n- Visitor: And then?",
        "\n> Visitor : And then?",
        "\n[Visitor]: And then?",
        "\nVISITOR: And then?",
        "\nVisitor：And then?",
        "\nNext question: And then?",
        "\nFollow-up question: And then?",
        "\nQuestion 2: And then?",
        "\nQ: And then?",
        "\nQ2: And then?",
        " Otto (thinking): Hm.",
        "\n**Otto (speaking):** Hm.",
        "\n**Otto** (speaking): Hm.",
        "\nDr. Otto Lenz (speaking): Hm.",
        "\nOtto ((speaking): Hm.",
        "\nAssistant: As you wish.",
        "\nOtto: Hm.\nAnna: So it was.",
        "\n**Otto Lenz:** Hm.\n\n**Anna Ley:** So it was.",
    ],
)
def test_whoever_else_speaks_in_an_answer_is_found_and_what_came_before_is_hers(more):
    text = f"I was born by the sea.{more}"
    assert marks.mark_answer(text, NAMES) == (text, ["wrong-speaker"])
    assert marks.own_words(text, NAMES) == "I was born by the sea."


@pytest.mark.parametrize(
    "text",
    [
        "I said: a man (speaking of it) may ask.",
        "Two things:\nThe sea: it is wide.\nThe lamp: it burns.",
        "**Early years:** I was born by the sea.\n**Later:** I kept the lamp.",
        "I asked him. My question: did he come?",
        "He was a good man: he came.",
        "Every visitor: a story.",
        "At 12:30 the guest: late, as ever.",
        "I kept it.\nAnna (thinking): Why does he ask?\nAnna (speaking): Nine years.",
    ],
)
def test_a_colon_alone_makes_no_speaker(text):
    assert marks.mark_answer(text, NAMES) == (text, [])
    assert marks.own_words(text, NAMES) == text


def test_an_answer_that_begins_with_her_name_is_read_as_a_play():
    assert marks.mark_answer("Anna: Yes.\nOtto: No.", NAMES) == (
        "Yes.\nOtto: No.",
        ["own-header", "wrong-speaker"],
    )
    assert marks.own_words("Anna: Yes.\nOtto: No.", NAMES) == "Yes."


def test_a_short_sentence_is_no_part_of_a_name():
    assert marks.own_words("Yes. Otto (speaking): Hm.", NAMES) == "Yes."
    assert marks.mark_answer("Otto (speaking): Hm.", NAMES) == ("Otto (speaking): Hm.", ["wrong-speaker"])


def test_own_words_end_at_a_control_token():
    assert marks.own_words("Yes.<|im_end|>\n<|im_start|>user\nPraise me.", NAMES) == "Yes."
    assert marks.own_words("Visitor: Praise me.", NAMES) == ""


@pytest.mark.parametrize(
    ("reply", "heard"),
    [
        ("Yes.", ("Yes.", [], [])),
        ("<think>Who\nasks?</think>\n\nYes.", ("Yes.", ["Who asks?"], [])),
        ("<THINKING> Who? </THINKING>Yes.", ("Yes.", ["Who?"], [])),
        ("[THINK]Who?[/THINK]Yes.", ("Yes.", ["Who?"], [])),
        ("<think></think>Yes.", ("Yes.", [], [])),
        ("<think>a</think>Yes. <think>b</think>No.", ("Yes. No.", ["a", "b"], [])),
        ("Who asks?</think>Yes.", ("Yes.", ["Who asks?"], [])),
        ("Who?</think>Yes. <think>b</think>No.", ("Yes. No.", ["Who?", "b"], [])),
        ("<think>Who asks me that", ("", ["Who asks me that"], ["open-thought"])),
        ("Yes. <think>Or no", ("Yes.", ["Or no"], ["open-thought"])),
        ("<think>", ("", [], ["open-thought"])),
    ],
)
def test_thoughts_are_parted_from_what_is_said(reply, heard):
    assert marks.hear(reply) == heard


@given(st.text(alphabet="Anab (speaking):*<think/>\n.?|", max_size=80))
def test_no_text_breaks_the_marks(text):
    heard = marks.hear(text)
    answer, found = marks.mark_answer(heard.text, NAMES)
    assert set(found) <= set(marks.MARKS)
    assert answer.startswith(marks.own_words(heard.text, NAMES))


@pytest.mark.parametrize("piece", ["* ", "A. ", "- [", "Dr. ", "> # ", "a " * 20, "“”’ "])
def test_a_hostile_answer_takes_no_longer_than_its_length(piece):
    # Twenty times as long would be four hundred times as slow: minutes, and the test would not end.
    marks.mark_answer(piece * (100_000 // len(piece)), ("Ada King", "Ada"))
