"""Profile: a text about a person becomes numbered paragraphs that scenes and dialogues are grounded in.

The form is Markdown with front matter:

    ---
    name: Ludwig van Beethoven
    licence: CC0-1.0
    source: Written for CharForge from published facts.
    ---
    # Ludwig van Beethoven
    ## Bonn
    Ludwig van Beethoven was baptised … {#bonn-family}

Paragraphs are separated by empty lines; `{#anchor}` at the end of one gives it a name that survives edits around it.
Front matter has these three keys, one line each, and is read as plain text: a profile is no place for YAML's surprises.
This module knows nothing of prompts and opens no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from charforge.dialogue import one_line
from charforge.errors import FileProblems, Problem
from charforge.files import MAX_TOLD, excerpt, lines_of, visible

VERSION = 1

KEYS = ("name", "licence", "source")

_ANCHOR = re.compile(r"\{#(?P<id>[^{}]*)\}")
_ANCHOR_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FRONT_MATTER_HINT = "begin the file with '---', the lines 'name: …', 'licence: …' and 'source: …', and '---'"


@dataclass(slots=True)
class _Reader:
    file: str
    rows: list[str]
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, line: int | None, message: str, hint: str | None = None) -> None:
        shown = None if line is None else excerpt(self.rows[line - 1])
        self.problems.append(Problem(self.file, line, None, message, shown, hint))
        if len(self.problems) == MAX_TOLD:
            raise FileProblems(self.problems)


def read(text: str, *, file: str) -> dict[str, Any]:
    """Return profile.json: {"name", "licence", "source", "paragraphs": [{"id", "number", "section", "text"}]}.

    `file` is how errors call the text. A paragraph's id is its anchor, or `p<number>` (numbers count from 1); its section
    is the `##` heading above it, "" before the first. Lines of a paragraph are joined by a space.
    Raises FileProblems with every problem of the text: front matter missing or incomplete, no paragraphs, an anchor that is
    malformed or used twice, a heading of another level, control characters.
    """
    rows = lines_of(text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"), file)
    reader = _Reader(file, rows)
    for number, row in enumerate(rows, 1):
        if _CONTROL.search(row):
            reader.wrong(number, "control character", "delete it; text may hold tabs and line ends only")
    values, start = _front_matter(reader)
    paragraphs = _paragraphs(reader, start)
    if not paragraphs:
        reader.wrong(
            None,
            "the profile has no paragraphs",
            "write what is known about the person below the front matter",
        )
    if reader.problems:
        raise FileProblems(reader.problems)
    return {**{key: values[key] for key in KEYS}, "paragraphs": paragraphs}


def _front_matter(reader: _Reader) -> tuple[dict[str, str], int]:
    """Return the values and the index of the first row after the front matter."""
    values: dict[str, str] = {}
    rows = reader.rows
    if rows[0].strip() != "---":
        reader.wrong(
            1, f"no front matter: a profile says its {KEYS[0]}, {KEYS[1]} and {KEYS[2]}", _FRONT_MATTER_HINT
        )
        return values, 0
    end = next((i for i, row in enumerate(rows) if i and row.strip() == "---"), None)
    if end is None:
        reader.wrong(1, "the front matter has no end", "close it with a line '---'")
        return values, len(rows)
    before = len(reader.problems)
    for number, row in enumerate(rows[1:end], 2):
        if not row.strip() or row.lstrip().startswith("#"):
            continue
        key, colon, value = row.partition(":")
        key, value = key.strip(), value.strip()
        if not colon or row[0].isspace():
            reader.wrong(number, "expected 'key: value' on one line")
        elif key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the keys are {', '.join(KEYS)}"
            reader.wrong(number, f"unknown key '{visible(key)}'", hint)
        elif key in values:
            reader.wrong(number, f"'{key}' is given twice")
        else:
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1].strip()
            values[key] = one_line(value)
            if not value:
                reader.wrong(number, f"'{key}' is empty")
    if len(reader.problems) == before:
        for key in KEYS:
            if key not in values:
                reader.wrong(end + 1, f"the front matter has no '{key}'", _FRONT_MATTER_HINT)
    return values, end + 1


def _paragraphs(reader: _Reader, start: int) -> list[dict[str, Any]]:
    paragraphs: list[dict[str, Any]] = []
    lines: dict[str, int] = {}  # id -> line of its anchor
    section = ""
    title = False
    held: list[tuple[int, str]] = []

    def close() -> None:
        if not held:
            return
        number = len(paragraphs) + 1
        identity = f"p{number}"
        last, row = held[-1]
        anchors = [(n, found) for n, text in held for found in _ANCHOR.finditer(text)]
        if anchors:
            line, found = anchors[-1]
            identity = found["id"]
            if len(anchors) > 1 or line != last or row[found.end() :].strip():
                reader.wrong(anchors[0][0], "an anchor stands at the end of its paragraph, and there is one")
            elif not _ANCHOR_ID.fullmatch(identity):
                hint = "small letters, digits and single hyphens, as in {#bonn-family}"
                reader.wrong(line, f"malformed anchor '{visible(identity)}'", hint)
            held[-1] = (last, row[: found.start()])
        text = one_line(" ".join(text for _, text in held))
        if identity in lines:
            reader.wrong(last, f"'{visible(identity)}' is the anchor of line {lines[identity]} already")
        elif not text:
            reader.wrong(last, "an anchor without a paragraph")
        lines.setdefault(identity, last)
        paragraphs.append({"id": identity, "number": number, "section": section, "text": text})
        held.clear()

    for number, row in enumerate(reader.rows[start:], start + 1):
        heading = re.match(r"(#+)\s+(.*\S)\s*", row)
        if heading:
            close()
            level, name = len(heading[1]), one_line(heading[2])
            if level == 1 and title:
                reader.wrong(number, "a second title", "sections are '## …'")
            elif level > 2:
                reader.wrong(
                    number, f"a heading of level {level}", "a profile has one '# Title' and sections '## …'"
                )
            title = title or level == 1
            section = name if level == 2 else section
        elif row.strip():
            held.append((number, row))
        else:
            close()
    close()
    return paragraphs
