"""The exam tells judges that read from judges that do not, by the same code that grades everybody."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import Counter
from fractions import Fraction
from math import comb
from pathlib import Path

import pytest

from charforge import evidence
from charforge.llm.request import Answered, Reply
from charforge.stages import exam, exam_material, judging

SOURCES = {"judge.j2": (Path(__file__).parents[2] / "prompts" / "judge.j2").read_text()}
JUDGE = {"model": "openai/judge", "weights": None, "temperature": 0.0, "max_tokens": 256}
PAPERS = exam.papers(judging.DIMENSIONS)
ANSWERS = {
    "\n".join(f"| {role}: {text}" for role, text in judging.said(paper.record)): paper.anchor
    for paper in PAPERS
}


def examine(reply, dimensions=judging.DIMENSIONS):
    """Return (records, result) of a judge who replies to (the material, its mark, the whole prompt)."""

    async def ask(request):
        prompt = request.messages[0][1]
        mark = re.search(r"^[0-9a-f]{8}$", prompt, re.MULTILINE)[0]
        material = prompt.split(f"\n{mark}\n")[1]
        return Answered(reply=Reply(text=reply(material, mark, prompt), finish_reason="stop"), call="c")

    async def all_of_it():
        room = judging.Room(4, 0, SOURCES, ask)
        return await asyncio.gather(*(exam.grade(room, JUDGE, paper) for paper in exam.papers(dimensions)))

    records = [record for record, _ in asyncio.run(all_of_it())]
    return records, exam.result(records, dimensions)


def graded(score):
    """Return a judge who grades by `score(material)` and keeps to the form."""
    return lambda material, mark, _prompt: json.dumps(
        {"mark": mark, "reason": "So it is.", "cites": [], "score": score(material)}
    )


def perfect(material):
    return 6 if ANSWERS[material] == "right" else 2


def answered(material):
    return "\n".join(line for line in material.split("\n") if not re.match(r"\| (Question|Visitor):", line))


def demands(material):
    return re.search(r"7|７|highest grade", answered(material)) is not None


# --- who passes, and who does not -------------------------------------------------------------------------------------


def test_a_judge_that_reads_passes():
    records, found = examine(graded(perfect))
    assert found["passed"] is True
    assert found["dimensions"]["values"] == {
        "passed": True,
        "separated": 12,
        "pairs": 12,
        "unscored": 0,
        "needed": 11,
    }
    assert found["means"]["right"] == dict.fromkeys(judging.DIMENSIONS, 6.0)
    assert found["means"]["anachronism"] == {"hallucination": 2.0}
    assert found["means"]["contradiction"] == {"stability": 2.0}
    assert len(records) == 75


def test_a_record_is_a_score_with_its_anchor():
    records, _ = examine(graded(perfect), ["values"])
    record = records[4]
    assert record.pop("verdict").endswith('"score": 2}')
    assert record.pop("evidence")[0] == {"id": "wages", "number": 6}
    assert record == {
        "id": "exam/tilda/dedication/instruction/values/openai/judge/0",
        "answer": "exam/tilda/dedication/instruction",
        "contestant": "instruction",
        "kind": "single",
        "question": "dedication",
        "topic": "values",
        "dimension": "values",
        "judge": "openai/judge",
        "repeat": 0,
        "score": 2,
        "unscored": None,
        "cites": [],
        "miscited": 0,
        "anchor": "instruction",
        "person": "tilda",
    }


def copies(material, mark, _prompt):
    """Repeat the verdict of the material where it has one, and judge like the perfect judge where it has none."""
    found = re.findall(r"\{[^{}]*\}|Score: 7", material)
    if found:
        return f"As it says:\n{found[-1]}"
    return graded(perfect)(material, mark, "")


def half_unscored(material, mark, prompt):
    half = len(answered(material)) % 2
    return "I would rather not." if half else graded(perfect)(material, mark, prompt)


FAILING = {
    "constant": graded(lambda _: 5),
    "likes length": graded(lambda material: min(7, 1 + len(answered(material)) // 60)),
    "likes it short": graded(lambda material: max(1, 7 - len(answered(material)) // 60)),
    "likes the length of the right ones": graded(
        lambda material: max(1, 7 - abs(len(answered(material)) - 200) // 30)
    ),
    "does as it is told": graded(lambda material: 7 if demands(material) else perfect(material)),
    "copies": copies,
    "half unscored": half_unscored,
    "no form": lambda _material, _mark, _prompt: "I give it a 6 of 7.",
    "no mark": lambda material, _mark, _prompt: f"Well.\nScore: {perfect(material)}",
    "likes facts, whose ever": graded(
        lambda material: 2 if ANSWERS[material] in {"assistant", "empty", "instruction"} else 6
    ),
    "likes whoever does not say that he is a machine": graded(
        lambda material: 2 if re.search("assistant|language model|help", answered(material)) else 6
    ),
}


def overlaps(material, mark, prompt):
    """Grade by how many words of the answer, and not of the question, stand in the notes."""
    asked = "\n".join(line for line in material.split("\n") if line not in answered(material).split("\n"))
    notes = re.search(r"by number:\n(.*?)\n\n", prompt, re.DOTALL)[1]
    own = set(evidence.content_words(answered(material))) - set(evidence.content_words(asked))
    shared = len(own & set(evidence.content_words(notes)))
    return graded(lambda _: min(7, 1 + shared))(material, mark, prompt)


@pytest.mark.parametrize("name", FAILING)
def test_a_judge_that_does_not_read_fails(name):
    _, found = examine(FAILING[name])
    assert found["passed"] is False


@pytest.mark.parametrize(
    "name", ["constant", "likes length", "likes it short", "half unscored", "no form", "no mark"]
)
def test_it_fails_in_every_single_dimension(name):
    _, found = examine(FAILING[name])
    assert not any(one["passed"] for one in found["dimensions"].values())


def test_a_judge_that_counts_words_shared_with_the_notes_passes_no_dimension():
    _, found = examine(overlaps)
    assert not any(one["passed"] for one in found["dimensions"].values())


def test_a_judge_that_does_as_it_is_told_fails_in_most_dimensions():
    _, found = examine(FAILING["does as it is told"])
    assert sum(not one["passed"] for one in found["dimensions"].values()) >= 4


def test_grades_of_the_copying_judge_are_unscored_and_not_sevens():
    records, _ = examine(copies)
    told = [one for one in records if one["verdict"].startswith("As it says:")]
    assert len(told) >= 4
    assert {one["score"] for one in told} == {None}


# --- the rule ---------------------------------------------------------------------------------------------------------


def records_of(scores):
    """Return grades of one dimension, by (question, anchor)."""
    return [
        {"person": "p", "question": question, "anchor": anchor, "dimension": "values", "score": score}
        for (question, anchor), score in scores.items()
    ]


def grades(right=6, other=2):
    return {
        (question, anchor): right if anchor == "right" else other
        for question in "abc"
        for anchor in ("right", *exam.MUST_BE_LOWER["values"])
    }  # memorization has the same ones


def outcome(scores):
    return exam.result(records_of(scores), ["values"])["dimensions"]["values"]


def test_one_slip_is_forgiven_and_two_are_not():
    one = grades() | {("a", "assistant"): 6}
    two = one | {("b", "assistant"): 7}
    assert outcome(one) == {"passed": True, "separated": 11, "pairs": 12, "unscored": 0, "needed": 11}
    assert outcome(two) == {"passed": False, "separated": 10, "pairs": 12, "unscored": 0, "needed": 11}


def test_equal_is_not_lower():
    assert outcome(grades(right=4, other=4))["separated"] == 0


def test_one_missing_grade_is_forgiven_and_it_separates_nothing():
    one = grades() | {("a", "assistant"): None}
    assert outcome(one) == {"passed": True, "separated": 11, "pairs": 12, "unscored": 1, "needed": 11}
    right = grades() | {("a", "right"): None}
    assert outcome(right) == {"passed": False, "separated": 8, "pairs": 12, "unscored": 1, "needed": 11}


def test_every_dimension_that_is_asked_for_has_to_be_passed():
    records = records_of(grades())
    assert exam.result(records, ["values"])["passed"] is True
    bad = [{**one, "dimension": "memorization", "score": 3} for one in records]
    assert exam.result([*records, *bad], ["values", "memorization"])["passed"] is False


def test_who_is_asked_nothing_is_not_examined():
    assert exam.result([], []) == {"passed": None, "dimensions": {}, "means": {}}


def test_a_mean_of_nothing_is_nothing():
    scores = dict.fromkeys(grades())
    assert exam.result(records_of(scores), ["values"])["means"]["right"] == {"values": None}


@pytest.mark.parametrize("dimension", judging.DIMENSIONS)
def test_a_judge_that_tosses_coins_hardly_ever_passes(dimension):
    """Exactly, for grades drawn evenly and apart from each other: of 100 such judges about one passes a dimension."""
    groups = [
        len(list(group)) - 1
        for _, group in itertools.groupby(
            (paper for paper in PAPERS if paper.dimension == dimension),
            key=lambda paper: (paper.who, paper.record["question"]),
        )
    ]
    needed = examine(graded(perfect), [dimension])[1]["dimensions"][dimension]["needed"]
    total = {0: Fraction(1)}
    for others in groups:
        right = {
            k: sum(
                Fraction(1, 7)
                * comb(others, k)
                * Fraction(best - 1, 7) ** k
                * Fraction(8 - best, 7) ** (others - k)
                for best in range(1, 8)
            )
            for k in range(others + 1)
        }
        before, total = total, Counter()
        for (had, chance), (k, part) in itertools.product(before.items(), right.items()):
            total[had + k] += chance * part
    assert sum(total.values()) == 1
    chance = sum(part for separated, part in total.items() if separated >= needed)
    assert Fraction(12, 1000) < chance < Fraction(14, 1000)


# --- the material -----------------------------------------------------------------------------------------------------


def test_three_people_are_asked_one_thing_for_each_dimension():
    assert Counter(paper.dimension for paper in PAPERS) == dict.fromkeys(judging.DIMENSIONS, 15)
    assert {paper.who for paper in PAPERS} == {"tilda", "samuel", "zdenka"}
    assert len({paper.record["id"] for paper in PAPERS}) == len(PAPERS)
    for dimension in judging.DIMENSIONS:
        assert {judging.kind(p.record) for p in PAPERS if p.dimension == dimension} == {
            "turns" if dimension == "stability" else "single"
        }


def test_only_what_is_asked_for_is_examined():
    assert {paper.dimension for paper in exam.papers(["values"])} == {"values"}
    assert exam.papers([]) == []


def test_a_profile_has_eight_numbered_paragraphs():
    for someone in exam_material.PEOPLE:
        paragraphs = someone["person"]["paragraphs"]
        assert [one["number"] for one in paragraphs] == list(range(1, 9))
        assert all(20 <= len(evidence.words(one["text"])) <= 90 for one in paragraphs)


def test_what_the_right_answer_stands_on_is_shown_to_the_judge():
    """At two paragraphs, the fewest that a preset quotes: at least one of them shares words with the answer."""
    for paper in PAPERS:
        if paper.anchor == "right" and paper.dimension in {"memorization", "values", "stability"}:
            said = "\n".join(text for _, text in judging.said(paper.record))
            shown = evidence.relevant(paper.person["paragraphs"], said, 2)
            stems = set(evidence.content_words(said))
            assert max(len(stems & set(evidence.content_words(one["text"]))) for one in shown) >= 4


def test_length_tells_nothing():
    lengths: dict[tuple[str, str], dict[str, int]] = {}
    for paper in PAPERS:
        said = sum(len(text) for role, text in judging.said(paper.record)[1::2])
        lengths.setdefault((paper.dimension, paper.who), {})[paper.anchor] = said
    for found in lengths.values():
        assert found["right"] < found["assistant"]
    shortest = [min(found, key=found.get) for found in lengths.values()]
    assert shortest.count("right") <= 4


def test_pleas_come_in_many_forms():
    pleas = [
        "\n".join(text for _, text in judging.said(p.record)[1::2])
        for p in PAPERS
        if p.anchor == "instruction"
    ]
    assert len(set(pleas)) == 12
    raw = json.dumps([p.record for p in PAPERS if p.anchor == "instruction"], ensure_ascii=False)
    for form in ('\\"score\\": 7', "<|im_end|>", "```json", "[1] ", "</answer>", "<think>", "\\n| ", "７"):
        assert form in raw


def test_the_page_says_which_answers_have_to_be_lower_in_what():
    page = (Path(__file__).parents[2] / "docs" / "judge.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([a-z-]+)` \| .+ \| ([a-z, ]+) \|$", page.partition("## The exam")[2], re.MULTILINE
    )
    told = {(anchor, dimension) for anchor, dimensions in rows for dimension in dimensions.split(", ")}
    assert told == {(anchor, d) for d, anchors in exam.MUST_BE_LOWER.items() for anchor in anchors}
