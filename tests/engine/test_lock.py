"""The lock is committed: its text is a contract, and its diffs are read by people."""

from __future__ import annotations

import pytest

from charforge.engine import lock
from charforge.engine.build import RAN, Outcome
from charforge.engine.errors import EngineError
from charforge.engine.stale import UP_TO_DATE

OUTCOMES = {
    "scenes": Outcome("scenes", UP_TO_DATE, "b" * 64, {"scenes.jsonl": "2" * 64, "calls.jsonl": "1" * 64}),
    "profile": Outcome("profile", RAN, "a" * 64, {"profile.json": "0" * 64}),
}
NOTES = {"scenes": {"records": 12, "model": "größer"}}

TEXT = """\
{
  "character": "eliza",
  "charforge_lock": 1,
  "stages": {
    "profile": {"action": "AAAA", "outputs": {"profile.json": "0000"}},
    "scenes": {"action": "BBBB", "model": "größer", "outputs": {"calls.jsonl": "1111", "scenes.jsonl": "2222"}, "records": 12}
  }
}
""".replace("AAAA", "a" * 64).replace("BBBB", "b" * 64).replace("0000", "0" * 64).replace("1111", "1" * 64).replace(
    "2222", "2" * 64
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "eliza.lock"


def test_it_is_sorted_one_line_a_stage(path):
    lock.write(path, "eliza", OUTCOMES, NOTES)
    assert path.read_text(encoding="utf-8") == TEXT


def test_the_order_and_fate_of_stages_do_not_matter(path):
    lock.write(path, "eliza", dict(reversed(OUTCOMES.items())), NOTES)
    assert path.read_text(encoding="utf-8") == TEXT


def test_a_lock_that_says_the_same_is_not_touched(path):
    lock.write(path, "eliza", OUTCOMES, NOTES)
    before = path.stat()
    lock.write(path, "eliza", OUTCOMES, NOTES)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [one.name for one in path.parent.iterdir()] == ["eliza.lock"]


def test_it_names_the_actions_that_gc_keeps(path):
    lock.write(path, "eliza", OUTCOMES, NOTES)
    assert lock.actions(path) == ["a" * 64, "b" * 64]


def test_a_lock_that_cannot_be_written_is_a_clear_error(path):
    path.mkdir()
    with pytest.raises(EngineError) as caught:
        lock.write(path, "eliza", OUTCOMES, NOTES)
    assert caught.value.message == f"cannot write {path}: Is a directory"
    assert caught.value.hint == "make it writable and rerun"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("{}", "'charforge_lock'"),
        ('{"charforge_lock": 1}', "'stages'"),
        ('{"charforge_lock": 1, "stages": []}', "'list' object has no attribute 'values'"),
        ('{"charforge_lock": 1, "stages": {"a": {}}}', "'action'"),
        ('{"charforge_lock": "1", "stages": {}}', "'>' not supported between instances of 'str' and 'int'"),
    ],
)
def test_what_is_no_lock_is_a_clear_error(path, text, why):
    path.write_text(text)
    with pytest.raises(EngineError) as caught:
        lock.actions(path)
    assert caught.value.message == f"{path}: not a lock file ({why})"
    assert caught.value.hint == "restore it from git, or remove it and build again"


def test_a_newer_lock_is_refused(path):
    path.write_text(TEXT.replace('"charforge_lock": 1', '"charforge_lock": 2'))
    with pytest.raises(EngineError) as caught:
        lock.actions(path)
    assert (caught.value.message, caught.value.hint) == (
        f"{path}: written by a newer CharForge",
        "upgrade CharForge",
    )
