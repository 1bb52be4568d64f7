"""A rehearsal says what a build then does, and does nothing itself."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import replace

import pytest

from charforge.engine.build import FAILED, RAN, Context
from charforge.engine.graph import Graph
from charforge.engine.reader import Reader
from charforge.engine.rehearse import NotRehearsed, _Context, rehearse
from charforge.engine.stale import STALE, UNKNOWN, UP_TO_DATE


class Refused(Exception):
    """What a workshop raises that can ask nobody."""


def going(yard, stages, *targets):
    """Rehearse, with calls that cannot be made, and return what was found; nothing may have changed or been made."""
    before = contents(yard.root)
    yard.ran, yard.made = [], []
    with Reader(yard.root) as store:
        found = asyncio.run(rehearse(store, Graph(stages), targets or [stage.name for stage in stages]))
    assert contents(yard.root) == before
    assert yard.made == []
    return found


def contents(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def states(found):
    return {name: each.status for name, each in found.items()}


async def ask(yard, ctx, question):
    """Make a call that a rehearsal cannot make."""

    async def perform():
        if isinstance(ctx, _Context):
            raise Refused(question)
        yard.made.append(question)
        return question.upper().encode(), {"tokens": 1}

    return (await ctx.call(yard.ask(question), perform, lane="remote")).reply


def asking(yard, *questions):
    async def make(ctx):
        results = await asyncio.gather(*(ask(yard, ctx, each) for each in questions), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return b" ".join(results)

    return make


def caller(yard, name, *questions, **inputs):
    """A stage that makes these calls."""
    return yard.stage(name, make=asking(yard, *questions), params={"questions": list(questions)}, **inputs)


def asked(found, name):
    each = found[name]
    return (
        len(each.recorded),
        sorted(action.params["question"] for action in each.missing.values()),
    )


def test_its_context_has_what_a_build_s_has():
    def interface(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    engine_only = {"end", "left", "refuse"}
    assert interface(_Context) == interface(Context) - engine_only


def test_nothing_built_pure_stages_run_in_memory_and_all_requests_are_known(yard):
    def stages(*questions):
        return [
            yard.stage("profile", text=yard.source("profile.md", "text")),
            caller(yard, "scenes", *questions, profile="profile"),
            yard.stage("dialogues", scenes="scenes"),
        ]

    found = going(yard, stages("a", "b"))
    assert states(found) == {"profile": STALE, "scenes": STALE, "dialogues": UNKNOWN}
    assert found["profile"].outputs is not None
    assert asked(found, "scenes") == (0, ["a", "b"])
    assert found["dialogues"].waits_for == ("scenes",)
    assert not yard.root.exists()

    yard.build(stages("a", "b"))
    assert states(going(yard, stages("a", "b"))) == dict.fromkeys(
        ("profile", "scenes", "dialogues"), UP_TO_DATE
    )
    found = going(yard, stages("a", "b", "c"))
    assert asked(found, "scenes") == (2, ["c"])
    assert [reason["field"] for reason in found["scenes"].reasons] == ["questions"]


def test_a_stage_whose_calls_are_all_recorded_gives_its_outputs_on(yard):
    def stages(name):
        return [
            caller(yard, "scenes", "a", "b", text=yard.source("text", name)),
            caller(yard, "dialogues", "c", scenes="scenes"),
            yard.stage("model", scenes="dialogues"),
        ]

    yard.build(stages("one"))
    found = going(yard, stages("two"))
    # The replies are the same, and so are the output and everything after it.
    assert states(found) == {"scenes": STALE, "dialogues": UP_TO_DATE, "model": UP_TO_DATE}
    assert asked(found, "scenes") == (2, [])
    assert asked(found, "dialogues") == (1, [])
    with Reader(yard.root) as store:
        assert store.find(found["scenes"].action) is None
    assert yard.build(stages("two"))["scenes"].status == RAN
    assert yard.made == []
    assert yard.ran == ["scenes"]


def test_a_stage_that_forgives_a_call_it_could_not_make_gives_no_outputs(yard):
    async def make(ctx):
        try:
            return await ask(yard, ctx, "a")
        except Refused:
            return b"without"

    found = going(yard, [yard.stage("scenes", make=make), yard.stage("dialogues", scenes="scenes")])
    assert states(found) == {"scenes": STALE, "dialogues": UNKNOWN}
    assert not found["scenes"].whole


def test_a_stage_that_writes_files_is_not_rehearsed(yard):
    def train(ctx):
        (ctx.scratch / "weights").mkdir()
        return {"weights/": ctx.scratch / "weights"}

    found = going(yard, [yard.stage("model", make=train), yard.stage("report", model="model/weights/")])
    # Whoever reads only the name of a model runs on without it.
    assert states(found) == {"model": STALE, "report": UNKNOWN}
    assert not found["model"].whole
    assert found["model"].error is None


def test_of_a_stage_that_waits_for_a_model_the_other_calls_are_known(yard):
    async def interviews(ctx):
        await ctx.folder("model")
        results = await asyncio.gather(
            *(ask(yard, ctx, question) for question in (f"trained {ctx.digest('model')}", "baseline")),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, Exception):
                raise result
        return b"".join(results)

    def train(ctx):
        folder = ctx.scratch / "weights"
        folder.mkdir()
        (folder / "w").write_bytes(ctx.read("text"))
        return {"weights/": folder}

    def stages(text):
        return [
            yard.stage("model", make=train, text=yard.source("text", text)),
            yard.stage("interviews", make=interviews, model="model/weights/"),
        ]

    yard.build(stages("one"))
    found = going(yard, stages("two"))
    assert states(found) == {"model": STALE, "interviews": UNKNOWN}
    recorded, missing = asked(found, "interviews")
    assert (recorded, len(missing)) == (1, 1)
    assert missing[0].startswith("trained ")
    assert found["interviews"].outputs is None


def test_a_stage_that_follows_is_looked_at_with_what_was_published(yard):
    async def scenes(ctx):
        results = []
        for name in "abc":
            try:
                await ask(yard, ctx, f"scene {name}")
            except Refused as error:
                results.append(error)
            else:
                ctx.publish(name)
        if results:
            raise results[0]
        return b"abc"

    async def ahead(ctx):
        async for name in ctx.published():
            try:
                await ask(yard, ctx, f"dialogue {name}")
            except Refused:
                continue

    async def dialogues(ctx):
        for name in ctx.read("scenes").decode():
            await ask(yard, ctx, f"dialogue {name}")
        return b"done"

    stages = [
        yard.stage("scenes", make=scenes),
        replace(yard.stage("dialogues", make=dialogues, scenes="scenes"), ahead=ahead, follows="scenes"),
    ]

    async def earlier(ctx):
        for question in ("scene a", "scene c", "dialogue a"):
            await ask(yard, ctx, question)
        return b""

    yard.build([yard.stage("earlier", make=earlier)])
    found = going(yard, stages)
    assert asked(found, "scenes") == (2, ["scene b"])
    assert asked(found, "dialogues") == (1, ["dialogue c"])
    assert states(found) == {"scenes": STALE, "dialogues": UNKNOWN}


def test_a_stage_that_would_fail_is_told_with_its_error(yard):
    def broken(ctx):
        raise ValueError("too few")

    found = going(yard, [yard.stage("scenes", make=broken), yard.stage("dialogues", scenes="scenes")])
    assert states(found) == {"scenes": FAILED, "dialogues": UNKNOWN}
    assert str(found["scenes"].error) == "too few"


def test_a_lost_reply_is_a_call_to_make(yard):
    stages = [caller(yard, "scenes", "a", "b")]
    yard.build(stages)
    with yard.open() as store:
        trace = store.find(yard.ask("a").digest)
        store.discard(trace.outputs["reply"])
    changed = [replace(stages[0], version=2)]
    assert asked(going(yard, changed), "scenes") == (1, ["a"])


def test_a_workshop_that_refuses_leaves_a_stage_to_run(yard):
    async def make(_ctx):
        raise NotRehearsed

    found = going(yard, [yard.stage("base", make=make)])
    assert (found["base"].status, found["base"].whole, found["base"].error) == (STALE, False, None)


# --- Any graph ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_what_it_says_of_any_graph_is_what_a_build_then_does(yard, seed):
    _agree(yard, random.Random(seed))


def _agree(yard, chance):
    """Build some of a random graph, with some calls recorded by others; then rehearse the whole of it, and build it."""
    names = [f"s{n}" for n in range(chance.randint(2, 6))]
    stages = []
    for place, name in enumerate(names):
        reads = chance.sample(names[:place], min(place, chance.randint(0, 2)))
        questions = [f"q{chance.randint(0, 8)}" for _ in range(chance.randint(0, 3))]
        stages.append(caller(yard, name, *questions, **{f"in_{each}": each for each in reads}))
    yard.build(stages, *chance.sample(names, chance.randint(0, 2)) or [names[0]])
    other = caller(yard, "other", *(f"q{n}" for n in chance.sample(range(9), 3)))
    yard.build([other])
    found = going(yard, stages)
    outcomes = yard.build(stages)
    for name, each in found.items():
        if each.status == UP_TO_DATE or each.outputs is not None:
            assert outcomes[name].status == (UP_TO_DATE if each.status == UP_TO_DATE else RAN)
            assert outcomes[name].outputs == each.outputs
            assert outcomes[name].action == each.action
    known = {question for each in found.values() for question in asked({"it": each}, "it")[1]}
    assert known <= set(yard.made)
    if all(each.outputs is not None for each in found.values()):
        assert yard.made == []
