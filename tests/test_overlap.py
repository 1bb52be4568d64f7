"""What of the training data a question meets, and what it only seems to meet."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge import overlap
from charforge.overlap import RULES, Overlap, Trained


def sample(name, *turns, status="A visitor asks about the harbour."):
    said = "".join(f"{turn}<|eot|>\n" for turn in turns)
    return {
        "prompt": f"You are Anna.\n\nLocation: Bergen\nStatus: {status}\n\n",
        "output": said,
        "source": {"id": name},
    }


SAMPLES = [
    sample(
        "dialogue/a/0",
        "Visitor (speaking): Good day! Who taught you to mend nets in Bergen?",
        "Anna (speaking): My aunt Sigrid did, on the steps of the old customs house by the water.",
        "Visitor (speaking): And when did your father leave for Hamburg?",
    ),
    sample("dialogue/b/0", "Visitor (speaking): Why did your father leave for Hamburg?"),
]


@pytest.mark.parametrize(
    ("question", "found"),
    [
        (
            "who taught you, to mend nets in Bergen",
            Overlap("same-words", "dialogue/a/0", "who taught you to mend nets in bergen"),
        ),
        (
            "Who was it that taught you to mend a net in Bergen?",
            Overlap("same-subject", "dialogue/a/0", "Who taught you to mend nets in Bergen?"),
        ),
        (
            "Where did your father go when he was leaving for Hamburg?",
            Overlap("same-subject", "dialogue/a/0", "And when did your father leave for Hamburg?"),
        ),
        (
            "Who sat on the steps of the old customs house that morning?",
            Overlap("same-run", "dialogue/a/0", "on the steps of the old customs house"),
        ),
        ("the old customs house", Overlap("same-run", "dialogue/a/0", "the old customs house")),
        ("What did your father bring from Hamburg, and for whom?", None),
        ("Who is your father?", None),
        ("Did you ever stand on the steps of the old church?", None),
        ("customs house", None),
        ("What do you sell?", None),
        ("", None),
    ],
)
def test_a_question_meets_what_the_samples_ask(question, found):
    assert Trained(SAMPLES).overlap(question) == found


def test_a_run_goes_on_from_no_sample_into_the_next():
    one = sample("a", "Anna (speaking): We sold seven barrels of salted")
    other = {"prompt": "herring and cod to Hamburg", "output": "", "source": {"id": "b"}}
    one["output"] = one["output"].removesuffix("<|eot|>\n")
    assert Trained([one, other]).overlap("Is it seven barrels of salted herring and cod?") is None


def test_nothing_trained_is_nothing_met():
    assert Trained([]).overlap("Who taught you to mend nets in Bergen?") is None


def test_a_sample_without_a_source_goes_by_its_own_id():
    found = Trained([{"id": "line-3", "prompt": "Who are you?", "output": "Anna."}]).overlap("Who are you?")
    assert found == Overlap("same-words", "line-3", "who are you")


WORDS = st.sampled_from(
    "the of you in did who why father Hamburg net nets steps customs house sold herring Anna".split()  # noqa: SIM905
)
SENTENCES = st.lists(WORDS, min_size=1, max_size=14).map(" ".join)
SPOKEN = st.lists(st.tuples(SENTENCES, st.sampled_from("?.!")), max_size=4)
MANY = st.lists(SPOKEN, max_size=5).map(
    lambda many: [
        sample(f"s{i}", *(f"Visitor (speaking): {text}{end}" for text, end in turns))
        for i, turns in enumerate(many)
    ]
)


@given(samples=MANY, question=SENTENCES, seed=st.randoms())
def test_the_order_of_samples_is_no_matter(samples, question, seed):
    mixed = list(samples)
    seed.shuffle(mixed)
    assert Trained(mixed).overlap(question) == Trained(samples).overlap(question)


@given(samples=MANY, asked=SENTENCES, end=st.sampled_from(["?", " ?", "", "?!"]))
def test_what_a_sample_asks_is_always_met(samples, asked, end):
    samples = [*samples, sample("asked", f"Visitor (speaking): {asked}?")]
    found = Trained(samples).overlap(asked.upper() + end)
    assert found is not None
    assert found.rule == "same-words"
    assert found.rule in RULES


@given(samples=MANY, before=SENTENCES, quoted=st.lists(WORDS, min_size=8, max_size=10), after=SENTENCES)
def test_eight_words_of_a_sample_are_always_met_where_they_say_something(samples, before, quoted, after):
    said = " ".join([*quoted[:-2], "herring", "customs"])
    samples = [*samples, sample("said", f"Anna (speaking): {said}.")]
    assert Trained(samples).overlap(f"{before} {said} {after}") is not None


def test_the_page_has_the_rules_as_they_are():
    page = (Path(__file__).parents[1] / "docs" / "questions.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    assert rows == list(RULES)
    assert (overlap.ALIKE, overlap.MIN_SHARED, overlap.RUN) == (0.7, 2, 8)
    assert (overlap.MIN_WHOLE, overlap.MIN_CONTENT) == (4, 2)
    assert "at least 0.7 of all their stems are in both (Jaccard index), and at least two" in page
    assert "eight words in a row stand in a sample, whoever says them, two content words among them" in page
