"""YAML from a stranger: what it means, where it stands, and every way in which it is refused."""

from __future__ import annotations

import os
import random

import pytest

from charforge import safe_yaml
from charforge.errors import FileProblems
from charforge.files import decode, read_bytes, read_text, visible


@pytest.fixture(params=["libyaml", "pyyaml"])
def parser(request, monkeypatch):
    """Both parsers must give the same answers."""
    loader = safe_yaml._loader(fast=request.param == "libyaml")
    monkeypatch.setattr(safe_yaml, "_loader", lambda: loader)
    return request.param


def refused(text: str) -> str:
    with pytest.raises(FileProblems) as caught:
        safe_yaml.parse(text, "x.yaml")
    return caught.value.render()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("1827-03-26", "1827-03-26"),
        ("2001-12-14t21:59:43Z", "2001-12-14t21:59:43Z"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("1e-4", 1e-4),
        ("2.0e-5", 2e-5),
        (".5", 0.5),
        ("+3", 3),
        ("007", 7),
        ("0o17", 15),
        ("0xff", 255),
        ("0b1", "0b1"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("=", "="),
        ("nothing", "nothing"),
        ("9007199254740991", 9007199254740991),
    ],
)
@pytest.mark.usefixtures("parser")
def test_scalars_follow_the_yaml_1_2_core_schema(text, value):
    found = safe_yaml.parse(f"key: {text}\n", "x.yaml").value["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.usefixtures("parser")
def test_every_key_and_value_has_its_line():
    document = safe_yaml.parse(
        "a: 1\n\nb:\n  - x\n  - y: >-\n      two\n      lines\n\nc: {d: 2,\n  e: 3}\n", "x.yaml"
    )
    assert document.value == {"a": 1, "b": ["x", {"y": "two lines"}], "c": {"d": 2, "e": 3}}
    assert document.marks == {
        ("a",): (1, 1),
        ("b",): (3, 3),
        ("b", 0): (4, 4),
        ("b", 1): (5, 5),
        ("b", 1, "y"): (5, 5),
        ("c",): (9, 9),
        ("c", "d"): (9, 9),
        ("c", "e"): (10, 10),
    }


@pytest.mark.usefixtures("parser")
def test_aliases_and_merge_keys_are_plain_values():
    document = safe_yaml.parse("a: &x [1]\nb: *x\nc: {<<: 1}\n", "x.yaml")
    assert document.value == {"a": [1], "b": [1], "c": {"<<": 1}}


def test_both_parsers_agree_on_random_documents(monkeypatch):
    alphabet = [
        "a",
        "b: ",
        "- ",
        "\n",
        "  ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "'",
        '"',
        "#",
        "&x ",
        "*x",
        "|",
        "1",
        ": ",
        "!t ",
    ]
    rng = random.Random(0)
    fast, slow = safe_yaml._loader(), safe_yaml._loader(fast=False)
    agreed = 0
    for _ in range(3000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 12)))
        answers = []
        for loader in (fast, slow):
            monkeypatch.setattr(safe_yaml, "_loader", lambda loader=loader: loader)
            try:
                document = safe_yaml.parse(text, "x.yaml")
                answers.append((document.value, document.marks))
            except FileProblems as error:
                # The parsers word syntax errors differently, and place some.
                broken = [p for p in error.problems if "not valid YAML" in p.message]
                answers.append("broken" if broken else error.render())
        assert answers[0] == answers[1] or "broken" in answers, repr(text)
        agreed += answers[0] == answers[1] and answers[0] != "broken"
    assert agreed > 100


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "a: 1\nb: 2\na: 3\n",
            "error: x.yaml:3: a: this key is there twice, first on line 1\n  3 | a: 3\nhint: keep one of them",
        ),
        (
            "a:\n  b: !!python/object/apply:os.system [ls]\n",
            (
                "error: x.yaml:2: a.b: tags are not allowed, found !!python/object/apply:os.system\n"
                "  2 |   b: !!python/object/apply:os.system [ls]\nhint: delete the tag"
            ),
        ),
        (
            "a: !!str 1\n",
            "error: x.yaml:1: a: tags are not allowed, found !!str\n  1 | a: !!str 1\nhint: delete the tag",
        ),
        (
            "a: !secret x\n",
            "error: x.yaml:1: a: tags are not allowed, found !secret\n  1 | a: !secret x\nhint: delete the tag",
        ),
        ("1: x\n", "error: x.yaml:1: keys are text, got 1\n  1 | 1: x\nhint: put it in quotes"),
        ("? [a]\n: x\n", "error: x.yaml:1: expected a plain word as key\n  1 | ? [a]"),
        (
            "a: .inf\n",
            "error: x.yaml:1: a: expected a finite number of at most 2^53 - 1, got .inf\n  1 | a: .inf",
        ),
        (
            "a: 9007199254740992\n",
            (
                "error: x.yaml:1: a: expected a finite number of at most 2^53 - 1, got 9007199254740992\n"
                "  1 | a: 9007199254740992"
            ),
        ),
        ("# only a comment\n", "error: x.yaml: the file is empty"),
        (
            "a: &a [*a]\n",
            "error: x.yaml:1: aliases nest more than 32 levels deep\n  1 | a: &a [*a]",
        ),
    ],
)
@pytest.mark.usefixtures("parser")
def test_what_is_refused_says_where_and_what(text, error):
    assert refused(text) == error


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "a:\n\tb: 1\n",
            (
                "error: x.yaml:2: not valid YAML: found character that cannot start any token\n"
                "  2 | \\tb: 1\nhint: indent with spaces: YAML allows no tabs there"
            ),
        ),
        (
            "title: Eroica: a symphony\n",
            (
                "error: x.yaml:1: not valid YAML: mapping values are not allowed in this context\n"
                "  1 | title: Eroica: a symphony\n"
                "hint: a value that holds ': ' needs quotes; keys of one mapping start in the same column"
            ),
        ),
        (
            "a: [1, 2\n",
            "error: x.yaml:1: not valid YAML: did not find expected ',' or ']'\n  1 | a: [1, 2",
        ),
        ("a: *b\n", "error: x.yaml:1: not valid YAML: found undefined alias\n  1 | a: *b"),
        ("a: 1\n---\nb: 2\n", "error: x.yaml:2: not valid YAML: but found another document\n  2 | ---"),
    ],
)
def test_broken_yaml_is_one_problem_at_its_line(text, error):
    assert refused(text) == error


@pytest.mark.usefixtures("parser")
def test_a_billion_laughs_are_refused_before_they_are_told():
    lines = ["a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [
        f"{key}: &{key} [{', '.join([f'*{before}'] * 10)}]"
        for before, key in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    assert refused("\n".join(lines)) == (
        "error: x.yaml:1: aliases expand to more than 20,000 values\n"
        "  1 | a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
        "hint: write the values out instead of repeating aliases"
    )


def test_aliases_of_a_long_text_are_refused():
    text = f"a: &a {'x' * 500_000}\nb: [*a, *a]"
    assert refused(text) == (
        "error: x.yaml:1: aliases expand to more than 1,048,576 characters\n"
        f"  1 | a: &a {'x' * 113}…\nhint: write the values out instead of repeating aliases"
    )


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000, "? " * 100_000])
def test_deep_nesting_is_refused_and_does_not_overflow_the_stack(text):
    assert refused(text) == (f"error: x.yaml:1: nested more than 32 levels deep\n  1 | {text[:119]}…")


def test_too_many_values_are_refused():
    assert refused("a: [" + "1," * 30_000 + "]").startswith("error: x.yaml:1: more than 20,000 values\n")


@pytest.mark.usefixtures("parser")
def test_all_wrong_values_are_reported_at_once():
    assert refused("a: !x 1\nb: 2\nb: .nan\n3: c\n") == (
        "error: x.yaml:1: a: tags are not allowed, found !x\n  1 | a: !x 1\nhint: delete the tag\n\n"
        "error: x.yaml:3: b: this key is there twice, first on line 2\n  3 | b: .nan\nhint: keep one of them\n\n"
        "error: x.yaml:4: keys are text, got 3\n  4 | 3: c\nhint: put it in quotes"
    )


def test_a_reader_can_go_on_past_wrong_values():
    problems = []
    document = safe_yaml.parse("a: !x 1\nb: 2\n", "x.yaml", problems=problems)
    assert document.value == {"a": None, "b": 2}
    assert document.bad == {("a",)}
    assert [problem.message for problem in problems] == ["tags are not allowed, found !x"]


def test_terminal_codes_are_shown_and_never_obeyed():
    assert refused('"\\e[31m": 1\n"\\e[31m": 2\n') == (
        "error: x.yaml:2: '\\x1b[31m': this key is there twice, first on line 1\n"
        '  2 | "\\e[31m": 2\nhint: keep one of them'
    )
    assert visible("a\x1b[2J\u202eb\tc") == "a\\x1b[2J\\u202eb\\tc"


def test_a_secret_is_not_shown():
    document = safe_yaml.parse("generator:\n  api_key: sk-123\n", "x.yaml")
    assert document.problem(("generator", "api_key"), "unknown key", hide=True).render() == (
        "error: x.yaml:2: generator.api_key: unknown key\n  2 |   api_key: [not shown]"
    )


# -- files -------------------------------------------------------------------------------------------------------


def file_refused(path, limit=1000) -> str:
    with pytest.raises(FileProblems) as caught:
        read_text(path, "x.md", limit)
    return caught.value.render()


def test_a_100_mb_spec_is_refused_by_its_size_alone(tmp_path, monkeypatch):
    path = tmp_path / "x.yaml"
    path.touch()
    os.truncate(path, 100_000_000)
    monkeypatch.setattr("pathlib.Path.open", lambda *_args, **_options: pytest.fail("the file was opened"))
    with pytest.raises(FileProblems) as caught:
        safe_yaml.load(path, "x.yaml")
    assert caught.value.render() == "error: x.yaml: too large: 100,000,000 bytes, the limit is 1,048,576"


def test_a_missing_file_names_a_near_one(tmp_path):
    (tmp_path / "beethoven.md").write_text("x")
    assert (
        file_refused(tmp_path / "bethoven.md")
        == "error: x.md: no such file\nhint: did you mean 'beethoven.md'?"
    )
    assert (
        file_refused(tmp_path / "caesar.md") == "error: x.md: no such file\nhint: files there: beethoven.md"
    )
    assert file_refused(tmp_path / "nowhere" / "x.md") == "error: x.md: no such file"


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    (tmp_path / "x.md").write_bytes(content)
    assert file_refused(tmp_path / "x.md") == "error: x.md: the file is empty"


def test_a_folder_and_a_pipe_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert file_refused(tmp_path) == "error: x.md: not a regular file"
    assert file_refused(tmp_path / "pipe") == "error: x.md: not a regular file"


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.md"
    path.write_bytes(b"x" * 11)
    small = os.stat_result((0o100644, 0, 0, 1, 0, 0, 10, 0, 0, 0))
    monkeypatch.setattr("pathlib.Path.stat", lambda *_args, **_options: small)
    with pytest.raises(FileProblems) as caught:
        read_bytes(path, "x.md", 10)
    assert caught.value.render() == "error: x.md: too large: the limit is 10 bytes"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (
            "Graz\nKärntnertor\n".encode("latin-1"),
            (
                "error: x.md:2: not UTF-8: byte 0xe4 in column 2\n  2 | Kärntnertor\n"
                "hint: save it as UTF-8, for example: iconv -f LATIN1 -t UTF-8"
            ),
        ),
        (
            b"a\r\nb\r\nK\xe4",
            (
                "error: x.md:3: not UTF-8: byte 0xe4 in column 2\n  3 | Kä\n"
                "hint: save it as UTF-8, for example: iconv -f LATIN1 -t UTF-8"
            ),
        ),
        ("x".encode("utf-16"), "error: x.md: not UTF-8 but UTF-16\nhint: save it as UTF-8"),
        (
            b"a\nb\x1b[31m\n",
            "error: x.md:2: control character U+001B in column 2\n  2 | b\\x1b[31m\nhint: delete it",
        ),
        (b"a\x00", "error: x.md:1: control character U+0000 in column 2\n  1 | a\\x00\nhint: delete it"),
    ],
)
def test_text_that_is_not_utf_8_says_which_byte_of_which_line(content, error):
    with pytest.raises(FileProblems) as caught:
        decode(content, "x.md")
    assert caught.value.render() == error


def test_line_ends_and_the_byte_order_mark_do_not_reach_the_text():
    assert decode(b"\xef\xbb\xbfa\r\nb\rc\n", "x.md") == "a\nb\nc\n"


@pytest.mark.parametrize("fast", [True, False])
def test_bytes_of_a_command_line_that_are_not_utf_8_are_told(monkeypatch, fast):
    loader = safe_yaml._loader
    monkeypatch.setattr(safe_yaml, "_loader", lambda: loader(fast=fast))
    with pytest.raises(FileProblems) as raised:
        safe_yaml.parse("a\udcff", "--set name=…")
    assert raised.value.render().startswith("error: --set name=…: not ")
