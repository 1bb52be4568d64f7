"""`charforge record`: what was paid for here is built from there, and nothing wrong gets in."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from charforge import recorded, recording
from charforge.engine.store import Store
from charforge.testing import ScriptedWorkshop

SCRIPTED = (
    "--preset=smoke",
    "--set=generator.model=openai/scripted",
    "--set=interview.interviewer.model=openai/scripted",
    "--set=judge.model=openai/scripted",
)
TO = ("--to", "dataset")


@pytest.fixture
def built(run, eliza, scripted):
    """The workspace's folder, with every reply of a build up to the data set."""
    status, _out, err = run("build", "eliza", *SCRIPTED, *TO)
    assert status == 0, err
    return eliza.parents[1]


def anew(folder):
    shutil.rmtree(folder / ".charforge")
    shutil.rmtree(folder / "build")


def test_a_build_is_made_elsewhere_from_a_recording(run, built, scripted):
    asked = len(scripted.requests)
    status, out, err = run("record", "export", "eliza", "eliza.jsonl.zst", *SCRIPTED)
    assert (status, err) == (0, "")
    assert re.fullmatch(rf"eliza.jsonl.zst: {asked} replies, [0-9.]+ KB, root [0-9a-f]{{64}}\n", out)
    before = (built / "build" / "eliza" / "sft.jsonl").read_bytes()

    anew(built)
    assert run("record", "import", "eliza.jsonl.zst") == (
        0,
        f"eliza.jsonl.zst: {asked} replies of eliza, {asked} added\n",
        "",
    )
    status, out, err = run("build", "eliza", *SCRIPTED, *TO)
    assert (status, f"0 calls made, {asked} replayed" in out) == (0, True), err
    assert len(scripted.requests) == asked
    assert (built / "build" / "eliza" / "sft.jsonl").read_bytes() == before

    assert run("record", "import", "eliza.jsonl.zst")[1] == (
        f"eliza.jsonl.zst: {asked} replies of eliza, 0 added, {asked} known\n"
    )


def test_two_exports_are_the_same_bytes_also_from_another_store(run, built):
    run("record", "export", "eliza", "a.jsonl.zst", *SCRIPTED)
    run("record", "export", "eliza", "b.jsonl.zst", *SCRIPTED)
    assert (built / "a.jsonl.zst").read_bytes() == (built / "b.jsonl.zst").read_bytes()
    anew(built)
    run("record", "import", "a.jsonl.zst")
    # Nothing is built here: what the build will ask is known all the same.
    run("record", "export", "eliza", "c.jsonl.zst", *SCRIPTED)
    assert (built / "a.jsonl.zst").read_bytes() == (built / "c.jsonl.zst").read_bytes()


def test_gc_keeps_what_was_imported_for_a_build_to_come(run, built, scripted):
    run("record", "export", "eliza", "eliza.jsonl", *SCRIPTED)
    anew(built)
    run("record", "import", "eliza.jsonl")
    assert run("gc", "-n") == (0, "nothing to remove\n", "")


def test_an_export_changes_nothing_in_the_store(run, built):
    def contents():
        return {path: path.read_bytes() for path in (built / ".charforge").rglob("*") if path.is_file()}

    before = contents()
    run("record", "export", "eliza", "eliza.jsonl", *SCRIPTED)
    assert contents() == before


def test_what_the_lock_names_is_exported_when_the_spec_has_moved_on(run, eliza, edit, scripted):
    edit(eliza, "preset: laptop ", "preset: smoke ")
    edit(
        eliza, "#generator:\n#  model: embedded/smollm2-135m-instruct", "generator:\n  model: openai/scripted"
    )
    assert run("build", "eliza")[0] == 0
    assert eliza.with_suffix(".lock").is_file()
    run("record", "export", "eliza", "before.jsonl")
    edit(eliza, "model: openai/scripted", "model: openai/another")
    run("record", "export", "eliza", "after.jsonl")
    before, after = (
        {json.loads(line)["digest"] for line in (eliza.parents[1] / name).read_bytes().splitlines()[1:]}
        for name in ("before.jsonl", "after.jsonl")
    )
    assert before
    assert before == after

    eliza.with_suffix(".lock").unlink()
    assert run("record", "export", "eliza", "none.jsonl")[0] == 0
    none = {
        json.loads(line)["digest"] for line in (eliza.parents[1] / "none.jsonl").read_bytes().splitlines()[1:]
    }
    assert none < before


def test_a_lock_of_elsewhere_is_noted(run, eliza, edit, scripted):
    edit(eliza, "preset: laptop ", "preset: smoke ")
    edit(
        eliza, "#generator:\n#  model: embedded/smollm2-135m-instruct", "generator:\n  model: openai/scripted"
    )
    run("build", "eliza")
    anew(eliza.parents[1])
    status, out, err = run("record", "export", "eliza", "eliza.jsonl")
    assert status == 0
    assert out.startswith("eliza.jsonl: 0 replies")
    assert err == (
        "note: 13 stages that the lock names are not in this store\nnote: nothing is recorded for eliza\n"
    )


def test_a_build_that_was_cut_short_is_exported_as_far_as_it_got(run, eliza, monkeypatch):
    workshop = ScriptedWorkshop()
    answered = 0

    class Tired(ScriptedWorkshop):
        async def complete(self, request, weights):
            nonlocal answered
            if answered == 3:
                raise ConnectionError("no more")
            answered += 1
            return await workshop.complete(request, weights)

    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: Tired())
    assert run("build", "eliza", *SCRIPTED, *TO)[0] == 3
    status, out, _err = run("record", "export", "eliza", "eliza.jsonl", *SCRIPTED)
    assert status == 0
    assert out.startswith("eliza.jsonl: 3 replies, ")


def test_a_bad_recording_is_told_whole_and_adds_nothing(run, built):
    run("record", "export", "eliza", "eliza.jsonl", *SCRIPTED)
    lines = (built / "eliza.jsonl").read_bytes().splitlines()
    lines[1] = lines[1].replace(b'"draw":', b'"drew":', 1)
    lines[2] = lines[2].replace(b'"finish_reason":"stop"', b'"finish_reason":"done"', 1)
    (built / "eliza.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    anew(built)
    assert run("record", "import", "eliza.jsonl") == (
        1,
        "",
        (
            "error: eliza.jsonl:2: the call's parameters are not those of a request: draw, drew\n\n"
            "error: eliza.jsonl:3: the reply's finish_reason is none of stop, length, filtered, malformed\n"
        ),
    )
    assert not (built / ".charforge").exists()


def test_a_difference_is_counted_and_the_first_reply_stays(run, built):
    run("record", "export", "eliza", "eliza.jsonl", *SCRIPTED)
    with recording.verified(built / "eliza.jsonl") as found:
        first, *others = list(found)
    other = recorded.Observation(first.action, b'{"finish_reason":"stop","text":"no"}', {})
    recording.write(built / "other.jsonl", "eliza", [other, *others])
    assert run("record", "import", "other.jsonl")[1] == (
        f"other.jsonl: {len(others) + 1} replies of eliza, 0 added, {len(others)} known,"
        " 1 differ from what is recorded here, which stays in use\n"
    )
    with Store(built / ".charforge") as store:
        assert recorded.observe(store, first.action.digest) == first


def test_an_import_needs_a_workspace(run, tmp_path):
    assert run("record", "import", "eliza.jsonl") == (
        1,
        "",
        "error: no workspace here: neither .charforge/ nor characters/\nhint: import in the folder above characters/\n",
    )


def test_a_limit_can_be_raised(run, built):
    run("record", "export", "eliza", "eliza.jsonl.zst", *SCRIPTED)
    assert run("record", "import", "eliza.jsonl.zst", "--max-size", "1")[0] == 0
    assert run("record", "import", "eliza.jsonl.zst", "--max-size", "0")[0] == 2


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "eliza.json",
            "error: eliza.json: a recording's name ends in .jsonl.zst or .jsonl\nhint: such as beethoven.jsonl.zst\n",
        ),
        ("no/eliza.jsonl", "error: no/eliza.jsonl: there is no folder no\nhint: make it, and rerun\n"),
    ],
)
def test_a_file_that_cannot_be_written(run, eliza, name, error):
    assert run("record", "export", "eliza", name) == (1, "", error)


def test_without_a_name_it_lies_where_an_audit_looks_and_holds_what_was_trained(run, eliza, scripted, edit):
    edit(eliza, "preset: laptop", "preset: smoke")
    assert run("build", str(eliza))[0] == 0
    status, out, _ = run("record", "export", str(eliza))
    path = eliza.parent / "recordings" / "eliza.jsonl.zst"
    assert status == 0
    assert path.is_file()
    assert "eliza.jsonl.zst: " in out
    made = json.loads(eliza.with_suffix(".lock").read_text(encoding="utf-8"))["stages"]["model"]
    with recording.verified(path) as found:
        [model] = found.observed()
    assert (model.action.kind, model.action.digest) == ("model", made["action"])
    assert {name: kept.digest for name, kept in model.outputs.items()} == made["outputs"]
    assert all(kept.data is not None for kept in model.outputs.values())
