"""Garbage collection removes what no root reaches, and nothing else."""

from __future__ import annotations

import pytest

from charforge.engine import gc
from charforge.engine.digest import of_bytes
from charforge.engine.errors import EngineError
from charforge.engine.store import INLINE_LIMIT

LARGE = 2 * INLINE_LIMIT


def character(yard, text):
    """A source, a stage with calls (one large reply), a stage that makes a folder, and one that reads it."""

    def weights(ctx):
        folder = ctx.scratch / "weights"
        folder.mkdir()
        (folder / "model").write_bytes(ctx.read("a") + b"w" * LARGE)
        (folder / "config.json").write_bytes(b"{}")
        return {"weights/": folder}

    async def answers(ctx):
        return (await ctx.folder("w") / "model").read_bytes()[:20]

    async def ask(ctx):
        question = ctx.read("x").decode()
        large = await yard.call(ctx, f"{question} large", reply=question.encode() * LARGE)
        return await yard.call(ctx, question) + large[:4]

    return [
        yard.stage("a", make=ask, x=yard.source("x.txt", text)),
        yard.stage("model", make=weights, a="a"),
        yard.stage("answers", make=answers, w="model/weights/"),
    ]


def collect(yard, outcomes, *, dry_run=False):
    roots = [outcome.action for outcome in outcomes.values()]
    with yard.open() as store:
        return gc.collect(store, roots, dry_run=dry_run)


def contents(yard):
    with yard.open() as store:
        actions, blobs = set(store.all_actions()), {digest for digest, _ in store.inline_blobs()}
        return actions, blobs, {digest for digest, _ in store.objects()}


def whole_build_from_nothing_but_the_store(yard, text):
    yard.build(character(yard, text))
    assert (yard.ran, yard.made) == ([], [])
    stages = character(yard, text)
    again = [
        type(stage)(stage.name, stage.kind, 2, stage.params, stage.inputs, stage.run) for stage in stages
    ]
    yard.build(again)
    assert yard.ran[0] == "a"
    assert yard.made == []


def test_what_the_roots_reach_is_kept_calls_and_trees_and_sources(yard):
    outcomes = yard.build(character(yard, "one"))
    before = contents(yard)
    swept = collect(yard, outcomes)
    assert swept == gc.Swept(0, 0, 0)
    assert contents(yard) == before
    with yard.open() as store:
        assert store.read(of_bytes(b"one")) == b"one", "what was read travels with the trace"
    whole_build_from_nothing_but_the_store(yard, "one")


def test_what_no_root_reaches_goes_and_the_rest_stays(yard):
    first = yard.build(character(yard, "one"))
    only_first = contents(yard)
    second = yard.build(character(yard, "two"))
    swept = collect(yard, second)
    # Three stages and two calls. Of blobs: the source, the short reply, the list of calls, a's and the answers'
    # output, the manifest; and of large ones the reply and the model. The config is in both trees.
    assert (swept.actions, swept.blobs) == (5, 8)
    assert swept.bytes > 3 * LARGE
    actions, _inline, objects = contents(yard)
    gone = {outcome.action for outcome in first.values()}
    assert not gone & actions
    assert not objects & {of_bytes(b"one" * LARGE)}
    assert of_bytes(b"{}") in objects
    assert len(actions) == 5
    whole_build_from_nothing_but_the_store(yard, "two")
    yard.build(character(yard, "one"))
    assert yard.ran == ["a", "model", "answers"]
    assert sorted(yard.made) == ["one", "one large"]
    assert only_first[0] <= contents(yard)[0]


def test_the_calls_of_a_stage_that_has_yet_to_finish_are_kept(yard):
    async def fails(ctx):
        await yard.call(ctx, "one")
        raise RuntimeError

    outcome = yard.build([yard.stage("a", make=fails)])["a"]
    with yard.open() as store:
        assert gc.collect(store, [outcome.action], unfinished=["another"], dry_run=True).actions == 1
        assert gc.collect(store, [outcome.action], unfinished=["a"], dry_run=False) == gc.Swept(0, 0, 0)
    yard.build([yard.stage("a", make=yard.asking("one"))])
    assert yard.made == []


def test_a_dry_run_says_the_same_and_removes_nothing(yard):
    yard.build(character(yard, "one"))
    second = yard.build(character(yard, "two"))
    before = contents(yard)
    would = collect(yard, second, dry_run=True)
    assert contents(yard) == before
    assert collect(yard, second) == would
    assert collect(yard, second) == gc.Swept(0, 0, 0)


def test_the_file_gets_smaller(yard):
    yard.build([yard.stage("a", make=yard.asking(*(f"q{n}" for n in range(50)), reply=b"r" * INLINE_LIMIT))])
    before = (yard.root / "store.db").stat().st_size
    with yard.open() as store:
        gc.collect(store, [], dry_run=False)
    assert (yard.root / "store.db").stat().st_size < before
    assert contents(yard) == (set(), set(), set())


def test_no_roots_remove_everything_and_the_next_build_makes_it_again(yard):
    yard.build(character(yard, "one"))
    with yard.open() as store:
        gc.collect(store, [], dry_run=False)
    outcomes = yard.build(character(yard, "one"))
    assert yard.ran == ["a", "model", "answers"]
    assert outcomes["a"].reasons == [{"kind": "never"}]
    assert list((yard.root / "trees").iterdir()) != []


def test_checked_out_folders_that_nothing_reaches_go_too(yard):
    yard.build(character(yard, "one"))
    second = yard.build(character(yard, "two"))
    assert len(list((yard.root / "trees").iterdir())) == 2
    collect(yard, second)
    assert [folder.name for folder in (yard.root / "trees").iterdir()] == [
        second["model"].outputs["weights/"]
    ]


def test_an_unknown_root_is_no_harm(yard):
    yard.build(character(yard, "one"))
    with yard.open() as store:
        swept = gc.collect(store, ["f" * 64], dry_run=True)
    assert swept.actions == 5


def test_a_root_whose_blobs_are_damaged_is_no_harm(yard):
    outcomes = yard.build(character(yard, "one"))
    with yard.open() as store:
        trace = store.find(outcomes["a"].action)
        store.discard(trace.record["calls"])
        store.discard(outcomes["model"].outputs["weights/"])
    collect(yard, outcomes)
    yard.build(character(yard, "one"))
    assert yard.ran == ["a", "model"]
    assert yard.made == [], "which replies are its nobody can say, so all of them stay"


def test_it_refuses_while_another_process_has_the_store_open(yard):
    # Another opening of the file counts as another process: the lock belongs to the opening.
    yard.build([yard.stage("a")])
    with yard.open() as other:
        with yard.open() as store, pytest.raises(EngineError) as caught:
            gc.collect(store, [], dry_run=True)
        assert caught.value.message == "another process is using the store"
        assert caught.value.hint == "run gc again when it has finished"
        assert len(list(other.all_actions())) == 1
    with yard.open() as store:
        assert gc.collect(store, [], dry_run=False).actions == 1


def test_after_gc_the_store_is_held_as_before(yard):
    with yard.open() as store:
        gc.collect(store, [], dry_run=False)
        with yard.open() as other, pytest.raises(EngineError):
            gc.collect(other, [], dry_run=False)


def test_what_an_unfinished_run_kept_stays_as_long_as_its_action_is_a_root(yard):
    def fail(ctx):
        ctx.kept.mkdir(parents=True)
        (ctx.kept / "checkpoint").write_bytes(b"c" * LARGE)
        raise RuntimeError("killed")

    outcome = yard.build([yard.stage("model", make=fail)])["model"]
    assert collect(yard, {}, dry_run=True).bytes == LARGE
    with yard.open() as store:
        gc.collect(store, [outcome.action], dry_run=False)
        assert [folder.name for folder in store.all_kept()] == [outcome.action]
        swept = gc.collect(store, [], dry_run=False)
        assert (swept.blobs, swept.bytes) == (1, LARGE)
        assert store.all_kept() == []
