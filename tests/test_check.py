"""`charforge check`: all files of a character at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from charforge import skeleton
from charforge.check import check
from charforge.errors import FileProblems

ROOT = Path(__file__).parents[1]


@pytest.fixture
def eliza(tmp_path):
    """The spec of a valid character."""
    return skeleton.write(tmp_path, "eliza", "Eliza Doolittle", "Eliza")[0]


def edit(spec, folder, old, new):
    path = spec.parent / folder / spec.name if folder == "questions" else (spec.parent / folder / "eliza.md")
    path = spec if folder == "" else path
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def refused(spec) -> str:
    with pytest.raises(FileProblems) as caught:
        check(spec, spec.parents[1])
    return caught.value.render()


def test_a_sound_character_is_described(eliza):
    assert check(eliza, eliza.parents[1]).facts == [
        "characters/eliza.yaml: Eliza Doolittle, preset laptop",
        "characters/eliza.yaml: portrays historical, knows until 1900-01-01",
        "characters/profiles/eliza.md: 5 paragraphs, 114 words",
        "characters/written/eliza.md: 1 dialogue, 1 protective, 157 words",
        "characters/questions/eliza.yaml: 8 questions (past 2, relations 2, values 2, traps 2), 2 multi-turn subjects",
    ]


def test_the_character_that_comes_along_is_sound():
    found = check(ROOT / "characters" / "beethoven.yaml", ROOT, strict=True)
    assert len(found.facts) == 5
    assert (found.unfinished, found.notes) == ([], [])


def test_everything_wrong_in_any_file_comes_at_once(eliza):
    edit(eliza, "", "#train:\n", "train: {epochss: 3}\n")
    edit(eliza, "profiles", "licence: CC0-1.0\n", "")
    edit(eliza, "written", "Paragraphs: birth, manner", "Paragraphs: brith")
    edit(eliza, "questions", "topic: traps", "topic: trap")
    error = refused(eliza)
    assert [line for line in error.splitlines() if line.startswith("error: ")] == [
        "error: characters/eliza.yaml:43: train.epochss: unknown key",
        "error: characters/profiles/eliza.md:4: the front matter has no 'licence'",
        "error: characters/questions/eliza.yaml:25: single[6].topic: expected one of past, relations, values, traps, got 'trap'",
        "error: characters/questions/eliza.yaml:28: single[7].topic: expected one of past, relations, values, traps, got 'trap'",
        "error: characters/written/eliza.md:8: the profile has no paragraph 'brith'",
    ]


def test_a_file_that_is_gone_does_not_hide_what_is_wrong_elsewhere(eliza):
    (eliza.parent / "profiles" / "eliza.md").unlink()
    edit(eliza, "questions", "id: money", "id: Money")
    assert [line for line in refused(eliza).splitlines() if line.startswith("error: ")] == [
        "error: characters/eliza.yaml:22: profile.file: no such file: characters/profiles/eliza.md",
        (
            "error: characters/questions/eliza.yaml:18: single[4].id: expected an id such as first-keyboard "
            "(small letters, digits, single hyphens, at most 64), got 'Money'"
        ),
    ]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "error: characters/profiles/eliza.md: the file is empty"),
        (
            "---\nname: Eliza\nsource: Café\n".encode("latin-1"),
            (
                "error: characters/profiles/eliza.md:3: not UTF-8: byte 0xe9 in column 12\n  3 | source: Café\n"
                "hint: save it as UTF-8, for example: iconv -f LATIN1 -t UTF-8"
            ),
        ),
    ],
)
def test_an_empty_or_latin_1_profile_is_told(eliza, content, error):
    (eliza.parent / "profiles" / "eliza.md").write_bytes(content)
    assert refused(eliza) == error


def test_a_life_in_four_paragraphs_and_a_topic_without_questions_are_told(eliza):
    text = (eliza.parent / "profiles" / "eliza.md").read_text()
    (eliza.parent / "profiles" / "eliza.md").write_text(
        text[: text.index("## Character")].replace("{#birth}", "{#manner}")
    )
    edit(eliza, "written", "birth, manner", "manner")
    edit(eliza, "questions", "topic: traps", "topic: past")
    assert refused(eliza) == (
        "error: characters/profiles/eliza.md: expected at least 5 paragraphs, got 4\n"
        "hint: scenes are spread over the paragraphs: one for each period or theme of the life\n\n"
        "error: characters/questions/eliza.yaml: single: no question on the topic traps\n"
        "hint: the report compares the topics past, relations, values, traps"
    )


def test_overrides_are_checked_too(eliza):
    with pytest.raises(FileProblems) as caught:
        check(eliza, eliza.parents[1], overrides=["train.epochs=0"])
    assert caught.value.render() == (
        "error: --set train.epochs=0: train.epochs: expected a whole number between 1 and 1000, got 0"
    )


def test_released_data_are_read_too(eliza):
    folder = eliza.parent / "data"
    folder.mkdir()
    (folder / "p.jsonl").write_text('{"prompt": "a", "output": "b<|eot|>"}\n{}\n{"prompt": "a"}\n')
    (folder / "g.json").write_text('[{"dialogue": [{"role": "Eliza", "content": "Garn."}]}]')
    (folder / "m.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 2)
    edit(
        eliza,
        "",
        "#train:\n",
        "train: {data: {prompted: ./data/p.jsonl}, mix: {data: ./data/m.jsonl, ratio: 1}}\n",
    )
    assert check(eliza, eliza.parents[1]).facts[5:] == [
        "characters/data/p.jsonl: 1 sample, 2 rejected, the first: line 2: no prompt",
        "characters/data/m.jsonl: 2 general samples",
    ]
    edit(eliza, "", "{prompted: ./data/p.jsonl}", "{generated: ./data/g.json}")
    assert check(eliza, eliza.parents[1]).facts[5] == "characters/data/g.json: 1 dialogue"
    (folder / "m.jsonl").write_text("[{")
    (folder / "g.json").write_text("{}")
    assert refused(eliza) == (
        "error: characters/data/g.json: nothing in it can be trained on; of 1 the first: line 1: no dialogue\n"
        'hint: each line is {"setting": […], "location": …, "dialogue": [{"role", "action", "content"}]}\n\n'
        "error: characters/data/m.jsonl:1: not JSON: Expecting property name enclosed in double quotes\n"
        "hint: is the file whole? fetch it again"
    )


def test_large_data_are_left_to_the_build_and_all_data_while_the_spec_is_wrong(eliza, monkeypatch):
    (eliza.parent / "data").mkdir()
    (eliza.parent / "data" / "p.jsonl").write_text("{\n" * 5)
    edit(eliza, "", "#train:\n", "train: {data: {prompted: ./data/p.jsonl}}\n")
    assert "characters/data/p.jsonl" in refused(eliza)
    monkeypatch.setattr("charforge.check.MAX_LOOKED_INTO", 9)
    assert check(eliza, eliza.parents[1]).facts[5] == (
        "characters/data/p.jsonl: 10 bytes, too large to look into here: the build does"
    )
    monkeypatch.undo()
    edit(eliza, "", "preset: laptop", "preset: lapto")
    assert "p.jsonl" not in refused(eliza)


def test_transcripts_and_questions_to_come_are_told(eliza):
    folder = eliza.parent / "transcripts"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"question": "Who are you?", "answer": "Eliza."}\n')
    (folder / "b.jsonl").write_text("")
    edit(
        eliza,
        "",
        "questions: questions/eliza.yaml",
        "questions: null\n  transcripts: [{name: mine, files: [transcripts/a.jsonl]}]",
    )
    found = check(eliza, eliza.parents[1]).facts[4:]
    assert found[0] == "interview.questions: 40 and 10 wanted of embedded/smollm2-135m-instruct"
    assert found[1] == (
        "characters/transcripts/a.jsonl: mine, 1 answer, 0 interviews, 1 oddity, the first: "
        "characters/transcripts/a.jsonl: line 1: nobody says what the question is about; taken for past"
    )
    edit(eliza, "", "transcripts/a.jsonl]", "transcripts/a.jsonl, transcripts/b.jsonl]")
    assert refused(eliza) == "error: characters/transcripts/b.jsonl: the file is empty"
    (folder / "b.jsonl").write_text('{"answer": "Garn."}\n')
    assert refused(eliza).startswith("error: characters/transcripts/b.jsonl:")


def test_who_is_asked_nothing_needs_no_question_on_every_topic(eliza):
    folder = eliza.parent / "transcripts"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"question": "Who are you?", "answer": "Eliza."}\n')
    edit(eliza, "questions", "topic: traps", "topic: past")
    assert "no question on the topic traps" in refused(eliza)
    only = "  trained: false\n  baselines: []\n  transcripts: [{name: mine, files: [transcripts/a.jsonl]}]"
    edit(eliza, "", "questions/eliza.yaml ", f"questions/eliza.yaml\n{only} ")
    assert check(eliza, eliza.parents[1]).facts[-2:-1] == [
        "characters/questions/eliza.yaml: 8 questions (past 4, relations 2, values 2, traps 0), 2 multi-turn subjects"
    ]
