"""The rules for a character that is handed on: what is an error, what is unfinished, what is only noted."""

from __future__ import annotations

import re
from datetime import date

import pytest

from charforge import skeleton
from charforge.check import check
from charforge.errors import FileProblems

TODAY = date(2026, 11, 23)


@pytest.fixture
def ada(tmp_path):
    """The spec of a character of which nothing can be said but that it has few questions."""
    told = skeleton.Told(until="1852-11-27", source="Written from published facts.")
    path = skeleton.write(tmp_path, "ada", "Ada Lovelace", "Ada", told)[0]
    lives = (
        "Ada grew up at Kirkby Mallory, where her grandmother kept a strict house and many cats. {#childhood}",
        "A tutor taught her algebra from the age of eight, every morning before the walk. {#lessons}",
        "She met Charles Babbage at a party in June 1833 and saw his engine of brass. {#engine}",
        "Her notes on the analytical engine were printed in 1843, longer than the text itself. {#notes}",
        "She bet on horses, lost great sums, and pawned the family diamonds twice over. {#horses}",
    )
    head = (
        "---\nname: Ada Lovelace\nlicence: CC0-1.0\nsource: Written from published facts.\n---\n\n## Life\n\n"
    )
    (tmp_path / "characters/profiles/ada.md").write_text(head + "\n\n".join(lives) + "\n", encoding="utf-8")
    (tmp_path / "characters/written/ada.md").write_text(
        "# Scenes\n\n## The engine {#the-engine}\n\nParagraphs: engine\nType: chat\nLocation: London, June 1833\n"
        "Status: A party is on.\n\nGuest (speaking): What is it for?\n\nAda (speaking): For sums too dull for men.\n\n"
        "# Protective dialogues\n\n## Wires {#wires}\n\nParagraphs: engine\nProvocation: Someone speaks of computers.\n"
        "Type: chat\nLocation: London\nStatus: A stranger has questions.\n\nStranger (speaking): Do you own computers?\n\n"
        "Ada (speaking): Computers? Men who count for a wage? I own none.\n",
        encoding="utf-8",
    )
    return path


def edit(spec, folder, old, new):
    path = (
        spec if folder == "" else spec.parent / folder / ("ada.yaml" if folder == "questions" else "ada.md")
    )
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def errors(spec, **options):
    with pytest.raises(FileProblems) as caught:
        check(spec, spec.parents[1], today=TODAY, **options)
    return caught.value.render()


def look(spec):
    """Return what is unfinished and what is noted, but for the few questions."""
    found = check(spec, spec.parents[1], today=TODAY)
    notes = [one.render() for one in found.notes]
    few = [one for one in notes if "few questions on a topic: past 2" in one]
    assert len(few) == 1
    return [one.render() for one in found.unfinished], [one for one in notes if one not in few]


def test_nothing_is_said_of_a_plain_character(ada):
    assert look(ada) == ([], [])


# --- The person --------------------------------------------------------------------------------------------------------


def test_whom_it_portrays_has_to_be_said(ada):
    edit(ada, "", "portrays: historical\n", "")
    assert errors(ada) == (
        "error: characters/ada.yaml: portrays: this key is missing\n"
        "hint: say whom the character is made after: historical, living (with a notice) or fictional"
    )


def test_what_is_wrong_is_not_called_missing_as_well(ada):
    edit(ada, "", "portrays: historical\n", "portrays: dead\n")
    assert errors(ada) == (
        "error: characters/ada.yaml:17: portrays: expected one of historical, living, fictional, nothing, got 'dead'\n"
        "  17 | portrays: dead"
    )


def test_a_living_person_needs_a_notice(ada):
    edit(ada, "", "portrays: historical\n", "portrays: living\n")
    edit(ada, "", "1852-11-27", "2020-01-01")
    assert errors(ada) == (
        "error: characters/ada.yaml: notice: a living person needs a notice\n"
        "hint: tell readers that it is an imitation, who made it, and whether the person knows of it"
    )
    edit(ada, "", "portrays: living\n", "portrays: living\nnotice: An imitation. She was not asked.\n")
    assert look(ada)[0] == []


@pytest.mark.parametrize(
    ("portrays", "until", "error"),
    [
        ("historical", "1852-11-27", None),
        ("historical", "-0043-03-15", None),
        ("historical", "2016-11-23", None),
        (
            "historical",
            "2016-11-24",
            "notice: of a person who lived until 2016-11-24 readers need a notice",
        ),
        ("historical", "2026-11-23", "notice: of a person who lived until 2026-11-23 readers need a notice"),
        ("historical", "2026-11-24", "knows.until: 2026-11-24 is still to come"),
        ("living, notice: Made up.", "2026-11-24", "knows.until: 2026-11-24 is still to come"),
        ("living, notice: Made up.", "2026-11-23", None),
        ("living, notice: Made up.", "1950-01-01", None),
        ("living, notice: Made up.", "1852-11-27", "knows.until: nobody who lived on 1852-11-27 is living"),
        ("living, notice: Made up.", "-0043-03-15", "knows.until: nobody who lived on -0043-03-15 is living"),
        ("historical, notice: A made-up sequel.", "2020-01-01", None),
        ("fictional", "2365-01-01", None),
        ("fictional", "9999-12-31", None),
    ],
)
def test_the_boundary_fits_the_person(ada, portrays, until, error):
    edit(ada, "", "portrays: historical\n", f"portrays: {portrays}\n".replace(", ", "\n", 1))
    edit(ada, "", "1852-11-27", until)
    if error is None:
        check(ada, ada.parents[1], today=TODAY)
    else:
        assert re.search(r"error: characters/ada\.yaml(?::\d+)?: (.*)\n", errors(ada))[1] == error


# --- The skeleton's text -------------------------------------------------------------------------------------------------


def test_what_new_wrote_is_unfinished_and_refused_when_strict(tmp_path):
    spec = skeleton.write(tmp_path, "ada", "Ada Lovelace", "Ada")[0]
    unfinished, notes = look(spec)
    assert [one.splitlines()[0] for one in unfinished] == [
        "error: characters/ada.yaml:27: knows.until: the boundary is still the skeleton's",
        "error: characters/profiles/ada.md:4: the source is still the skeleton's",
        "error: characters/profiles/ada.md:11: this is still the skeleton's text (and 4 more like it)",
        "error: characters/written/ada.md:6: this dialogue is still the skeleton's (and 1 more like it)",
    ]
    assert notes == []
    assert errors(spec, strict=True) == "\n\n".join(unfinished)


# --- The profile -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "licence", ["CC0-1.0", "cc-by-sa-4.0", "MIT OR Apache-2.0", "own work", "Own work", "Public domain"]
)
def test_a_known_licence_is_nothing_to_speak_of(ada, licence):
    edit(ada, "profiles", "CC0-1.0", licence)
    assert look(ada) == ([], [])


@pytest.mark.parametrize(
    ("licence", "hint"),
    [
        ("CC BY-SA 4.0", "did you mean CC-BY-SA-4.0?"),
        ("CC BY-SA, as Wikipedia's texts are", "did you mean CC-BY-SA-4.0?"),
        ("cc0", "did you mean CC0-1.0?"),
        ("free", "such as CC0-1.0, CC-BY-4.0 or CC-BY-SA-4.0 (spdx.org/licenses)"),
        ("x" * 5000, "such as CC0-1.0, CC-BY-4.0 or CC-BY-SA-4.0 (spdx.org/licenses)"),
        ("(" * 300, "such as CC0-1.0, CC-BY-4.0 or CC-BY-SA-4.0 (spdx.org/licenses)"),
    ],
)
def test_a_licence_that_nobody_knows_is_unfinished(ada, licence, hint):
    edit(ada, "profiles", "CC0-1.0", licence)
    ((told,), notes) = look(ada)
    assert notes == []
    assert told.startswith(
        "error: characters/profiles/ada.md:3: expected a licence's SPDX identifier, own work or public domain, got "
    )
    assert told.endswith(f"hint: {hint}")


def test_a_paragraph_that_is_there_twice_is_an_error(ada):
    edit(
        ada,
        "profiles",
        "She bet on horses, lost great sums, and pawned the family diamonds twice over.",
        "A tutor",
    )
    edit(
        ada,
        "profiles",
        "A tutor {#horses}",
        "A TUTOR taught her algebra from the age of eight every morning, before the walk. {#horses}",
    )
    assert errors(ada) == (
        "error: characters/profiles/ada.md:17: this paragraph is there already, on line 11\n"
        "  17 | A TUTOR taught her algebra from the age of eight every morning, before the walk. {#horses}\n"
        "hint: keep one of them"
    )


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        (
            "She bet on horses, lost great sums, and pawned the family diamonds twice over.",
            "She bet on horses.",
            "17: 4 words are too few to ground a scene in",
        ),
        (
            "She bet on horses",
            "She bet " + "on and on " * 101,
            "17: 316 words are a lot for one paragraph",
        ),
        (
            "She bet on horses",
            "A tutor taught her algebra from the age of eight, every morning before the walk. She bet on horses",
            "17: a sentence of line 11 again: A tutor taught her algebra from the age of eight, every morn",
        ),
        ("She bet on horses", "She played with computers", "17: names computers"),
        ("She bet on horses", "Until 1953 she bet on horses", "17: the year 1953 is after 1852-11-27"),
    ],
)
def test_what_is_odd_about_a_paragraph_is_noted(ada, old, new, note):
    edit(ada, "profiles", old, new)
    (unfinished, (told,)) = look(ada)
    assert unfinished == []
    assert told.splitlines()[0] == f"error: characters/profiles/ada.md:{note}"


def test_of_many_odd_paragraphs_the_first_is_shown_and_the_rest_counted(ada):
    for year in ("1833", "1843"):
        edit(ada, "profiles", year, "1933")
    (told,) = look(ada)[1]
    assert told == (
        "error: characters/profiles/ada.md:13: the year 1933 is after 1852-11-27 (and 1 more like it)\n"
        "  13 | She met Charles Babbage at a party in June 1933 and saw his engine of brass. {#engine}\n"
        "hint: what a paragraph tells, a scene may have the character know"
    )


def test_a_profile_without_anchors_is_noted(ada):
    path = ada.parent / "profiles" / "ada.md"
    path.write_text(re.sub(r" \{#[a-z]+\}", "", path.read_text()))
    edit(ada, "", "written: written/ada.md", "written: null")
    assert [one.splitlines()[0] for one in look(ada)[1]] == [
        "error: characters/profiles/ada.md: no paragraph has an anchor"
    ]


GERMAN = "Sie wurde in London geboren und war nicht lange bei dem Vater, den sie auch später nie sah."
POLISH = (
    "Urodziła się w Londynie i nigdy nie poznała swojego ojca, który wyjechał do Grecji i tam umarł młodo."
)


@pytest.mark.parametrize(("text", "language"), [(GERMAN, "German"), (POLISH, "the language pl")])
def test_a_profile_in_another_language_is_noted(ada, text, language):
    path = ada.parent / "profiles" / "ada.md"
    rows = path.read_text(encoding="utf-8").split("\n")
    anchors = ("childhood", "lessons", "engine", "notes", "horses")
    life = "\n\n".join(f"{text} {number}. {{#{anchor}}}" for number, anchor in enumerate(anchors))
    path.write_text("\n".join(rows[:7]) + f"\n{life}\n", encoding="utf-8")
    told = [one.splitlines()[0] for one in look(ada)[1]]
    assert f"error: characters/profiles/ada.md: the profile reads as {language}" in told
    assert (
        f"error: characters/questions/ada.yaml: the questions read as English, the profile as {language}"
        in told
    )


# --- What a person wrote -------------------------------------------------------------------------------------------------


def test_a_dialogue_that_is_there_twice_is_an_error(ada):
    path = ada.parent / "written" / "ada.md"
    text = path.read_text()
    scene = text[text.index("## The engine") : text.index("# Protective")]
    path.write_text(text.replace("# Protective", scene.replace("the-engine", "again") + "# Protective", 1))
    assert errors(ada) == (
        "error: characters/written/ada.md:14: the same words as {#the-engine}\n"
        "  14 | ## The engine {#again}\nhint: keep one of them"
    )


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("London, June 1833", "London, June 1933", "3: the year 1933 is after 1852-11-27"),
        ("For sums too dull for men.", "It became the computer.", "3: names computers"),
        ("Computers? Men who count for a wage?", "Computers are run on steam.", None),
        (
            "Computers? Men who count for a wage?",
            "I love computers, they play my music so well.",
            "16: tells of computers: ",
        ),
        ("What is it for?", "Is it a computer?", None),
    ],
)
def test_a_character_that_knows_too_much_is_noted(ada, old, new, note):
    edit(ada, "written", old, new)
    unfinished, notes = look(ada)
    assert unfinished == []
    if note is None:
        return
    assert notes[0].startswith(f"error: characters/written/ada.md:{note}")


def test_a_dialogue_in_another_language_than_the_profile_is_noted(ada):
    edit(ada, "written", "For sums too dull for men.", f"{GERMAN} {GERMAN}")
    assert look(ada)[1][0].startswith(
        "error: characters/written/ada.md:3: reads as German, the profile as English\n"
    )


# --- Questions -----------------------------------------------------------------------------------------------------------


def test_the_same_question_with_other_points_is_an_error(ada):
    edit(
        ada,
        "questions",
        "Who taught you your trade?",
        "Where were you born? And what do you remember of the house?",
    )
    edit(ada, "questions", "Where were you born, and", "Where were you born and")
    assert errors(ada) == (
        "error: characters/questions/ada.yaml:9: the same question as birthplace, in the same words\n"
        "  9 |   - id: first-teacher\nhint: keep one of them"
    )


@pytest.mark.parametrize(
    ("question", "note"),
    [
        ("Where was the house in which you were born, as you remember it?", None),
        (
            "So where were you born, and what do you remember about that house?",
            "9: nearly the same question as birthplace",
        ),
        ("Why were you born, and what do you remember of the house?", None),
        ("Do you work with computers?", "9: names computers, and the topic is past"),
    ],
)
def test_a_question_that_is_nearly_there_or_out_of_place_is_noted(ada, question, note):
    edit(ada, "questions", "Who taught you your trade?", question)
    told = [one.splitlines()[0] for one in look(ada)[1]]
    assert told == ([] if note is None else [f"error: characters/questions/ada.yaml:{note}"])
