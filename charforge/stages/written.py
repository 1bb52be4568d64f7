"""Written experience: scenes, dialogues and protective dialogues that a person wrote, read from one Markdown file.

    # Scenes

    ## Midnight in the Rheingasse {#midnight-rheingasse}

    Paragraphs: father-lessons, bonn-family
    Type: quarrel
    Location: The upstairs room in the Rheingasse, Bonn, winter 1779
    Status: Father has come up from the tavern and pulled the boy out of bed.

    Johann (speaking): Up, Ludwig! The night is young.

    Beethoven (thinking): He smells of wine.

Under `# Protective dialogues` stand dialogues of the same form with one header line more, `Provocation:`, what the other
person tries. `<!-- comments -->` may stand anywhere. Turns are read by the parser that reads model output
(charforge.reading); what is tolerated and counted there is an error here, with its line. Opens no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from charforge.dialogue import one_line
from charforge.errors import FileProblems, Problem
from charforge.files import MAX_TOLD, excerpt, lines_of, visible
from charforge.reading import DOUBTFUL, parse

if TYPE_CHECKING:
    from collections.abc import Collection

    from charforge.reading import Leftover

VERSION = 2

SCENES = "Scenes"
PROTECTIVE = "Protective dialogues"
KEYS = ("Paragraphs", "Type", "Location", "Status")
PROVOCATION = "Provocation"
MIN_TURNS = 2

_COMMENT = re.compile(r"<!--.*?(-->|\Z)", re.DOTALL)
_TITLE = re.compile(r"##\s+(?P<title>.*?)\s*(\{#(?P<anchor>[^{}]*)\})?\s*")
_ANCHOR_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_HEADER = re.compile(r"(?P<key>[A-Z][A-Za-z ]*?)\s*:(?P<value>.*)")
_FORM = "a turn is 'Name (speaking): …' or 'Name (thinking): …'"


@dataclass(slots=True)
class _Block:
    """One `##` heading and the rows under it. `line` is the heading's, counted from 1."""

    line: int
    part: str
    heading: str
    rows: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Reader:
    file: str
    rows: list[str]
    short_name: str
    paragraph_ids: Collection[str]
    anchors: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, line: int, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(self.file, line, None, message, excerpt(self.rows[line - 1]), hint))
        if len(self.problems) == MAX_TOLD:
            raise FileProblems(self.problems)


def read(
    text: str, *, file: str, short_name: str, paragraph_ids: Collection[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (dialogues, protective dialogues) as records of dialogues.jsonl and protective.jsonl, in file order.

    `file` is how errors call the text; `short_name` is the character's name in turns; `paragraph_ids` are those of the profile.
    Raises FileProblems with every problem of the text, each with its line.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    reader = _Reader(file, lines_of(text, file), short_name, paragraph_ids)
    # A comment becomes as many empty lines as it has, so that line numbers stay true.
    bare = _COMMENT.sub(lambda match: "\n" * match[0].count("\n"), text)
    blocks = _blocks(reader, bare.split("\n"))
    records = {SCENES: list[dict[str, Any]](), PROTECTIVE: list[dict[str, Any]]()}
    for block in blocks:
        records[block.part].append(_record(reader, block))
    if not blocks and not reader.problems:
        reader.wrong(1, "no scenes", f"begin with '# {SCENES}', then '## Title {{#anchor}}'")
    if reader.problems:
        raise FileProblems(reader.problems)
    return records[SCENES], records[PROTECTIVE]


def _blocks(reader: _Reader, rows: list[str]) -> list[_Block]:
    blocks: list[_Block] = []
    part = ""
    told = False  # stray text is told of once, not line by line
    for number, row in enumerate(rows, 1):
        if re.match(r"#\s", row):
            part = row[1:].strip()
            if part not in (SCENES, PROTECTIVE):
                near = get_close_matches(part, (SCENES, PROTECTIVE), n=1)
                hint = (
                    f"did you mean '# {near[0]}'?"
                    if near
                    else f"the parts are '# {SCENES}' and '# {PROTECTIVE}'"
                )
                reader.wrong(number, f"unknown part '{visible(part)}'", hint)
                part = SCENES
            blocks.append(_Block(number, "", ""))  # text right under a part belongs to no scene
        elif re.match(r"##\s", row):
            if not part:
                reader.wrong(number, f"a scene before '# {SCENES}' or '# {PROTECTIVE}'")
            blocks.append(_Block(number, part or SCENES, row))
            told = False
        elif blocks and blocks[-1].heading:
            blocks[-1].rows.append(row)
        elif row.strip() and not told:
            reader.wrong(number, "text before the first scene", "put notes into <!-- comments -->")
            told = True
    return [block for block in blocks if block.heading]


def _record(reader: _Reader, block: _Block) -> dict[str, Any]:
    title, anchor = _heading(reader, block)
    keys = (*KEYS, PROVOCATION) if block.part == PROTECTIVE else KEYS
    values, body = _header(reader, block, keys)
    record: dict[str, Any] = {
        "id": f"written/{anchor}",
        "kind": "written",
        "scene": None,
        "title": title,
        "paragraphs": _paragraph_list(reader, values),
        "type": values.get("Type", (0, ""))[1],
        "location": values.get("Location", (0, ""))[1],
        "background": values.get("Status", (0, ""))[1],
        "turns": _turns(reader, block, body),
    }
    if block.part == PROTECTIVE:
        record["provocation"] = values.get(PROVOCATION, (0, ""))[1]
    return record


def _heading(reader: _Reader, block: _Block) -> tuple[str, str]:
    match = _TITLE.fullmatch(block.heading)
    assert match is not None
    anchor = match["anchor"]
    if not match["title"]:
        reader.wrong(block.line, "a scene without a title")
    if anchor is None or not _ANCHOR_ID.fullmatch(anchor):
        problem = "the scene has no anchor" if anchor is None else f"malformed anchor '{visible(anchor)}'"
        hint = (
            "end the heading with one: small letters, digits and single hyphens, as in {#midnight-rheingasse}"
        )
        reader.wrong(block.line, problem, hint)
    elif anchor in reader.anchors:
        reader.wrong(block.line, f"'{anchor}' is the anchor of line {reader.anchors[anchor]} already")
    else:
        reader.anchors[anchor] = block.line
    return one_line(match["title"]), anchor or ""


def _header(reader: _Reader, block: _Block, keys: tuple[str, ...]) -> tuple[dict[str, tuple[int, str]], int]:
    """Return each key's (line, value), and the index in block.rows at which the turns begin."""
    values: dict[str, tuple[int, str]] = {}
    index = 0
    while index < len(block.rows):
        row = block.rows[index]
        match = _HEADER.fullmatch(row.rstrip())
        if row.strip() and not match:
            break
        if not row.strip() and values:
            break
        index += 1
        if not match:
            continue
        line = block.line + index
        key, value = match["key"], one_line(match["value"])
        if key not in keys:
            near = get_close_matches(key, keys, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the keys are {', '.join(keys)}"
            reader.wrong(line, f"unknown key '{visible(key)}'", hint)
        elif key in values:
            reader.wrong(line, f"'{key}' is given twice")
        elif not value:
            reader.wrong(line, f"'{key}' is empty")
        values.setdefault(key, (line, value))
    for key in keys:
        if key not in values:
            reader.wrong(
                block.line, f"the scene has no '{key}'", "header lines stand right below the heading"
            )
    return values, index


def _paragraph_list(reader: _Reader, values: dict[str, tuple[int, str]]) -> list[str]:
    line, text = values.get("Paragraphs", (0, ""))
    paragraphs: list[str] = []
    for name in (part.strip() for part in text.split(",") if part.strip()):
        if name not in reader.paragraph_ids:
            near = get_close_matches(name, list(reader.paragraph_ids), n=1)
            hint = f"did you mean '{near[0]}'?" if near else "name paragraphs by their anchors in the profile"
            reader.wrong(line, f"the profile has no paragraph '{visible(name)}'", hint)
        elif name in paragraphs:
            reader.wrong(line, f"paragraph '{name}' is named twice")
        paragraphs.append(name)
    return paragraphs


def _turns(reader: _Reader, block: _Block, start: int) -> list[dict[str, str]]:
    before = len(reader.problems)
    parsed = parse("\n".join(block.rows[start:]), known=[reader.short_name])
    offset = block.line + start
    for leftover in parsed.leftovers:
        reader.wrong(offset + leftover.line, *_complaint(leftover))
    if len(reader.problems) == before:
        if len(parsed.turns) < MIN_TURNS:
            reader.wrong(
                block.line, f"the scene has {len(parsed.turns)} turn(s), at least {MIN_TURNS} are needed"
            )
        elif not any(turn.role == reader.short_name and turn.action == "speaking" for turn in parsed.turns):
            reader.wrong(block.line, f"{reader.short_name} never speaks in this scene")
    return [turn.record() for turn in parsed.turns]


def _complaint(leftover: Leftover) -> tuple[str, str | None]:
    """Return message and hint for something the parser would only have counted."""
    shown = visible(leftover.text[:60])
    match leftover.reason:
        case "action":
            return f"unknown action '{shown}'", "the actions are speaking and thinking"
        case "respelled":
            return f"'{shown}' is spelled otherwise than the character's short_name", None
        case "empty-turn":
            return "an empty turn", None
        case "preamble":
            return "text before the first turn", _FORM
        case "narrator":
            return "a narrator's line", "tell it in Status, or let somebody say it"
        case "stage-direction":
            return "a stage direction", "tell it in Status, or let somebody say it"
        case "quotes" | "markup" | "code-fence":
            return f"{leftover.reason} around a turn", "write turns plain"
        case reason if reason in DOUBTFUL:
            return f"may not belong to the turn above ({reason})", _FORM
    return f"no part of a turn ({leftover.reason})", _FORM
