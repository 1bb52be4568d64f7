"""Random graphs, edits, failures and kills, against a naive model that knows nothing of digests or stores.

The model keeps, in plain dictionaries, which action (by its whole content) ever gave which outputs and which call which
reply. After each build: the result is what a clean build gives, and exactly the actions that the model
finds missing have run.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import random
import signal
import textwrap
import time
from dataclasses import dataclass, field

import pytest

from charforge.engine.stale import UP_TO_DATE

# -- the naive side --------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A stage as the test knows it. `mill` is how it grinds its inputs: some forget much, so that outputs stay equal."""

    name: str
    reads: list[str]  # names of earlier nodes, or of sources
    mill: int
    version: int = 1
    params: dict[str, int] = field(default_factory=dict)
    questions: list[int] = field(default_factory=list)
    big: bool = False


@dataclass
class World:
    sources: dict[str, str]
    nodes: list[Node]


def ground(text: str, mill: int) -> str:
    return str(int(hashlib.sha256(text.encode()).hexdigest(), 16) % mill)


def question(node: Node, number: int, inputs: list[str]) -> str:
    """What a call asks depends on its number and on a little of the inputs: most edits keep most calls."""
    return f"{number}/{ground(''.join(inputs), 3)}/{node.mill}"


def reply(asked: str, *, big: bool = False) -> str:
    return f"reply to {asked}" * (6000 if big else 1)


def output(node: Node, inputs: list[str], replies: list[str]) -> str:
    body = "|".join([*inputs, *replies, json.dumps(node.params, sort_keys=True), str(node.version % 2)])
    return f"{node.name}:{ground(body, node.mill)}" * (9000 if node.big else 1)


class Model:
    """What a build must do, said as plainly as possible."""

    def __init__(self) -> None:
        self.traces: dict[str, str] = {}
        self.replies: dict[str, str] = {}

    def key(self, node: Node, inputs: list[str]) -> str:
        return json.dumps([node.name, node.version, node.params, node.questions, node.mill, node.big, inputs])

    def build(self, world: World, failing: frozenset[str] = frozenset()):
        """Return (results, stages that run, calls that are made, stages that fail), and remember."""
        results: dict[str, str] = dict(world.sources)
        ran, made, failed = [], [], []
        for node in world.nodes:
            if any(name not in results for name in node.reads):
                continue
            inputs = [results[name] for name in node.reads]
            key = self.key(node, inputs)
            if key not in self.traces:
                ran.append(node.name)
                asked = [question(node, number, inputs) for number in node.questions]
                new = [text for text in dict.fromkeys(asked) if text not in self.replies]
                made += new
                self.replies |= {text: reply(text, big=node.big) for text in new}
                if node.name in failing:
                    failed.append(node.name)
                    continue
                self.traces[key] = output(node, inputs, [self.replies[text] for text in asked])
            results[node.name] = self.traces[key]
        return results, ran, made, failed


# -- the engine's side -------------------------------------------------------------------------------------------------


class Fault(Exception):
    pass


def stages(yard, world: World, failing=frozenset(), performed=None):
    made = []
    for node in world.nodes:

        async def make(ctx, node=node):
            inputs = [ctx.read(f"{index:02}").decode() for index in range(len(node.reads))]

            async def ask(number):
                asked = question(node, number, inputs)

                async def perform():
                    await asyncio.sleep(0)
                    if performed is not None:
                        performed.append(asked)
                    return reply(asked, big=node.big).encode(), {}

                return (await ctx.call(yard.ask(asked), perform)).reply.decode()

            replies = await asyncio.gather(*(ask(number) for number in node.questions))
            if node.name in failing:
                raise Fault(node.name)
            return output(node, inputs, replies).encode()

        refs = {}
        for index, name in enumerate(node.reads):
            refs[f"{index:02}"] = yard.source(name, world.sources[name]) if name in world.sources else name
        params = {
            "params": dict(node.params),
            "questions": node.questions,
            "mill": node.mill,
            "big": node.big,
        }
        made.append(yard.stage(node.name, make=make, params=params, version=node.version, **refs))
    return made


def results(yard, world, outcomes):
    with yard.open() as store:
        found = {
            name: store.read(one.outputs["out"]).decode() for name, one in outcomes.items() if one.outputs
        }
    return {**world.sources, **found}


# -- random worlds and edits -------------------------------------------------------------------------------------------


def random_world(rng: random.Random) -> World:
    sources = {f"source{n}": str(rng.randrange(4)) for n in range(rng.randint(1, 3))}
    nodes: list[Node] = []
    for number in range(rng.randint(2, 9)):
        known = [*sources, *(node.name for node in nodes)]
        reads = rng.sample(known, k=min(len(known), rng.randint(0, 3)))
        asks = rng.sample(range(6), k=rng.randint(1, 4)) if rng.random() < 0.5 else []
        nodes.append(
            Node(f"n{number}", reads, rng.choice([1, 2, 3, 1000]), 1, {"p": 0}, asks, rng.random() < 0.15)
        )
    return World(sources, nodes)


def edit(rng: random.Random, world: World) -> World:
    world = copy.deepcopy(world)
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        node = rng.choice(world.nodes)
        match rng.randrange(6):
            case 0 | 1:
                world.sources[rng.choice(list(world.sources))] = str(rng.randrange(4))
            case 2:
                node.params["p"] = rng.randrange(3)
            case 3:
                node.version += 1
            case 4:
                node.questions = sorted({*node.questions, rng.randrange(9)})
            case 5:
                earlier = [*world.sources, *(one.name for one in world.nodes[: world.nodes.index(node)])]
                node.reads = rng.sample(earlier, k=min(len(earlier), rng.randint(0, 3)))
    return world


@pytest.mark.parametrize("seed", range(25))
def test_what_runs_is_minimal_and_the_result_is_that_of_a_clean_build(yard, seed):
    rng = random.Random(seed)
    model, performed = Model(), []
    history = [random_world(rng)]
    for _ in range(7):
        # Now and then an earlier world comes back.
        history.append(rng.choice(history) if rng.random() < 0.3 else edit(rng, history[-1]))
        world = history[-1]
        failing = frozenset(node.name for node in world.nodes if rng.random() < 0.12)
        expected, ran, made, failed = model.build(world, failing)

        performed.clear()
        outcomes = yard.build(
            stages(yard, world, failing, performed), jobs=rng.choice([1, 3, 64]), keep_going=True
        )
        assert sorted(yard.ran) == sorted(ran)
        assert sorted(performed) == sorted(made)
        assert sorted(name for name, one in outcomes.items() if one.status == "failed") == sorted(failed)
        assert results(yard, world, outcomes) == expected
        clean = Model().build(world)[0]
        assert expected.items() <= clean.items()

        planned = yard.plan(stages(yard, world))
        done = {name for name, one in planned.items() if one.status == UP_TO_DATE}
        assert {*done, *world.sources} == expected.keys()


@pytest.mark.parametrize("seed", range(100, 112))
def test_without_keep_going_a_failure_costs_nothing_that_was_done(yard, seed):
    rng = random.Random(seed)
    model, performed = Model(), []
    world = random_world(rng)
    for _ in range(5):
        world = edit(rng, world)
        failing = frozenset(node.name for node in world.nodes if rng.random() < 0.2)
        yard.build(stages(yard, world, failing, performed))
        outcomes = yard.build(stages(yard, world, frozenset(), performed))
        expected, _, made, _ = model.build(world)
        assert results(yard, world, outcomes) == expected
        assert sorted(performed) == sorted(made), (
            "between the two builds, each new call was made exactly once"
        )
        performed.clear()


@pytest.mark.parametrize("seed", range(200, 216))
def test_a_build_abandoned_anywhere_costs_only_what_was_in_flight(yard, seed):
    rng = random.Random(seed)
    model, performed = Model(), []
    world = random_world(rng)
    for _ in range(4):
        world = edit(rng, world)
        steps = int(2 ** rng.uniform(0, 12))

        async def abandoned(running, steps=steps):
            task = asyncio.ensure_future(running)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            return None if task.cancelled() else task.result()

        yard.build(stages(yard, world, frozenset(), performed), within=abandoned, jobs=3)
        outcomes = yard.build(stages(yard, world, frozenset(), performed))
        expected, _, made, _ = model.build(world)
        assert results(yard, world, outcomes) == expected
        assert sorted(performed) == sorted(made), "a reply that had arrived was asked for again"
        performed.clear()
        yard.build(stages(yard, world, frozenset(), performed))
        assert (yard.ran, performed) == ([], [])


@pytest.mark.parametrize("seed", range(300, 310))
def test_lost_blobs_are_made_again_and_nothing_else(yard, seed):
    rng = random.Random(seed)
    world = random_world(rng)
    model = Model()
    for _ in range(4):
        world = edit(rng, world)
        expected = model.build(world)[0]
        outcomes = yard.build(stages(yard, world))
        with yard.open() as store:
            lost = {
                name
                for name, one in outcomes.items()
                if rng.random() < 0.3 and not store.discard(one.outputs["out"])
            }
        yard.build(stages(yard, world))
        # What gave the same bytes under another action lost them too, and finds them again.
        assert set(yard.ran) == lost
        again = yard.build(stages(yard, world))
        assert yard.ran == []
        assert results(yard, world, again) == expected


# -- the same with real kills ------------------------------------------------------------------------------------------

CHILD = """
import asyncio, importlib.util, json, os, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("random_graphs", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["random_graphs"] = module
spec.loader.exec_module(module)

from charforge.engine.build import Build, Listener
from charforge.engine.claims import Claims
from charforge.engine.digest import Action, of_bytes
from charforge.engine.graph import Graph, Output, Source, Stage
from charforge.engine.store import Store

folder = Path(sys.argv[2])
data = json.loads((folder / "world").read_text())
world = module.World(data["sources"], [module.Node(**node) for node in data["nodes"]])
side = os.open(folder / "side", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


class Side(list):
    def append(self, asked):
        os.write(side, f"performed {asked}\\n".encode())


class Hearing(Listener):
    def call_made(self, stage, call, record):
        os.write(side, f"durable {call}\\n".encode())

    def stage_finished(self, outcome):
        if outcome.status == "ran":
            os.write(side, f"finished {outcome.action}\\n".encode())

    def stage_started(self, stage, why):
        os.write(side, f"started {stage}\\n".encode())


class Yard:
    ask = staticmethod(lambda asked: Action("call", 1, {"question": asked, "draw": 0}, {}))
    source = staticmethod(lambda label, text: Source(label, of_bytes(text.encode()), text.encode()))

    @staticmethod
    def stage(name, *, make, params, version, **refs):
        inputs = {key: ref if isinstance(ref, Source) else Output(ref, "out") for key, ref in refs.items()}

        async def run(ctx):
            return {"out": await make(ctx)}

        return Stage(name, name, version, params, inputs, run)


with Store(folder / "store") as store:
    claims = Claims(store.root / "claims")
    stages = module.stages(Yard, world, frozenset(), Side())
    build = Build(store, claims, Graph(stages), jobs=3, listener=Hearing())
    outcomes = asyncio.run(build.run([stage.name for stage in stages]))
    found = {name: store.read(one.outputs["out"]).decode() for name, one in outcomes.items()}
(folder / "results").write_text(json.dumps({**world.sources, **found}))
"""


@pytest.mark.parametrize("seed", range(400, 406))
def test_a_process_killed_anywhere_costs_only_what_was_in_flight(yard, nursery, quick_path, seed):
    rng = random.Random(seed)
    script = quick_path / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    side = quick_path / "side"
    world, model = random_world(rng), Model()

    def lines():
        return (
            [tuple(line.split(" ", 1)) for line in side.read_text().split("\n")[:-1]] if side.exists() else []
        )

    for _ in range(3):
        world = edit(rng, world)
        (quick_path / "world").write_text(
            json.dumps({"sources": world.sources, "nodes": [vars(node) for node in world.nodes]})
        )
        before = lines()
        killed = nursery.start(script, __file__, quick_path)
        time.sleep(rng.uniform(0, 0.06))
        killed.kill()
        assert killed.wait() in {0, -signal.SIGKILL}
        between = lines()
        child = nursery.start(script, __file__, quick_path)
        assert (child.wait(), child.said()) == (0, "")
        after = lines()

        expected, ran, made, _ = model.build(world)
        assert json.loads((quick_path / "results").read_text()) == expected
        first, second = between[len(before) :], after[len(between) :]
        performed = [[text for word, text in part if word == "performed"] for part in (first, second)]
        assert {*performed[0], *performed[1]} == set(made)
        assert len(set(performed[0])) == len(performed[0])
        assert len(set(performed[1])) == len(performed[1])
        durable = {call for word, call in first if word == "durable"}
        assert not durable & {yard.ask(asked).digest for asked in performed[1]}
        assert len(set(performed[0]) & set(performed[1])) <= 3
        started = {text for word, text in first + second if word == "started"}
        assert started == set(ran)
        finished = [text for word, text in first + second if word == "finished"]
        assert len(set(finished)) == len(finished), "a finished stage ran again"
