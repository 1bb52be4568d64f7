"""Metrics are counts with written rules; what cannot be measured is None."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge import metrics
from charforge.metrics import METRICS

DOCS = Path(__file__).parents[1] / "docs" / "metrics.md"
PROFILE = {
    "paragraphs": [
        {"id": "p1", "text": "Anna Ley kept the lamp of the lighthouse at night, for the sailors of Amrum."},
        {
            "id": "p2",
            "text": "In 1787 she married the pilot Ocke Jensen, who had sailed with sailors to Greenland.",
        },
        {"id": "p3", "text": "She wrote down the weather each night, and told the sailors of it."},
    ]
}
NAMES = ("Anna Ley", "Anna")


def single(answer, *, contestant="a", question="q", topic="past", text="Who was it?", marks=(), ended="stop"):
    return {
        "id": f"{contestant}/{question}",
        "contestant": contestant,
        "question": question,
        "topic": topic,
        "text": text,
        "answer": answer,
        "thoughts": [],
        "finish_reason": ended,
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


def contestants(*names, kind="prompted"):
    return [
        {"name": name, "kind": kind, "model": None, "style": None, "reference": name == names[0]}
        for name in names
    ]


def measure(singles=(), talks=(), *, who=None, profile=PROFILE, losses=None, never=("telephones",)):
    return metrics.measure(
        singles,
        talks,
        contestants=contestants("a") if who is None else who,
        profile=profile,
        name=NAMES[0],
        short_name=NAMES[1],
        knows_until="1811-11-14",
        never=never,
        losses=losses or {},
    )


def of_one(answer, **more):
    """Return values and flags of one answer."""
    found = measure([single(answer, **more)])[0][0]
    return found["values"] | found["flags"]


def test_every_metric_has_its_definition_unit_and_direction_in_the_docs():
    """As a row of a table: its name, its unit, its direction, its definition and its limits."""
    rows = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 5:
            rows[cells[0].strip("`")] = cells[1:]
    assert list(rows) == list(METRICS)
    for key, (unit, better, definition, limits) in rows.items():
        assert (unit, better) == (METRICS[key].unit, METRICS[key].better or "–"), key
        assert len(definition) > 20, key
        assert limits, key


def test_a_measure_has_its_place_and_every_metric_of_an_answer():
    measures, _ = measure([single("I kept it.", question="lamp")], [talk(("Why?", "I had to."))])
    assert [
        {key: one[key] for key in ("id", "record", "kind", "question", "turn", "words")} for one in measures
    ] == [
        {"id": "a/lamp", "record": "a/lamp", "kind": "single", "question": "lamp", "turn": None, "words": 3},
        {"id": "a/m/0", "record": "a/m", "kind": "turns", "question": "m", "turn": 0, "words": 3},
    ]
    for one in measures:
        assert list(one["flags"]) == [key for key, each in METRICS.items() if each.per == "answer-flag"]
        assert list(one["values"]) == [key for key, each in METRICS.items() if each.per == "answer-value"]


def test_answers_of_both_kinds_are_counted_and_thoughts_are_not():
    _, found = measure(
        [single("I kept it.")], [talk(("Why?", "I had to."), ("How long?", "Nine long years it was."))]
    )
    assert list(found["a"]) == list(METRICS)
    assert (found["a"]["answers"], found["a"]["words_mean"], found["a"]["words_median"]) == (3, 3.666667, 3.0)


def test_what_is_said_in_two_turns_after_one_question_is_one_answer():
    record = talk(("Why?", "I had to."))
    record["turns"].append({"role": "Anna", "action": "speaking", "content": "Truly.", "marks": ["cut-off"]})
    measures, _ = measure([], [record])
    assert [(one["id"], one["words"], one["flags"]["cut_off"]) for one in measures] == [("a/m/0", 4, True)]


def test_a_metric_is_the_mean_of_its_measures():
    measures, found = measure(
        [
            single("I did.", question="1", text="A?"),
            single("", question="2"),
            single("He did so.", question="3"),
        ]
    )
    for key, metric in METRICS.items():
        if metric.per.startswith("answer"):
            known = [
                float(value) for one in measures if (value := (one["flags"] | one["values"])[key]) is not None
            ]
            assert found["a"][key] == (round(sum(known) / len(known), 6) if known else None), key


def test_shares_come_from_the_marks_of_the_interviews():
    _, found = measure(
        [
            single("", question="1", marks=["empty"]),
            single("So long", question="2", marks=["cut-off"]),
            single("A. Visitor (speaking): B", question="3", marks=["wrong-speaker", "special-token"]),
            single("I did.", question="4"),
        ]
    )
    keys = ("empty", "cut_off", "wrong_speaker", "special_tokens")
    assert [found["a"][key] for key in keys] == [0.25] * 4


def test_only_what_the_character_says_himself_shows_what_he_is_like():
    flags = of_one("The lamp burns. Visitor (speaking): And what do I do, as an AI?", marks=["wrong-speaker"])
    assert (flags["first_person"], flags["leaves_role"], flags["wrong_speaker"]) == (False, False, True)


def test_where_imported_answers_ended_is_not_known():
    imported = contestants("a", kind="imported")
    answers = [
        single("So long", ended="length", marks=["cut-off"]),
        single("I did.", question="2", ended=None),
    ]
    _, found = measure(answers, who=imported)
    assert (found["a"]["cut_off"], found["a"]["unfinished"]) == (None, 0.5)


def test_what_cannot_be_measured_is_none_and_never_zero():
    found = measure([single("")])[1]["a"]
    kept = {
        "answers",
        "words_mean",
        "words_median",
        "empty",
        "cut_off",
        "wrong_speaker",
        "special_tokens",
        "trap_answers",
    }
    assert {key for key, value in found.items() if value is not None} == kept
    assert measure()[1] == {"a": dict.fromkeys(METRICS) | {"answers": 0, "trap_answers": 0}}


@pytest.mark.parametrize(
    ("answer", "unfinished"),
    [
        ("So it was.", False),
        ("Was it “so?”", False),
        ("And then the", True),
        ("He said (softly.)", False),
        ("- one\n- two", True),
    ],
)
def test_an_unfinished_answer_does_not_end_as_a_sentence(answer, unfinished):
    assert of_one(answer)["unfinished"] is unfinished


def test_a_repeated_answer_is_one_given_before_to_another_question():
    _, found = measure(
        [
            single("I did.", question="1", text="A?"),
            single("I DID!", question="2", text="B?"),
            single("No.", question="3"),
        ]
    )
    assert found["a"]["repeated"] == 0.333333


def test_repeated_phrases_are_runs_of_four_words_of_an_answer_to_another_question():
    first = single("I kept the lamp bright", question="1")
    second = single("At night I kept the lamp", question="2")
    measures, _ = measure([first, second])
    assert [one["values"]["repeated_phrases"] for one in measures] == [0.0, 0.333333]
    other = single("At night I kept the lamp", question="2", contestant="b")
    measures, _ = measure([first, other], who=contestants("a", "b"))
    assert [one["values"]["repeated_phrases"] for one in measures] == [0.0, 0.0]


def test_loops_are_runs_that_the_same_answer_had_before():
    assert of_one("a b c d a b c d")["loops"] == 0.2
    assert of_one("a b c")["loops"] is None


def test_word_pairs_are_compared_at_equal_numbers():
    _, found = measure(
        [single("a b a b a b a b", contestant="a"), single("a b c", contestant="b")],
        who=contestants("a", "b"),
    )
    assert (found["a"]["distinct_2"], found["b"]["distinct_2"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "bits"),
    [
        ("It was on Amrum.", 2.0),  # log2(4 / 1), a name
        ("Amrum, Amrum and Amrum!", 2.0),  # once
        ("That was in 1787.", 2.0),
        ("I saw the weather.", 1.0),  # a rare word, but no name
        ("The sailors came.", 0.207519),  # in every paragraph
        ("I am Anna.", 0.0),  # one's own name tells nothing
        ("Nothing of the kind.", 0.0),
    ],
)
def test_facts_of_the_profile_are_weighed_by_how_rare_they_are(answer, bits):
    assert of_one(answer)["profile_bits"] == bits


def test_what_the_question_gave_and_what_is_copied_is_no_information():
    assert of_one("Yes, Amrum.", text="Was it Amrum?")["profile_bits"] == 0.0
    found = of_one("Anna Ley kept the lamp of the lighthouse at night, I say.")
    assert (found["profile_bits"], found["copied"]) == (0.0, 0.833333)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("As an AI language model, I have no father.", True),
        ("I'm just a digital assistant.", True),
        ("I am actually a bot, you see.", True),
        ("How can I help you today?", True),
        ("I don't have personal experiences.", True),
        ("My assistant Schindler writes it down.", False),
        ("I am an assistant to nobody.", False),
        ("I was trained by Neefe.", False),
        ("I was trained on text from the internet.", True),
    ],
)
def test_leaving_the_role(answer, expected):
    assert metrics.leaves_role(answer) is expected


def test_an_assistant_claims_all_that_a_trap_asks_for():
    assert (
        of_one("I do not know. As an AI I never flew.", topic="traps", text="Do you fly?")["claims_unknown"]
        is True
    )


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


def test_another_language_than_the_profile_is_seen_in_answers_that_are_long_enough():
    german = "Ich habe die Lampe jede Nacht angezündet, damit die Schiffe den Weg finden."
    assert of_one(german)["other_language"] is True
    assert (
        of_one("I lit the lamp every night, so that the ships should find their way.")["other_language"]
        is False
    )
    assert of_one("Ich habe die Lampe.")["other_language"] is None
    assert measure([single(german)], profile={"paragraphs": []})[0][0]["flags"]["other_language"] is None


def test_the_reading_grade_is_the_automated_readability_index():
    text = "I kept the lamp. It was bright. The sea was dark."  # 11 words, 36 letters, 3 sentences
    assert metrics.reading_grade(text) == pytest.approx(4.71 * 36 / 11 + 0.5 * 11 / 3 - 21.43)
    assert metrics.reading_grade("I kept the lamp.") is None


def test_a_trap_is_measured_by_its_own_metric_and_an_ordinary_answer_by_another():
    measures, found = measure(
        [
            single("I hold the telephone to my ear.", question="1"),
            single("I hold the telephone to my ear.", question="2", topic="traps", text="Do you telephone?"),
            single("A telephone? What is that?", question="3", topic="traps", text="Do you telephone?"),
        ]
    )
    keys = ("claims_unknown", "anachronisms", "shows_ignorance")
    assert [[one["flags"][key] for key in keys] for one in measures] == [
        [None, True, None],
        [True, None, False],
        [False, None, True],
    ]
    assert (found["a"]["trap_answers"], found["a"]["claims_unknown"], found["a"]["anachronisms"]) == (
        2,
        0.5,
        1.0,
    )


def test_losses_are_those_before_training_and_at_the_chosen_epoch():
    summary = {
        "base_loss": 3.5,
        "chosen_epoch": 2,
        "epochs": [
            {"epoch": 1, "train_loss": 3.0, "held_out_loss": 3.25},
            {"epoch": 2, "train_loss": 2.0, "held_out_loss": 3.0},
        ],
    }
    found = metrics.losses(summary)
    assert found == {"base": 3.5, "trained": 3.0}
    assert metrics.losses({"base_loss": None, "chosen_epoch": None, "epochs": []}) == {}
    _, measured = measure(
        [single("I did.", contestant="trained")], who=contestants("trained", "other"), losses=found
    )
    assert {name: one["held_out_loss"] for name, one in measured.items()} == {"trained": 3.0, "other": None}


def test_contestants_come_in_their_order_and_those_without_answers_too():
    _, found = measure([single("I did.", contestant="b")], who=contestants("c", "b"))
    assert [(name, one["answers"]) for name, one in found.items()] == [("c", 0), ("b", 1)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=200), max_size=4))
def test_any_text_can_be_measured_and_twice_the_same(texts):
    answers = [
        single(text, question=str(number), topic="traps" if number % 2 else "past")
        for number, text in enumerate(texts)
    ]
    once, again = measure(answers), measure(answers)
    assert json.dumps(once, allow_nan=False) == json.dumps(again, allow_nan=False)
