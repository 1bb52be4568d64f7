"""Turns of a dialogue: writing them, and saying which characters are trained on.

One grammar (`render_output`) is what the training set, the trained model and the interviews speak; `canonical` reads
exactly that. What people and models write is read by charforge.reading.
This module knows no file, no model and no tokenizer, and never imports torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


# --- Writing ---------------------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """Return text as it may stand in a turn: white space runs become one space, and no special token can be forged.

    `<|` becomes `< |`, so a content never holds `<|eot|>` or any chat template's marks. Idempotent.
    """
    return " ".join(text.replace("<|", "< |").split())


ROLE_CHARACTER = r"(?:[^\W_]|[ .,'’&-])"
_ROLE = re.compile(rf"[^\W\d_]{ROLE_CHARACTER}{{0,39}}")
NARRATORS = frozenset(
    {"narrator", "narration", "stage direction", "stage directions", "voiceover", "voice-over"}
)


def valid_role(name: str) -> bool:
    """Say whether a name can head a turn: letters first, at most 40 letters, digits, spaces and `.,'&-`, six words.

    A narrator is nobody: what it says is no turn.
    """
    return (
        _ROLE.fullmatch(name) is not None
        and one_line(name) == name
        and name[-1] != ","
        and len(name.split()) <= 6
        and name.casefold() not in NARRATORS
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


_HEAD = re.compile(r"\s*(?P<role>[^\n():]{1,80}?) ?\((?P<action>[^()\n]{1,40})\):")
_INNER = re.compile(r"^[^\n():]{1,80}? ?\((?:speaking|thinking)\):", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Span:
    """A turn's place in a text: `start` to `end`, and `end` is after its end mark where it is `ended`.

    `role` and `action` are None where it has no head `Name (action):`. The action's word begins at `act`; `said` is after the head.
    """

    start: int
    end: int
    role: str | None
    action: str | None
    act: int
    said: int
    ended: bool


def turn_spans(output: str) -> list[Span]:
    """Return the turns of a text as it was released, in order; together with the white space between them they are all of it.

    A turn ends at `<|eot|>`, and also where a line begins with another `Name (speaking):`: what came before it has no end mark
    then, and must not be taken for its neighbour's words. Contents may hold newlines.
    """
    spans: list[Span] = []
    start = 0
    while start < len(output):
        mark = output.find(EOT, start)
        stop = len(output) if mark < 0 else mark + len(EOT)
        head = _HEAD.match(output, start, stop)
        inner = _INNER.search(output, head.end() if head else start, stop)
        if inner and output[start : inner.start()].strip():
            stop = inner.start()
        if output[start:stop].strip():
            spans.append(
                Span(
                    start,
                    stop,
                    head["role"].strip() if head else None,
                    head["action"] if head else None,
                    head.start("action") if head else start,
                    head.end() if head else start,
                    output.endswith(EOT, start, stop),
                )
            )
        start = stop
        if output.startswith("\n", start):
            start += 1
    return spans


def trained_spans(output: str, character: str, loss: str) -> list[tuple[int, int]]:
    """Return the half-open character ranges of `output` that loss falls on, in order.

    `completion` (the paper's): all of it. `character`: the character's own turns, from after `Name (` through the
    turn's end mark, so that the action is learned as well and a prompt may end in `Name (`. `character_speech`: only
    what the character says aloud, from after `Name (speaking):`, its leading space included, through the end mark.
    The newline after an end mark belongs to no range: generation has stopped by then. A turn without a head is nobody's, and
    one without an end mark teaches not to stop: neither is trained, and `completion` goes as far as the last end mark.
    Raises ValueError if the loss is unknown.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"unknown loss {loss!r}")
    turns = turn_spans(output)
    if loss == "completion":
        end = max((turn.end for turn in turns if turn.ended), default=0)
        end += output.startswith("\n", end)
        return [(0, end)] if end and turns[0].start < end else []
    return [
        (turn.act if loss == "character" else turn.said, turn.end)
        for turn in turns
        if turn.role == character and turn.ended and (loss == "character" or turn.action == "speaking")
    ]


def canonical(text: str) -> list[Turn] | None:
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


def dialogue_words(turns: Sequence[Turn]) -> int:
    """Return the number of words in the contents of the turns, as split at white space."""
    return sum(len(turn.content.split()) for turn in turns)
