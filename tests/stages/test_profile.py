"""A profile is read into paragraphs that keep their names; everything wrong with it is told at once, with its line."""

from __future__ import annotations

import pytest

from charforge.errors import FileProblems
from charforge.stages import profile

FRONT = "---\nname: Anna\nlicence: CC0-1.0\nsource: written here\n---\n"


def problems(text: str) -> list[str]:
    with pytest.raises(FileProblems) as caught:
        profile.read(text, file="p.md")
    return [problem.render() for problem in caught.value.problems]


def test_a_profile_becomes_paragraphs_with_ids_and_sections():
    text = (
        FRONT
        + "\n# Anna\n\nBorn by\nthe sea. {#born}\n\n## Work\n\nShe kept the light.\n\nAnd the log. {#log}\n"
    )
    assert profile.read(text, file="p.md") == {
        "name": "Anna",
        "licence": "CC0-1.0",
        "source": "written here",
        "paragraphs": [
            {"id": "born", "number": 1, "section": "", "text": "Born by the sea."},
            {"id": "p2", "number": 2, "section": "Work", "text": "She kept the light."},
            {"id": "log", "number": 3, "section": "Work", "text": "And the log."},
        ],
    }


def test_line_ends_mark_and_anchor_position_do_not_matter():
    text = "\ufeff" + (FRONT + "One.\n{#one}\n\n\nTwo.   {#two}").replace("\n", "\r\n")
    assert [(p["id"], p["text"]) for p in profile.read(text, file="p.md")["paragraphs"]] == [
        ("one", "One."),
        ("two", "Two."),
    ]


def test_quotes_around_a_front_matter_value_are_no_part_of_it():
    text = '---\n# a comment\nname: "Anna: a life"\nlicence: CC0\n\nsource: it\'s mine\n---\nx\n'
    found = profile.read(text, file="p.md")
    assert (found["name"], found["source"]) == ("Anna: a life", "it's mine")


def test_front_matter_is_required():
    assert problems("# Anna\n\nBorn by the sea.\n") == [
        (
            "error: p.md:1: no front matter: a profile says its name, licence and source\n  1 | # Anna\n"
            "hint: begin the file with '---', the lines 'name: …', 'licence: …' and 'source: …', and '---'"
        )
    ]


def test_an_incomplete_front_matter_names_the_missing_key():
    assert problems("---\nname: Anna\nsource: mine\n---\nText.\n") == [
        (
            "error: p.md:4: the front matter has no 'licence'\n  4 | ---\n"
            "hint: begin the file with '---', the lines 'name: …', 'licence: …' and 'source: …', and '---'"
        )
    ]


def test_an_unknown_key_is_told_with_the_nearest_one():
    assert problems("---\nname: Anna\nlicense: CC0\nsource: mine\n---\nText.\n") == [
        "error: p.md:3: unknown key 'license'\n  3 | license: CC0\nhint: did you mean 'licence'?"
    ]


def test_an_open_front_matter_is_told():
    assert problems("---\nname: Anna\n")[-1] == (
        "error: p.md:1: the front matter has no end\n  1 | ---\nhint: close it with a line '---'"
    )


def test_all_other_problems_are_told_at_once():
    text = (
        FRONT
        + "# Anna\n# Again\n### Deep\nOne. {#one}\n\nTwo {#x} three.\n\nFour. {#One}\n\nFive. {#one}\n\n{#six}\n\nBell \x07.\n"
    )
    assert [problem.split("\n")[0] for problem in problems(text)] == [
        "error: p.md:7: a second title",
        "error: p.md:8: a heading of level 3",
        "error: p.md:11: an anchor stands at the end of its paragraph, and there is one",
        "error: p.md:13: malformed anchor 'One'",
        "error: p.md:15: 'one' is the anchor of line 9 already",
        "error: p.md:17: an anchor without a paragraph",
        "error: p.md:19: control character",
    ]


def test_a_profile_without_paragraphs_is_told():
    assert problems(FRONT + "# Anna\n\n## Work\n") == [
        "error: p.md: the profile has no paragraphs\nhint: write what is known about the person below the front matter"
    ]
