"""Keys are struck out, however they are written."""

import html
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge.llm import secrets

KEY = 'planted"key/Zq9-\\WvXu+7ü&t'


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setenv("MINE_API_KEY", KEY)
    monkeypatch.setattr(secrets, "_registered", set())


@pytest.mark.parametrize(
    "spelling",
    [
        KEY,
        json.dumps(KEY),
        json.dumps(KEY, ensure_ascii=False),
        json.dumps(json.dumps({"key": KEY})),
        json.dumps(KEY).replace("/", "\\/"),
        quote(KEY),
        quote(KEY, safe=""),
        html.escape(KEY),
        repr(KEY),
        ascii(KEY),
        f"Bearer {KEY}",
        repr({"Authorization": f"Bearer {KEY}"}),
    ],
)
def test_a_key_is_found_in_every_spelling(spelling):
    shown = secrets.scrub(f"before {spelling} after")
    assert "Zq9" not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize(
    "name",
    [
        "MY_API_KEY",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "openai_key",
        "AZURE_AD_TOKEN",
        "APIKEY",
        "GITHUB_PAT",
    ],
)
def test_variables_with_telling_names_hold_keys(monkeypatch, name):
    monkeypatch.setenv(name, "abcdefgh-ijkl")
    assert secrets.scrub("it is abcdefgh-ijkl.") == "it is [key]."


@pytest.mark.parametrize("name", ["PATH", "TOKENIZERS_PARALLELISM", "KEYBOARD", "MONKEY", "PATIENCE"])
def test_other_variables_hold_none(monkeypatch, name):
    monkeypatch.setenv(name, "abcdefgh-ijkl")
    assert secrets.scrub("it is abcdefgh-ijkl.") == "it is abcdefgh-ijkl."


def test_placeholders_are_words(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "ollama")
    assert secrets.scrub("no ollama here") == "no ollama here"


def test_what_is_registered_is_struck_out_too():
    secrets.register("hidden-word-12", "")
    assert secrets.scrub("a hidden-word-12") == "a [key]"


@pytest.mark.parametrize(
    "text",
    [
        "sk-abc123DEF456",
        "sk-proj-abc_123-DEF",
        "sk-pl***********cdef",
        "plant************7tSr",
        "AIzaSyA-1234567890abcdefghijkl",
        "hf_abcdefghijklmnop",
        "gsk_abcdefghijklmnop",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc",
        "Bearer abcdefgh12345",
        "basic YWJjOmRlZg==",
        'api_key="abcdef123"',
        "x-api-key: abcdef123",
        "password=hunter22",
    ],
)
def test_what_looks_like_a_key_is_struck_out(text):
    assert secrets.scrub(f"({text})").startswith("([key]")


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided",
        "the token limit of 4096 tokens is exceeded: maximum tokens 100",
        "keyboard players and bearers of gifts",
        "set OPENAI_API_KEY in the environment",
        "a basic understanding",
        "**bold** words",
        "task-oriented, risk-averse",
    ],
)
def test_words_stay(text):
    assert secrets.scrub(text) == text


def test_scrubbing_twice_changes_nothing():
    once = secrets.scrub(f"api_key={KEY} Bearer {KEY} {json.dumps(KEY)}")
    assert secrets.scrub(once) == once


def quoted(text, how):
    for each in how:
        text = {
            "json": lambda t: json.dumps({"a": t}),
            "unicode": lambda t: json.dumps([t], ensure_ascii=False),
            "repr": repr,
            "bytes": lambda t: repr(t.encode()) if t.isascii() else repr(t),
            "lower": str.lower,
            "slash": lambda t: json.dumps(t).replace("/", "\\/"),
        }[each](text)
    return text


@given(
    st.text(
        st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="<>"), min_size=8, max_size=30
    ),
    st.lists(st.sampled_from(["json", "unicode", "repr", "bytes", "lower", "slash"]), max_size=4),
)
def test_no_key_survives_any_quoting(key, how):
    shown = secrets.Striker([key]).strike(quoted(f"<<{key}>>", how))
    assert "[key]" in shown
    assert shown.count("<<") == shown.count(">>") == 1
    for run in re.findall("[A-Za-z0-9]{4,}", key):
        assert run.lower() not in shown.lower()


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=30))
def test_no_text_breaks_the_striking(key):
    striker = secrets.Striker([key])
    for text in (key, json.dumps(key), quote(key, safe=""), html.escape(key)):
        striker.strike(text)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "MY_KEY", "TOKEN", "A1"])
def test_names_are_no_keys(name):
    assert not secrets.looks_like_key(name)


@pytest.mark.parametrize("value", ["sk-abcdef123456", "abcdef", "MY KEY", "A" * 30 + "1", "", "my_key"])
def test_keys_are_no_names(value):
    assert secrets.looks_like_key(value)
