"""Replay: what was made comes out again under every variation, and what is not so is found at its own stage."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import charforge
from charforge import cli, recording, skeleton
from charforge.audit import variations
from charforge.audit.finding import BIT_IDENTICAL, DIVERGENT, NOT_CHECKABLE
from charforge.audit.pieces import Pieces
from charforge.audit.replay import replay
from charforge.engine import lock
from charforge.engine.database import seal
from charforge.engine.digest import canonical
from charforge.engine.reader import Reader
from charforge.recorded import Observation
from charforge.testing import ScriptedWorkshop
from charforge.workspace import target

PURE = {
    "profile", "written", "scenes", "dialogues", "protective", "dataset", "questions", "interviews", "metrics",
    "scores", "report",
}  # fmt: skip
"""What a replay runs of a character whose base weights are a script's."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A finished character: the path of its spec, in a workspace with store, lock and recording. Not to be changed."""
    folder = tmp_path_factory.mktemp("built")
    spec = skeleton.write(folder, "eliza", "Eliza Doolittle", "Eliza")[0]
    text = spec.read_text(encoding="utf-8")
    spec.write_text(
        text.replace("preset: laptop", "preset: laptop\ngenerator: {model: openai/scripted}"),
        encoding="utf-8",
    )
    workshop = ScriptedWorkshop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charforge.workshop.LocalWorkshop", lambda **_: workshop)
        patch.chdir(folder)
        assert cli.main(["build", str(spec)]) == 0
        assert cli.main(["record", "export", "eliza"]) == 0
    return spec


@contextmanager
def stored(spec):
    """The pieces of a workspace's store alone."""
    with Reader(spec.parent.parent / ".charforge") as reader:
        yield Pieces(reader, None)


@contextmanager
def recorded(path):
    """The pieces of a recording alone, as after a fresh clone."""
    with recording.verified(path) as found:
        yield Pieces(None, found)


def run(spec, pieces, said=None, **options):
    """Replay, and return the results by stage; the base weights are a script's, so nothing could make them again."""
    found = target(str(spec))
    level = replay(said or lock.read(found.lock), found, pieces, weights=False, **options)
    results = {result.stage: result for result in level.results}
    if "base" in results:
        assert results.pop("base").why == "not asked for"
    return results


def verdicts(results):
    return {kind: result.verdict for kind, result in results.items()}


def only(said, *kinds):
    return replace(said, stages={kind: said.stages[kind] for kind in kinds})


def files(folder):
    """Every file of a folder with its bytes, and when it was changed."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# -- what is as it was -----------------------------------------------------------------------------------------------


def test_all_is_bit_identical_under_every_variation_and_nothing_is_written(built, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = files(built.parent.parent)
    with stored(built) as pieces:
        results = run(built, pieces)
    assert verdicts(results) == dict.fromkeys(PURE, BIT_IDENTICAL)
    assert files(built.parent.parent) == before
    assert list(tmp_path.iterdir()) == []


def test_a_recording_is_enough(built):
    found = target(str(built))
    with recorded(found.recording) as pieces:
        assert verdicts(run(built, pieces, variation=())) == dict.fromkeys(PURE, BIT_IDENTICAL)


# -- what is not as the lock says ------------------------------------------------------------------------------------


def lie(said, stage, **changes):
    """Return a lock in which one stage's line says something else."""
    return replace(said, stages={**said.stages, stage: replace(said.stages[stage], **changes)})


def test_each_lie_of_a_lock_is_found_at_its_own_stage(built):
    said = lock.read(target(str(built)).lock)
    line = said.stages
    said = lie(said, "scenes", outputs={**line["scenes"].outputs, "scenes.jsonl": "1" * 64})
    said = lie(said, "dialogues", counts={**line["dialogues"].counts, "dialogues.jsonl": 99})
    usage = {model: {**used, "cost": 9} for model, used in line["protective"].usage.items()}
    said = lie(said, "protective", usage=usage)
    said = lie(said, "interviews", observations={**line["interviews"].observations, "root": "2" * 64})
    models = dict.fromkeys(line["scores"].models, "3" * 64)
    said = lie(said, "scores", models=models)
    said = lie(said, "metrics", inputs={**line["metrics"].inputs, "single": line["metrics"].inputs["turns"]})
    said = lie(said, "questions", params={**line["questions"].params, "limits": {"single": 1, "multi": 1}})
    with stored(built) as pieces:
        results = run(built, pieces, said, variation=())
    lies = {"scenes", "dialogues", "protective", "interviews", "scores", "metrics", "questions"}
    assert {kind for kind, result in results.items() if result.verdict != BIT_IDENTICAL} == lies
    assert {kind for kind, result in results.items() if result.verdict == DIVERGENT} == lies
    found = {kind: {each.what: each.said for each in result.differences} for kind, result in results.items()}
    assert found["scenes"] == {
        "output scenes.jsonl": "output scenes.jsonl: other bytes; those that the lock names are not here to compare with"
    }
    assert found["dialogues"] == {
        "count dialogues.jsonl": "count dialogues.jsonl: 99 in the lock, 12 in the replay"
    }
    assert list(found["protective"]) == ["usage openai/scripted.cost"]
    assert found["interviews"]["observations"].startswith(
        "observations: the root of its recorded replies, 222222222222… in the lock"
    )
    assert [what.split()[0] for what in found["scores"]] == ["model"] * len(models)
    assert found["metrics"]["input single"] == "not what eliza/interviews/single.jsonl is"
    assert found["questions"]["action"].startswith(
        "this checkout makes it by another action: limits.multi 1 → "
    )


def poison(spec, folder, stage, outputs):
    """Copy a workspace; in the copy's store, a stage's trace names other bytes, under a right seal, and the lock follows."""
    workspace = folder / "poisoned"
    subprocess.run(["cp", "-r", str(spec.parent.parent), str(workspace)], check=True)
    found = target(str(workspace / "characters" / spec.name))
    said = lock.read(found.lock)
    action = said.stages[stage].action
    with sqlite3.connect(workspace / ".charforge" / "store.db") as db:
        row = db.execute("SELECT outputs, record FROM traces WHERE action = ?", (action,)).fetchone()
        text = canonical({**json.loads(row[0]), **outputs(said)}).decode()
        values = (text, seal(action, 0, text, row[1]), action)
        db.execute("UPDATE traces SET outputs = ?, seal = ? WHERE action = ?", values)
    with Reader(workspace / ".charforge") as store:
        line, _ = lock.line(store, store.observations(action)[0])
    lock.write(found.lock, replace(said, stages={**said.stages, stage: line}))
    return found.spec


def test_a_poisoned_store_is_found_with_the_first_record_that_differs(built, tmp_path):
    """The trace names bytes of another action, all hashes are right, and the lock was written from it."""
    spec = poison(
        built, tmp_path, "protective", lambda said: {"protective.jsonl": said.stages["dialogues"].outputs["dialogues.jsonl"]}
    )  # fmt: skip
    with stored(spec) as pieces:
        results = run(spec, pieces)
    wrong = {kind: result for kind, result in results.items() if result.verdict == DIVERGENT}
    assert set(wrong) == {"protective"}
    first, *_, last = wrong["protective"].differences
    assert first.what == "output protective.jsonl"
    assert first.record is not None
    assert last.said == "so it is in every environment, this one unvaried among them"


def test_a_reply_that_was_changed_is_found(built, tmp_path):
    """A recording that is sound in itself, in which a model says something else than it did."""
    found = target(str(built))
    said = lock.read(found.lock)
    with stored(built) as pieces:
        changed = pieces.calls(said.stages["scores"].action)[0]
        lines = []
        for action, reply, facts in pieces.replies(None):
            data = json.loads(reply)
            text = data["text"] + " Or not." if action.digest == changed else data["text"]
            lines.append(Observation(action, canonical({**data, "text": text}), facts))
    with recording.verified(found.recording) as sound:
        recording.write(tmp_path / "lie.jsonl", "eliza", lines, list(sound.observed()))
    with recorded(tmp_path / "lie.jsonl") as pieces:
        results = run(built, pieces, variation=())
    # Nobody has the scores that the lock names, so that nothing can be said of the report.
    assert {kind: result.verdict for kind, result in results.items() if result.verdict != BIT_IDENTICAL} == {
        "scores": DIVERGENT,
        "report": NOT_CHECKABLE,
    }
    assert "observations" in {each.what for each in results["scores"].differences}


# -- what is not there -----------------------------------------------------------------------------------------------


def test_what_is_missing_is_not_checkable_and_never_passes(built, tmp_path):
    found = target(str(built))
    with stored(built) as pieces:
        said = lock.read(found.lock)
        of_scenes = set(pieces.calls(said.stages["scenes"].action))
        lines = [Observation(*each) for each in pieces.replies(None)]
    kept = [each for each in lines if each.action.digest not in of_scenes]
    recording.write(tmp_path / "less.jsonl", "eliza", kept, [])
    with recorded(tmp_path / "less.jsonl") as pieces:
        results = run(built, pieces, variation=())
    why = {kind: result.why for kind, result in results.items() if result.verdict == NOT_CHECKABLE}
    assert why.pop("scenes").endswith("to openai/scripted have no recorded reply")
    assert why.pop("dialogues") == "neither store nor recording has what it reads: eliza/scenes/scenes.jsonl"
    assert set(why) == {"dataset", "questions", "interviews", "metrics", "scores", "report"}
    assert why["metrics"] == (
        "neither store nor recording has what it reads: eliza/interviews/contestants.json, eliza/interviews/single.jsonl and 2 more"
    )
    assert {kind for kind, each in results.items() if each.verdict == BIT_IDENTICAL} == {
        "profile", "written", "protective",
    }  # fmt: skip


def test_a_lock_whose_spec_is_gone_is_not_checkable(built, tmp_path):
    level = replay(
        lock.read(target(str(built)).lock), target(str(tmp_path / "characters" / "eliza.yaml")), Pieces()
    )
    assert level.verdict == NOT_CHECKABLE
    assert {result.why for result in level.results} == {"characters/eliza.yaml: no such file"}


# -- children --------------------------------------------------------------------------------------------------------


@pytest.fixture
def patched(tmp_path, monkeypatch):
    """Run some code in every child before anything else."""

    def patch(code):
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(code), encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    return patch


def test_it_says_which_variation_causes_a_difference_and_who_reached_for_the_network(built, patched):
    patched("""
        import datetime, socket
        from charforge.stages import profile, written
        read, write = profile.read, written.read

        def by_the_year(text, *, file):
            made = read(text, file=file)
            return {**made, "year": 2038} if datetime.datetime.now().year >= 2037 else made

        def by_name(*args, **options):
            try:
                socket.getaddrinfo("charforge.invalid", 443)
            except Exception:
                pass
            return write(*args, **options)

        profile.read, written.read = by_the_year, by_name
    """)
    said = only(lock.read(target(str(built)).lock), "profile", "written")
    chosen = (variations.CLOCK, variations.TIME_ZONE)
    with stored(built) as pieces:
        results = run(built, pieces, said, variation=chosen)
    assert verdicts(results) == {"profile": DIVERGENT, "written": DIVERGENT}
    output, cause = results["profile"].differences
    assert (output.what, output.record["path"]) == ("output profile.json", "year")
    assert (cause.what, cause.said) == ("variation", "another clock causes it")
    assert [each.said for each in results["written"].differences] == [
        "it reached for the network: socket.getaddrinfo"
    ]


@pytest.mark.parametrize(
    ("code", "limit", "why"),
    [
        ("os.kill(os.getpid(), 9)", 60, "the replay's process was killed by SIGKILL"),
        ("import time; time.sleep(60)", 3, "the replay took more than 3 seconds and was stopped"),
    ],
)
def test_a_child_that_does_not_come_to_its_end_is_one_clear_finding(built, patched, code, limit, why):
    patched(f"""
        import os
        from charforge.stages import profile

        def read(text, *, file):
            {code}

        profile.read = read
    """)
    said = only(lock.read(target(str(built)).lock), "profile", "written")
    with stored(built) as pieces:
        results = run(built, pieces, said, variation=(), limit=limit)
    assert {(kind, each.verdict, each.why) for kind, each in results.items()} == {
        ("profile", NOT_CHECKABLE, why),
        ("written", NOT_CHECKABLE, why),
    }


def test_a_child_dies_with_its_parent(built, patched, tmp_path):
    patched(f"""
        import os, time
        from charforge.stages import profile

        def read(text, *, file):
            open({str(tmp_path / "child")!r}, "w").write(str(os.getpid()))
            time.sleep(60)

        profile.read = read
    """)
    code = f"""
        from charforge.audit.pieces import Pieces
        from charforge.audit.replay import replay
        from charforge.engine import lock
        from charforge.workspace import target
        found = target({str(built)!r})
        replay(lock.read(found.lock), found, Pieces(), weights=False)
    """
    source = str(Path(charforge.__file__).parents[1])
    paths = os.pathsep.join([source, os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)}  # nobody is left to clean up
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment)
    told = tmp_path / "child"
    while not (told.exists() and told.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    child = Path("/proc") / told.read_text()
    while child.exists() and child.joinpath("stat").read_text().split()[2] != "Z":
        time.sleep(0.05)
