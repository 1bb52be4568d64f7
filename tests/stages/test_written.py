"""A written file is read by the parser that reads models, and everything doubtful in it is an error with its line."""

from __future__ import annotations

import pytest

from charforge.errors import FileProblems
from charforge.stages import written

HEAD = "Paragraphs: born, work\nType: chat\nLocation: The lamp room\nStatus: It storms."
TURNS = "Man (speaking): Who?\n\nAnna (thinking): A stranger.\n\nAnna (speaking): I am Anna."
SCENE = f"## At night {{#at-night}}\n\n{HEAD}\n\n{TURNS}\n"


def read(text: str):
    return written.read(text, file="w.md", short_name="Anna", paragraph_ids=["born", "work"])


def problems(text: str) -> list[str]:
    with pytest.raises(FileProblems) as caught:
        read(text)
    return [problem.render() for problem in caught.value.problems]


def one_problem(old: str, new: str) -> str:
    text = "# Scenes\n\n" + SCENE
    assert old in text
    (problem,) = problems(text.replace(old, new))
    return problem


def test_a_scene_becomes_a_dialogue_record():
    dialogues, protective = read("<!-- by hand\n -->\n# Scenes\n\n" + SCENE)
    assert protective == []
    assert dialogues == [
        {
            "id": "written/at-night",
            "kind": "written",
            "scene": None,
            "title": "At night",
            "paragraphs": ["born", "work"],
            "type": "chat",
            "location": "The lamp room",
            "background": "It storms.",
            "turns": [
                {"role": "Man", "action": "speaking", "content": "Who?"},
                {"role": "Anna", "action": "thinking", "content": "A stranger."},
                {"role": "Anna", "action": "speaking", "content": "I am Anna."},
            ],
        }
    ]


def test_a_protective_dialogue_says_what_was_tried():
    dialogues, protective = read(
        "# Protective dialogues\n\n" + SCENE.replace("Type:", "Provocation: He says radio.\nType:")
    )
    assert dialogues == []
    assert protective[0]["provocation"] == "He says radio."
    assert protective[0]["id"] == "written/at-night"


def test_comments_stand_anywhere_and_do_not_shift_lines():
    text = "# Scenes\n\n" + SCENE.replace("It storms.\n", "It storms.\n\n<!-- two\nlines -->\n").replace(
        "I am Anna.", ""
    )
    assert problems(text) == ["error: w.md:17: an empty turn\n  17 | Anna (speaking): "[:-1]]


def test_an_unknown_paragraph_is_told_with_the_nearest():
    assert one_problem("born, work", "born, wrok") == (
        "error: w.md:5: the profile has no paragraph 'wrok'\n  5 | Paragraphs: born, wrok\nhint: did you mean 'work'?"
    )


def test_an_unknown_header_key_is_told_with_the_nearest():
    text = "# Scenes\n\n" + SCENE.replace("Status:", "Stauts:")
    assert problems(text) == [
        "error: w.md:3: the scene has no 'Status'\n  3 | ## At night {#at-night}\nhint: header lines stand right below the heading",
        "error: w.md:8: unknown key 'Stauts'\n  8 | Stauts: It storms.\nhint: did you mean 'Status'?",
    ]


def test_a_missing_provocation_is_told():
    assert problems("# Protective dialogues\n" + SCENE)[0].startswith(
        "error: w.md:2: the scene has no 'Provocation'\n"
    )


def test_a_used_anchor_is_told_with_its_first_line():
    assert problems("# Scenes\n" + SCENE + SCENE)[0].split("\n")[0] == (
        "error: w.md:14: 'at-night' is the anchor of line 2 already"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" {#at-night}", "", "3: the scene has no anchor"),
        ("{#at-night}", "{#At night}", "3: malformed anchor 'At night'"),
        ("Type: chat", "Type:", "6: 'Type' is empty"),
        ("Type: chat", "Type: chat\nType: chat", "7: 'Type' is given twice"),
        ("born, work", "born, born", "5: paragraph 'born' is named twice"),
        ("(thinking)", "(dreaming)", "12: unknown action 'dreaming'"),
        ("(thinking): A stranger.", "(thinking):", "12: an empty turn"),
        ("Anna (speaking): I am Anna.", "Boy (speaking): Run!", "3: Anna never speaks in this scene"),
        ("Man (speaking)", "Some words.\nMan (speaking)", "10: text before the first turn"),
        ("I am Anna.", "I am Anna.\n\n[She rises.]", "16: a stage direction"),
        ("I am Anna.", "I am Anna.\n\nBoy: Run!", "16: may not belong to the turn above (maybe-turn)"),
        ("I am Anna.", '"I am Anna."', "14: quotes around a turn"),
        ("Man (speaking)", "**Man (speaking)**", "10: markup around a turn"),
        ("Man (speaking)", "Narrator (speaking)", "10: a narrator's line"),
        (
            "Anna (speaking)",
            "ANNA (speaking)",
            "14: 'ANNA' is spelled otherwise than the character's short_name",
        ),
        ("I am Anna.", "I am Anna.\n\n---", "16: no part of a turn (heading)"),
        ("# Scenes", "# Scens", "1: unknown part 'Scens'"),
        ("# Scenes", "# Scenes\n\nA note\nof two lines.", "3: text before the first scene"),
        ("# Scenes", "", "3: a scene before '# Scenes' or '# Protective dialogues'"),
    ],
)
def test_each_slip_is_an_error_on_its_line(old, new, message):
    assert one_problem(old, new).split("\n")[0] == f"error: w.md:{message}"


def test_too_few_turns_are_told():
    assert problems("# Scenes\n" + SCENE[: SCENE.index("Man")] + "Anna (speaking): I am Anna.\n") == [
        "error: w.md:2: the scene has 1 turn(s), at least 2 are needed\n  2 | ## At night {#at-night}"
    ]


def test_a_file_without_scenes_is_told():
    assert problems("<!-- soon -->\n")[0].split("\n")[0] == "error: w.md:1: no scenes"
