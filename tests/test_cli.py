"""The command line: what it understands, how it ends, and that it begins at once."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from charforge import __version__, cli, skeleton
from charforge.engine.errors import EngineError
from charforge.errors import CharForgeError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(capsys):
    """Run a command; return its exit status and what it printed."""

    def command(*argv):
        status = cli.main(argv)
        return (status, *capsys.readouterr())

    return command


@pytest.fixture(autouse=True)
def _width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


# -- help ------------------------------------------------------------------------------------------------------------


def test_help_names_every_command_with_what_it_does(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert re.findall(r"(?m)^    (\w+) +(.+)$", out) == [
        ("new", "write a commented spec to start from"),
        ("check", "verify a character's files, without running anything"),
        ("build", "bring characters up to date"),
        ("join", "train together with a build on another machine"),
        ("plan", "say what a build would do and cost; run nothing"),
        ("status", "say which stages are up to date"),
        ("explain", "say why stages are stale, or why they last ran"),
        ("show", "print a stage's records, readable"),
        ("stats", "count scenes, words and turns, as the paper's table does"),
        ("compare", "print evaluations side by side, with intervals"),
        ("export", "write what was built as a folder for other programs"),
        ("record", "take recorded replies elsewhere, and bring them in"),
        ("import", "bring in what others made"),
        ("lock", "write the lock from the store, or hold it against this checkout"),
        ("audit", "say what of a lock is proven, and where the first difference lies"),
        ("attest", "write what a lock names as attestations, or check one"),
        ("diff", "say in words what a change does, from spec to scores"),
        ("schema", "print the JSON Schema of a spec, for editors"),
        ("gc", "remove what no spec and no lock file reaches any more"),
    ]
    assert out.endswith("\nstart with: charforge new ada-lovelace, then charforge build ada-lovelace\n")


@pytest.mark.parametrize("name", list(cli.parser().commands))
def test_every_command_and_every_option_of_it_is_explained(run, name):
    status, out, err = run(*name.split(), "--help")
    assert (status, err) == (0, "")
    for action in cli.parser().commands[name]._actions:
        assert action.help
        assert all(option in out for option in action.option_strings)


def test_the_version_is_printed(run):
    assert run("--version") == (0, f"charforge {__version__}\n", "")


def test_without_a_command_help_goes_to_stderr_and_the_status_says_usage(run):
    status, out, err = run()
    assert (status, out) == (2, "")
    assert err.startswith("usage: charforge ")


# -- a command line that makes no sense: status 2 --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["bild"], "error: no command is called 'bild'\nhint: did you mean 'build'?\n"),
        (
            ["wash"],
            (
                "error: no command is called 'wash'\n"
                "hint: commands are new, check, build, join, plan, status, explain, show, stats, compare, export, record, import, lock, audit, attest, diff, schema, gc\n"
            ),
        ),
        (["build"], "error: the following arguments are required: SPEC\nhint: charforge build --help\n"),
        (
            ["show", "eliza"],
            "error: the following arguments are required: STAGE\nhint: charforge show --help\n",
        ),
        (
            ["build", "eliza", "-j", "0"],
            "error: argument -j/--jobs: expected a whole number of at least 1, got '0'\nhint: charforge build --help\n",
        ),
        (
            ["show", "eliza", "scenes", "-l", "all"],
            (
                "error: argument -l/--limit: expected a whole number of at least 1, got 'all'\n"
                "hint: charforge show --help\n"
            ),
        ),
        (
            ["check", "eliza", "--pre", "smoke"],
            "error: check has no option --pre\nhint: charforge check --help\n",
        ),
        (
            ["build", "eliza", "-k", "ada"],
            "error: build: one argument too many: 'ada'\nhint: arguments stand together, then options\n",
        ),
    ],
)
def test_a_command_line_that_makes_no_sense_exits_2(run, argv, error):
    assert run(*argv) == (2, "", error)


# -- how a command ends ----------------------------------------------------------------------------------------------


def failing(error):
    def command(_args):
        raise error

    return command


@pytest.mark.parametrize("kind", [CharForgeError, EngineError])
def test_a_users_mistake_exits_1_without_a_traceback(run, monkeypatch, kind):
    monkeypatch.setattr(cli, "_schema", failing(kind("the disk is full", "make room, then rerun")))
    assert run("schema") == (1, "", "error: the disk is full\nhint: make room, then rerun\n")


def test_what_the_disk_refuses_is_not_our_bug(run, monkeypatch):
    monkeypatch.setattr(cli, "_schema", failing(OSError(errno.ENOSPC, "No space left on device", "x/y")))
    assert run("schema") == (
        1,
        "",
        (
            "error: x/y: No space left on device\n"
            "hint: make room or change its permissions, then rerun; finished work is kept\n"
        ),
    )


def test_a_terminal_that_lacks_a_character_gets_it_as_an_escape(tmp_path):
    skeleton.write(tmp_path, "antonin", "Antonín Dvořák", "Dvořák")
    done = subprocess.run(
        [sys.executable, "-m", "charforge", "check", "antonin"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
    )
    assert (
        done.stdout.splitlines()[1]
        == "  characters/antonin.yaml: Anton\\xedn Dvo\\u0159\\xe1k, preset laptop"
    )


def test_a_bug_of_ours_exits_3_and_leaves_a_log_ready_to_be_reported(run, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["charforge", "schema"])
    monkeypatch.setattr(cli, "_schema", failing(ZeroDivisionError("so many scenes, no turns")))
    status, out, err = run("schema")
    (log,) = tmp_path.glob("charforge-bug-*.log")
    assert (status, out) == (3, "")
    assert err == (
        "error: ZeroDivisionError: so many scenes, no turns\n"
        f"hint: this is a bug in CharForge, not your mistake; please report it with {log}\n"
    )
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"charforge {__version__}, Python 3.")
    assert lines[1:4] == ["arguments: ['schema']", "", "Traceback (most recent call last):"]
    assert lines[-1] == "ZeroDivisionError: so many scenes, no turns"


def test_ctrl_c_exits_130_and_says_that_nothing_is_lost(run, monkeypatch):
    monkeypatch.setattr(cli, "_schema", failing(KeyboardInterrupt()))
    assert run("schema") == (130, "", "\ninterrupted; finished work is kept\n")


def test_a_reader_who_goes_away_is_no_error(tmp_path):
    skeleton.write(tmp_path, "eliza", "Eliza", "Eliza")
    done = subprocess.run(
        f"{sys.executable} -m charforge schema | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == ""
    assert done.returncode in {0, 1}


# -- it begins at once -----------------------------------------------------------------------------------------------

HEAVY = {"torch", "transformers", "litellm", "jsonschema", "yaml", "jinja2", "rich", "sqlite3", "asyncio"}


def imported(*argv, cwd=None) -> set[str]:
    """Return the top-level modules that a run of the command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "charforge", *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    modules = re.findall(r"(?m)^import time:.*\|\s*([\w.]+)$", done.stderr)
    assert "charforge.cli" in modules
    return {name.split(".")[0] for name in modules}


def test_help_imports_nothing_heavy():
    assert imported("--help") & HEAVY == set()
