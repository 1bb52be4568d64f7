"""Turns of a dialogue: reading them from text, writing them, and saying which characters are trained on.

One parser reads what people write by hand and what models write, and one grammar (`render_output`) is what the
training set, the trained model and the interviews speak. Nothing is dropped or altered silently: whatever a
text holds beyond its turns comes back in `Parsed.leftovers` with its line and a reason, and the caller decides.
This module knows no file, no model and no tokenizer, and never imports torch.

What is a turn? Lines are read one by one; a line starts a turn when it begins (after bullets, numbers, bold marks) with

1. `Name (speaking):` or `Name (thinking):`, also without the colon or with the text on the next line, where Name is
   shaped like a name (`valid_role`); or
2. `Name (anything else):` where Name is known, was seen as in 1, or has every word capitalised. The action becomes
   `thinking` where it tells of a thought and `speaking` otherwise, and is counted as `action`; or
3. `Name:` where Name is known, was seen as in 1, or has every word capitalised, is no word like Note or Listen,
   and starts at least two lines of the text. The action is `speaking`, unless the text begins with `(thinking)`.

Any other line goes on with the turn above it. So `Note: he left` within a speech stays in that speech; because it
could have been somebody else's turn it is counted as `maybe-turn`, and a strict caller refuses the text.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

EOT = "<|eot|>"
"""Ends every turn; one added token of a trained model's vocabulary."""

ACTIONS = ("speaking", "thinking")

Loss = Literal["character", "character_speech", "completion"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One person's words. `action` is `speaking` or `thinking`; `content` is one line, see `one_line`."""

    role: str
    action: str
    content: str

    def record(self) -> dict[str, str]:
        """Return the turn as it lies in artifacts."""
        return {"role": self.role, "action": self.action, "content": self.content}


class Leftover(NamedTuple):
    """Something in a text that is no turn, or that was altered in making one. `line` counts from 1."""

    line: int
    reason: str
    text: str


LEFT_OUT = (
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

ALTERED = ("markup", "code-fence", "quotes", "action", "respelled")
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


# --- Writing ---------------------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """Return text as it may stand in a turn: white space runs become one space, and no special token can be forged.

    `<|` becomes `< |`, so a content never holds `<|eot|>` or any chat template's marks. Idempotent.
    """
    return " ".join(text.replace("<|", "< |").split())


_ROLE_CHARACTER = r"(?:[^\W_]|[ .,'’&-])"
_ROLE = re.compile(rf"[^\W\d_]{_ROLE_CHARACTER}{{0,39}}")
_NARRATORS = frozenset({"narrator", "narration", "stage direction", "stage directions"})


def valid_role(name: str) -> bool:
    """Say whether a name can head a turn: letters first, at most 40 letters, digits, spaces and `.,'&-`, six words.

    A narrator is nobody: what it says is no turn.
    """
    return (
        _ROLE.fullmatch(name) is not None
        and one_line(name) == name
        and name[-1] != ","
        and len(name.split()) <= 6
        and name.casefold() not in _NARRATORS
    )


def cue(role: str, action: str | None = None) -> str:
    """Return how a turn begins, for a model to go on from: `Beethoven (` or `Beethoven (speaking):`.

    Ends in no space: the space belongs to the first token of what follows.
    """
    return f"{role} (" if action is None else f"{role} ({action}):"


def render_turn(turn: Turn) -> str:
    """Return `Name (action): content<|eot|>` and a newline. The content is made one line; see `one_line`.

    Raises ValueError for a role or an action that the grammar does not have, or an empty content.
    """
    content = one_line(turn.content)
    if not valid_role(turn.role) or turn.action not in ACTIONS or not content:
        raise ValueError(f"not a turn: {turn!r}")
    return f"{cue(turn.role, turn.action)} {content}{EOT}\n"


def render_output(turns: Iterable[Turn]) -> str:
    """Return the turns as the training set's `output`; `parse` gives exactly these turns back."""
    return "".join(render_turn(turn) for turn in turns)


def render_prompt(meta: str, location: str, background: str) -> str:
    """Return the training set's `prompt`: meta prompt, setting, and the empty line before the first turn."""
    return f"{meta.strip()}\n\nLocation: {one_line(location)}\nStatus: {one_line(background)}\n\n"


# --- The loss mask ---------------------------------------------------------------------------------------------------

_CANONICAL = re.compile(rf"(?P<role>{_ROLE.pattern}) \((?P<action>speaking|thinking)\): (?P<content>[^\n]+)")


def trained_spans(output: str, character: str, loss: str) -> list[tuple[int, int]]:
    """Return the half-open character ranges of `output` that loss falls on, in order.

    `completion` (the paper's): all of it. `character`: the character's own turns, from after `Name (` through the
    turn's end mark, so that the action is learned as well and a prompt may end in `Name (`. `character_speech`: only
    what the character says aloud, from after `Name (speaking):`, its leading space included, through the end mark.
    The newline after an end mark belongs to no range: generation has stopped by then.
    Raises ValueError if output is not as `render_output` writes it, or the loss is unknown.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"unknown loss {loss!r}")
    turns = _canonical(output)
    if turns is None:
        raise ValueError("not the text of render_output")
    if loss == "completion":
        return [(0, len(output))]
    spans = []
    start = 0
    for turn in turns:
        end = output.index(EOT, start) + len(EOT)
        if turn.role == character and (loss == "character" or turn.action == "speaking"):
            head = cue(turn.role, None if loss == "character" else turn.action)
            spans.append((start + len(head), end))
        start = end + 1
    return spans


def _canonical(text: str) -> list[Turn] | None:
    """Return the turns if the text is exactly what `render_output` writes, else None."""
    pieces = text.split(f"{EOT}\n")
    if pieces.pop():
        return None
    turns = []
    for piece in pieces:
        match = _CANONICAL.fullmatch(piece)
        if match is None or not valid_role(match["role"]) or one_line(match["content"]) != match["content"]:
            return None
        turns.append(Turn(match["role"], match["action"], match["content"]))
    return turns


# --- Reading ---------------------------------------------------------------------------------------------------------

_MARK = r"(?P<mark>(?:\s|[-–—•>#*_\"“\[]|(?:Turn\s+)?\d{1,3}[.):](?=\s))*)"
_NAME = rf"(?P<name>[^\W\d_]{_ROLE_CHARACTER}{{0,39}}?)"
_ACTION = r"[\s*_\]-]*[(\[（](?P<action>[^()\[\]（）]{1,60})[)\]）]"
_WITH_ACTION = re.compile(rf"{_MARK}{_NAME}{_ACTION}[\s*_\"”\]]*(?:[:：](?P<text>.*)|$)")
_NO_COLON = re.compile(rf"{_MARK}{_NAME}\s?\((?P<action>speaking|thinking)\)[*_]*\s(?P<text>.*)")
_WITHOUT_ACTION = re.compile(rf"{_MARK}{_NAME}[\s*_\]]*[:：](?P<text>.*)")
_LEADING_ACTION = re.compile(r"\s*[*_]*[(\[](?P<action>[^()\[\]]{1,60})[)\]][*_:]*\s*")
_INLINE_TURN = re.compile(r"\S\s+[*_]*[^\W\d_][\w .'’-]{0,39} \((?:speaking|thinking)\)[*_]*:")

_THOUGHT = re.compile(r"\b(think\w*|thought\w*|inner|internal\w*|to (him|her|my)self)\b", re.IGNORECASE)
_PARTICLES = frozenset(
    ("von", "van", "der", "den", "de", "di", "da", "la", "le", "the", "of", "and", "zu", "du", "del")
)
# fmt: off
_NO_NAMES = frozenset((
    "note", "notes", "remember", "listen", "question", "answer", "first", "second", "third", "finally",
    "example", "summary", "characters", "dialogue", "context", "conclusion", "time", "place", "type", "title",
    "paragraphs", "warning", "hint", "tip", "response", "output", "p.s.", "ps",
))
# fmt: on
_SETTING = re.compile(r"[*_#\s]*(Location|Status|Setting|Scene|Background)[*_]*\s?(\d+\s?)?:", re.IGNORECASE)
_CHATTER = re.compile(
    r"[*_(\[]*(I hope|I've|Let me know|Note:|Please note|This (dialogue|scene|conversation)|In this (dialogue|scene)"
    r"|The (dialogue|scene|conversation) (ends|above|shows)|Feel free|Word count|End of|The end\b)",
    re.IGNORECASE,
)
_RULE = re.compile(r"\s*([-*_=~—]\s?){3,}")
_HEADING = re.compile(r"\s*#{1,6}\s")
_FENCE = re.compile(r"\s*(`{3}|~{3})")


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    action: str | None
    text: str
    mark: str


@dataclass(slots=True)
class _Open:
    """A turn that is being read."""

    role: str
    action: str
    line: int
    parts: list[str]


def parse(text: str, *, known: Collection[str] = ()) -> Parsed:
    """Return the turns of a text and everything else in it. Never fails; see the module for what makes a turn.

    `known` are names that make a turn without an action tag; a name that differs from a known one in case only is
    spelled as known (counted as `respelled`). Text that `render_output` wrote is read exactly, whatever the contents.
    """
    exact = _canonical(text)
    if exact is not None:
        return Parsed(tuple(exact), tuple(range(1, len(exact) + 1)))
    return _Reader(text, known).read()


class _Reader:
    """One reading of one text that is not in the canonical form."""

    def __init__(self, text: str, known: Collection[str]) -> None:
        self.spelling = {name.casefold(): name for name in known}
        self.rows = list(_rows(text))
        self.turns: list[Turn] = []
        self.lines: list[int] = []
        self.leftovers: list[Leftover] = []
        self.open: _Open | None = None
        headers = [_header(row) for _, row, _ in self.rows]
        self.seen = set(self.spelling)
        self.seen |= {h.name.casefold() for h in headers if h and h.action in ACTIONS and valid_role(h.name)}
        self.bare = Counter(
            h.name.casefold() for h in headers if h and h.action is None and _name_like(h.name)
        )
        self.headers = [h if h and self._accepts(h) else None for h in headers]

    def _accepts(self, header: _Header) -> bool:
        name = header.name.casefold()
        if name in _NARRATORS or name in self.seen:
            return True
        if not valid_role(header.name):
            return False
        if header.action is not None:
            return header.action in ACTIONS or _name_like(header.name)
        return self.bare[name] >= 2 and name not in _NO_NAMES

    def read(self) -> Parsed:
        headed = [i for i, header in enumerate(self.headers) if header]
        last = headed[-1] if headed else len(self.rows)
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
            elif _RULE.fullmatch(row) or _HEADING.match(row):
                self._close()
                away = "heading" if headed and i > headed[0] else "preamble"
                self._leave(number, away, row)
                away = "postscript" if i > last else away
            elif self.open is None:
                self._leave(number, away, row)
            elif _SETTING.match(row):
                self._close()
                away = "setting"
                self._leave(number, away, row)
            elif i > last and paragraph and _CHATTER.match(row):
                self._close()
                away = "postscript"
                self._leave(number, away, row)
            elif self._is_direction(row):
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
        if header.name.casefold() in _NARRATORS:
            self._leave(number, "narrator", row)
            return "narrator"
        role = self.spelling.get(header.name.casefold(), header.name)
        if role != header.name:
            self._leave(number, "respelled", header.name)
        mark, text = _undress(header)
        if mark:
            self._leave(number, "markup", mark)
        action = header.action
        leading = _LEADING_ACTION.match(text) if action is None else None
        if leading and _action(leading["action"].casefold()) is not None:
            action, text = leading["action"].casefold(), text[leading.end() :]
        if action is not None and action not in ACTIONS:
            self._leave(number, "action", action)
            action = "thinking" if _THOUGHT.search(action) else "speaking"
        self.open = _Open(role, action or "speaking", number, [text])
        return "empty-turn"

    def _continue(self, i: int, *, paragraph: bool) -> None:
        number, row, _ = self.rows[i]
        assert self.open is not None
        header = _header(row)  # not accepted, or we were not here
        if header and _name_like(header.name):
            self._leave(number, "maybe-turn", row)
        elif paragraph and any(self.open.parts) and self._narrates(row):
            self._leave(number, "maybe-narration", row)
        self.open.parts.append(row)

    def _narrates(self, row: str) -> bool:
        """Say whether a paragraph begins like `Beethoven rises` and never says I."""
        words = row.split()
        names = (" ".join(words[:n]).casefold() for n in range(1, 5))
        n = next((n for n, name in enumerate(names, 1) if name in self.seen), 0)
        follows = words[n] if 0 < n < len(words) else ""
        return follows.islower() and not re.search(r"\b(I|me|my)\b", row)

    def _is_direction(self, row: str) -> bool:
        """Say whether a whole line is a stage direction: [in brackets], (in parentheses) or *in italics*."""
        row = row.strip()
        if re.fullmatch(r"\[[^\]]*\]", row):
            return True
        assert self.open is not None
        if self.open.action == "thinking" and not any(part.strip() for part in self.open.parts):
            return False  # a thought on the line under its header is often set like this
        return re.fullmatch(r"\([^()]*\)|\*[^*]+\*|_[^_]+_", row) is not None

    def _close(self) -> None:
        turn, self.open = self.open, None
        if turn is None:
            return
        raw = " ".join(turn.parts)
        content = one_line(raw)
        if "<|" in raw:
            self._leave(turn.line, "special-token", raw)
        bare = _unquoted(content)
        if bare != content:
            self._leave(turn.line, "markup" if content[0] in "*_" else "quotes", content[0] + content[-1])
            content = bare
        if not content:
            self._leave(turn.line, "empty-turn", cue(turn.role, turn.action))
            return
        if _INLINE_TURN.search(content):
            self._leave(turn.line, "inline-turn", content)
        self.turns.append(Turn(turn.role, turn.action, content))
        self.lines.append(turn.line)

    def _leave(self, line: int, reason: str, text: str) -> None:
        self.leftovers.append(Leftover(line, reason, text.strip()))


def _rows(text: str) -> Iterable[tuple[int, str, bool]]:
    """Yield (line, text, whether an end mark follows). A line with end marks in it gives several rows."""
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        pieces = line.split(EOT)
        for i, piece in enumerate(pieces):
            ended = i < len(pieces) - 1
            if i == 0 or piece.strip() or ended:
                yield number, piece, ended


def _header(row: str) -> _Header | None:
    """Return what a line would say if it started a turn."""
    for pattern in (_WITH_ACTION, _NO_COLON, _WITHOUT_ACTION):
        match = pattern.match(row)
        if match:
            found = match.groupdict()
            action = found.get("action")
            return _Header(
                name=" ".join(found["name"].split()),
                action=None if action is None else " ".join(action.casefold().split()),
                text=found["text"] or "",
                mark=found["mark"].strip(),
            )
    return None


def _name_like(name: str) -> bool:
    """Say whether every word of a name is capitalised, as in `Frau von Breuning`, and there are at most four."""
    words = name.split()
    return len(words) <= 4 and all(not word[0].islower() or word in _PARTICLES for word in words)


def _action(text: str) -> str | None:
    """Return the action that a tag after `Name:` tells of, or None where it may be part of what is said."""
    if _THOUGHT.search(text):
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
    if header.mark[-1:] in ("“", '"') and text[-1:] in ("”", '"') and not set('"“') & set(text[:-1]):
        text = text[:-1]
    return header.mark, text.strip()


def _unquoted(content: str) -> str:
    """Return a content without the quotes or italics that enclose the whole of it."""
    for opening, closing in (('"', '"'), ("“", "”"), ("**", "**"), ("*", "*"), ("_", "_")):
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


def dialogue_words(turns: Sequence[Turn]) -> int:
    """Return the number of words in the contents of the turns, as split at white space."""
    return sum(len(turn.content.split()) for turn in turns)
