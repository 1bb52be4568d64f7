"""Why something is stale, in words a person can act on."""

from __future__ import annotations

import json

import pytest

from charforge.engine.digest import Action
from charforge.engine.explain import nearest_call, reasons, sentence, sentences


def body(**changes):
    base = {"kind": "model", "version": 1, "params": {}, "inputs": {}}
    return {**base, **changes}


def told(was, now, labels=None):
    return [sentence(reason) for reason in reasons(was, now, labels or {})]


def params(was, now):
    return told(body(params=was), body(params=now))


def test_never_built():
    assert told(None, body()) == ["never built"]


def test_nothing_differs_so_the_outputs_are_gone():
    assert told(body(), body()) == ["its recorded outputs are gone from the store, or damaged"]


def test_another_version_of_the_code():
    assert told(body(), body(version=2)) == ["its code changed (version 1 → 2)"]


def test_another_kind():
    assert told(body(), body(kind="adapter")) == ["kind model → adapter"]


def test_inputs_that_changed_came_and_went_are_told_by_label():
    was = body(inputs={"profile": "0", "old": "1", "prompt:scene": "2"})
    now = body(inputs={"profile": "9", "new": "1", "prompt:scene": "3"})
    labels = {"profile": "profiles/eliza.md", "prompt:scene": "prompts/scene.j2", "new": "written/eliza.md"}
    assert told(was, now, labels) == [
        "written/eliza.md added",
        "old removed",
        "profiles/eliza.md changed",
        "prompts/scene.j2 changed",
    ]


@pytest.mark.parametrize(
    ("was", "now", "text"),
    [
        ({"train": {"epochs": 3}}, {"train": {"epochs": 5}}, "train.epochs 3 → 5"),
        ({"rate": 2e-5}, {"rate": 1e-4}, "rate 2e-05 → 0.0001"),
        ({"seed": None}, {"seed": 7}, "seed None → 7"),
        ({"method": "full"}, {"method": "lora"}, "method full → lora"),
        ({}, {"method": "lora"}, "method is new: lora"),
        ({}, {"seed": None}, "seed is new: None"),
        ({"method": "lora"}, {}, "method is gone (was lora)"),
        ({"seed": None}, {}, "seed is gone (was None)"),
        ({"never": ["cars", "trains"]}, {"never": ["cars", "planes"]}, "never[1] trains → planes"),
        ({"never": ["cars"]}, {"never": ["cars", "planes"]}, "never ['cars'] → ['cars', 'planes']"),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, "a[0].b 1 → 2"),
        ({"a": {"b": 1}}, {"a": 1}, "a {'b': 1} → 1"),
        ({"draw": 1}, {"draw": True}, "draw 1 → True"),
        ({"draw": 1}, {"draw": "1"}, 'draw 1 → "1"'),
        ({"text": "one two"}, {"text": "one  two"}, 'text "one two" → "one  two"'),
        ({"text": "one two"}, {"text": "one\ntwo"}, 'text "one two" → "one\\ntwo"'),
        (
            {"prompt": "x" * 100 + " Write one scene of his life in Bonn. " + "y" * 100},
            {"prompt": "x" * 100 + " Write two scenes of his life in Bonn. " + "y" * 100},
            "prompt from …xxxxxxxx Write one scene of his life in to …xxxxxxxx Write two scenes of his life in",
        ),
        (
            {"list": list(range(40))},
            {"list": []},
            "list [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, … → []",
        ),
    ],
)
def test_a_field_is_told_with_both_its_values(was, now, text):
    assert params(was, now) == [text]


def test_all_that_differs_is_told_version_first_then_inputs_then_fields():
    was = body(params={"b": 1, "a": {"c": 1, "d": 2}}, inputs={"x": "0"})
    now = body(version=2, params={"b": 2, "a": {"c": 0, "d": 2}}, inputs={"x": "1"})
    assert told(was, now) == ["its code changed (version 1 → 2)", "x changed", "a.c 1 → 0", "b 1 → 2"]


def test_reasons_are_json_data():
    found = reasons(
        body(params={"a": 1}), body(params={"a": None, "b": [1]}, inputs={"x": "0"}), {"x": "file"}
    )
    assert (
        json.loads(json.dumps(found))
        == found
        == [
            {"kind": "input", "label": "file", "change": "added"},
            {"kind": "field", "field": "a", "was": 1, "now": None},
            {"kind": "field", "field": "b", "now": [1]},
        ]
    )


def test_many_reasons_are_counted():
    found = reasons(body(params={}), body(params=dict.fromkeys("abcdef", 1)), {})
    assert sentences(found) == "a is new: 1, b is new: 1, c is new: 1, d is new: 1 and 2 more"
    assert sentences(found, limit=9) == ", ".join(f"{name} is new: 1" for name in "abcdef")
    assert sentences([]) == ""


def test_the_nearest_call_is_the_one_with_the_fewest_differences():
    def ask(text, draw=0):
        return Action("call", 1, {"prompt": text, "draw": draw}, {}).body()

    now = ask("You were born in Bonn. Tell us of your mother.")
    near = ask("You were born in Bonn. Tell us of your father.")
    other = [ask("You moved to Vienna."), near, ask("You were born in Bonn. Tell us of your father.", draw=1)]
    assert nearest_call(now, other) == near
    assert nearest_call(now, []) is None
