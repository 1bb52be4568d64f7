"""Reading what others released: samples to train on as they are, raw dialogues, and general samples to mix in.

Three forms, each as JSON lines or as one JSON list (or an object of them), the first two as the authors of Character-LLM
released them (github.com/choosewhatulike/trainable-agents, data set fnlp/character-llm-data):

- `prompted`: `{"prompt", "output", "source"}`; turns of an output end in `<|eot|>` with a newline between them;
- `generated`: `{"setting": [text], "location", "background", "dialogue": [{"role", "action": "(speaking)" or "", "content"}]}`;
  its protective dialogues have no location (theirs is cut out of another prompt, and is a stray character);
- `general`: `{"prompt", "output"}`, or `{"instruction", "input", "output"}` with the input left out or empty.

A line that cannot be used is rejected with its number and a reason; what is no JSON as a whole, and what holds nothing that can be
used, is one error. Pure: bytes in, records out, one line at a time where the form allows it.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from charforge import checks
from charforge.dialogue import EOT, one_line, valid_role
from charforge.errors import FileProblems, Problem
from charforge.safe_json import MAX_INNER

Record = dict[str, Any]

MAX_REJECTED = 1000
"""Rejections of one file that are written down one by one; all of them are counted."""
MAX_IN_A_ROW = 20_000
"""Rejections one after the other, after which reading ends: the file is another thing."""
_MAX_TEXT = 200  # characters of a rejected line that are kept

_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""What no tokenizer should see: control characters, and halves of a surrogate pair, which UTF-8 cannot carry."""
_MARK = re.compile(r"<\|(?!eot\|>)[^\s|<>]{1,40}\|>")
_SPACE = " \t\r\n"
_PARENTHESES = re.compile(r"\([^()]*\)")
_ENDS = tuple(".!?…\"'”’»)]*—。！？")
"""How the last turn of a dialogue may end. A text that was cut off at a token limit seldom does."""


class File(NamedTuple):
    """A file's bytes, and the name that messages give it."""

    data: bytes
    name: str


@dataclass(slots=True)
class Rejected:
    """What could not be used: the first rows for rejected.jsonl, and how often each rule was broken."""

    file: File
    rows: list[Record] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _in_a_row: int = 0

    def add(self, identity: str, broken: checks.Broken, text: str) -> None:
        """Note one rejection. Raises FileProblems after MAX_IN_A_ROW of them."""
        self.counts[broken.rule] += 1
        self._in_a_row += 1
        if self._in_a_row > MAX_IN_A_ROW:
            message = f"{MAX_IN_A_ROW:,} records in a row cannot be used, such as {broken.detail}"
            raise _problem(self.file, None, message, "is it the right file?")
        if len(self.rows) < MAX_REJECTED:
            shown = _UNUSABLE.sub("\ufffd", text[:_MAX_TEXT])
            self.rows.append(
                {"id": identity, "rule": broken.rule, "detail": broken.detail, "text": shown, "call": None}
            )

    def used(self) -> None:
        """Note that a record could be used."""
        self._in_a_row = 0


def prompted(file: File) -> tuple[list[Record], Rejected]:
    """Return the file's samples, prompt and output as they stand there, with ids `released/<line>`.

    Raises FileProblems where the file cannot be read as JSON or holds no sample that can be trained on.
    """
    samples = []
    rejected = Rejected(file)
    for entry in _entries(file):
        identity = f"released/{entry.number:07}"
        broken = entry.broken or _bad_texts(entry.value, ("prompt", "output")) or _bad_output(entry.value)
        if broken:
            rejected.add(identity, _at(entry, broken), entry.text())
        else:
            rejected.used()
            value = entry.value
            samples.append(_sample(identity, value["prompt"], value["output"], "dialogue", "released"))
    if not samples:
        raise _nothing(file, rejected, f'{{"prompt": …, "output": …}}, the output\'s turns ending in {EOT}')
    return samples, rejected


def generated(file: File, name: str, short_name: str) -> tuple[list[Record], Rejected]:
    """Return the file's dialogues as records of dialogues.jsonl, their kind `released`.

    Turns of one speaker in a row become one, an action that tells of a thought is `thinking` and any other `speaking`, and the
    character is called by its short name. What is nobody's turn is left out, and so is a last turn that was cut off; each is
    a rejection of its own, and with too much of it the dialogue is. Raises FileProblems as `prompted` does.
    """
    dialogues = []
    rejected = Rejected(file)
    for entry in _entries(file):
        identity = f"released/{entry.number:07}"
        broken = entry.broken or _bad_dialogue(entry.value)
        if broken:
            rejected.add(identity, _at(entry, broken), entry.text())
            continue
        turns, left_out = _turns(entry.value["dialogue"], {name.casefold(): short_name}, short_name)
        lost = sum(len(text.split()) for _, why, text in left_out if why.rule != "cut-off")
        kept = sum(len(turn["content"].split()) for turn in turns)
        if not turns or lost > checks.MAX_LEFT_OUT * (lost + kept):
            detail = (
                f"{lost} of {lost + kept} words stand in no turn that can be used" if turns else "no turn"
            )
            rejected.add(identity, _at(entry, checks.Broken("format", detail)), entry.text())
            continue
        for number, broken, text in left_out:
            rejected.add(f"{identity}/turn {number}", broken, text)
        rejected.used()
        dialogues.append(
            {"id": identity, "kind": "released", "paragraphs": [], "turns": turns}
            | _setting(entry.value, short_name)
        )
    if not dialogues:
        raise _nothing(
            file, rejected, '{"setting": […], "location": …, "dialogue": [{"role", "action", "content"}]}'
        )
    return dialogues, rejected


class General(NamedTuple):
    """General samples that were chosen, how many there were to choose from, and what was no sample."""

    samples: list[Record]
    there: int
    rejected: Rejected


def general(file: File, wanted: int, seed: int) -> General:
    """Return `wanted` samples of the file, or all where there are fewer, as they stand there, sorted by line.

    Which ones: those whose texts, digested with the seed, come first; so neither the order of the lines nor what else is in the file
    moves a choice about. Raises FileProblems as `prompted` does.
    """
    rejected = Rejected(file)
    there = 0

    def ranked() -> Iterator[tuple[bytes, int, Record]]:
        nonlocal there
        for entry in _entries(file):
            identity = f"general/{entry.number:07}"
            broken = entry.broken or _bad_general(entry.value)
            if broken:
                rejected.add(identity, _at(entry, broken), entry.text())
                continue
            there += 1
            rejected.used()
            prompt, output = _general_texts(entry.value)
            rank = sha256(f"{seed}\0{prompt}\0{output}".encode()).digest()
            yield rank, entry.number, _sample(identity, prompt, output, "general", "general")

    samples = [sample for _, _, sample in heapq.nsmallest(wanted, ranked())]
    if not there:
        raise _nothing(
            file, rejected, '{"prompt": …, "output": …} or {"instruction": …, "input": …, "output": …}'
        )
    return General(sorted(samples, key=lambda sample: str(sample["source"]["id"])), there, rejected)


# --- JSON, in whatever dress -----------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """One value of a file. `number` counts lines or items from 1; `source` is the text of a line that is no JSON."""

    number: int
    where: str
    value: Any
    broken: checks.Broken | None = None
    source: str = ""

    def text(self) -> str:
        return self.source or json.dumps(self.value, ensure_ascii=False)[:_MAX_TEXT]


def _entries(file: File) -> Iterator[_Entry]:
    data = file.data.removeprefix(b"\xef\xbb\xbf")
    _uncrowded(file)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _problem(file, None, "not UTF-8 but UTF-16", "save it as UTF-8")
    head = data[:4096].lstrip()
    if head.startswith(b"["):
        yield from _items(_text(data, file), file)
    elif head.startswith(b"{") and (values := _spread(data)) is not None:
        yield from (_Entry(number, f"item {number}", value) for number, value in enumerate(values, 1))
    else:
        yield from _lines(data)


def _uncrowded(file: File) -> None:
    """Refuse a file of hardly anything but brackets and commas, from which values would take twenty times its own room."""
    marks = sum(file.data.count(mark) for mark in (b",", b"[", b"{"))
    if marks > MAX_INNER and marks > len(file.data) // 8:
        raise _problem(file, None, "hardly anything but brackets and commas", "is it the right file?")


def _lines(data: bytes) -> Iterator[_Entry]:
    """Yield a value for each line that is not empty. No copy of the whole is made: it may have hundreds of megabytes."""
    start, number = 0, 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        line, start, number = data[start:end].strip(), end + 1, number + 1
        where = f"line {number}"
        if not line:
            continue
        try:
            yield _Entry(number, where, json.loads(line.decode()))
        except UnicodeDecodeError as error:
            detail = f"not UTF-8: byte 0x{line[error.start]:02x}"
            yield _Entry(
                number,
                where,
                None,
                checks.Broken("format", detail),
                line[:_MAX_TEXT].decode(errors="replace"),
            )
        except (ValueError, RecursionError) as error:
            yield _Entry(number, where, None, _no_json(error), line[: 4 * _MAX_TEXT].decode(errors="replace"))


def _items(text: str, file: File) -> Iterator[_Entry]:
    """Yield the items of a JSON list, one at a time."""
    decode = json.JSONDecoder().raw_decode
    at, number = _skip(text, text.index("[") + 1), 0
    while not text.startswith("]", at):
        number += 1
        try:
            value, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _cut(file, text, at, _no_json(error).detail) from None
        yield _Entry(number, f"item {number}", value)
        at = _skip(text, at)
        if text.startswith(",", at):
            at = _skip(text, at + 1)
        elif not text.startswith("]", at):
            raise _cut(file, text, at, "the list does not end" if at == len(text) else "expected ',' or ']'")


def _spread(data: bytes) -> list[Any] | None:
    """Return the records of what is no JSON lines: objects over several lines, or one object that holds them all."""
    end = data.find(b"\n", data.index(b"{"))
    try:
        first = json.loads((data if end < 0 else data[:end]).decode())
        if end >= 0 and data[end:].strip():
            return None  # JSON lines: the first line is a value and there are others
        values, alone = [first], True
    except (ValueError, RecursionError):
        values, alone = _several(data), False
    if len(values) == 1 and isinstance(values[0], dict) and "dialogue" not in values[0]:
        inner = list(values[0].values())
        if inner and all(isinstance(value, dict) for value in inner):
            return inner
        if len(inner) == 1 and isinstance(inner[0], list):
            return inner[0]
    return None if alone else values or None


def _several(data: bytes) -> list[Any]:
    """Return the JSON values that stand one after the other, each over several lines; nothing where it is not so."""
    decode = json.JSONDecoder().raw_decode
    values: list[Any] = []
    try:
        text = data.decode()
        at = _skip(text, 0)
        while at < len(text):
            begin = at
            value, at = decode(text, at)
            if not values and "\n" not in text[begin:at]:
                return []
            values.append(value)
            at = _skip(text, at)
    except (ValueError, RecursionError):
        return []
    return values


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _text(data: bytes, file: File) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _problem(file, line, f"not UTF-8: byte 0x{data[error.start]:02x}", "save it as UTF-8") from None


def _cut(file: File, text: str, at: int, detail: str) -> FileProblems:
    return _problem(file, text.count("\n", 0, at) + 1, detail, "is the file whole? fetch it again")


def _problem(file: File, line: int | None, message: str, hint: str) -> FileProblems:
    return FileProblems([Problem(file.name, line, None, message, None, hint)])


def _no_json(error: Exception) -> checks.Broken:
    if isinstance(error, RecursionError):
        detail = "too many levels"
    else:
        detail = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return checks.Broken("format", f"not JSON: {detail}"[:120])


# --- What a line may say -----------------------------------------------------------------------------------------------


def _sample(identity: str, prompt: str, output: str, kind: str, origin: str) -> Record:
    source = {"id": identity, "origin": origin, "part": 1, "paragraphs": []}
    return {"prompt": prompt, "output": output, "kind": kind, "source": source}


def _at(entry: _Entry, broken: checks.Broken) -> checks.Broken:
    return checks.Broken(broken.rule, f"{entry.where}: {broken.detail}")


def _nothing(file: File, rejected: Rejected, form: str) -> FileProblems:
    count = rejected.counts.total()
    found = f"; of {count:,} the first: {rejected.rows[0]['detail']}" if rejected.rows else ": it is empty"
    return _problem(file, None, f"nothing in it can be trained on{found}", f"each line is {form}")


def _bad_texts(value: Any, keys: tuple[str, ...]) -> checks.Broken | None:
    """Refuse what is no object with a text behind each key."""
    if not isinstance(value, dict):
        return checks.Broken("format", f"expected an object with {' and '.join(keys)}")
    for key in keys:
        text = value.get(key)
        if not isinstance(text, str):
            return checks.Broken("format", f"no {key}" if text is None else f"{key} is no text")
        if not text.strip():
            return checks.Broken("empty", f"{key} is empty")
        if found := _UNUSABLE.search(text):
            return checks.Broken("format", f"{key} has the character U+{ord(found[0]):04X}")
        if found := _MARK.search(text):
            return checks.Broken("format", f"{key} has the mark {found[0]}")
    return None


def _bad_output(value: Any) -> checks.Broken | None:
    """Refuse a sample after whose end a model would not know to stop."""
    if EOT in value["prompt"]:
        return checks.Broken("format", f"prompt has the mark {EOT}")
    output = value["output"].rstrip()
    if not output.endswith(EOT):
        return checks.Broken("cut-off", f"output does not end in {EOT}")
    return None if output.replace(EOT, "").strip() else checks.Broken("empty", "output is empty")


def _bad_general(value: Any) -> checks.Broken | None:
    instructs = isinstance(value, dict) and "prompt" not in value
    broken = _bad_texts(value, ("instruction", "output") if instructs else ("prompt", "output"))
    if broken is None and instructs and (value.get("input") or "") != "":
        broken = _bad_texts(value, ("input",))
    if broken is None:
        prompt, output = _general_texts(value)
        if EOT in prompt or EOT in output.removesuffix(EOT):
            broken = checks.Broken("format", f"has the mark {EOT}")
    return broken


def _general_texts(value: Record) -> tuple[str, str]:
    """Return prompt and output. An output ends in `<|eot|>`, or the model would learn to go on after its answers."""
    if "prompt" in value:
        prompt = value["prompt"]
    else:
        prompt = "\n\n".join(text for text in (value["instruction"], value.get("input")) if text) + "\n\n"
    return prompt, value["output"].rstrip().removesuffix(EOT) + EOT


def _bad_dialogue(value: Any) -> checks.Broken | None:
    if not isinstance(value, dict):
        return checks.Broken("format", "expected an object with a dialogue")
    turns = value.get("dialogue")
    if not isinstance(turns, list):
        return checks.Broken("format", "no dialogue" if turns is None else "dialogue is no list")
    return None if turns else checks.Broken("empty", "dialogue is empty")


# --- Raw dialogues -----------------------------------------------------------------------------------------------------


def _turns(
    rows: list[Any], names: dict[str, str], short_name: str
) -> tuple[list[dict[str, str]], list[tuple[int, checks.Broken, str]]]:
    """Return the turns, and what is none: its number, why, and its words."""
    said: list[tuple[int, dict[str, str]]] = []
    left_out = []
    spelling = {short_name.casefold(): short_name, **names}
    for number, row in enumerate(rows, 1):
        role, action, content = (_word(row, key) for key in ("role", "action", "content"))
        role = one_line(_PARENTHESES.sub(" ", role).replace(":", " ")).strip("*_\"' ")
        role = spelling.get(role.casefold(), role)
        content = one_line(content).strip('" ')
        if not content:
            left_out.append((number, checks.Broken("empty", "no content"), ""))
        elif found := _UNUSABLE.search(content):
            left_out.append((number, checks.Broken("format", f"character U+{ord(found[0]):04X}"), content))
        elif not valid_role(role):
            left_out.append((number, checks.Broken("format", f"nobody's turn: {role!r}"[:120]), content))
        else:
            thinks = "think" in action.casefold() or "thought" in action.casefold()
            turn = {"role": role, "action": "thinking" if thinks else "speaking", "content": content}
            said.append((number, turn))
    if said and not said[-1][1]["content"].endswith(_ENDS):
        number, turn = said.pop()
        left_out.append((number, checks.Broken("cut-off", "the last turn does not end"), turn["content"]))
    turns: list[dict[str, str]] = []
    for _, turn in said:
        if turns and (turns[-1]["role"], turns[-1]["action"]) == (turn["role"], turn["action"]):
            turns[-1]["content"] += f" {turn['content']}"
        else:
            turns.append(turn)
    return turns, left_out


def _word(row: Any, key: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    return value if isinstance(value, str) else ""


def _setting(value: Record, short_name: str) -> dict[str, str]:
    """Return location and background; of a dialogue without a place, such as a protective one, that of any talk."""
    location = value.get("location")
    background = value.get("setting")
    if isinstance(background, list):
        background = next((text for text in background if isinstance(text, str)), None)
    if not isinstance(background, str) or not background.strip():
        background = value.get("background")
    made = {"location": "A room", "background": f"{short_name} is talking with somebody."}
    if isinstance(location, str) and len(location.strip()) > 1 and not _UNUSABLE.search(location):
        made["location"] = one_line(location)
        if isinstance(background, str) and len(background.strip()) > 1 and not _UNUSABLE.search(background):
            made["background"] = one_line(background)
    return made
