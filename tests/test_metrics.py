"""Metrics are counts with written rules; what cannot be measured is None."""

from __future__ import annotations

from pathlib import Path

import pytest

from charforge import metrics

DOCS = Path(__file__).parents[1] / "docs" / "metrics.md"
PROFILE = {"paragraphs": [{"id": "p1", "text": "Anna Ley kept the lamp of the lighthouse at night."}]}
NAMES = ("Anna Ley", "Anna")


def single(answer, *, contestant="a", question="q", topic="past", text="Who kept the lamp?", marks=()):
    return {
        "id": f"{contestant}/{question}",
        "contestant": contestant,
        "question": question,
        "topic": topic,
        "text": text,
        "answer": answer,
        "thoughts": [],
        "finish_reason": "stop",
        "marks": list(marks),
    }


def talk(*pairs, contestant="a", topic="past"):
    turns = []
    for question, answer in pairs:
        turns += [
            {"role": "Visitor", "action": "speaking", "content": question, "marks": []},
            {"role": "Anna", "action": "thinking", "content": "Never counted.", "marks": []},
            {"role": "Anna", "action": "speaking", "content": answer, "marks": []},
        ]
    return {
        "id": f"{contestant}/m",
        "contestant": contestant,
        "question": "m",
        "topic": topic,
        "subject": "s",
        "turns": turns,
        "marks": [],
    }


def measure(singles=(), talks=()):
    return metrics.measure(singles, talks, profile=PROFILE, name=NAMES[0], short_name=NAMES[1])


def test_every_metric_has_an_entry_in_the_docs():
    text = DOCS.read_text()
    assert [key for key in metrics.METRICS if f"`{key}`" not in text] == []


def test_answers_of_both_kinds_are_counted_and_thoughts_are_not():
    found = measure(
        [single("I kept it.")], [talk(("Why?", "I had to."), ("How long?", "Nine long years it was."))]
    )
    assert (found["a"]["answers"], found["a"]["words_mean"], found["a"]["words_median"]) == (3, 3.666667, 3.0)


def test_shares_come_from_the_marks_of_the_interviews():
    found = measure(
        [
            single("", question="1", marks=["empty"]),
            single("So long", question="2", marks=["cut-off"]),
            single("A. Visitor (speaking): B", question="3", marks=["wrong-speaker", "special-token"]),
            single("I did.", question="4"),
        ]
    )["a"]
    assert [found[k] for k in ("empty", "cut_off", "wrong_speaker", "special_tokens")] == [0.25] * 4


def test_what_cannot_be_measured_is_none_and_never_zero():
    found = measure([single("")])["a"]
    assert {key for key, value in found.items() if value is None} == {
        "leaves_role",
        "first_person",
        "third_person",
        "repeated",
        "distinct_2",
        "profile_overlap",
        "trap_claims",
        "trap_ignorance",
    }
    assert measure() == {}


def test_a_repeated_answer_is_one_given_before_to_another_question():
    found = measure(
        [
            single("I did.", question="1", text="A?"),
            single("I DID!", question="2", text="B?"),
            single("No.", question="3"),
        ]
    )
    assert found["a"]["repeated"] == 0.333333


def test_word_pairs_are_compared_at_equal_numbers():
    found = measure([single("a b a b a b a b", contestant="a"), single("a b c", contestant="b")])
    assert (found["a"]["distinct_2"], found["b"]["distinct_2"]) == (1.0, 1.0)


def test_profile_words_are_a_share_of_content_words():
    assert measure([single("The lamps were bright.")])["a"]["profile_overlap"] == 0.5


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("As an AI language model, I have no father.", True),
        ("I'm just a digital assistant.", True),
        ("How can I help you today?", True),
        ("My assistant Schindler writes it down.", False),
        ("I am an assistant to nobody.", False),
        ("I was trained by Neefe.", False),
        ("I was trained on text from the internet.", True),
    ],
)
def test_leaving_the_role(answer, expected):
    assert metrics.leaves_role(answer) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Anna Ley was born by the sea.", True),
        ("Anna's lamp was bright.", True),
        ("There is only one Anna Ley.", False),
        ("I am Anna, and I was born here.", False),
        ("Hannah was here.", False),
    ],
)
def test_speaking_of_oneself_as_of_another(answer, expected):
    assert metrics.third_person(answer, NAMES) is expected


TRAPS = [
    # question, answer, claims, ignorance
    (
        "Did you mind the delay of your flight?",
        "The delay was dreadful, and the seats were small.",
        True,
        False,
    ),
    ("Did you mind the delay of your flight?", "Flight? Do I look like a bird? I go by coach.", False, False),
    ("Did you mind the delay of your flight?", "I do not know what you mean by a flight, sir.", False, True),
    (
        "Did you mind the delay of your flight?",
        "I have never heard of it. But the flight was good.",
        True,
        True,
    ),
    ("What do you keep in your refrigerator?", "Of course! Milk and cheese.", True, False),
    ("What do you keep in your refrigerator?", "What is a refrigerator? Write it down for me.", False, True),
    ("What do you keep in your refrigerator?", "- milk\n- cheese", True, False),
    ("What do you keep in your refrigerator?", "That word is strange to me.", False, True),
    ("Which chatbot am I talking to?", "As an AI, I have no name.", True, False),
    ("Where were you when the Titanic sank?", "I was at home when the Titanic sank.", True, False),
    ("Where were you when the Titanic sank?", "Let us speak of the lamp.", False, False),
    ("What of the atomic bomb on Hiroshima?", "Hiroshima? The name means nothing to me.", False, True),
]


@pytest.mark.parametrize(("question", "answer", "claims", "ignorance"), TRAPS)
def test_traps(question, answer, claims, ignorance):
    found = measure([single(answer, topic="traps", text=question)])["a"]
    assert (found["trap_answers"], found["trap_claims"], found["trap_ignorance"]) == (
        1,
        float(claims),
        float(ignorance),
    )


def test_words_of_ordinary_questions_and_of_the_profile_are_not_unknown():
    found = measure(
        [
            single("x", text="Do you keep a diary?"),
            single(
                "I keep the lamp and the diary.",
                question="t",
                topic="traps",
                text="Do you keep a diary of lamps on a laptop?",
            ),
        ]
    )
    assert found["a"]["trap_claims"] == 0
