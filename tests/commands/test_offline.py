"""`build --offline`: what is recorded is used, what is not is told all at once, and nobody is asked."""

from __future__ import annotations

import pytest

from charforge.llm.errors import NotRecorded
from charforge.testing import ScriptedWorkshop

SCRIPTED = (
    "--preset=smoke",
    "--set=generator.model=openai/scripted",
    "--set=interview.interviewer.model=openai/scripted",
    "--set=judge.model=openai/scripted",
)


class Offline(ScriptedWorkshop):
    """Answers local models, and refuses the others, as LocalWorkshop does offline."""

    async def complete(self, request, weights):
        if not request.model.startswith("local/"):
            raise NotRecorded(request, f"{request.model}: not recorded")
        return await super().complete(request, weights)


@pytest.fixture
def build(run, monkeypatch, eliza):
    assert eliza.is_file()

    def command(workshop, *more):
        monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: workshop)
        return run("build", "eliza", *SCRIPTED, *more)

    return command


def misses(err, stage):
    (line,) = [line for line in err.splitlines() if line.startswith(f"error: eliza: {stage}: ")]
    return int(line.split(": ")[3].split(" request")[0])


def test_a_stage_tells_all_that_is_missing(build):
    status, _out, err = build(Offline(), "--offline", "--set=scenes.count=5")
    assert status == 1
    assert misses(err, "scenes") == 5
    assert misses(err, "protective") == 1  # one stage's misses do not hide another's
    assert err.count("no call is recorded here") >= 5
    assert "hint: build without --offline, or bring in the replies: charforge record import FILE" in err


def test_what_is_recorded_is_used_and_the_nearest_is_named(build):
    assert build(ScriptedWorkshop())[0] == 0
    workshop = Offline()
    status, out, err = build(workshop, "--offline", "--set=scenes.attempts=2")
    assert status == 0, err
    assert "0 calls made" in out
    status, _out, err = build(workshop, "--offline", "--set=judge.max_tokens=99")
    assert status == 1
    assert misses(err, "scores") > 1
    assert "but max_tokens 24 → 99" in err
    assert workshop.requests == []


def test_an_interview_goes_on_with_the_other_questions(build):
    assert build(ScriptedWorkshop(), "--to", "model")[0] == 0
    workshop = Offline()
    more = ("--set=interview.limit_multi=null", "--set=interview.baselines=[openai/scripted]")
    status, _out, err = build(workshop, "--offline", *more, "--to", "interviews")
    assert status == 1
    # The trained model answered every single question; of the others each first question is missing.
    singles = len(workshop.requests)
    assert singles > 1
    assert misses(err, "interviews") > singles
