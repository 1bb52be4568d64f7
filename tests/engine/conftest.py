"""Fake actions on tiny graphs: each notes its name when it runs, each call its name when it is made."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from charforge.engine.build import Build, Context, Listener, Outcome
from charforge.engine.claims import Claims
from charforge.engine.digest import Action, of_bytes
from charforge.engine.graph import Graph, Output, Source, Stage
from charforge.engine.stale import plan
from charforge.engine.store import Store


class Hearing(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.finished: list[str] = []
        self.notes: list[str] = []
        self.durable_calls: list[str] = []

    def stage_finished(self, outcome: Outcome) -> None:
        self.finished.append(f"{outcome.stage}: {outcome.status}")

    def call_made(self, stage: str, call: str, record: Mapping[str, Any]) -> None:
        self.durable_calls.append(call)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Yard:
    """A store in `root`, and what ran there.

    A build opens and closes everything, as a process of its own would. `ran` and `made` hold what the latest build ran:
    stages, and calls by their question.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[str] = []
        self.made: list[str] = []
        self.heard = Hearing()

    def source(self, label: str, text: str) -> Source:
        data = text.encode()
        return Source(label, of_bytes(data), data)

    def stage(
        self, name: str, *, make=None, params=None, version: int = 1, kind: str | None = None, **inputs
    ) -> Stage:
        """A stage whose output `out` is `make(ctx)`: bytes, or a mapping of outputs. By default its inputs, joined.

        An input is a Source, or `"stage"` or `"stage/output"`.
        """
        refs = {key: ref if isinstance(ref, Source) else self._output(ref) for key, ref in inputs.items()}

        async def run(ctx: Context) -> Mapping[str, bytes | Path]:
            self.ran.append(name)
            if make is None:
                made: Any = b"+".join([name.encode(), *(ctx.read(key) for key in sorted(refs))])
            else:
                made = make(ctx)
                if asyncio.iscoroutine(made):
                    made = await made
            return made if isinstance(made, Mapping) else {"out": made}

        return Stage(name, kind or name, version, params or {}, refs, run)

    @staticmethod
    def _output(ref: str) -> Output:
        stage, _, name = ref.partition("/")
        return Output(stage, name or "out")

    def ask(self, question: str, draw: int = 0) -> Action:
        return Action("call", 1, {"question": question, "draw": draw}, {})

    async def call(
        self, ctx: Context, question: str, *, draw: int = 0, reply: bytes | None = None, wait=0
    ) -> bytes:
        """Make a fake call: the reply is the question in capitals."""

        async def perform() -> tuple[bytes, dict[str, Any]]:
            self.made.append(question)
            if isinstance(wait, asyncio.Event):
                await wait.wait()
            else:
                await asyncio.sleep(wait)
            return question.upper().encode() if reply is None else reply, {"tokens": 1}

        return (await ctx.call(self.ask(question, draw), perform)).reply

    def asking(self, *questions: str, **how):
        """A `make` that asks all questions at once and joins the replies."""

        async def make(ctx: Context) -> bytes:
            return b" ".join(
                await asyncio.gather(*(self.call(ctx, question, **how) for question in questions))
            )

        return make

    def build(self, stages: list[Stage], *targets: str, within=None, **options) -> dict[str, Outcome]:
        """Build the targets (all stages, if none is named) with a fresh store and claims."""
        self.ran, self.made = [], []
        self.heard = options.pop("listener", None) or Hearing()
        graph = Graph(stages)
        with self.open() as store:
            claims = Claims(store.root / "claims")
            try:
                build = Build(store, claims, graph, listener=self.heard, **options)

                async def go() -> dict[str, Outcome]:
                    running = build.run(targets or [stage.name for stage in stages])
                    return await (running if within is None else within(running))

                return asyncio.run(go())
            finally:
                claims.close()

    def plan(self, stages: list[Stage], *targets: str):
        with self.open() as store:
            return plan(store, Graph(stages), targets or [stage.name for stage in stages])

    def open(self, **options) -> Store:
        return Store(self.root, **options)

    def read(self, digest: str) -> bytes:
        with self.open() as store:
            return store.read(digest)

    def object(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest[2:]


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A folder in memory where there is one: a build here costs a dozen fsyncs, and on a disk each takes milliseconds."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def yard(quick_path: Path) -> Yard:
    return Yard(quick_path / "store")


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_lost_in_the_loop() -> Iterator[None]:
    """asyncio logs, and does not raise, what nobody retrieved: exceptions, tasks destroyed while pending."""
    heard: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("asyncio").addHandler(handler)
    yield
    gc.collect()
    logging.getLogger("asyncio").removeHandler(handler)
    assert heard == []


# A process that has imported the engine and does nothing but fork: a child costs milliseconds, and no test forks a
# process that has threads.
_NURSERY = """
import json, os, runpy, signal, sys, time, traceback
import charforge.engine.build, charforge.engine.claims, charforge.engine.gc, charforge.engine.view

parent, alive = os.getppid(), set()


def end():
    # A test that failed, or a test run that was killed, leaves no process behind.
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def wait(pid):
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            alive.discard(pid)
            return status
        if os.getppid() != parent:
            end()
        time.sleep(0.002)


for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(json.dumps(wait(order["wait"])), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = order["argv"]
            runpy.run_path(sys.argv[0], run_name="__main__")
            status = 0
        except SystemExit as done:
            status = done.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    alive.add(pid)
    print(json.dumps(pid), flush=True)
end()
"""


class Child:
    """A process that runs a script. `wait` returns its exit status, negative for the signal that ended it."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self._nursery = nursery
        self.pid = pid
        self._log = log

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(self._nursery.order({"wait": self.pid}))

    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


class Nursery:
    """Starts children."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def order(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(self, script: Path, *args: object) -> Child:
        log = script.with_name(f"log-{time.monotonic_ns()}")
        argv = [str(script), *(str(arg) for arg in args)]
        return Child(self, self.order({"argv": argv, "log": str(log)}), log)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()
