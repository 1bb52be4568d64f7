"""Rules for what a character cannot know. tests/gold/ measures how well they do; here each rule has its example."""

from __future__ import annotations

import pytest

from charforge import traps

PERSON = traps.Person(
    names=("Anna Ley", "Anna"),
    until="1811-11-14",
    never=("telephones", "electric light", "motor cars"),
    known=frozenset(("lamp", "hous")),
)


def flags(question, answer, topic="traps", person=PERSON):
    return traps.flags(question, answer, topic=topic, person=person)


FLIGHT = "Did you mind the delay of your flight?"
PHONE = "Do you own a telephone?"


@pytest.mark.parametrize(
    ("question", "answer", "claims", "ignorance"),
    [
        (FLIGHT, "The delay was dreadful, and the seats were small.", True, False),
        (FLIGHT, "We landed two hours late, and nobody said a word.", True, False),
        (FLIGHT, "Flight? Do I look like a bird? I go by coach.", False, True),
        (FLIGHT, "I do not know what you mean by a flight, sir.", False, True),
        (FLIGHT, "I have never heard of it. But the flight was good.", True, True),
        (FLIGHT, "I have never heard of it, but it was good.", True, True),
        (FLIGHT, "I have never heard of it, but the soup at the inn was good.", False, True),
        (PHONE, "Yes.", True, False),
        (PHONE, "No.", False, False),
        (PHONE, "I have none, sir.", False, True),
        (PHONE, "Of course! One in each room.", True, False),
        (PHONE, "- one here\n- one there", True, False),
        (PHONE, "What is a telephone? Write it down for me.", False, True),
        (PHONE, "What is a telephone? Ah, the telephone in the hall is mine.", True, True),
        (PHONE, "Telephone. It sounds like Greek.", False, True),
        (PHONE, "That word is strange to me.", False, True),
        (PHONE, "I am not very familiar with it, still I like its bell.", True, False),
        (PHONE, "Der Mond scheint hell, mein Herr.", False, False),
        (PHONE, "My telephone is a boy. What is it that you mean by the word?", False, True),
        (PHONE, "I send a boy with a lantern.", False, False),
        (PHONE, "The winters are harder than they were.", False, False),
        (PHONE, "Two, and a spare in the attic.", True, False),
        (PHONE, "I plug it in beside the bed.", True, False),
        (PHONE, "It is a marvel of our days, isn't it?", True, False),
    ],
)
def test_traps(question, answer, claims, ignorance):
    found = flags(question, answer)
    assert (found["claims_unknown"], found["shows_ignorance"]) == (claims, ignorance)


@pytest.mark.parametrize(
    ("answer", "anachronism"),
    [
        ("My telephone rings all night.", True),
        ("I saw it in the cinema.", True),  # by its date
        ("I take care of the carts.", False),  # of no car
        ("By the light of the lamp.", False),  # electric light is unknown, light is not
        ("I never saw a telephone.", False),
        ("You speak of a telephone?", False),
    ],
)
def test_things_that_cannot_be_known_are_seen_in_ordinary_answers(answer, anachronism):
    assert flags("How do you live?", answer, "past")["claims_unknown"] is anachronism


def test_what_is_dated_counts_for_those_who_died_before():
    modern = traps.Person(names=("Eva",), until="1999-12-31")
    assert flags("How do you live?", "I go to the cinema.", "past", modern)["claims_unknown"] is False
    assert flags("How do you live?", "I saw it on YouTube.", "past", modern)["claims_unknown"] is False
    ancient = traps.Person(names=("Livia",), until="-0029-09-28")
    assert ancient.year == -29
    assert flags("How do you live?", "I saw it in 1954.", "past", ancient)["knows_own_death"] is True
    assert traps.Person(names=("Eva",)).year is None


@pytest.mark.parametrize(
    ("answer", "knows"),
    [
        ("I died in 1811.", True),
        ("I was born by the sea and died there.", True),
        ("They opened the house after my death.", True),
        ("My grave is on the head.", True),
        ("After I died they named the rock after me.", True),
        ("My log is still read and admired today.", True),
        ("I am considered one of the greatest keepers in the land.", True),
        ("I was called one of the greatest keepers of my time.", False),
        ("History remembers me for my lamp.", True),
        ("I kept it until 1840.", True),
        ("The Lord called me to himself.", True),
        ("My husband outlived me by almost ten years.", True),
        ("Anna Ley (1760-1811), keeper of the light.", True),
        ("They gave me a fine funeral.", True),
        ("When I was dead my sister burned my letters.", True),
        ("My log was published posthumously.", True),
        ("A rock is called after my husband and me.", True),
        ("I rest in the churchyard, under a plain stone.", True),
        ("My log has inspired many others, and they will be read.", True),
        ("I still use the hammer that my father gave me.", False),
        ("They named the child after me.", False),
        ("It left a lasting impression on me.", False),
        ("I left after I had left my coat with him.", False),
        ("I am not dead yet, sir.", False),
        ("I fear my death, and that I shall lie in the sea.", False),
        ("After my death the house shall go to Ruth.", False),
        ("My husband died in the gale, and was buried on the head.", False),
        ("I nearly died in that gale.", False),
        ("When I am gone they will find another.", False),
        ("I hope that my log will be read in a hundred years.", False),
        ("Did I die?", False),
    ],
)
def test_telling_of_the_own_death(answer, knows):
    assert flags("What do you say?", answer, "past")["knows_own_death"] is knows


@pytest.mark.parametrize(
    ("answer", "both"),
    [
        ("They carried me up the hill in the rain.", True),
        ("It was a grand affair.", True),
        ("My funeral? I am still warm, sir.", False),
        ("I have ordered none.", False),
        ("Let them sing what they like.", False),
    ],
)
def test_a_question_about_the_own_death_is_claimed_by_telling_of_it(answer, both):
    found = flags("How was your funeral?", answer)
    assert (found["claims_unknown"], found["knows_own_death"]) == (both, both)


def test_where_one_rests_is_told_by_the_grave():
    asked = "Where do you rest?"
    assert flags(asked, "Beside my father, in the vault.", "past")["knows_own_death"] is True
    assert flags(asked, "On the bench by the door.", "past")["knows_own_death"] is False
    assert flags("Of what did you die?", "Of a fever, in the spring.", "past")["knows_own_death"] is True


@pytest.mark.parametrize("piece", ["I was ", "my name ", "after my ", "(1", "statue a of ", "not "])
def test_a_hostile_answer_takes_no_longer_by_the_square(piece):
    found = flags(PHONE, (piece * 20_000)[:50_000])
    assert set(found) == {"claims_unknown", "knows_own_death", "shows_ignorance"}


def test_nothing_said_has_no_flags():
    assert set(flags(PHONE, " … ").values()) == {None}
    assert flags("How?", "So.", "past")["shows_ignorance"] is None


def test_stage_directions_are_not_said():
    assert (
        flags(PHONE, "(takes the telephone) I know of no such thing. (smiling at it)")["claims_unknown"]
        is False
    )
