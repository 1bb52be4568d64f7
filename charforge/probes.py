"""Probe questions: a few that every character is asked before and after its training, to be read side by side.

They are no evaluation: nothing counts them. They are fixed, so that a spec's interview questions can be edited without
training again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from charforge.dialogue import Turn, cue, render_turn

QUESTIONS = (
    "Who are you?",
    "What do you remember of your childhood?",
    "What matters most to you in life?",
    "What do you use your computer for?",
)
ANSWER_TOKENS = 64
_ASKER = "Visitor"


def probes(samples: Iterable[Mapping[str, Any]], short_name: str) -> list[dict[str, str]]:
    """Return `{"question", "prompt"}` for each question, in the setting of the first sample that is the character's.

    `samples` are records of sft.jsonl. Empty where none of them is the character's.
    """
    setting = next((sample["prompt"] for sample in samples if sample["kind"] != "general"), None)
    if setting is None:
        return []
    return [
        {
            "question": question,
            "prompt": f"{setting}{render_turn(Turn(_ASKER, 'speaking', question))}{cue(short_name, 'speaking')}",
        }
        for question in QUESTIONS
    ]
