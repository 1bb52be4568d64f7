"""Dataset: all dialogues, written and generated, become samples for supervised fine-tuning. Pure.

A sample is a prompt (meta prompt, Location, Status) and an output (the turns). A dialogue that is longer than the limit is
split between turns, and each part gets the prompt again. Nothing is cut: what cannot become a sample is rejected with its
reason. Tokens are unknown here; the limit is in words, and the trainer counts tokens. Samples that were released as such
(charforge.stages.released) stay as they are, and general ones are mixed in by ratio.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from charforge import checks
from charforge.dialogue import (
    ACTIONS,
    EOT,
    Turn,
    one_line,
    render_output,
    render_prompt,
    turn_spans,
    valid_role,
)
from charforge.stages import released

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VERSION = 3

KINDS = ("dialogue", "protective")
_SPEAKERS = 12
"""How many of a released file's speakers are told: a character that goes by another name there is among them."""


Made = tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]
"""sft.jsonl, stats.json, rejected.jsonl."""


class Mix(NamedTuple):
    """General samples to mix in: `ratio` of them for each sample of the character, chosen by `seed`."""

    file: released.File
    ratio: float
    seed: int


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
    mix: Mix | None = None,
) -> Made:
    """Return (sft.jsonl, stats.json, rejected.jsonl) of what this build made.

    The sequences are records of dialogues.jsonl and protective.jsonl; `meta` is the rendered meta prompt. `max_words` limits
    prompt and output of a sample together, in words as split at white space. Samples come sorted by source id and part.
    Written dialogues come first where two are near-duplicates, at that likeness (None: all are kept). A bad record is
    rejected, and never an error; `mix` raises what `released.general` does.
    """
    made = _Made(short_name, ("written", "generated"))
    for kinds in ((written, written_protective), (dialogues, protective)):
        for kind, records in zip(KINDS, kinds, strict=True):
            made.sources += [(kind, record) for record in records]
    made.split_up(meta, max_words, near_duplicate or 0)
    return made.finish(profile, mix)


def build_released(
    *,
    form: str,
    file: released.File,
    profile: Mapping[str, Any],
    meta: str,
    name: str,
    short_name: str,
    max_words: int,
    mix: Mix | None = None,
) -> Made:
    """Return the same of what somebody released: `form` is `prompted` or `generated`.

    Prompted samples stay word for word, however long; dialogues become samples as in `build`, but that near-duplicates stay.
    Raises FileProblems as `released.prompted`, `released.generated` and `released.general` do.
    """
    made = _Made(short_name, ("released",))
    if form == "prompted":
        samples, unusable = released.prompted(file)
        made.take(samples, unusable)
    else:
        records, unusable = released.generated(file, name, short_name)
        made.sources = [("dialogue", record) for record in records]
        made.note(unusable)
        made.split_up(meta, max_words, 0)
    return made.finish(profile, mix)


class _Made:
    """A training set in the making, and its figures."""

    def __init__(self, short_name: str, origins: Sequence[str]) -> None:
        self.short_name = short_name
        self.sources: list[tuple[str, Mapping[str, Any]]] = []
        self.samples: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self.rules = Counter[str]()
        self.without: int | None = None
        self.speakers = Counter[str]()
        self.figures = {kind: _Figures(origins) for kind in (*KINDS, "all")}

    def note(self, unusable: released.Rejected) -> None:
        self.rejected += unusable.rows
        self.rules += unusable.counts

    def reject(self, identity: str, broken: checks.Broken, text: str) -> None:
        self.rejected.append(
            {"id": identity, "rule": broken.rule, "detail": broken.detail, "text": text, "call": None}
        )
        self.rules[broken.rule] += 1

    def take(self, samples: list[dict[str, Any]], unusable: released.Rejected) -> None:
        """Take samples as they are, and count those in which the character has no turn."""
        self.note(unusable)
        self.samples += samples
        self.without = 0
        for sample in samples:
            turns = turn_spans(sample["output"])
            self.without += not any(turn.role == self.short_name for turn in turns)
            self.speakers.update(turn.role for turn in turns if turn.role)
            said = sum(
                len(sample["output"][turn.said : turn.end].removesuffix(EOT).split()) for turn in turns
            )
            for name in (sample["kind"], "all"):
                self.figures[name].count(
                    sample["source"]["origin"], turns=len(turns), words=said, parts=1, samples=1
                )

    def split_up(self, meta: str, max_words: int, near_duplicate: float) -> None:
        """Make samples of the sources."""
        accepted = checks.Accepted(near_duplicate)
        for kind, record in self.sources:
            turns = [
                Turn(turn["role"], turn["action"], one_line(turn["content"])) for turn in record["turns"]
            ]
            text = "\n".join(turn.content for turn in turns)
            broken = checks.first(
                format=_malformed(record, turns),
                character_silent=_silent(turns, self.short_name),
                near_duplicate=accepted.near_duplicate(text) if near_duplicate else None,
            )
            if broken:
                self.reject(record["id"], broken, text)
                continue
            if near_duplicate:
                accepted.add(record["id"], text)
            prompt = render_prompt(meta, record["location"], record["background"])
            parts = split(turns, self.short_name, max_words - len(prompt.split()))
            kept = 0
            for number, part in enumerate(parts, 1):
                broken = checks.first(
                    length=_too_long(prompt, part, max_words), character_silent=_silent(part, self.short_name)
                )
                if broken:
                    lost = "\n".join(turn.content for turn in part)
                    self.reject(f"{record['id']}/{number}", broken, lost)
                    continue
                kept += 1
                self.samples.append(_sample(kind, record, prompt, part, number))
            for name in (kind, "all"):
                words = sum(len(turn.content.split()) for turn in turns)
                self.figures[name].count(
                    record["kind"], turns=len(turns), words=words, parts=len(parts), samples=kept
                )

    def finish(self, profile: Mapping[str, Any], mix: Mix | None) -> Made:
        """Mix in what is general, and return everything sorted, with the figures."""
        told = {paragraph for sample in self.samples for paragraph in sample["source"]["paragraphs"]}
        stats: dict[str, Any] = {
            "all": self.figures["all"].table(),
            "by_kind": {kind: self.figures[kind].table() for kind in KINDS},
            "paragraphs": {"told": len(told), "all": len(profile["paragraphs"])},
        }
        if self.without is not None:
            stats["without_character"] = self.without
            often = sorted(self.speakers.items(), key=lambda item: (-item[1], item[0]))
            stats["speakers"] = dict(often[:_SPEAKERS])
        if mix and self.samples:
            wanted = max(1, round(mix.ratio * len(self.samples)))
            chosen = released.general(mix.file, wanted, mix.seed)
            self.note(chosen.rejected)
            self.samples += chosen.samples
            stats["general"] = {"wanted": wanted, "there": chosen.there, "taken": len(chosen.samples)}
        self.samples.sort(key=lambda sample: (sample["source"]["id"], sample["source"]["part"]))
        self.rejected.sort(key=lambda rejection: str(rejection["id"]))
        stats["samples"] = {
            "by_kind": _tally(sample["kind"] for sample in self.samples),
            "by_origin": _tally(sample["source"]["origin"] for sample in self.samples),
        }
        words = [len(f"{sample['prompt']}{sample['output']}".split()) for sample in self.samples]
        stats["sample_words"] = _spread(words)
        stats["rejected"] = dict(sorted(self.rules.items()))
        return self.samples, stats, self.rejected


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


# --- Figures ---------------------------------------------------------------------------------------------------------


class _Figures:
    """The paper's table (Character-LLM, table 1): scenes, words, turns; where they are from, and how many were split."""

    def __init__(self, origins: Sequence[str]) -> None:
        self.scenes = dict.fromkeys(origins, 0)
        self.turns: list[int] = []
        self.words: list[int] = []
        self.split = self.samples = 0

    def count(self, origin: str, *, turns: int, words: int, parts: int, samples: int) -> None:
        self.scenes[origin] += 1
        self.turns.append(turns)
        self.words.append(words)
        self.split += parts > 1
        self.samples += samples

    def table(self) -> dict[str, Any]:
        return {
            "scenes": sum(self.scenes.values()),
            **self.scenes,
            "words": sum(self.words),
            "mean_turns": _mean(self.turns),
            "mean_words": _mean(self.words),
            "samples": self.samples,
            "split": self.split,
        }


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _mean(numbers: Sequence[int]) -> float | None:
    return round(sum(numbers) / len(numbers), 1) if numbers else None


def _spread(numbers: Sequence[int]) -> dict[str, Any]:
    return {"mean": _mean(numbers), "longest": max(numbers, default=None), "all": sum(numbers)}
