"""What `charforge new` writes: a commented spec, profile, written scenes and questions to start a character from.

The four files pass `charforge check` as they are, so that a newcomer changes something that works; check tells what in
them is still ours, and `check --strict` refuses it. Nothing that is there already is overwritten. Knows the form of the files,
and no stage.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from functools import cache
from string import Template
from typing import TYPE_CHECKING

from charforge import safe_yaml
from charforge.errors import CharForgeError
from charforge.schema import faults, schema_file
from charforge.spec import valid_day, valid_id

if TYPE_CHECKING:
    from pathlib import Path


UNTIL = "1900-01-01"
NEVER = ("television", "computers", "space travel")
LICENCE = "CC0-1.0"
SOURCE = "Say where the facts are from."
PLACEHOLDER = "Write here "
"""How each of the skeleton's paragraphs begins."""
NOTICE = "An imitation of a living person, made by somebody else."


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What may be told of a person at once, or written into the files later. A living one gets NOTICE where `notice` is None."""

    portrays: str = "historical"
    notice: str | None = None
    until: str = UNTIL
    licence: str = LICENCE
    source: str = SOURCE


def write(
    workspace: Path,
    id: str,  # noqa: A002 - the word for it here
    name: str,
    short_name: str,
    told: Told | None = None,
) -> list[Path]:
    """Write the files of a new character below `workspace/characters` and return their paths, the spec first.

    Raises CharForgeError where the id or a value cannot be used, one of the files is there already or the disk refuses;
    nothing is left written then.
    """
    told = told or Told()
    if told.portrays == "living" and told.notice is None:
        told = replace(told, notice=NOTICE)
    check(id, name, short_name, told)
    notice = "#notice: null" if told.notice is None else f"notice: {safe_yaml.scalar(told.notice)}"
    values = {
        "id": id,
        "name": name,
        "short_name": short_name,
        **asdict(told),
        "notice_line": f"{notice:<35} # what else readers have to be told, in a sentence",
        "until_cell": f"{told.until:<27}",
        "never_list": "\n".join(f"    - {thing}" for thing in NEVER),
        "yaml_name": safe_yaml.scalar(name),
        "yaml_short_name": safe_yaml.scalar(short_name),
        "schema": "../charforge/" if (workspace / "charforge" / "spec.schema.json").is_file() else "",
    }
    files = free(workspace, id)
    done: list[Path] = []
    for path, template in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # 'x': should the file have come into being since, it stays as it is.
            with path.open("x", encoding="utf-8", newline="\n") as stream:
                done.append(path)
                stream.write(Template(template).substitute(values))
        except OSError as error:
            for written in done:
                written.unlink()
            name = path.relative_to(workspace).as_posix()
            raise CharForgeError(f"{name} cannot be written: {error.strerror}") from error
    return done


def free(workspace: Path, id_: str) -> dict[Path, str]:
    """Return the templates of a character's files by path. Raises CharForgeError where one is there already."""
    folder = workspace / "characters"
    files = {
        folder / f"{id_}.yaml": _SPEC,
        folder / "profiles" / f"{id_}.md": _PROFILE,
        folder / "written" / f"{id_}.md": _WRITTEN,
        folder / "questions" / f"{id_}.yaml": _QUESTIONS,
    }
    present = [path.relative_to(workspace).as_posix() for path in files if path.exists() or path.is_symlink()]
    if present:
        raise CharForgeError(
            f"{', '.join(present)}: there already", "choose another id, or move the old files away"
        )
    return files


def check(id_: str, name: str, short_name: str, told: Told) -> None:
    """Raise CharForgeError with the first thing that a spec or a profile could not have."""
    if not valid_id(id_):
        raise CharForgeError(
            f"expected an id such as ludwig-van-beethoven, got {safe_yaml.shown(id_)}",
            "the id is the spec's file name: small letters, digits and '-', at most 64",
        )
    spec = {
        "name": name,
        "short_name": short_name,
        "portrays": told.portrays,
        "notice": told.notice,
        "knows": {"until": told.until},
    }
    for fault in faults(spec, schema_file("spec"), partial=True):
        raise CharForgeError(f"{safe_yaml.key_text(fault.path)}: {fault.message}", fault.hint)
    if not valid_day(told.until):
        raise CharForgeError(f"knows.until: {safe_yaml.shown(told.until)} is not a day of the calendar")
    for given in (name, short_name):
        if not given.isprintable():
            raise CharForgeError(f"expected a name that prints, got {safe_yaml.shown(given)}")
    for key, text in (("notice", told.notice or "-"), ("licence", told.licence), ("source", told.source)):
        if not text.isprintable() or not text.strip():
            raise CharForgeError(f"{key}: expected text on one line that prints, got {safe_yaml.shown(text)}")


@cache
def spoken() -> frozenset[str]:
    """Return the first turns of the dialogues that we write, by which they are known again."""
    return frozenset(re.findall(r"\n\n(?!\$)\w+ \(speaking\): (.*)\n\n\$short_name \(thinking\)", _WRITTEN))


_SPEC = """\
# yaml-language-server: $$schema=${schema}spec.schema.json
# (That line lets an editor explain the keys. `charforge schema` prints the file it names.)
#
# Check it with `charforge check characters/$id.yaml`, build it with `charforge build characters/$id.yaml`.
#
# How much of everything is made comes from the preset. The lines that begin with `#` and no space show what the
# laptop preset says; take the `#` away to set such a value here.

charforge: 1                        # the version of this format
name: $yaml_name
short_name: $yaml_short_name        # what stands before the turns in a dialogue

preset: laptop                      # laptop: minutes; smoke: seconds; paper: the paper's figures, on GPUs

# Whom the character is made after: historical (a real person of the past), living (a real person of today: then a notice
# to readers is asked for) or fictional. The report and the cards of exports say it.
portrays: $portrays
$notice_line

# What is known of the person, in short paragraphs. Paths are relative to this file.
profile:
  file: profiles/$id.md

# The boundary of what the person can know: its last day, and some things that came later. Protective dialogues
# and trap questions come from here.
knows:
  until: $until_cell# year-month-day
  never:
$never_list

# Scenes and dialogues that you write; `null` for none. With the embedded model they are what makes the
# character good: start with ten.
written: written/$id.md

# The model that adds scenes and dialogues. With a key in the environment: openai/gpt-4o-mini, and others.
#generator:
#  model: embedded/smollm2-135m-instruct
#scenes: {count: 12}
#protective: {count: 4}

#train:
#  base_model: embedded/smollm2-135m-instruct   # or meta-llama/Llama-3.2-1B, or a folder: ./models/mine
#  method: full                      # or lora: small matrices beside the weights
#  epochs: 2

interview:
  questions: questions/$id.yaml     # null: a model makes them once, from the profile
#  turns: 5
#  baselines: [base]                # interviewed for comparison: the base model, with a prompt
#  transcripts: []                  # answers of others, from files: [{name: alpaca-7b, files: [transcripts/a.jsonl]}]

#judge:
#  model: embedded/smollm2-135m-instruct
#  panel: []                        # more judges of the same answers
"""

_PROFILE = """\
---
name: $name
licence: $licence
source: $source
---

# $name

## Youth

Write here where and when $short_name was born, who the parents were and how they lived. Facts are better than judgements: names, places, years, prices, weather. {#birth}

Write here what $short_name learnt, and from whom. The name in braces at the end of a paragraph is its anchor: scenes are known by it, so keep it when you reword the paragraph. {#school}

## Work

Write here what $short_name did for a living, the first success and the first failure. One paragraph for each period is about right; twenty or more make a life. {#work}

## People

Write here whom $short_name loved, quarrelled with and wrote to. {#people}

## Character

Write here how $short_name spoke, dressed and ate, what brought laughter and what brought rage. {#manner}
"""

_WRITTEN = """\
<!-- Scenes and dialogues of $name, written by a person. `charforge check` says what is wrong with them, line by line.
     "Paragraphs" names the anchors of the profile that a scene is grounded in. Replace these two. -->

# Scenes

## A visitor at the door {#first-visitor}

Paragraphs: birth, manner
Type: chat
Location: At the table, one evening in winter
Status: A stranger has come in out of the cold and asks about the old days.

Visitor (speaking): Forgive the hour. They told me that nobody knows this town as you do.

$short_name (thinking): Cold hands, good boots. Not a beggar, then, and not a creditor either.

$short_name (speaking): Nobody knows it, sir. I only remember it. Sit down by the fire and tell me what you want.

Visitor (speaking): To hear about the house in which you were born.

$short_name (speaking): A small house with a loud door. I could find it in the dark, and as a child I often had to.

Visitor (speaking): Were you happy there?

$short_name (speaking): On some days. Ask me again when the kettle has boiled.

# Protective dialogues

## The talking picture {#talking-picture}

Paragraphs: manner
Provocation: Someone asks what was on television.
Type: chat
Location: The street, on market day
Status: A young person in odd clothes stops and asks a question that makes no sense.

Stranger (speaking): Did you watch television last night?

$short_name (thinking): Watch what? It must be a play, or the name of a dog.

$short_name (speaking): I watched the fire, and then my eyelids from the inside. What is this thing you speak of?

Stranger (speaking): Television! Everybody has one at home.

$short_name (speaking): Then everybody is better furnished than I am. I do not know the word. Will you help me carry these apples?
"""

_QUESTIONS = """\
# Interview questions for $name.
#
# single: each is asked once, in a conversation of its own. topic is past, relations, values or traps; traps ask for
# what $short_name cannot know. The id names the answer in results: keep it when you reword the question.
single:
  - id: birthplace
    topic: past
    question: Where were you born, and what do you remember of the house?
  - id: first-teacher
    topic: past
    question: Who taught you your trade?
  - id: parents
    topic: relations
    question: What kind of people were your parents?
  - id: closest-friend
    topic: relations
    question: To whom do you turn when you are in trouble?
  - id: money
    topic: values
    question: Would you do work that you despise if it were paid well?
  - id: proudest
    topic: values
    question: What have you done that you are proud of?
  - id: t-television
    topic: traps
    question: What do you like to watch on television?
  - id: t-computer
    topic: traps
    question: Which programming language would you recommend to me?

# multi: subjects of longer interviews. The interviewer finds the words.
multi:
  - id: m-childhood
    topic: past
    subject: The years of childhood, and what was learnt in them.
  - id: m-work
    topic: values
    subject: What the work was for, and what it cost.
"""
