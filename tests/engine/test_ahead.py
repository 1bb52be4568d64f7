"""A stage may begin on what the stage before it publishes; what it ends with is the same as if it had waited."""

import asyncio
from dataclasses import replace

from charforge.engine.build import Listener


def pair(yard, *, publish=("a", "b", "c"), accepted=None, order=None, fails=False):
    """Return two stages: `scenes` calls for each name and publishes it, `dialogues` calls once for each line."""
    order = [] if order is None else order
    accepted = publish if accepted is None else accepted

    async def scenes(ctx):
        for name in publish:
            await yard.call(ctx, f"scene {name}")
            order.append(f"scene {name}")
            ctx.publish(name)
            for _ in range(200):
                await asyncio.sleep(0)
        if fails:
            raise ConnectionError("no route")
        return "\n".join(accepted).encode()

    async def ask(ctx, name):
        await yard.call(ctx, f"dialogue {name}")
        order.append(f"dialogue {name}")

    async def ahead(ctx):
        assert ctx.read("profile") == b"profile"
        async for name in ctx.published():
            await ask(ctx, name)

    async def dialogues(ctx):
        lines = ctx.read("scenes").decode().splitlines()
        await asyncio.gather(*(ask(ctx, line) for line in lines))
        return b"+".join(line.encode() for line in lines)

    profile = yard.stage("profile")
    first = yard.stage("scenes", make=scenes, profile="profile")
    second = yard.stage("dialogues", make=dialogues, profile="profile", scenes="scenes")
    return [profile, first, replace(second, ahead=ahead, follows="scenes")]


def test_a_stage_begins_before_the_one_it_follows_has_ended_and_every_call_is_made_once(yard):
    order = []
    outcomes = yard.build(pair(yard, order=order))
    assert order.index("dialogue a") < order.index("scene c")
    assert sorted(yard.made) == sorted(f"{kind} {name}" for kind in ("dialogue", "scene") for name in "abc")
    assert (outcomes["dialogues"].calls_made, outcomes["dialogues"].calls_replayed) == (3, 0)
    assert [str(one.status) for one in outcomes.values()] == ["ran"] * 3


def test_what_was_published_and_then_dropped_is_paid_for_and_not_used(yard):
    outcomes = yard.build(pair(yard, accepted=("a", "c")))
    assert outcomes["dialogues"].calls_made == 3
    assert yard.read(outcomes["dialogues"].outputs["out"]) == b"a+c"


def test_with_nothing_to_run_there_is_no_head_start(yard):
    yard.build(pair(yard))
    yard.build(pair(yard))
    assert (yard.ran, yard.made) == ([], [])


def test_a_stage_that_fails_ends_the_head_start_and_the_next_build_replays_it(yard):
    outcomes = yard.build(pair(yard, fails=True))
    assert [one.status for one in outcomes.values()] == ["ran", "failed", "blocked"]
    assert outcomes["dialogues"].calls_made == 3
    outcomes = yard.build(pair(yard))
    assert yard.made == []
    assert outcomes["dialogues"].calls_replayed == 3


def test_a_failing_head_start_is_the_stage_s_own_to_report(yard):
    stages = pair(yard)

    async def ahead(ctx):
        raise ConnectionError("no route")

    outcomes = yard.build([*stages[:2], replace(stages[2], ahead=ahead)])
    assert outcomes["dialogues"].status == "ran"


def test_without_the_stage_among_the_targets_nothing_runs_ahead(yard):
    yard.build(pair(yard), "scenes")
    assert all(name.startswith("scene") for name in yard.made)


def test_the_listener_hears_of_the_head_start(yard):
    class Hears(Listener):
        heard = ()

        def stage_ahead(self, stage, follows):
            self.heard += ((stage, follows),)

    hears = Hears()
    yard.build(pair(yard), listener=hears)
    assert hears.heard == (("dialogues", "scenes"),)


def test_a_cancelled_build_keeps_what_ran_ahead(yard):
    stuck = asyncio.Event()

    async def never(ctx):
        await yard.call(ctx, "scene a")
        ctx.publish("a")
        await stuck.wait()

    stages = pair(yard)
    stages[1] = yard.stage("scenes", make=never, profile="profile")

    async def cancelled(running):
        task = asyncio.ensure_future(running)
        while "dialogue a" not in yard.made:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    yard.build(stages, within=cancelled)
    yard.build(pair(yard))
    assert "dialogue a" not in yard.made
