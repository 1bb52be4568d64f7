"""Two builds at once: nothing is paid for twice, and both end with the same result."""

from __future__ import annotations

import json
import signal
import textwrap
import time
from collections import Counter

import pytest

SCRIPT = """
import asyncio, json, os, sys
from pathlib import Path

from charforge.engine import view
from charforge.engine.build import Build, Listener
from charforge.engine.claims import Claims
from charforge.engine.digest import Action
from charforge.engine.graph import Graph, Output, Stage
from charforge.engine.store import Store

folder, name, shape = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
side = os.open(folder / "side", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def note(*words):
    os.write(side, (" ".join(words) + "\\n").encode())


class Hearing(Listener):
    def call_made(self, stage, call, record):
        note("durable", name, call)

    def note(self, text):
        note("note", name, text)


async def ask(ctx, text):
    action = Action("call", 1, {"question": text}, {})

    async def perform():
        note("performing", name, action.digest)
        await asyncio.sleep(0.02)
        return text.upper().encode(), {"by": name}

    return (await ctx.call(action, perform)).reply


def asking(*questions):
    async def run(ctx):
        note("ran", name, ctx.stage.name)
        return {"out": b" ".join(await asyncio.gather(*(ask(ctx, text) for text in questions)))}
    return run


async def join(ctx):
    note("ran", name, ctx.stage.name)
    return {"out": b"+".join(ctx.read(key) for key in sorted(ctx.stage.inputs))}


many = [f"q{n}" for n in range(24)]
if shape == "same":
    stages = [
        Stage("a", "a", 1, {}, {}, asking(*many[:12])),
        Stage("b", "b", 1, {}, {}, asking(*many[12:])),
    ]
else:
    # Two graphs whose stages differ and whose calls are the same, asked for in opposite orders.
    order = many if shape == "forwards" else many[::-1]
    stages = [
        Stage("a", "a", 1, {"of": shape}, {}, asking(*order[:16])),
        Stage("b", "b", 1, {"of": shape}, {}, asking(*order[8:])),
    ]
stages.append(Stage("c", "c", 1, {}, {"a": Output("a", "out"), "b": Output("b", "out")}, join))
root = folder / "store"
with Store(root) as store:
    claims = Claims(root / "claims")
    build = Build(store, claims, Graph(stages), jobs=int(sys.argv[4]), listener=Hearing())
    outcomes = asyncio.run(build.run(["c"]))
    outputs = {f"{name}/out": one.outputs["out"] for name, one in outcomes.items()}
    view.sync(store, folder / "build" / "x", outputs)
(folder / f"result-{name}").write_text(json.dumps([outputs, sorted(one.status for one in outcomes.values())]))
"""


class Both:
    def __init__(self, folder, nursery):
        self.folder = folder
        self.nursery = nursery
        (folder / "script.py").write_text(textwrap.dedent(SCRIPT))

    def start(self, name, shape="same", jobs=4):
        return self.nursery.start(self.folder / "script.py", self.folder, name, shape, jobs)

    def side(self, word):
        path = self.folder / "side"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [
            tuple(rest.split(" ", 1))
            for first, rest in (line.split(" ", 1) for line in lines)
            if first == word
        ]

    def until(self, what):
        end = time.monotonic() + 30
        while not what():
            assert time.monotonic() < end, "the builds did not come that far"
            time.sleep(0.002)

    def result(self, name):
        outputs, statuses = json.loads((self.folder / f"result-{name}").read_text())
        return outputs, statuses


@pytest.fixture
def both(quick_path, nursery):
    return Both(quick_path, nursery)


def ended_well(*children):
    assert [(child.wait(), child.said()) for child in children] == [(0, "")] * len(children)


def test_two_builds_of_one_graph_end_the_same_and_make_each_call_once(both):
    ended_well(both.start("one"), both.start("two"))
    assert both.result("one")[0] == both.result("two")[0]
    assert Counter(Counter(call for _, call in both.side("performing")).values()) == {1: 24}
    assert Counter(stage for _, stage in both.side("ran")) == {"a": 1, "b": 1, "c": 1}
    assert (both.folder / "build" / "x" / "c" / "out").read_bytes().startswith(b"Q0 Q1")


def test_who_waits_says_so(both):
    one = both.start("one")
    both.until(lambda: len(both.side("ran")) == 2)
    two = both.start("two")
    ended_well(one, two)
    said = {f"{stage}: another build is making it; waiting for that one" for stage in "abc"}
    assert {text for name, text in both.side("note") if name == "two"} >= {
        text for text in said if text[0] != "c"
    }
    assert {text for _, text in both.side("note")} <= said
    # `c` goes to whoever comes first.
    assert both.result("two")[1][-2:] == ["up to date", "up to date"]


@pytest.mark.parametrize("jobs", [1, 3, 64])
def test_two_graphs_that_share_calls_make_each_once_and_do_not_lock_each_other_up(both, jobs):
    ended_well(both.start("one", "forwards", jobs), both.start("two", "backwards", jobs))
    assert Counter(Counter(call for _, call in both.side("performing")).values()) == {1: 24}
    assert both.result("one")[1] == both.result("two")[1] == ["ran", "ran", "ran"]


@pytest.mark.parametrize("after", [1, 9, 15])
def test_when_one_is_killed_the_other_finishes_and_repeats_only_what_was_in_flight(both, after):
    one = both.start("one")
    both.until(lambda: both.side("performing"))
    two = both.start("two")
    both.until(lambda: len(both.side("durable")) >= after)
    one.kill()
    assert one.wait() == -signal.SIGKILL
    ended_well(two)
    times = Counter(call for _, call in both.side("performing"))
    assert set(times) == {call for _, call in both.side("performing")}
    assert len(times) == 24
    again = {call for call, count in times.items() if count > 1}
    assert len(again) <= 4
    assert not again & {call for name, call in both.side("durable") if name == "one"}
    assert set(times.values()) <= {1, 2}
    outputs, _ = both.result("two")
    ended_well(both.start("three"))
    assert both.result("three") == (outputs, ["up to date"] * 3)
