"""Reading dialogues: one parser for what people write by hand and what models write.

Nothing is dropped or altered silently: whatever a text holds beyond its turns comes back in `Parsed.leftovers` with its line
and a reason, and the caller decides.

What is a turn? Lines are read one by one; a line starts a turn when it begins (after bullets, numbers, bold marks) with

1. `Name (speaking):` or `Name (thinking):`, also without the colon or with the text on the next line, where Name is
   shaped like a name (`valid_role`); or
2. `Name (anything else):` where Name is known, was seen as in 1, or has every word capitalised. The action becomes
   `thinking` where it tells of a thought and `speaking` otherwise, and is counted as `action`; or
3. `Name:` where Name is known, was seen as in 1, or has every word capitalised, is no word like Note or Listen,
   and starts at least two lines of the text. The action is `speaking`, unless the text begins with `(thinking)`; or
4. Name alone, in capitals or marked as a heading or bold, below an empty line, in a text that has no line as in 1 to 3 and where
   a known name heads at least one turn so: the form of a play. A name that is not known has to come twice.

A reply that is JSON, a list of turns or an object with one, is read as such. What a reasoning model thinks before it
answers (`<think>…</think>`) is taken off first, wherever it stands: it is never text of a turn.

Within a turn, `*sighs*`, `[He rises]` and a short `(smiling)` right after the header are stage directions, left out and counted; other
parentheses are speech. `*so*` around up to three words in the middle of a sentence is emphasis: the marks go, the words stay.

Any other line goes on with the turn above it. So `Note: he left` within a speech stays in that speech; because it
could have been somebody else's turn it is counted as `maybe-turn`, and a strict caller refuses the text.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from charforge.dialogue import (
    ACTIONS,
    EOT,
    NARRATORS,
    ROLE_CHARACTER,
    Turn,
    canonical,
    cue,
    one_line,
    valid_role,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Leftover(NamedTuple):
    """Something in a text that is no turn, or that was altered in making one. `line` counts from 1."""

    line: int
    reason: str
    text: str


LEFT_OUT = (
    "reasoning",
    "preamble",
    "postscript",
    "narrator",
    "stage-direction",
    "after-end",
    "heading",
    "setting",
    "empty-turn",
)
"""Reasons for text that stands in no turn."""

ALTERED = ("markup", "code-fence", "json", "quotes", "action", "respelled")
"""Reasons for text whose words are all kept and whose dress was taken off."""

DOUBTFUL = ("maybe-turn", "maybe-narration", "inline-turn", "special-token")
"""Reasons for text that was kept within a turn though it may belong elsewhere. A data set should not hold it."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What `parse` found. `lines[i]` is the line on which `turns[i]` starts."""

    turns: tuple[Turn, ...]
    lines: tuple[int, ...] = ()
    leftovers: tuple[Leftover, ...] = ()

    def count(self, reasons: Iterable[str]) -> int:
        """Return how many leftovers have one of these reasons."""
        wanted = set(reasons)
        return sum(leftover.reason in wanted for leftover in self.leftovers)


_INVISIBLE = "\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
_EMOJI = "\U0001f300-\U0001faff\u2600-\u27bf\ufe0f\u200d"
_CLOCK = r"\[?\d{1,2}[:.]\d{2}(?::\d{2})?\]?(?=[\s:])"
_MARK = (
    rf"(?P<mark>(?:[\s{_INVISIBLE}{_EMOJI}]|[-–—•>#*_\"“\[]|{_CLOCK}:?"
    r"|(?:Turn\s{1,3})?\d{1,3}(?:[.):]|\s[-–—])(?=\s))*)"
)
_NAME = rf"(?P<name>[^\W\d_]{ROLE_CHARACTER}{{0,39}}?)"
# One level of nesting, as in `(softly (to himself))`. Models describe at length; none was seen above 150 characters.
_INNER = r"(?:[^()\[\]（）]|\([^()]*\)){1,200}"
_GROUP = r"[(\[（](?P<%s>" + _INNER + r")[)\]）]"
_ACTION = rf"[\s*_\"”\]-]*+{_GROUP % 'action'}(?:[\s*_]*+{_GROUP % 'second'})?"
_WITH_ACTION = re.compile(rf"{_MARK}{_NAME}{_ACTION}[\s*_\"”\]]*(?:[:：](?P<text>.*)|$)")
_WITH_WORD = re.compile(
    rf"{_MARK}{_NAME}[\s*_]*+[,–—-]?\s*+(?P<action>speaking|thinking)[\s*_]*+[:：](?P<text>.*)", re.IGNORECASE
)
_NO_COLON = re.compile(rf"{_MARK}{_NAME}\s?\((?P<action>speaking|thinking)\)[*_]*\s(?P<text>.*)")
_WITHOUT_ACTION = re.compile(rf"{_MARK}{_NAME}[\s*_\]]*+[:：](?P<text>.*)")
_ALONE = re.compile(rf"{_MARK}{_NAME}[\s*_]*+(?:{_GROUP % 'action'})?[\s*_]*+(?P<text>)$")
_HEAD = 500
"""Characters of a line within which a turn's header ends. No pattern looks further: a line may have a million."""
_LEADING_ACTION = re.compile(
    r"\s*(?:[*_]*[(\[](?P<action>[^()\[\]]{1,60})[)\]][*_:]*|[*_]{1,3}(?P<starred>[^*_()\[\]]{1,40})[*_]{1,3}:?)\s*"
)
_INLINE_TURN = re.compile(r"\S\s+[*_]*[^\W\d_][\w .'’-]{0,39} \((?:speaking|thinking)\)[*_]*:")

_THOUGHT = re.compile(
    r"\b(think(s|ing)?|thoughts?|thought|inner|internal\w*|to (him|her|my|them)self)\b", re.IGNORECASE
)
_ALOUD = re.compile(r"\b(aloud|out loud)\b", re.IGNORECASE)
_PARTICLES = frozenset(
    ("von", "van", "der", "den", "de", "di", "da", "la", "le", "the", "of", "and", "zu", "du", "del")
)
# fmt: off
_NO_NAMES = frozenset((
    "note", "notes", "remember", "listen", "question", "answer", "first", "second", "third", "finally",
    "example", "summary", "characters", "dialogue", "context", "conclusion", "time", "place", "type", "title",
    "paragraphs", "warning", "hint", "tip", "response", "output", "p.s.", "ps", "sure", "certainly", "scene", "setting", "location",
    "status", "background", "the end", "end", "fin", "curtain", "fade out", "blackout",
))
# fmt: on
_SETTING = re.compile(r"[*_#\s]*(Location|Status|Setting|Scene|Background)[*_]*\s?(\d+\s?)?:", re.IGNORECASE)
_CHATTER = re.compile(
    r"[*_(\[]*(I hope (this|it|you)|I['’]ve (written|tried|kept|aimed|included|followed)|I have (written|tried|kept|aimed|included|followed)"
    r"|Let me know|\**Notes?\**:|Please note|This (dialogue|scene|conversation)|In this (dialogue|scene)"
    r"|The (dialogue|scene|conversation) (ends|above|shows)|Feel free|(Total )?Word count|End of|The end\b|Fin\.?[*_]*$|\(?End\)?\.?[*_]*$"
    r"|(Would you like|Do you want|Shall I|If you['’]d like|If you would like|Want me to)\b.*\b(dialogue|scene|version|revis|expan|continu|adjust|longer|chang))",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"[*_#\s]*(?:Turn|Scene|Act|Part|Exchange|Round)\s{1,3}(?:\d{1,3}|[IVXLC]{1,5})\b\s*(?:[:.–—-]\s*[^.!?]{0,80})?[*_\s]*"
)
_TIME_LINE = re.compile(r"[*_#\s]*\[?\d{1,2}:\d{2}(?::\d{2})?\]?:?[*_\s]*")
_RULE = re.compile(r"\s*([-*_=~—]\s?){3,}")
_HEADING = re.compile(r"\s*#{1,6}\s")
_FENCE = re.compile(r"\s*(`{3}|~{3}|</?[A-Za-z][A-Za-z_-]{0,30}>\s*$)")
_THOUGHTS_OF_MODEL = re.compile(
    r"<(?P<close>/)?(?P<tag>think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis)>|\[(?P<shut>/)?THINK\]",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"(?<=[\w’'] )(\*{1,3}|_{1,2})(\w[\w’' -]{0,30}?)\1(?=[\s.,;:!?…’”\")]|$)")
# Only where a sentence begins: `Well, *never* again` is emphasis, and to leave its word out would turn the meaning round.
_ASIDE = re.compile(
    r"(?:(?<=[.!?…\"“”’] )|^)(?P<mark>\*{1,3}|_)(?P<inner>\(?[^\W_][^*_\n]{0,200}?)(?P=mark)(?=\s|$)"
)
_BRACKETED = re.compile(r"\*{0,2}\[[^\[\]]{1,200}\]\*{0,2}|\*{1,2}\([^()]{1,200}\)\*{1,2}")
_SMILING = re.compile(r"\((?P<inner>[a-z][^().!?]{0,80})\)\s+(?=\S)")
_TELLS = re.compile(r"\(?(He|She|They|His|Her|Their|It|The|A|An|Pause|Silence|Beat|Long|Both)\b")
_EMPHASIZED_WORDS = 3


@dataclass(frozen=True, slots=True)
class _Header:
    """What a line would say if it started a turn. `other` is a second group in parentheses, `(pupil)` in `Ries (pupil) (speaking):`."""

    name: str
    action: str | None
    text: str
    mark: str
    other: str | None = None
    bare: bool = False  # no colon, and nothing after it


@dataclass(slots=True)
class _Open:
    """A turn that is being read."""

    role: str
    action: str
    line: int
    parts: list[str]
    quoted: bool = False  # it stands in a block quote


def parse(text: str, *, known: Collection[str] = ()) -> Parsed:
    """Return the turns of a text and everything else in it. Never fails; see the module for what makes a turn.

    `known` are names that make a turn without an action tag; a name that differs from a known one in case only is
    spelled as known (counted as `respelled`). Text that `render_output` wrote is read exactly, whatever the contents.
    """
    exact = canonical(text)
    if exact is not None:
        return Parsed(tuple(exact), tuple(range(1, len(exact) + 1)))
    return _Reader(text, known).read()


def without_reasoning(text: str) -> str:
    """Return a reply without what a reasoning model thought before or between; the line ends of it stay."""
    kept = []
    at = 0
    for start, end in _reasoning(text):
        kept += [text[at:start], "\n" * text.count("\n", start, end)]
        at = end
    return "".join((*kept, text[at:]))


def _reasoning(text: str) -> list[tuple[int, int]]:
    """Return the ranges of a text in which a reasoning model thinks, in order."""
    spans: list[tuple[int, int]] = []
    begun: int | None = None
    for tag in _THOUGHTS_OF_MODEL.finditer(text):
        if not (tag["close"] or tag["shut"]):
            begun = tag.start() if begun is None else begun
        elif begun is None:
            # All above was thought: some servers put `<think>` into the prompt.
            spans = [(0, tag.end())]
        else:
            spans.append((begun, tag.end()))
            begun = None
    if begun is not None:
        spans.append((begun, len(text)))  # never ended: there is no answer
    return spans


class _Reader:
    """One reading of one text that is not in the canonical form."""

    def __init__(self, text: str, known: Collection[str]) -> None:
        self.spelling = {name.casefold(): name for name in known}
        self.turns: list[Turn] = []
        self.lines: list[int] = []
        self.leftovers: list[Leftover] = []
        self.open: _Open | None = None
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        self.line_ends = [found.start() for found in re.finditer("\n", text)]
        for start, end in _reasoning(text):
            self._leave(self._line(start), "reasoning", text[start:end])
        self.text = without_reasoning(text)
        if self.text != text:
            self.line_ends = [found.start() for found in re.finditer("\n", self.text)]
        self.rows = list(_rows(self.text))
        headers = [_header(row) for _, row, _ in self.rows]
        self.seen = set(self.spelling)
        self.seen |= {h.name.casefold() for h in headers if h and h.action in ACTIONS and valid_role(h.name)}
        self.bare = Counter(
            h.name.casefold() for h in headers if h and h.action is None and _name_like(h.name)
        )
        self.headers = [h if h and self._accepts(h) else None for h in headers]
        self.play = False
        if all(h is None or (h.action not in ACTIONS and h.bare) for h in self.headers):
            self._read_as_play()

    def _read_as_play(self) -> None:
        """Find the turns of a text in which names stand alone on their lines."""
        alone: list[_Header | None] = []
        empty = True
        for _, row, _ in self.rows:
            found = _ALONE.fullmatch(row) if empty and 0 < len(row) <= _HEAD else None
            name = " ".join(found["name"].split()) if found else ""
            marked = found is not None and re.search(r"[#*_]", found["mark"]) is not None
            fits = found and valid_role(name) and (name.isupper() or (marked and _name_like(name)))
            action = " ".join(found["action"].casefold().split()) if found and found["action"] else None
            alone.append(_Header(name, action, "", found["mark"].strip()) if found and fits else None)
            empty = not row.strip() or bool(_RULE.fullmatch(row))
        count = Counter(h.name.casefold() for h in alone if h)
        if not set(count) & set(self.spelling):
            return
        self.play = True
        self.headers = [
            h
            if h
            and (
                h.name.casefold() in self.spelling
                or (count[h.name.casefold()] >= 2 and h.name.casefold() not in _NO_NAMES)
            )
            else None
            for h in alone
        ]

    def _accepts(self, header: _Header) -> bool:
        name = header.name.casefold()
        if name in NARRATORS or name in self.seen:
            return True
        if not valid_role(header.name):
            return False
        if header.action is not None:
            return header.action in ACTIONS or _name_like(header.name)
        return self.bare[name] >= 2 and name not in _NO_NAMES

    def read(self) -> Parsed:
        headed = [i for i, header in enumerate(self.headers) if header]
        last = headed[-1] if headed else len(self.rows)
        if not headed and (found := self._read_json()) is not None:
            return found
        directed = -1  # the last row of a stage direction of several lines
        paragraph = True  # whether the next line starts a paragraph
        away = "preamble"  # why a line that follows no turn is left out
        for i, (number, row, ended) in enumerate(self.rows):
            header = self.headers[i]
            if header:
                self._close()
                away = self._start(number, row, header)
            elif not row.strip():
                paragraph = True
                continue
            elif _FENCE.match(row):
                self._leave(number, "code-fence", row)
            elif i <= directed:
                self._leave(number, "stage-direction", row)
            elif _RULE.fullmatch(row) or _HEADING.match(row) or self._heads(row, paragraph=paragraph):
                self._close()
                away = "heading" if headed and i > headed[0] else "preamble"
                self._leave(number, away, row)
                away = "postscript" if i > last else away
            elif self.open is None:
                self._leave(number, away, row)
            elif _SETTING.match(row) or _TIME_LINE.fullmatch(row):
                self._close()
                away = "setting"
                self._leave(number, away, row)
            elif i > last and paragraph and _CHATTER.match(row):
                self._close()
                away = "postscript"
                self._leave(number, away, row)
            elif self._acts(row):
                pass
            elif self._is_direction(row) or (directed := self._direction_until(i)) >= i:
                self._leave(number, "stage-direction", row)
            else:
                self._continue(i, paragraph=paragraph)
            paragraph = False
            if ended:
                self._close()
                away = "after-end"
        self._close()
        return Parsed(tuple(self.turns), tuple(self.lines), tuple(sorted(self.leftovers)))

    def _start(self, number: int, row: str, header: _Header) -> str:
        """Open a turn; return why a line is left out if it turns out to follow none."""
        if header.name.casefold() in NARRATORS:
            self._leave(number, "narrator", row)
            return "narrator"
        role = self.spelling.get(header.name.casefold(), header.name)
        if role != header.name:
            self._leave(number, "respelled", header.name)
        mark, text = _undress(header)
        if mark:
            self._leave(number, "markup", mark)
        action, other = header.action, header.other
        if other in ACTIONS:
            action, other = other, action
        if other is not None:
            self._leave(number, "action", other)
        leading = _LEADING_ACTION.match(text) if action is None else None
        said = (leading["action"] or leading["starred"]).casefold() if leading else ""
        if leading and _action(said) is not None:
            action, text = said, text[leading.end() :]
        if action is not None and action not in ACTIONS:
            self._leave(number, "action", action)
            action = _action(action) or "speaking"
        self.open = _Open(role, action or "speaking", number, [text], quoted=">" in mark)
        return "empty-turn"

    def _continue(self, i: int, *, paragraph: bool) -> None:
        number, row, _ = self.rows[i]
        assert self.open is not None
        header = _header(row)  # not accepted, or we were not here
        if header and _name_like(header.name):
            self._leave(number, "maybe-turn", row)
        elif paragraph and any(self.open.parts) and self._narrates(row):
            self._leave(number, "maybe-narration", row)
        quoted = re.match(r"\s*>\s?", row) if self.open.quoted else None
        if quoted:
            self._leave(number, "markup", ">")
            row = row[quoted.end() :]
        self.open.parts.append(row)

    def _heads(self, row: str, *, paragraph: bool) -> bool:
        """Say whether a line numbers a turn or a scene, or, in a play, stands in capitals by itself."""
        if len(row) <= _HEAD and _NUMBERED.fullmatch(row):
            return True
        return self.play and paragraph and row.isupper() and len(row.split()) <= 12

    def _direction_until(self, i: int) -> int:
        """Return the last row of a direction in brackets that begins in row i and goes over several lines; -1 where none does."""
        begin = self.rows[i][1].strip()
        closing = {"[": "]", "(": ")"}.get(begin[:1])
        if closing is None or closing in begin or i + 1 >= len(self.rows):
            return -1
        for j in range(i + 1, min(i + 8, len(self.rows))):
            row = self.rows[j][1].strip()
            if not row or self.headers[j] or begin[0] in row:
                return -1
            if closing in row:
                return j if row.endswith(closing) and row.count(closing) == 1 else -1
        return -1

    def _narrates(self, row: str) -> bool:
        """Say whether a paragraph begins like `Beethoven rises` and never says I."""
        words = row.split()
        names = (" ".join(words[:n]).casefold() for n in range(1, 5))
        n = next((n for n, name in enumerate(names, 1) if name in self.seen), 0)
        follows = words[n] if 0 < n < len(words) else ""
        return follows.islower() and not re.search(r"\b(I|me|my)\b", row)

    def _acts(self, row: str) -> bool:
        """Take `(thinking)` on the line under a name that stands alone, as plays have it."""
        assert self.open is not None
        found = re.fullmatch(r"\s*[*_]*\(([^()]{1,60})\)[*_]*\s*", row) if self.play else None
        action = _action(found[1].casefold()) if found else None
        if action is None or any(part.strip() for part in self.open.parts):
            return False
        self.open.action = action
        return True

    def _is_direction(self, row: str) -> bool:
        """Say whether a whole line is a stage direction: [in brackets], (in parentheses) or *in italics*."""
        row = row.strip()
        if re.fullmatch(r"\[[^\]]*\]", row):
            return True
        assert self.open is not None
        if self.open.action == "thinking" and not any(part.strip() for part in self.open.parts):
            return False  # a thought on the line under its header is often set like this
        return re.fullmatch(r"\([^()]*\)|\*{1,2}\([^()]*\)\*{1,2}|\*[^*]+\*|_[^_]+_", row) is not None

    def _close(self) -> None:
        turn, self.open = self.open, None
        if turn is None:
            return
        raw = " ".join(turn.parts)
        content = one_line(raw)
        if "<|" in raw:
            self._leave(turn.line, "special-token", raw)
        content = self._without_directions(turn, content)
        bare = _unquoted(content)
        if bare != content:
            self._leave(turn.line, "markup" if content[0] in "*_" else "quotes", content[0] + content[-1])
            content = bare
        if not content:
            self._leave(turn.line, "empty-turn", cue(turn.role, turn.action))
            return
        if "ing)" in content and _INLINE_TURN.search(content):
            self._leave(turn.line, "inline-turn", content)
        self.turns.append(Turn(turn.role, turn.action, content))
        self.lines.append(turn.line)

    def _without_directions(self, turn: _Open, content: str) -> str:
        """Return a content without the stage directions in it and without the marks of emphasis; both are counted."""
        if not set(content) & set("*_[("):
            return content

        def direction(found: re.Match[str]) -> str:
            self._leave(turn.line, "stage-direction", found[0])
            return ""

        def aside(found: re.Match[str]) -> str:
            inner = found["inner"]
            whole = found[0] == content
            name = inner.split()[0].casefold() in self.seen
            if (whole and turn.action == "thinking") or not (
                inner[0].islower() or name or _TELLS.match(inner)
            ):
                return found[0]
            return direction(found)

        def emphasis(found: re.Match[str]) -> str:
            if len(found[2].split()) > _EMPHASIZED_WORDS:
                return found[0]
            self._leave(turn.line, "markup", found[1])
            return found[2]

        smiling = _SMILING.match(content)
        if smiling:
            self._leave(turn.line, "stage-direction", smiling[0])
            content = content[smiling.end() :]
        content = _BRACKETED.sub(direction, content)
        content = _ASIDE.sub(aside, _EMPHASIS.sub(emphasis, content))
        return one_line(content)

    def _read_json(self) -> Parsed | None:
        """Return the turns of a reply that is JSON, a list of objects or objects one after another; None where it is not."""
        spans = []
        at = 0
        decoder = json.JSONDecoder()
        while (start := _JSON.search(self.text, at)) is not None:
            try:
                value, at = decoder.raw_decode(self.text, start.start())
            except (ValueError, RecursionError):
                return None
            spans.append((start.start(), at, value))
        listed = [(start, item) for start, _, value in spans for item in _turn_objects(value)]
        if not any(_said(item) for _, item in listed):
            return None
        done = 0
        for begin, after, value in spans:
            self._leave_lines(done, begin, "preamble" if done == 0 else "postscript")
            self._leave(self._line(begin), "json", "")
            for key, text in value.items() if isinstance(value, dict) and _said(value) is None else ():
                if isinstance(text, str) and text.strip():
                    self._leave(self._line(begin), "setting", f"{key}: {text}")
            done = after
        self._leave_lines(done, len(self.text), "postscript")
        for begin, item in listed:
            self._take_object(self._line(begin), item)
        return Parsed(tuple(self.turns), tuple(self.lines), tuple(sorted(self.leftovers)))

    def _take_object(self, line: int, item: Any) -> None:
        said = _said(item)
        if said is None:
            self._leave(line, "setting", json.dumps(item, ensure_ascii=False))
            return
        name, action, text = said
        head = _header(f"{name}:") if action is None else None
        if head and head.action:
            name, action = head.name, head.action
        role = self.spelling.get(name.casefold(), name)
        if role != name:
            self._leave(line, "respelled", name)
        if not valid_role(role):
            self._leave(line, "narrator", f"{name}: {text}")
            return
        if action is not None and action.casefold() not in ACTIONS:
            self._leave(line, "action", action)
            action = _action(action.casefold())
        for key, value in item.items():
            if (
                key.casefold() not in (*_ROLE_KEYS, *_ACTION_KEYS, *_TEXT_KEYS)
                and isinstance(value, str)
                and value
            ):
                self._leave(line, "stage-direction", f"{key}: {value}")
        self.open = _Open(role, (action or "speaking").casefold(), line, [text])
        self._close()

    def _line(self, offset: int) -> int:
        return bisect_left(self.line_ends, offset) + 1

    def _leave_lines(self, start: int, end: int, reason: str) -> None:
        first = self._line(start)
        for number, row in enumerate(self.text[start:end].split("\n"), first):
            if row.strip(" \t\r,"):
                self._leave(number, "code-fence" if _FENCE.match(row) else reason, row)

    def _leave(self, line: int, reason: str, text: str) -> None:
        self.leftovers.append(Leftover(line, reason, text.strip()))


def _rows(text: str) -> Iterable[tuple[int, str, bool]]:
    """Yield (line, text, whether an end mark follows). A line with end marks in it gives several rows."""
    for number, line in enumerate(text.split("\n"), 1):
        pieces = line.split(EOT)
        for i, piece in enumerate(pieces):
            ended = i < len(pieces) - 1
            if i == 0 or piece.strip() or ended:
                yield number, piece, ended


_JSON = re.compile(r"[{\[](?=\s*[{\"\]}])")
_ROLE_KEYS = ("role", "speaker", "name", "character", "from")
_ACTION_KEYS = ("action", "type", "mode")
_TEXT_KEYS = ("content", "text", "line", "dialogue", "message", "utterance", "speech", "says", "value")


def _turn_objects(value: Any) -> list[Any]:
    """Return what may be turns in a JSON value: the items of a list, or of the first list of objects that an object holds."""
    if isinstance(value, dict) and _said(value) is None:
        value = next((each for each in value.values() if isinstance(each, list)), [])
    return value if isinstance(value, list) else [value]


def _said(item: Any) -> tuple[str, str | None, str] | None:
    """Return (name, action, text) of a JSON object that is a turn, else None."""
    if not isinstance(item, dict):
        return None
    keys = {str(key).casefold(): value for key, value in item.items()}

    def first(names: Iterable[str]) -> str | None:
        return next((keys[name] for name in names if isinstance(keys.get(name), str)), None)

    name, text = first(_ROLE_KEYS), first(_TEXT_KEYS)
    return None if name is None or text is None else (" ".join(name.split()), first(_ACTION_KEYS), text)


def _header(row: str) -> _Header | None:
    """Return what a line would say if it started a turn."""
    end = min(len(row), _HEAD)
    for pattern in (_WITH_ACTION, _NO_COLON, _WITH_WORD, _WITHOUT_ACTION):
        match = pattern.match(row, 0, end)
        if match and (match["text"] is not None or end == len(row)):
            found = match.groupdict()
            action, other = found.get("action"), found.get("second")
            return _Header(
                name=" ".join(found["name"].split()),
                action=None if action is None else " ".join(action.casefold().split()),
                text="" if found["text"] is None else row[match.start("text") :],
                mark=found["mark"].strip(),
                other=None if other is None else " ".join(other.casefold().split()),
                bare=found["text"] is None,
            )
    return None


def _name_like(name: str) -> bool:
    """Say whether every word of a name is capitalised, as in `Frau von Breuning`, and there are at most four."""
    words = name.split()
    return len(words) <= 4 and all(not word[0].islower() or word in _PARTICLES for word in words)


def _action(text: str) -> str | None:
    """Return the action that a tag tells of, or None where it tells of neither."""
    if _THOUGHT.search(text) and not _ALOUD.search(text):
        return "thinking"
    return "speaking" if text.split()[:1] == ["speaking"] else None


def _undress(header: _Header) -> tuple[str, str]:
    """Return (mark, text) with the bold marks or quotes that enclose header or line taken off the text too."""
    text = header.text.strip()
    emphasis = re.search(r"[*_]+$", header.mark)
    if emphasis:
        if text.startswith(emphasis[0]):
            text = text[len(emphasis[0]) :]
        elif text.endswith(emphasis[0]) and text.count(emphasis[0]) == 1:
            text = text[: -len(emphasis[0])]
    # `**Ries** *(speaking):* Master?` closes the italics of its action after the colon.
    stray = re.match(r"[*_]{1,3}(?=\s)", text)
    if stray:
        text = text[stray.end() :]
    if header.mark[-1:] in ("“", '"') and text[-1:] in ("”", '"') and not set('"“') & set(text[:-1]):
        text = text[:-1]
    return header.mark, text.strip()


def _unquoted(content: str) -> str:
    """Return a content without the quotes or italics that enclose the whole of it."""
    for opening, closing in (
        ('"', '"'),
        ("“", "”"),
        ("„", "“"),
        ("«", "»"),
        ("「", "」"),
        ("***", "***"),
        ("**", "**"),
        ("*", "*"),
        ("_", "_"),
    ):
        inner = content[len(opening) : len(content) - len(closing)]
        if (
            len(content) > len(opening) + len(closing)
            and content.startswith(opening)
            and content.endswith(closing)
            and opening not in inner
            and closing not in inner
        ):
            return inner.strip()
    return content
