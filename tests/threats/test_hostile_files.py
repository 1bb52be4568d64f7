"""Files that a spec names and that are huge, or made to take long: read within limits, and in a time that grows with their length."""

from __future__ import annotations

import json

import pytest

from charforge import safe_json
from charforge.errors import FileProblems
from charforge.stages import profile, released, written

HEAD = "---\nname: Eliza Field\nlicence: CC0-1.0\nsource: invented\n---\n\n"


def told(read, *args, **options):
    with pytest.raises(FileProblems) as raised:
        read(*args, **options)
    return [problem.render() for problem in raised.value.problems]


def test_a_profile_of_too_many_lines_is_refused():
    text = HEAD + "x\n\n" * 100_000
    assert told(profile.read, text, file="x.md") == [
        "error: x.md: too long: 200,007 lines, the limit is 10,000"
    ]


def test_a_megabyte_of_spaces_before_an_anchor_is_read_at_once():
    """Once, each space was the beginning of a search to the end of all of them: minutes of it."""
    life = profile.read(HEAD + "Eliza" + " " * 1_000_000 + "x {#a}\n", file="x.md")
    assert life["paragraphs"] == [{"id": "a", "number": 1, "section": "", "text": "Eliza x"}]


def test_written_dialogues_of_too_many_lines_are_refused():
    text = "# Scenes\n\n" + "Tom (speaking): Good day.\n\n" * 60_000
    found = told(written.read, text, file="x.md", short_name="Eliza", paragraph_ids=["p1"])
    assert found == ["error: x.md: too long: 120,003 lines, the limit is 10,000"]


@pytest.mark.parametrize("many", ["{#A} ", "p0x, p1x, "])
def test_reading_ends_after_200_problems(many):
    """To each belongs a search for what was meant, and nobody reads the 201st."""
    if many.startswith("{"):
        found = told(profile.read, HEAD + f"Eliza {many}\n\n" * 4_000, file="x.md")
    else:
        text = "# Scenes\n\n## A {#a}\n\nParagraphs: " + many * 5_000
        found = told(written.read, text, file="x.md", short_name="Eliza", paragraph_ids=["p1"])
    assert len(found) <= 200


def test_brackets_are_counted_before_anything_is_made_of_them():
    data = b'{"a":[' + b"[]," * 400_000 + b"[]]}"
    assert told(safe_json.entries, data, "x.json") == ["error: x.json: more than 500,000 values"]
    found = told(released.prompted, released.File(data, "x.jsonl"))
    assert found[0].startswith("error: x.jsonl: hardly anything but brackets and commas")


def test_commas_of_a_text_are_no_values():
    data = json.dumps({"a": '\\",[' * 300_000}).encode()
    (entry,) = safe_json.entries(data, "x.json")
    assert len(entry.value["a"]) == 1_200_000


@pytest.mark.parametrize("ending", ["", "\\", "\\\\", '"', '\\"', "\n"])
def test_to_count_takes_no_time_by_the_square(ending):
    """A text that never ends, of escaped quotes each of which could be where one begins."""
    assert safe_json.crowded("[" * 500_001 + '"' + '\\"' * 500_000 + ending)
    assert not safe_json.crowded('"' + '\\",[' * 500_000 + ending)


@pytest.mark.parametrize("line", [b"{\n", b"{}\n", b"[]\n", b"\xff\n"])
def test_a_file_of_another_thing_is_not_read_to_its_end(line):
    found = told(released.prompted, released.File(b"1\n" + line * 200_000, "x.jsonl"))
    assert found[0].startswith("error: x.jsonl: 20,000 records in a row cannot be used, such as line ")


def test_numbers_that_no_machine_can_hold_are_problems():
    data = b'{"a": 1e999}\n{"a": -1e999}\n{"a": ' + b"1" * 5_000 + b'}\n{"a": NaN}\n'
    messages = [
        text.splitlines()[0].partition("not JSON: ")[2] for text in told(safe_json.entries, data, "x")
    ]
    assert messages == [
        "a number too large",
        "a number too large",
        "a number of 5,000 digits",
        "NaN is no number",
    ]
