"""What can be wrong with an answer, said by marks. Nothing is hidden or mended: the words stay as they came.

The same marks stand on answers that we asked for and on answers that others released. Knows no stage and no file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CUT_OFF = "cut-off"
EMPTY = "empty"
FILTERED = "filtered"
MALFORMED = "malformed"
OPEN_THOUGHT = "open-thought"
OWN_HEADER = "own-header"
SCRIPTED_QUESTION = "scripted-question"
SPECIAL_TOKEN = "special-token"  # noqa: S105  # a mark, no secret
WRONG_SPEAKER = "wrong-speaker"

MARKS = {
    CUT_OFF: "The reply hit the token limit.",
    EMPTY: "Nothing was said.",
    FILTERED: "The provider refused or filtered the reply.",
    MALFORMED: "What came was no reply; the text says what was wrong with it.",
    OPEN_THOUGHT: "The model thought and never began to speak.",
    OWN_HEADER: "The answer began with the speaker's own name; that name was taken off.",
    SCRIPTED_QUESTION: "The interviewer's own questions failed; this one is from a fixed list.",
    SPECIAL_TOKEN: "The answer holds a control token of a chat format.",
    WRONG_SPEAKER: "The answer goes on to speak for somebody else.",
}
"""What each mark means."""

SPECIAL = re.compile(r"<\|[^|>\n]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
HEADER = re.compile(
    r"(?:^|\n|(?<=[.!?…\"”*])\s)[ \t*_#>-]*"
    r"(?:(?P<role>[^\W\d_][\w .,'’&-]{0,39}?) ?\((?:speaking|thinking)\)[*_]*:"
    r"|(?P<bare>Visitor|Interviewer|User|Human|Man|Assistant|Narrator|Question|Q)[*_]*:)",
    re.IGNORECASE,
)


def mark_answer(text: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return an answer without the white space and the speaker's own header before it, and its marks, sorted.

    `names` are what the speaker is called. Marks that a text alone shows: empty, own-header, special-token, wrong-speaker.
    """
    text, marks = _own_header(text.strip(), names)
    if not text:
        marks.append(EMPTY)
    if SPECIAL.search(text):
        marks.append(SPECIAL_TOKEN)
    if _other_speakers(text, names):
        marks.append(WRONG_SPEAKER)
    return text, sorted(marks)


def _own_header(text: str, own: Sequence[str]) -> tuple[str, list[str]]:
    names = "|".join(re.escape(name) for name in own)
    match = re.match(rf"[*_]*(?:{names})[*_]*(?: ?\((?:speaking|thinking)\))?[*_]*:[*_]*\s*", text)
    return (text[match.end() :], [OWN_HEADER]) if match else (text, [])


def _other_speakers(text: str, own: Sequence[str]) -> list[str]:
    """Return who else gets a turn within an answer."""
    names = [match["role"] or match["bare"] for match in HEADER.finditer(text)]
    return [name for name in names if name.casefold() not in {one.casefold() for one in own}]
