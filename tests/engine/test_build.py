"""What runs, and what does not: each test asserts the list of stages that ran and of calls that were made."""

from __future__ import annotations

import ast
import asyncio
import sqlite3
import sys
from pathlib import Path

import pytest

import charforge.engine
from charforge.engine import build as engine
from charforge.engine import stale
from charforge.engine.build import Listener
from charforge.engine.digest import of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.explain import sentence
from charforge.engine.store import INLINE_LIMIT

LARGE = 3 * INLINE_LIMIT


def status(outcomes):
    return {name: outcome.status for name, outcome in outcomes.items()}


def why(outcomes, stage):
    return [sentence(reason) for reason in outcomes[stage].reasons]


# -- one grain: stages -----------------------------------------------------------------------------------------------


def test_a_build_runs_everything_and_the_same_again_runs_nothing(yard):
    stages = [
        yard.stage("a", x=yard.source("x.txt", "x")),
        yard.stage("b", a="a"),
        yard.stage("c", a="a", b="b"),
    ]
    first = yard.build(stages)
    assert yard.ran == ["a", "b", "c"]
    assert status(first) == {"a": "ran", "b": "ran", "c": "ran"}
    assert [why(first, stage) for stage in "abc"] == [["never built"]] * 3
    assert yard.read(first["c"].outputs["out"]) == b"c+a+x+b+a+x"

    second = yard.build(stages)
    assert yard.ran == []
    assert status(second) == {"a": "up to date", "b": "up to date", "c": "up to date"}
    assert {name: (one.action, one.outputs) for name, one in second.items()} == {
        name: (one.action, one.outputs) for name, one in first.items()
    }


def test_only_what_the_targets_need_runs(yard):
    stages = [yard.stage("a"), yard.stage("b", a="a"), yard.stage("c", a="a")]
    outcomes = yard.build(stages, "b")
    assert yard.ran == ["a", "b"]
    assert list(outcomes) == ["a", "b"]


def test_a_touched_input_runs_what_reads_it_and_what_follows(yard):
    def stages(text):
        return [
            yard.stage("a", x=yard.source("x.txt", text)),
            yard.stage("b", y=yard.source("y.txt", "y")),
            yard.stage("c", a="a"),
            yard.stage("d", b="b"),
        ]

    yard.build(stages("one"))
    outcomes = yard.build(stages("two"))
    assert yard.ran == ["a", "c"]
    assert why(outcomes, "a") == ["x.txt changed"]
    assert why(outcomes, "c") == ["a/out changed"]


def test_a_parameter_runs_the_stage_that_sees_it_only(yard):
    def stages(epochs):
        return [
            yard.stage("a"),
            yard.stage("b", a="a", params={"train": {"epochs": epochs}}, make=lambda _: b"same"),
        ]

    yard.build(stages(3))
    outcomes = yard.build(stages(5))
    assert yard.ran == ["b"]
    assert why(outcomes, "b") == ["train.epochs 3 → 5"]


def test_a_reason_names_only_what_differs_in_the_digest(yard):
    # 1.0 and 1 are one number there, a tuple is a list.
    def stages(epochs):
        params = {"temperature": 1.0, "decay": 0.0, "roles": ("a", "b"), "epochs": epochs}
        return [yard.stage("a", params=params)]

    yard.build(stages(3))
    assert why(yard.build(stages(5)), "a") == ["epochs 3 → 5"]
    assert [sentence(reason) for reason in yard.plan(stages(7))["a"].reasons] == ["epochs 5 → 7"]


def test_a_version_runs_its_stage(yard):
    yard.build([yard.stage("a"), yard.stage("b", a="a")])
    outcomes = yard.build([yard.stage("a"), yard.stage("b", a="a", version=2)])
    assert yard.ran == ["b"]
    assert why(outcomes, "b") == ["its code changed (version 1 → 2)"]


def test_changed_and_changed_back_runs_nothing(yard):
    def stages(text):
        return [yard.stage("a", x=yard.source("x.txt", text)), yard.stage("b", a="a")]

    yard.build(stages("one"))
    yard.build(stages("two"))
    outcomes = yard.build(stages("one"))
    assert yard.ran == []
    assert yard.read(outcomes["b"].outputs["out"]) == b"b+a+one"


def test_after_changing_back_the_next_reason_is_told_from_there_and_not_from_the_latest_run(yard):
    def stages(epochs):
        return [yard.stage("a", params={"epochs": epochs})]

    for epochs in (3, 5, 3):
        yard.build(stages(epochs))
    assert why(yard.build(stages(7)), "a") == ["epochs 3 → 7"]


def test_changed_back_to_what_was_lost_says_that_it_was_lost(yard):
    def stages(text):
        return [yard.stage("a", x=yard.source("x.txt", text))]

    digest = yard.build(stages("one"))["a"].outputs["out"]
    yard.build(stages("two"))
    remove_blob(yard, digest)
    lost = ["its recorded outputs are gone from the store, or damaged"]
    assert [sentence(reason) for reason in yard.plan(stages("one"))["a"].reasons] == lost
    assert why(yard.build(stages("one")), "a") == lost


def test_an_equal_output_ends_the_change_early(yard):
    def stages(text):
        first = yard.stage("a", make=lambda ctx: ctx.read("x").lower(), x=yard.source("x.txt", text))
        return [first, yard.stage("b", a="a"), yard.stage("c", b="b")]

    yard.build(stages("word"))
    outcomes = yard.build(stages("WORD"))
    assert yard.ran == ["a"]
    assert status(outcomes) == {"a": "ran", "b": "up to date", "c": "up to date"}


def test_only_the_output_that_is_read_counts(yard):
    def stages(text):
        split = lambda ctx: dict(zip(("left", "right"), ctx.read("x").split(), strict=True))  # noqa: E731
        first = yard.stage("a", make=split, x=yard.source("x.txt", text))
        return [first, yard.stage("l", a="a/left"), yard.stage("r", a="a/right")]

    yard.build(stages("one two"))
    yard.build(stages("one three"))
    assert yard.ran == ["a", "r"]


def test_two_stages_with_one_action_run_once(yard):
    stages = [yard.stage("a1", kind="base"), yard.stage("a2", kind="base"), yard.stage("b", x="a1", y="a2")]
    outcomes = yard.build(stages)
    assert sorted(yard.ran) == ["a1", "b"]
    assert status(outcomes) == {"a1": "ran", "a2": "up to date", "b": "ran"}


def test_a_stage_begins_when_its_own_inputs_are_there(yard):
    gate = asyncio.Event()

    async def slow(_ctx):
        await gate.wait()
        return b"slow"

    def open_gate(_ctx):
        gate.set()  # the build would hang if `after` waited for `slow`
        return b"after"

    stages = [
        yard.stage("slow", make=slow),
        yard.stage("quick"),
        yard.stage("after", make=open_gate, q="quick"),
    ]
    assert set(status(yard.build(stages)).values()) == {"ran"}
    assert yard.ran == ["slow", "quick", "after"]


def test_plan_says_what_a_build_would_do_and_does_nothing(yard):
    def stages(text):
        return [
            yard.stage("a", x=yard.source("x.txt", text)),
            yard.stage("b", a="a"),
            yard.stage("c", b="b", a="a"),
            yard.stage("other"),
        ]

    yard.build(stages("one"))
    yard.ran = []
    before = {path: path.stat().st_mtime_ns for path in yard.root.rglob("*") if path.is_file()}
    planned = yard.plan(stages("two"))
    assert yard.ran == []
    assert before == {path: path.stat().st_mtime_ns for path in yard.root.rglob("*") if path.is_file()}
    assert {name: (one.status, one.waits_for) for name, one in planned.items()} == {
        "a": ("stale", ()),
        "b": ("unknown", ("a",)),
        "c": ("unknown", ("b", "a")),
        "other": ("up to date", ()),
    }
    assert [sentence(reason) for reason in planned["a"].reasons] == ["x.txt changed"]


def test_a_folder_is_an_output_that_another_stage_reads_as_files(yard):
    def weights(ctx):
        folder = ctx.scratch / "weights"
        (folder / "deep").mkdir(parents=True)
        (folder / "config.json").write_bytes(b"{}")
        (folder / "deep" / "model.safetensors").write_bytes(b"w" * LARGE)
        return {"weights/": folder}

    async def read(ctx):
        folder = await ctx.folder("w")
        assert await ctx.folder("w") == folder
        return b"".join(path.read_bytes()[:2] for path in sorted(folder.rglob("*")) if path.is_file())

    stages = [yard.stage("model", make=weights), yard.stage("answers", make=read, w="model/weights/")]
    outcomes = yard.build(stages)
    assert yard.read(outcomes["answers"].outputs["out"]) == b"{}ww"
    yard.build(stages)
    assert yard.ran == []
    assert list((yard.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"weights": Path("/tmp")}, "output 'weights': a folder's name ends in '/', and no other's does"),
        ({"weights/": b"bytes"}, "output 'weights/': a folder's name ends in '/', and no other's does"),
    ],
)
def test_a_folders_name_ends_in_a_slash(yard, outputs, text):
    outcome = yard.build([yard.stage("a", make=lambda _: outputs)])["a"]
    assert outcome.status == "failed"
    assert str(outcome.error) == text


def test_a_link_in_a_folder_is_refused(yard):
    def weights(ctx):
        folder = ctx.scratch / "weights"
        folder.mkdir()
        (folder / "link").symlink_to("/etc/hostname")
        return {"weights/": folder}

    error = yard.build([yard.stage("a", make=weights)])["a"].error
    assert isinstance(error, EngineError)
    assert error.message.endswith("/weights/link is neither a file nor a folder, so it cannot be stored")


# -- failures --------------------------------------------------------------------------------------------------------


def fail(_ctx):
    raise RuntimeError("no such luck")


def test_a_failure_fails_its_dependents_only_with_keep_going(yard):
    def stages(make):
        return [
            yard.stage("a", make=make),
            yard.stage("b", a="a"),
            yard.stage("c", b="b"),
            yard.stage("d"),
            yard.stage("e", d="d"),
        ]

    outcomes = yard.build(stages(fail), keep_going=True)
    assert yard.ran == ["a", "d", "e"]
    assert status(outcomes) == {"a": "failed", "b": "blocked", "c": "blocked", "d": "ran", "e": "ran"}
    assert str(outcomes["a"].error) == "no such luck"
    assert (outcomes["b"].blocked_by, outcomes["c"].blocked_by) == ("a", "b")

    yard.build(stages(None), keep_going=True)
    assert yard.ran == ["a", "b", "c"]


def test_without_keep_going_nothing_new_begins_after_a_failure_and_what_runs_is_finished(yard):
    failed = asyncio.Event()

    async def late(_ctx):
        await failed.wait()
        await asyncio.sleep(0)
        return b"late"

    def fail_now(ctx):
        failed.set()
        fail(ctx)

    stages = [yard.stage("late", make=late), yard.stage("a", make=fail_now), yard.stage("after", x="late")]
    outcomes = yard.build(stages)
    assert yard.ran == ["late", "a"]
    assert status(outcomes) == {"late": "ran", "a": "failed", "after": "stopped"}

    failed.clear()
    stages = [yard.stage("late", make=late), yard.stage("a"), yard.stage("after", x="late")]
    yard.build(stages)
    assert sorted(yard.ran) == ["a", "after"]


def test_what_is_up_to_date_stays_so_beside_a_failure(yard):
    yard.build([yard.stage("a"), yard.stage("b", a="a")])
    stages = [yard.stage("bad", make=fail), yard.stage("a"), yard.stage("b", a="a")]
    assert status(yard.build(stages)) == {"bad": "failed", "a": "up to date", "b": "up to date"}


def test_an_output_that_nobody_makes_fails_who_reads_it(yard):
    stages = [yard.stage("a"), yard.stage("b", x="a/other"), yard.stage("c", b="b"), yard.stage("d")]
    outcomes = yard.build(stages, keep_going=True)
    assert status(outcomes) == {"a": "ran", "b": "failed", "c": "blocked", "d": "ran"}
    assert isinstance(outcomes["b"].error, EngineError)
    assert outcomes["b"].error.message == "stage a made no output 'other', which b reads"


def test_a_failed_stage_leaves_no_trace_and_no_scratch(yard):
    def litter(ctx):
        (ctx.scratch / "half").write_bytes(b"half")
        fail(ctx)

    yard.build([yard.stage("a", make=litter)])
    assert list((yard.root / "tmp").iterdir()) == []
    yard.build([yard.stage("a", make=litter)])
    assert yard.ran == ["a"]


def test_a_stage_that_cancels_itself_fails_and_does_not_look_like_ctrl_c(yard):
    async def cancels(_ctx):
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    outcomes = yard.build([yard.stage("a", make=cancels), yard.stage("b")], keep_going=True)
    assert status(outcomes) == {"a": "failed", "b": "ran"}
    assert str(outcomes["a"].error) == "stage a ended in a cancellation that nobody asked for"


def test_a_listener_that_fails_is_heard_of_and_what_was_done_is_kept(yard):
    class Broken(Listener):
        def stage_finished(self, outcome):
            if outcome.stage == "b":
                raise ZeroDivisionError

    stages = [yard.stage("a"), yard.stage("b", a="a"), yard.stage("c", b="b")]
    with pytest.raises(ZeroDivisionError):
        yard.build(stages, listener=Broken())
    yard.build(stages)
    assert yard.ran == ["c"]


# -- the other grain: calls ------------------------------------------------------------------------------------------


def test_calls_are_made_once_and_replayed_when_their_stage_runs_again(yard):
    def stages(version):
        return [yard.stage("a", make=yard.asking("one", "two", "three"), version=version)]

    outcomes = yard.build(stages(1))
    assert sorted(yard.made) == ["one", "three", "two"]
    assert (outcomes["a"].calls_made, outcomes["a"].calls_replayed) == (3, 0)

    yard.build(stages(1))
    assert (yard.ran, yard.made) == ([], [])

    outcomes = yard.build(stages(2))
    assert (yard.ran, yard.made) == (["a"], [])
    assert (outcomes["a"].calls_made, outcomes["a"].calls_replayed) == (0, 3)
    assert yard.read(outcomes["a"].outputs["out"]) == b"ONE TWO THREE"


def test_only_new_calls_are_made(yard):
    yard.build([yard.stage("a", make=yard.asking("one", "two"), params={"count": 2})])
    yard.build([yard.stage("a", make=yard.asking("one", "two", "three", "four"), params={"count": 4})])
    assert sorted(yard.made) == ["four", "three"]
    yard.build([yard.stage("a", make=yard.asking("two"), params={"count": 1})])
    assert yard.made == []


def test_the_same_question_with_another_draw_is_another_call(yard):
    yard.build([yard.stage("a", make=yard.asking("one"))])
    yard.build([yard.stage("a", make=yard.asking("one", draw=1), version=2)])
    assert yard.made == ["one"]


def test_the_same_call_asked_twice_at_once_is_made_once(yard):
    async def twice(ctx):
        return b" ".join(await asyncio.gather(*(yard.call(ctx, "one") for _ in range(2))))

    stages = [yard.stage("a", make=twice), yard.stage("b", make=twice)]
    outcomes = yard.build(stages)
    assert yard.made == ["one"]
    assert {yard.read(one.outputs["out"]) for one in outcomes.values()} == {b"ONE ONE"}
    assert sum(one.calls_made for one in outcomes.values()) == 1
    assert sum(one.calls_replayed for one in outcomes.values()) == 3


def test_a_call_asked_for_by_two_stages_survives_that_the_first_gives_it_up(yard):
    begun = asyncio.Event()

    async def gives_up(ctx):
        task = asyncio.ensure_future(yard.call(ctx, "one", wait=asyncio.Event()))
        await begun.wait()
        task.cancel()
        return b"without"

    async def wants(ctx):
        while not yard.made:
            await asyncio.sleep(0)
        asking = asyncio.ensure_future(yard.call(ctx, "one"))
        await asyncio.sleep(0)
        begun.set()
        return await asking

    outcomes = yard.build([yard.stage("a", make=gives_up), yard.stage("b", make=wants)])
    assert status(outcomes) == {"a": "ran", "b": "ran"}
    assert yard.read(outcomes["b"].outputs["out"]) == b"ONE"
    assert yard.made == ["one", "one"]


def test_a_call_that_fails_fails_everybody_who_waits_for_it_and_is_made_anew_next_time(yard):
    async def ask(ctx):
        async def perform():
            yard.made.append("one")
            await asyncio.sleep(0)
            raise ConnectionError("no route")

        return (await ctx.call(yard.ask("one"), perform)).reply

    outcomes = yard.build([yard.stage("a", make=ask), yard.stage("b", make=ask)], keep_going=True)
    assert status(outcomes) == {"a": "failed", "b": "failed"}
    assert {str(one.error) for one in outcomes.values()} == {"no route"}
    assert yard.made == ["one"]
    yard.build([yard.stage("a", make=yard.asking("one"))])
    assert yard.made == ["one"]


@pytest.mark.parametrize("keep_going", [False, True])
def test_when_a_call_fails_those_in_flight_are_finished_and_the_rest_is_not_begun(yard, keep_going):
    failed = asyncio.Event()

    async def make(ctx):
        async def perform():
            yard.made.append("bad")
            await asyncio.sleep(0)
            failed.set()
            raise ConnectionError("no route")

        # -j 3: `bad`, `one` and `two` are in flight, the others wait.
        flying = [
            ctx.call(yard.ask("bad"), perform),
            *(yard.call(ctx, name, wait=failed) for name in ("one", "two")),
        ]
        return b" ".join(await asyncio.gather(*flying, *(yard.call(ctx, name) for name in others)))

    others = [f"other {n}" for n in range(10)]
    outcome = yard.build([yard.stage("a", make=make)], jobs=3, keep_going=keep_going)["a"]
    # Their places are free for a moment before the stage hears of the failure: as many may slip in, no more.
    assert yard.made[:3] == ["bad", "one", "two"]
    assert len(yard.made) <= 6
    assert (outcome.status, outcome.calls_made) == ("failed", len(yard.made) - 1)
    left = {"one", "two", *others} - set(yard.made)
    yard.build([yard.stage("a", make=yard.asking("one", "two", *others))])
    assert set(yard.made) == left


def test_while_a_failed_stages_calls_are_finished_no_other_stage_begins_one(yard):
    failed, tried = asyncio.Event(), asyncio.Event()

    async def bad(ctx):
        slow = asyncio.ensure_future(yard.call(ctx, "slow", wait=tried))
        while not yard.made:
            await asyncio.sleep(0)
        failed.set()
        del slow
        fail(ctx)

    async def other(ctx):
        await failed.wait()
        await asyncio.sleep(0)
        try:
            return await yard.call(ctx, "new")
        finally:
            tried.set()

    outcomes = yard.build([yard.stage("bad", make=bad), yard.stage("other", make=other)])
    assert status(outcomes) == {"bad": "failed", "other": "stopped"}
    assert yard.made == ["slow"]
    assert outcomes["bad"].calls_made == 1


def test_a_stopping_build_still_replays_what_is_recorded(yard):
    failed = asyncio.Event()

    async def replays(ctx):
        await failed.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        return await yard.call(ctx, "one")

    def bad(ctx):
        failed.set()
        fail(ctx)

    yard.build([yard.stage("a", make=yard.asking("one"))])
    outcomes = yard.build([yard.stage("a", make=replays, version=2), yard.stage("bad", make=bad)])
    assert status(outcomes) == {"a": "ran", "bad": "failed"}


@pytest.mark.parametrize("forgives", [Exception, BaseException])
def test_a_stage_that_forgives_failures_does_not_take_the_end_of_the_build_for_one(yard, forgives):
    failed = asyncio.Event()

    async def forgiving(ctx):
        await failed.wait()
        while "bad: failed" not in yard.heard.finished:
            await asyncio.sleep(0)
        (reply,) = await asyncio.gather(yard.call(ctx, "one"), return_exceptions=forgives is BaseException)
        try:
            if isinstance(reply, BaseException):
                raise reply
        except forgives:
            return b"nothing"

    def bad(ctx):
        failed.set()
        fail(ctx)

    outcomes = yard.build([yard.stage("a", make=forgiving), yard.stage("bad", make=bad)])
    assert status(outcomes) == {"a": "stopped", "bad": "failed"}
    assert yard.made == []


def test_a_stage_may_forgive_a_failing_call(yard):
    async def forgiving(ctx):
        async def perform():
            raise ConnectionError("no route")

        try:
            return (await ctx.call(yard.ask("one"), perform)).reply
        except ConnectionError:
            return b"none"

    outcome = yard.build([yard.stage("a", make=forgiving)])["a"]
    assert (outcome.status, outcome.calls_made, outcome.calls_replayed) == ("ran", 0, 0)


def test_one_job_makes_one_call_at_a_time_and_gives_the_same_as_64(yard, tmp_path):
    now, most = 0, 0

    async def make(ctx):
        async def perform(text):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            return text.encode(), {}

        names = [f"q{n}" for n in range(20)]
        called = await asyncio.gather(
            *(ctx.call(yard.ask(name), lambda n=name: perform(n)) for name in names)
        )
        return b",".join(each.reply for each in called)

    stages = [yard.stage("a", make=make), yard.stage("b", make=yard.asking("x", "y"), a="a")]
    one = yard.build(stages, jobs=1)
    assert most == 1
    many = type(yard)(tmp_path / "another").build(stages, jobs=64)
    assert most == 20
    assert {name: (o.action, o.outputs) for name, o in one.items()} == {
        name: (o.action, o.outputs) for name, o in many.items()
    }


def test_large_replies_are_kept_as_files(yard):
    stages = [yard.stage("a", make=yard.asking("one", reply=b"r" * LARGE))]
    outcomes = yard.build(stages)
    assert yard.object(of_bytes(b"r" * LARGE)).stat().st_size == LARGE
    assert yard.read(outcomes["a"].outputs["out"]) == b"r" * LARGE
    yard.build([yard.stage("a", make=yard.asking("one"), version=2)])
    assert yard.made == []


def test_the_trace_says_how_it_came_about(yard):
    stages = [yard.stage("a", make=yard.asking("one", "two"))]
    action = yard.build(stages, environment={"python": "3.x"})["a"].action
    with yard.open() as store:
        trace = store.find(action)
        assert trace is not None
        record = dict(trace.record)
        calls = store.read(record["calls"])
    assert calls.decode().count('"') == 4
    assert record["environment"] == {"python": "3.x"}
    assert (record["calls_made"], record["calls_replayed"], record["previous"]) == (2, 0, None)
    assert {"started", "seconds", "made"} <= record.keys()


# -- cancellation ----------------------------------------------------------------------------------------------------


def test_ctrl_c_drops_what_is_in_flight_and_keeps_what_is_finished(yard):
    never = asyncio.Event()

    async def make(ctx):
        await asyncio.gather(
            yard.call(ctx, "one"), yard.call(ctx, "two"), yard.call(ctx, "three", wait=never)
        )

    async def cancelled(running):
        task = asyncio.ensure_future(running)
        while len(yard.heard.durable_calls) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        await task

    stages = [yard.stage("before"), yard.stage("a", make=make, x="before"), yard.stage("after", a="a")]
    with pytest.raises(asyncio.CancelledError):
        yard.build(stages, within=cancelled)
    assert yard.ran == ["before", "a"]
    assert list((yard.root / "tmp").iterdir()) == []

    stages[1] = yard.stage("a", make=yard.asking("one", "two", "three"), x="before")
    yard.build(stages)
    assert (yard.ran, yard.made) == (["a", "after"], ["three"])


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584])
def test_a_reply_that_arrived_is_kept_at_whatever_step_the_build_is_cancelled(yard, steps):
    arrived = []

    async def make(ctx):
        async def perform(name):
            await asyncio.sleep(0)
            arrived.append(name)
            return name.encode(), {}

        names = [f"q{n}" for n in range(8)]
        called = await asyncio.gather(
            *(ctx.call(yard.ask(name), lambda n=name: perform(n)) for name in names)
        )
        return b"".join(each.reply for each in called)

    async def cancelled(running):
        task = asyncio.ensure_future(running)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    yard.build([yard.stage("a", make=make)], jobs=3, within=cancelled)
    with yard.open() as store:
        assert [name for name in arrived if store.find(yard.ask(name).digest) is None] == []
    first, arrived[:] = list(arrived), []
    outcomes = yard.build([yard.stage("a", make=make)])
    assert not set(first) & set(arrived)
    assert yard.read(outcomes["a"].outputs["out"]) == b"q0q1q2q3q4q5q6q7"


def test_a_cancelled_build_lets_go_of_a_call_only_when_its_reply_is_there_for_others(yard):
    yard.open().close()
    holder = sqlite3.connect(yard.root / "store.db", isolation_level=None)

    async def cancelled(running):
        task = asyncio.ensure_future(running)
        while not yard.made:
            await asyncio.sleep(0)
        holder.execute("BEGIN IMMEDIATE")  # the commit has to wait
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        holder.execute("ROLLBACK")
        await asyncio.wait([task])
        with yard.open() as store:
            assert store.find(yard.ask("one").digest) is not None
        await task

    with pytest.raises(asyncio.CancelledError):
        yard.build([yard.stage("a", make=yard.asking("one", wait=0.01))], within=cancelled)
    holder.close()


# -- damage ----------------------------------------------------------------------------------------------------------


def remove_blob(yard, digest):
    yard.object(digest).unlink(missing_ok=True)
    with yard.open() as store:
        store._write([("DELETE FROM blobs WHERE digest = ?", (digest,))]).result()


def flip_blob(yard, digest):
    path = yard.object(digest)
    if path.exists():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
        return
    with yard.open() as store:
        data = bytearray(store.read(digest))
        data[len(data) // 2] ^= 1
        store._write([("UPDATE blobs SET data = ? WHERE digest = ?", (bytes(data), digest))]).result()


def truncate_blob(yard, digest):
    path = yard.object(digest)
    if path.exists():
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.truncate(1000)
        return
    with yard.open() as store:
        store._write([("UPDATE blobs SET data = ? WHERE digest = ?", (b"", digest))]).result()


SIZES = [pytest.param(10, id="inline"), pytest.param(LARGE, id="large")]


@pytest.mark.parametrize("size", SIZES)
def test_a_missing_output_is_noticed_and_made_again(yard, size):
    stages = [yard.stage("a", make=lambda _: b"a" * size), yard.stage("b", a="a")]
    digest = yard.build(stages)["a"].outputs["out"]
    remove_blob(yard, digest)
    assert yard.plan(stages)["a"].status == "stale"
    outcomes = yard.build(stages)
    assert yard.ran == ["a"]
    assert why(outcomes, "a") == ["its recorded outputs are gone from the store, or damaged"]
    assert yard.read(digest) == b"a" * size
    yard.build(stages)
    assert yard.ran == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("damage", [flip_blob, truncate_blob])
def test_a_damaged_output_is_named_when_it_is_read_and_made_again(yard, size, damage):
    def stages(version):
        return [
            yard.stage("a", make=lambda _: b"a" * size),
            yard.stage("b", a="a", make=lambda ctx: ctx.read("a")[:1], version=version),
            yard.stage("c", b="b"),
        ]

    digest = yard.build(stages(1))["a"].outputs["out"]
    damage(yard, digest)
    outcomes = yard.build(stages(2))
    assert yard.heard.notes == [
        f"stored blob {digest[:12]} does not hash to its name; rebuilding what made it",
    ]
    assert yard.ran == ["b", "a", "b"]
    assert status(outcomes) == {"a": "ran", "b": "ran", "c": "up to date"}
    assert yard.read(digest) == b"a" * size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("damage", [remove_blob, flip_blob, truncate_blob])
def test_a_damaged_reply_is_named_and_asked_for_again(yard, size, damage):
    def stages(version):
        return [yard.stage("a", make=yard.asking("one", reply=b"r" * size), version=version)]

    yard.build(stages(1))
    damage(yard, of_bytes(b"r" * size))
    outcomes = yard.build(stages(2), "a")
    call = yard.ask("one").digest[:12]
    assert yard.heard.notes == [
        f"a: the recorded reply of call {call} is gone from the store, or damaged; asking again"
    ]
    assert yard.made == ["one"]
    assert outcomes["a"].status == "ran"
    yard.build(stages(3))
    assert (yard.made, yard.heard.notes) == ([], [])


def test_any_number_of_damaged_inputs_is_repaired_in_one_build(yard):
    def stages(version):
        letters = "abcdef"
        sources = [
            yard.stage(letter, make=lambda _, letter=letter: letter.encode() * LARGE) for letter in letters
        ]
        last = yard.stage(
            "last",
            version=version,
            make=lambda ctx: b"".join(ctx.read(x)[:1] for x in letters),
            **{letter: letter for letter in letters},
        )
        return [*sources, last]

    first = yard.build(stages(1))
    for letter in "abcdef":
        flip_blob(yard, first[letter].outputs["out"])
    outcomes = yard.build(stages(2))
    assert set(status(outcomes).values()) == {"ran"}
    assert yard.read(outcomes["last"].outputs["out"]) == b"abcdef"


@pytest.mark.parametrize("damage", [remove_blob, flip_blob, truncate_blob])
def test_a_damaged_file_of_a_folder_is_noticed_before_anybody_reads_the_folder(yard, damage):
    content = b"w" * LARGE

    def weights(ctx):
        folder = ctx.scratch / "weights"
        folder.mkdir()
        (folder / "model").write_bytes(content)
        return {"weights/": folder}

    async def read(ctx):
        return (await ctx.folder("w") / "model").read_bytes()[-2:]

    def stages(version):
        return [
            yard.stage("model", make=weights),
            yard.stage("b", make=read, version=version, w="model/weights/"),
        ]

    yard.build(stages(1))
    damage(yard, of_bytes(content))
    outcomes = yard.build(stages(2))
    assert status(outcomes) == {"model": "ran", "b": "ran"}
    assert yard.read(outcomes["b"].outputs["out"]) == b"ww"
    assert yard.read(of_bytes(content)) == content


def test_a_checked_out_folder_that_lost_a_file_is_laid_out_again(yard):
    def weights(ctx):
        folder = ctx.scratch / "weights"
        folder.mkdir()
        for name in ("config.json", "model"):
            (folder / name).write_bytes(name.encode())
        return {"weights/": folder}

    async def read(ctx):
        folder = await ctx.folder("w")
        return b" ".join(sorted(path.read_bytes() for path in folder.iterdir()))

    def stages(version):
        return [
            yard.stage("model", make=weights),
            yard.stage("b", make=read, version=version, w="model/weights/"),
        ]

    yard.build(stages(1))
    next((yard.root / "trees").glob("*/model")).unlink()
    outcomes = yard.build(stages(2))
    assert yard.ran == ["b"]
    assert yard.read(outcomes["b"].outputs["out"]) == b"config.json model"


@pytest.mark.parametrize("column", ["outputs", "record", "seal"])
def test_a_flipped_byte_in_a_traces_row_is_noticed_and_the_stage_runs_again(yard, column):
    stages = [yard.stage("a"), yard.stage("b", a="a")]
    action = yard.build(stages)["a"].action
    with yard.open() as store:
        (text,) = store._rows(f"SELECT {column} FROM traces WHERE action = ?", action)[0]
        text = text.replace(text[5], chr(ord(text[5]) ^ 1), 1)
        store._write([(f"UPDATE traces SET {column} = ? WHERE action = ?", (text, action))]).result()
    outcomes = yard.build(stages)
    assert yard.ran == ["a"]
    assert why(outcomes, "a") == ["its recorded outputs are gone from the store, or damaged"]
    yard.build(stages)
    assert yard.ran == []


def test_a_flipped_byte_in_a_calls_trace_is_named_and_the_call_made_again(yard):
    yard.build([yard.stage("a", make=yard.asking("one", "two"))])
    call = yard.ask("one").digest
    with yard.open() as store:
        store._write(
            [("UPDATE traces SET record = replace(record, 't', 'T') WHERE action = ?", (call,))]
        ).result()
    yard.build([yard.stage("a", make=yard.asking("one", "two"), version=2)])
    assert yard.made == ["one"]
    assert yard.heard.notes == [
        f"a: the recorded reply of call {call[:12]} is gone from the store, or damaged; asking again"
    ]


def test_an_actions_damaged_body_costs_an_explanation_until_a_build_puts_it_back(yard):
    def stages(text):
        return [yard.stage("a", x=yard.source("x.txt", text))]

    def spoil(action):
        with yard.open() as store:
            store._write([("UPDATE actions SET body = X'7B' WHERE digest = ?", (action,))]).result()

    spoil(yard.build(stages("one"))["a"].action)
    outcomes = yard.build(stages("two"))
    assert why(outcomes, "a") == ["never built"]
    spoil(outcomes["a"].action)
    yard.build(stages("two"))
    assert yard.ran == []
    assert why(yard.build(stages("three")), "a") == ["x.txt changed"]


def test_a_lost_source_is_put_back_by_a_build_that_is_up_to_date(yard):
    stages = [yard.stage("a", x=yard.source("x.txt", "text"))]
    yard.build(stages)
    with yard.open() as store:
        store.discard(of_bytes(b"text"))
    yard.build(stages)
    assert yard.ran == []
    assert yard.read(of_bytes(b"text")) == b"text"


def test_damage_that_comes_back_is_reported_as_the_stages_failure(yard):
    def spoiled(ctx):
        raise Damaged("f" * 64, "does not hash to its name")

    outcomes = yard.build([yard.stage("a", make=spoiled), yard.stage("b", a="a")])
    assert status(outcomes) == {"a": "failed", "b": "blocked"}
    assert str(outcomes["a"].error) == "stored blob ffffffffffff does not hash to its name"
    assert yard.ran == ["a", "a"]


# -- the house -------------------------------------------------------------------------------------------------------


def test_the_engine_imports_nothing_of_the_package_outside_its_folder():
    allowed = {*sys.stdlib_module_names, "rfc8785"}
    for path in Path(charforge.engine.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}: relative imports hide where they lead"
                names = [node.module or ""]
            else:
                continue
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith("charforge.engine"), (
                    f"{path.name}: {name}"
                )


def test_every_status_has_a_word_of_its_own():
    words = [
        stale.UP_TO_DATE,
        engine.RAN,
        engine.FAILED,
        engine.BLOCKED,
        engine.STOPPED,
        stale.STALE,
        stale.UNKNOWN,
    ]
    assert len(set(words)) == len(words)


# -- what a run keeps for the next -----------------------------------------------------------------------------------


def training(yard, text, *, breaks):
    """A stage that goes on from what it kept, and breaks off after `breaks` steps."""

    def train(ctx):
        ctx.kept.mkdir(parents=True, exist_ok=True)
        done = len(list(ctx.kept.iterdir()))
        for step in range(done, 4):
            if step == breaks:
                raise RuntimeError("killed")
            yard.made.append(f"step {step}")
            (ctx.kept / str(step)).write_text("state")
        return b"trained"

    return [yard.stage("model", make=train, x=yard.source("x.txt", text))]


def test_a_run_goes_on_from_what_the_failed_one_before_kept(yard):
    assert yard.build(training(yard, "a", breaks=2))["model"].status == engine.FAILED
    assert yard.made == ["step 0", "step 1"]
    assert yard.build(training(yard, "a", breaks=None))["model"].status == engine.RAN
    assert yard.made == ["step 2", "step 3"]
    assert list((yard.root / "kept").iterdir()) == []


def test_what_one_action_kept_is_not_shown_to_another(yard):
    yard.build(training(yard, "a", breaks=2))
    yard.build(training(yard, "b", breaks=None))
    assert yard.made == ["step 0", "step 1", "step 2", "step 3"]
