"""Others' files: who is in them, what a profile says, what is written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge import imports, questions
from charforge.errors import CharForgeError, FileProblems
from charforge.files import MIB
from charforge.stages import profile


def put(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


ANSWER = [{"question": "Who was your best friend?", "answer": "Mary.", "topic": "relations"}]


# --- Who is there ----------------------------------------------------------------------------------------------------


def test_a_released_folder_is_parted_by_character(tmp_path):
    root = tmp_path / "repo" / "data"
    for name in (
        "interview_single/Ada_m-1.json",
        "interview_turns/Ada_m-1.jsonl",
        "interview_turns/Byron_m_2.jsonl",
        "interview_single/notes.txt",
        "questions/generated_agent_interview_Ada.json",
        "questions/generated_agent_interview_for_multiturn_Ada.json",
        "profiles/wiki_Ada.txt",
        "profiles/wiki_Nobody.txt",
        ".hidden/interview_single/Eve_m.json",
    ):
        put(root / name, ANSWER)
    (ada, byron), others = imports.find([tmp_path / "repo"])
    assert [path.name for path in others] == ["notes.txt"]
    assert (ada.who, ada.released, ada.profile) == ("Ada", True, root / "profiles/wiki_Ada.txt")
    assert ada.systems == {
        "m-1": [
            (root / "interview_single/Ada_m-1.json", None),
            (root / "interview_turns/Ada_m-1.jsonl", None),
        ]
    }
    assert sorted(path.name for path in ada.questions) == [
        "generated_agent_interview_Ada.json",
        "generated_agent_interview_for_multiturn_Ada.json",
    ]
    assert (byron.who, list(byron.systems), byron.profile) == ("Byron", ["m_2"], None)


def test_other_files_are_one_character_and_named_by_file_or_contestant(tmp_path):
    own = {**ANSWER[0], "text": "Who?", "contestant": "trained"}
    first = put(tmp_path / "My Model (v2).jsonl", ANSWER[0])
    second = put(
        tmp_path / "single.jsonl", json.dumps(own) + "\n" + json.dumps({**own, "contestant": "openai/gpt"})
    )
    (source,), _ = imports.find([first, second])
    assert (source.who, source.released) == ("", False)
    assert source.systems == {
        "my-model-v2": [(first, None)],
        "imported-trained": [(second, "trained")],
        "openai-gpt": [(second, "openai/gpt")],
    }


def test_a_folder_of_plain_files_gives_them_all(tmp_path):
    put(tmp_path / "a.csv", "question,answer\nWho?,I.\n")
    put(tmp_path / "b.json", ANSWER)
    put(tmp_path / "readme.md", "no")
    assert [list(source.systems) for source in imports.find([tmp_path])[0]] == [["a", "b"]]


def test_a_folder_without_transcripts_is_said(tmp_path):
    with pytest.raises(CharForgeError, match="no transcript in this folder"):
        imports.find([tmp_path])
    put(tmp_path / "profiles/wiki_Ada.txt", "# Ada")
    with pytest.raises(CharForgeError, match="no transcript there"):
        imports.find([tmp_path])


def test_a_file_that_is_not_there_or_too_large_is_said(tmp_path):
    with pytest.raises(FileProblems, match="1 problem"):
        imports.find([tmp_path / "none.json"])
    big = tmp_path / "big.jsonl"
    with big.open("wb") as file:
        file.truncate(65 * MIB)
    with pytest.raises(FileProblems) as caught:
        imports.find([big])
    assert "too large" in caught.value.render()


# --- Reading ---------------------------------------------------------------------------------------------------------


def test_a_question_has_one_id_in_all_systems_and_problems_of_all_are_told(tmp_path):
    own = {
        "question": "best-friend",
        "text": "who was your best FRIEND?",
        "answer": "Mary!",
        "topic": "values",
    }
    put(tmp_path / "b.json", ANSWER)
    put(tmp_path / "c.json", [own])
    put(tmp_path / "sft.json", [{**own, "text": "Why?"}])
    (source,), _ = imports.find([tmp_path])
    found, asked = imports.read(source, "Ada King", "King")
    assert list(found) == ["sft", "b", "c"]
    best = questions.question_id("single", "who was your best friend")
    assert {record["id"] for each in found.values() for record in each.single} == {
        "sft/best-friend",
        f"b/{best}",
        f"c/{best}",
    }
    assert [record["id"] for record in asked["single"]] == ["best-friend", best]
    put(tmp_path / "b.json", [{}])
    put(tmp_path / "c.json", [{}])
    with pytest.raises(FileProblems) as caught:
        imports.read(source, "Ada King", "King")
    assert len(caught.value.problems) == 2


# --- The day of death ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("Ada (10 December 1815 – 27 November 1852) counted.", "1852-11-27"),
        ("Ada (born 10 December 1815 – 27 November 1852) counted.", "1852-11-27"),
        ("Isaac (December 25, 1642 – March 20, 1727) wrote.", "1727-03-20"),
        ("Gaius (12 July 100 BC – 15 March 44 BC) ruled.", "-0043-03-15"),
        ("Gaius (12 July 100 BCE - 15 March 44 BCE) ruled.", "-0043-03-15"),
        ("Nobody (c. 470 – 399 BC) asked.", "-0398-12-31"),
        ("Nobody (63 BC – AD 14) ruled.", "0014-12-31"),
        ("Nobody (9 BC – 1 BC) ruled.", "0000-12-31"),
        ("Nobody (1815–1852) counted.", "1852-12-31"),
        ("Nobody (1815 – February 1852) counted.", "1852-02-29"),
        ("He was born in 1769 and died on 5 May 1821 far away.", "1821-05-05"),
        ("She died in 1852.", "1852-12-31"),
        ("Spans of 200 – 300 people, from 1802 to 1812, and (born 1950).", None),
        ("(19 of 20)", None),
        ("", None),
    ],
)
def test_the_day_of_death_is_found_where_the_profile_tells_it(text, day):
    found = imports.last_day(text)
    assert (found and found[0]) == day


@given(st.text(alphabet="(0123456789– -BCdied toMay,.)", max_size=80))
def test_no_text_breaks_the_search_for_a_day(text):
    found = imports.last_day(text)
    assert found is None or len(found[0]) in {10, 11}


def test_a_given_day_may_be_written_as_people_write_it():
    assert [
        imports.day(text) for text in ("1827-03-26", "26 March 1827", "March 15, 44 BC", "-0043-03-15")
    ] == [
        "1827-03-26",
        "1827-03-26",
        "-0043-03-15",
        "-0043-03-15",
    ]
    with pytest.raises(CharForgeError) as caught:
        imports.day("soon")
    assert caught.value.render() == (
        "error: --knows-until: expected a day, got 'soon'\n"
        "hint: such as 1827-03-26, or '15 March 44 BC' (--knows-until=-0043-03-15)"
    )


# --- The profile -------------------------------------------------------------------------------------------------------

MOTHER = (
    "She was born in London, and learnt to count before she could read; {#odd} her mother saw to it, and there was no end "
    "of it, nor of the money."
)
WIKI = """\
# Ada King

Ada King (10 December 1815 – 27 November 1852) counted.\x07

Early life
{MOTHER}

### Later \t life
Mills
She wrote about mills.
And about wheels.
""".replace("{MOTHER}", MOTHER)


def test_a_text_becomes_a_profile_of_ours_word_for_word():
    text, life = imports.as_profile(WIKI.encode(), "profiles/wiki_Ada.txt", None, wikipedia=True)
    assert text.startswith(
        "---\nname: Ada King\nlicence: CC BY-SA, as Wikipedia's texts are\n"
        "source: Wikipedia, as released in wiki_Ada.txt\n---\n\n# Ada King\n"
    )
    assert profile.read(text, file="x") == life
    assert [(each["section"], each["text"]) for each in life["paragraphs"]] == [
        ("", "Ada King (10 December 1815 – 27 November 1852) counted."),
        (
            "Early life",
            MOTHER.replace("{#", "{ #"),
        ),
        ("Later life", "Mills She wrote about mills. And about wheels."),
    ]


def test_a_profile_of_ours_stays_as_it_is_but_for_a_licence():
    ours = "---\nname: Ada\nlicence: CC0-1.0\nsource: me\n---\n# Ada\n\nShe counted. {#count}\n"
    assert imports.as_profile(ours.encode(), "ada.md", None, wikipedia=False)[0] == ours
    text, life = imports.as_profile(ours.encode(), "ada.md", "mine\nalone", wikipedia=False)
    assert (text, life["licence"]) == (ours.replace("CC0-1.0", "mine alone"), "mine alone")


def test_a_text_that_does_not_say_whose_it_is_is_refused():
    with pytest.raises(FileProblems) as caught:
        imports.as_profile(b"\nShe counted.", "ada.txt", None, wikipedia=False)
    assert caught.value.render() == (
        "error: ada.txt:2: the profile does not say whose it is\n"
        "hint: begin it with a line '# Full name', or with front matter (docs/transcripts.md)"
    )


@given(st.text(max_size=200) | st.text(alphabet="#{}-\n ab.", max_size=80))
def test_whatever_a_profile_holds_it_is_read_or_refused(text):
    try:
        made, life = imports.as_profile(
            f"# Ada\n\n{text}".encode(errors="replace"), "a.txt", None, wikipedia=False
        )
    except FileProblems:
        return
    assert profile.read(made, file="a") == life


# --- Questions -----------------------------------------------------------------------------------------------------------


def test_a_question_that_no_file_can_hold_is_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(imports, "MAX_SINGLE", 2)
    texts = ["Who?", "W" * 501, "What <|eot|>?", "Where\x9b?", "Why: not?", "'When'?"]
    single = [{"id": f"q-{place}", "topic": "past", "question": text} for place, text in enumerate(texts)]
    text, lost = imports.as_questions({"single": single, "multi": []}, "Ada")
    assert lost == 4
    assert [each.question for each in questions.read(text, file="q").single] == ["Who?", "Why: not?"]
