"""CSV from a stranger: each row with its line, or every problem at once. Knows nothing of what values mean."""

from __future__ import annotations

import csv
import io

from charforge.errors import FileProblems, Problem
from charforge.files import decode
from charforge.safe_json import MAX_PROBLEMS, MAX_VALUES, Entry


def entries(data: bytes, file: str, wanted: tuple[str, ...]) -> list[Entry]:
    """Return the rows as objects, by the words of the first line in small letters, `wanted` among them.

    Raises FileProblems with everything that is wrong; `file` is the name that problems use.
    """
    rows = csv.reader(io.StringIO(decode(data, file), newline=""), strict=True)
    found: list[Entry] = []
    problems: list[Problem] = []
    head: list[str] = []
    line = 0
    try:
        for row in rows:
            begins, line = line + 1, rows.line_num
            if not head:
                head = [word.strip().casefold() for word in row]
                if not {*wanted} <= {*head}:
                    message = f"the first line names no {' and '.join(wanted)}"
                    problems.append(Problem(file, 1, None, message, None, f"such as: {','.join(wanted)}"))
                    break
            elif not any(row):
                continue
            elif len(row) == len(head):
                found.append(Entry(begins, f"line {begins}", dict(zip(head, row, strict=True))))
            else:
                message = f"{len(row)} values, and the first line names {len(head)}"
                problems.append(
                    Problem(file, begins, None, message, None, "a value with a comma needs quotes")
                )
            if len(found) > MAX_VALUES:
                problems.append(Problem(file, begins, None, f"more than {MAX_VALUES:,} records"))
            if len(found) > MAX_VALUES or len(problems) >= MAX_PROBLEMS:
                break
    except csv.Error as error:
        problems.append(Problem(file, rows.line_num, None, f"not CSV: {error}"))
    if problems:
        raise FileProblems(problems)
    return found
