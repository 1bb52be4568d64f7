"""What is judged, by whom and how often: the plan, the sample, the exam beside it, and every record with its call."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from charforge.errors import CharForgeError
from charforge.llm.request import Answered, Reply
from charforge.stages import scores

PROMPTS = Path(__file__).parents[2] / "prompts"
PROFILE = {
    "name": "Anna Ley",
    "paragraphs": [
        {"id": "born", "number": 1, "section": "", "text": "Anna Ley was born by the sea."},
        {"id": "lamp", "number": 2, "section": "", "text": "She kept the lamp of the lighthouse."},
        {"id": "log", "number": 3, "section": "", "text": "Her log told of ships and weather."},
    ],
}
CONTESTANTS = [
    {"name": "trained", "kind": "trained", "model": None, "style": "character", "reference": True},
    {"name": "base", "kind": "base", "model": None, "style": "chat", "reference": False},
]


def mark_of(request):
    """Return the mark of a prompt's material."""
    return re.search(r"^([0-9a-f]{8})(?: asked)?$", request.messages[0][1], re.MULTILINE)[1]


def good(request):
    mark = mark_of(request)
    if "better" in request.schema["properties"]:
        return json.dumps({"mark": mark, "reason": "Fits.", "cites": [2], "better": "first"})
    return json.dumps({"mark": mark, "reason": "Fits [1].", "cites": [2, 9], "score": 6})


class Fake:
    def __init__(self, reply=good):
        self.reply, self.requests = reply, []

    async def __call__(self, request):
        self.requests.append(request)
        await asyncio.sleep(0)
        text = self.reply(request) if callable(self.reply) else self.reply
        return Answered(reply=Reply(text=text, finish_reason="stop"), call=f"call-{len(self.requests)}")

    @property
    def prompts(self):
        return [request.messages[0][1] for request in self.requests]


def single(
    answer="I kept the lamp.", *, contestant="trained", question="q1", topic="past", text="What did you do?"
):
    return {
        "id": f"{contestant}/{question}",
        "contestant": contestant,
        "question": question,
        "topic": topic,
        "text": text,
        "answer": answer,
        "thoughts": ["A secret."],
        "finish_reason": "stop",
        "marks": [],
    }


def talk(*, contestant="trained", question="m1", topic="past", answer="I saw ships."):
    turns = [
        {"role": "Visitor", "action": "speaking", "content": "What did you see?", "marks": []},
        {"role": "Anna", "action": "thinking", "content": "A secret.", "marks": []},
        {"role": "Anna", "action": "speaking", "content": answer, "marks": []},
    ]
    return {
        "id": f"{contestant}/{question}",
        "contestant": contestant,
        "question": question,
        "topic": topic,
        "subject": f"About {question}.",
        "turns": turns,
        "marks": [],
    }


def judges(*models):
    return [{"model": model, "weights": None, "temperature": 0.0, "max_tokens": 48} for model in models]


def run(fake, *, singles=(), talks=(), models=("openai/judge",), pairwise=0, exam=False, **changed):
    arguments = {
        "contestants": CONTESTANTS,
        "single": list(singles),
        "turns": list(talks),
        "profile": PROFILE,
        "dimensions": scores.DIMENSIONS,
        "judges": judges(*models),
        "repeats": 1,
        "limit": None,
        "evidence": 2,
        "exam": exam,
        "pairwise": pairwise,
        "name": "Anna Ley",
        "short_name": "Anna",
        "knows_until": "1901-01-01",
        "never": ["cinema"],
        "seed": 0,
        "prompts": {
            file: (PROMPTS / file).read_text() for file in scores.templates(models, pairwise=pairwise)
        },
        "ask": fake,
        "on_progress": lambda done, total: None,
    } | changed
    return asyncio.run(scores.score(**arguments))


# --- grades ----------------------------------------------------------------------------------------------------------


def test_a_single_answer_is_graded_in_every_dimension_but_stability():
    found = run(Fake(), singles=[single()])
    assert [record["dimension"] for record in found.scores] == [
        "hallucination",
        "memorization",
        "personality",
        "values",
    ]
    record = found.scores[1]
    assert record.pop("verdict").endswith('"score": 6}')
    assert record == {
        "id": "trained/q1/memorization/openai/judge/0",
        "answer": "trained/q1",
        "contestant": "trained",
        "kind": "single",
        "question": "q1",
        "topic": "past",
        "dimension": "memorization",
        "judge": "openai/judge",
        "repeat": 0,
        "score": 6,
        "unscored": None,
        "evidence": [{"id": "lamp", "number": 2}, {"id": "born", "number": 1}],
        "cites": [1, 2],
        "miscited": 1,
    }


def test_an_interview_is_graded_as_a_whole_and_for_stability_too():
    fake = Fake()
    found = run(fake, talks=[talk()])
    assert [record["dimension"] for record in found.scores] == sorted(scores.DIMENSIONS)
    assert {record["kind"] for record in found.scores} == {"turns"}
    assert all("| Visitor: What did you see?\n| Anna: I saw ships." in prompt for prompt in fake.prompts)


def test_every_record_leads_to_its_calls():
    found = run(
        Fake(),
        singles=[single(), single("Well.", contestant="base")],
        pairwise=None,
        exam=True,
        dimensions=["values"],
    )
    pairs = {f"pair/{record['id']}/{order}" for record in found.pairs for order in ("first", "second")}
    ids = {record["id"] for record in (*found.scores, *found.exam)} | pairs
    assert {call["id"] for call in found.calls} == ids
    assert len(found.calls) == len(ids) == 2 + 15 + 2
    assert [call["id"] for call in found.calls] == sorted(ids)


def test_repeats_differ_by_draw_only():
    fake = Fake()
    found = run(fake, singles=[single()], dimensions=["values"], repeats=3)
    assert [(record["id"], record["repeat"]) for record in found.scores] == [
        (f"trained/q1/values/openai/judge/{n}", n) for n in range(3)
    ]
    assert sorted(request.draw for request in fake.requests) == [0, 1, 2]
    assert len(set(fake.prompts)) == 1


def test_a_panel_grades_the_same_answers_and_each_judge_gets_the_prompt_for_its_size():
    fake = Fake(
        lambda request: good(request) if "mark" in str(request.schema) else '{"reason": "", "score": 2}'
    )
    found = run(fake, singles=[single()], dimensions=["values"], models=("openai/a", "embedded/b"))
    assert [(record["judge"], record["score"]) for record in found.scores] == [
        ("embedded/b", 2),
        ("openai/a", 6),
    ]
    assert len(set(fake.prompts)) == 2


def test_a_request_knows_neither_contestant_nor_question_id():
    one, two = Fake(), Fake()
    run(one, singles=[single()], dimensions=["values"])
    run(two, singles=[single(contestant="base", question="other", topic="values")], dimensions=["values"])
    assert one.requests == two.requests


def test_progress_counts_verdicts():
    seen = []
    answers = [single(), single("Well.", contestant="base")]
    run(
        Fake(),
        singles=answers,
        dimensions=["values"],
        pairwise=1,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (4, 4)]


def test_one_failure_lets_the_others_finish_and_is_then_raised():
    done = []

    async def ask(request):
        if "VALUES" in request.messages[0][1]:
            raise CharForgeError("the judge is gone")
        for _ in range(5):
            await asyncio.sleep(0)
        done.append(request)
        return Answered(reply=Reply(text=good(request), finish_reason="stop"), call="c")

    with pytest.raises(CharForgeError, match=r"^the judge is gone$"):
        run(ask, singles=[single()])
    assert len(done) == 3


# --- how many calls --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exam", [True, False])
@pytest.mark.parametrize("pairwise", [0, 2, None])
@pytest.mark.parametrize("limit", [0, 3, None])
def test_the_plan_has_exactly_the_calls_that_are_made(exam, pairwise, limit):
    fake = Fake()
    talks = [
        talk(contestant=c, question=f"m{n}", answer=f"{c} {n}") for c in ("trained", "base") for n in (1, 2)
    ]
    asked = {"dimensions": ["values", "stability"], "repeats": 2, "limit": limit}
    found = run(fake, singles=many(), talks=talks, exam=exam, pairwise=pairwise, **asked)
    planned = scores.plan(
        reference="trained", single=many(), turns=talks, exam=exam, pairwise=pairwise, **asked
    )
    assert planned.calls == len(fake.requests) == len(found.calls)


def test_nothing_to_judge_needs_no_exam_and_no_judge():
    fake = Fake()
    found = run(fake, singles=[single()], limit=0, exam=True)
    assert fake.requests == []
    assert found == (
        [],
        {"judges": {"openai/judge": {"passed": None, "dimensions": {}, "means": {}}}},
        [],
        [],
        [],
    )


def test_calls_can_be_counted_before_anybody_has_answered():
    single = [
        {"contestant": c, "question": q, "topic": "past", "text": q} for c in ("a", "b") for q in ("x", "y")
    ]
    turns = [{"contestant": c, "question": "m", "subject": "M", "turns": []} for c in ("a", "b")]
    planned = scores.plan(
        reference="a",
        single=single,
        turns=turns,
        dimensions=scores.DIMENSIONS,
        repeats=1,
        limit=None,
        exam=True,
        pairwise=None,
    )
    assert planned.calls == 75 + 2 * (2 * 4 + 5) + 2 * 3


@pytest.mark.parametrize(
    ("models", "pairwise", "files"),
    [
        (("openai/a",), 0, ["judge.j2"]),
        (("openai/a", "embedded/b"), 0, ["embedded/judge.j2", "judge.j2"]),
        (("embedded/b",), None, ["embedded/judge.j2", "embedded/pairwise.j2"]),
    ],
)
def test_only_the_templates_of_these_judges_are_named(models, pairwise, files):
    assert scores.templates(models, pairwise=pairwise) == files


# --- the sample ------------------------------------------------------------------------------------------------------


def many():
    return [
        single(
            f"{contestant} on {topic} {n}",
            contestant=contestant,
            question=f"{topic}-{n}",
            topic=topic,
            text=f"Question {n} about {topic}?",
        )
        for contestant in ("trained", "base")
        for topic in ("past", "traps", "values")
        for n in range(5)
    ]


def test_the_sample_is_spread_over_topics_and_interviews_and_the_same_for_all():
    talks = [talk(contestant=c, question=f"m{n}") for c in ("trained", "base") for n in range(3)]
    chosen = scores.sample(many(), talks, 8)
    assert sorted(re.sub(r"\W?\d", "", question) for _, question in chosen) == [
        "m",
        "m",
        "past",
        "past",
        "traps",
        "traps",
        "values",
        "values",
    ]
    found = run(Fake(), singles=many(), talks=talks, limit=8, dimensions=["values"])
    by_contestant = {
        c: {r["question"] for r in found.scores if r["contestant"] == c} for c in ("trained", "base")
    }
    assert by_contestant["trained"] == by_contestant["base"] == {question for _, question in chosen}


def test_a_new_question_moves_at_most_one_other_out_of_the_sample():
    before = scores.sample(many(), [], 6)
    new = [single(contestant=c, question="new", text="A new one?") for c in ("trained", "base")]
    after = scores.sample([*many(), *new], [], 6)
    assert len(before - after) <= 1


def test_questions_that_all_answered_come_first():
    alone = [single(question=f"alone-{n}", text=f"Alone {n}?") for n in range(20)]
    both = [single(contestant=c, question="both", text="Both?") for c in ("trained", "base")]
    assert scores.sample([*alone, *both], [], 1) == {("single", "both")}


def test_a_question_that_imported_answers_file_under_another_topic_counts_once():
    answers = [single(), single(contestant="base", topic="values")]
    assert scores.sample(answers, [], 2) == {("single", "q1")}


def test_no_limit_takes_all():
    assert len(scores.sample(many(), [], None)) == 15
