"""Two to eight builds at once on one store: each call is made once, none fails, all end with the same.

`CHARFORGE_EXHAUSTIVE=1` does it fifty times over for each number of builds.
"""

from __future__ import annotations

import json
import os
import random
import textwrap
from collections import Counter

import pytest

from charforge.engine.store import INLINE_LIMIT

EXHAUSTIVE = bool(os.environ.get("CHARFORGE_EXHAUSTIVE"))

SCRIPT = """
import asyncio, json, os, random, sys
from pathlib import Path

from charforge.engine import view
from charforge.engine.build import Build, Listener
from charforge.engine.claims import Claims
from charforge.engine.digest import Action, of_bytes
from charforge.engine.graph import Graph, Output, Stage
from charforge.engine.store import INLINE_LIMIT, Store

folder, name, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
side = os.open(folder / "side", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
random_ = random.Random(seed)


class Hearing(Listener):
    mended = 0

    def note(self, text):
        self.mended += "was damaged" in text


hearing = Hearing()


async def ask(ctx, text, size):
    action = Action("call", 1, {"question": text}, {})

    async def perform():
        os.write(side, (action.digest + "\\n").encode())
        await asyncio.sleep(random_.uniform(0, 0.03))
        return text.upper().encode() * size, {"by": name}

    return (await ctx.call(action, perform)).reply


def asking(*questions):
    async def run(ctx):
        asked = [(each, INLINE_LIMIT if each.endswith("5") else 1) for each in questions]
        random_.shuffle(asked)
        replies = await asyncio.gather(*(ask(ctx, *each) for each in asked))
        return {"out": b" ".join(sorted(reply[:9] for reply in replies))}
    return run


async def model(ctx):
    (ctx.scratch / "weights").mkdir()
    (ctx.scratch / "weights" / "model").write_bytes(ctx.read("a") * 5000)
    return {"weights/": ctx.scratch / "weights"}


async def last(ctx):
    return {"out": of_bytes((await ctx.folder("m") / "model").read_bytes()).encode() + ctx.read("b")}


# The characters differ in one stage, and share the rest.
stages = [
    Stage("a", "a", 1, {}, {}, asking(*(f"q{n}" for n in range(10)))),
    Stage("b", "b", 1, {"of": int(name) % 2}, {}, asking(*(f"q{n}" for n in range(5, 15)))),
    Stage("m", "m", 1, {}, {"a": Output("a", "out")}, model),
    Stage("last", "last", 1, {}, {"m": Output("m", "weights/"), "b": Output("b", "out")}, last),
]
root = folder / "store"
with Store(root) as store:
    claims = Claims(root / "claims")
    build = Build(store, claims, Graph(stages), jobs=random_.choice([1, 4, 64]), listener=hearing)
    outcomes = asyncio.run(build.run(["last"]))
    assert {one.status for one in outcomes.values()} <= {"ran", "up to date"}, outcomes
    outputs = {f"{each}/{key}": digest for each, one in outcomes.items() for key, digest in one.outputs.items()}
    view.sync(store, folder / "build" / "x", outputs)
    print(json.dumps([outputs, hearing.mended]))
"""


@pytest.mark.parametrize("builds", range(2, 9) if EXHAUSTIVE else [2, 5, 8])
def test_a_crowd_of_builds_makes_each_call_once_and_ends_as_one(nursery, quick_path, builds):
    script = quick_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    mended = []
    for number in range(50 if EXHAUSTIVE else 2):
        folder = quick_path / str(number)
        folder.mkdir()
        if number % 5 == 1:  # one of them finds the database damaged
            nursery.start(script, folder, 0, 0).wait()
            with (folder / "store" / "store.db").open("r+b") as file:
                file.seek(random.Random(number).randrange(100))
                file.write(b"\xff\xff")
        children = [nursery.start(script, folder, name, number * 10 + name) for name in range(builds)]
        assert [(child.wait(), child.said()[:1]) for child in children] == [(0, "[")] * builds, [
            child.said() for child in children
        ]
        results = [json.loads(child.said()) for child in children]
        assert len({json.dumps(outputs, sort_keys=True) for outputs, _ in results}) == 1
        mended.append(sum(count for _, count in results))
        calls = (folder / "side").read_text().split()
        assert Counter(Counter(calls).values()) == {1: 15}
        shown = folder / "build" / "x"
        assert (shown / "a" / "out").stat().st_size > 0
        assert (shown / "m" / "weights" / "model").stat().st_size > INLINE_LIMIT
        assert list((folder / "store" / "tmp").iterdir()) == []
    assert set(mended) == {0, 1}, "whoever comes first mends it, alone"
