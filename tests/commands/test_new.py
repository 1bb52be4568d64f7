"""`charforge new`: from flags, from answers, and never a question that nobody is there to answer."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from datetime import date

import pytest

from charforge.check import check


@pytest.fixture(autouse=True)
def _today(monkeypatch):
    monkeypatch.setattr("charforge.commands.new._today", lambda: "2026-11-23")


def checked(tmp_path):
    return check(tmp_path / "characters/ada.yaml", tmp_path, today=date(2026, 11, 23))


class Terminal(io.StringIO):
    """A stdin or stderr that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def ask(monkeypatch, run):
    """Run `new` at a terminal with these answers; return its exit status and what it printed to stderr."""

    def command(*argv, answers=()):
        told = Terminal()
        monkeypatch.setattr("sys.stdin", Terminal("".join(f"{answer}\n" for answer in answers)))
        monkeypatch.setattr("sys.stderr", told)
        status = run("new", *argv)[0]
        return status, told.getvalue()

    return command


def test_flags_say_everything(run, tmp_path):
    flags = {
        "--name": "Ada Lovelace",
        "--short-name": "Ada",
        "--portrays": "historical",
        "--notice": "Letters are quoted: none.",
        "--until": "1852-11-27",
        "--licence": "own work",
        "--source": "Her letters, and the census.",
    }
    assert run("new", "ada", *(word for pair in flags.items() for word in pair))[0] == 0
    spec = (tmp_path / "characters/ada.yaml").read_text()
    for line in (
        "name: Ada Lovelace\n",
        "portrays: historical\n",
        'notice: "Letters are quoted: none." ',
        "  until: 1852-11-27 ",
    ):
        assert line in spec
    profile = (tmp_path / "characters/profiles/ada.md").read_text()
    assert "licence: own work\nsource: Her letters, and the census.\n" in profile
    assert "1900-01-01" not in spec


def test_of_a_living_person_the_boundary_is_today_and_there_is_a_notice(run, tmp_path):
    assert run("new", "ada", "--portrays", "living")[0] == 0
    found = checked(tmp_path)
    assert found.spec.knows.until == "2026-11-23"
    assert found.spec.notice == "An imitation of a living person, made by somebody else."


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (
            ["--portrays", "dead"],
            "error: portrays: expected one of historical, living, fictional, nothing, got 'dead'\n",
        ),
        (["--until", "1852-11"], "error: knows.until: expected a date such as 1827-03-26, got '1852-11'\n"),
        (["--until", "1852-02-30"], "error: knows.until: '1852-02-30' is not a day of the calendar\n"),
        (["--licence", " "], "error: licence: expected text on one line that prints, got ' '\n"),
        (["--source", "a\nb"], "error: source: expected text on one line that prints, got 'a\\nb'\n"),
        (
            ["--notice", "x\x1b[2J"],
            (
                "error: notice: expected text of 1 to 500 printable characters on one line, or null, got 'x\\x1b[2J'\n"
            ),
        ),
    ],
)
def test_what_a_file_could_not_say_is_refused(run, tmp_path, flags, error):
    assert run("new", "ada", *flags) == (1, "", error)
    assert not (tmp_path / "characters").exists()


def test_without_a_terminal_it_wants_an_id_and_asks_nothing(run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("ada\n" * 20))
    assert run("new") == (
        2,
        "",
        "error: the following arguments are required: ID\nhint: charforge new --help\n",
    )
    assert run("new", "ada")[0] == 0


def test_with_a_flag_it_asks_nothing(ask):
    assert ask("ada", "--until", "1852-11-27") == (
        0,
        "next: edit them, then charforge check ada, and charforge build ada\n",
    )


def test_at_a_terminal_it_asks_and_asks_again(ask, tmp_path):
    status, told = ask(
        answers=[
            "",
            "Ada Lovelace",
            "ada",
            "Ada King",
            "",
            "alive",
            "living",
            "She was asked and agreed.",
            "yesterday",
            "2020-05-01",
            "CC-BY-4.0",
            "A talk with her.",
        ]
    )
    assert status == 0
    assert told == (
        "An empty answer takes what stands in brackets.\n"
        "file's name, such as ada-lovelace: error: expected an id such as ludwig-van-beethoven, got ''\n"
        "hint: the id is the spec's file name: small letters, digits and '-', at most 64\n"
        "file's name, such as ada-lovelace: error: expected an id such as ludwig-van-beethoven, got 'Ada Lovelace'\n"
        "hint: the id is the spec's file name: small letters, digits and '-', at most 64\n"
        "file's name, such as ada-lovelace: full name [Ada]: name in dialogues [King]: "
        "historical, living or fictional [historical]: "
        "error: portrays: expected one of historical, living, fictional, nothing, got 'alive'\n"
        "historical, living or fictional [historical]: "
        "notice to readers [An imitation of a living person, made by somebody else.]: "
        "last day it can know of, year-month-day [2026-11-23]: "
        "error: knows.until: expected a date such as 1827-03-26, got 'yesterday'\n"
        "last day it can know of, year-month-day [2026-11-23]: "
        "licence of the profile [CC0-1.0]: where the facts are from [Say where the facts are from.]: "
        "next: edit them, then charforge check ada, and charforge build ada\n"
    )
    found = checked(tmp_path)
    assert (found.spec.name, found.spec.short_name) == ("Ada King", "King")
    assert (found.spec.portrays, found.spec.notice) == ("living", "She was asked and agreed.")


def test_an_id_that_is_taken_is_told_before_anything_else_is_asked(ask, eliza):
    assert eliza.is_file()
    status, told = ask("eliza", answers=["x"] * 9)
    assert status == 1
    assert "there already" in told
    assert "full name" not in told


def test_where_answers_end_nothing_is_written(ask, tmp_path):
    status, told = ask("ada", answers=["Ada"])
    assert status == 1
    assert told.endswith("error: no answer: nothing was written\nhint: or give flags: charforge new --help\n")
    assert not (tmp_path / "characters").exists()


def test_at_a_real_terminal(tmp_path):
    outer, inner = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "charforge", "new", "ada"],
        cwd=tmp_path,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        close_fds=True,
    ) as process:
        os.close(inner)
        os.write(outer, b"\n" * 6)
        shown = b""
        while True:
            try:
                piece = os.read(outer, 4096)
            except OSError:  # EIO: the other side is closed
                break
            if not piece:
                break
            shown += piece
    os.close(outer)
    assert process.returncode == 0, shown
    assert b"full name [Ada]: " in shown
    assert checked(tmp_path).spec.name == "Ada"
