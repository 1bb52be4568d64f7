"""JSON from a stranger: every value with its line, or every problem at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge import safe_json
from charforge.errors import FileProblems


def problems(data: bytes) -> list[str]:
    with pytest.raises(FileProblems) as caught:
        safe_json.entries(data, "a.json")
    return caught.value.render().split("\n\n")


def test_lines_are_values_with_their_line():
    found = safe_json.entries(b'\n{"a": 1}\r\n\r\n[2]\n', "a.jsonl")
    assert found == [(2, "line 2", {"a": 1}), (4, "line 4", [2])]


def test_a_list_gives_its_items_with_the_line_that_they_begin_on():
    found = safe_json.entries(b'\xef\xbb\xbf [\n {"a":\n 1},\n 2 ]\n', "a.json")
    assert found == [(2, "item 1", {"a": 1}), (4, "item 2", 2)]


def test_values_over_several_lines_may_follow_each_other():
    found = safe_json.entries(b'{\n"a": 1\n}\n{\n"a": 2\n}\n', "a.json")
    assert found == [(1, "item 1", {"a": 1}), (4, "item 2", {"a": 2})]


def test_line_ends_of_old_machines_are_line_ends():
    assert [each.value for each in safe_json.entries(b"1\r2\r", "a")] == [1, 2]


def test_a_separator_inside_a_text_ends_no_line():
    text = json.dumps({"a": "one\u2028two\x85three"}, ensure_ascii=False)
    assert safe_json.entries(text.encode(), "a")[0].value == {"a": "one\u2028two\x85three"}


def test_every_bad_line_is_told_and_the_good_ones_do_not_hide_them():
    assert problems(b'{"a": 1}\n{"a": }\n{"a": 1, "a": 2}\n{"a": NaN}\n' + b"[" * 100 + b"]" * 100) == [
        'error: a.json:2: not JSON: Expecting value\n  2 | {"a": }\nhint: is the file whole? fetch it again',
        'error: a.json:3: not JSON: the key \'a\' is there twice\n  3 | {"a": 1, "a": 2}\nhint: is the file whole? fetch it again',
        'error: a.json:4: not JSON: NaN is no number\n  4 | {"a": NaN}\nhint: is the file whole? fetch it again',
        "error: a.json:5: nested more than 64 levels deep",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[1, 2", "error: a.json:1: not JSON: the list does not end"),
        (b"[1 2]", "error: a.json:1: not JSON: expected ',' or ']'"),
        (b"[1]\n2", "error: a.json:2: not JSON: something follows the list"),
        (b"[\n{]", "error: a.json:2: not JSON: Expecting property name enclosed in double quotes"),
        (b'{"a":\n{"b": }}', "error: a.json:2: not JSON: Expecting value"),
        (b'{"a": "\xff"}', "error: a.json:1: not UTF-8: byte 0xff in column 8"),
        ("{}".encode("utf-16"), "error: a.json: not UTF-8 but UTF-16"),
        (b"  \n ", "error: a.json: there is nothing in it"),
        (b"[]", "error: a.json: there is nothing in it"),
        (b"[" * 100_000, "error: a.json:1: nested more than 64 levels deep"),
        (b'{"a": ' * 100_000, "error: a.json:1: nested more than 64 levels deep"),
        (b"9" * 5000, "error: a.json:1: not JSON: a number of 5,000 digits"),
    ],
)
def test_what_is_no_json_is_said_with_its_line(data, message):
    assert problems(data)[0].startswith(message)


def test_reading_ends_where_the_file_is_another_thing(monkeypatch):
    monkeypatch.setattr(safe_json, "MAX_VALUES", 3)
    assert problems(b"1\n2\n3\n4\n5\n") == ["error: a.json:4: more than 3 records"]
    many = problems(b"x\n" * 1000)
    assert many[-1] == "… and 150 more in a.json"


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:1a\\u\n', max_size=60).map(str.encode))
def test_no_bytes_break_it(data):
    try:
        found = safe_json.entries(data, "a")
    except FileProblems as error:
        assert error.problems  # noqa: PT017 - either is right
    else:
        assert found


@given(st.lists(st.recursive(st.text() | st.integers(-9, 9), st.lists), min_size=1))
def test_what_json_writes_is_read_back(values):
    text = json.dumps(values)
    assert [each.value for each in safe_json.entries(text.encode(), "a")] == values
    lines = "\n".join(json.dumps({"a": value}, ensure_ascii=True) for value in values)
    assert [each.value["a"] for each in safe_json.entries(lines.encode(), "a")] == values
