"""Reading turns: what models write, what people write, and that nothing is lost on the way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge.dialogue import (
    ACTIONS,
    EOT,
    Turn,
    one_line,
    render_output,
    valid_role,
)
from charforge.reading import ALTERED, DOUBTFUL, LEFT_OUT, parse

B = "Beethoven"


def said(role: str, content: str) -> Turn:
    return Turn(role, "speaking", content)


def thought(role: str, content: str) -> Turn:
    return Turn(role, "thinking", content)


# Each: what a model wrote, the turns in it, and what else was found, as (line, reason).
CORPUS: dict[str, tuple[str, list[Turn], list[tuple[int, str]]]] = {
    "plain": (
        "Man (speaking): Who are you?\n\nBeethoven (thinking): A fool.\n\nBeethoven (speaking): Beethoven.\n",
        [said("Man", "Who are you?"), thought(B, "A fool."), said(B, "Beethoven.")],
        [],
    ),
    "no empty lines between": (
        "Man (speaking): Who?\nBeethoven (speaking): I.\nMan (speaking): Ah.",
        [said("Man", "Who?"), said(B, "I."), said("Man", "Ah.")],
        [],
    ),
    "CRLF and trailing spaces": (
        "Man (speaking): Who?  \r\n\r\nBeethoven (speaking): I.\r\n",
        [said("Man", "Who?"), said(B, "I.")],
        [],
    ),
    "bold header with the colon inside": (
        "**Ries (speaking):** Master?\n\n**Beethoven (thinking):** What now.",
        [said("Ries", "Master?"), thought(B, "What now.")],
        [(1, "markup"), (3, "markup")],
    ),
    "bold name with the action outside": (
        "**Ries** (speaking): Master?\n**Beethoven** (speaking): What now?",
        [said("Ries", "Master?"), said(B, "What now?")],
        [(1, "markup"), (2, "markup")],
    ),
    "a whole turn in italics": (
        "Ries (speaking): Master?\n*Beethoven (thinking): He came again.*",
        [said("Ries", "Master?"), thought(B, "He came again.")],
        [(2, "markup")],
    ),
    "two-line form": (
        "Ries (speaking)\nMaster, may I come in?\n\nBeethoven (speaking)\nThe door is open.",
        [said("Ries", "Master, may I come in?"), said(B, "The door is open.")],
        [],
    ),
    "two-line form with headings and italic thoughts": (
        "### Ries (speaking)\nMaster?\n\n### Beethoven (thinking)\n*He came again.*",
        [said("Ries", "Master?"), thought(B, "He came again.")],
        [(1, "markup"), (4, "markup"), (4, "markup")],
    ),
    "several paragraphs in one turn": (
        "Beethoven (speaking): First I was angry.\n\nThen I was not.\nNow I am old.\n\nRies (speaking): I see.",
        [said(B, "First I was angry. Then I was not. Now I am old."), said("Ries", "I see.")],
        [],
    ),
    "colons and parentheses within speech": (
        "Beethoven (speaking): I tell you: he (the prince) left: for ever (and a day).\nRies (speaking): So: yes.",
        [said(B, "I tell you: he (the prince) left: for ever (and a day)."), said("Ries", "So: yes.")],
        [],
    ),
    "a note within a speech is no turn but is counted": (
        "Beethoven (speaking): I wrote to the prince.\n\nNote: he left.\n\nRies (speaking): I see.",
        [said(B, "I wrote to the prince. Note: he left."), said("Ries", "I see.")],
        [(3, "maybe-turn")],
    ),
    "an ordinary sentence with a colon is no turn and is not counted": (
        "Beethoven (speaking): I wrote.\nHe answered only this: nothing at all.",
        [said(B, "I wrote. He answered only this: nothing at all.")],
        [],
    ),
    "numbered turns": (
        "1. Ries (speaking): Master?\n2. Beethoven (speaking): Ries.\n3) Ries (speaking): Good day.",
        [said("Ries", "Master?"), said(B, "Ries."), said("Ries", "Good day.")],
        [(1, "markup"), (2, "markup"), (3, "markup")],
    ),
    "a bulleted list": (
        "- Ries (speaking): Master?\n- Beethoven (speaking): Ries - my boy.",
        [said("Ries", "Master?"), said(B, "Ries - my boy.")],
        [(1, "markup"), (2, "markup")],
    ),
    "quoted speech": (
        'Ries (speaking): "Master?"\nBeethoven (speaking): “Come in.”',
        [said("Ries", "Master?"), said(B, "Come in.")],
        [(1, "quotes"), (2, "quotes")],
    ),
    "quotes within speech stay": (
        'Beethoven (speaking): "Must it be?" I asked. He said "It must."',
        [said(B, '"Must it be?" I asked. He said "It must."')],
        [],
    ),
    "a whole turn in quotes": (
        '"Ries (speaking): Master?"\n"Beethoven (speaking): Come in."',
        [said("Ries", "Master?"), said(B, "Come in.")],
        [(1, "markup"), (2, "markup")],
    ),
    "stage directions on their own lines": (
        "Ries (speaking): Master?\n\n[Beethoven looks up.]\n\n(A long silence)\n*He frowns.*\n\nBeethoven (speaking): Ries.",
        [said("Ries", "Master?"), said(B, "Ries.")],
        [(3, "stage-direction"), (5, "stage-direction"), (6, "stage-direction")],
    ),
    "directions within speech are left out and counted": (
        "Beethoven (speaking): (smiling) Come in. *pours wine* Drink.",
        [said(B, "Come in. Drink.")],
        [(1, "stage-direction"), (1, "stage-direction")],
    ),
    "what may be emphasis is left as it is": (
        "Beethoven (speaking): Well, *never* again. *Never!*",
        [said(B, "Well, *never* again. *Never!*")],
        [],
    ),
    "a code fence": (
        "```\nRies (speaking): Master?\nBeethoven (speaking): Ries.\n```",
        [said("Ries", "Master?"), said(B, "Ries.")],
        [(1, "code-fence"), (4, "code-fence")],
    ),
    "preamble, setting and postscript": (
        "Sure! Here is it:\n\nLocation: Vienna\n\nRies (speaking): Master?\n\nBeethoven (speaking): Ries.\n\nI hope it helps!\nBye.",
        [said("Ries", "Master?"), said(B, "Ries.")],
        [(1, "preamble"), (3, "preamble"), (9, "postscript"), (10, "postscript")],
    ),
    "rules, headings and a change of scene": (
        "# Scene 1\nRies (speaking): Master?\n---\nThe next day.\n## Scene 2\nLocation: Baden\nBeethoven (speaking): Ries.\n---\nEnd.",
        [said("Ries", "Master?"), said(B, "Ries.")],
        [
            (1, "preamble"),
            (3, "heading"),
            (4, "heading"),
            (5, "heading"),
            (6, "heading"),
            (8, "heading"),
            (9, "postscript"),
        ],
    ),
    "a setting in the middle ends the turn": (
        "Ries (speaking): Master?\nStatus: It rains.\nIt pours.\nBeethoven (speaking): Ries.",
        [said("Ries", "Master?"), said(B, "Ries.")],
        [(2, "setting"), (3, "setting")],
    ),
    "a narrator": (
        "Narrator: It is night.\nIt rains.\n\nBeethoven (speaking): Who is there?\n\nNarrator (speaking): Nobody.",
        [said(B, "Who is there?")],
        [(1, "narrator"), (2, "narrator"), (6, "narrator")],
    ),
    "narration without a narrator is kept and counted": (
        "Beethoven (speaking): Who is there?\n\nBeethoven rises and walks to the window.\n\nRies (speaking): It is me.",
        [said(B, "Who is there? Beethoven rises and walks to the window."), said("Ries", "It is me.")],
        [(3, "maybe-narration")],
    ),
    "other actions": (
        "Ries (whispering): Master?\nBeethoven (thinking to himself): Louder.\nBeethoven (angrily): Louder!",
        [said("Ries", "Master?"), thought(B, "Louder."), said(B, "Louder!")],
        [(1, "action"), (2, "action"), (3, "action")],
    ),
    "no actions at all": (
        "Beethoven: Who?\nStranger: A friend.\nBeethoven: (thinking) A friend!\nStranger: Yes.",
        [said(B, "Who?"), said("Stranger", "A friend."), thought(B, "A friend!"), said("Stranger", "Yes.")],
        [],
    ),
    "an action missing once": (
        "Ries (speaking): Master?\nBeethoven (speaking): Ries.\nRies: You heard me?",
        [said("Ries", "Master?"), said(B, "Ries."), said("Ries", "You heard me?")],
        [],
    ),
    "a stranger who speaks once without an action is counted": (
        "Beethoven (speaking): Who?\nStranger: A friend.",
        [said(B, "Who? Stranger: A friend.")],
        [(2, "maybe-turn")],
    ),
    "a known name in capitals": (
        "BEETHOVEN (SPEAKING): Who?\nRIES (SPEAKING): I.",
        [said(B, "Who?"), said("RIES", "I.")],
        [(1, "respelled")],
    ),
    "titles and particles": (
        "Frau von Breuning (speaking): Ludwig!\nDr. Wawruch (speaking): Rest.\nJean-Luc d’Arc (speaking): Oui.",
        [said("Frau von Breuning", "Ludwig!"), said("Dr. Wawruch", "Rest."), said("Jean-Luc d’Arc", "Oui.")],
        [],
    ),
    "no colon after the action": (
        "Ries (speaking) Master?\nBeethoven (thinking) Louder.",
        [said("Ries", "Master?"), thought(B, "Louder.")],
        [],
    ),
    "square brackets": (
        "Ries [speaking]: Master?\nBeethoven [thinking]: Louder.",
        [said("Ries", "Master?"), thought(B, "Louder.")],
        [],
    ),
    "end marks": (
        f"Ries (speaking): Master?{EOT}\nBeethoven (speaking): Ries.{EOT} and more\n\nRies (speaking): Good day{EOT}",
        [said("Ries", "Master?"), said(B, "Ries."), said("Ries", "Good day")],
        [(2, "after-end")],
    ),
    "two turns on one line, told apart by an end mark": (
        f"Ries (speaking): Master?{EOT}Beethoven (speaking): Ries.{EOT}",
        [said("Ries", "Master?"), said(B, "Ries.")],
        [],
    ),
    "two turns on one line with nothing between are counted": (
        "Ries (speaking): Master? Beethoven (speaking): Ries.",
        [said("Ries", "Master? Beethoven (speaking): Ries.")],
        [(1, "inline-turn")],
    ),
    "an empty turn": (
        "Ries (speaking):\n\nBeethoven (speaking): Ries.",
        [said(B, "Ries.")],
        [(1, "empty-turn")],
    ),
    "a special token of a chat template": (
        "Ries (speaking): Master?<|im_end|>\nBeethoven (speaking): Ries.",
        [said("Ries", "Master?< |im_end|>"), said(B, "Ries.")],
        [(1, "special-token")],
    ),
    "no turns at all": ("Once upon a time.\nThe end.", [], [(1, "preamble"), (2, "preamble")]),
    "nothing": ("", [], []),
}


@pytest.mark.parametrize("name", CORPUS)
def test_what_models_write_is_read_and_accounted_for(name):
    text, turns, leftovers = CORPUS[name]
    parsed = parse(text, known=[B])
    assert list(parsed.turns) == turns
    assert [(left.line, left.reason) for left in parsed.leftovers] == leftovers


def test_leftovers_keep_the_text():
    parsed = parse("Sure:\nRies (softly): Master?\n[A pause.]", known=[B])
    assert list(parsed.leftovers) == [
        (1, "preamble", "Sure:"),
        (2, "action", "softly"),
        (3, "stage-direction", "[A pause.]"),
    ]
    assert parsed.count(LEFT_OUT) == 2
    assert parsed.count(ALTERED) == 1
    assert parsed.count(DOUBTFUL) == 0


def test_turns_know_their_lines():
    parsed = parse("\nRies (speaking): Master?\n\nBeethoven (speaking):\nRies.")
    assert parsed.lines == (2, 4)


# --- Writing ---------------------------------------------------------------------------------------------------------

roles = st.from_regex(r"[A-Za-zÄÖÜé][A-Za-zäöü .'’&-]{0,20}", fullmatch=True).filter(valid_role)
contents = st.text(max_size=80).map(one_line).filter(bool)
hostile = st.lists(
    st.sampled_from(
        [
            EOT,
            "\n",
            "Man (speaking):",
            " hi",
            "```",
            "(",
            ":",
            "Beethoven (thinking): x",
            "<|",
            "|>",
            "\u2028",
            "---",
        ]
    ),
    min_size=1,
    max_size=8,
).map("".join)
turns_strategy = st.lists(st.builds(Turn, roles, st.sampled_from(ACTIONS), contents), max_size=6)


@settings(deadline=None)
@given(turns_strategy)
def test_parsing_what_was_rendered_gives_the_same_turns(turns):
    parsed = parse(render_output(turns))
    assert list(parsed.turns) == turns
    assert parsed.leftovers == ()


@settings(deadline=None)
@given(
    st.lists(
        st.builds(Turn, roles, st.sampled_from(ACTIONS), hostile.filter(one_line)), min_size=1, max_size=4
    )
)
def test_no_content_can_forge_a_turn(turns):
    output = render_output(turns)
    assert output.count(EOT) == output.count("\n") == len(turns)
    assert list(parse(output).turns) == [Turn(t.role, t.action, one_line(t.content)) for t in turns]


@settings(deadline=None)
@given(st.text(max_size=300) | st.lists(hostile, max_size=6).map("\n".join))
def test_any_text_is_read_and_every_word_is_kept_or_counted(text):
    parsed = parse(text, known=[B])
    for turn in parsed.turns:
        assert valid_role(turn.role)
        assert turn.action in ACTIONS
        assert turn.content == one_line(turn.content) != ""
    kept = " ".join(
        [f"{t.role} {t.action} {t.content}" for t in parsed.turns] + [left.text for left in parsed.leftovers]
    )
    for line in text.replace(EOT, "\n").splitlines():
        for word in line.split():
            letters = "".join(c for c in word if c.isalpha())
            assert letters in "".join(c for c in kept if c.isalpha())


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Ries", "Beethoven"]),
            st.sampled_from(ACTIONS),
            st.sampled_from(["Yes.", "No: never (I swear)."]),
        )
    )
)
def test_the_form_people_write_is_read_without_leftovers(rows):
    turns = [Turn(*row) for row in rows]
    parsed = parse("\n\n".join(f"{t.role} ({t.action}): {t.content}" for t in turns))
    assert list(parsed.turns) == turns
    assert parsed.leftovers == ()
