"""Each rule refuses what certainly harms a training set and lets what people write pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge import checks
from charforge.dialogue import Turn
from charforge.reading import Parsed, parse
from charforge.stages import profile, written

NEVER = ["motor cars", "aeroplanes", "cinema", "glasses"]
UNTIL = "1827-03-26"
CHARACTERS = Path(__file__).parents[1] / "characters"


def turns(*rows: str) -> list[Turn]:
    return [Turn(*row.split("|")) for row in rows]


TALK = turns("Man|speaking|Who is there?", "Beethoven|speaking|It is I, and I am busy.")


def test_the_first_broken_rule_is_told_by_its_name():
    assert checks.first(length=None, copied_prompt="a b c", repetition="x") == ("copied-prompt", "a b c")
    assert checks.first(length=None) is None


def test_every_rule_is_documented():
    assert all(meaning for meaning in checks.RULES.values())
    with pytest.raises(AssertionError, match="unheard-of"):
        checks.first(unheard_of="x")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("bell \x07", "control character U+0007"),
        ("turned \u202e round", "control character U+202E"),
        ("I *sigh* here", "markup: *sigh*"),
        ("see `x`", "markup: `"),
        ("[He rises slowly] Go!", "markup: [He rises slowly]"),
        ("2 * 3 * 4 is fine, and [so] is this", None),
        ("Must it be? – It must be! (Perhaps.)", None),
    ],
)
def test_plain_text_holds_no_markup_and_no_control_characters(text, detail):
    assert checks.text_form(text) == detail


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("Once upon a time.", "no turns"),
        ("A (speaking): Hm.\nStranger: Yes.", "maybe-turn in line 2: Stranger: Yes."),
        ("A (speaking): Hm. B (speaking): Yes.", "inline-turn in line 1: Hm. B (speaking): Yes."),
        (
            "Here is the long dialogue that you wanted:\nA (speaking): Hm.",
            "8 of 9 words stand outside the turns",
        ),
        ("Sure:\n**A (speaking):** one two three four five", None),
    ],
)
def test_a_reply_must_be_turns_that_can_be_told_apart(text, detail):
    assert checks.dialogue_form(parse(text)) == detail


def test_length_counts_turns_and_words():
    assert checks.length(TALK, min_turns=2, max_turns=2, min_words=9) is None
    assert checks.length(TALK, min_turns=3, max_turns=9, min_words=0) == "2 turns, expected 3 to 9"
    assert checks.length(TALK, min_turns=2, max_turns=2, min_words=11) == "10 words, expected at least 11"
    assert checks.word_count("one two", least=3, most=4) == "2 words, expected 3 to 4"


def test_both_sides_must_speak_aloud():
    assert checks.character_silent(TALK, "Beethoven") is None
    assert checks.character_silent(TALK[:1], "Beethoven") == "Beethoven never speaks"
    assert checks.character_silent(TALK[1:], "Beethoven") == "only Beethoven speaks"
    thinks = turns("Man|speaking|Hm?", "Beethoven|thinking|Hm.")
    assert checks.character_silent(thinks, "Beethoven") == "Beethoven never speaks"


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("Beethoven was born in Bonn.", "Beethoven was"),
        ("I think. Ludwig van Beethoven wrote it.", ". Ludwig van Beethoven wrote"),
        ("Beethoven's music is loud.", "Beethoven's"),
        ("I am Beethoven. Beethoven plays for nobody.", None),
        ("There are many princes and only one Beethoven.", None),
        ("They shout Beethoven at me in the street.", None),
    ],
)
def test_the_character_does_not_tell_of_himself_by_name(text, detail):
    assert checks.third_person(text, ["Beethoven", "Ludwig van Beethoven"]) == detail


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I",
        "How can I help you today?",
        "I’m here to assist",
        "Let me know if you",
        "Here is a short dialogue",
    ],
)
def test_assistant_talk_is_refused(text):
    assert checks.assistant_talk(text)


@pytest.mark.parametrize(
    "text",
    [
        "My assistant Schindler came.",
        "I cannot help it.",
        "He let me know it.",
        "I play my role in this farce.",
    ],
)
def test_ordinary_talk_is_not_assistant_talk(text):
    assert checks.assistant_talk(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t assist with that request.",
        "I apologize, but I cannot create content of this kind.",
        "Sorry, I'm not able to write a dialogue about a real person.",
        "I am unable to fulfill this request.",
        "Unfortunately, I won't be able to continue this roleplay; I cannot produce it.",
        "I must respectfully decline to write this scene.",
        "I don't feel comfortable generating this dialogue.",
        "As an AI developed to be safe, I am not able to engage in this.",
        "This request goes against our guidelines.",
        "Your prompt seems to violate the content policy.",
        "**I can't provide that.** Is there something else?",
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "抱歉，我无法满足这个请求。",
    ],
)
def test_a_refusal_is_told(text):
    assert checks.refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It was a cold night.",
        "Here is the dialogue you asked for:",
        "I would write about the lantern.",
        "He cannot hear, and she will not help him with that.",
        "Once upon a time there was a request that nobody could answer. " * 10 + "I can't help with that.",
    ],
)
def test_other_replies_are_no_refusals(text):
    assert checks.refusal(text) is None


def test_rules_know_what_is_on_and_at_which_limit():
    rules = checks.Rules({"length": True, "copied-prompt": 8, "near-duplicate": False})
    assert rules.first(length="short") == ("length", "short")
    assert rules.first(near_duplicate="like a", copied_prompt="a b") == ("copied-prompt", "a b")
    assert (rules.words("copied-prompt"), rules.limit("near-duplicate")) == (8, 0)
    assert rules.first(format="bad") == ("format", "bad")  # cannot be switched off
    with pytest.raises(KeyError, match="repetition"):
        rules.first(repetition="x")


def test_a_limit_of_nothing_finds_nothing():
    accepted = checks.Accepted(0)
    accepted.add("a", "one two three")
    assert accepted.near_duplicate("one two three") is None
    assert checks.copied("one two", "one two", 0) is None
    assert checks.ungrounded("one two", "three four", least=0) is None


def test_near_duplicates_are_found_whatever_the_hash_seed():
    code = (
        "from charforge import checks\na = checks.Accepted(0.3)\n"
        "for n in range(40): a.add(f't{n}', ' '.join(f'w{n * i % 13} x{i % 7}' for i in range(30)))\n"
        "print([a.near_duplicate(' '.join(f'w{n * i % 13} x{i % 7}' for i in range(25))) for n in range(60)])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(CHARACTERS.parent)},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1
    assert "like t" in told.pop()


words_of = st.lists(st.sampled_from("abcdefgh"), min_size=0, max_size=40).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(words_of, max_size=6), words_of)
def test_near_duplicates_are_those_of_the_definition(texts, asked):
    def triples(text):
        said = text.split()
        return {tuple(said[i : i + 3]) for i in range(len(said) - 2)} or {tuple(said)}

    accepted = checks.Accepted()
    for number, text in enumerate(texts):
        accepted.add(str(number), text)
    likeness = [len(triples(t) & triples(asked)) / len(triples(t) | triples(asked)) for t in texts]
    best = max(likeness, default=0)
    told = accepted.near_duplicate(asked)
    if best >= 0.7 or best < 0.5:  # right at the limit one in a hundred is missed
        assert told == (f"like {likeness.index(best)}" if best >= 0.5 else None)


ENGLISH = "He was the son of a singer, and they had little money for the children that were in the house."
GERMAN = "Ich bin nicht der Mann, den ihr sucht, und das ist auch nicht mein Haus, aber ich kenne den Weg."


def test_another_language_or_script_is_refused_where_it_is_certain():
    assert checks.foreign_language(GERMAN, ENGLISH) == "German, not English"
    assert (
        checks.foreign_language("Я не знаю, кто вы такой, и знать не хочу", ENGLISH)
        == "not Latin, not English"
    )
    assert checks.foreign_language(ENGLISH, ENGLISH) is None
    assert checks.foreign_language("Muss es sein?", ENGLISH) is None
    assert checks.foreign_language(GERMAN, GERMAN) is None


def test_words_of_the_prompt_in_a_row_are_a_copy():
    source = "Write the turns only and nothing else,\nplease do it now"
    assert checks.copied("And then: write THE turns only!", source, 4) == "write the turns only"
    assert checks.copied("nothing else please do", source, 4) is None
    assert checks.copied("the turns", source, 4) is None


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("I will not go there. No. I will not go there! No.", "said 2 times: i will not go there"),
        (
            "the old man sat and the old man sat and the old man sat and the old man sat",
            "said 4 times: the old man sat",
        ),
        (" ".join(["la le lu"] * 15), "said 14 times: la le lu la"),
        ("No! No! No! Never again. Never again.", None),
        ("I play, I eat, I sleep; and tomorrow I play again, and eat, and sleep no worse than today.", None),
    ],
)
def test_saying_the_same_again_and_again_is_refused(text, detail):
    assert checks.repetition(text) == detail


def test_near_duplicates_are_told_from_all_accepted():
    accepted = checks.Accepted()
    accepted.add("a", "one two three four five six")
    accepted.add("b", "one two three four five seven eight")
    accepted.add("c", "Hm.")
    assert accepted.near_duplicate("One two three four five six.") == "like a"
    assert accepted.near_duplicate("one two three four five seven") == "like b"
    assert accepted.near_duplicate("one two three nine ten eleven twelve") is None
    assert accepted.near_duplicate("hm") == "like c"


def test_a_grounded_text_shares_content_words_with_its_paragraph():
    paragraph = "In Bonn he kept the portrait of his grandfather by Radoux."
    assert checks.ungrounded("I still have my grandfather's portraits.", paragraph) is None
    assert (
        checks.ungrounded("I still have his portrait.", paragraph)
        == "1 content words of the paragraph, expected at least 2"
    )


def test_invented_names_are_told():
    known = ["Haydn taught him in Vienna."]
    assert (
        checks.unknown_names("I met Haydn in Vienna, and God knows Fritz did too.", known)
        == "names not in the profile: Fritz"
    )
    assert checks.unknown_names("Everybody knows Haydn. Nobody knows Herr Haydn.", known) is None
    assert checks.unknown_names("I met Fritz and Hans", known, most=2) is None


def test_a_name_after_the_wrong_word_is_told():
    source = "His mother Maria sang; young Gerhard comes daily."
    assert (
        checks.misnamed("What did your father Maria say?", source) == "not so in the paragraph: father Maria"
    )
    assert checks.misnamed("What did your mother Maria say, Gerhard?", source) is None


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("A motor car stood there.", "names motor cars"),
        ("motorcars everywhere", "names motor cars"),
        ("She wears glasses.", "names glasses"),
        ("a glass of wine", None),
        ("It was in 1912.", "the year 1912 is after 1827-03-26"),
        ("It was in 1812, and cost 1912,50 florins or 1.912.", None),
        ("It cost 2500 florins.", None),
    ],
)
def test_what_cannot_be_known_yet_is_told(text, detail):
    assert checks.anachronism(text, never=NEVER, until=UNTIL) == detail


@pytest.mark.parametrize(
    ("question", "answer", "detail"),
    [
        ("Do you like the cinema?", "What is a cinema?", None),
        ("Do you like the cinema?", "Cinema, cinema. A word for a disease.", None),
        ("Do you like the cinema?", "I do not know what you mean by it. Coffee?", None),
        (
            "Do you like the cinema?",
            "I like the cinema very much on Sundays.",
            "tells of cinema: I like the cinema very much on Sundays.",
        ),
        ("What do you do on Sundays?", "Is there a cinema here?", "brings up cinema himself"),
        ("What of the year 1900?", "1900? I shall be dust.", None),
        ("What of the next century?", "In 1900 I shall be dust.", "names the year 1900, after 1827-03-26"),
    ],
)
def test_a_protective_answer_may_wonder_but_not_know(question, answer, detail):
    talk = [Turn("Man", "speaking", question), Turn("Beethoven", "speaking", answer)]
    assert checks.explains(talk, "Beethoven", never=NEVER, until=UNTIL) == detail


def test_a_protective_dialogue_needs_a_provocation():
    talk = [Turn("Man", "speaking", "Do you like films?"), Turn("Beethoven", "speaking", "Films?")]
    assert checks.no_provocation(talk, "Beethoven", "He asks about films.") is None
    assert (
        checks.no_provocation(talk, "Beethoven", "He offers a telephone.")
        == "nobody tries it: He offers a telephone."
    )


def test_what_people_wrote_by_hand_passes_the_rules():
    """The rules are conservative: three of some seventy hand-written dialogues may be refused, not more."""
    source = profile.read((CHARACTERS / "profiles/beethoven.md").read_text("utf-8"), file="profile")
    paragraphs = {paragraph["id"]: paragraph["text"] for paragraph in source["paragraphs"]}
    dialogues, protective = written.read(
        (CHARACTERS / "written/beethoven.md").read_text("utf-8"),
        file="w",
        short_name="Beethoven",
        paragraph_ids=paragraphs,
    )
    accepted = checks.Accepted()
    broken = []
    for record in dialogues + protective:
        talk = [Turn(**turn) for turn in record["turns"]]
        text = "\n".join(turn.content for turn in talk)
        own = [turn.content for turn in talk if turn.role == "Beethoven"]
        paragraph = "\n".join(paragraphs[name] for name in record["paragraphs"])
        broken.append(
            checks.first(
                format=checks.dialogue_form(Parsed(tuple(talk))),
                length=checks.length(talk, min_turns=6, max_turns=20, min_words=60),
                character_silent=checks.character_silent(talk, "Beethoven"),
                third_person=next(
                    filter(None, (checks.third_person(content, ["Beethoven"]) for content in own)), None
                ),
                foreign_language=checks.foreign_language(text, paragraph),
                copied_paragraph=checks.copied(text, paragraph, 12),
                repetition=checks.repetition(text),
                near_duplicate=accepted.near_duplicate(text),
                ungrounded=checks.ungrounded(text, paragraph),
                anachronism=checks.explains(talk, "Beethoven", never=NEVER, until=UNTIL),
            )
        )
        accepted.add(record["id"], text)
    assert len(broken) > 60
    assert len([rule for rule in broken if rule]) <= 3
