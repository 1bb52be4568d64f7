"""What a JSON Schema finds, in our own words: above all what jsonschema itself words badly."""

from __future__ import annotations

import pytest

from charforge.schema import Fault, faults, is_secret

PATH = {
    "type": "string",
    "minLength": 1,
    "pattern": "^[^:]+$(?!\\n)",
    "x-expected": "a path",
    "x-url": "save it first",
}
REF = {
    "type": "string",
    "pattern": "^\\./.+$(?!\\n)",
    "x-expected": "a folder",
    "x-url": "no address",
    "x-hints": {"^/": "no absolute path", "^[a-z/]+$": "write ./ before it"},
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["source"],
    "properties": {
        "limit": {"anyOf": [{"$ref": "#/$defs/small"}, {"type": "null"}], "x-expected": "1 to 9, or null"},
        "base": {"anyOf": [REF, {"type": "array", "minItems": 2}], "x-expected": "a folder, or two"},
        "pair": {"type": "array", "minItems": 2, "x-expected": "two of them"},
        "way": {"enum": ["auto", True, False]},
        "deep": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "inner": {"type": "object", "properties": {"rank": {"type": "integer"}}},
                "other": {},
            },
        },
        "written": {"anyOf": [PATH, {"type": "null"}], "x-expected": "a path, or null"},
        "source": {
            "x-expected": "{file} or {card}",
            "x-example": "source: {file: x.md}",
            "oneOf": [
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": [key],
                    "properties": {key: {"type": "string"}, "sha256": {"type": "string"}},
                }
                for key in ("file", "card")
            ],
        },
        "tags": {
            "type": "array",
            "maxItems": 3,
            "uniqueItems": True,
            "items": {"type": "string", "minLength": 1},
        },
    },
    "$defs": {"small": {"type": "integer", "minimum": 1, "maximum": 9}},
}


def told(value, **options):
    return [(fault.path, fault.message, fault.hint) for fault in faults(value, SCHEMA, **options)]


@pytest.mark.parametrize(
    ("key", "value", "message", "hint"),
    [
        ("limit", 0, "expected 1 to 9, or null, got 0", None),
        ("limit", "3", "expected 1 to 9, or null, got '3'", None),
        ("written", "https://x", "expected a path, or null, got 'https://x'", "save it first"),
        ("written", 3, "expected a path, or null, got 3", None),
        ("written", "", "expected a path, or null, got ''", None),
        ("base", "/x", "expected a folder, or two, got '/x'", "no absolute path"),
        ("base", "x/y", "expected a folder, or two, got 'x/y'", "write ./ before it"),
        ("base", "x://y", "expected a folder, or two, got 'x://y'", "no address"),
        ("base", "X", "expected a folder, or two, got 'X'", None),
        ("base", ["x"], "expected a folder, or two, got a list of 1", None),
        ("source", 3, "expected {file} or {card}, got 3", None),
        ("source", {}, "expected {file} or {card}, got keys and values", None),
        ("source", {"file": "a", "card": "b"}, "expected {file} or {card}, got keys and values", None),
    ],
)
def test_a_union_is_told_as_one_thing_at_its_own_place(key, value, message, hint):
    assert told({key: value}, partial=True) == [((key,), message, hint)]


def test_a_list_of_the_wrong_length_is_told_as_one():
    assert told({"pair": [1]}, partial=True) == [(("pair",), "expected two of them, got a list of 1", None)]


def test_a_switch_written_as_a_word_is_told_how_to_write_it():
    assert told({"way": "off"}, partial=True) == [
        (("way",), "expected one of auto, true, false, got 'off'", "write false")
    ]
    assert told({"way": "aut"}, partial=True)[0][2] == "did you mean 'auto'?"
    assert told({"way": 1}, partial=True) == [(("way",), "expected one of auto, true, false, got 1", None)]


def test_a_key_of_another_section_is_found_however_deep():
    assert told({"rank": 1}, partial=True) == [(("rank",), "unknown key", "did you mean 'deep.inner.rank'?")]
    assert told({"deep": {"rank": 1}}, partial=True) == [
        (("deep", "rank"), "unknown key", "did you mean 'deep.inner.rank'?")
    ]


def test_a_union_whose_branch_is_clear_tells_what_is_wrong_inside():
    assert told({"source": {"file": 3}}) == [(("source", "file"), "expected text, got 3", "put it in quotes")]
    assert told({"source": {"card": "x", "sha265": "y"}}) == [
        (("source", "sha265"), "unknown key", "did you mean 'sha256'?")
    ]


@pytest.mark.parametrize(
    "value", [{"limit": None}, {"limit": 3}, {"written": None}, {"source": {"card": "x"}}]
)
def test_every_branch_of_a_union_is_right(value):
    assert told(value, partial=True) == []


def test_a_missing_key_is_a_fault_unless_the_rest_comes_from_elsewhere():
    assert told({}) == [(("source",), "this key is missing", "add it, for example: source: {file: x.md}")]
    assert told({}, partial=True) == []


def test_a_repeated_item_is_told_by_its_place_once_it_is_right_by_itself():
    assert told({"tags": ["a", "b", "a"]}, partial=True) == [
        (("tags", 2), "'a' is there twice", "keep one of them")
    ]
    assert sorted(told({"tags": ["", "", 1]}, partial=True)) == [
        (("tags", 0), "expected text of at least 1 characters, got ''", None),
        (("tags", 1), "expected text of at least 1 characters, got ''", None),
        (("tags", 2), "expected text of at least 1 characters, got 1", "put it in quotes"),
    ]


def test_several_things_wrong_with_one_value_are_one_fault():
    schema = {
        "type": "string",
        "minLength": 2,
        "pattern": "^[a-z]+$(?!\\n)",
        "x-expected": "two small letters",
    }
    assert faults("", schema) == [Fault((), "expected two small letters, got ''")]


@pytest.mark.parametrize(
    "key", ["api_key", "API-KEY", "apiBase", "hf_token", "headers", "url", "password", "cmd"]
)
def test_a_key_that_may_hold_a_secret_is_known_by_its_name(key):
    assert is_secret(key)
    (fault,) = faults({key: "x"}, SCHEMA, partial=True)
    assert (fault.secret, fault.hint) == (
        True,
        "keys and endpoints come from the environment, never from a spec",
    )
