"""`charforge build`, as far as it goes without a model: what it says, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from charforge.pipeline import STAGES
from charforge.testing import ScriptedWorkshop

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ada(eliza):
    """A second sound character in the same workspace."""
    path = eliza.with_name("ada.yaml")
    shutil.copy(eliza, path)
    return path


def test_a_dry_run_says_of_every_stage_what_would_happen_and_does_nothing(run, eliza):
    assert run("build", "eliza", "-n") == (
        0,
        (
            "eliza/profile     stale: never built\n"
            "eliza/written     unknown until profile has run\n"
            "eliza/scenes      unknown until profile has run\n"
            "eliza/dialogues   unknown until profile has run\n"
            "eliza/protective  unknown until profile has run\n"
            "eliza/dataset     unknown until profile has run\n"
            "eliza/base        stale: never built\n"
            "eliza/model       unknown until base and profile have run\n"
            "eliza/questions   unknown until profile has run\n"
            "eliza/interviews  unknown until profile and base have run\n"
            "eliza/metrics     unknown until profile and base have run\n"
            "eliza/scores      unknown until profile and base have run\n"
            "eliza/report      unknown until profile and base have run\n"
        ),
        "",
    )
    assert not (eliza.parents[1] / "build").exists()


def test_a_dry_run_names_the_field_that_changed(run, eliza):
    run("build", "eliza", "--to", "written")
    assert run("build", "eliza", "-n", "--to", "written", "--set", "short_name=Liza") == (
        0,
        "eliza/profile  up to date\neliza/written  stale: short_name Eliza → Liza\n",
        "",
    )


def test_a_build_says_which_stages_run_and_why_then_that_nothing_is_left_to_do(run, eliza):
    status, out, err = run("build", "eliza", "--to", "written")
    assert status == 0
    assert re.fullmatch(r"eliza: built, 2 of 2 stages ran in [0-9.]+ s\n", out)
    assert re.sub(r"[0-9.]+ s", "… s", err).splitlines() == [
        "eliza/profile: started (never built)",
        "eliza/profile: done in … s",
        "eliza/written: started (never built)",
        "eliza/written: done in … s",
    ]
    assert run("build", "characters/eliza.yaml", "--to", "written") == (
        0,
        "eliza: up to date, 2 stages\n",
        "",
    )
    assert run("build", "eliza", "--to", "profile") == (0, "eliza: up to date, 1 stage\n", "")
    made = eliza.parents[1] / "build" / "eliza"
    assert sorted(path.relative_to(made).as_posix() for path in made.rglob("*.json*")) == ["profile.json"]
    assert not eliza.with_suffix(".lock").exists()  # it would not be the whole character's


SCRIPTED = (
    "--preset=smoke",
    "--set=generator.model=openai/scripted",
    "--set=interview.interviewer.model=openai/scripted",
    "--set=judge.model=openai/scripted",
)


def test_a_whole_build_ends_with_where_the_report_is(run, eliza, monkeypatch):
    scripted = ScriptedWorkshop()
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_: scripted)
    status, out, _ = run("build", "eliza", *SCRIPTED)
    assert status == 0
    asked = len(scripted.requests)
    assert asked
    built, report, *spent = re.sub(r"in [0-9.]+ s", "in … s", out).splitlines()
    assert built == f"eliza: built, 13 of 13 stages ran in … s; {asked} calls made, 0 replayed"
    assert report == "  build/eliza/report.html"
    rows = [line.split("  ") for line in spent]
    assert [next(filter(None, row)) for row in rows[:-1]] == [
        *(f"eliza/{stage}" for stage in ("dialogues", "interviews", "interviews", "interviews")),
        *(f"eliza/{stage}" for stage in ("protective", "scenes", "scores")),
        "all",
    ]
    assert f"{asked} calls" in spent[-2]
    assert (eliza.parents[1] / "build" / "eliza" / "report.html").is_file()
    assert not eliza.with_suffix(".lock").exists()  # this is not what the committed spec says

    status, out, err = run("build", "eliza", *SCRIPTED)
    assert (status, out, err) == (0, "eliza: up to date, 13 stages\n  build/eliza/report.html\n", "")
    assert len(scripted.requests) == asked

    status, out, _ = run("build", "eliza", *SCRIPTED, "--set", "interview.turns=1")
    assert status == 0
    assert scripted.jobs == ["base", "model"]
    more = len(scripted.requests) - asked
    assert re.search(rf"built, 4 of 13 stages ran in [0-9.]+ s; {more} calls made, [0-9]+ replayed\n", out)


def test_a_build_of_the_spec_as_it_stands_writes_its_lock(run, eliza, edit, monkeypatch):
    scripted = ScriptedWorkshop()
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_: scripted)
    edit(eliza, "preset: laptop ", "preset: smoke ")
    edit(
        eliza, "#generator:\n#  model: embedded/smollm2-135m-instruct", "generator:\n  model: openai/scripted"
    )
    assert run("build", "eliza")[0] == 0
    lock = json.loads(eliza.with_suffix(".lock").read_text())["stages"]
    assert list(lock) == sorted(STAGES)
    assert lock["scenes"]["usage"]["openai/scripted"]["calls"] > 0
    assert "usage" not in lock["dataset"]
    assert run("stats")[::2] == (0, "")


def test_several_characters_are_built_at_once(run, eliza, ada):
    status, out, _ = run("build", str(eliza), "ada", "eliza", "--to", "profile")
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["eliza", "ada"]


def test_a_stage_that_there_is_not_is_told_with_the_nearest(run, eliza):
    assert run("build", "eliza", "--to", "scors") == (
        2,
        "",
        "error: --to: no stage is called 'scors'\nhint: did you mean 'scores'?\n",
    )
    assert run("build", "eliza", "--to", "x") == (
        2,
        "",
        (
            "error: --to: no stage is called 'x'\nhint: stages are profile, written, scenes, dialogues, protective, "
            "dataset, base, model, questions, interviews, metrics, scores, report\n"
        ),
    )


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (
            "elisa",
            "error: characters/elisa.yaml: no such file\nhint: did you mean 'characters/eliza.yaml'?\n",
        ),
        (
            "characters/elisa.yaml",
            "error: characters/elisa.yaml: no such file\nhint: did you mean 'characters/eliza.yaml'?\n",
        ),
        ("x/eliza.yaml", "error: eliza.yaml: no such file\n"),
        ("notes.txt", "error: notes.txt: a spec is a .yaml file\nhint: such as characters/beethoven.yaml\n"),
        (
            "characters/",
            "error: characters/: a spec is a .yaml file\nhint: such as characters/beethoven.yaml\n",
        ),
    ],
)
def test_a_spec_that_there_is_not_is_told(run, eliza, given, error):
    assert eliza.is_file()
    assert run("build", given) == (1, "", error)


def test_specs_of_different_workspaces_are_refused(run, eliza):
    assert run("build", str(eliza), "elsewhere/characters/ada.yaml") == (
        1,
        "",
        "error: these specs belong to different workspaces\nhint: build them one after the other\n",
    )


def test_all_problems_of_several_specs_come_at_once_and_nothing_is_built(run, eliza, ada, edit):
    edit(eliza, "preset: laptop", "preset: laptopp")
    edit(ada, "short_name:", "shortname:")
    edit(eliza.parent / "questions" / "eliza.yaml", "topic: traps", "topic: trap")
    assert run("build", "eliza", "ada", "--set", "train.epochs=0") == (
        1,
        "",
        (
            "error: --set train.epochs=0: train.epochs: expected a whole number between 1 and 1000, got 0\n\n"
            "error: characters/ada.yaml: short_name: this key is missing\n"
            "hint: add it, for example: short_name: Beethoven\n\n"
            "error: characters/ada.yaml:11: shortname: unknown key\n"
            "  11 | shortname: Eliza        # what stands before the turns in a dialogue\n"
            "hint: did you mean 'short_name'?\n\n"
            "error: characters/eliza.yaml:13: preset: expected one of laptop, smoke, paper, got 'laptopp'\n"
            "  13 | preset: laptopp                      # laptop: minutes; smoke: seconds; paper: the paper's "
            "figures, on GPUs\n"
            "hint: did you mean 'laptop'?\n"
        ),
    )
    assert not (eliza.parents[1] / ".charforge").exists()


def test_a_file_that_a_good_spec_names_is_read_before_anything_runs(run, eliza, edit):
    edit(eliza.parent / "questions" / "eliza.yaml", "topic: past", "topic: pst")
    status, out, err = run("build", "eliza")
    assert (status, out) == (1, "")
    assert err.startswith(
        "error: characters/questions/eliza.yaml:7: single[0].topic: expected one of past, relations, values, traps, "
        "got 'pst'\n  7 |     topic: pst\nhint: did you mean 'past'?\n\n"
    )
    assert not (eliza.parents[1] / ".charforge").exists()


def test_a_stage_that_fails_names_the_file_and_what_it_holds_up(run, eliza, edit):
    edit(eliza.parent / "written" / "eliza.md", "Paragraphs: birth, manner", "Paragraphs: brith")
    status, out, err = run("build", "eliza", "--to", "written")
    assert (status, out) == (1, "")
    assert err.splitlines()[-3:] == [
        "error: characters/written/eliza.md:8: the profile has no paragraph 'brith'",
        "  8 | Paragraphs: brith",
        "hint: did you mean 'birth'?",
    ]
    edit(eliza.parent / "profiles" / "eliza.md", "---\nname", "name")
    status, out, err = run("build", "eliza", "--to", "written")
    assert err.splitlines()[-2:] == [
        "error: eliza: written needs profile, which failed",
        "hint: fix the cause above, then rerun; finished work is kept",
    ]


def test_a_build_with_nothing_to_do_imports_nothing_heavy(run, eliza):
    time.sleep(0.05)  # until the files are old enough for their times to be trusted
    assert run("build", "eliza", "--to", "written")[0] == 0
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "charforge", "build", "eliza", "--to", "written"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (0, "eliza: up to date, 2 stages\n")
    modules = {name.split(".")[0] for name in re.findall(r"(?m)^import time:.*\|\s*([\w.]+)$", done.stderr)}
    heavy = {"torch", "transformers", "litellm", "jsonschema", "yaml", "jinja2", "rich", "sqlite3", "asyncio"}
    assert modules & heavy == set()


def test_a_key_that_is_missing_is_said_before_anything_is_done(run, eliza, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    status, _, err = run("build", "eliza", "--set=generator.model=openai/gpt-4o-mini", "--to=scenes")
    first = err.splitlines()[0]
    assert first.startswith("note: eliza/scenes can use recorded replies only: ")
    assert "OPENAI_API_KEY" in first
    assert eliza.is_file()
    assert status == 1


def test_what_is_wrong_with_the_users_endpoints_ends_a_build_before_it_begins(
    run, eliza, tmp_path, monkeypatch
):
    (tmp_path / "endpoints.toml").write_text("[openai]\nnonsense = 1\n")
    monkeypatch.setenv("CHARFORGE_ENDPOINTS", str(tmp_path / "endpoints.toml"))
    status, out, err = run("build", "eliza", "--set=generator.model=openai/x")
    assert (status, out) == (1, "")
    assert "endpoints.toml:2: openai.nonsense: unknown key" in err
    assert "started" not in err
    assert eliza.is_file()
