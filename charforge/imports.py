"""From files of others to the files of a character: who is in them, what their profile says, and what is written down.

Knows the folders that the authors of Character-LLM released, and the form of our own files. Reads, and makes texts; writes nothing.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge import questions, safe_yaml, transcripts
from charforge.errors import CharForgeError, FileProblems, Problem
from charforge.files import decode, read_bytes, visible
from charforge.schema import faults, schema_file
from charforge.spec import MAX_TRANSCRIPT_BYTES
from charforge.stages import profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from charforge.transcripts import Transcripts

MAX_FOLDERS = 4
"""How deep below a named folder the released ones may lie."""
MAX_SINGLE, MAX_MULTI = 1000, 200
"""Questions that a file of questions may hold."""

MAX_HEADING = 80
MAX_NOTE = 240
_SENTENCE_ENDS = ".!?…:;,\"”’')]"

_SUFFIXES = (".json", ".jsonl", ".csv")
_RELEASED = {
    "interview_single": re.compile(r"(?P<who>.+?)_(?P<system>.+)\.json"),
    "interview_turns": re.compile(r"(?P<who>.+?)_(?P<system>.+)\.jsonl"),
    "questions": re.compile(r"generated_agent_interview_(?:for_multiturn_)?(?P<who>.+)\.json"),
    "profiles": re.compile(r"wiki_(?P<who>.+)\.txt"),
}
_TRAINED = ("sft", "imported-trained")
_OWN = {"trained": "imported-trained", "base": "imported-base"}

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"
)  # fmt: skip
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_YEAR = r"(?:AD )?(?P<year>\d{1,4})(?P<bc> ?B\.?C\.?(?:E\.?)?)?(?!\d)"
_DAYS = (
    rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)? {_MONTH},? {_YEAR}",
    rf"{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?,? {_YEAR}",
)
_MONTH_OR_YEAR = rf"(?:{_MONTH},? )?{_YEAR}"
_ABOUT = r"(?:c\. ?|circa |ca\. ?|about |around )?"
_UP_TO = rf"(?: ?[–—] ?| - |(?<=\d)-| to )(?:died )?{_ABOUT}"
_DIED = rf"\bdied (?:on |in )?{_ABOUT}"
_ENDS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        *(rf"(?:{_UP_TO}|{_DIED}){day}" for day in _DAYS),
        # Between 1802 and 1812 nobody died: a year by itself counts within parentheses, or where it says so.
        rf"\([^()]{{1,300}}?{_UP_TO}{_MONTH_OR_YEAR}\)",
        _DIED + _MONTH_OR_YEAR,
    )
]
_ISO = re.compile(r"-?\d{4}-\d{2}-\d{2}")


@dataclass(slots=True)
class Source:
    """The files about one character. `systems` has those of each system, by name, with the contestant to take out or None for all."""

    who: str
    released: bool
    systems: dict[str, list[tuple[Path, str | None]]] = field(default_factory=dict)
    questions: list[Path] = field(default_factory=list)
    profile: Path | None = None


# --- Finding -----------------------------------------------------------------------------------------------------------


def find(paths: Sequence[Path]) -> tuple[list[Source], list[Path]]:
    """Return who is in the folders and files, sorted by name, and the files of a released folder that are none of the released ones.

    What lies in folders of the released layout is parted by character; all other files are of one, whose `who` is "".
    Raises CharForgeError or FileProblems for what is not there, or holds no transcript.
    """
    found: dict[str, Source] = {}
    plain: list[Path] = []
    others: list[Path] = []
    for path in paths:
        files = [path]
        if path.is_dir():
            inside = [file for file in _walk(path) if file.resolve().parent.name in _RELEASED]
            others += [file for file in inside if not _place(found, file)]
            if inside:
                continue
            files = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES and each.is_file())
            if not files:
                raise CharForgeError(
                    f"{visible(str(path))}: no transcript in this folder",
                    f"name files ({', '.join(_SUFFIXES)}), or a folder with {', '.join(_RELEASED)}",
                )
        plain += [file for file in files if not _place(found, file)]
    if plain:
        found[""] = _plain(plain)
    # Questions and a profile alone are nobody's transcript.
    sources = [source for _, source in sorted(found.items()) if source.systems]
    if not sources:
        raise CharForgeError("no transcript there", "docs/transcripts.md says what can be read")
    return sources, others


def _walk(folder: Path) -> Iterator[Path]:
    depth = len(folder.parts)
    for name, folders, files in os.walk(folder):
        here = Path(name)
        deep = len(here.parts) - depth >= MAX_FOLDERS
        folders[:] = [] if deep else sorted(each for each in folders if not each.startswith("."))
        yield from (here / file for file in sorted(files) if not file.startswith("."))


def _place(found: dict[str, Source], file: Path) -> bool:
    """Put a file where it belongs, if its name and folder say so. Returns whether they do."""
    part = file.resolve().parent.name
    match = _RELEASED[part].fullmatch(file.name) if part in _RELEASED else None
    if match is None:
        return False
    source = found.setdefault(match["who"], Source(match["who"], released=True))
    if part == "profiles":
        source.profile = file
    elif part == "questions":
        source.questions.append(file)
    else:
        source.systems.setdefault(_system(match["system"]), []).append((file, None))
    return True


def _plain(files: Iterable[Path]) -> Source:
    source = Source("", released=False)
    for file in files:
        names: list[str | None] = [*transcripts.contestants(file.name, load(file))]
        for name in names or [None]:
            source.systems.setdefault(_system(name or file.stem), []).append((file, name))
    return source


def _system(text: str) -> str:
    """Return a contestant's name, as a spec may have it."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.casefold()).strip("._-")[:60] or "imported"
    return _OWN.get(name, name)


def load(file: Path) -> bytes:
    """Return a transcript's bytes. Raises FileProblems."""
    return read_bytes(file, visible(str(file)), MAX_TRANSCRIPT_BYTES)


# --- Reading ---------------------------------------------------------------------------------------------------------


def read(
    source: Source, name: str, short_name: str
) -> tuple[dict[str, Transcripts], dict[str, list[dict[str, Any]]]]:
    """Return the transcripts of each system, and all their questions, each once and known by one id everywhere.

    Systems are sorted by name, one that was trained to be the character first: the others are compared with the first. Raises FileProblems with everything that is wrong in any of the files.
    """
    topics = [(str(file), load(file)) for file in source.questions]
    asked: dict[str, list[dict[str, Any]]] = {"single": [], "multi": []}
    for _ in range(2):  # first to hear of every question, then to call it by the same id in every system
        found: dict[str, Transcripts] = {}
        problems: list[Problem] = []
        for system, files in sorted(
            source.systems.items(), key=lambda item: (item[0] not in _TRAINED, item[0])
        ):
            only = {contestant for _, contestant in files}
            given = [(str(file), load(file)) for file, _ in files]
            try:
                found[system] = transcripts.read(
                    [*topics, *given],
                    contestant=system,
                    name=name,
                    short_name=short_name,
                    asked=asked,
                    only=only.pop() if len(only) == 1 else None,
                )
            except FileProblems as error:
                problems += error.problems
        if problems:
            raise FileProblems(problems)
        asked = _merged(each.questions for each in found.values())
    return found, asked


def _merged(several: Iterable[Mapping[str, Sequence[dict[str, Any]]]]) -> dict[str, list[dict[str, Any]]]:
    """Return each question once, by its words, with an id that no other has."""
    merged: dict[str, dict[str, dict[str, Any]]] = {"single": {}, "multi": {}}
    used: set[str] = set()
    for each in several:
        for kind, key in (("single", "question"), ("multi", "subject")):
            for record in each[kind]:
                same = questions.question_id(kind, record[key])
                if same not in merged[kind]:
                    identity = same if record["id"] in used else record["id"]
                    used.add(identity)
                    merged[kind][same] = {**record, "id": identity}
    return {kind: list(records.values()) for kind, records in merged.items()}


# --- The profile -------------------------------------------------------------------------------------------------------


def last_day(text: str) -> tuple[str, str] | None:
    """Return the day of death that a text tells of like an encyclopedia's first sentence, and the words it stands in.

    `(17 December 1770 – 26 March 1827)`, `(12 July 100 BC – 15 March 44 BC)`, `(c. 470 – 399 BC)`, `died on 5 May 1821`. The day is
    `1827-03-26`, the year astronomical (44 BC is -0043); of a month or a year alone it is the last day. None where nothing is found.
    """
    words = " ".join(text.split())
    for form in _ENDS:
        if found := form.search(words):
            return _iso(found), found[0].strip(" ()–—-")
    return None


def _iso(found: re.Match[str]) -> str:
    parts = found.groupdict()
    year = 1 - int(parts["year"]) if parts["bc"] else int(parts["year"])
    month = (
        [name.casefold() for name in _MONTHS].index(parts["month"].casefold()) + 1 if parts["month"] else 12
    )
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    most = (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
    day = int(parts["day"]) if parts.get("day") else most
    return f"{'-' * (year < 0)}{abs(year):04}-{month:02}-{day:02}"


def day(text: str) -> str:
    """Return a day that a user gave, `1827-03-26` or `26 March 1827` or `15 March 44 BC`, as the first of these.

    Raises CharForgeError.
    """
    words = " ".join(text.split())
    if _ISO.fullmatch(words):
        return words
    for form in _DAYS:
        if found := re.fullmatch(form, words, re.IGNORECASE):
            return _iso(found)
    raise CharForgeError(
        f"--knows-until: expected a day, got {safe_yaml.shown(text)}",
        "such as 1827-03-26, or '15 March 44 BC' (--knows-until=-0043-03-15)",
    )


def as_profile(data: bytes, file: str, licence: str | None, *, wikipedia: bool) -> tuple[str, dict[str, Any]]:
    """Return a profile as our Markdown with front matter, and what charforge.stages.profile reads of it.

    A file that has front matter already stays as it is, but for a licence that the user gives. Any other is a text whose first
    line is `# Full name`: its paragraphs stay word for word. Raises FileProblems.
    """
    text = decode(_printable(data), file)
    if text.startswith("---\n"):
        if licence is not None:
            text = re.sub(r"(?m)^licence:.*$", lambda _: f"licence: {_line(licence)}", text, count=1)
    else:
        text = _markdown(text, file, licence, wikipedia=wikipedia)
    return text, profile.read(text, file=file)


def _printable(data: bytes) -> bytes:
    """Return a text's bytes without the control characters that no profile may hold."""
    return re.sub(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]", b"", data)


def _markdown(text: str, file: str, licence: str | None, *, wikipedia: bool) -> str:
    lines = text.split("\n")
    first = next((place for place, line in enumerate(lines) if line.strip()), 0)
    title = re.fullmatch(r"#\s+(.*\S)\s*", lines[first])
    if title is None:
        hint = "begin it with a line '# Full name', or with front matter (docs/transcripts.md)"
        raise FileProblems(
            [Problem(file, first + 1, None, "the profile does not say whose it is", None, hint)]
        )
    if licence is None:
        licence = "CC BY-SA, as Wikipedia's texts are" if wikipedia else "not stated"
    source = f"{'Wikipedia, as released in ' if wikipedia else ''}{Path(file).name}"
    body = ["", *lines[first + 1 :], ""]
    rows = [_row(*each) for each in zip(body, body[1:], body[2:], strict=False)]
    head = [
        "---",
        f"name: {_line(title[1])}",
        f"licence: {_line(licence)}",
        f"source: {_line(source)}",
        "---",
        "",
    ]
    return "\n".join([*head, f"# {_line(title[1])}", *rows]).rstrip() + "\n"


def _row(before: str, line: str, after: str) -> str:
    """Return a line of a text so that we do not read it as something else.

    A heading of any level is a section's. So is what is left of one: a short line without an end, first of several lines or
    right above a long one.
    """
    heading = re.match(r"#+\s+(?=\S)", line)
    if heading:
        return f"## {line[heading.end() :].strip()}"
    line = line.replace("{#", "{ #")
    short, below = line.strip(), after.strip()
    if short and short[-1] not in _SENTENCE_ENDS and len(short) <= MAX_HEADING:
        first = not before.strip() and below
        if first or len(below) > 2 * MAX_HEADING:
            return f"## {short}\n"
    return line


def _line(text: str) -> str:
    return " ".join(visible(" ".join(text.split())).split())


# --- What is written -----------------------------------------------------------------------------------------------------


def notes(found: Transcripts, files: Iterable[tuple[Path, str | None]]) -> list[str]:
    """Return what should be remembered of a system: its files with their digests, and each oddity with its count."""
    return [
        *(f"from {file.name}, SHA-256 {sha256(load(file)).hexdigest()}" for file, _ in files),
        *(
            f"{odd['count']} × {odd['what']} ({Path(odd['file']).name}: {odd['place']})"
            for odd in found.oddities
        ),
    ]


def as_lines(found: Transcripts) -> str:
    """Return a system's records as JSON lines."""
    return "".join(
        json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n"
        for record in (*found.single, *found.turns)
    )


def as_questions(asked: Mapping[str, Sequence[dict[str, Any]]], name: str) -> tuple[str, int]:
    """Return the questions as a file that a spec can name, and how many could not be put in (too long, or too many)."""
    kept: dict[str, list[dict[str, Any]]] = {}
    lost = 0
    for kind, limit in (("single", MAX_SINGLE), ("multi", MAX_MULTI)):
        empty: dict[str, list[dict[str, Any]]] = {"single": [], "multi": []}
        fit = [
            record
            for record in asked[kind]
            if not faults({**empty, kind: [record]}, schema_file("questions")) and record_fits(record)
        ]
        kept[kind] = fit[:limit]
        lost += len(asked[kind]) - len(kept[kind])
    return questions.as_yaml(kept["single"], kept["multi"], name), lost


def record_fits(record: Mapping[str, Any]) -> bool:
    """Whether YAML can hold all of a question's characters."""
    return all(value.isprintable() for value in record.values())


def as_spec(
    id: str,  # noqa: A002 - the word for it here
    *,
    name: str,
    short_name: str,
    until: str,
    why: str,
    died: bool,
    never: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    schema: str,
) -> str:
    """Return the spec of a character that is measured by its transcripts alone.

    `why` says where `until` is from; `died`: the profile tells of a death, so the person was real. `systems` has what is to be noted beside each: its files, and what was odd about them.
    """
    things = "".join(f"\n    - {safe_yaml.scalar(thing)}" for thing in never) or " []"
    listed = "".join(
        "".join(f"\n    # {visible(note)[:MAX_NOTE]}" for note in notes)
        + f"\n    - {{name: {safe_yaml.scalar(system)}, files: [transcripts/{id}/{system}.jsonl]}}"
        for system, notes in systems.items()
    )
    return _SPEC.format(
        schema=schema,
        id=id,
        about=visible(name),
        name=safe_yaml.scalar(name),
        short_name=safe_yaml.scalar(short_name),
        until=until,
        why=visible(why),
        portrays="portrays: historical" if died else "# portrays:",
        never=things,
        transcripts=listed,
    )


_SPEC = """\
# yaml-language-server: $schema={schema}spec.schema.json
#
# {about}, as systems of others answered. Written by `charforge import transcripts`; yours to change.
# Nothing is trained here and nobody is asked: `charforge build {id}` measures the answers that are there.
# They, the questions and the profile belong to whoever released them: docs/transcripts.md.

charforge: 1
name: {name}
short_name: {short_name}
{portrays:<33} # historical, living (with a notice: …) or fictional
preset: laptop

profile:
  file: profiles/{id}.md

knows:
  until: {until}                 # {why}
  never:{never}

interview:
  trained: false
  questions: questions/{id}.yaml
  baselines: []                     # prompted models, to be asked the same: [openai/gpt-4o-mini]
  transcripts:{transcripts}

# Nothing is judged, so that no key and no model is needed. To have the answers judged, name a judge and take the
# other three lines away.
judge:
#  model: openai/gpt-4o-mini
  limit: 0
  pairwise: 0
  exam: false
"""
