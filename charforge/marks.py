"""What can be wrong with an answer, said by marks. Nothing is hidden or mended: the words stay as they came.

The same marks stand on answers that we asked for and on answers that others released. Knows no stage and no file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from charforge.dialogue import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    MALFORMED: "What the provider sent was no reply, so that there are no words to show.",
    OPEN_THOUGHT: "The model went on thinking and never came to speak; what it thought is kept as a thought.",
    OWN_HEADER: "The answer began with the speaker's own name; that name was taken off.",
    SCRIPTED_QUESTION: "The interviewer's own questions failed; this one is from a fixed list.",
    SPECIAL_TOKEN: "The answer holds a control token of a chat format.",
    WRONG_SPEAKER: "The answer goes on to speak for somebody else.",
}
"""What each mark means."""

SPECIAL = re.compile(r"<\|[^|>\n]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")

_OTHERS = (
    r"(?:the |next |second |third )?(?:follow-up )?"
    r"(?:Visitor|Interviewer|Questioner|Interlocutor|Reporter|Journalist|User|Human|Man|Woman|Gentleman|Lady|Stranger"
    r"|Guest|Host|Friend|Student|Assistant|System|AI|Bot|Narrator|Speaker|Person|Instruction|Response|Question|Q)"
    r"(?: ?#?\d{1,2})?"
)
"""Whom models let speak when they go on with an interview, besides anybody with `(speaking)` or `(thinking)` behind the name."""

HEADER = re.compile(
    r"(?:^|\n|(?<=[.!?…\"”’*)\]])\s)[ \t*_#>\[\-]{0,12}"
    r"(?:(?P<role>(?:(?:Dr|Mr|Mrs|Ms|St|Prof|Capt|[A-Z])\. ?){0,3}[^\W\d_][\w ,'’&-]{0,39}?)[*_]* ?\(+(?:speaking|thinking)\)"
    rf"|(?P<bare>{_OTHERS})(?:[*_]* ?\([^()\n]{{1,40}}\))?)[*_\]]* ?[:：]",
    re.IGNORECASE,
)
"""A speaker's name as it heads a turn: at the beginning of a line, or after the end of a sentence.

Every repetition is bounded: an answer may be anybody's, and a hundred thousand stars took minutes.
"""

_SCRIPT_HEADER = re.compile(
    r"^[ \t*_#>\[\-]{0,12}(?P<role>[^\W\d_a-z][\w'’.-]*(?: [^\W\d_a-z][\w'’.-]*){0,3})[*_\]]* ?[:：]",
    re.MULTILINE,
)
"""A line that begins with one to four capitalised words and a colon. It heads a turn only where the speaker's own name does so too:
else it may as well head an item of a list."""

_TAG = r"(?:think(?:ing)?|thoughts?|reasoning)"
_OPENS = re.compile(rf"<{_TAG}>|\[THINK\]", re.IGNORECASE)
_CLOSES = re.compile(rf"</{_TAG}>|\[/THINK\]", re.IGNORECASE)


class Heard(NamedTuple):
    """A reply, apart from what was thought aloud in it. `thoughts` are one line each; `marks` are open-thought or none."""

    text: str
    thoughts: list[str]
    marks: list[str]


def hear(text: str) -> Heard:
    """Part a reasoning model's thoughts from what it says.

    Thoughts stand in `<think>…</think>` (or thinking, thought, reasoning, or Mistral's `[THINK]`). Where the first tag is missing,
    all before the last one was thought: some templates write the opening tag into the prompt. Where the last tag is missing, all after
    the first was thought, and that is marked.
    """
    said: list[str] = []
    thoughts: list[str] = []
    marks: list[str] = []
    first = _CLOSES.search(text)
    opened = _OPENS.search(text)
    if first and (opened is None or first.start() < opened.start()):
        thoughts.append(text[: first.start()])
        text = text[first.end() :]
    while opened := _OPENS.search(text):
        said.append(text[: opened.start()])
        closed = _CLOSES.search(text, opened.end())
        if closed is None:
            thoughts.append(text[opened.end() :])
            marks.append(OPEN_THOUGHT)
            text = ""
            break
        thoughts.append(text[opened.end() : closed.start()])
        text = text[closed.end() :]
    kept = [line for thought in thoughts if (line := one_line(thought))]
    return Heard("".join([*said, text]).strip(), kept, marks)


def mark_answer(text: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return an answer without the white space and the speaker's own header before it, and its marks, sorted.

    `names` are what the speaker is called. Marks that a text alone shows: empty, own-header, special-token, wrong-speaker.
    """
    text, marks = _own_header(text.strip(), names)
    if not text:
        marks.append(EMPTY)
    if SPECIAL.search(text):
        marks.append(SPECIAL_TOKEN)
    if list(_turns_of_others(text, names, script=OWN_HEADER in marks)):
        marks.append(WRONG_SPEAKER)
    return text, sorted(marks)


def own_words(text: str, names: Sequence[str]) -> str:
    """Return what of an answer is the speaker's own: all before the first turn of somebody else, or the first control token.

    That is what others in the conversation heard.
    """
    text, marks = _own_header(text.strip(), names)
    ends = [found.start() for found in SPECIAL.finditer(text)]
    ends += _turns_of_others(text, names, script=bool(marks))
    return text[: min(ends, default=len(text))].strip()


def _own_header(text: str, own: Sequence[str]) -> tuple[str, list[str]]:
    match = re.match(
        rf"[*_#>\[ ]*(?:{_any(own)})[*_]*(?: ?\(+[^()\n]{{1,40}}\))?[*_\]]* ?[:：][*_]*\s*",
        text,
        re.IGNORECASE,
    )
    return (text[match.end() :], [OWN_HEADER]) if match else (text, [])


def _any(names: Sequence[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def _turns_of_others(text: str, own: Sequence[str], *, script: bool) -> Iterator[int]:
    """Yield where in an answer somebody else begins to speak. `script`: it is known to be written as a play."""
    mine = {name.casefold() for name in own}

    def others(pattern: re.Pattern[str]) -> Iterator[int]:
        for match in pattern.finditer(text):
            role = next(name for name in match.groups() if name)
            if role.casefold().strip() not in mine:
                yield match.start()

    yield from others(HEADER)
    heads = {match["role"].casefold() for match in _SCRIPT_HEADER.finditer(text)}
    if script or heads & mine:
        yield from others(_SCRIPT_HEADER)
