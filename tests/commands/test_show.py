"""`charforge show` and `charforge stats`."""

from __future__ import annotations

import json

import pytest

from charforge.commands.show import render
from charforge.llm.request import Reply
from charforge.testing import ScriptedWorkshop


@pytest.fixture
def built(run, eliza):
    """A character built as far as no model is needed."""
    assert run("build", "eliza", "--to", "written")[0] == 0
    return eliza


def test_a_record_is_shown_readable(run, built):
    assert built.is_file()
    status, out, err = run("show", "eliza", "written", "written/talking")
    assert (status, err) == (0, "")
    assert out == (
        "── written/talking-picture ──\n"
        "background: A young person in odd clothes stops and asks a question that makes no sense.\n"
        "kind: written\n"
        "location: The street, on market day\n"
        "paragraphs: manner\n"
        "provocation: Someone asks what was on television.\n"
        "title: The talking picture\n"
        "type: chat\n"
        "\n"
        "Stranger (speaking): Did you watch television last night?\n"
        "\n"
        "Eliza (thinking): Watch what? It must be a play, or the name of a dog.\n"
        "\n"
        "Eliza (speaking): I watched the fire, and then my eyelids from the inside. What is this thing you\n"
        "  speak of?\n"
        "\n"
        "Stranger (speaking): Television! Everybody has one at home.\n"
        "\n"
        "Eliza (speaking): Then everybody is better furnished than I am. I do not know the word. Will you\n"
        "  help me carry these apples?\n"
        "\n"
    )


def test_records_as_json_are_one_a_line(run, built):
    assert built.is_file()
    out = run("show", "eliza", "profile", "--json", "-l", "2")[1]
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["birth", "school"]


def test_a_limit_says_how_many_more_there_are(run, built):
    assert built.is_file()
    out = run("show", "eliza", "profile", "--limit", "2")[1]
    assert out.count("── ") == 2
    assert out.endswith("\n\n3 more; --limit shows them\n")


def test_a_record_that_there_is_not_is_told(run, built):
    assert built.is_file()
    assert run("show", "eliza", "profile", "nope") == (
        1,
        "",
        "error: eliza: profile has no record 'nope'\nhint: show it without an ID for a list\n",
    )


def test_a_stage_without_rejected_records_says_so(run, built):
    assert built.is_file()
    assert run("show", "eliza", "written", "--rejected") == (0, "eliza: written rejected nothing\n", "")
    assert run("show", "eliza", "written", "--rejected", "--json") == (0, "", "")


def test_what_is_no_longer_current_is_shown_with_a_note(run, built, edit):
    edit(built.parent / "profiles" / "eliza.md", "Write here where and when", "Say where and when")
    status, out, err = run("show", "eliza", "profile", "birth")
    assert status == 0
    assert "text: Write here where and when" in out
    assert err == "note: eliza: profile is not up to date; this is what its last run made\n"


def test_a_stage_that_was_never_built_says_how_to_build_it(run, eliza):
    assert eliza.is_file()
    assert run("show", "eliza", "written") == (
        1,
        "",
        "error: eliza: written was never built\nhint: charforge build characters/eliza.yaml --to written\n",
    )
    assert run("stats") == (
        1,
        "",
        "error: eliza: dataset was never built\nhint: charforge build characters/eliza.yaml --to dataset\n",
    )


def test_weights_are_not_shown(run, eliza):
    assert eliza.is_file()
    assert run("show", "eliza", "base") == (
        2,
        "",
        "error: show: base makes weights, and nothing to read\nhint: charforge show eliza model\n",
    )


def test_what_a_model_wrote_cannot_steer_the_terminal():
    turn = {"role": "Eliza", "action": "speaking", "content": "\x1b[2JGone\x07\x9b31m"}
    record = {"id": "x\x1b", "location": "a\x1bb", "background": "two\nlines\r", "turns": [turn]}
    text = "\n".join(render(record))
    assert text == ("── x� ──\nlocation: a�b\nbackground:\n  two\n  lines\n\nEliza (speaking): �[2JGone��31m")


def test_fields_within_fields_are_indented():
    record = {
        "source": {"id": "x", "part": 1},
        "epochs": [{"epoch": 1}],
        "dimensions": ["a", "b"],
        "none": None,
    }
    assert render(record) == [
        "── x part 1 ──",
        "source:",
        "  id: x",
        "  part: 1",
        'epochs: [{"epoch": 1}]',
        "dimensions: a, b",
    ]


def test_a_training_sample_is_known_by_its_source():
    record = {"prompt": "p", "output": "o", "kind": "dialogue", "source": {"id": "written/x", "part": 2}}
    assert render(record)[0] == "── written/x part 2 ──"


def test_what_a_failed_stage_rejected_can_be_read(run, eliza, monkeypatch):
    class Refusing(ScriptedWorkshop):
        async def complete(self, request, weights):
            del request, weights
            return Reply(text="I am sorry, but I cannot write that.", finish_reason="stop")

    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_: Refusing())
    scripted = ("--preset=smoke", "--set=generator.model=openai/scripted", "--set=scenes.min_yield=0.5")
    status, _, err = run("build", "eliza", "--to", "scenes", *scripted)
    assert status == 1
    assert "hint: read them with 'show … scenes --rejected'" in err
    status, out, err = run("show", "eliza", "scenes", "--rejected", *scripted, "-l", "1")
    assert status == 0
    assert "I am sorry, but I cannot write that." in out
    assert err == "note: eliza: scenes failed; this is what it rejected until then\n"
