"""A store that is only looked at changes in no byte, whatever state it is in."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal

import pytest

from charforge.engine.database import FORMAT
from charforge.engine.digest import Action
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.reader import Reader, look
from charforge.engine.store import Store

ASKED = Action("call", 1, {"question": "who"}, {})


def record(store, action=ASKED, reply=b"Ada"):
    store.record(action, store.pack({"reply": reply}), {"tokens": 1}).result()


def contents(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def root(quick_path):
    with Store(quick_path / "store") as store:
        record(store)
    return quick_path / "store"


def test_a_store_that_is_not_there_is_empty_and_stays_away(quick_path):
    with Reader(quick_path / "none") as store:
        assert store.find(ASKED.digest) is None
        assert store.stages() == {}
        assert store.steady()
    assert list(quick_path.iterdir()) == []


def test_a_store_at_rest_is_read_and_not_touched(root):
    before = contents(root)
    with Reader(root) as store:
        trace = store.find(ASKED.digest)
        assert store.read(trace.outputs["reply"]) == b"Ada"
        assert contents(root) == before
    assert contents(root) == before


def test_what_a_killed_build_had_not_tidied_is_read_and_not_touched(root):
    child = os.fork()
    if child == 0:  # pragma: no cover
        with Store(root) as store:
            record(store, Action("call", 1, {"question": "late"}, {}), b"late")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    before = contents(root)
    assert any(path.name == "store.db-wal" for path in before)
    late = Action("call", 1, {"question": "late"}, {}).digest
    with Reader(root) as store:
        assert store.read(store.find(late).outputs["reply"]) == b"late"
    assert contents(root) == before


def test_a_store_that_is_being_written_to_is_read(root):
    with Store(root) as writer, Reader(root) as store:
        assert store.find(ASKED.digest) is not None
        record(writer, Action("call", 1, {"question": "late"}, {}), b"late")
        assert store.find(Action("call", 1, {"question": "late"}, {}).digest) is not None
        assert store.steady()


def test_a_store_that_is_written_to_meanwhile_is_looked_at_again(root):
    looks = []

    def work(store):
        looks.append(store.find(ASKED.digest))
        if len(looks) == 1:
            with Store(root) as writer:
                record(writer, Action("call", 1, {"question": "late"}, {}), b"late" * 1000)
        return len(looks)

    assert look(root, work) == 2


def test_a_store_that_never_rests_is_one_clear_error(root):
    def work(store):
        with Store(root) as writer:
            record(writer, Action("call", 1, {"question": os.urandom(4).hex()}, {}))

    with pytest.raises(EngineError, match="is being written to all the time"):
        look(root, work)


def test_a_damaged_blob_is_left_where_it_is(root):
    with Store(root) as store:
        digest = store.pack({"large": b"x" * 100_000}).outputs["large"]
    path = root / "objects" / digest[:2] / digest[2:]
    path.chmod(0o644)
    path.write_bytes(b"y")
    before = contents(root)
    with Reader(root) as store, pytest.raises(Damaged):
        store.read(digest)
    assert contents(root) == before


def test_nothing_can_be_written_to_it(root):
    with Reader(root) as store:
        with pytest.raises(AssertionError):
            record(store)
        with pytest.raises(AssertionError):
            store.set_last("scenes", ASKED.digest, [])


def test_a_store_of_a_newer_version_is_refused(root):
    with Store(root) as store:
        store._db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(EngineError, match="written by a newer CharForge"):
        Reader(root)


def test_a_read_only_folder_can_be_looked_at(root):
    before = contents(root)
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    for path in copy.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    copy.chmod(0o555)
    try:
        with Reader(copy) as store:
            assert store.find(ASKED.digest) is not None
    finally:
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)
    assert contents(root) == before


def test_calls_come_with_the_latest_first(root):
    with Store(root) as store:
        record(store, Action("stage", 1, {}, {}))
        for n in range(3):
            record(store, Action("call", 1, {"n": n}, {}))
    with Reader(root) as store:
        assert [body["params"] for body in store.call_bodies()] == [
            {"n": 2},
            {"n": 1},
            {"n": 0},
            {"question": "who"},
        ]
