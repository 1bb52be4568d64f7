"""The store under abuse: cut, flipped or lost bytes are never taken for whole, and a rebuild ends as if nothing had been.

What is tried is a sample by seed. `CHARFORGE_EXHAUSTIVE=1` tries every byte of what is cut, and thousands of flipped bits.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from charforge.engine import receipt, view
from charforge.engine.build import RAN, Build
from charforge.engine.claims import Claims
from charforge.engine.digest import of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.graph import Graph
from charforge.engine.stale import UP_TO_DATE
from charforge.engine.store import INLINE_LIMIT, Store

EXHAUSTIVE = bool(os.environ.get("CHARFORGE_EXHAUSTIVE"))
QUESTIONS = [f"q{n}" for n in range(7)]
BIG = {"q2": INLINE_LIMIT, "q4": INLINE_LIMIT + 5}
ATTEMPTS = 4


def report(*words: object) -> None:
    """Say what an exhaustive run has tried: `pytest -s` shows it."""
    print(*words)  # noqa: T201


class Small:
    """A small store of everything a store holds, built with ten calls, and the view and the receipt of its build."""

    def __init__(self, yard, folder: Path) -> None:
        self.folder = folder
        self.yard = type(yard)(folder / "store")

    def stages(self):
        yard = self.yard

        async def scenes(ctx):
            replies = [
                await yard.call(
                    ctx, each, reply=(each.upper() * BIG.get(each, 1))[: BIG.get(each, 9)].encode()
                )
                for each in QUESTIONS
            ]
            return {"scenes": b"\n".join(reply[:2] for reply in replies), "long": b"".join(replies)}

        async def dialogues(ctx):
            return b"\n".join(
                [await yard.call(ctx, f"d{line.decode()}") for line in ctx.read("scenes").split()[:3]]
            )

        def model(ctx):
            weights = ctx.scratch / "weights"
            (weights / "deep").mkdir(parents=True)
            (weights / "deep" / "model").write_bytes(ctx.read("dialogues") * (INLINE_LIMIT // 8))
            (weights / "config.json").write_bytes(b"{}")
            return {"weights/": weights}

        async def report(ctx):
            folder = await ctx.folder("model")
            return of_bytes((folder / "deep" / "model").read_bytes() + ctx.read("profile")).encode()

        profile = yard.source("profile.md", "a life " * (INLINE_LIMIT // 7 + 1))
        return [
            yard.stage("scenes", make=scenes, profile=profile, prompt=yard.source("prompt", "Ask.")),
            yard.stage("dialogues", make=dialogues, scenes="scenes/scenes"),
            yard.stage("model", make=model, dialogues="dialogues"),
            yard.stage("report", make=report, model="model/weights/", profile=profile, l="scenes/long"),
        ]

    def build(self) -> tuple[dict[str, str], set[str]]:
        """Build as the command does. Returns the outputs and what became of the stages. Raises EngineError."""
        stages = self.stages()
        self.yard.ran, self.yard.made = [], []
        path = self.folder / "receipts" / "x.json"
        with Store(self.yard.root) as store, closing(Claims(store.root / "claims")) as claims:

            async def go():
                build = Build(store, claims, Graph(stages), listener=self.yard.heard)
                outcomes = await build.run([each.name for each in stages])
                for outcome in outcomes.values():
                    if outcome.error is not None:
                        raise outcome.error
                assert {each.status for each in outcomes.values()} <= {RAN, UP_TO_DATE}
                outputs = {
                    f"{name}/{key}": digest
                    for name, one in outcomes.items()
                    for key, digest in one.outputs.items()
                }
                paths = view.sync(store, self.folder / "build" / "x", outputs)
                stamps = receipt.Stamps()
                stamps.add_kept(paths)
                stamps.add_kept(store.files(outputs.items()))
                receipt.write(path, "key", stamps, {"outputs": outputs})
                return outputs, {each.status for each in outcomes.values()}

            async def twice():
                try:
                    return await go()
                except Damaged:  # an output that nothing in the graph reads, as the command does
                    return await go()

            return asyncio.run(twice())

    def shown(self) -> Mapping[str, bytes]:
        folder = self.folder / "build"
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Whole:
    """A finished small store, to be copied and broken."""

    def __init__(self, yard, folder: Path) -> None:
        self._yard = yard
        self._folder = folder
        self.small = Small(yard, folder / "whole")
        self.small.folder.mkdir()
        self.outputs, _ = self.small.build()
        assert len(self.small.yard.made) == 10
        self.trees = {digest for name, digest in self.outputs.items() if name.endswith("/")}
        self.shown = self.small.shown()
        # As a killed build leaves it: with its journal.
        self.killed = Small(yard, folder / "killed-whole")
        self.killed.folder.mkdir()
        with Store(self.killed.yard.root):
            self.killed.build()
            shutil.copytree(self.killed.folder, folder / "killed")
        self.killed = Small(yard, folder / "killed")

    def copy(self, small: Small) -> Small:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        shutil.copytree(small.folder, folder, dirs_exist_ok=True, symlinks=True)
        # A copy has links of its own between objects and trees.
        for tree in (folder / "store" / "trees").iterdir():
            shutil.rmtree(tree)
        shutil.rmtree(folder / "receipts", ignore_errors=True)
        return Small(self._yard, folder)

    def mends(self, small: Small, *, errors: int = 1) -> list[str]:
        """Build until it ends well, assert that it did so as if nothing had been, and return what it said before."""
        said: list[str] = []
        made: list[str] = []
        for _ in range(errors + 3):
            try:
                outputs, _ = small.build()
                made += small.yard.made
                self._check(small, outputs)
                break
            except Damaged:
                made += (
                    small.yard.made
                )  # in what no build reads, and found by whoever does: gc, the lock, an audit
            except EngineError as error:
                made += small.yard.made
                said.append(f"{error.message} / {error.hint}")
        else:
            raise AssertionError("; ".join(said) or "it is damaged time and again")
        assert len(said) <= errors, said
        small.build()
        assert (small.yard.ran, small.yard.made) == ([], [])
        small.yard.made = made
        shutil.rmtree(small.folder)
        return said

    def _check(self, small: Small, outputs: dict[str, str]) -> None:
        """Assert that everything is as in the undisturbed store. Raises Damaged."""
        assert outputs == self.outputs
        assert small.shown() == self.shown
        with Store(small.yard.root) as store:
            for name, digest in outputs.items():
                if name.endswith("/"):
                    store.checkout(digest)
                else:
                    store.read(digest)
            gone: list[str] = []
            for each in small.stages():
                action, _ = store.last(each.name) or ("", [])
                trace, body = store.find(action), store.action_body(action)
                assert trace is not None
                assert body is not None
                for digest in {*body["inputs"].values()} - self.trees:
                    store.read(digest)
                calls = store.calls_in(trace)
                gone += [each for each in calls if not (store.find(each) and store.action_body(each))]
                if set(gone) & set(calls):
                    store.unlist(trace)  # as the lock does, which names every reply
            if gone:
                raise Damaged(gone[0], "is a call whose reply is missing")


@pytest.fixture
def whole(yard, quick_path):
    return Whole(yard, quick_path)


# -- flipped bits ----------------------------------------------------------------------------------------------------


def flip(path: Path, at: int, bit: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def flips(small: Small, count: int, seed: int, only: str = ""):
    """Yield (file, byte, bit) by seed: each file has its share, and bytes that are not zero more than others."""
    random_ = random.Random(seed)
    files = {
        p.relative_to(small.folder): p.read_bytes() for p in sorted(small.folder.rglob("*")) if p.is_file()
    }
    files = {name: data for name, data in files.items() if data and only in name.as_posix()}
    files = {name: data for name, data in files.items() if not {"trees", "receipts"} & set(name.parts)}
    places = {name: [at for at, byte in enumerate(data) if byte] for name, data in files.items()}
    for number in range(count):
        name = list(files)[number % len(files)]
        at = random_.randrange(len(files[name]))
        if not files[name][at] and places[name] and random_.random() < 0.9:
            at = random_.choice(places[name])
        yield name, at, random_.randrange(8)


@pytest.mark.parametrize(
    ("state", "only", "few", "many"),
    [
        pytest.param("small", "", 60, 2000, id="every file"),
        pytest.param("small", "store/store.db", 80, 6000, id="database"),
        pytest.param("killed", "store/store.db-wal", 20, 3000, id="journal"),
        pytest.param("killed", "store/store.db-shm", 10, 1000, id="shared memory"),
    ],
)
def test_a_flipped_bit_is_never_taken_for_what_was_written(whole, state, only, few, many):
    small: Small = getattr(whole, state)
    said, made = Counter(), Counter()
    for name, at, bit in flips(small, many if EXHAUSTIVE else few, seed=6, only=only):
        copy = whole.copy(small)
        flip(copy.folder / name, at, bit)
        try:
            texts = whole.mends(copy)
        except BaseException as error:
            error.add_note(f"{name}, byte {at}, bit {bit}")
            raise
        said.update(texts)
        made[len(copy.yard.made)] += 1
    assert max(made) <= 1, "one bit costs one reply at most"
    report(only or "every file", "calls made again:", dict(made), "errors first:", sum(said.values()))


# -- cuts ------------------------------------------------------------------------------------------------------------


def commits(journal: Path) -> list[int]:
    """Return the lengths of a journal at which a commit ends."""
    data = journal.read_bytes()
    page = int.from_bytes(data[8:12], "big")
    ends = range(32 + 24 + page, len(data) + 1, 24 + page)
    return [end for end in ends if data[end - page - 20 : end - page - 16] != bytes(4)]


def contents(store: Store):
    """All that a store says, and none of it unchecked."""
    actions = sorted(store.all_actions())
    traces = [trace for action in actions for trace in store.observations(action)]
    blobs = sorted((digest, store.read(digest)) for digest, _ in store.inline_blobs())
    return (
        [(action, store.action_body(action)) for action in actions],
        traces,
        blobs,
        sorted(store.stages().items()),
    )


def lengths(first: int, last: int, few: int, seed: int = 6):
    """Every length from first to last, or by seed a few of them and the first and the last."""
    if EXHAUSTIVE:
        return range(first, last + 1)
    return sorted(
        {first, first + 1, last - 1, last, *random.Random(seed).choices(range(first, last + 1), k=few)}
    )


def cut(path: Path, length: int) -> None:
    path.chmod(0o644)
    os.truncate(path, length)


def test_the_journal_cut_at_any_byte_of_a_commit_ends_with_the_commit_before(whole, quick_path):
    journal = Path("store") / "store.db-wal"
    ends = commits(whole.killed.folder / journal)
    assert len(ends) > 12

    def left(length):
        copy = quick_path / "cut"
        copy.mkdir()
        for each in ("store.db", "store.db-wal"):
            shutil.copy(whole.killed.yard.root / each, copy / each)
        shutil.copytree(whole.killed.yard.root / "objects", copy / "objects")
        cut(copy / "store.db-wal", length)
        with Store(copy) as store:
            found = contents(store)
        shutil.rmtree(copy)
        return found

    expected = [left(end) for end in ends]
    tried = 0
    for before, end in [*pairwise(range(len(ends)))][-3:]:
        for length in lengths(ends[before] + 1, ends[end], 10):
            assert left(length) == expected[end if length == ends[end] else before], length
            tried += 1
    for end in random.Random(6).sample(ends, 8):
        copy = whole.copy(whole.killed)
        cut(copy.folder / journal, end - 1)
        assert whole.mends(copy, errors=0) == []
    report("lengths tried:", tried)


def test_the_database_cut_at_any_byte_is_mended_with_all_that_is_left_of_it(whole):
    path = Path("store") / "store.db"
    size = (whole.small.folder / path).stat().st_size
    random_ = random.Random(6)
    tried = (
        range(size - 1, 0, -29)
        if EXHAUSTIVE
        else [0, 1, 99, 4096, size - 1, *random_.sample(range(size), 20)]
    )
    made = {}
    for length in tried:
        copy = whole.copy(whole.small)
        cut(copy.folder / path, length)
        assert whole.mends(copy, errors=0) == [], length
        made[length] = len(copy.yard.made)
    assert made[size - 1] <= 1
    shorter = sorted(made.items())
    calls = (
        10 + 10
    )  # where the list of a stage's calls is gone, or one of them, they are asked for in one more build
    assert all(0 <= count <= calls for _, count in shorter)
    report("lengths tried:", len(made), "calls made again:", dict(Counter(made.values())))


def test_an_object_cut_at_any_byte_is_never_read_and_made_again(whole):
    newest = max(whole.small.yard.root.glob("objects/*/*"), key=lambda path: path.stat().st_mtime_ns)
    digest = newest.parent.name + newest.name
    name = newest.relative_to(whole.small.folder)
    size = newest.stat().st_size
    data = newest.read_bytes()
    copy = whole.copy(whole.small)
    with Store(copy.yard.root) as store:
        for length in lengths(0, size - 1, 40):
            (copy.folder / name).parent.mkdir(exist_ok=True)
            (copy.folder / name).unlink(missing_ok=True)
            (copy.folder / name).write_bytes(data[:length])
            with pytest.raises(Damaged):
                store.read(digest)
            assert not store.has(digest)
    for path in sorted(whole.small.yard.root.glob("objects/*/*")):
        for length in (0, 1, path.stat().st_size // 2, path.stat().st_size - 1):
            copy = whole.copy(whole.small)
            cut(copy.folder / path.relative_to(whole.small.folder), length)
            assert whole.mends(copy, errors=0) == []
            assert len(copy.yard.made) <= 1


# -- losses ----------------------------------------------------------------------------------------------------------


def test_whatever_is_lost_is_made_again(whole):
    random_ = random.Random(6)
    rounds = 2000 if EXHAUSTIVE else 60
    made = Counter()
    for number in range(rounds):
        copy = whole.copy(whole.small)
        share = random_.choice([0.02, 0.1, 0.5, 1.0])
        with closing(sqlite3.connect(copy.yard.root / "store.db")) as db, db:
            for table in ("blobs", "actions", "traces", "stages", "views"):
                key = db.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchone()[0]
                for (value,) in db.execute(f"SELECT {key} FROM {table}").fetchall():
                    if random_.random() < share:
                        db.execute(f"DELETE FROM {table} WHERE {key} = ?", (value,))
        for path in [*copy.yard.root.glob("objects/*/*"), *copy.folder.glob("build/**/*")]:
            if path.is_file() and random_.random() < share:
                path.unlink()
        for name in ("objects", "trees", "tmp", "claims", "users", "machine", "open.lock", "view.lock"):
            if random_.random() < share / 4:
                path = copy.yard.root / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        try:
            assert whole.mends(copy, errors=0) == []
        except BaseException as error:
            error.add_note(f"round {number}, share {share}")
            raise
        made[len(copy.yard.made)] += 1
    report("calls made again:", dict(sorted(made.items())))


def test_a_whole_build_is_done_again_after_all_is_lost(whole):
    copy = whole.copy(whole.small)
    shutil.rmtree(copy.yard.root)
    assert whole.mends(copy, errors=0) == []
    assert len(copy.yard.made) == 10


# -- what a null build does not look at ------------------------------------------------------------------------------


def test_bytes_that_rot_under_an_unchanged_status_are_noticed_by_whoever_reads_them(whole):
    for path in sorted(whole.small.yard.root.glob("objects/*/*")):
        copy = whole.copy(whole.small)
        copy.build()
        rotten = copy.folder / path.relative_to(whole.small.folder)
        status = rotten.stat()
        flip(rotten, status.st_size // 2, 0)
        rotten.chmod(0o444)
        os.utime(rotten, ns=(status.st_atime_ns, status.st_mtime_ns))
        says = receipt.read(copy.folder / "receipts" / "x.json", "key")
        assert says == {"outputs": whole.outputs}, "a null build reads nothing; it is the audit that finds it"
        with Store(copy.yard.root) as store, pytest.raises(Damaged):
            store.read(path.parent.name + path.name)
        assert whole.mends(copy, errors=0) == []
