"""`charforge lock`: the committed lock against the checkout and the store, and written from it."""

from __future__ import annotations

import json

import pytest

STAGES = 13


@pytest.fixture
def built(run, eliza, scripted, edit):
    edit(eliza, "preset: laptop", "preset: laptop\ngenerator: {model: openai/scripted}")
    assert run("build", str(eliza))[0] == 0
    return eliza.with_suffix(".lock")


@pytest.fixture
def lie(built):
    """Change one line of the lock."""

    def change(stage, field, value):
        data = json.loads(built.read_text(encoding="utf-8"))
        data["stages"][stage][field] = value(data["stages"][stage][field])
        built.write_text(json.dumps(data), encoding="utf-8")

    return change


def test_what_a_build_wrote_is_derived_with_and_without_the_store(run, eliza, built):
    with_store = (
        "characters/eliza.lock: derived by this checkout, 13 stages; what the store has of 13 stages agrees\n"
    )
    assert run("lock", "--check", str(eliza)) == (0, with_store, "")
    (eliza.parent.parent / ".charforge").rename(eliza.parent.parent / "elsewhere")
    without = "characters/eliza.lock: derived by this checkout, 13 stages\n"
    assert run("lock", "--check", str(eliza)) == (0, without, "")


def test_check_says_which_field_of_the_spec_moved_on(run, eliza, built, edit):
    edit(eliza, "model: openai/scripted", "model: openai/scripted, temperature: 0.9")
    status, out, err = run("lock", "--check", str(eliza))
    assert (status, out) == (1, "")
    assert err.splitlines()[0] == "error: characters/eliza.lock is not what this checkout derives"
    assert "  scenes: generator.temperature 0.7 → 0.9" in err.splitlines()
    assert err.splitlines()[-1] == "hint: charforge build characters/eliza.yaml writes it anew"


def test_check_says_which_file_moved_on(run, eliza, built, edit):
    edit(eliza.parent / "written" / "eliza.md", "A small house", "A little house")
    assert run("lock", "--check", str(eliza))[2].splitlines()[1:-1] == [
        "  written: characters/written/eliza.md changed"
    ]


@pytest.mark.parametrize(
    ("stage", "field", "value", "said"),
    [
        ("scenes", "action", lambda _: "0" * 64, "scenes: the action's digest is not that of its version"),
        ("scenes", "outputs", lambda was: {**was, "scenes.jsonl": "0" * 64},
         "dialogues: eliza/scenes/scenes.jsonl changed"),
        ("scenes", "counts", lambda was: {**was, "scenes.jsonl": 99},
         "scenes: counts.scenes.jsonl is 99 in the lock and 12 in the store"),
        ("scenes", "usage", lambda was: {model: {**used, "cost": 9} for model, used in was.items()}, "scenes: usage."),
        ("scenes", "observations", lambda was: {**was, "root": "0" * 64}, "scenes: observations.root is 000000000000… in the lock"),
    ],
)  # fmt: skip
def test_a_lock_that_lies_is_found(run, eliza, lie, stage, field, value, said):
    lie(stage, field, value)
    status, _, err = run("lock", "--check", str(eliza))
    assert status == 1
    assert said in err
    assert run("lock", str(eliza))[:2] == (0, f"characters/eliza.lock: written, {STAGES} stages\n")
    assert run("lock", "--check", str(eliza))[0] == 0


def test_a_merge_conflict_is_solved_from_the_store(run, eliza, built, scripted):
    before = built.read_text(encoding="utf-8")
    asked = len(scripted.requests)
    built.write_text(f"<<<<<<< HEAD\n{before}=======\n{before}>>>>>>> theirs\n", encoding="utf-8")
    status, _, err = run("lock", "--check", str(eliza))
    assert (status, err.splitlines()[1]) == (1, "hint: charforge lock eliza writes it anew from the store")
    assert run("lock", str(eliza))[0] == 0
    assert built.read_text(encoding="utf-8") == before
    assert len(scripted.requests) == asked


def test_a_build_that_is_not_finished_has_no_lock(run, eliza, built, edit):
    edit(eliza, "preset: laptop\n", "preset: laptop\nscenes: {count: 13}\n")
    status, out, err = run("lock", str(eliza))
    assert (status, out) == (1, "")
    assert err == (
        "error: eliza: scenes is not up to date (scenes.count 12 → 13), and a lock speaks for a finished build\n"
        "hint: charforge build characters/eliza.yaml writes the lock too\n"
    )


def test_a_lock_of_another_character_is_told(run, eliza, built):
    built.write_text(built.read_text().replace('"character": "eliza"', '"character": "mallory"'))
    assert "  character: it is the lock of mallory" in run("lock", "--check", str(eliza))[2]


def test_no_lock_is_one_error(run, eliza):
    status, _, err = run("lock", "--check", str(eliza))
    assert (status, err) == (
        1,
        f"error: {eliza.with_suffix('.lock')}: no such file\nhint: a finished build writes it\n",
    )


def test_all_locks_here_are_checked(run, eliza, built, monkeypatch):
    monkeypatch.chdir(eliza.parent.parent)
    assert run("lock", "--check")[0] == 0
    built.unlink()
    assert run("lock", "--check")[2] == (
        "error: no locks here: characters/*.lock\nhint: a finished build writes one\n"
    )


def test_a_lock_that_is_gone_or_lies_is_written_by_the_next_build(run, eliza, built, lie):
    before = built.read_text(encoding="utf-8")
    built.unlink()
    assert "up to date" in run("build", str(eliza))[1]
    assert built.read_text(encoding="utf-8") == before
    lie("scenes", "counts", lambda was: {**was, "scenes.jsonl": 99})
    assert "up to date" in run("build", str(eliza))[1]
    assert built.read_text(encoding="utf-8") == before
