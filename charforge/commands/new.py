"""`charforge new`: the files of a new character, from flags, or from answers where a person sits at a terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from charforge import skeleton
from charforge.errors import CharForgeError, UsageError
from charforge.skeleton import Told

_FLAGS = ("name", "short_name", "portrays", "notice", "until", "licence", "source")
_MAX_ANSWER = 2000  # characters


def run(args: argparse.Namespace) -> int:
    """Write a commented spec with its profile, questions and written experience to start from."""
    given = {flag: getattr(args, flag) for flag in _FLAGS if getattr(args, flag) is not None}
    # Whoever gives flags knows what they want, and a script must never be left hanging at a question.
    if not given and sys.stdin.isatty() and sys.stderr.isatty():
        id_, name, short_name, told = _asked(args.id)
    elif args.id is None:
        raise UsageError("the following arguments are required: ID", "charforge new --help")
    else:
        id_ = args.id
        name = given.pop("name", _name(id_))
        short_name = given.pop("short_name", _short(name))
        told = _told(given)
    for path in skeleton.write(Path.cwd(), id_, name, short_name, told):
        print(os.path.relpath(path))
    print(f"next: edit them, then charforge check {id_}, and charforge build {id_}", file=sys.stderr)
    return 0


def _told(given: dict[str, str]) -> Told:
    """Return what flags say. Of a living person the boundary is today, where they do not say it."""
    today = {"until": _today()} if given.get("portrays") == "living" else {}
    return Told(**{**today, **given})


def _name(id_: str) -> str:
    return " ".join(word.capitalize() for word in id_.split("-"))


def _short(name: str) -> str:
    return name.rsplit(" ", maxsplit=1)[-1]


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


# --- Asking --------------------------------------------------------------------------------------------------------------


def _asked(id_: str | None) -> tuple[str, str, str, Told]:
    """Ask for everything, each until it can be used. Nothing is written meanwhile. Raises CharForgeError at the input's end."""
    print("An empty answer takes what stands in brackets.", file=sys.stderr)
    folder = Path.cwd()

    def free(answer: str) -> None:
        skeleton.check(answer, "x", "x", Told())
        skeleton.free(folder, answer)

    if id_ is None:
        id_ = _ask("file's name, such as ada-lovelace", None, free)
    else:
        free(id_)
    name = _ask("full name", _name(id_), lambda answer: skeleton.check(id_, answer, "x", Told()))
    short_name = _ask(
        "name in dialogues", _short(name), lambda answer: skeleton.check(id_, name, answer, Told())
    )
    told = Told()

    def field(key: str, question: str, default: str) -> None:
        nonlocal told

        def sound(answer: str) -> None:
            skeleton.check(id_, name, short_name, replace(told, **{key: answer}))

        told = replace(told, **{key: _ask(question, default, sound)})

    field("portrays", "historical, living or fictional", told.portrays)
    if told.portrays == "living":
        field("notice", "notice to readers", skeleton.NOTICE)
    field(
        "until",
        "last day it can know of, year-month-day",
        _today() if told.portrays == "living" else told.until,
    )
    field("licence", "licence of the profile", told.licence)
    field("source", "where the facts are from", told.source)
    return id_, name, short_name, told


def _ask(question: str, default: str | None, sound: Callable[[str], Any]) -> str:
    """Return an answer that `sound` raises no CharForgeError for."""
    shown = "" if default is None else f" [{default}]"
    while True:
        print(f"{question}{shown}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline(_MAX_ANSWER)
        if not line:
            print(file=sys.stderr)
            raise CharForgeError("no answer: nothing was written", "or give flags: charforge new --help")
        answer = line.strip() or (default or "")
        try:
            sound(answer)
        except CharForgeError as error:
            print(error.render(), file=sys.stderr)
        else:
            return answer
