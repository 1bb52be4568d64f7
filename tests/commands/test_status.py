"""`charforge status` and `charforge explain`."""

from __future__ import annotations

import json

from charforge.pipeline import STAGES


def test_status_as_json_has_a_row_for_every_stage(run, eliza):
    status, out, err = run("status", "eliza", "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert [row["stage"] for row in rows] == [f"eliza/{stage}" for stage in STAGES]
    keys = {"stage", "status", "action", "outputs", "reasons", "waits_for"}
    assert all(set(row) == keys for row in rows)
    assert rows[0]["status"] == "stale"
    assert rows[0]["reasons"] == [{"kind": "never"}]
    assert len(rows[0]["action"]) == 64
    assert rows[1] == {
        "stage": "eliza/written",
        "status": "unknown",
        "action": None,
        "outputs": None,
        "reasons": [],
        "waits_for": ["eliza/profile"],
    }


def test_status_after_a_build_names_what_was_made(run, eliza):
    run("build", "eliza", "--to", "profile")
    rows = json.loads(run("status", "--json")[1])
    assert (rows[0]["status"], list(rows[0]["outputs"])) == ("up to date", ["profile.json"])
    status, out, err = run("status")
    assert (status, err) == (0, "")
    assert out.splitlines()[:3] == [
        "eliza/profile     up to date",
        "eliza/written     stale: never built",
        "eliza/scenes      stale: never built",
    ]


def test_status_without_specs_says_how_to_begin(run):
    assert run("status") == (
        1,
        "",
        "error: no specs here: characters/*.yaml\nhint: charforge new <id> writes one\n",
    )


def test_explain_says_why_a_stage_is_stale_or_why_it_last_ran(run, eliza, edit):
    run("build", "eliza", "--to", "written")
    assert run("explain", "eliza", "written") == (
        0,
        "eliza/written  up to date; last ran because: never built\n",
        "",
    )
    edit(eliza.parent / "written" / "eliza.md", "one evening in winter", "one evening in spring")
    assert run("explain", "eliza", "written") == (
        0,
        "eliza/written  stale: characters/written/eliza.md changed\n",
        "",
    )
    run("build", "eliza", "--to", "written")
    assert run("explain", "eliza", "written") == (
        0,
        "eliza/written  up to date; last ran because: characters/written/eliza.md changed\n",
        "",
    )


def test_explain_of_a_stage_that_there_is_not_names_the_nearest(run, eliza):
    assert run("explain", "eliza", "writen") == (
        2,
        "",
        "error: explain: no stage is called 'writen'\nhint: did you mean 'written'?\n",
    )
