"""All that is missing is told at once, with what is nearest to it."""

from __future__ import annotations

import json

import pytest

from charforge.engine.digest import Action
from charforge.llm.errors import NotRecorded
from charforge.llm.request import Request
from charforge.misses import Misses


def request(text="Who are you?", **fields):
    return Request(
        **{
            "model": "openai/scripted",
            "messages": (("user", text),),
            "max_tokens": 60,
            "temperature": 0.7,
            **fields,
        }
    )


def action(asked):
    return Action("call", 1, asked.params(), {})


def body(asked):
    return json.loads(action(asked).canonical)


def error(requests, recorded):
    misses = Misses()
    for asked in requests:
        misses.add(asked, action(asked))
    return misses.error(iter([body(each) for each in recorded]))


def test_one_miss_names_the_nearest_call_and_what_differs():
    known = [request("Where do you live?"), request(), request(draw=7, temperature=0.1)]
    found = error([request(draw=1)], known)
    assert isinstance(found, NotRecorded)
    assert found.render() == (
        "error: 1 request to openai/scripted has no recorded reply, and this build is --offline\n"
        f"  'Who are you?' (draw 1): recorded is call {action(request()).digest[:12]}, but draw 0 → 1\n"
        "hint: build without --offline, or bring in the replies: charforge record import FILE"
    )


def test_another_model_is_told():
    found = error([request(model="openai/b")], [request(model="openai/a", max_tokens=61)])
    assert "but max_tokens 61 → 60, model openai/a → openai/b\n" in found.render()


def test_an_edited_paragraph_is_nearer_than_another_one():
    text = "Imagine a scene. {} It is set long ago, and nobody knows more of it."
    old = text.format("She counted the brass wheels, and wrote long notes about its columns.")
    new = text.format("She counted the iron wheels, and wrote long notes about its columns.")
    other = text.format("She rode across the heath.")
    found = error([request(new)], [request(other), request(old), request(other, draw=1)])
    assert f"recorded is call {action(request(old)).digest[:12]}, but messages[0][1] from …" in found.render()


def test_each_is_counted_once_and_the_first_few_are_shown():
    asked = [request(draw=n) for n in range(1600)]
    found = error([*asked, *asked], [request(draw=5000)])
    lines = found.render().splitlines()
    assert (
        lines[0]
        == "error: 1,600 requests to openai/scripted have no recorded reply, and this build is --offline"
    )
    assert len(lines) == 1 + 5 + 1 + 1
    assert lines[-2] == "  … and 1,595 more"
    assert found.requests == asked


def test_prompts_that_begin_alike_are_told_from_where_they_no_longer_do():
    begin = "You prepare scenes from the life of a person who lived long ago, for actors to read. "
    found = error([request(begin + "She rode horses."), request(begin + "He wrote quartets.")], [])
    assert [line.split(":")[0] for line in found.render().splitlines()[1:3]] == [
        "  '…She rode horses.' (draw 0)",
        "  '…He wrote quartets.' (draw 0)",
    ]


def test_several_models_are_counted_apart():
    found = error([request(), request(draw=1), request(model="anthropic/x")], [])
    assert found.render().splitlines()[:2] == [
        "error: 3 requests (anthropic/x 1, openai/scripted 2) have no recorded reply, and this build is --offline",
        "  'Who are you?' (draw 0): no call is recorded here",
    ]


def test_only_so_many_recorded_calls_are_compared(monkeypatch):
    monkeypatch.setattr("charforge.misses.COMPARED", 2)
    taken = []

    def recorded():
        for n in range(100):
            taken.append(n)
            yield body(request(draw=n + 1))

    misses = Misses()
    misses.add(request(), action(request()))
    misses.error(recorded())
    assert len(taken) == 2


def test_a_number_is_the_same_however_it_is_written():
    assert "but draw 0 → 1\n" in error([request(temperature=1.0, draw=1)], [request(temperature=1)]).render()


@pytest.mark.parametrize("field", ["messages", "model", "prompt"])
def test_nothing_in_it_steers_a_terminal(field):
    value = {"messages": (("user", "\x1b[2J"),), "model": "\x1b[2J", "prompt": "\x1b[2J"}[field]
    asked = request(**{"messages": None, field: value} if field == "prompt" else {field: value})
    assert "\x1b" not in error([asked], [request("\x1b[1J", model="\x1b")]).render()
