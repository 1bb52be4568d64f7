"""The store keeps what it was given, notices what it lost, and says clearly when it cannot work."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from charforge.engine import database, disk
from charforge.engine.database import FORMAT
from charforge.engine.digest import Action, of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.store import INLINE_LIMIT, Store

LARGE = b"L" * (INLINE_LIMIT + 1)


def action(name="a"):
    return Action(name, 1, {}, {})


def put(store, name, outputs, record=None):
    store.record(action(name), store.pack(outputs), record or {}).result()
    return action(name).digest


# -- keeping ---------------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_found_again_in_another_process(yard):
    with yard.open() as store:
        put(store, "a", {"small": b"small", "large": LARGE}, {"tokens": 7})
    with yard.open() as store:
        trace = store.find(action().digest)
        assert trace is not None
        assert (trace.observation, dict(trace.record)) == (0, {"tokens": 7})
        assert store.read(trace.outputs["small"]) == b"small"
        assert store.read(trace.outputs["large"]) == LARGE
        assert store.action_body(action().digest) == action().body()
        assert store.find(action("b").digest) is None
        assert not store.lost(action("b").digest)


def test_the_limit_between_a_row_and_a_file_loses_no_byte(yard):
    for size in (0, 1, INLINE_LIMIT, INLINE_LIMIT + 1):
        data = b"x" * size
        with yard.open() as store:
            put(store, str(size), {"out": data})
            assert store.read(of_bytes(data)) == data
        assert yard.object(of_bytes(data)).exists() == (size > INLINE_LIMIT)


def test_large_blobs_are_plain_read_only_files_that_sha256sum_can_check(yard):
    with yard.open() as store:
        put(store, "a", {"out": LARGE})
    path = yard.object(of_bytes(LARGE))
    assert path.stat().st_mode & 0o777 == 0o444
    assert of_bytes(path.read_bytes()) == path.parent.name + path.name


def test_observations_are_added_and_never_replaced(yard):
    with yard.open() as store:
        put(store, "a", {"out": b"first"})
        put(store, "a", {"out": b"second"})
        found = [
            (one.observation, store.read(one.outputs["out"])) for one in store.observations(action().digest)
        ]
        assert found == [(0, b"first"), (1, b"second")]
        assert store.find(action().digest).observation == 0


def test_the_first_whole_observation_counts(yard):
    with yard.open() as store:
        put(store, "a", {"out": b"first"})
        put(store, "a", {"out": b"second"})
        store.discard(of_bytes(b"first"))
        assert store.find(action().digest).observation == 1
        store.discard(of_bytes(b"second"))
        assert store.find(action().digest) is None
        assert store.lost(action().digest)


def test_a_tree_is_laid_out_as_links_to_its_read_only_files(yard, tmp_path):
    folder = tmp_path / "weights"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "deep" / "ünï").write_bytes(LARGE)
    with yard.open() as store:
        packed = store.pack({"weights/": folder})
        assert {name: entry["size"] for name, entry in store_manifest(store, packed).items()} == {
            "config.json": 2,
            "deep/ünï": len(LARGE),
        }
        store.record(action(), packed, {}).result()
        laid_out = store.checkout(packed.outputs["weights/"])
        assert (laid_out / "deep" / "ünï").read_bytes() == LARGE
        assert (laid_out / "config.json").stat().st_mode & 0o777 == 0o444
        assert store.checkout(packed.outputs["weights/"]) == laid_out
        assert (folder / "config.json").exists(), "the caller's own files are copied"


def store_manifest(store, packed):
    store.record(action("manifest"), packed, {}).result()
    return store.manifest(packed.outputs["weights/"])


def test_an_empty_folder_is_a_tree_too(yard, tmp_path):
    (tmp_path / "empty").mkdir()
    with yard.open() as store:
        packed = store.pack({"tree/": tmp_path / "empty"})
        store.record(action(), packed, {}).result()
        assert list(store.checkout(packed.outputs["tree/"]).iterdir()) == []


def test_a_blob_is_durable_before_the_trace_that_names_it(yard, tmp_path):
    (tmp_path / "file").write_bytes(b"f")
    written = []
    with yard.open(on_durable=written.append) as store:
        put(store, "a", {"large": LARGE, "file": tmp_path / "file"})
    assert written == [f"object {of_bytes(b'f')}", f"object {of_bytes(LARGE)}", "commit"]


def test_stages_remember_their_latest_action_and_why_it_ran(yard):
    with yard.open() as store:
        assert store.last("a") is None
        store.set_last("a", "1" * 64, [{"kind": "never"}]).result()
        store.set_last("a", "2" * 64, [{"kind": "lost"}]).result()
        assert store.last("a") == ("2" * 64, [{"kind": "lost"}])
        assert store.stages() == {"a": "2" * 64}


# -- the writer ------------------------------------------------------------------------------------------------------


def test_a_write_that_nobody_waits_for_any_more_is_still_made(yard):
    async def give_up(store):
        waiting = asyncio.ensure_future(
            asyncio.wrap_future(store.record(action(), store.pack({"out": b"paid"}), {}))
        )
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    with yard.open() as store:
        asyncio.run(give_up(store))
        put(store, "b", {"out": b"after"})
        assert store.find(action().digest) is not None


def test_an_entry_that_cannot_be_written_takes_no_other_with_it(yard):
    with yard.open() as store:
        store._db.execute("BEGIN IMMEDIATE")  # holds the writer off, so that the entries share a commit
        good = [store.record(action(name), store.pack({"out": b"x"}), {}) for name in "ab"]
        bad = store._write([("INSERT INTO nowhere VALUES (1)", ())])
        good += [store.record(action(name), store.pack({"out": b"x"}), {}) for name in "cd"]
        store._db.execute("ROLLBACK")
        assert [future.result() for future in good] == [None] * 4
        assert isinstance(bad.exception(), sqlite3.OperationalError)
        assert all(store.find(action(name).digest) for name in "abcd")


def test_closing_writes_what_is_queued(yard):
    store = yard.open()
    futures = [store.record(action(str(n)), store.pack({"out": b"x"}), {}) for n in range(50)]
    store.close()
    assert all(future.done() for future in futures)
    with yard.open() as store:
        assert all(store.find(action(str(n)).digest) for n in range(50))


def test_a_closed_store_takes_nothing_and_closing_again_is_no_harm(yard):
    store = yard.open()
    packed = store.pack({"out": b"x"})
    store.close()
    store.close()
    with pytest.raises((RuntimeError, sqlite3.ProgrammingError)):
        store.record(action(), packed, {})
    with pytest.raises(RuntimeError) as caught:
        store.set_last("a", "1" * 64, [])
    assert str(caught.value) == "the store is closed"


# -- scratch ---------------------------------------------------------------------------------------------------------


def test_scratch_goes_when_its_user_is_done(yard):
    with yard.open() as store, store.scratch() as folder:
        (folder / "sub").mkdir()
        assert folder.parent == yard.root / "tmp"
    assert list((yard.root / "tmp").iterdir()) == []


def test_what_killed_processes_left_is_swept_by_the_next_that_is_alone(yard):
    with yard.open():
        left = yard.root / "tmp" / "123-left"
        left.mkdir()
        with yard.open():
            assert left.exists(), "another process may be using it"
    with yard.open():
        assert not left.exists()


# -- damage ----------------------------------------------------------------------------------------------------------


def test_a_missing_blob_is_named(yard):
    with yard.open() as store, pytest.raises(Damaged) as caught:
        store.read("a" * 64)
    assert caught.value.message == "stored blob aaaaaaaaaaaa is missing"
    assert caught.value.hint == "it is rebuilt by the next build"


def test_the_bytes_of_a_damaged_file_are_set_aside(yard):
    with yard.open() as store:
        put(store, "a", {"out": LARGE})
        digest = of_bytes(LARGE)
        yard.object(digest).chmod(0o644)
        yard.object(digest).write_bytes(b"short")
        with pytest.raises(Damaged) as caught:
            store.read(digest)
        assert caught.value.message == f"stored blob {digest[:12]} does not hash to its name"
        assert (yard.root / "damaged" / digest).read_bytes() == b"short"
        assert not store.has(digest)
        assert store.find(action().digest) is None
        put(store, "a", {"out": LARGE})
        assert store.read(digest) == LARGE


def test_copying_checks_the_bytes_and_leaves_no_damaged_copy(yard, tmp_path):
    with yard.open() as store:
        put(store, "a", {"small": b"small", "large": LARGE})
        store.copy(of_bytes(b"small"), tmp_path / "small")
        store.copy(of_bytes(LARGE), tmp_path / "large")
        assert (tmp_path / "small").read_bytes() == b"small"
        assert (tmp_path / "large").read_bytes() == LARGE
        yard.object(of_bytes(LARGE)).chmod(0o644)
        yard.object(of_bytes(LARGE)).write_bytes(b"short")
        with pytest.raises(Damaged):
            store.copy(of_bytes(LARGE), tmp_path / "damaged")
        assert not (tmp_path / "damaged").exists()


def test_a_byte_flipped_in_the_database_file_is_noticed(yard):
    content = b"a reply that is long enough to be found in the file"
    with yard.open() as store:
        put(store, "a", {"out": content})
    path = yard.root / "store.db"
    data = bytearray(path.read_bytes())
    at = data.index(content)
    data[at + 10] ^= 1
    path.write_bytes(data)
    with yard.open() as store:
        with pytest.raises(Damaged) as caught:
            store.read(of_bytes(content))
        assert caught.value.message == f"stored blob {of_bytes(content)[:12]} does not hash to its name"
        assert store.find(action().digest) is None


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0, b"not a database !"),
        (16, b"\x20"),
        (18, b"\3"),  # for SQLite a file that may only be read
        (28, b"\0\0\0\3"),  # three pages: new ones would be written over the others
        (60, b"\1"),  # format 16777217, which is no newer one
        (3600, b"\xff" * 100),  # the tables' definitions
    ],
)
def test_a_database_that_sqlite_did_not_leave_so_is_mended_when_it_is_opened(yard, at, data):
    with yard.open() as store:
        put(store, "a", {"out": LARGE, "small": b"small"})
    path = yard.root / "store.db"
    spoiled = bytearray(path.read_bytes())
    spoiled[at : at + len(data)] = data
    path.write_bytes(spoiled)
    with yard.open() as store:
        assert store.notes == [
            f"{path} was damaged: 1 results in it are sound and were kept; the damaged file is in {yard.root / 'damaged'}"
        ]
        assert dict(store.find(action().digest).outputs) == {
            "out": of_bytes(LARGE),
            "small": of_bytes(b"small"),
        }
        assert store.read(of_bytes(b"small")) == b"small"
    assert (yard.root / "damaged" / "store.db-0").read_bytes() == spoiled
    with yard.open() as store:
        assert store.notes == []


def test_a_damaged_database_that_another_build_uses_is_left_alone(yard):
    with yard.open() as other:
        put(other, "a", {"out": b"small"})
        other._db.execute("PRAGMA wal_checkpoint")
        with (yard.root / "store.db").open("r+b") as file:
            file.write(b"not")
        with pytest.raises(EngineError) as caught:
            yard.open()
    assert caught.value.message == f"{yard.root / 'store.db'} is damaged (its header is none)"
    assert caught.value.hint == MENDING
    with yard.open() as store:
        assert store.find(action().digest) is not None


MENDING = "build again: what is sound in it is saved into a new one, and the damaged one is kept aside"


def test_a_database_with_a_damaged_page_is_named_when_it_is_met_and_mended_next_time(yard):
    with yard.open() as store:
        for n in range(200):
            put(store, str(n), {"out": str(n).encode()})
    path = yard.root / "store.db"
    data = bytearray(path.read_bytes())
    data[4096 : 6 * 4096] = b"\xff" * (5 * 4096)
    path.write_bytes(data)
    with yard.open() as store, pytest.raises(EngineError) as caught:
        [store.find(action(str(n)).digest) for n in range(200)]
    assert caught.value.message == f"{path} is damaged (database disk image is malformed)"
    assert caught.value.hint == MENDING
    with yard.open() as store:
        found = [store.find(action(str(n)).digest) for n in range(200)]
        assert 50 < len([trace for trace in found if trace is not None]) < 200
        assert all(
            store.read(trace.outputs["out"]) == str(n).encode() for n, trace in enumerate(found) if trace
        )
        assert len(store.notes) == 1


def test_a_torn_journal_is_cut_where_it_is_torn(yard, quick_path):
    with yard.open() as store:
        put(store, "a", {"out": b"a"})
        shutil.copytree(yard.root, quick_path / "killed")  # as a kill leaves it: the journal is there
        put(store, "b", {"out": b"b"})
    journal = quick_path / "killed" / "store.db-wal"
    assert journal.stat().st_size > 0
    with journal.open("ab") as file:
        file.write(b"\x00torn" * 1000)
    with Store(quick_path / "killed") as store:
        assert store.find(action("a").digest) is not None
        assert store.find(action("b").digest) is None


@pytest.mark.parametrize(
    ("outputs", "record"),
    [
        ("[" * 100_000, "{}"),
        ("[]", "{}"),
        ('{"out": "..//etc/passwd"}', "{}"),
        ('{"out": 7}', "{}"),
        ('{"../out": "%s"}' % ("a" * 64), "{}"),
        ("{}", "[" * 100_000),
        ("{}", "7"),
        ("{}", '{"calls": ["a"]}'),
        ("{}", '{"made": "../x"}'),
    ],
)
def test_a_sealed_trace_that_says_what_no_build_writes_is_none(yard, outputs, record):
    with yard.open() as store:
        put(store, "a", {"out": b"small"})
        seal = database.seal(action().digest, 1, outputs, record)
        row = (action().digest, 1, outputs, record, seal)
        store._write([("INSERT INTO traces VALUES (?, ?, ?, ?, ?)", row)]).result()
        assert [trace.observation for trace in store.observations(action().digest)] == [0]


@pytest.mark.parametrize("calls", [b"7", b"{}", b"[1]", b'["../x"]', b"[" * 60_000, b"\xff"])
def test_a_list_of_calls_that_is_none_is_damaged(yard, calls):
    with yard.open() as store:
        packed = store.pack({"calls": calls})
        put(store, "a", {"out": calls}, {"calls": packed.outputs["calls"]})
        trace = store.find(action().digest)
        with pytest.raises(Damaged) as caught:
            store.calls_in(trace)
        assert caught.value.message == f"stored blob {of_bytes(calls)[:12]} is no list of calls"


# -- what the engine has no power over ---------------------------------------------------------------------------------


def test_a_store_of_a_newer_format_is_refused(yard):
    yard.open().close()
    with sqlite3.connect(yard.root / "store.db") as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    with pytest.raises(EngineError) as caught:
        yard.open()
    assert caught.value.message == (
        f"{yard.root}: the store was written by a newer CharForge (format {FORMAT + 1}, this one knows {FORMAT})"
    )
    assert caught.value.hint == "upgrade CharForge, or point it at another workspace"
    with yard.root.joinpath("store.db").open("rb") as file:
        assert file.read(15) == b"SQLite format 3", "nothing was changed"


def test_a_store_where_a_file_is_in_the_way(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EngineError) as caught:
        Store(tmp_path / "file")
    assert caught.value.message == f"cannot make the folder {tmp_path / 'file'}: a file is in the way"
    assert caught.value.hint == "move it away and rerun"


def _namespace(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own, where it is root and may mount."""
    tool = shutil.which("unshare")
    if (
        tool is None
        or subprocess.run([tool, "-Urm", "true"], capture_output=True, check=False).returncode != 0
    ):
        pytest.skip("this system lets nobody make a mount namespace")
    return subprocess.run(
        [tool, "-Urm", "sh", "-euc", script, "sh", *map(str, args)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


OPEN = """
import sys
from pathlib import Path
from charforge.engine.errors import EngineError
from charforge.engine.store import Store
try:
    Store(Path(sys.argv[1])).close()
except EngineError as error:
    print(error.message)
    print(error.hint)
"""


@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_store_is_a_clear_error(yard, tmp_path, there):
    if there:
        yard.open().close()
    script = tmp_path / "open.py"
    script.write_text(OPEN)
    mount = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; exec "$2" "$3" "$1/store"'
    done = _namespace(mount, yard.root.parent, sys.executable, script)
    assert (done.stdout, done.stderr) == (
        f"cannot write to the store {yard.root}\nmake it writable, or build in another workspace\n",
        "",
    )


FULL = """
import asyncio, sys
from pathlib import Path
from charforge.engine.build import Build
from charforge.engine.claims import Claims
from charforge.engine.digest import Action
from charforge.engine.graph import Graph, Stage
from charforge.engine.store import Store

root = Path(sys.argv[1]) / "store"
ballast = Path(sys.argv[1]) / "ballast"
made = []

async def run(ctx):
    for n in range(100):
        async def perform(n=n):
            made.append(n)
            return b"%d" % n * int(sys.argv[2]), {}
        await ctx.call(Action("call", 1, {"n": n}, {}), perform)
    return {"out": b"done"}

def build():
    made.clear()
    with Store(root) as store:
        claims = Claims(root / "claims")
        build = Build(store, claims, Graph([Stage("a", "a", 1, {}, {}, run)]))
        outcome = asyncio.run(build.run(["a"]))["a"]
        claims.close()
    return outcome

ballast.write_bytes(b"x" * 14_500_000)
first = build()
paid = len(made) - 1  # the last one's reply found no room
assert 0 < paid < 99, made
print(first.status, first.error.message, first.error.hint, sep="\\n")
ballast.unlink()
second = build()
print(second.status, made == list(range(paid, 100)))
"""


@pytest.mark.parametrize("size", [pytest.param(10_000, id="database"), pytest.param(40_000, id="files")])
def test_a_full_disk_is_a_clear_error_and_what_is_finished_is_kept(tmp_path, size):
    script = tmp_path / "full.py"
    script.write_text(FULL)
    (tmp_path / "disk").mkdir()
    mount = 'mount -t tmpfs -o size=16m tmpfs "$1"; exec "$2" "$3" "$1" "$4"'
    done = _namespace(mount, tmp_path / "disk", sys.executable, script, size)
    assert (done.stdout, done.stderr) == (
        (
            f"failed\nno room left on the disk of {tmp_path / 'disk' / 'store'}\n"
            "free some space and rerun; finished work is kept\nran True\n"
        ),
        "",
    )


def test_a_full_database_is_a_clear_error(yard):
    # The same without a mount: SQLite's own limit gives the same error.
    with yard.open() as store:
        put(store, "a", {"out": b"a"})
        store._writer._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(EngineError) as caught:
            put(store, "b", {"out": b"b" * INLINE_LIMIT})
        assert caught.value.message == f"no room left on the disk of {yard.root}"
        store._writer._db.execute("PRAGMA max_page_count = 1000000")
        put(store, "b", {"out": b"b" * INLINE_LIMIT})
        assert store.find(action("a").digest)
        assert store.find(action("b").digest)


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (errno.ENOSPC, "no room left on the disk of {}", "free some space and rerun; finished work is kept"),
        (errno.EDQUOT, "no room left on the disk of {}", "free some space and rerun; finished work is kept"),
        (
            errno.EIO,
            "the disk of {} does not work as it should (Input/output error)",
            "see that it is well and has room, then rerun; finished work is kept",
        ),
        (errno.EROFS, "cannot write to the store {}", "make it writable, or build in another workspace"),
        (errno.EACCES, "cannot write to the store {}", "make it writable, or build in another workspace"),
    ],
)
def test_what_the_system_says_of_a_file_is_put_into_words(yard, monkeypatch, number, message, hint):
    def refuse(_path):
        raise OSError(number, os.strerror(number))

    with yard.open() as store:
        monkeypatch.setattr(disk, "fsync", refuse)
        with pytest.raises(EngineError) as caught:
            store.pack({"out": LARGE})
    assert (caught.value.message, caught.value.hint) == (message.format(yard.root), hint)
    assert list((yard.root / "tmp").iterdir()) == []
    assert list(yard.root.glob("objects/*/*")) == []


def test_an_error_that_has_no_words_here_stays_itself(yard, monkeypatch):
    def refuse(_path):
        raise OSError(errno.ENOTDIR, "not a folder")

    with yard.open() as store:
        monkeypatch.setattr(disk, "fsync", refuse)
        with pytest.raises(OSError) as caught:
            store.pack({"out": LARGE})
    assert caught.value.errno == errno.ENOTDIR


# -- several processes -----------------------------------------------------------------------------------------------

TOGETHER = """
import sys
from pathlib import Path
from charforge.engine.digest import Action
from charforge.engine.store import Store
for n in range(5):
    with Store(Path(sys.argv[1])) as store:
        futures = [store.record(Action(sys.argv[2], 1, {"n": [n, m]}, {}), store.pack({"out": b"x"}), {}) for m in range(5)]
        for future in futures:
            future.result()
"""


def test_many_processes_may_open_write_and_close_a_new_store_at_once(yard, nursery, tmp_path):
    script = tmp_path / "together.py"
    script.write_text(textwrap.dedent(TOGETHER))
    children = [nursery.start(script, yard.root, name) for name in range(6)]
    assert [(child.wait(), child.said()) for child in children] == [(0, "")] * 6
    with yard.open() as store:
        assert len(list(store.all_actions())) == 6 * 5 * 5


def test_a_store_can_be_used_after_its_user_was_killed(yard, nursery, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys
            from pathlib import Path
            from charforge.engine.digest import Action
            from charforge.engine.store import Store
            store = Store(Path(sys.argv[1]))
            store.record(Action("a", 1, {{}}, {{}}), store.pack({{"out": b"x"}}), {{}}).result()
            with store.scratch():
                os.kill(os.getpid(), {int(signal.SIGKILL)})
            """
        )
    )
    assert nursery.start(script, yard.root).wait() == -signal.SIGKILL
    with yard.open() as store:
        assert store.find(action().digest) is not None
    assert list(Path(yard.root / "tmp").iterdir()) == []
