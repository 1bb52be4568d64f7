"""What a build says while it runs."""

from __future__ import annotations

import sys

import pytest

from charforge import progress
from charforge.engine.build import FAILED, RAN, Outcome
from charforge.engine.stale import STALE, UNKNOWN, UP_TO_DATE, Planned


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def forward(seconds):
        now[0] += seconds

    return forward


def test_without_a_terminal_a_stage_speaks_at_its_ends_and_every_ten_seconds(capsys, clock):
    with progress.Progress() as said:
        said.stage_started("eliza/scenes", [{"kind": "field", "field": "scenes.count", "was": 12, "now": 16}])
        for done in range(1, 13):
            clock(2)
            said.stage_progress("eliza/scenes", done, 16, f"{done // 2} accepted")
        said.stage_finished(Outcome("eliza/scenes", RAN, seconds=100.0, calls_made=4, calls_replayed=12))
    assert capsys.readouterr() == (
        "",
        (
            "eliza/scenes: started (scenes.count 12 → 16)\n"
            "eliza/scenes: 5/16, 2.0 s each, 22.0 s left, 2 accepted\n"
            "eliza/scenes: 10/16, 2.0 s each, 12.0 s left, 5 accepted\n"
            "eliza/scenes: done in 1.7 min, 4 calls made, 12 replayed\n"
        ),
    )


def test_a_failure_and_a_note_are_one_line_each_and_cannot_steer_the_terminal(capsys):
    with progress.Progress() as said:
        said.stage_finished(Outcome("eliza/model", FAILED))
        said.note("the reply was \x1b[2J\nempty")
    assert capsys.readouterr().err == "eliza/model: failed\nnote: the reply was �[2J�empty\n"


def test_in_a_terminal_a_running_stage_has_a_bar_and_lines_stay_whole(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress.Progress() as said:
        said.stage_started("eliza/scenes", [{"kind": "never"}])
        said.stage_progress("eliza/scenes", 3, 12, "[bold]1 accepted")
        said._live._progress.refresh()  # as the clock would
        said.stage_finished(Outcome("eliza/scenes", RAN, seconds=3.0))
    out, err = capsys.readouterr()
    assert out == ""
    assert "eliza/scenes: started (never built)\n" in err
    assert "3/12" in err
    assert "[bold]1 accepted" in err
    assert "eliza/scenes: done in 3.0 s\n" in err


def test_a_plan_names_the_stages_that_have_to_run_first():
    planned = {
        "e/profile": Planned("e/profile", UP_TO_DATE, "1", {}, []),
        "e/scenes": Planned("e/scenes", STALE, "2", None, [{"kind": "never"}]),
        "e/dialogues": Planned("e/dialogues", UNKNOWN, None, None, [], ("e/scenes",)),
        "e/base": Planned("e/base", STALE, "3", None, [{"kind": "lost"}]),
        "e/model": Planned("e/model", UNKNOWN, None, None, [], ("e/dialogues", "e/base")),
    }
    assert progress.plan_lines(planned) == {
        "e/profile": "up to date",
        "e/scenes": "stale: never built",
        "e/dialogues": "unknown until scenes has run",
        "e/base": "stale: its recorded outputs are gone from the store, or damaged",
        "e/model": "unknown until scenes and base have run",
    }
