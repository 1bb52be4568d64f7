"""Verifies a character's files without running anything: spec, profile, written scenes, questions, all at once.

What the readers demand is an error here as there; beside it stand charforge.contribution's rules, for what would build and
be no use, or not fit to be handed on. Knows no store and no model.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from charforge import contribution, questions, transcripts
from charforge.errors import FileProblems, Problem
from charforge.files import MIB, read_bytes, read_text
from charforge.spec import (
    MAX_QUESTIONS_BYTES,
    MAX_TEXT_BYTES,
    MAX_TRANSCRIPT_BYTES,
    Examined,
    examine,
    valid_day,
)
from charforge.stages import profile, released, written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from charforge.sections import CharacterSpec, Transcript

MAX_LOOKED_INTO = 8 * MIB
"""Of a data file. One of 2 GiB takes minutes and gigabytes, and check is to be quick on anybody's files."""

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Checked:
    """A sound character: facts, one a line; what is not fit to be handed on yet; what a person should look at."""

    spec: CharacterSpec
    facts: list[str]
    unfinished: list[Problem]
    notes: list[Problem]


def check(
    path: Path,
    workspace: Path,
    *,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    strict: bool = False,
    today: date | None = None,
) -> Checked:
    """Return what was found about the character whose spec is at `path`.

    `strict`: what is unfinished is wrong. `today` is the day in UTC, but for tests. Raises FileProblems with everything that is
    wrong in any of its files.
    """
    today = today or datetime.now(UTC).date()
    found = examine(path, workspace, preset=preset, overrides=overrides)
    odd = contribution.Found(problems=list(found.problems))
    facts = _facts(found, workspace, today, odd)
    problems = odd.problems + (odd.unfinished if strict else [])
    if problems or found.spec is None:
        raise FileProblems(problems)
    return Checked(found.spec, facts, [] if strict else odd.unfinished, odd.notes)


def _facts(found: Examined, workspace: Path, today: date, odd: contribution.Found) -> list[str]:
    """Read everything; return the facts, and put into `odd` what is to be told."""
    problems = odd.problems
    facts: list[str] = []
    contribution.person(found, today, odd)
    if found.spec:
        file = found.spec.file
        facts.append(f"{file}: {found.spec.name}, preset {found.spec.preset}")
        facts.append(f"{file}: portrays {found.spec.portrays}, knows until {found.spec.knows.until}")
    until = found.value("knows", "until")
    until = until if isinstance(until, str) and valid_day(until) else None
    never = [thing for thing in found.value("knows", "never") or () if isinstance(thing, str)]

    def read(key: str, limit: int, parse: Callable[[str, str], _Read]) -> tuple[str, str, _Read | None]:
        """Return a file's name, text and content; what is wrong with it goes to the problems."""
        file, text = found.files.get(key, ""), ""
        if file:
            try:
                text = read_text(workspace / file, file, limit)
                return file, text, parse(text, file)
            except FileProblems as error:
                problems.extend(error.problems)
        return file, text, None

    file, text, life = read("profile.file", MAX_TEXT_BYTES, lambda text, file: profile.read(text, file=file))
    language = None
    if life:
        facts.append(_profile_fact(file, life))
        language = contribution.language(life)
        contribution.profile(file, text, life, never=never, until=until, language=language, found=odd)
        paragraph_ids = [paragraph["id"] for paragraph in life["paragraphs"]]
    else:  # the anchors alone, so that what is written can be held to them all the same
        paragraph_ids = re.findall(r"\{#([^{}\n]*)\}", text)

    def parse_written(text: str, file: str) -> Any:
        short_name = found.short_name or ""
        return written.read(text, file=file, short_name=short_name, paragraph_ids=paragraph_ids)

    if found.short_name and paragraph_ids:
        file, text, scenes = read("written", MAX_TEXT_BYTES, parse_written)
        if scenes:
            facts.append(_written_fact(file, *scenes))
            contribution.written(
                file,
                text,
                *scenes,
                short_name=found.short_name,
                never=never,
                until=until,
                language=language,
                found=odd,
            )

    file, text, asked = read(
        "interview.questions", MAX_QUESTIONS_BYTES, lambda text, file: questions.read(text, file=file)
    )
    if asked:
        # To whom nothing is put, nothing needs to be asked: transcripts bring their own questions.
        spec = found.spec
        asks = spec is None or spec.interview.trained or spec.interview.baselines
        facts.append(_questions_fact(file, asked))
        if asks:
            contribution.questions(file, text, asked, never=never, until=until, language=language, found=odd)
    if found.spec and found.spec.interview.questions is None:
        wanted = found.spec.interview.generate
        facts.append(f"interview.questions: {wanted.single} and {wanted.multi} wanted of {wanted.model}")
    if found.spec:  # else these wait: they can be large, and are read differently once the spec is mended
        for key, file in found.files.items():
            if not key.startswith("train."):
                continue
            size = (workspace / file).stat().st_size
            if size > MAX_LOOKED_INTO:
                facts.append(f"{file}: {size:,} bytes, too large to look into here: the build does")
                continue
            try:
                data = released.File(read_bytes(workspace / file, file, MAX_LOOKED_INTO), file)
                facts.append(_data_fact(key, data, found.spec.short_name))
            except FileProblems as error:
                problems.extend(error.problems)
        known = {} if asked is None else {"single": asked.single_records(), "multi": asked.multi_records()}
        for transcript in found.spec.interview.transcripts:
            try:
                facts.append(_transcript_fact(workspace, found.spec, transcript, known))
            except FileProblems as error:
                problems.extend(error.problems)
    return facts


def _profile_fact(file: str, life: dict[str, Any]) -> str:
    words = sum(len(paragraph["text"].split()) for paragraph in life["paragraphs"])
    return f"{file}: {_many(len(life['paragraphs']), 'paragraph')}, {_many(words, 'word')}"


def _written_fact(file: str, dialogues: list[dict[str, Any]], protective: list[dict[str, Any]]) -> str:
    turns = [turn for record in (*dialogues, *protective) for turn in record["turns"]]
    words = sum(len(turn["content"].split()) for turn in turns)
    kinds = f"{_many(len(dialogues), 'dialogue')}, {len(protective)} protective"
    return f"{file}: {kinds}, {_many(words, 'word')}"


def _questions_fact(file: str, asked: questions.Questions) -> str:
    counts = Counter(question.topic for question in asked.single)
    topics = ", ".join(f"{topic} {counts[topic]}" for topic in questions.TOPICS)
    return f"{file}: {_many(len(asked.single), 'question')} ({topics}), {_many(len(asked.multi), 'multi-turn subject')}"


def _data_fact(key: str, file: released.File, short_name: str) -> str:
    if key == "train.mix.data":
        _, count, rejected = released.general(file, 1, 0)
        there = _many(count, "general sample")
    elif key == "train.data.prompted":
        samples, rejected = released.prompted(file)
        there = _many(len(samples), "sample")
    else:
        dialogues, rejected = released.generated(file, short_name, short_name)
        there = _many(len(dialogues), "dialogue")
    lost = rejected.counts.total()
    return f"{file.name}: {there}" + (
        f", {lost:,} rejected, the first: {rejected.rows[0]['detail']}" if lost else ""
    )


def _transcript_fact(
    workspace: Path, spec: CharacterSpec, transcript: Transcript, asked: dict[str, list[dict[str, Any]]]
) -> str:
    files = [(name, read_bytes(workspace / name, name, MAX_TRANSCRIPT_BYTES)) for name in transcript.files]
    read = transcripts.read(
        files, contestant=transcript.name, name=spec.name, short_name=spec.short_name, asked=asked
    )
    odd = [f"{row['file']}: {row['place']}: {row['what']}" for row in read.oddities]
    count = f"{len(odd):,} {'oddity' if len(odd) == 1 else 'oddities'}"
    return (
        f"{', '.join(transcript.files)}: {transcript.name}, {_many(len(read.single), 'answer')}, "
        f"{_many(len(read.turns), 'interview')}" + (f", {count}, the first: {odd[0]}" if odd else "")
    )


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)
