"""`charforge import transcripts`: others' answers become a character that is measured like any other."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge import imports, questions
from charforge.errors import CharForgeError, UsageError
from charforge.files import read_bytes, visible
from charforge.imports import Source
from charforge.spec import MAX_TEXT_BYTES, load, valid_id
from charforge.stages import profile
from charforge.stages.interviews import INTERVIEWER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.transcripts import Transcripts

SHOWN_PLACES = 3


@dataclass(frozen=True, slots=True)
class _Character:
    """What is to be written for one character: `files` are texts by path below `characters/`."""

    id: str
    name: str
    until: str
    why: str
    found: Mapping[str, Transcripts]
    files: Mapping[str, str]
    left_out: int


def run(args: argparse.Namespace) -> int:
    """Import, then build and compare unless that is not wanted. Returns the exit status."""
    sources, others = imports.find([Path(path) for path in args.paths])
    if others:
        names = ", ".join(visible(path.name) for path in others[:SHOWN_PLACES])
        more = ", …" if len(others) > SHOWN_PLACES else ""
        print(f"note: not read, by their names none of the released files: {names}{more}", file=sys.stderr)
    _only_one(args, sources)
    characters = [_character(args, source) for source in sources]
    with tempfile.TemporaryDirectory() as folder:  # what is written will be read: better found out now
        _write(Path(folder), characters, force=False)
        for each in characters:
            _verify(each, Path(folder))
    workspace = Path.cwd()
    written = _write(workspace, characters, force=args.force)
    for each in characters:
        _say(each)
    for path in written:
        print(f"written: {path.relative_to(workspace).as_posix()}")
    return 0 if args.no_build else _build(characters)


def _only_one(args: argparse.Namespace, sources: Sequence[Source]) -> None:
    given = [
        option
        for option, value in (
            ("--id", args.id),
            ("--profile", args.profile),
            ("--knows-until", args.knows_until),
        )
        if value is not None
    ]
    if len(sources) > 1 and given:
        names = ", ".join(visible(source.who) or "the other files" for source in sources)
        raise UsageError(
            f"{given[0]} is for one character, and here are {names}", "import them one at a time"
        )


# --- One character -------------------------------------------------------------------------------------------------------


def _character(args: argparse.Namespace, source: Source) -> _Character:
    """Read all files of a character and make the texts of its own. Raises CharForgeError or FileProblems."""
    life_text, life = _life(args, source)
    name = life["name"]
    short_name = source.who if source.released else name.split(" ")[-1]
    identity = _id(args.id, source, short_name)
    until, why = _until(args, source, life)
    found, asked = imports.read(source, name, short_name)
    question_text, left_out = imports.as_questions(asked, name)
    schema = "../charforge/" if (Path.cwd() / "charforge" / "spec.schema.json").is_file() else ""
    spec_text = imports.as_spec(
        identity,
        name=name,
        short_name=short_name,
        until=until,
        why=why,
        died=imports.last_day(life["paragraphs"][0]["text"]) is not None,
        never=args.never,
        systems={system: imports.notes(each, source.systems[system]) for system, each in found.items()},
        schema=schema,
    )
    files = {
        f"{identity}.yaml": spec_text,
        f"profiles/{identity}.md": life_text,
        f"questions/{identity}.yaml": question_text,
        **{
            f"transcripts/{identity}/{system}.jsonl": imports.as_lines(each) for system, each in found.items()
        },
    }
    return _Character(identity, name, until, why, found, files, left_out)


def _life(args: argparse.Namespace, source: Source) -> tuple[str, dict[str, Any]]:
    path = source.profile if args.profile is None else Path(args.profile)
    if path is None:
        whose = f" of {visible(source.who)}" if source.who else ""
        raise CharForgeError(
            f"no profile{whose}: answers are measured against what is known of the person",
            "name a text with --profile: one that begins with '# Full name', or a profile of ours",
        )
    file = visible(str(path))
    data = read_bytes(path, file, MAX_TEXT_BYTES)
    return imports.as_profile(
        data, file, args.licence, wikipedia=source.released and path.name.startswith("wiki_")
    )


def _id(given: str | None, source: Source, short_name: str) -> str:
    if given is not None and not valid_id(given):
        raise CharForgeError(
            f"--id: expected an id such as released-beethoven, got '{visible(given)[:80]}'",
            "the id is the spec's file name: small letters, digits and '-', at most 64",
        )
    plain = unicodedata.normalize("NFKD", short_name).encode("ascii", "ignore").decode().casefold()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:50].strip("-") or "character"
    return given or f"{'released' if source.released else 'imported'}-{slug}"


def _until(args: argparse.Namespace, source: Source, life: Mapping[str, Any]) -> tuple[str, str]:
    """Return the last day that the character can know of, and where that is from."""
    if args.knows_until is not None:
        return imports.day(args.knows_until), "as --knows-until said"
    found = imports.last_day(life["paragraphs"][0]["text"])
    if found is None:
        whose = f" of {visible(source.who)}" if source.who else ""
        raise CharForgeError(
            f"the profile{whose} tells no day of death in its first paragraph",
            "say the last day that the character can know of: --knows-until 1827-03-26",
        )
    return found[0], f"the profile's first paragraph: {found[1]}"


def _verify(each: _Character, workspace: Path) -> None:
    """Read what was made as a build will. Raises FileProblems, under the names that the files will have."""
    path = workspace / "characters" / f"{each.id}.yaml"
    load(path, workspace)
    for folder, suffix, read in (("profiles", "md", profile.read), ("questions", "yaml", questions.read)):
        file = f"characters/{folder}/{each.id}.{suffix}"
        read(each.files[f"{folder}/{each.id}.{suffix}"], file=file)


# --- Writing -------------------------------------------------------------------------------------------------------------


def _write(workspace: Path, characters: Sequence[_Character], *, force: bool) -> list[Path]:
    """Write the files of all characters, or none of them, and return their paths.

    Raises CharForgeError where one is there already and not `force`, and where the disk refuses.
    """
    folder = workspace / "characters"
    texts = {folder / name: text for each in characters for name, text in each.files.items()}
    there = [path for path in texts if path.exists() or path.is_symlink()]
    if there and not force:
        names = ", ".join(path.relative_to(workspace).as_posix() for path in there[:5])
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise CharForgeError(
            f"{names}{more}: there already", "--force replaces them; --id gives another name"
        )
    before: dict[Path, bytes | None] = {}
    temporary: list[tuple[Path, Path]] = []
    path = folder
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            temporary.append((part, path))
            part.write_text(text, encoding="utf-8", newline="\n")
        for part, path in temporary:
            old = path.read_bytes() if path.is_file() and not path.is_symlink() else None
            part.replace(path)
            before[path] = old
    except OSError as error:
        for done, was in before.items():
            with suppress(OSError):
                done.unlink() if was is None else done.write_bytes(was)
        name = path.relative_to(workspace).as_posix()
        raise CharForgeError(f"{name} cannot be written: {error.strerror}", "nothing was imported") from error
    finally:
        for part, _ in temporary:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return list(texts)


# --- Telling -------------------------------------------------------------------------------------------------------------


def _say(each: _Character) -> None:
    systems = _many(len(each.found), "system")
    print(f"{each.id}: {visible(each.name)}, {systems}; knows until {each.until} ({visible(each.why)})")
    for system, found in each.found.items():
        spoken = sum(
            turn["role"] != INTERVIEWER and turn["action"] == "speaking"
            for record in found.turns
            for turn in record["turns"]
        )
        talks = (
            f"{_many(len(found.turns), 'interview')} of {_many(spoken, 'answer')}"
            if found.turns
            else "no interview"
        )
        print(f"  {system}: {_many(len(found.single), 'answer')}, {talks}")
        for odd in found.oddities:
            place = f"{Path(odd['file']).name}: {odd['place']}"
            print(f"    {odd['count']} × {visible(odd['what'])} ({visible(place)})")
    if each.left_out:
        print(
            f"  {each.left_out} questions are too long for a questions file, or too many; their answers are kept"
        )


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _build(characters: Sequence[_Character]) -> int:
    """Build the characters as `charforge build` does, then print the systems of each side by side."""
    from charforge.commands import build, compare

    specs = [f"characters/{each.id}.yaml" for each in characters]
    status = build.run(
        argparse.Namespace(
            specs=specs,
            to=None,
            jobs=64,
            keep_going=False,
            dry_run=False,
            offline=False,
            max_cost=None,
            processes=None,
            nodes=1,
            rendezvous=None,
            preset=None,
            overrides=[],
        )
    )
    if status == 0:
        for spec in specs:  # each by itself: of two persons' answers no difference says anything
            print()
            compare.show([spec])
    return status
