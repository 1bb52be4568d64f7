"""JSON from a stranger: a list, or values one after another, each with its line; or every problem at once.

Strict on purpose: no NaN, no key that is there twice, limits on depth and on the number of values. Whoever calls has limited the
size. A line that is no JSON does not hide the others: it is a problem, and reading goes on. Knows nothing of what values mean.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from charforge.errors import FileProblems, Problem
from charforge.files import decode, excerpt, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 64
MAX_VALUES = 100_000
"""Of one file. The interviews of one system are a few hundred."""
MAX_PROBLEMS = 200
"""After which reading ends: the file is another thing."""
MAX_INNER = 500_000
"""Values within values of one text. An empty list takes three characters there and 64 bytes here."""
_SPACE = " \t\r\n"
_SPACES = re.compile(f"[{_SPACE}]+")
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)?', re.DOTALL)


class Entry(NamedTuple):
    """One value. `line` is where it begins, from 1; `place` is how a message names it: `line 3` or `item 3`."""

    line: int
    place: str
    value: Any


def entries(data: bytes, file: str) -> list[Entry]:
    """Return the items of a JSON list, or the values of JSON lines; values over several lines may follow each other too.

    Raises FileProblems with everything that is wrong; `file` is the name that problems use.
    """
    text = _text(data, file)
    if crowded(text):
        raise FileProblems([Problem(file, None, None, f"more than {MAX_INNER:,} values")])
    problems: list[Problem] = []
    found: list[Entry] = []
    begins = text.lstrip(_SPACE)[:1]
    if begins == "[":
        read = _items(text, file, problems)
    elif begins == "{" and not _one_a_line(text):
        read = _values(text, file, problems)
    else:
        read = _lines(text, file, problems)
    for entry in read:
        if len(found) == MAX_VALUES:
            problems.append(Problem(file, entry.line, None, f"more than {MAX_VALUES:,} records"))
            break
        found.append(entry)
        if len(problems) >= MAX_PROBLEMS:
            break
    if not found and not problems:
        problems.append(Problem(file, None, None, "there is nothing in it"))
    if problems:
        raise FileProblems(problems)
    return found


def crowded(text: str, most: int = MAX_INNER) -> bool:
    """Whether a text, taken for JSON, could hold more than `most` values, which is found without making any."""

    def marks(text: str) -> int:
        return text.count(",") + text.count("[") + text.count("{")

    return marks(text) > most and marks(_STRING.sub("", text)) > most


def _text(data: bytes, file: str) -> str:
    """Return the text. A character that does not print is no fault of JSON's: inside a string it is data."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = decode(data, file)  # which says where it is
    # No string of JSON holds a raw line end, so this changes none.
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _one_a_line(text: str) -> bool:
    """Whether the first line that is not empty is a value by itself."""
    first = next(line for line in text.split("\n") if line.strip(_SPACE))
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        # Wrong in itself, or the beginning of something longer: a record's end on a later line tells.
        return first.rstrip(_SPACE).endswith("}")
    return True


def _lines(text: str, file: str, problems: list[Problem]) -> Iterator[Entry]:
    at = _skip(text, 0)
    number, counted = 1, 0
    while at < len(text) and len(problems) < MAX_PROBLEMS:
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        number, counted = number + text.count("\n", counted, at), at
        line, at = text[at:end].rstrip(_SPACE), _skip(text, end)
        try:
            value = _DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            problems.append(_wrong(file, number, error, line))
        else:
            if problem := _too_deep(value, file, number):
                problems.append(problem)
            else:
                yield Entry(number, f"line {number}", value)


def _items(text: str, file: str, problems: list[Problem]) -> Iterator[Entry]:
    """Yield the items of a list. What is wrong within it ends the reading: nothing says where the next one begins."""
    at = _skip(text, text.index("[") + 1)
    line, counted, number = 1, 0, 0
    while not text.startswith("]", at):
        line, counted, number = line + text.count("\n", counted, at), at, number + 1
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            problems.append(_wrong(file, *_where(text, at, error)))
            return
        if problem := _too_deep(value, file, line):
            problems.append(problem)
        else:
            yield Entry(line, f"item {number}", value)
        at = _skip(text, at)
        if text.startswith(",", at):
            at = _skip(text, at + 1)
        elif not text.startswith("]", at):
            what = "the list does not end" if at == len(text) else "expected ',' or ']'"
            problems.append(_wrong(file, *_where(text, at, ValueError(what))))
            return
    rest = _skip(text, at + 1)
    if rest < len(text):
        problems.append(_wrong(file, *_where(text, rest, ValueError("something follows the list"))))


def _values(text: str, file: str, problems: list[Problem]) -> Iterator[Entry]:
    """Yield values that follow each other, each over several lines."""
    at = _skip(text, 0)
    line, counted, number = 1, 0, 0
    while at < len(text):
        line, counted, number = line + text.count("\n", counted, at), at, number + 1
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            problems.append(_wrong(file, *_where(text, at, error)))
            return
        if problem := _too_deep(value, file, line):
            problems.append(problem)
        else:
            yield Entry(line, f"item {number}", value)
        at = _skip(text, at)


def _skip(text: str, at: int) -> int:
    found = _SPACES.match(text, at)
    return found.end() if found else at


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _whole(digits: str) -> int:
    if len(digits) > 400:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number too large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key '{visible(twice)[:60]}' is there twice")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_number, parse_int=_whole, parse_float=_real
)


def _where(text: str, at: int, error: Exception) -> tuple[int, Exception, str]:
    at = error.pos if isinstance(error, json.JSONDecodeError) else at
    begin = text.rfind("\n", 0, at) + 1
    return text.count("\n", 0, at) + 1, error, text[begin : begin + 1000].partition("\n")[0]


def _wrong(file: str, line: int, error: Exception, shown: str) -> Problem:
    if isinstance(error, RecursionError):
        return _deep(file, line)
    what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return Problem(
        file,
        line,
        None,
        f"not JSON: {visible(what)[:120]}",
        excerpt(shown),
        "is the file whole? fetch it again",
    )


def _deep(file: str, line: int) -> Problem:
    return Problem(file, line, None, f"nested more than {MAX_DEPTH} levels deep")


def _too_deep(value: Any, file: str, line: int) -> Problem | None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return None
    return _deep(file, line)
