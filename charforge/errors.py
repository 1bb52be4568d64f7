"""The errors a user can cause, and how they read.

One policy: an expected error is a `CharForgeError`; the command line prints it without a
traceback and exits 1. Anything else is our bug and exits 3. This module knows nothing of
specs, stores or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

MAX_PROBLEMS = 50
"""Of one file that are shown; the others are counted."""


class CharForgeError(Exception):
    """Something the user can mend.

    `message` says where, what, and what was expected, on one line; `hint` says what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def render(self) -> str:
        """Return the text shown to the user, without a trailing newline."""
        lines = [f"error: {self.message}"]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class UsageError(CharForgeError):
    """The command line itself does not make sense; exits 2."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one file. `line` counts from 1; None where no line applies."""

    file: str
    line: int | None
    key: str | None
    message: str
    excerpt: str | None = None
    hint: str | None = None

    def render(self) -> str:
        """Return the problem as `error: file:line: key: message`, the offending line, and the hint."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        key = f" {self.key}:" if self.key else ""
        lines = [f"error: {where}:{key} {self.message}"]
        if self.excerpt is not None and self.line is not None:
            lines.append(f"  {self.line} | {self.excerpt}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class FileProblems(CharForgeError):
    """All problems of the files that were read, reported at once, in file and line order, each once."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line or 0))
        super().__init__(f"{len(self.problems)} problem(s)")

    def render(self) -> str:
        """Return each problem, separated by an empty line; of each file at most 50, and how many more there are."""
        texts = []
        for file, problems in groupby(self.problems, key=lambda p: p.file):
            found = list(problems)
            texts += [problem.render() for problem in found[:MAX_PROBLEMS]]
            if len(found) > MAX_PROBLEMS:
                texts.append(f"… and {len(found) - MAX_PROBLEMS:,} more in {file}")
        return "\n\n".join(texts)
