"""Two versions of one output, as differences down to the record."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge.differences import aligned, differ


def jsonl(*records):
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records).encode()


def said(name, was, now, **options):
    return [each.said() for each in differ(name, was, now, **options)]


ONE = {"id": "one", "answer": "Yes.", "score": 4}
TWO = {"id": "two", "answer": "No.", "score": 5}
THREE = {"id": "three", "answer": "Perhaps.", "score": 6}


def test_equal_bytes_have_no_differences():
    assert differ("scores.jsonl", jsonl(ONE), jsonl(ONE)) == []


def test_a_changed_record_is_named_by_its_id_and_the_field():
    now = jsonl(ONE, TWO | {"score": 7}, THREE)
    (found,) = differ("scores.jsonl", jsonl(ONE, TWO, THREE), now)
    assert found.said() == "two: score: 5 → 7"
    assert found.data() == {
        "number": 2,
        "id": "two",
        "path": "score",
        "kind": "changed",
        "was": 5,
        "now": 7,
    }


def test_an_added_record_does_not_make_those_after_it_differ():
    assert said("x.jsonl", jsonl(ONE, THREE), jsonl(ONE, TWO, THREE)) == [
        'two: added: {"id": "two", "answer": "No.", "score": 5}'
    ]
    (found,) = differ("x.jsonl", jsonl(ONE, TWO, THREE), jsonl(ONE, THREE))
    assert (found.kind, found.id, found.number) == ("removed", "two", 2)
    assert "now" not in found.data()


def test_a_moved_record_is_the_only_one_that_moved():
    was = [{"id": f"r{n}"} for n in range(10)]
    now = [*was[:2], *was[3:], was[2]]
    assert said("x.jsonl", jsonl(*was), jsonl(*now)) == ["r2: moved from line 3 to line 10"]


def test_a_path_leads_into_lists_and_objects():
    was = {"id": "d", "turns": [{"role": "A", "content": "Hello."}, {"role": "B", "content": "Good day."}]}
    now = json.loads(json.dumps(was).replace("Good day.", "Good night."))
    assert said("dialogues.jsonl", jsonl(was), jsonl(now)) == ["d: turns[1].content: Good day. → Good night."]


def test_records_without_ids_go_by_their_place():
    assert said("x.jsonl", b'{"a": 1}\n{"a": 2}\n', b'{"a": 1}\n{"a": 3}\n') == ["line 2: a: 2 → 3"]
    assert said("x.jsonl", b"1\n2\n3\n", b"1\n3\n") == ["line 2: removed: 2"]


def test_ids_that_come_twice_name_nothing():
    was, now = jsonl(ONE, ONE | {"score": 1}), jsonl(ONE | {"score": 2}, ONE | {"score": 3})
    assert said("x.jsonl", was, now) == ["line 1: score: 4 → 2", "line 2: score: 1 → 3"]


def test_the_same_value_written_otherwise_is_told_so():
    assert said("x.jsonl", b'{"id":"a","b":1}\n', b'{"b": 1, "id": "a"}\n') == [
        "a: the same value, written otherwise"
    ]


@pytest.mark.parametrize(("was", "now"), [("1", "1.0"), ("1", "true"), ("0", "false"), ('""', "null")])
def test_types_are_told_apart(was, now):
    assert said("x.json", b'{"a": %s}' % was.encode(), b'{"a": %s}' % now.encode()) != []


def test_json_goes_by_path_and_lists_by_id():
    was = {"paragraphs": [{"id": "bonn", "text": "Born."}, {"id": "vienna", "text": "Moved."}], "n": 2}
    now = {
        "paragraphs": [{"id": "vienna", "text": "Left."}, {"id": "bonn", "text": "Born."}],
        "n": 2,
        "a.b": 0,
    }
    assert said("profile.json", json.dumps(was).encode(), json.dumps(now).encode()) == [
        "paragraphs[vienna].text: Moved. → Left.",
        'paragraphs: ["bonn", "vienna"] → ["vienna", "bonn"]',
        '["a.b"]: added: 0',
    ]


def test_a_folders_manifest_goes_by_file():
    was = {"model.safetensors": {"digest": "a" * 64, "size": 1}}
    now = {"model.safetensors": {"digest": "a" * 64, "size": 2}}
    assert said("weights/", json.dumps(was).encode(), json.dumps(now).encode()) == [
        '["model.safetensors"].size: 1 → 2'
    ]


def test_text_goes_by_line_and_bytes_by_the_first_that_differs():
    assert said("a.html", b"one\ntwo\nthree\n", b"one\n2\nthree\n") == ["line 2: two → 2"]
    assert said("a.html", b"one\nthree\n", b"one\ntwo\nthree\n") == ["line 2: added: two"]
    assert said("model.bin", b"\xff\x00\x01", b"\xff\x00\x02") == ["byte 2: 01 → 02"]
    assert said("a.txt", b"one", b"one\n") == ["byte 3: the end → 0a"]


def test_a_broken_line_is_compared_as_text():
    assert said("x.jsonl", b'{"id": "a"}\n', b'{"id": \n') == ['line 1: {"id": "a"} → {"id":']


def test_a_long_text_is_shown_around_its_first_difference():
    text = "word " * 1000
    (line,) = said("x.json", json.dumps({"a": text + "x"}).encode(), json.dumps({"a": text + "y"}).encode())
    assert line == f"a: …{('word ' * 4).strip()} x → …{('word ' * 4).strip()} y"


def test_what_is_shown_cannot_steer_a_terminal():
    evil = "\x1b[2J\x07\u202e"
    record = {"id": evil, "a": evil}
    for was, now in (({}, record), (record, record | {"a": "b"}), (record, record | {evil: evil})):
        for line in said("x.jsonl", jsonl(was), jsonl(now)):
            assert line.isprintable()


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b'{"a":' * 100 + b"1" + b"}" * 100, b"NaN", b"1" * 5000, b"\xff", b"\x00", b'"\\ud800"'],
)
def test_odd_lines_are_differences_and_no_crash(line):
    for name in ("x.jsonl", "x.json", "x/", "x"):
        for was, now in ((line, b"1"), (b"1", line), (line + b"\n", line)):
            found = differ(name, was, now)
            assert found
            for each in found:
                assert each.said().isprintable()
                json.dumps(each.data(), allow_nan=False).encode()
                json.dumps(each.data(), ensure_ascii=False).encode()


def test_endless_numbers_and_long_values_can_still_be_written_as_data():
    found = differ("x.json", b'{"a": 1e999, "b": ""}', json.dumps({"a": 1, "b": "x" * 10_000}).encode())
    data = [each.data() for each in found]
    json.dumps(data, allow_nan=False)
    assert data[0]["was"] == "inf"
    assert data[1]["now"].endswith("… (10,002 characters)")
    assert len(data[1]["now"]) < 4_100


def test_no_more_than_asked_for():
    was, now = (jsonl(*({"id": f"r{n}", "a": side} for n in range(100))) for side in (1, 2))
    assert len(differ("x.jsonl", was, now, limit=3)) == 3


def test_the_record_that_differs_among_many_is_found():
    records = [{"id": f"r{n}", "text": "x" * 400} for n in range(20_000)]
    was = jsonl(*records)
    records[13_000] = records[13_000] | {"text": "y"}
    (found,) = aligned(was, jsonl(*records))
    assert (found.kind, found.id, found.before, found.after) == ("changed", "r13000", 13_001, 13_001)


RECORDS = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 3) | st.text(max_size=3), max_size=3),
    max_size=6,
)


@given(was=RECORDS, now=RECORDS, ids=st.booleans(), last=st.booleans())
def test_there_is_a_difference_exactly_where_bytes_differ(was, now, ids, last):
    if ids:
        was, now = ([each | {"id": f"r{n}"} for n, each in enumerate(side)] for side in (was, now))
    before, after = jsonl(*was), jsonl(*now)
    after = after if last else after.rstrip(b"\n")
    for name in ("x.jsonl", "x.txt"):
        assert bool(differ(name, before, after)) == (before != after)


@given(
    was=st.binary(max_size=40), now=st.binary(max_size=40), name=st.sampled_from(["a.jsonl", "a.json", "a"])
)
def test_any_bytes_can_be_compared(was, now, name):
    found = differ(name, was, now)
    assert bool(found) == (was != now)
    for each in found:
        assert each.said().isprintable()


@given(order=st.permutations(range(7)), dropped=st.sets(st.integers(0, 6)))
def test_what_moved_is_what_is_out_of_order_and_no_more(order, dropped):
    was = [{"id": f"r{n}"} for n in range(7)]
    now = [was[n] for n in order if n not in dropped]
    found = aligned(jsonl(*was), jsonl(*now))
    moved = {each.id for each in found if each.kind == "moved"}
    stays = [n for n in order if n not in dropped and f"r{n}" not in moved]
    assert stays == sorted(stays)
    assert {each.id for each in found if each.kind == "removed"} == {f"r{n}" for n in dropped}
