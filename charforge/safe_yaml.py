"""YAML from a stranger: plain values with the line of every key, or every problem at once.

Strict on purpose: no tags, no duplicate keys, keys are text, limits on size, depth and the number of values
after aliases are expanded. Scalars follow the YAML 1.2 core schema (10.3.2), not 1.1: `no` and `1827-03-26` are
text, `1e-4` is a number. libyaml composes where it is there (0.1 ms for 50 lines); PyYAML's own parser is
the fallback, with the same answers. This module knows nothing of specs.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from charforge.errors import FileProblems, Problem
from charforge.files import MIB, excerpt, read_text, visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KeyPath = tuple[str | int, ...]
"""Where a value is: keys and list positions from the top."""

MAX_BYTES = MIB
MAX_DEPTH = 32
MAX_VALUES = 20_000
MAX_SHOWN = 60
_LARGEST = 2**53 - 1  # the largest integer that canonical JSON (RFC 8785) carries exactly

_CORE = re.compile(
    r"(?P<null>~|null|Null|NULL|)"
    r"|(?P<true>true|True|TRUE)|(?P<false>false|False|FALSE)"
    r"|(?P<int>[-+]?[0-9]+)|(?P<oct>0o[0-7]+)|(?P<hex>0x[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<infinite>[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
_FIRST = frozenset("~nNtTfF0123456789+-.")  # what a scalar that is not text can begin with
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")


@dataclass(frozen=True)
class Document:
    """A loaded file. `marks` has the line of each path's key and the line of its value, counted from 1.

    A document made from a `--set` option has marks without lines. `bad` has the paths whose values were wrong by
    themselves and are None now, where the reader wanted to go on.
    """

    file: str
    value: Any
    text: str
    marks: dict[KeyPath, tuple[int | None, int | None]]
    bad: frozenset[KeyPath] = frozenset()

    def problem(
        self,
        path: KeyPath,
        message: str,
        hint: str | None = None,
        *,
        at_key: bool = False,
        hide: bool = False,
    ) -> Problem:
        """Return a problem at `path`, or at the nearest value around it that the file has.

        `at_key`: the key itself is wrong, not its value. `hide`: the value may be a secret and is not shown.
        """
        line = self.line(path, at_key=at_key)
        shown = None
        if line is not None:
            shown = excerpt(self.lines[line - 1])
            if hide:
                shown = shown.partition(":")[0] + ": [not shown]"
        return Problem(self.file, line, key_text(path) or None, message, shown, hint)

    @cached_property
    def lines(self) -> list[str]:
        return _lines(self.text)

    def line(self, path: KeyPath, *, at_key: bool = False) -> int | None:
        """Return the line of the value at `path` (of its key, for a list or mapping); None where none is known."""
        while path:
            if path in self.marks:
                key_line, value_line = self.marks[path]
                return key_line if at_key else value_line
            path, at_key = path[:-1], True
        return None


def _lines(text: str) -> list[str]:
    # The same line breaks as YAML 1.2's and no others: splitlines() would count form feeds too.
    return re.split("[\n\x85\u2028\u2029]", text)


def key_text(path: KeyPath) -> str:
    """Return a path as users read it: `train.method`, `single[3].question`; odd keys are quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += "." * bool(text) + (step if _PLAIN_KEY.fullmatch(step) else shown(step))
    return text


def scalar(text: str) -> str:
    """Return text as YAML that means it: plain where it means the same plain, else in quotes."""
    try:
        if parse(f"key: {text} # comment", "").value == {"key": text}:
            return text
    except FileProblems:
        pass
    return json.dumps(text, ensure_ascii=False)  # JSON's strings are YAML's double-quoted ones


def shown(value: Any) -> str:
    """Return a value as messages show it: short, on one line, with nothing a terminal would obey."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value if len(value) <= MAX_SHOWN else value[: MAX_SHOWN - 1] + "…")
        case list():
            return "a list"
        case dict():
            return "keys and values"
    return visible(str(value))


def load(path: Path, file: str, *, problems: list[Problem] | None = None) -> Document:
    """Read and parse a YAML file of at most 1 MiB, which is checked before it is read; else as `parse`."""
    return parse(read_text(path, file, MAX_BYTES), file, problems=problems)


def parse(text: str, file: str, *, problems: list[Problem] | None = None) -> Document:
    """Parse YAML text that `charforge.files.decode` has passed. `file` is the name that problems use.

    Raises FileProblems with every problem. With `problems`, those of single values (a duplicate key, a tag) are
    appended there instead, so that the caller can look at the rest; broken YAML raises all the same.
    """
    import yaml

    builder = _Builder(file, text)
    try:
        node = _loader()(text).get_single_node()
        value = None if node is None else builder.value(node, (), 0)
    except _OverLimitError as error:
        raise builder.failure(error.line, error.message, error.hint) from None
    except RecursionError:  # the fallback parser, before our own limit is reached
        raise builder.failure(None, f"nested more than {MAX_DEPTH} levels deep") from None
    except UnicodeEncodeError:  # no file's text, but a command line's may be: bytes there need not be UTF-8
        raise builder.failure(None, "not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise builder.syntax(error) from None
    except yaml.YAMLError as error:
        raise builder.failure(None, f"not valid YAML: {visible(str(error))[:200]}") from None
    if node is None:
        raise builder.failure(None, "the file is empty")
    if builder.problems and problems is None:
        raise FileProblems(builder.problems)
    if problems is not None:
        problems += builder.problems
    return Document(file, value, text, builder.marks, frozenset(builder.bad))


class _OverLimitError(Exception):
    def __init__(self, line: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.line, self.message, self.hint = line, message, hint


class _Tag:
    """What `resolve` gives an untagged node. No text a file can hold equals it, so a `str` tag is an explicit one."""


_PLAIN, _QUOTED = _Tag(), _Tag()


class _Limits:
    """The composer's resolver, called by libyaml's composer and by PyYAML's for each node on the way down."""

    depth = 0
    count = 0

    def descend_resolver(self, parent: Any, _index: Any) -> None:
        self.depth += 1
        self.count += 1
        # The composer recurses in C and would overflow its stack, so depth must stop it here.
        if self.depth > MAX_DEPTH:
            raise _OverLimitError(parent.start_mark.line + 1, f"nested more than {MAX_DEPTH} levels deep")
        if self.count > MAX_VALUES:
            raise _OverLimitError(parent.start_mark.line + 1, f"more than {MAX_VALUES:,} values")

    def ascend_resolver(self) -> None:
        self.depth -= 1

    def resolve(self, _kind: Any, _value: Any, implicit: Any) -> _Tag:
        # For a scalar `implicit` is (plain, quoted); for a collection it says nothing that matters here.
        return _QUOTED if isinstance(implicit, tuple) and not implicit[0] else _PLAIN


@cache
def _loader(*, fast: bool = True) -> Any:
    """Return a class of one text with `get_single_node`. `fast=False` is for the fallback's tests."""
    if fast:
        try:
            from yaml._yaml import CParser
        except ImportError:
            pass
        else:

            class Fast(_Limits, CParser):
                pass

            return Fast

    from yaml.composer import Composer
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class Slow(_Limits, Reader, Scanner, Parser, Composer):
        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)
            Composer.__init__(self)

    return Slow


class _Builder:
    """Turns composed nodes into plain values, collecting marks and problems on the way."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.lines = _lines(text)
        self.count = 0
        self.length = 0
        self.marks: dict[KeyPath, tuple[int | None, int | None]] = {}
        self.bad: set[KeyPath] = set()
        self.problems: list[Problem] = []

    def value(self, node: Any, path: KeyPath, depth: int) -> Any:
        line = node.start_mark.line + 1
        self.count += 1
        if self.count > MAX_VALUES:  # the composer's count was lower: aliases made the difference
            message = f"aliases expand to more than {MAX_VALUES:,} values"
            raise _OverLimitError(line, message, "write the values out instead of repeating aliases")
        if depth > MAX_DEPTH:  # likewise: an alias inside its own anchor never ends
            raise _OverLimitError(line, f"aliases nest more than {MAX_DEPTH} levels deep")
        content = node.value
        if isinstance(node.tag, str):
            tag = "!!" + node.tag.removeprefix("tag:yaml.org,2002:") if ":" in node.tag else node.tag
            self.add(line, path, f"tags are not allowed, found {visible(tag)[:MAX_SHOWN]}", "delete the tag")
            return None
        if isinstance(content, str):
            self.measure(content, line)
            return self.scalar(content, path, line) if node.tag is _PLAIN else content
        if node.id == "sequence":
            values = []
            for index, child in enumerate(content):
                inner = (*path, index)
                child_line = child.start_mark.line + 1
                self.marks[inner] = child_line, child_line
                values.append(self.value(child, inner, depth + 1))
            return values
        return dict(self.pairs(content, path, depth))

    def measure(self, text: str, line: int) -> None:
        self.length += len(text)
        if self.length > MAX_BYTES:  # more than a file can hold: aliases made the difference
            message = f"aliases expand to more than {MAX_BYTES:,} characters"
            raise _OverLimitError(line, message, "write the values out instead of repeating aliases")

    def pairs(self, content: Any, path: KeyPath, depth: int) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key_node, child in content:
            line = key_node.start_mark.line + 1
            key = self.key(key_node, path, line)
            if key is None:
                continue
            inner = (*path, key)
            if key in seen:
                first = self.marks[inner][0]
                self.add(line, inner, f"this key is there twice, first on line {first}", "keep one of them")
                continue
            seen.add(key)
            # A collection is pointed at by its key: its own first line may be the one after.
            scalar = isinstance(child.value, str)
            self.marks[inner] = line, child.start_mark.line + 1 if scalar and child.value else line
            yield key, self.value(child, inner, depth + 1)

    def key(self, node: Any, path: KeyPath, line: int) -> str | None:
        text = node.value
        if isinstance(node.tag, str) or not isinstance(text, str):
            self.add(line, path, "expected a plain word as key")
        elif node.tag is _PLAIN and _CORE.fullmatch(text):
            self.add(
                line, path, f"keys are text, got {visible(text[:MAX_SHOWN]) or 'nothing'}", "put it in quotes"
            )
        else:
            self.measure(text, line)
            return text
        return None

    def scalar(self, text: str, path: KeyPath, line: int) -> Any:
        if text and text[0] not in _FIRST:
            return text
        found = _CORE.fullmatch(text)
        match found and found.lastgroup:
            case None:
                return text
            case "null":
                return None
            case "true":
                return True
            case "false":
                return False
            case "float":
                number: int | float = float(text)
            case "infinite":
                number = math.inf
            case "oct" | "hex" | "int" as base:
                # Checked by length first: int() of a long text is slow, and refuses 4,300 digits.
                short = len(text) <= MAX_SHOWN
                number = int(text, {"oct": 8, "hex": 16, "int": 10}[base]) if short else _LARGEST + 1
        if not math.isfinite(number) or (isinstance(number, int) and abs(number) > _LARGEST):
            self.add(
                line, path, f"expected a finite number of at most 2^53 - 1, got {visible(text[:MAX_SHOWN])}"
            )
            return None
        return number

    def add(self, line: int, path: KeyPath, message: str, hint: str | None = None) -> None:
        self.bad.add(path)
        self.problems.append(self.at(line, message, hint, path))

    def at(self, line: int | None, message: str, hint: str | None = None, path: KeyPath = ()) -> Problem:
        shown_line = excerpt(self.lines[line - 1]) if line and line <= len(self.lines) else None
        return Problem(self.file, line, key_text(path) or None, message, shown_line, hint)

    def failure(self, line: int | None, message: str, hint: str | None = None) -> FileProblems:
        return FileProblems([*self.problems, self.at(line, message, hint)])

    def syntax(self, error: Any) -> FileProblems:
        """Return libyaml's complaint as one problem, at the place it points to."""
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        lines = self.lines
        if line is not None and line > len(lines):
            line = len(lines)
        if (
            line == len(lines) and line > 1 and not lines[-1]
        ):  # the end of the file: show the last line there is
            line -= 1
        what = visible(str(error.problem or error.context))
        hint = None
        if (
            line is not None
            and "\t" in lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]
        ):
            hint = "indent with spaces: YAML allows no tabs there"
        elif "mapping values are not allowed" in what:
            hint = "a value that holds ': ' needs quotes; keys of one mapping start in the same column"
        return FileProblems([self.at(line, f"not valid YAML: {what}", hint)])
