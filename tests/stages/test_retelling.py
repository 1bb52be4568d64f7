"""What a small model retells is held to its sentence word by word, and only sentences about the character are given to it."""

from __future__ import annotations

import json

import pytest

from charforge.stages.retelling import Fact, facts, place_schema, pronoun, read_place, unfaithful

NAMES = ("Ludwig van Beethoven", "Beethoven")


def cues(text: str, who: str = "he", names=NAMES) -> list[tuple[str, str]]:
    return [(fact.cue, fact.text) for fact in facts(text, names, who)]


def test_sentences_about_the_character_are_facts():
    assert cues(
        "Beethoven left Bonn in 1792. In Vienna he noted the cost of boots; his father died that year. "
        "Haydn taught him counterpoint for a year."
    ) == [
        ("I", "Beethoven left Bonn in 1792."),
        ("I", "In Vienna he noted the cost of boots."),
        ("My", "His father died that year."),
        ("Haydn", "Haydn taught him counterpoint for a year."),
    ]


def test_nothing_is_told_while_the_pronoun_may_mean_another_person():
    assert (
        cues(
            "Karl lodged with the Schlemmers. He pawned his watch and bought pistols. His uncle scolded him."
        )
        == []
    )
    assert cues("Neefe gave him Bach to play. In 1783 he wrote about the boy in a magazine.") == [
        ("Neefe", "Neefe gave him Bach to play.")
    ]


def test_a_name_makes_the_pronoun_certain_again():
    assert cues("Karl lodged with the Schlemmers. Beethoven aged twenty years. He went home alone.") == [
        ("I", "Beethoven aged twenty years."),
        ("I", "He went home alone."),
    ]


def test_a_pronoun_beside_the_name_may_still_be_of_another():
    assert cues("Karl was nine. Beethoven fought his mother for years.") == []


def test_sentences_about_things_are_no_facts():
    assert cues("It was bitterly cold. The concert lasted four hours. There he played again that night.") == [
        ("I", "There he played again that night.")
    ]


def test_short_and_long_sentences_are_no_facts():
    assert cues("He won it. He " + "walked and " * 20 + "sat down.") == []


def test_women_are_told_of_by_their_own_pronoun():
    assert cues("Ida rowed her sisters to school. She kept the light.", "she", ("Ida Lewis", "Ida")) == [
        ("I", "Ida rowed her sisters to school."),
        ("I", "She kept the light."),
    ]
    assert pronoun({"paragraphs": [{"text": "She kept her light. He sang."}]}) == "she"


LEFT = Fact(
    1, "At the beginning of November 1792 he left Bonn for Vienna with the Elector's leave to study.", "I"
)
LENT = Fact(
    2, "He wrote to the lawyer Schaden, who had lent him money, that she had been his best friend.", "I"
)
FATHER = Fact(3, "His father Johann was a court tenor.", "My")
HAYDN = Fact(4, "Haydn taught him counterpoint until he left for London.", "Haydn")


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        ("I left Bonn for Vienna in November 1792.", LEFT),
        ("I left Bonn with the Elector's leave to study.", LEFT),
        ("I wrote to the lawyer Schaden that she had been my best friend.", LENT),
        ("I wrote to the lawyer Schaden, who had lent me money.", LENT),
        ("My father Johann was a court tenor.", FATHER),
        ("Haydn taught me counterpoint.", HAYDN),
    ],
)
def test_a_retelling_may_leave_out(answer, fact):
    assert unfaithful(answer, fact, NAMES, "he") is None


@pytest.mark.parametrize(
    ("answer", "fact", "detail"),
    [
        ("I left Bonn with his leave.", LEFT, "still says his"),
        ("I left Bonn, and Beethoven studied.", LEFT, "still says beethoven"),
        ("I left Bonn for Paris.", LEFT, "adds pari"),
        ("I left Bonn in November 1793.", LEFT, "adds 1793"),
        ("I left Bonn, Bonn was left.", LEFT, "says bonn twice"),
        ("I left Bonn and I study.", LEFT, "says I of somebody else"),
        ("I study in Vienna.", LEFT, "the fact does not say that he study"),
        ("I lent money to the lawyer.", LENT, "the fact does not say that he lent"),
        ("I wrote that they had lent me money.", LENT, "adds they"),
        ("I wrote to my friend, my lawyer, my best money.", LENT, "says my of somebody else"),
        ("My court tenor was a father.", FATHER, "the fact does not go on with court"),
        ("Haydn left for London.", HAYDN, "the fact does not go on with left"),
    ],
)
def test_a_retelling_may_not_add_or_mistake(answer, fact, detail):
    assert unfaithful(answer, fact, NAMES, "he") == detail


def test_places_are_those_of_the_paragraph():
    schema = place_schema(
        "In April at Teplitz he met Goethe, at Count Fries's house in Vienna near the Danube."
    )
    assert schema["properties"]["place"]["enum"] == ["Teplitz", "Vienna", "the Danube"]
    assert list(place_schema("He slept.")["properties"]) == ["room"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"room": "a garden", "place": "Bonn"}', "A garden, Bonn"),
        ('{"room": "a garden"}', "A garden"),
        ('{"room": ""}', None),
        ('{"place": "Bonn"}', None),
        ("[1]", None),
        ("a garden", None),
        ("[" * 10_000, None),
    ],
)
def test_a_place_is_read_from_its_json(text, place):
    assert read_place(text) == place


def test_a_schema_is_plain_json():
    assert json.loads(json.dumps(place_schema("in Bonn"))) == place_schema("in Bonn")
