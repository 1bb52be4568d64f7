"""A character's YAML file as a frozen `CharacterSpec`; the only module that knows the file's form.

A spec comes from a stranger's pull request: it names files inside the workspace and models by name, and
nothing else. Values come from the preset, then the file, then `--set`, each winning over the one before. What is
wrong is reported all at once. This module opens no profile, question or written file beyond asking whether it
is there, and knows neither stages nor models, save the embedded models' names. What it makes is charforge.sections'.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge import safe_yaml
from charforge.errors import FileProblems, Problem
from charforge.files import MIB, near_file, visible
from charforge.safe_yaml import Document, KeyPath, key_text, shown
from charforge.schema import faults, is_secret, nearest, schema_file
from charforge.sections import CharacterSpec, build

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PRESET = "laptop"
PRESETS = ("laptop", "smoke", "paper")
MAX_TEXT_BYTES = MIB
"""How large a profile or written file may be: 170,000 words."""
MAX_QUESTIONS_BYTES = MIB
MAX_TRANSCRIPT_BYTES = 16 * MIB
"""How large one file of a transcript may be."""
MAX_DATA_BYTES = 2048 * MIB
"""How large a file of released dialogues or general samples may be, here or on the hub."""

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SET_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_FILES: dict[KeyPath, int] = {
    ("profile", "file"): MAX_TEXT_BYTES,
    ("written",): MAX_TEXT_BYTES,
    ("interview", "questions"): MAX_QUESTIONS_BYTES,
}
_DATA: tuple[KeyPath, ...] = (
    ("train", "data", "prompted"),
    ("train", "data", "generated"),
    ("train", "mix", "data"),
)
_BASES: tuple[KeyPath, ...] = (
    ("train", "base_model"),
    ("train", "base_model", "delta"),
    ("train", "base_model", "onto"),
)
_MODELS: tuple[KeyPath, ...] = (
    ("generator", "model"),
    *_BASES,
    ("interview", "generate", "model"),
    ("interview", "interviewer", "model"),
    ("judge", "model"),
)
_CONTESTANTS: tuple[KeyPath, ...] = (("interview", "baselines"), ("interview", "transcripts"))
_OWN_NAMES = ("trained", "base")
"""Contestants' names that nobody else can have."""
_INSIDE = "a spec can name files inside the workspace only"


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of a spec, right or wrong. `files` has each named file that is there, workspace-relative.

    `spec` is None where there are problems. Keys of `files`: `profile.file`, `written`, `interview.questions`,
    `train.data.prompted`, `train.data.generated`, `train.mix.data`, `interview.transcripts[0].files[0]` and so on.
    `values` is what is right of the spec, preset and overrides included, even where something else is wrong.
    """

    spec: CharacterSpec | None
    problems: list[Problem]
    files: dict[str, str]
    short_name: str | None
    values: Mapping[str, Any]
    reader: _Reader | None

    def value(self, *path: str) -> Any:
        """Return a value, None where there is none or it is wrong."""
        return _get(self.values, path)

    def problem(self, path: KeyPath, message: str, hint: str | None = None) -> Problem | None:
        """Return a problem with its line; None where there is a problem at this key already, or no file to speak of."""
        if self.reader is None or self.reader.is_wrong(path):
            return None
        return self.reader.problem([path[:length] for length in range(len(path), 0, -1)], message, hint)


def load(
    path: Path, workspace: Path, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> CharacterSpec:
    """Return the character of the YAML file at `path`, which lies in `workspace`.

    `preset` wins over the file's; each of `overrides` is `KEY=VALUE` as `--set` takes it, VALUE being YAML.
    Raises FileProblems with everything that is wrong with the file, the overrides and the paths they name.
    """
    found = examine(path, workspace, preset=preset, overrides=overrides)
    if found.spec is None:
        raise FileProblems(found.problems)
    return found.spec


def examine(
    path: Path, workspace: Path, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> Examined:
    """Return the same as `load`, or its problems together with what was right. Raises nothing for a bad spec."""
    root = Path(os.path.realpath(workspace))
    try:
        file = _locate(path, root)
        reader = _Reader(root, file)
        reader.add_file(safe_yaml.load(root / file, file, problems=reader.problems))
    except FileProblems as error:
        return Examined(None, error.problems, {}, None, {}, None)
    for override in overrides:
        reader.add_override(override)
    return reader.finish(preset)


@cache
def preset_document(name: str) -> Document:
    """Return a preset's values. Shared: not to be changed."""
    path = Path(__file__).with_name("presets") / f"{name}.yaml"
    return safe_yaml.load(path, f"preset {name}")


def valid_id(text: str) -> bool:
    """Whether a text can be a character's id, which is its spec's file name without `.yaml`."""
    return _ID.fullmatch(text) is not None


def valid_day(text: str) -> bool:
    """Whether a text is a day of the calendar, its year astronomical: 44 BC is `-0043`."""
    if not re.fullmatch(r"-?[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return False
    year, month, day = text[-10:].split("-")
    signed = -int(year) if text.startswith("-") else int(year)
    try:
        # The Gregorian calendar repeats every 400 years; Python's begins with the year 1.
        date(signed % 400 + 400, int(month), int(day))
    except ValueError:
        return False
    return True


def is_local(reference: str) -> bool:
    """Whether what names a model or a data file names something in the workspace; else it is embedded or on the hub."""
    return reference.startswith(("./", "../"))


def relative_file(text: str, folder: str, root: Path) -> str:
    """Return the workspace-relative form of a path that a spec in `folder` names.

    `root` is the workspace without links. Raises ValueError, with the reason, for a path that a stranger's spec may not
    name: absolute, leading out of the workspace (by itself or through a link), or hidden (`.env`, `.git/config`).
    """
    if text.startswith("/"):
        raise ValueError(f"expected a path relative to the spec's folder, got {shown(text)}")
    # Joined as text, so that what is checked is what is opened: 'link/..' would differ on the disk.
    norm = os.path.normpath(Path(folder, text))
    if norm == ".." or norm.startswith("../"):
        raise ValueError(f"{shown(text)} leads out of the workspace")
    real = os.path.realpath(root / norm)
    if not Path(real).is_relative_to(root):
        raise ValueError(f"{shown(text)} is a link that leads out of the workspace")
    for part in (*Path(norm).parts, *Path(real).relative_to(root).parts):
        if part.startswith("."):
            raise ValueError(f"{shown(text)} is hidden: a spec cannot name {visible(part)}")
    return norm


class _Reader:
    """Collects documents and their problems, then makes the spec of them."""

    def __init__(self, root: Path, file: str) -> None:
        self.root = root
        self.file = file
        self.documents: list[Document] = []  # the later wins
        self.problems: list[Problem] = []
        self.faulty: set[KeyPath] = set()

    def add_file(self, document: Document) -> None:
        self._check(document, partial=False)

    def add_override(self, override: str) -> None:
        key, equals, text = override.partition("=")
        path = tuple(key.split("."))
        hidden = f"--set {visible(key)[:100]}=[not shown]"
        label = hidden if any(map(is_secret, path)) else f"--set {visible(override)[:200]}"
        if not equals or not _SET_KEY.fullmatch(key):
            hint = "for example: --set train.epochs=5"
            self.problems.append(Problem(label, None, None, "expected KEY=VALUE", None, hint))
            return
        try:
            value = safe_yaml.parse(text, label).value if text.strip() else None
        except FileProblems as error:
            # A lone value's line says nothing.
            for problem in error.problems:
                self.problems.append(Problem(label, None, key, problem.message, None, problem.hint))
            return
        for step in reversed(path):
            value = {step: value}
        marks = _marks(value)
        if any(is_secret(step) for inner in marks for step in inner if isinstance(step, str)):
            label = hidden
        self._check(Document(label, value, text, marks), partial=True)

    def finish(self, preset: str | None) -> Examined:
        name = self._preset(preset)
        # What a document has wrong is left to the preset, so that the rest can still be checked.
        values: dict[str, Any] = _copy(preset_document(name).value)
        for document in self.documents:
            if _get(document.value, ("train", "data")) is not None:
                values["train"].pop(
                    "data", None
                )  # one kind of data or the other: the later is not put over the earlier
            _merge(values, document.value)
        paths = self._paths(values) | self._data(values) | self._transcripts(values)
        self._bases(values)
        self._meanings(values)
        short_name = values.get("short_name")
        if self.problems:
            short_name = short_name if isinstance(short_name, str) else None
            return Examined(None, self.problems, paths, short_name, values, self)
        values |= {"id": Path(self.file).stem, "file": self.file, "preset": name}
        values["profile"]["file"] = paths["profile.file"]
        values["interview"]["questions"] = paths.get("interview.questions")
        values["written"] = paths.get("written")
        values["knows"].setdefault("never", [])
        limits = preset_document(name).value["checks"]
        values["checks"] = {
            rule.replace("-", "_"): limits[rule] if value is True else value
            for rule, value in values["checks"].items()
        }
        spec = build(values)
        return Examined(spec, [], paths, spec.short_name, values, self)

    def _check(self, document: Document, *, partial: bool) -> None:
        found = [
            f
            for f in faults(document.value, schema_file("spec"), partial=partial)
            if f.path not in document.bad
        ]
        for fault in found:
            self.problems.append(
                document.problem(
                    fault.path, fault.message, fault.hint, at_key=fault.at_key, hide=fault.secret
                )
            )
        wrong = {fault.path for fault in found} | document.bad
        self.faulty |= wrong
        right = _without(document.value, wrong) if isinstance(document.value, dict) else {}
        self.documents.append(replace(document, value=right))

    def _preset(self, preset: str | None) -> str:
        if preset is not None and preset not in PRESETS:
            near = nearest(preset, list(PRESETS))
            hint = f"did you mean '{near}'?" if near else None
            message = f"expected one of {', '.join(PRESETS)}, got {shown(preset)}"
            self.problems.append(Problem(f"--preset {visible(preset)[:60]}", None, None, message, None, hint))
            return DEFAULT_PRESET
        named = [document.value.get("preset") for document in self.documents]
        return preset or next((name for name in reversed(named) if name), DEFAULT_PRESET)

    def _paths(self, values: dict[str, Any]) -> dict[str, str]:
        """Return the named files that may be read, by key; report the others."""
        found = {}
        for path, limit in _FILES.items():
            text = _get(values, path)
            if isinstance(text, str) and (name := self._file(path, text, limit)):
                found[key_text(path)] = name
        return found

    def _data(self, values: dict[str, Any]) -> dict[str, str]:
        """Return the same for data files, and make their names in `values` workspace-relative; those of the hub stay."""
        found = {}
        for path in _DATA:
            text = _get(values, path)
            if isinstance(text, str) and is_local(text) and (name := self._file(path, text, MAX_DATA_BYTES)):
                found[key_text(path)] = name
                _get(values, path[:-1])[path[-1]] = f"./{name}"
        return found

    def _transcripts(self, values: dict[str, Any]) -> dict[str, str]:
        """Return the same for transcripts, and make their names in `values` workspace-relative; report names that clash."""
        found: dict[str, str] = {}
        whole: KeyPath = ("interview", "transcripts")
        used = {*_OWN_NAMES, *(_get(values, ("interview", "baselines")) or ())}
        made = []
        for index, item in enumerate(_get(values, whole) or ()):
            if not isinstance(item, dict):
                continue
            name, files = item.get("name"), []
            if isinstance(name, str) and name in used:
                message = f"there is a contestant {shown(name)} already"
                hint = "every contestant has a name of its own; trained and base are taken"
                self._add([(*whole, index, "name"), whole], message, hint)
            used.add(name)
            for key in ("name", "files"):  # in a list an override, too, has to say everything
                if key not in item and not self.is_wrong((*whole, index, key)):
                    self._add([(*whole, index, key), (*whole, index), whole], "this key is missing")
            for place, text in enumerate(item.get("files") or ()):
                path = (*whole, index, "files", place)
                if not isinstance(text, str) or not (file := self._file(path, text, MAX_TRANSCRIPT_BYTES)):
                    continue
                if file in files:
                    self._add([path], f"{shown(text)} is there twice", "keep one of them")
                files.append(file)
                found[key_text(path)] = file
            made.append({**item, "files": files})
        values["interview"]["transcripts"] = made
        return found

    def _bases(self, values: dict[str, Any]) -> None:
        """Make the folders that are trained on workspace-relative in `values`; report those that may not be read."""
        for path in _BASES:
            text = _get(values, path)
            if not isinstance(text, str):
                continue
            if not is_local(text):
                if not text.startswith("embedded/") and (self.root / Path(self.file).parent / text).is_dir():
                    hint = f"write {shown(f'./{text}')} for the folder"
                    self._add([path], f"{shown(text)} names a model of the hub, and a folder here", hint)
                continue
            name = self._inside(path, text)
            if name is None:
                continue
            if not (self.root / name).exists():
                message = f"no such folder: {visible(name)}"
                self._add([path], message, near_file(self.root / name, text))
            elif not (self.root / name).is_dir():
                self._add([path], f"{visible(name)} is no folder")
            elif linked := _leads_out(self.root, name):
                inner = f"{text.rstrip('/')}/{linked}"
                self._add([path], f"{shown(inner)} is a link that leads out of the workspace", _INSIDE)
            else:
                _get(values, path[:-1])[path[-1]] = f"./{name}"

    def _inside(self, path: KeyPath, text: str) -> str | None:
        try:
            return relative_file(text, str(Path(self.file).parent), self.root)
        except ValueError as error:
            self._add([path], str(error), _INSIDE)
            return None

    def _file(self, path: KeyPath, text: str, limit: int) -> str | None:
        """Return a file's workspace-relative name; None, with a problem, where it may not be read."""
        name = self._inside(path, text)
        if name is None:
            return None
        try:
            state = (self.root / name).stat()
        except FileNotFoundError:
            self._add([path], f"no such file: {visible(name)}", near_file(self.root / name, text))
        except OSError as error:
            self._add([path], f"{visible(name)} cannot be read: {error.strerror}")
        else:
            if stat.S_ISREG(state.st_mode) and state.st_size <= limit:
                return name
            message = f"{visible(name)} is too large: {state.st_size:,} bytes, the limit is {limit:,}"
            self._add(
                [path], message if stat.S_ISREG(state.st_mode) else f"{visible(name)} is not a regular file"
            )
        return None

    def _meanings(self, values: dict[str, Any]) -> None:
        """Report what a schema cannot say."""
        for name_path in (("name",), ("short_name",), ("notice",)):
            self._printable(name_path, _get(values, name_path))
        for index, item in enumerate(_get(values, ("knows", "never")) or ()):
            self._printable(("knows", "never", index), item)
        until = _get(values, ("knows", "until"))
        if isinstance(until, str) and not valid_day(until):
            self._add([("knows", "until")], f"{shown(until)} is not a day of the calendar")
        self._ordered(values, ("dialogues", "min_turns"), ("dialogues", "max_turns"))
        count = _get(values, ("protective", "count"))
        trained = _get(values, ("interview", "trained")) is not False
        made = trained and not isinstance(_get(values, ("train", "data")), dict)
        if (
            made
            and count != 0
            and not _get(values, ("knows", "never"))
            and not self.is_wrong(("knows", "never"))
        ):
            wanted = "null (one for each paragraph)" if count is None else count
            message = f"protective.count is {wanted}, and there is nothing here to ask about"
            hint = "name a few things the character cannot know, or set protective.count to 0"
            self._add([("knows", "never"), ("knows",)], message, hint)
        # Halves of these may come from different places, so no document by itself is wrong.
        for path, keys in (
            (("train", "base_model"), ("delta", "onto")),
            (("train", "mix"), ("data", "ratio")),
        ):
            given = _get(values, path)
            for key in keys if isinstance(given, dict) else ():
                if key not in given and not self.is_wrong((*path, key)):
                    self._add(
                        [(*path, key), path], "this key is missing", f"name both {keys[0]} and {keys[1]}"
                    )
        contestants = [_get(values, path) for path in _CONTESTANTS]
        if not trained and not any(contestants) and not any(map(self.is_wrong, _CONTESTANTS)):
            message = "nobody is left to interview"
            hint = "name a model in interview.baselines or a file in interview.transcripts"
            self._add([("interview", "trained"), ("interview",)], message, hint)
        judge = _get(values, ("judge", "model"))
        for index, name in enumerate(_get(values, ("judge", "panel")) or ()):
            if name is not None and name == judge:
                hint = "keep one of them: judge.repeats asks the same judge again"
                self._add([("judge", "panel", index)], f"{shown(name)} is judge.model already", hint)
        self._embedded(values)

    def _printable(self, path: KeyPath, text: Any) -> None:
        if isinstance(text, str) and not text.isprintable():
            bad = next(c for c in text if not c.isprintable())
            self._add([path], f"character U+{ord(bad):04X} does not print, got {shown(text)}", "delete it")

    def _ordered(self, values: dict[str, Any], low: KeyPath, high: KeyPath) -> None:
        """Report `low` > `high` at the one of them that a person wrote."""
        least, most = _get(values, low), _get(values, high)
        if least is None or most is None or self.is_wrong(low) or self.is_wrong(high) or least <= most:
            return
        path = next((path for path in (low, high) if self._written_by(path)), low)
        other = high if path == low else low
        relation = "at most" if path == low else "at least"
        bound = most if path == low else least
        message = f"expected {relation} {key_text(other)}, which is {bound}, got {_get(values, path)}"
        self._add([path], message, f"set {key_text(other)} too" if not self._written_by(other) else None)

    def _embedded(self, values: dict[str, Any]) -> None:
        used = [(path, _get(values, path)) for path in _MODELS]
        lists: tuple[KeyPath, ...] = (("interview", "baselines"), ("judge", "panel"))
        for path in lists:
            used += [((*path, index), name) for index, name in enumerate(_get(values, path) or ())]
        used = [(path, name) for path, name in used if isinstance(name, str) and name.startswith("embedded/")]
        if not used:
            return
        from charforge.models.embedded import EMBEDDED

        known = [name if name.startswith("embedded/") else f"embedded/{name}" for name in EMBEDDED]
        for path, name in used:
            if name not in known:
                near = nearest(name, known)
                hint = f"did you mean '{near}'?" if near else None
                self._add([path], f"expected one of {', '.join(known)}, got {shown(name)}", hint)

    def _written_by(self, path: KeyPath) -> Document | None:
        """Return the document whose value at `path` wins, None where it is the preset's."""
        return next(
            (doc for doc in reversed(self.documents) if path in doc.marks and not self.is_wrong(path)), None
        )

    def is_wrong(self, path: KeyPath) -> bool:
        """Say whether something is wrong with a key or with one above it."""
        return any(path[:length] in self.faulty for length in range(1, len(path) + 1))

    def _add(self, paths: list[KeyPath], message: str, hint: str | None = None) -> None:
        self.problems.append(self.problem(paths, message, hint))

    def problem(self, paths: list[KeyPath], message: str, hint: str | None = None) -> Problem:
        """Return a problem at the first of `paths` that a document has; the message's key is always the first."""
        for path in paths:
            document = self._written_by(path)
            if document:
                problem = document.problem(path, message, hint)
                return Problem(problem.file, problem.line, key_text(paths[0]), message, problem.excerpt, hint)
        return Problem(self.file, None, key_text(paths[0]), message, None, hint)


def _locate(path: Path, root: Path) -> str:
    """Return a spec's workspace-relative name. Raises FileProblems where it may not be read or has no proper id."""
    # The folder's links are followed (the workspace may be reached through one), the file's own are judged.
    full = Path(os.path.realpath(path.parent)) / path.name
    label = visible(str(full.relative_to(root)) if full.is_relative_to(root) else str(path))

    def fail(message: str, hint: str | None = None) -> FileProblems:
        return FileProblems([Problem(label, None, None, message, None, hint)])

    if not full.is_relative_to(root):
        raise fail(
            "the spec lies outside the workspace", "run charforge in the folder that holds the characters"
        )
    if not Path(os.path.realpath(full)).is_relative_to(root):
        raise fail("the spec is a link that leads out of the workspace")
    if full.suffix != ".yaml" or not valid_id(full.stem):
        if not os.path.lexists(full):
            meant = full.with_suffix(".yaml")
            raise fail("no such file", near_file(meant, str(meant.relative_to(root))))
        hint = "the file's name becomes the character's id: lower-case letters, digits and '-'"
        raise fail("expected a file named like characters/ludwig-van-beethoven.yaml", hint)
    return str(full.relative_to(root))


def _leads_out(root: Path, folder: str) -> str | None:
    """Return the name of a link in a folder of the workspace that leads out of it, None where there is none."""
    with os.scandir(root / folder) as entries:
        for entry in entries:
            if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
                return entry.name
    return None


def _get(values: Any, path: KeyPath) -> Any:
    for step in path:
        if not isinstance(values, dict) or step not in values:
            return None
        values = values[step]
    return values


def _copy(value: Any) -> Any:
    return {key: _copy(child) for key, child in value.items()} if isinstance(value, dict) else value


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Put `values` over `into`, mapping by mapping; lists are replaced whole."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = _copy(value)


def _without(value: Any, faulty: set[KeyPath], path: KeyPath = ()) -> Any:
    """Return the value without the keys that are wrong; a wrong item of a list becomes None and keeps its place."""
    if isinstance(value, dict):
        return {k: _without(v, faulty, (*path, k)) for k, v in value.items() if (*path, k) not in faulty}
    if isinstance(value, list):
        inner = [(item, (*path, index)) for index, item in enumerate(value)]
        return [None if at in faulty else _without(item, faulty, at) for item, at in inner]
    return value


def _marks(value: Any, path: KeyPath = ()) -> dict[KeyPath, tuple[int | None, int | None]]:
    """Return marks without lines for every path of an override's value."""
    found: dict[KeyPath, tuple[int | None, int | None]] = {path: (None, None)} if path else {}
    if isinstance(value, dict):
        for key, child in value.items():
            found |= _marks(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            found |= _marks(child, (*path, index))
    return found
