"""The writer of turns, and which characters of its text are trained on; the reader is its exact inverse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge.dialogue import (
    Turn,
    cue,
    one_line,
    render_output,
    render_prompt,
    trained_spans,
    turn_spans,
    valid_role,
)

B = "Beethoven"


def said(role: str, content: str) -> Turn:
    return Turn(role, "speaking", content)


def thought(role: str, content: str) -> Turn:
    return Turn(role, "thinking", content)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_one_line_is_idempotent(text):
    assert one_line(one_line(text)) == one_line(text)


def test_a_turn_is_written_as_the_contract_says():
    assert render_output([said(B, "It\nmust be.")]) == "Beethoven (speaking): It must be.<|eot|>\n"


def test_the_prompt_is_written_as_the_contract_says():
    assert render_prompt("Be Beethoven.\n", "Vienna", "It rains.\n\nMan (speaking): hi") == (
        "Be Beethoven.\n\nLocation: Vienna\nStatus: It rains. Man (speaking): hi\n\n"
    )


@pytest.mark.parametrize(
    "turn",
    [
        said("", "x"),
        said("A:b", "x"),
        said("A(b)", "x"),
        said("Narrator", "x"),
        said("A", " \n"),
        Turn("A", "singing", "x"),
    ],
)
def test_what_is_no_turn_is_not_written(turn):
    with pytest.raises(ValueError, match="not a turn"):
        render_output([turn])


@pytest.mark.parametrize(
    "name", ["Beethoven", "Frau von Breuning", "Dr. Wawruch", "O'Neill", "Person 2", "É. d’Arc", "王"]
)
def test_names_are_roles(name):
    assert valid_role(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " A",
        "A ",
        "A  b",
        "1st",
        "A:",
        "A(b)",
        "A\n",
        "A*",
        "<|eot|>",
        "narrator",
        "a b c d e f g",
        "x" * 41,
    ],
)
def test_other_strings_are_not_roles(name):
    assert not valid_role(name)


# --- The loss mask ---------------------------------------------------------------------------------------------------

OUTPUT = render_output(
    [
        said("Man", "Hello."),
        thought(B, "Who is this?"),
        said(B, "Beethoven (speaking): hm."),
        said("Man", "I?"),
    ]
)


def trained(loss: str) -> list[str]:
    return [OUTPUT[start:end] for start, end in trained_spans(OUTPUT, B, loss)]


def test_character_loss_covers_action_content_and_end_mark():
    assert trained("character") == [
        "thinking): Who is this?<|eot|>",
        "speaking): Beethoven (speaking): hm.<|eot|>",
    ]


def test_character_speech_loss_covers_only_what_is_said_aloud():
    assert trained("character_speech") == [" Beethoven (speaking): hm.<|eot|>"]


def test_completion_loss_covers_everything():
    assert trained("completion") == [OUTPUT]


def test_a_trained_range_begins_where_a_cue_ends():
    for loss, action in (("character", None), ("character_speech", "speaking")):
        for start, _ in trained_spans(OUTPUT, B, loss):
            assert OUTPUT[:start].endswith(cue(B, action))


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="unknown loss 'all'"):
        trained_spans(OUTPUT, B, "all")


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([B, "Man", "É. d’Arc"]),
            st.sampled_from(["speaking", "thinking"]),
            st.text("ab (:)\n", min_size=1, max_size=12).filter(str.strip),
        ),
        max_size=6,
    )
)
def test_what_is_written_is_found_turn_for_turn(turns):
    output = render_output([Turn(*turn) for turn in turns])
    found = [(span.role, span.action, output[span.said : span.end]) for span in turn_spans(output)]
    assert found == [(role, action, f" {one_line(content)}<|eot|>") for role, action, content in turns]


def spans(output: str, loss: str = "character") -> list[str]:
    return [output[start:end] for start, end in trained_spans(output, B, loss)]


def test_released_turns_may_hold_newlines_and_follow_each_other_at_once():
    output = "Beethoven (speaking): One.\n\nTwo.<|eot|>Princess L. 2nd (speaking): Three.<|eot|>\n\nBeethoven (thinking): Four.<|eot|>"
    assert spans(output) == ["speaking): One.\n\nTwo.<|eot|>", "thinking): Four.<|eot|>"]
    assert spans(output, "character_speech") == [" One.\n\nTwo.<|eot|>"]
    assert spans(output, "completion") == [output]


def test_a_turn_without_a_head_is_nobodys():
    assert spans("It rains.<|eot|>\nBeethoven (speaking): Ha!<|eot|>\n") == ["speaking): Ha!<|eot|>"]


def test_words_without_an_end_mark_are_not_learned():
    assert spans("Beethoven (speaking): Ha!<|eot|>\nBeethoven (speaking): cut o") == ["speaking): Ha!<|eot|>"]
    assert spans("Man (speaking): Ha!<|eot|>\nMan (speaking): cut o", "completion") == [
        "Man (speaking): Ha!<|eot|>\n"
    ]
    assert spans("no end", "completion") == []


def test_a_missing_end_mark_does_not_make_another_speakers_words_the_characters():
    output = "Beethoven (speaking): Ha!\nMan (speaking): Hm.<|eot|>\nBeethoven (speaking): So.<|eot|>\n"
    assert spans(output) == ["speaking): So.<|eot|>"]
