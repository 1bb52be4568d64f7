"""What models write, in many forms, is read the same way each time: tests/replies/ has the replies and what is in them.

Each file is a reply, then `%%% turns` with lines `Name> said` or `Name~ thought`, then `%%% leftovers` with lines `line reason`.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge import checks
from charforge.dialogue import ACTIONS, EOT, Turn, one_line, render_output, valid_role
from charforge.reading import LEFT_OUT, Parsed, parse

KNOWN = ("Beethoven", "Ludwig van Beethoven")
FILES = sorted((Path(__file__).parent / "replies").glob("*.txt"))


def sample(path: Path) -> tuple[str, list[Turn], list[tuple[int, str]]]:
    reply, turns, leftovers = re.split(r"%%% \w+\n", path.read_bytes().decode())
    read = [re.match(r"(.*?)([>~]) (.*)", row).groups() for row in turns.splitlines()]
    return (
        reply,
        [Turn(role, "speaking" if mark == ">" else "thinking", content) for role, mark, content in read],
        [(int(line), reason) for line, reason in (row.split() for row in leftovers.splitlines())],
    )


def test_there_are_many_samples():
    assert len(FILES) >= 40


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_reply_is_read_as_written_down(path, ends):
    reply, turns, leftovers = sample(path)
    parsed = parse(reply.replace("\n", ends), known=KNOWN)
    assert list(parsed.turns) == turns
    assert [(left.line, left.reason) for left in parsed.leftovers] == leftovers


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_was_read_is_written_and_read_again(path):
    turns = parse(sample(path)[0], known=KNOWN).turns
    assert parse(render_output(turns)).turns == turns


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[^\W_]+", text.casefold()))


def assert_each_word_is_once_in_turns_or_leftovers(text: str, parsed: Parsed) -> None:
    """Names and actions of headers aside: these may be spelled anew, and a missing action is put in."""
    kept = [turn.content for turn in parsed.turns]
    kept += [
        left.text
        for left in parsed.leftovers
        if left.reason in {*LEFT_OUT, "markup", "code-fence", "action"} - {"empty-turn"}
    ]
    heads = [f"{turn.role} {turn.action}" for turn in parsed.turns]
    heads += [left.text for left in parsed.leftovers if left.reason in ("respelled", "empty-turn")]
    there, found = words(text.replace(EOT, " ")), words("\n".join(kept))
    assert found - there == Counter(), "made up or kept twice"
    assert there - found - words(" ".join(heads)) - Counter(dict.fromkeys(ACTIONS, 99)) == Counter(), "lost"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_word_of_a_reply_is_lost_or_doubled(path):
    reply = sample(path)[0]
    parsed = parse(reply, known=KNOWN)
    if not parsed.count(["json"]):  # whose keys are no words of anybody
        assert_each_word_is_once_in_turns_or_leftovers(reply, parsed)


HEADERS = (
    "Beethoven (speaking):",
    "**Beethoven (thinking):**",
    "Ries (speaking):",
    "**Ries** *(speaking):*",
    "RIES (whispers):",
    "Ries:",
    "Stranger:",
    "1. Ries (pupil) (speaking):",
    "> Beethoven [thinking]:",
    "Ries, speaking:",
    "Narrator:",
    "BEETHOVEN",
    "### Ries",
    "Turn 3:",
    "[10:15] Beethoven (thinking aloud):",
)
PIECES = (
    "I know: it is late (very late).",
    "*sighs*",
    "(smiling)",
    "*never*",
    "[He rises.]",
    "“Go,” he said.",
    '"Come in."',
    "Note: he left.",
    "<think>",
    "</think>",
    "---",
    "```",
    "Location: Bonn",
    "I hope this helps!",
    "10:30:",
    "(He walks",
    "away.)",
    "Beethoven rises.",
    "und so fort — 3. Satz",
    "😠",
    "",
)
replies = st.lists(
    st.one_of(
        st.builds(lambda head, said: f"{head} {said}", st.sampled_from(HEADERS), st.sampled_from(PIECES)),
        st.sampled_from(HEADERS),
        st.sampled_from(PIECES),
        st.lists(st.sampled_from(PIECES), max_size=4).map(" ".join),
    ),
    max_size=12,
).map("\n".join)


@settings(deadline=None, max_examples=300)
@given(replies)
def test_no_word_of_any_mixture_of_forms_is_lost_or_doubled(text):
    parsed = parse(text, known=KNOWN)
    assert_each_word_is_once_in_turns_or_leftovers(text, parsed)
    for turn in parsed.turns:
        assert valid_role(turn.role)
        assert turn.content == one_line(turn.content) != ""


@settings(deadline=None, max_examples=300)
@given(replies | st.text(max_size=200))
def test_what_a_model_thought_is_never_said(text):
    hidden = f"<think>{text.replace('think', 'thunk').replace('<', '').replace('[', '')} zebra</think>"
    parsed = parse(
        f"Ries (speaking): One.\n{hidden}\nBeethoven (speaking): Two. {hidden} Three.", known=KNOWN
    )
    assert [turn.content for turn in parsed.turns] == ["One.", "Two. Three."]
    assert parsed.count(["reasoning"]) == 2


@settings(deadline=None)
@given(st.text(max_size=100) | replies)
def test_a_reply_that_may_be_json_never_raises(text):
    for wrapped in (f"[{text}]", f'{{"turns": [{{"role": "A", "content": {text!r}}}]}}', f"{{{text}"):
        parse(wrapped, known=KNOWN)
        checks.refusal(wrapped)


MEGABYTE = 1_000_000
ADVERSARIAL = {
    "spaces": " ",
    "line ends": "\n",
    "stars": "*",
    "dashes": "- ",
    "numbers": "1. ",
    "name and spaces": "Anna" + " " * 5000,
    "name and dashes": "a-",
    "open parentheses": "(",
    "open brackets": "[",
    "names with parentheses": "Anna (",
    "headers": "Anna (speaking):\n",
    "headers on one line": "Anna (speaking): ",
    "known headers": "Beethoven: x\n",
    "thought begins": "<think>",
    "thought ends": "</think>\n",
    "thoughts": "<think></think>",
    "braces": "{",
    "json": '[{"',
    "json lines": '{"role": "A", "content": "b"}\n',
    "quotes": '"',
    "asides": "*a ",
    "underscores": "_a_b",
    "directions": "[a\n",
    "turns": "Turn ",
    "clocks": "10:30 ",
    "rules": "-- ",
    "end marks": "<|eot|>",
    "special tokens": "<|",
    "capitals alone": "BEETHOVEN\n\n",
    "block quotes": "> a\n",
    "one word": "a",
    "tags": "<a",
}


@pytest.mark.parametrize("piece", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_a_megabyte_of_anything_is_read_in_good_time(piece):
    """No figure is asserted: what is quadratic in a megabyte would not end."""
    often = MEGABYTE // len(piece)
    for text in (piece * often, "> Beethoven (speaking): " + piece * (often // 4)):
        parsed = parse(text, known=KNOWN)
        checks.dialogue_form(parsed)
        checks.refusal(text)
