"""Disks that fill up or fail at any moment, file systems that lack what others have, and clocks that jump."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest

from charforge.engine import receipt, view
from charforge.engine.errors import EngineError
from charforge.engine.store import INLINE_LIMIT

EXHAUSTIVE = bool(os.environ.get("CHARFORGE_EXHAUSTIVE"))


def report(*words: object) -> None:
    """Say what an exhaustive run has tried: `pytest -s` shows it."""
    print(*words)  # noqa: T201


# -- a small build -----------------------------------------------------------------------------------------------------

SCRIPT = """
import asyncio, json, os, resource, sys
from pathlib import Path

from charforge.engine import receipt, view
from charforge.engine.build import Build, Listener
from charforge.engine.claims import Claims
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.engine.errors import EngineError
from charforge.engine.graph import Graph, Output, Source, Stage
from charforge.engine.store import INLINE_LIMIT, Store

folder = Path(sys.argv[1])
os.environ.update(json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
if "FILE_SIZE" in os.environ:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FILE_SIZE"]), resource.RLIM_INFINITY))
made, durable = [], []


class Hearing(Listener):
    def call_made(self, stage, call, record):
        durable.append(call)


async def ask(ctx, name, size=1):
    action = Action("call", 1, {"question": name}, {})

    async def perform():
        made.append(action.digest)
        return name.upper().encode() * size, {}

    return (await ctx.call(action, perform)).reply


async def scenes(ctx):
    sizes = {"s2": INLINE_LIMIT // 2, "s4": INLINE_LIMIT + 5}
    replies = [await ask(ctx, f"s{n}", sizes.get(f"s{n}", 1)) for n in range(6)]
    return {"scenes": b" ".join(reply[:2] for reply in replies), "long": b"".join(replies)}


async def model(ctx):
    weights = ctx.scratch / "weights"
    weights.mkdir()
    (weights / "model").write_bytes(ctx.read("scenes") * INLINE_LIMIT)
    (weights / "config.json").write_bytes(b"{}")
    return {"weights/": weights}


async def report(ctx):
    data = (await ctx.folder("model") / "model").read_bytes()
    return {"report": of_bytes(data).encode() + await ask(ctx, "last")}


graph = Graph([
    Stage("scenes", "scenes", 1, {}, {"profile": Source("p", of_bytes(b"life"), b"life")}, scenes),
    Stage("model", "model", 1, {}, {"scenes": Output("scenes", "scenes")}, model),
    Stage("report", "report", 1, {}, {"model": Output("model", "weights/"), "x": Output("scenes", "long")}, report),
])
errors, outputs = [], {}
try:
    root = folder / "store"
    with Store(root) as store:
        claims = Claims(root / "claims")
        outcomes = asyncio.run(Build(store, claims, graph, listener=Hearing()).run(["report"]))
        failed = [one.error for one in outcomes.values() if one.error is not None]
        claims.close()
        for error in failed[:1]:
            raise error
        outputs = {f"{name}.{key}": digest for name, one in outcomes.items() for key, digest in one.outputs.items()}
        view.sync(store, folder / "build" / "x", outputs)
        stamps = receipt.Stamps()
        stamps.add_kept((folder / "build" / "x").rglob("*.*"))
        receipt.write(folder / "receipt", "key", stamps, {})
except EngineError as error:
    errors = [error.message, error.hint]
count = 0
if os.environ.pop("ABUSE_AT", None):
    import ctypes

    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    count = int(getenv(b"ABUSE_COUNT") or 0)
print(json.dumps([errors, outputs, len(made), len(set(made) - set(durable)), count]))
"""


@pytest.fixture
def script(quick_path):
    path = quick_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def undisturbed(nursery, script, folder):
    folder.mkdir()
    child = nursery.start(script, folder)
    assert child.wait() == 0, child.said()
    errors, outputs, made, lost, _ = json.loads(child.said())
    assert (errors, made, lost) == ([], 7, 0)
    return outputs


# -- full disks and disks that fail ------------------------------------------------------------------------------------

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int count;

/* Say whether this operation fails: the ABUSE_AT-th below ABUSE_IN, and with ABUSE_ON all after it. */
static int path_fails(const char *path) {
    const char *in = getenv("ABUSE_IN"), *at = getenv("ABUSE_AT");
    if (in == NULL || at == NULL || path == NULL || strncmp(path, in, strlen(in)) != 0) return 0;
    count++;
    char text[16];
    snprintf(text, sizeof text, "%d", count);
    setenv("ABUSE_COUNT", text, 1);
    if (count != atoi(at) && !(getenv("ABUSE_ON") && count > atoi(at))) return 0;
    errno = atoi(getenv("ABUSE_ERRNO"));
    return 1;
}

static int fd_fails(int fd) {
    if (getenv("ABUSE_AT") == NULL) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return path_fails(path);
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *data, size_t size) { return fd_fails(fd) ? -1 : REAL(ssize_t, "write", int, const void *, size_t)(fd, data, size); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return fd_fails(fd) ? -1 : REAL(ssize_t, "pwrite", int, const void *, size_t, off_t)(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return fd_fails(fd) ? -1 : REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, data, size, at); }
int fsync(int fd) { return fd_fails(fd) ? -1 : REAL(int, "fsync", int)(fd); }
int fdatasync(int fd) { return fd_fails(fd) ? -1 : REAL(int, "fdatasync", int)(fd); }
int ftruncate(int fd, off_t size) { return fd_fails(fd) ? -1 : REAL(int, "ftruncate", int, off_t)(fd, size); }
int ftruncate64(int fd, off64_t size) { return fd_fails(fd) ? -1 : REAL(int, "ftruncate64", int, off64_t)(fd, size); }
int rename(const char *from, const char *to) { return path_fails(to) ? -1 : REAL(int, "rename", const char *, const char *)(from, to); }
int mkdir(const char *path, mode_t mode) { return path_fails(path) ? -1 : REAL(int, "mkdir", const char *, mode_t)(path, mode); }
int link(const char *from, const char *to) { return path_fails(to) ? -1 : REAL(int, "link", const char *, const char *)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) { return path_fails(to) ? -1 : REAL(int, "linkat", int, const char *, int, const char *, int)(a, from, b, to, flags); }

static int opened(const char *name, const char *path, int flags, mode_t mode) {
    if ((flags & O_CREAT) && access(path, F_OK) != 0 && path_fails(path)) return -1;
    return REAL(int, name, const char *, int, ...)(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    return opened("open", path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    return opened("open64", path, flags, mode);
}
"""

CLEAR = {
    errno.ENOSPC: ("no room left on the disk of ", "the disk of "),
    errno.EDQUOT: ("no room left on the disk of ", "the disk of "),
    errno.EIO: ("the disk of ",),
}


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A nursery whose children's writes fail where the environment says."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler to make the library that lets writes fail")
    (tmp_path / "shim.c").write_text(SHIM)
    command = [compiler, "-shared", "-fPIC", "-w", "-o", tmp_path / "shim.so", tmp_path / "shim.c", "-ldl"]
    subprocess.run(command, check=True)
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "shim.so"))
    from_conftest = sys.modules[_nursery_module()].Nursery
    nursery = from_conftest()
    yield nursery
    nursery.close()


def _nursery_module() -> str:
    return next(
        name
        for name, module in sys.modules.items()
        if name.endswith("conftest") and hasattr(module, "Nursery")
    )


def test_a_disk_that_fails_at_any_write_is_one_clear_error_and_the_next_build_finishes(
    failing, script, quick_path
):
    expected = undisturbed(failing, script, quick_path / "whole")

    def build(folder, **order):
        child = failing.start(script, folder, json.dumps({"ABUSE_IN": str(folder), **order}))
        assert child.wait() == 0, child.said()
        return json.loads(child.said())

    (quick_path / "counted").mkdir()
    writes = build(quick_path / "counted", ABUSE_AT="1000000", ABUSE_ERRNO="0")[-1]
    assert writes > 100
    kinds = [(number, on) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO) for on in ("", "1")]
    trials = [(at, *kind) for kind in kinds for at in range(1, writes + 1)]
    told = again = 0
    for at, number, on in trials if EXHAUSTIVE else random.Random(6).sample(trials, 25):
        folder = quick_path / f"{number}-{on}-{at}"
        folder.mkdir()
        order = {"ABUSE_AT": str(at), "ABUSE_ERRNO": str(number)}
        try:
            errors, outputs, made, in_flight, _ = build(folder, **order, **({"ABUSE_ON": on} if on else {}))
            if errors:
                assert errors[0].startswith((*CLEAR[number], "cannot write "))
                assert errors[1]
            else:
                assert outputs == expected
            told += bool(errors)
            errors, outputs, more, _, _ = build(folder)
            assert (errors, outputs) == ([], expected)
            assert made + more <= 7 + in_flight, "a reply was lost that had been kept"
        except BaseException as error:
            error.add_note(
                f"{errno.errorcode[number]} at write {at} of {writes}{' and all after it' * bool(on)}"
            )
            raise
        again += made + more - 7
        shutil.rmtree(folder)
    assert told
    report(f"writes: {writes}, failed by turns: {len(trials)}, told: {told}, replies made again: {again}")


@pytest.mark.parametrize("size", [40_000, 70_000, 200_000, 600_000])
def test_a_limit_on_the_size_of_files_is_one_clear_error(nursery, script, quick_path, size):
    expected = undisturbed(nursery, script, quick_path / "whole")
    (quick_path / "small").mkdir()
    child = nursery.start(script, quick_path / "small", json.dumps({"FILE_SIZE": str(size)}))
    assert child.wait() == 0, child.said()
    errors, _, made, in_flight, _ = json.loads(child.said())
    assert errors
    assert errors[0].startswith(CLEAR[errno.ENOSPC])
    child = nursery.start(script, quick_path / "small")
    assert child.wait() == 0, child.said()
    errors, outputs, again, _, _ = json.loads(child.said())
    assert (errors, outputs) == ([], expected)
    assert made + again <= 7 + in_flight


DISK = """
mount -t tmpfs -o size=$2$3 tmpfs "$1"
"$4" "$5" "$1"
mount -o remount,size=64m,nr_inodes=10000 "$1"
"$4" "$5" "$1"
"""


@pytest.mark.parametrize("what", ["bytes", "files"])
def test_a_real_disk_of_any_size_is_one_clear_error_and_the_next_build_finishes(
    nursery, script, quick_path, what
):
    tool = shutil.which("unshare")
    if tool is None or subprocess.run([tool, "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody make a mount namespace")
    expected = undisturbed(nursery, script, quick_path / "whole")
    if what == "bytes":
        sizes = [(f"{kib}k", "") for kib in (range(4, 2000, 12) if EXHAUSTIVE else (4, 60, 300, 900))]
    else:
        sizes = [("64m", f",nr_inodes={count}") for count in (range(2, 50) if EXHAUSTIVE else (5, 20))]
    told = 0
    for size, inodes in sizes:
        (quick_path / "disk").mkdir(exist_ok=True)
        command = [
            tool,
            "-Urm",
            "sh",
            "-euc",
            DISK,
            "sh",
            quick_path / "disk",
            size,
            inodes,
            sys.executable,
            script,
        ]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{size}{inodes}"
        first, second = map(json.loads, done.stdout.splitlines())
        errors, outputs, made, in_flight, _ = first
        assert errors or outputs == expected
        if errors:
            assert errors[0].startswith("no room left on the disk of ") or (
                errors[0].startswith(f"cannot write {quick_path / 'disk' / 'build'}")
                and errors[0].endswith(": No space left on device")
            ), errors
            told += 1
        errors, outputs, again, _, _ = second
        assert (errors, outputs) == ([], expected)
        assert made + again <= 7 + in_flight
    assert told
    report(what, "disks:", len(sizes), "too small:", told)


# -- file systems that lack something ------------------------------------------------------------------------------------


@pytest.fixture
def stages(yard):
    def weights(ctx):
        folder = ctx.scratch / "weights"
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "model").write_bytes(ctx.read("a") * INLINE_LIMIT)
        (folder / "config.json").write_bytes(b"{}")
        return {"weights/": folder}

    async def reads(ctx):
        folder = await ctx.folder("w")
        return b" ".join(path.read_bytes()[:20] for path in sorted(folder.rglob("*")) if path.is_file())

    return [
        yard.stage("a", make=yard.asking("one", "two")),
        yard.stage("model", make=weights, a="a"),
        yard.stage("b", make=reads, w="model/weights/"),
    ]


def show(yard, outcomes, folder):
    outputs = {
        f"{name}/{key}": digest for name, one in outcomes.items() for key, digest in one.outputs.items()
    }
    with yard.open() as store:
        view.sync(store, folder, outputs)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def refuse(number, real, when=lambda *_args: True):
    """A function that fails with this error where `when` says so."""

    def function(*args, **options):
        if when(*args):
            raise OSError(number, os.strerror(number), str(args[0]))
        return real(*args, **options)

    return function


def _inner(path):
    return os.fspath(path).rsplit("/store/", 1)[-1].split("/")[0]


LACKING = {
    "hard links": ("link", [errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV, errno.ENOSYS], None),
    "renames across folders": ("rename", [errno.EXDEV], lambda a, b: _inner(a) != _inner(b)),
    "renames over a file": ("rename", [errno.EEXIST, errno.EPERM], lambda _a, b: os.path.isfile(b)),
    "modes": ("chmod", [errno.EPERM], None),
    "folder syncs": ("fsync", [errno.EINVAL, errno.ENOTSUP], lambda fd: os.path.isdir(f"/proc/self/fd/{fd}")),
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, (_, numbers, _) in LACKING.items() for number in numbers]
)
def test_without_this_the_store_does_the_same(yard, stages, quick_path, monkeypatch, name, number):
    expected = show(yard, yard.build(stages), quick_path / "build" / "x")
    shutil.rmtree(yard.root)
    function, _, when = LACKING[name]
    monkeypatch.setattr(os, function, refuse(number, getattr(os, function), when or (lambda *_: True)))
    outcomes = yard.build(stages)
    assert show(yard, outcomes, quick_path / "build" / "y") == expected
    # Damage is noticed and mended there too, and a file of the view that was edited is restored.
    (weights,) = yard.root.glob("trees/*/deep/model")
    stored = next(
        path for path in yard.root.glob("objects/*/*") if path.stat().st_size == weights.stat().st_size
    )
    for path in (stored, weights):
        data = bytearray(path.read_bytes())
        data[7] ^= 1
        path.unlink()
        path.write_bytes(data)
    (quick_path / "build" / "y" / "b" / "out").write_bytes(b"edited")
    stages[2] = dataclasses.replace(stages[2], version=2)
    outcomes = yard.build(stages)
    assert yard.ran == ["b", "model", "b"]
    assert show(yard, outcomes, quick_path / "build" / "y") == expected
    yard.build(stages)
    assert yard.ran == []
    assert list((yard.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV])
def test_a_copy_that_rotted_in_a_laid_out_folder_is_laid_out_again(yard, stages, monkeypatch, number):
    monkeypatch.setattr(os, "link", refuse(number, os.link))
    yard.build(stages)
    (weights,) = yard.root.glob("trees/*/deep/model")
    data = bytearray(weights.read_bytes())
    data[7] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    stages[2] = dataclasses.replace(stages[2], version=2)
    expected = yard.read(yard.build(stages)["b"].outputs["out"])
    assert yard.ran == ["b"]
    assert b"ONE TWO" in expected
    assert weights.read_bytes() != data


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("function", ["flock", "lockf"])
def test_without_locks_it_says_so(yard, stages, monkeypatch, function, number):
    monkeypatch.setattr(fcntl, function, refuse(number, getattr(fcntl, function)))
    try:
        error = yard.build(stages)["a"].error
    except EngineError as raised:
        error = raised
    assert isinstance(error, EngineError)
    assert error.message == f"the file system of {yard.root} has no file locks ({os.strerror(number)})"
    assert error.hint == "keep the workspace on a disk of this machine, or mount the file system with locks"
    assert yard.made == []


def test_without_shared_memory_for_the_database_it_says_so(yard, monkeypatch):
    # What SQLite answers where the file system cannot map files: it stays in the mode it was in, without an error.
    class Connection(sqlite3.Connection):
        def execute(self, sql, *rest):
            return super().execute(
                "PRAGMA journal_mode" if sql == "PRAGMA journal_mode = WAL" else sql, *rest
            )

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **options: connect(*args, factory=Connection, **options)
    )
    with pytest.raises(EngineError) as caught:
        yard.open()
    assert caught.value.message == f"the file system of {yard.root} has no locks that SQLite can use"
    assert caught.value.hint == "keep the workspace on a disk of this machine"


def test_a_store_in_use_on_another_machine_is_left_alone_until_that_is_done(yard, monkeypatch):
    there = "charforge.engine.opening._machine"
    with yard.open(), monkeypatch.context() as elsewhere:
        elsewhere.setattr(there, lambda: b"another")
        with pytest.raises(EngineError) as caught:
            yard.open()
        assert caught.value.message == f"the store {yard.root} is in use on another machine"
        assert caught.value.hint == (
            "its database works on one machine at a time: run again when that build has ended"
        )
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(there, lambda: b"another")
        yard.open().close()
    yard.open().close()


# -- clocks that jump ----------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_nothing_that_is_made_or_trusted(yard, stages, quick_path, monkeypatch):
    expected = show(yard, yard.build(stages), quick_path / "build" / "x")
    shutil.rmtree(yard.root)
    random_ = random.Random(6)
    real = time.time_ns

    def jumping():
        return real() + random_.choice([-1, 1]) * random_.randrange(10**9, 10**18)

    monkeypatch.setattr(time, "time_ns", jumping)
    monkeypatch.setattr(time, "time", lambda: jumping() / 1e9)
    source = quick_path / "input"
    for number in range(20):
        source.write_bytes(b"%d" % number)
        stamps = receipt.Stamps()
        stamps.add_input(source, source.stat(), time.time_ns())
        outcomes = yard.build(stages)
        assert yard.made == ([] if number else ["one", "two"])
        assert yard.ran == ([] if number else ["a", "model", "b"])
        assert show(yard, outcomes, quick_path / "build" / "y") == expected
        shown = [path for path in (quick_path / "build" / "y").rglob("*") if path.is_file()]
        stamps.add_kept(shown)
        receipt.write(quick_path / "receipt", "key", stamps, {"number": number})
        assert receipt.read(quick_path / "receipt", "key") in ({"number": number}, None)
        changed = random_.choice([source, *shown])
        before = changed.stat().st_mtime_ns
        changed.write_bytes(changed.read_bytes()[::-1] + b"x")
        os.utime(changed, ns=(before, before + random_.choice([-(10**15), 0, 10**15])))
        assert receipt.read(quick_path / "receipt", "key") is None
