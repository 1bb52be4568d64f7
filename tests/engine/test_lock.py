"""The lock is committed: its text is a contract, its diffs are read by people, and it may come from a stranger."""

from __future__ import annotations

import dataclasses
import json

import pytest

from charforge.engine import lock
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.graph import Graph, Output, Source, Stage
from charforge.engine.store import Store

TEXT = """\
{
  "character": "eliza",
  "charforge_lock": 2,
  "environments": {
    "ENVIRONMENT": {"python": "3.11.7"}
  },
  "stages": {
    "profile": {"action": "PROFILE", "environment": "ENVIRONMENT", "inputs": {"profile": "INPUT"}, "outputs": {"profile.json": "MADE"}, "params": {}, "version": 1},
    "scenes": {"action": "SCENES", "counts": {"scenes.jsonl": 2}, "environment": "ENVIRONMENT", "inputs": {"profile": "MADE"}, "models": {"größer/m": null}, "observations": {"count": 1, "root": "ROOT"}, "outputs": {"scenes.jsonl": "RECORDS"}, "params": {"count": 2}, "usage": {"größer/m": {"calls": 1, "cost": 0.25, "prompt_tokens": 7}}, "version": 3}
  }
}
"""

ENVIRONMENT = {"python": "3.11.7"}
SOURCE = Source("profiles/eliza.md", of_bytes(b"life"), b"life")
PROFILE = Action("profile", 1, {}, {"profile": SOURCE.digest})
SCENES = Action("scenes", 3, {"count": 2}, {"profile": of_bytes(b"{}")})
CALL = Action("call", 1, {"model": "größer/m", "weights": None, "prompt": "?"}, {})
RECORDS = b'{"id":"a"}\n{"id":"b"}\n'
USAGE = {"größer/m": {"calls": 1, "cost": 0.1 + 0.15, "lost": 0.5, "prompt_tokens": 7}}


async def nothing(_context):
    return {}


def graph(*, count=2, version=3, source=SOURCE):
    profile = Stage("eliza/profile", "profile", 1, {}, {"profile": source}, nothing)
    reads = {"profile": Output("eliza/profile", "profile.json")}
    return Graph([profile, Stage("eliza/scenes", "scenes", version, {"count": count}, reads, nothing)])


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def traces(store):
    def record(action, outputs, **more):
        store.record(action, store.pack(outputs), {"environment": ENVIRONMENT, **more}).result()
        return store.find(action.digest)

    record(CALL, {"reply": b"{}"})
    calls = store.pack({"calls": canonical([CALL.digest])})
    store.record(Action("x", 1, {}, {}), calls, {}).result()  # the list is a blob like any other
    return {
        "scenes": record(SCENES, {"scenes.jsonl": RECORDS}, calls=calls.outputs["calls"], usage=USAGE),
        "profile": record(PROFILE, {"profile.json": b"{}"}),
    }


@pytest.fixture
def found(store, traces):
    return lock.collect(store, "eliza", traces)


@pytest.fixture
def path(tmp_path, found):
    path = tmp_path / "eliza.lock"
    lock.write(path, found)
    return path


def test_it_is_sorted_one_line_a_stage(path):
    root = lock.observations_root([(CALL.digest, of_bytes(b"{}"))])
    names = {
        "PROFILE": PROFILE.digest, "SCENES": SCENES.digest, "INPUT": SOURCE.digest, "MADE": of_bytes(b"{}"),
        "ROOT": root, "RECORDS": of_bytes(RECORDS), "ENVIRONMENT": lock.environment_key(ENVIRONMENT),
    }  # fmt: skip
    expected = TEXT
    for name, digest in names.items():
        expected = expected.replace(f'"{name}"', f'"{digest}"')
    assert path.read_text(encoding="utf-8") == expected


def test_what_is_read_is_what_was_written(path, found):
    assert lock.read(path) == found
    assert lock.text(lock.read(path)) == path.read_text(encoding="utf-8")


def test_a_lock_that_says_the_same_is_not_touched(path, found):
    before = path.stat()
    assert not lock.write(path, found)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [one.name for one in path.parent.iterdir() if one.is_file()] == ["eliza.lock"]


def test_it_names_the_actions_that_gc_keeps(path):
    assert sorted(lock.actions(path)) == sorted([PROFILE.digest, SCENES.digest])


def test_a_lock_of_version_1_names_its_actions_and_nothing_more(path):
    path.write_text(
        json.dumps({"character": "eliza", "charforge_lock": 1, "stages": {"profile": {"action": "a" * 64}}})
    )
    assert lock.actions(path) == ["a" * 64]
    with pytest.raises(EngineError) as caught:
        lock.read(path)
    assert caught.value.message == f"{path}: a lock of version 1, which does not say what its stages stood on"
    assert caught.value.hint == "charforge lock eliza writes it anew from the store"


def test_a_lock_that_cannot_be_written_is_a_clear_error(tmp_path, found):
    (tmp_path / "folder.lock").mkdir()
    with pytest.raises(EngineError) as caught:
        lock.write(tmp_path / "folder.lock", found)
    assert caught.value.message == f"cannot write {tmp_path / 'folder.lock'}: Is a directory"
    assert caught.value.hint == "make it writable and rerun"


def test_the_root_names_the_replies_and_not_their_order():
    pairs = [("a" * 64, "1" * 64), ("b" * 64, "2" * 64)]
    assert lock.observations_root(pairs) == lock.observations_root(pairs[::-1])
    swapped = [("a" * 64, "2" * 64), ("b" * 64, "1" * 64)]
    assert lock.observations_root(pairs) != lock.observations_root(swapped)


def test_a_lost_reply_is_damage_and_no_smaller_root(store, traces):
    store.forget([], [of_bytes(b"{}")])
    with pytest.raises(Damaged, match="is a call whose reply is missing"):
        lock.line(store, traces["scenes"])
    assert store.find(SCENES.digest) is None  # so the next build mends it


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: "", "not JSON: Expecting value in column 1"),
        (lambda text: "{}", "it names no version"),
        (lambda text: text.replace('"charforge_lock": 2', '"charforge_lock": true'), "it names no version"),
        (lambda text: text.replace('"charforge_lock": 2', '"charforge_lock": "2"'), "it names no version"),
        (lambda text: text.replace('"character": "eliza"', '"character": 1'), "it names no character or no stages"),
        (lambda text: text.replace('"environments"', '"more": 1, "environments"'),
         "it has other keys than character, charforge_lock, environments and stages"),
        (lambda text: text.replace('"version": 3', '"version": 3, "host": "evil"'),
         "stage 'scenes': its keys are not those of a line: host"),
        (lambda text: text.replace(f'"environment": "{lock.environment_key(ENVIRONMENT)}", "inputs"', '"environment": [], "inputs"'),
         "stage 'profile': its environment is not among the environments"),
        (lambda text: text.replace('"version": 3', '"version": -3'), "stage 'scenes': a value is not what a line has there"),
        (lambda text: text.replace('{"scenes.jsonl": 2}', '{"scenes.jsonl": "2"}'),
         "stage 'scenes': a value is not what a line has there"),
        (lambda text: text.replace(of_bytes(RECORDS), "../../etc/passwd"), "stage 'scenes': outputs name no digests"),
        (lambda text: text.replace('"count": 2', '"count": 1e999'), "not canonical JSON: inf is not representable in JCS"),
        (lambda text: text.replace('"count": 2', '"count": 2, "count": 3'), "a key comes twice"),
        (lambda text: text.replace('"count": 2', '"count": ' + "[" * 40 + "]" * 40), "nested too deeply"),
        (lambda text: text.replace('"count": 2', '"count": ' + "[" * 100_000 + "]" * 100_000), "nested too deeply"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_lock_is_a_clear_error(path, change, why):
    text = path.read_text(encoding="utf-8")
    assert change(text) != text
    path.write_text(change(text), encoding="utf-8")
    with pytest.raises(EngineError) as caught:
        lock.read(path)
    assert caught.value.message.startswith(f"{path}: not a lock file ({why}")
    assert caught.value.hint == "restore it from git, or charforge lock eliza writes it anew from the store"


def test_a_newer_lock_is_refused(path):
    path.write_text(path.read_text().replace('"charforge_lock": 2', '"charforge_lock": 3'))
    for reading in (lock.read, lock.actions):
        with pytest.raises(EngineError) as caught:
            reading(path)
        assert caught.value.message == f"{path}: written by a newer CharForge"
        assert caught.value.hint == "upgrade CharForge"


def test_a_merge_conflict_is_told_from_other_damage(path):
    lines = path.read_text().splitlines(keepends=True)
    lines[5:5] = ["<<<<<<< HEAD\n", lines[5], "=======\n"]
    path.write_text("".join([*lines, ">>>>>>> theirs\n"]))
    with pytest.raises(EngineError) as caught:
        lock.read(path)
    assert caught.value.message == f"{path}: holds the marks of a merge conflict"
    assert caught.value.hint == "charforge lock eliza writes it anew from the store"


def test_a_file_too_large_is_not_read(path):
    with path.open("ab") as file:
        file.truncate(lock.MAX_BYTES + 1)
    with pytest.raises(EngineError, match="more than 2,097,152 bytes"):
        lock.read(path)


# -- lies ------------------------------------------------------------------------------------------------------------


def lie(found, kind, **change):
    return dataclasses.replace(
        found, stages={**found.stages, kind: dataclasses.replace(found.stages[kind], **change)}
    )


def test_a_true_lock_agrees_with_itself_and_is_derived(found):
    assert lock.self_check(found) == {}
    assert lock.underived(found, graph(), ["eliza/scenes"]) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"action": "0" * 64}, f"the action's digest is not that of its version, params and inputs, which is {SCENES.digest[:12]}…"),
        ({"counts": {"others.jsonl": 2}}, "counts has others.jsonl, which is no output"),
        ({"models": {}}, "usage has größer/m, which is none of the models asked"),
        ({"observations": {}}, "models were asked without observations, or the other way round"),
        ({"observations": {"count": 2, "root": "0" * 64}}, "usage tells of 1 calls, observations of 2"),
    ],
    ids=str,
)  # fmt: skip
def test_a_lock_that_contradicts_itself_is_found_without_anything_else(found, change, said):
    assert said in lock.self_check(lie(found, "scenes", **change))["scenes"]


def test_an_environment_is_what_its_name_says(found):
    key = lock.environment_key(ENVIRONMENT)
    lying = dataclasses.replace(found, environments={key: {"python": "2.7"}})
    assert lock.self_check(lying)["scenes"] == [f"the environment {key} is not what its name says"]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"count": 3}, {"scenes": [{"kind": "field", "field": "count", "was": 2, "now": 3}]}),
        ({"version": 4}, {"scenes": [{"kind": "version", "was": 3, "now": 4}]}),
        (
            {"source": Source("profiles/eliza.md", of_bytes(b"other"), b"other")},
            {"profile": [{"kind": "input", "label": "profiles/eliza.md", "change": "changed"}]},
        ),
    ],
    ids=str,
)
def test_a_lock_of_another_spec_says_which_field(found, now, said):
    assert lock.underived(found, graph(**now), ["eliza/scenes"]) == said


def test_other_outputs_are_seen_where_they_are_read(found):
    lying = lie(found, "profile", outputs={"profile.json": "0" * 64})
    reason = {"kind": "input", "label": "eliza/profile/profile.json", "change": "changed"}
    assert lock.underived(lying, graph(), ["eliza/scenes"]) == {"scenes": [reason]}
    gone = lie(found, "profile", outputs={})
    assert lock.underived(gone, graph(), ["eliza/scenes"]) == {"scenes": [{**reason, "change": "removed"}]}


def test_an_action_of_nothing_is_not_derived(found):
    was = {"kind": "field", "field": "action", "was": "0" * 64, "now": SCENES.digest}
    assert lock.underived(lie(found, "scenes", action="0" * 64), graph(), ["eliza/scenes"]) == {
        "scenes": [was]
    }


def test_stages_too_many_and_too_few_are_told(found):
    short = dataclasses.replace(found, stages={"profile": found.stages["profile"]})
    assert lock.underived(short, graph(), ["eliza/scenes"]) == {"scenes": [{"kind": "never"}]}
    assert lock.underived(found, graph(), ["eliza/profile"]) == {"scenes": [{"kind": "gone"}]}


def test_what_was_made_is_compared_fact_by_fact(store, traces, found):
    lying = lie(
        found, "scenes", counts={"scenes.jsonl": 9}, outputs={"scenes.jsonl": "0" * 64, "more": "1" * 64}
    )
    now, _ = lock.line(store, traces["scenes"])
    assert lock.facts_changed(lying.stages["scenes"], now) == {
        "counts.scenes.jsonl": (9, 2),
        "outputs.more": ("1" * 64, None),
        "outputs.scenes.jsonl": ("0" * 64, of_bytes(RECORDS)),
    }
    assert lock.facts_changed(found.stages["scenes"], now) == {}
