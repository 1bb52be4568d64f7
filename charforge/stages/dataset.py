"""Dataset: all dialogues, written and generated, become samples for supervised fine-tuning. Pure.

A sample is a prompt (meta prompt, Location, Status) and an output (the turns). A dialogue that is longer than the limit is
split between turns, and each part gets the prompt again. Nothing is cut: what cannot become a sample is rejected with its
reason. Tokens are unknown here; the limit is in words, and the trainer counts tokens.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from charforge import checks
from charforge.dialogue import ACTIONS, Turn, one_line, render_output, render_prompt, valid_role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VERSION = 2

KINDS = ("dialogue", "protective")


def build(
    *,
    profile: Mapping[str, Any],
    dialogues: Sequence[Mapping[str, Any]],
    protective: Sequence[Mapping[str, Any]],
    written: Sequence[Mapping[str, Any]],
    written_protective: Sequence[Mapping[str, Any]],
    meta: str,
    short_name: str,
    near_duplicate: float | None,
    max_words: int,
) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """Return (sft.jsonl, stats.json, rejected.jsonl).

    The sequences are records of dialogues.jsonl and protective.jsonl; `meta` is the rendered meta prompt. `max_words` limits
    prompt and output of a sample together, in words as split at white space. Samples come sorted by source id and part.
    Written dialogues come first where two are near-duplicates, at that likeness (None: all are kept). Never fails: a bad record is rejected.
    """
    sources = [
        *(
            (kind, record)
            for kind, records in zip(KINDS, (written, written_protective), strict=True)
            for record in records
        ),
        *(
            (kind, record)
            for kind, records in zip(KINDS, (dialogues, protective), strict=True)
            for record in records
        ),
    ]
    samples: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    figures = {kind: _Figures() for kind in (*KINDS, "all")}
    accepted = checks.Accepted(near_duplicate or 0)
    for kind, record in sources:
        turns = [Turn(turn["role"], turn["action"], one_line(turn["content"])) for turn in record["turns"]]
        text = "\n".join(turn.content for turn in turns)
        broken = checks.first(
            format=_malformed(record, turns),
            character_silent=_silent(turns, short_name),
            near_duplicate=accepted.near_duplicate(text),
        )
        if broken:
            rejected.append(_rejection(record["id"], broken, text))
            continue
        accepted.add(record["id"], text)
        prompt = render_prompt(meta, record["location"], record["background"])
        parts = split(turns, short_name, max_words - len(prompt.split()))
        kept = 0
        for number, part in enumerate(parts, 1):
            broken = checks.first(
                length=_too_long(prompt, part, max_words), character_silent=_silent(part, short_name)
            )
            if broken:
                rejected.append(
                    _rejection(f"{record['id']}/{number}", broken, "\n".join(turn.content for turn in part))
                )
                continue
            kept += 1
            samples.append(_sample(kind, record, prompt, part, number))
        for name in (kind, "all"):
            figures[name].count(record, turns, parts=len(parts), samples=kept)
    samples.sort(key=lambda sample: (sample["source"]["id"], sample["source"]["part"]))
    rejected.sort(key=lambda rejection: str(rejection["id"]))
    told = {paragraph for sample in samples for paragraph in sample["source"]["paragraphs"]}
    stats = {
        "all": figures["all"].table(),
        "by_kind": {kind: figures[kind].table() for kind in KINDS},
        "sample_words": _spread([len(f"{sample['prompt']}{sample['output']}".split()) for sample in samples]),
        "paragraphs": {"told": len(told), "all": len(profile["paragraphs"])},
        "rejected": dict(sorted(Counter(rejection["rule"] for rejection in rejected).items())),
    }
    return samples, stats, rejected


def split(turns: Sequence[Turn], short_name: str, room: int) -> list[list[Turn]]:
    """Return the turns in parts of at most `room` words each, as output has them; one turn that is longer stands alone.

    A thought goes with what follows it, and a part in which the character would be silent takes turns from the end
    of the part before it, as far as there is room.
    """
    parts: list[list[Turn]] = [[]]
    used = 0
    for turn in turns:
        size = _words([turn])
        if parts[-1] and used + size > room:
            moved: list[Turn] = []
            while len(parts[-1]) > 1 and parts[-1][-1].action == "thinking":
                moved.insert(0, parts[-1].pop())
            if _words(moved) + size > room:  # together they fit nowhere
                parts[-1] += moved
                moved = []
            parts.append(moved)
            used = _words(moved)
        parts[-1].append(turn)
        used += size
    for before, part in itertools.pairwise(parts):
        enough = next(
            (i for i in range(len(before) - 1, 0, -1) if not _silent(before[i:] + part, short_name)), None
        )
        if not _silent(part, short_name) or enough is None or _silent(before[:enough], short_name):
            continue
        if _words(before[enough:] + part) <= room:
            part[:0] = before[enough:]
            del before[enough:]
    return parts


def _words(turns: Iterable[Turn]) -> int:
    """Return the words of turns as rendered: a name, an action, the content."""
    return sum(len(turn.role.split()) + 1 + len(turn.content.split()) for turn in turns)


def _sample(
    kind: str, record: Mapping[str, Any], prompt: str, part: Sequence[Turn], number: int
) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "output": render_output(part),
        "kind": kind,
        "source": {
            "id": record["id"],
            "origin": record["kind"],
            "part": number,
            "paragraphs": list(record["paragraphs"]),
        },
    }


def _malformed(record: Mapping[str, Any], turns: Sequence[Turn]) -> str | None:
    for number, turn in enumerate(turns, 1):
        if not valid_role(turn.role) or turn.action not in ACTIONS or not turn.content:
            return f"turn {number} cannot be written: {turn.role!r} ({turn.action})"[:120]
    if not one_line(record["location"]) or not one_line(record["background"]):
        return "no location or no status"
    return (
        checks.text_form(f"{record['location']}\n{record['background']}")
        if record["kind"] == "generated"
        else None
    )


def _silent(turns: Sequence[Turn], short_name: str) -> str | None:
    speaks = any(turn.role == short_name and turn.action == "speaking" for turn in turns)
    return None if speaks else f"{short_name} never speaks"


def _too_long(prompt: str, part: Sequence[Turn], max_words: int) -> str | None:
    count = len(prompt.split()) + _words(part)
    return (
        f"{count} words in a part that cannot be split, expected at most {max_words}"
        if count > max_words
        else None
    )


def _rejection(identity: str, broken: checks.Broken, text: str) -> dict[str, Any]:
    return {"id": identity, "rule": broken.rule, "detail": broken.detail, "text": text, "call": None}


# --- Figures ---------------------------------------------------------------------------------------------------------


class _Figures:
    """The paper's table (Character-LLM, table 1): scenes, words, turns; and how many were written and split."""

    def __init__(self) -> None:
        self.scenes = Counter[str]()
        self.turns: list[int] = []
        self.words: list[int] = []
        self.split = self.samples = 0

    def count(self, record: Mapping[str, Any], turns: Sequence[Turn], *, parts: int, samples: int) -> None:
        self.scenes[record["kind"]] += 1
        self.turns.append(len(turns))
        self.words.append(sum(len(turn.content.split()) for turn in turns))
        self.split += parts > 1
        self.samples += samples

    def table(self) -> dict[str, Any]:
        return {
            "scenes": self.scenes.total(),
            "written": self.scenes["written"],
            "generated": self.scenes["generated"],
            "words": sum(self.words),
            "mean_turns": _mean(self.turns),
            "mean_words": _mean(self.words),
            "samples": self.samples,
            "split": self.split,
        }


def _mean(numbers: Sequence[int]) -> float | None:
    return round(sum(numbers) / len(numbers), 1) if numbers else None


def _spread(numbers: Sequence[int]) -> dict[str, Any]:
    return {"mean": _mean(numbers), "longest": max(numbers, default=None), "all": sum(numbers)}
