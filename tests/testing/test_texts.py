"""Scripted texts pass the rules that they are not meant to break, at any size, and break those they are."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from charforge import checks
from charforge.llm.request import Answered, Reply
from charforge.reading import parse
from charforge.stages import exam, judging
from charforge.stages.protective import split_setting
from charforge.templates import render
from charforge.testing import texts

PROMPTS = Path(__file__).parents[2] / "prompts"
PARAGRAPH = (
    "Anna Berg kept the lamp of the harbour for thirty years, and sold rope and lanterns to the fishing boats. In the winter of 1850 "
    "a storm broke the great window; she carried oil up the ladder all night, and the ledger says nothing of sleep."
)
PERSON = {"name": "Anna Berg", "short_name": "Anna"}
BOUNDARY = {"until": "1871-05-02", "never": ["motor cars", "radio"]}


def prompt(template, **values):
    source = (PROMPTS / f"{template}.j2").read_text(encoding="utf-8")
    return render(source, f"{template}.j2", paragraph=PARAGRAPH, **PERSON, **BOUNDARY, **values)


def dialogue_prompt(scene, *, turns=(6, 60), words=600):
    limits = {"min_turns": turns[0], "max_turns": turns[1], "min_words": words}
    return prompt("dialogue", **scene, **limits)


def scene(n):
    return json.loads(texts.answer(prompt("scene", count=1, kinds=["a quarrel"]), None, random.Random(n)))


def broken(text, *, turns=(6, 60), words=600):
    """Return the rules that a dialogue breaks."""
    parsed = parse(text, known=("Anna",))
    spoken = "\n".join(turn.content for turn in parsed.turns)
    own = [turn.content for turn in parsed.turns if turn.role == "Anna"]
    found = {
        "format": checks.dialogue_form(parsed),
        "length": checks.length(parsed.turns, min_turns=turns[0], max_turns=turns[1], min_words=words),
        "silent": checks.character_silent(parsed.turns, "Anna"),
        "third-person": next((d for t in own if (d := checks.third_person(t, ("Anna Berg", "Anna")))), None),
        "assistant": checks.assistant_talk(spoken),
        "foreign": checks.foreign_language(spoken, PARAGRAPH),
        "copied": checks.copied(spoken, PARAGRAPH, 12),
        "repetition": checks.repetition(spoken),
        "ungrounded": checks.ungrounded(spoken, PARAGRAPH, besides=("Anna Berg", "Anna")),
        "late": checks.anachronism(spoken, **BOUNDARY),
    }
    return [rule for rule, detail in found.items() if detail]


def test_many_long_dialogues_on_one_paragraph_pass_and_none_is_like_another():
    accepted = checks.Accepted()
    for n in range(40):
        text = texts.answer(dialogue_prompt(scene(n)), None, random.Random(n))
        assert broken(text) == []
        assert accepted.near_duplicate(text) is None
        accepted.add(str(n), text)


@pytest.mark.parametrize(("turns", "words"), [((4, 14), 40), ((2, 6), 10), ((6, 24), 120), ((6, 20), 900)])
def test_dialogues_keep_to_the_limits_of_their_prompt(turns, words):
    for n in range(20):
        text = texts.answer(dialogue_prompt(scene(n), turns=turns, words=words), None, random.Random(n))
        assert broken(text, turns=turns, words=words) == []


def test_a_protective_dialogue_has_a_setting_and_a_provoker():
    tried = "A mocker laughs at Anna for not having motor cars and calls it backward."
    asked = prompt("protective", provocation=tried, min_turns=6, max_turns=24, min_words=120)
    for n in range(20):
        setting, rest = split_setting(texts.answer(asked, None, random.Random(n)))
        assert setting is not None
        assert broken(rest, turns=(6, 24), words=120) == []
        turns = parse(rest, known=("Anna",)).turns
        assert checks.no_provocation(turns, "Anna", tried) is None
        assert checks.explains(turns, "Anna", never=BOUNDARY["never"], until=BOUNDARY["until"]) is None


def test_scenes_come_one_by_one_or_as_many_as_the_schema_says():
    asked = prompt("scene", count=1, kinds=["a quarrel"])
    one = {"properties": {"location": {}, "background": {}}}
    assert set(json.loads(texts.answer(asked, one, random.Random(0)))) == {"location", "background"}
    asked = prompt("scene", count=2, kinds=["a quarrel", "a lesson"])
    several = {"properties": {"scenes": {"type": "array"}}}
    for schema in (several, None):
        scenes = json.loads(texts.answer(asked, schema, random.Random(0)))["scenes"]
        assert [scene["kind"] for scene in scenes] == ["a quarrel", "a lesson"]
        assert scenes[0]["background"] != scenes[1]["background"]


def test_a_judge_grades_and_an_interviewer_asks():
    graded = texts.answer('…\n{"reason": "…", "score": N}', None, random.Random(0))
    assert json.loads(graded)["score"] in range(1, 8)
    assert set(json.loads(texts.answer("…", judging.schema("embedded/x", 48), random.Random(0)))) == {
        "reason",
        "score",
    }
    asked = "You are a visitor who has come to interview Anna.\n\nAsk your opening question."
    assert texts.answer(asked, None, random.Random(0)).endswith("?")


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("assistant", "assistant"),
        ("foreign", "foreign"),
        ("copied", "copied"),
        ("form", "format"),
        ("short", "length"),
        ("late", "late"),
    ],
)
def test_a_spoilt_dialogue_breaks_its_rule(kind, rule):
    for n in range(5):
        text = texts.spoil(kind, dialogue_prompt(scene(n)), None, random.Random(n))
        assert rule in broken(text)


def test_spoilt_duplicates_are_sound_and_like_each_other():
    accepted = checks.Accepted()
    first, second = (
        texts.spoil("duplicate", dialogue_prompt(scene(n)), None, random.Random(n)) for n in range(2)
    )
    assert broken(second) == []
    accepted.add("first", first)
    assert accepted.near_duplicate(second) == "like first"


@pytest.mark.parametrize("kind", [kind for kind in texts.BAD if kind != "form"])
def test_spoilt_scenes_are_still_json(kind):
    asked = prompt("scene", count=1, kinds=["a quarrel"])
    assert set(json.loads(texts.spoil(kind, asked, None, random.Random(0)))) == {"location", "background"}


def judged(work):
    """Let the scripted model judge: `work(room)` is one verdict, or several."""

    async def ask(request):
        text = texts.answer(request.messages[0][1], request.schema if schemas else None, random.Random(0))
        return Answered(reply=Reply(text=text, finish_reason="stop"), call="c")

    async def both():
        nonlocal schemas
        first = await work(room)
        schemas = False
        return first, await work(room)

    schemas = True
    sources = {f"{name}.j2": (PROMPTS / f"{name}.j2").read_text() for name in ("judge", "pairwise")}
    room = judging.Room(3, 0, sources, ask)
    first, second = asyncio.run(both())
    assert first == second  # with a schema or without
    return first


JUDGE = {"model": "openai/x", "weights": None, "temperature": 0.0, "max_tokens": 200}


def test_its_judge_passes_the_exam():
    async def work(room):
        papers = exam.papers(judging.DIMENSIONS)
        return [(await exam.grade(room, JUDGE, paper))[0] for paper in papers]

    assert exam.result(judged(work), judging.DIMENSIONS)["passed"] is True


def test_its_judge_likes_what_stands_in_the_notes():
    person = {
        "name": "Anna Berg",
        "short_name": "Anna",
        "until": BOUNDARY["until"],
        "never": BOUNDARY["never"],
        "paragraphs": [{"id": "x", "number": 1, "text": PARAGRAPH}],
    }
    records = [
        {"question": "q", "text": "And then?", "answer": answer}
        for answer in ("I carried the great lamp through winter.", "I have never heard anything about this.")
    ]

    async def work(room):
        grades = [await judging.grade(room, JUDGE, person, one, "values", draw=0) for one in records]
        pairs = [
            await judging.compare(room, JUDGE, person, *pair, query="lamp", draw=0)
            for pair in (records, records[::-1], records[:1] * 2)
        ]
        return [one.verdict.value for one in (*grades, *pairs)]

    good, bad, *better = judged(work)
    assert good > bad
    assert better == ["first", "second", "tie"]
