"""`charforge plan`: what it says for sure is what the build then does; it spends, sends and writes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from charforge.pipeline import STAGES
from charforge.testing import ScriptedWorkshop

SCRIPTED = (
    "--preset=smoke",
    "--set=generator.model=openai/scripted",
    "--set=interview.interviewer.model=openai/scripted",
    "--set=judge.model=openai/scripted",
)
PAID = tuple(option.replace("openai/scripted", "openai/gpt-4o-mini") for option in SCRIPTED)


@pytest.fixture
def plan(run):
    """Plan, and return the lines as data, by stage."""

    def command(*more, name="eliza"):
        status, out, err = run("plan", name, "--json", *SCRIPTED, *more)
        assert (status, err) == (0, "")
        return {each["stage"].split("/")[1]: each for each in json.loads(out)["stages"]}

    return command


def to_make(line, model="openai/scripted"):
    return next(part["calls"] for part in line["models"] if part["model"] == model)


def exactly(count):
    return {"low": count, "expected": count, "high": count}


def contents(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    } | {path.relative_to(folder): None for path in folder.rglob("*") if path.is_dir()}


# --- What it says -----------------------------------------------------------------------------------------------------


def test_before_anything_is_built_what_can_be_known_is_known(plan, eliza):
    lines = plan()
    assert list(lines) == list(STAGES)
    assert {name: line["state"] for name, line in lines.items()} == {
        "profile": "to run",
        "written": "to run",
        "scenes": "to run",
        "dialogues": "not yet known",
        "protective": "to run",
        "dataset": "not yet known",
        "base": "to run",
        "model": "not yet known",
        "questions": "not yet known",
        "interviews": "not yet known",
        "metrics": "not yet known",
        "scores": "not yet known",
        "report": "not yet known",
    }
    # One attempt a scene, and still a reply may fail its checks and another place be tried.
    assert to_make(lines["scenes"]) == {"low": 2, "expected": 3, "high": 3}
    assert lines["scores"]["models"][0]["calls"]["low"] == lines["scores"]["models"][0]["calls"]["high"]


def test_what_it_says_for_sure_is_what_the_build_makes(plan, run, eliza, scripted):
    more = ("--set=judge.limit=null", "--set=interview.limit_single=null")
    lines = plan(*more)
    grades = to_make(lines["scores"])
    asked = to_make(lines["interviews"])
    assert run("build", "eliza", *SCRIPTED, *more)[0] == 0
    judged = [
        each
        for each in scripted.requests
        if each.schema and {"score", "better"} & {*each.schema["properties"]}
    ]
    assert grades == exactly(len(judged))
    interviewer = [each for each in scripted.requests if each.max_tokens == 24 and each not in judged]
    interviewer = [each for each in interviewer if each.model == "openai/scripted"]
    assert asked["low"] <= len(interviewer) <= asked["high"]
    assert lines["scenes"]["models"][0]["recorded"] == 0

    lines = plan(*more)
    assert {line["state"] for line in lines.values()} == {"up to date"}
    assert sum(part["recorded"] for line in lines.values() for part in line["models"]) == len(
        scripted.requests
    )
    assert all(part["calls"] == exactly(0) for line in lines.values() for part in line["models"])


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ("scenes.count=5", "scenes"),
        ("protective.count=4", "protective"),
        ("judge.repeats=3", "scores"),
        ("judge.max_tokens=30", "scores"),
        ("knows.until=1913-01-01", "scenes"),
    ],
)
def test_after_a_change_the_calls_recorded_and_to_make_are_the_build_s(
    plan, run, eliza, scripted, change, stage
):
    assert run("build", "eliza", *SCRIPTED)[0] == 0
    line = plan("--set", change)[stage]
    assert line["state"] == "to run"
    (part,) = line["models"]
    scripted.requests.clear()
    status, _out, err = run("build", "eliza", *SCRIPTED, "--set", change, "--to", stage)
    assert status == 0, err
    # The script is accepted at the first draw, so the low figure is the true one.
    assert part["calls"]["low"] == len(scripted.requests)
    assert f"{part['calls']['low']} calls made, {part['recorded']} replayed" in err


def test_a_stage_behind_one_that_replays_is_known(plan, run, eliza, edit, scripted):
    assert run("build", "eliza", *SCRIPTED)[0] == 0
    # Another version of the same words: the scenes run again, from what is recorded, and are the same.
    lines = plan("--set", "scenes.attempts=3")
    assert lines["scenes"]["state"] == "to run"
    assert to_make(lines["scenes"]) == exactly(0)
    assert lines["dialogues"]["state"] == "up to date"
    assert lines["scores"]["state"] == "up to date"


def test_dialogues_of_scenes_that_are_there_already_are_counted_as_recorded(plan, run, eliza, scripted):
    assert run("build", "eliza", *SCRIPTED)[0] == 0
    line = plan("--set", "scenes.count=6")["dialogues"]
    assert line["state"] == "not yet known"
    (part,) = line["models"]
    assert part["recorded"] == 2
    assert part["calls"]["low"] == 4


def test_a_baseline_s_answers_are_recorded_whatever_the_model_will_be(plan, run, eliza, scripted):
    more = ("--set=interview.baselines=[openai/another]", "--set=interview.limit_multi=0")
    assert run("build", "eliza", *SCRIPTED, *more)[0] == 0
    line = plan(*more, "--set", "train.epochs=3")["interviews"]
    assert line["state"] == "not yet known"
    parts = {part["model"]: part for part in line["models"]}
    assert parts["openai/another"]["recorded"] == 4
    assert parts["openai/another"]["calls"] == exactly(0)
    assert parts["local/eliza"]["calls"] == exactly(4)


def test_tokens_are_those_of_recorded_calls(plan, run, eliza, scripted):
    (part,) = plan()["scenes"]["models"]
    assert part["prompt_basis"] == "2 prompts, 4 characters a token"
    assert part["reply_basis"].endswith("tokens a reply, assumed")
    assert run("build", "eliza", *SCRIPTED, "--set=scenes.count=4")[0] == 0
    (part,) = plan("--set", "scenes.count=6")["scenes"]["models"]
    assert part["prompt_basis"] == part["reply_basis"] == "4 recorded calls of scenes"
    assert part["prompt_tokens"]["low"] == 100 * part["calls"]["low"]
    (part,) = plan("--set", "scenes.count=6", "--set", "generator.model=openai/b")["scenes"]["models"]
    assert part["prompt_basis"] == "4 recorded calls of scenes to other models"


def test_draws_are_those_of_the_last_build(plan, run, eliza, scripted):
    more = ("--set=scenes.count=4", "--set=scenes.attempts=3")
    assert plan(*more)["scenes"]["basis"] == "1.3 draws a record, assumed"
    assert run("build", "eliza", *SCRIPTED, *more)[0] == 0
    line = plan("--set=scenes.count=8", "--set=scenes.attempts=3")["scenes"]
    assert line["basis"] == "1.00 draws a record, as in the last build"
    assert to_make(line) == {"low": 4, "expected": 4, "high": 12}


# --- Money ------------------------------------------------------------------------------------------------------------


def test_unknown_prices_are_shown_as_unknown(run, eliza):
    status, out, err = run("plan", "eliza", *SCRIPTED, "--to", "dialogues")
    assert (status, err) == (0, "")
    (row,) = [line for line in out.splitlines() if line.startswith("  scenes ")]
    assert row.endswith("  unknown")
    assert '  price unknown: openai/scripted; endpoints.toml may say ["openai/scripted"] price = ' in out
    assert "--max-cost" not in out
    assert "$" not in out


def test_the_user_s_own_price_counts(run, eliza, tmp_path, monkeypatch):
    file = tmp_path / "endpoints.toml"
    file.write_text('["openai/scripted"]\nprice = {input = 1000, output = 2000}\n')
    monkeypatch.setenv("CHARFORGE_ENDPOINTS", str(file))
    status, out, err = run("plan", "eliza", *SCRIPTED, "--to", "scenes", "--json")
    assert (status, err) == (0, "")
    data = json.loads(out)
    (part,) = data["stages"][-1]["models"]
    # Prompts and replies as rendered and assumed: dollars a thousand tokens, near enough.
    low = part["prompt_tokens"]["low"] + 2 * part["completion_tokens"]["low"]
    assert part["cost"]["low"] == pytest.approx(low / 1000, rel=0.02)
    assert part["cost"]["low"] <= part["cost"]["expected"] <= part["cost"]["high"]
    assert data["total"]["cost"] == part["cost"]
    assert data["total"]["unknown_prices"] == []


def test_the_table_ends_with_the_total_and_a_limit(run, eliza):
    status, out, err = run("plan", "eliza", *PAID)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "eliza"
    assert all(len(line) <= 100 for line in lines)
    assert any(line.startswith("total ") and "$" in line for line in lines)
    assert lines[-1] == "charforge build eliza --max-cost 1 stops before it costs more than $1"


def test_local_models_cost_nothing(run, eliza):
    status, out, err = run("plan", "eliza", "--preset", "smoke")
    assert (status, err) == (0, "")
    assert "$" not in out
    assert next(line for line in out.splitlines() if line.startswith("total ")).endswith("  local")


def test_several_characters_are_planned_together(run, eliza):
    eliza.with_name("ada.yaml").write_text(eliza.read_text())
    status, out, err = run("plan", *SCRIPTED, "--to", "scenes")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == [
        "ada",
        "eliza",
        "total",
    ]


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_a_stage_that_is_sure_to_fail_is_told_with_its_error(run, eliza, edit):
    edit(eliza.parent / "written" / "eliza.md", "Paragraphs: ", "Paragraphs: nowhere, ")
    status, out, err = run("plan", "eliza", *SCRIPTED, "--to", "dataset")
    assert status == 1
    assert "  written     would fail\n" in out
    assert "  dataset     not yet known\n" in out
    assert err.startswith("error: characters/written/eliza.md:")


def test_a_yield_that_is_sure_to_be_too_small_is_told(run, eliza, monkeypatch):
    class Rambling(ScriptedWorkshop):
        async def complete(self, request, weights):
            return replace(await super().complete(request, weights), text="Hm.")

    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: Rambling())
    more = ("--set=scenes.min_yield=1", "--to", "scenes")
    status, _out, built = run("build", "eliza", *SCRIPTED, *more)
    assert status == 1
    status, out, err = run("plan", "eliza", *SCRIPTED, *more)
    assert status == 1
    assert "  scenes      would fail " in out
    assert err.startswith("error: eliza: scenes: 0 of 2 were accepted, expected at least 2")
    assert err in built


def test_a_stage_that_is_not_there(run, eliza):
    assert run("plan", "eliza", "--to", "sceens") == (
        2,
        "",
        "error: --to: no stage is called 'sceens'\nhint: did you mean 'scenes'?\n",
    )


# --- What it does not do ------------------------------------------------------------------------------------------------


@pytest.fixture
def _no_sockets(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a socket was asked for")

    # asyncio's own loop needs a pair that leads nowhere but into itself.
    real = socket.socketpair
    monkeypatch.setattr(socket, "socketpair", lambda *_: real(socket.AF_UNIX))
    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.mark.usefixtures("_no_sockets")
@pytest.mark.parametrize("built", ["never", "whole", "in part"])
def test_it_uses_no_network_and_writes_nothing(run, eliza, scripted, tmp_path, monkeypatch, built):
    if built != "never":
        assert run("build", "eliza", *SCRIPTED, *(("--to", "scenes") if built == "in part" else ()))[0] == 0
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-that-would-work")
    asked = len(scripted.requests)
    before = contents(tmp_path)
    for more in ((), ("--set", "scenes.count=5"), ("--set", "generator.model=openai/gpt-4o-mini")):
        assert run("plan", "eliza", *SCRIPTED, *more)[0] == 0
        assert run("plan", "eliza", *SCRIPTED, *more, "--json")[0] == 0
    assert contents(tmp_path) == before
    assert len(scripted.requests) == asked
    assert scripted.jobs == [] or built == "whole"


def test_it_plans_from_what_a_killed_build_left(run, eliza, tmp_path):
    script = tmp_path / "die.py"
    script.write_text(
        "import os, signal, sys\n"
        "import charforge.workshop\n"
        "from charforge.cli import main\n"
        "from charforge.testing import ScriptedWorkshop\n"
        "class Killed(ScriptedWorkshop):\n"
        "    async def complete(self, request, weights):\n"
        "        if len(self.requests) == 3:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return await super().complete(request, weights)\n"
        "charforge.workshop.LocalWorkshop = lambda **_options: Killed()\n"
        f"main(['build', 'eliza', '-j', '1', *{list(SCRIPTED)!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env={**os.environ}, check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = contents(tmp_path)
    status, out, _err = run("plan", "eliza", "--json", *SCRIPTED)
    assert status == 0
    # -j 1 makes a call durable before the next begins; the one in flight is lost.
    assert json.loads(out)["total"]["recorded"] in {2, 3}
    assert contents(tmp_path) == before


def test_it_works_where_nothing_may_be_written(run, eliza, scripted):
    assert run("build", "eliza", *SCRIPTED)[0] == 0
    root = eliza.parents[1]
    paths = [root / ".charforge", *(root / ".charforge").rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert run("plan", "eliza", *SCRIPTED)[0] == 0
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


def test_nothing_heavy_is_loaded(eliza, tmp_path):
    code = (
        "import sys\nfrom charforge.cli import main\n"
        f"status = main(['plan', 'eliza', *{list(PAID)!r}])\n"
        "heavy = {'torch', 'transformers', 'litellm', 'aiohttp'}\n"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_workspace_can_be_anywhere(run, eliza, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run("plan", str(Path("..", "characters", "eliza.yaml")), *SCRIPTED)[0] == 0
