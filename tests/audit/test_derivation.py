"""Derivation: which field of spec, prompt, profile or code no longer derives what the lock says. No store is read."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from charforge.audit.derivation import derivation, underivable
from charforge.audit.finding import BIT_IDENTICAL, DIVERGENT, NOT_CHECKABLE, Difference

OTHER = "0" * 64


@pytest.fixture
def audit(eliza):
    def derive():
        shutil.rmtree(eliza.store, ignore_errors=True)
        graph, goal = eliza.derived()
        return derivation(eliza.lock, "eliza", graph, [goal])

    return derive


def differences(level):
    return {result.stage: result.differences for result in level.results if result.verdict == DIVERGENT}


def test_the_checkout_derives_what_it_built(audit):
    level = audit()
    assert level.verdict == BIT_IDENTICAL
    assert [result.stage for result in level.results][:3] == ["profile", "written", "scenes"]
    assert len(level.results) == level.facts["stages"] == 13


def test_a_field_of_the_spec_that_moved_on_is_named_at_its_stage_only(audit, eliza):
    spec = eliza.target.spec
    text = spec.read_text(encoding="utf-8")
    spec.write_text(
        text.replace("{model: openai/scripted}", "{model: openai/scripted, top_p: 0.5}"), encoding="utf-8"
    )
    found = differences(audit())
    assert set(found) >= {"scenes", "dialogues", "protective"}
    assert "dataset" not in found
    assert found["scenes"] == [
        Difference("field params.generator.top_p", "generator.top_p 0.95 → 0.5", "0.95", "0.5")
    ]


def test_a_file_that_moved_on_is_named_with_both_digests(audit, eliza):
    profile = eliza.folder / "characters" / "profiles" / "eliza.md"
    profile.write_text(profile.read_text(encoding="utf-8") + "\n\nShe sang.\n", encoding="utf-8")
    found = differences(audit())
    assert list(found) == ["profile"]
    (difference,) = found["profile"]
    assert difference.what == "input characters/profiles/eliza.md"
    assert difference.said == "characters/profiles/eliza.md changed"
    assert difference.expected == eliza.lock.stages["profile"].inputs["profile"]
    assert difference.found not in {None, difference.expected}


def test_code_that_moved_on_is_named(audit, eliza, monkeypatch):
    monkeypatch.setattr("charforge.stages.scenes.VERSION", 99)
    (difference,) = differences(audit())["scenes"]
    assert (difference.what, difference.found) == ("field version", "99")


@pytest.mark.parametrize(
    ("stage", "fields", "told"),
    [
        ("scenes", {"action": OTHER}, {"scenes": ["line"]}),
        ("scenes", {"params": lambda was: {**was, "generator": {**was["generator"], "seed": 7}}},
         {"scenes": ["field params.generator.seed", "line"]}),
        ("scenes", {"version": 99}, {"scenes": ["field version", "line"]}),
        ("scenes", {"inputs": lambda was: {**was, "profile": OTHER}}, {"scenes": ["input eliza/profile/profile.json", "line"]}),
        ("profile", {"outputs": {"profile.json": OTHER}}, {"scenes": ["input eliza/profile/profile.json"]}),
        ("profile", {"outputs": {}}, {"scenes": ["input eliza/profile/profile.json"]}),
        ("scenes", {"counts": lambda was: {**was, "more.jsonl": 1}}, {"scenes": ["line"]}),
        ("scenes", {"usage": lambda was: {**was, "openai/other": {"calls": 1}}}, {"scenes": ["line"]}),
        ("scenes", {"models": {}}, {"scenes": ["line", "line"]}),
    ],
)  # fmt: skip
def test_a_lock_that_lies_is_found_without_a_store(audit, eliza, stage, fields, told):
    eliza.lie(stage, **fields)
    found = differences(audit())
    for kind, whats in told.items():
        assert [each.what for each in found[kind]] == whats


def test_outputs_that_the_next_line_never_read_are_told_as_the_locks_own_contradiction(audit, eliza):
    was = eliza.lock.stages["profile"].outputs["profile.json"]
    eliza.lie("profile", outputs={"profile.json": OTHER})
    (difference,) = differences(audit())["scenes"]
    assert difference.said == (
        f"eliza/profile/profile.json: read as {was[:12]}…, and made as 000000000000… by the lock's own line for it"
    )


def test_a_line_too_many_and_one_too_few_are_told(audit, eliza):
    said = eliza.lock
    lines = {kind: line for kind, line in said.stages.items() if kind != "metrics"}
    shutil.rmtree(eliza.store)
    graph, goal = eliza.derived()
    level = derivation(
        replace(said, stages={**lines, "séance": said.stages["profile"]}), "eliza", graph, [goal]
    )
    found = differences(level)
    assert [each.said for each in found["metrics"]] == ["the lock has no such stage"]
    assert "this checkout makes no such stage" in [each.said for each in found["séance"]]


def test_the_lock_of_another_is_told_once(audit, eliza):
    text = eliza.target.lock.read_text(encoding="utf-8")
    eliza.target.lock.write_text(text.replace('"character": "eliza"', '"character": "mallory"'))
    assert differences(audit()) == {
        "lock": [Difference("character", "it is the lock of mallory", "mallory", "eliza")]
    }


def test_a_checkout_that_derives_nothing_is_divergent_where_it_is_wrong(eliza):
    assert underivable(eliza.lock, "no such key", wrong=True).verdict == DIVERGENT
    missing = underivable(eliza.lock, "the weights are not installed", wrong=False)
    assert missing.verdict == NOT_CHECKABLE
    assert {result.why for result in missing.results} == {"the weights are not installed"}
