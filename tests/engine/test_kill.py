"""kill -9 at any instant re-pays at most for the calls in flight, and breaks nothing.

A child process builds a small graph with calls and large blobs, and is killed after each of its durable writes in turn, and
at random times. It notes each call in a side file before the reply is handed to the engine, and again when the engine
says it is durable.
"""

from __future__ import annotations

import random
import signal
import textwrap
import time
from collections import Counter

import pytest

SCRIPT = """
import asyncio, os, signal, sys
from pathlib import Path

from charforge.engine import view
from charforge.engine.build import Build, Listener
from charforge.engine.claims import Claims
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.engine.graph import Graph, Output, Source, Stage
from charforge.engine.store import INLINE_LIMIT, Store

folder, last_write = Path(sys.argv[1]), int(sys.argv[2])
side = os.open(folder / "side", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
writes = 0


def note(*words):
    os.write(side, (" ".join(words) + "\\n").encode())


def on_durable(what):
    global writes
    writes += 1
    if writes == last_write:
        os.kill(os.getpid(), signal.SIGKILL)


class Hearing(Listener):
    def call_made(self, stage, call, record):
        note("durable", call)


def question(name, size=1):
    action = Action("call", 1, {"question": name}, {})

    async def perform():
        await asyncio.sleep(0.001)
        note("performed", action.digest)
        return name.upper().encode() * size, {}

    return action, perform


async def asked(ctx, name, size=1):
    return (await ctx.call(*question(name, size))).reply


async def scenes(ctx):
    sizes = {"s2": INLINE_LIMIT, "s4": INLINE_LIMIT + 5}
    replies = await asyncio.gather(*(asked(ctx, f"s{n}", sizes.get(f"s{n}", 1)) for n in range(6)))
    return {"scenes": b"\\n".join(reply[:4] for reply in replies), "long": b"".join(replies)}


async def dialogues(ctx):
    replies = [await asked(ctx, f"d{line.decode()}") for line in ctx.read("scenes").split()[:4]]
    return {"dialogues": b"\\n".join(replies)}


async def model(ctx):
    weights = ctx.scratch / "weights"
    weights.mkdir()
    (weights / "model").write_bytes(ctx.read("dialogues") * INLINE_LIMIT)
    (weights / "config.json").write_bytes(b"{}")
    return {"weights/": weights}


async def report(ctx):
    return {"report": of_bytes((await ctx.folder("model") / "model").read_bytes()).encode()}


text = b"a life" * INLINE_LIMIT
graph = Graph([
    Stage("scenes", "scenes", 1, {}, {"profile": Source("profile", of_bytes(text), text)}, scenes),
    Stage("dialogues", "dialogues", 1, {}, {"scenes": Output("scenes", "scenes")}, dialogues),
    Stage("model", "model", 1, {}, {"dialogues": Output("dialogues", "dialogues")}, model),
    Stage("report", "report", 1, {}, {"model": Output("model", "weights/"), "x": Output("scenes", "long")}, report),
])
root = folder / "store"
with Store(root, on_durable=on_durable) as store:
    claims = Claims(root / "claims")
    outcomes = asyncio.run(Build(store, claims, graph, jobs=3, listener=Hearing()).run(["report"]))
    assert {outcome.status for outcome in outcomes.values()} <= {"ran", "up to date"}, outcomes
    outputs = {f"{name}.{key}": digest for name, one in outcomes.items() for key, digest in one.outputs.items()}
    view.sync(store, folder / "build" / "x", outputs)
(folder / "result").write_bytes(canonical(outputs))
"""


class Built:
    """A folder that children build in."""

    def __init__(self, folder, nursery):
        self.folder = folder
        self.nursery = nursery
        self.script = folder / "script.py"
        self.script.write_text(textwrap.dedent(SCRIPT))

    def start(self, last_write=0):
        return self.nursery.start(self.script, self.folder, last_write)

    def side(self):
        path = self.folder / "side"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [tuple(line.split()) for line in lines]

    def finish(self):
        """Build to the end after a kill, and assert what must hold then. Returns the outputs' names and digests."""
        before = self.side()
        child = self.start()
        assert (child.wait(), child.said()) == (0, "")
        after = self.side()[len(before) :]

        durable = {call for word, call in before if word == "durable"}
        performed = Counter(call for word, call in before if word == "performed")
        again = Counter(call for word, call in after if word == "performed")
        assert not durable & again.keys(), "a finished call was made again"
        assert set(again.values()) <= {1}
        assert len(performed | again) == 10, "six scenes, four dialogues"
        # With three jobs, three calls can have been in flight. (Each is one that was not yet known to be durable.)
        assert len(performed.keys() & again.keys()) <= 3

        leftover = {path.name for path in (self.folder / "store").iterdir()}
        assert leftover <= {
            "objects",
            "tmp",
            "trees",
            "users",
            "machine",
            "claims",
            "store.db",
            "view.lock",
            "open.lock",
        }
        assert list((self.folder / "store" / "tmp").iterdir()) == []
        assert list(self.folder.rglob("*.part")) == []

        child = self.start()
        assert (child.wait(), child.said()) == (0, "")
        assert self.side() == [*before, *after], "the build after that made a call"
        return (self.folder / "result").read_bytes()


@pytest.fixture
def built(quick_path, nursery):
    def make(name):
        (quick_path / name).mkdir()
        return Built(quick_path / name, nursery)

    return make


def test_killed_after_each_durable_write_in_turn(built):
    expected = built("undisturbed").finish()
    for number in range(1, 100):
        killed = built(f"killed{number}")
        child = killed.start(number)
        status = child.wait()
        if status == 0:
            break
        assert (status, child.said()) == (-signal.SIGKILL, "")
        assert killed.finish() == expected
    # Six objects, at least one commit a stage, one for the calls of each, one for the view.
    assert number > 14


def test_killed_at_random_times_and_more_than_once(built):
    expected = built("undisturbed").finish()
    random_ = random.Random(2)
    kills = 0
    for number in range(20):
        killed = built(f"killed{number}")
        for _ in range(random_.choice([1, 1, 3])):
            child = killed.start()
            time.sleep(random_.uniform(0, 0.1))
            child.kill()
            kills += child.wait() == -signal.SIGKILL
        assert killed.finish() == expected
    assert kills > 0


def test_killed_over_and_over_it_still_gets_there(built):
    expected = built("undisturbed").finish()
    killed = built("killed")
    for _ in range(60):
        # A build that finds nothing to write any more is not killed, and ends.
        if killed.start(2).wait() == 0:
            break
    else:
        pytest.fail("two durable writes at a time should have been enough")
    assert killed.finish() == expected
