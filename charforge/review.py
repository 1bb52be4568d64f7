"""What a change does to one character: two versions of it in, plain data out, from spec to scores, down to records.

Each version is a lock, the files beside it, or both, and may be a stranger's: everything is read within limits, and what cannot be read
is noted. What the change brings is a claim as long as no audit has held it against bytes. Prints nothing; `review_words` does.
"""

from __future__ import annotations

import difflib
import json
import math
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from charforge import pipeline, questions, safe_yaml
from charforge.differences import ABSENT, CHANGED, Pair, aligned, inside, paths, value_of
from charforge.engine import lock as locks
from charforge.engine.digest import of_bytes
from charforge.engine.explain import reasons, sentence
from charforge.engine.lock import Line, Lock
from charforge.errors import CharForgeError
from charforge.files import MIB, decode, visible
from charforge.stages import profile, written

Blob = Callable[[str], bytes | None]
"""Gives the bytes of a digest, None where nobody here has them."""

MAX_FILE = 10 * MIB
_SHOWN_CHANGES = 200
"""Differences of a file that are told; a file that was rewritten has thousands."""
_PROMPT_LINES = 60

_QUIET = {"calls.jsonl", "usage.json", "yield.json", "train_log.jsonl", "stats.json", "oddities.json"}
"""Outputs that say how others came about: no reviewer reads them record by record."""
_SUMMED = {"rejected.jsonl", "measures.jsonl", "sft.jsonl", "set_aside.jsonl"}
"""Outputs whose differing records are counted and not shown: they repeat others, or are what was thrown away."""
_ELSEWHERE = {
    "statistics.json",
    "metrics.json",
    "report.html",
    "report.json",
    "profile.json",
    "questions.json",
}
"""Outputs that another part tells of."""


@dataclass(frozen=True)
class Version:
    """One side. `read` gives a file of the workspace, None where there is none; itself None where there are no files.

    `label` is how the side is called. `problem` says why there is no lock where there should be one.
    """

    label: str
    character: str
    lock: Lock | None = None
    read: Callable[[str, int], bytes | None] | None = None
    problem: str | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def spec_bytes(self) -> bytes | None:
        """The spec as it stands in its file."""
        return self._file(f"characters/{self.character}.yaml", safe_yaml.MAX_BYTES)

    @cached_property
    def spec(self) -> dict[str, Any] | None:
        """The spec's own values, nothing filled in; None where it cannot be read."""
        if self.spec_bytes is None:
            return None
        name = f"characters/{self.character}.yaml"
        try:
            value = safe_yaml.parse(decode(self.spec_bytes, name), name).value
        except CharForgeError as error:
            self.note(f"{name} cannot be read", error)
            return None
        return value if isinstance(value, dict) else None

    def file(self, *keys: str) -> tuple[str, bytes] | None:
        """Return path and bytes of a file that the spec names, None where it names none, or there is none."""
        value: Any = self.spec
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, str):
            return None
        path = posixpath.normpath(posixpath.join("characters", value))
        if path.startswith(("/", "../")) or path == ".." or "\\" in value or not value.isprintable():
            self.note(f"{value} leads out of the workspace, and was not read")
            return None
        data = self._file(path, MAX_FILE)
        return None if data is None else (path, data)

    def note(self, what: str, error: CharForgeError | None = None) -> None:
        """Remember what could not be looked at, on one line."""
        why = "" if error is None else f": {error.render().partition(chr(10))[0].removeprefix('error: ')}"
        text = visible(f"{self.label}: {what}{why}")
        if text not in self.notes:
            self.notes.append(text)

    def _file(self, path: str, limit: int) -> bytes | None:
        if self.read is None:
            return None
        try:
            return self.read(path, limit)
        except CharForgeError as error:
            self.note(path, error)
            return None


def compare(was: Version, now: Version, blob: Blob, *, records: int = 3) -> dict[str, Any]:
    """Return what `now` does to `was`. `records` differing records of each output are in it where `blob` has both sides."""
    found: dict[str, Any] = {
        "character": now.character,
        "was": was.label,
        "now": now.label,
        "change": _change(was, now),
        "spec": _spec(was, now),
        "files": list(_files(was, now, blob)),
        "prompts": list(_prompts(was, now, blob)),
        "stages": _stages(was.lock, now.lock),
        "cost": _cost(was.lock, now.lock),
        "scores": _scores(was.lock, now.lock, blob),
        "records": list(_records(was.lock, now.lock, blob, records)),
    }
    found["look"] = list(_look(was, now, found))
    found["notes"] = [*was.notes, *now.notes]
    return found


def differs(was: Version, now: Version) -> bool:
    """Say whether anything of a character is another: its lock, its spec, or a file that it names."""
    if was.lock != now.lock or was.problem != now.problem or was.spec_bytes != now.spec_bytes:
        return True
    return any(was.file(*keys) != now.file(*keys) for _, keys in NAMED)


def _change(was: Version, now: Version) -> str:
    before, after = (
        side.lock is not None or side.spec_bytes is not None or bool(side.problem) for side in (was, now)
    )
    return "new" if not before else "gone" if not after else "changed"


# -- what people wrote -----------------------------------------------------------------------------------------------

NAMED = (
    ("profile", ("profile", "file")),
    ("written", ("written",)),
    ("questions", ("interview", "questions")),
)
"""Files that a spec names, and the stage that reads each."""


def _spec(was: Version, now: Version) -> list[dict[str, Any]]:
    """Return the values of the spec that differ: as written where both files are there, else as the locks' stages saw them."""
    change = _change(was, now)
    if (was.spec is not None or change == "new") and (now.spec is not None or change == "gone"):
        return [_difference(*each) for each in islice(paths(was.spec or {}, now.spec or {}), _SHOWN_CHANGES)]
    if was.lock is None or now.lock is None:
        return []
    found: dict[str, dict[str, Any]] = {}
    for kind, before in was.lock.stages.items():
        after = now.lock.stages.get(kind)
        if after is None or len(found) >= _SHOWN_CHANGES:
            continue
        for path, how, old, new in islice(paths(dict(before.params), dict(after.params)), _SHOWN_CHANGES):
            entry = found.setdefault(json.dumps([path, how, _plain(old), _plain(new)]), {"stages": []})
            entry |= _difference(path, how, old, new)
            entry["stages"].append(kind)
    return list(found.values())[:_SHOWN_CHANGES]


def _difference(path: str, kind: str, was: Any, now: Any) -> dict[str, Any]:
    sides = {"was": was, "now": now}
    return {"path": path, "kind": kind} | {
        name: value for name, value in sides.items() if value is not ABSENT
    }


def _plain(value: Any) -> Any:
    return None if value is ABSENT else value


def _files(was: Version, now: Version, blob: Blob) -> Iterator[dict[str, Any]]:
    """Yield profile, written experience and questions where they differ, by their own units."""
    ids: set[str] = set()
    for name, keys in NAMED:
        sides = [_Units(side, name, side.file(*keys), blob, ids) for side in (was, now)]
        if name == "profile":
            ids = {unit for side in sides for unit in side.units or {}}
        before, after = sides
        if before.data == after.data and before.digest == after.digest:
            continue
        if None in {before.data, after.data} and before.digest == after.digest is not None:
            continue  # a lock by itself beside one with its files: all that can be held together is equal
        if before.units is None or after.units is None:
            if before.exists or after.exists:
                yield {"file": name, "path": after.path or before.path, "changes": None, "units": None}
            continue
        changes = list(islice(paths(before.units, after.units), _SHOWN_CHANGES))
        if list(before.units) != list(after.units) and before.units.keys() == after.units.keys():
            changes.append(("order", CHANGED, list(before.units), list(after.units)))
        if changes:
            yield {
                "file": name,
                "path": after.path or before.path,
                "units": [len(before.units), len(after.units)],
                "changes": [_difference(*each) for each in changes],
            }


class _Units:
    """A file of one side, as `{id: content}`; `units` is None where it cannot be had, empty where there is no such file."""

    def __init__(
        self, side: Version, name: str, file: tuple[str, bytes] | None, blob: Blob, ids: set[str]
    ) -> None:
        self.path: str | None = None if file is None else file[0]
        self.data: bytes | None = None if file is None else file[1]
        line = None if side.lock is None else side.lock.stages.get(name)
        self.digest = None if line is None else line.outputs.get(_OUTPUT[name])
        self.exists = self.data is not None or self.digest is not None
        self.units: dict[str, Any] | None = {} if not self.exists else None
        if self.data is not None:
            try:
                self.units = _parsed(name, decode(self.data, str(self.path)), str(self.path), side, ids)
            except CharForgeError as error:
                side.note(f"{self.path} cannot be read", error)
        elif line is not None and self.digest is not None:
            names = [_OUTPUT[name], *(each for each in _MORE.get(name, ()) if each in line.outputs)]
            made = [blob(line.outputs[each]) for each in names]
            if None not in made:
                self.units = _made(name, [each for each in made if each is not None])


_OUTPUT = {"profile": "profile.json", "written": "dialogues.jsonl", "questions": "questions.json"}
_MORE: dict[str, tuple[str, ...]] = {"written": ("protective.jsonl",)}


def _parsed(name: str, text: str, path: str, side: Version, ids: set[str]) -> dict[str, Any]:
    if name == "profile":
        return _paragraphs(profile.read(text, file=path))
    if name == "questions":
        both = questions.read(text, file=path)
        return {each["id"]: each for each in (*both.single_records(), *both.multi_records())}
    short = (side.spec or {}).get("short_name")
    name_of = short if isinstance(short, str) else str((side.spec or {}).get("name", "")).rpartition(" ")[2]
    dialogues, protective = written.read(text, file=path, short_name=name_of, paragraph_ids=ids)
    return {each["id"]: each for each in (*dialogues, *protective)}


def _made(name: str, made: Sequence[bytes]) -> dict[str, Any] | None:
    """Return the same of what a stage made of the file."""
    try:
        if name == "profile":
            return _paragraphs(json.loads(made[0]))
        if name == "questions":
            both = json.loads(made[0])
            return {each["id"]: each for each in (*both["single"], *both["multi"])}
        return {each["id"]: each for data in made for each in map(json.loads, data.splitlines())}
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _paragraphs(found: Mapping[str, Any]) -> dict[str, Any]:
    head = {key: found[key] for key in profile.KEYS}
    # Without the numbers: one paragraph more would change them all.
    return head | {
        each["id"]: {"section": each["section"], "text": each["text"]} for each in found["paragraphs"]
    }


def _prompts(was: Version, now: Version, blob: Blob) -> Iterator[dict[str, Any]]:
    """Yield each prompt that stages stand on and that differs, as a unified diff where both texts can be had."""
    if was.lock is None or now.lock is None:
        return
    told: dict[tuple[str, str | None, str | None], dict[str, Any]] = {}
    for kind in _ordered({*was.lock.stages, *now.lock.stages}):
        lines = [side.lock.stages.get(kind) for side in (was, now) if side.lock is not None]
        if None in lines:
            continue
        before, after = (each.inputs for each in lines if each is not None)
        for key in sorted({*before, *after}):
            name = key.removeprefix("prompt:")
            if name == key or before.get(key) == after.get(key):
                continue
            old, new = before.get(key), after.get(key)
            entry = told.setdefault((name, old, new), {"prompt": name, "stages": [], "diff": None})
            entry["stages"].append(kind)
    for (_, old, new), entry in told.items():
        texts = [_prompt(digest, blob, side) for digest, side in ((old, was), (new, now))]
        if None not in texts:
            before_text, after_text = (each.splitlines() for each in texts if each is not None)
            unified = difflib.unified_diff(before_text, after_text, lineterm="", n=1)
            entry["diff"] = list(islice(unified, 2, _PROMPT_LINES + 2))
        yield entry


def _prompt(digest: str | None, blob: Blob, side: Version) -> str | None:
    if digest is None:
        return ""
    data = blob(digest)
    if data is None and side.read is not None:
        data = side.read(f"sha256:{digest}", MIB)
    # Lines are aligned in time that can grow with their square: no prompt of ours is near this.
    if data is None or len(data) > MIB // 4 or data.count(b"\n") > 2000:
        return None
    return data.decode("utf-8", "replace")


# -- what was made of it ---------------------------------------------------------------------------------------------


def _ordered(kinds: set[str]) -> list[str]:
    order = {kind: number for number, kind in enumerate((pipeline.RELEASED, *pipeline.STAGES))}
    return sorted(kinds, key=lambda kind: (order.get(kind, len(order)), kind))


def _stages(was: Lock | None, now: Lock | None) -> dict[str, Any]:
    """Return, by stage, what became of it and why; stages of which nothing changed are left out."""
    before, after = ({} if each is None else each.stages for each in (was, now))
    found = {}
    for kind in _ordered({*before, *after}):
        one, other = before.get(kind), after.get(kind)
        if one == other:
            continue
        found[kind] = {
            "change": _became(one, other),
            "why": _why(one, other, kind),
            "code": None if one is None or other is None else _sides(one.version, other.version),
            **{
                name: _changed_keys(_field(one, name), _field(other, name))
                for name in ("counts", "models", "outputs")
            },
            "environment": _environment(was, now, one, other),
        }
    return found


def _became(one: Line | None, other: Line | None) -> str:
    if one is None or other is None:
        return "new" if one is None else "gone"
    if one.action != other.action:
        return "made anew"
    return "made otherwise" if one.outputs != other.outputs else "same"


def _why(one: Line | None, other: Line | None, kind: str) -> list[str]:
    if one is None or other is None or one.action == other.action:
        return []
    why = reasons(one.body(kind).plain(), other.body(kind).plain(), {})
    # What is its own before what it takes over from the stages that it reads.
    why.sort(key=lambda each: each["kind"] == "input" and not each["label"].startswith("prompt:"))
    return [visible(sentence(each)) for each in why if each["kind"] != "lost"] or [
        "another action digest, of which the line says nothing"
    ]


def _field(line: Line | None, name: str) -> Mapping[str, Any]:
    return {} if line is None else getattr(line, name)


def _sides(was: Any, now: Any) -> list[Any] | None:
    return None if was == now else [was, now]


def _changed_keys(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {
        key: [was.get(key), now.get(key)]
        for key in sorted({*was, *now})
        if was.get(key) != now.get(key) or (key in was) != (key in now)
    }


def _environment(
    was: Lock | None, now: Lock | None, one: Line | None, other: Line | None
) -> dict[str, list[Any]]:
    if was is None or now is None or one is None or other is None:
        return {}
    return _changed_keys(was.environments[one.environment], now.environments[other.environment])


_TOKENS = ("calls", "prompt_tokens", "completion_tokens", "cost", "unpriced")


def _cost(was: Lock | None, now: Lock | None) -> dict[str, Any]:
    """Return what the locks say their stages took, by model and in all, and what the stages took that were made anew."""
    anew = [
        kind
        for kind, line in ({} if now is None else now.stages).items()
        if was is None or kind not in was.stages or was.stages[kind].action != line.action
    ]
    sums = {"was": _usage(was), "now": _usage(now), "anew": _usage(now, anew)}
    return {
        "total": {side: _sum(each.values()) for side, each in sums.items()},
        "models": {
            model: {side: sums[side].get(model) for side in sums}
            for model in sorted({*sums["was"], *sums["now"]})
            if sums["was"].get(model) != sums["now"].get(model)
        },
        "replies": {
            side: sum(
                line.observations.get("count", 0) for line in ({} if each is None else each.stages).values()
            )
            for side, each in (("was", was), ("now", now))
        },
    }


def _usage(lock: Lock | None, kinds: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for kind, line in ({} if lock is None else lock.stages).items():
        for model, used in line.usage.items() if kinds is None or kind in kinds else ():
            into = found.setdefault(model, dict.fromkeys(_TOKENS, 0))
            for key in _TOKENS:
                into[key] += _number(used.get(key)) or 0
    return found


def _sum(each: Any) -> dict[str, float]:
    rows = list(each)
    return {key: sum(row[key] for row in rows) for key in _TOKENS}


def _number(value: Any) -> float | None:
    """Return a number that can be added and printed, None for what is none: a lock may hold 1e999."""
    sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return value if sound and math.isfinite(value) else None


# -- scores ----------------------------------------------------------------------------------------------------------


def _scores(was: Lock | None, now: Lock | None, blob: Blob) -> list[dict[str, Any]] | None:
    """Return means of both sides with their 95 % intervals, where one differs; None where a side's statistics are not here.

    `within` says that the intervals overlap: such a change may be chance. None where a side has no interval.
    """
    sides = [_statistics(each, blob) for each in (was, now)]
    if None in sides or was is None or now is None:
        return None
    before, after = sides
    rows = []
    for part, value in (("scores", "mean"), ("metrics", "value")):
        one, other = (_cells(side, part, value) for side in (before, after))
        for key in [*one, *(key for key in other if key not in one)]:
            old, new = one.get(key), other.get(key)
            if old != new:
                rows.append(
                    {
                        "kind": part,
                        "what": key[0],
                        "contestant": key[1],
                        "was": old,
                        "now": new,
                        "within": _overlap(old, new),
                    }
                )
    return rows


def _statistics(lock: Lock | None, blob: Blob) -> Any:
    line = None if lock is None else lock.stages.get("scores")
    digest = None if line is None else line.outputs.get("statistics.json")
    data = None if digest is None else blob(digest)
    found = None if data is None else value_of(data)
    return found if isinstance(found, dict) else None


def _cells(statistics: Any, part: str, value: str) -> dict[tuple[str, str], dict[str, float | None]]:
    table = statistics.get(part)
    return {
        (what, who): {
            "value": _number(cell.get(value)),
            "low": _number(cell.get("low")),
            "high": _number(cell.get("high")),
        }
        for what, row in (table.items() if isinstance(table, dict) else ())
        for who, cell in (row.items() if isinstance(row, dict) else ())
        if isinstance(cell, dict)
    }


def _overlap(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool | None:
    if was is None or now is None or None in (was["low"], was["high"], now["low"], now["high"]):
        return None
    return bool(was["low"] <= now["high"] and now["low"] <= was["high"])


# -- records ---------------------------------------------------------------------------------------------------------


def _records(was: Lock | None, now: Lock | None, blob: Blob, limit: int) -> Iterator[dict[str, Any]]:
    """Yield each changed output that has records: how many differ, and the first ones; `here` is False where bytes are missing."""
    if was is None or now is None:
        return
    for kind in _ordered(was.stages.keys() & now.stages.keys()):
        before, after = was.stages[kind].outputs, now.stages[kind].outputs
        if kind == "written":
            continue  # told with the files
        for name in sorted(before.keys() & after.keys() - _QUIET - _ELSEWHERE):
            if before[name] == after[name] or not name.endswith(".jsonl"):
                continue
            entry: dict[str, Any] = {"stage": kind, "output": name, "here": False}
            one, other = blob(before[name]), blob(after[name])
            pairs = None if one is None or other is None else aligned(one, other)
            if pairs is not None and one is not None and other is not None:
                entry |= {
                    "here": True,
                    "of": [one.count(b"\n"), other.count(b"\n")],
                    "counts": {
                        how: sum(pair.kind == how for pair in pairs)
                        for how in ("changed", "added", "removed", "moved")
                    },
                    "shown": [
                        _record(pair)
                        for pair in sorted(pairs, key=_dullness)[: 0 if name in _SUMMED else limit]
                    ],
                }
            yield entry


_TELLING = ("score", "winner", "answer", "turns", "background")
"""Fields by whose change a reviewer judges, the first to be shown."""
_DULL = ("evidence", "cites", "miscited", "words", "draw", "call", "verdict")


def _dullness(pair: Pair) -> int:
    """Sort first what differs in a field that tells something."""
    if not (isinstance(pair.was, dict) and isinstance(pair.now, dict)):
        return 0
    return 0 if any(pair.was.get(key) != pair.now.get(key) for key in _TELLING) else 1


def _place(path: str) -> int:
    name = path.partition(".")[0].partition("[")[0]
    return _TELLING.index(name) if name in _TELLING else 100 if name in _DULL else 50


_TITLES = ("title", "text", "subject", "question", "background", "provocation")


def _record(pair: Pair) -> dict[str, Any]:
    """Return a differing record: who it is, a line that tells what it is about, and its differences."""
    value = pair.was if pair.now is ABSENT else pair.now
    about = None
    if isinstance(value, dict):
        about = next((value[key] for key in _TITLES if isinstance(value.get(key), str)), None)
    return {
        "id": pair.id,
        "line": pair.before if pair.after is None else pair.after,
        "kind": pair.kind,
        "about": None if about is None else about[:400],
        "differences": [
            each.data() for each in sorted(islice(inside(pair), 50), key=lambda each: _place(each.path))[:8]
        ],
    }


# -- what to look at -------------------------------------------------------------------------------------------------

_TOLD = {"name", "short_name", "portrays", "notice", "licence", "source"}


def _look(was: Version, now: Version, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a reviewer should look at, the gravest first."""
    if now.problem is not None:
        yield now.problem
    if was.problem is not None:
        yield was.problem
    if now.lock is None and now.problem is None and now.spec_bytes is not None:
        yield "there is no lock: nothing says what this character comes to, or costs"
    if now.lock is not None:
        yield from _self(now, now.lock)
        yield from _unlocked(now, now.lock)
        if found["spec"] and now.lock == was.lock:
            yield "the spec says something else and the lock does not: charforge lock --check says what follows"
    if found["change"] == "changed":
        yield from _boundary(found)
    yield from _strangers(was.lock, now.lock)
    for kind, stage in found["stages"].items():
        if stage["change"] == "made otherwise":
            observed = (
                "a training or a download gave something else"
                if kind in pipeline.OBSERVED
                else "the same action made other bytes, which only other replies explain: charforge audit"
            )
            yield f"{kind}: {observed}"
        if stage["code"] is not None:
            yield f"{kind}: its code is another (version {stage['code'][0]} → {stage['code'][1]})"
    environments = {json.dumps(each["environment"], sort_keys=True) for each in found["stages"].values()} - {
        "{}"
    }
    for text in sorted(environments)[:3]:
        each = json.loads(text)
        yield "made in another environment: " + ", ".join(
            f"{name} {was or 'none'} → {now or 'none'}" for name, (was, now) in each.items()
        )
    outside = [row for row in found["scores"] or () if row["within"] is False]
    if outside:
        names = ", ".join(f"{row['contestant']}'s {row['what']}" for row in outside[:6])
        yield f"{len(outside)} figures whose intervals lie apart: {names}" + (
            " …" if len(outside) > 6 else ""
        )


def _self(now: Version, lock: Lock) -> Iterator[str]:
    if lock.character != now.character:
        yield f"the lock is that of {lock.character[:80]!r}"
    for kind, problems in islice(locks.self_check(lock).items(), 20):
        yield from (f"the lock contradicts itself: {kind}: {each}" for each in problems[:5])


def _unlocked(now: Version, lock: Lock) -> Iterator[str]:
    """Yield the files beside a lock that it was not made from."""
    for name, keys in NAMED:
        file, line = now.file(*keys), lock.stages.get(name)
        if file is None or line is None or name not in line.inputs or name == "questions":
            continue  # questions are an input in their parsed form
        if of_bytes(file[1]) != line.inputs[name]:
            yield f"{file[0]} is not the one that the lock was made from: charforge lock --check says what follows"


def _boundary(found: Mapping[str, Any]) -> Iterator[str]:
    for each in found["spec"]:
        path = each["path"]
        if path.startswith(("knows.", "knows", "boundary.")):
            yield f"the boundary of knowledge moves: {path}"
        elif path in _TOLD:
            yield f"who is portrayed, or what readers are told, changes: {path}"
    for file in found["files"]:
        for each in file["changes"] or ():
            if file["file"] == "profile" and each["path"] in {"licence", "source", "name"}:
                yield f"the profile's {each['path']} changes"


def _strangers(was: Lock | None, now: Lock | None) -> Iterator[str]:
    """Yield models that are asked now and were not, and weights that are others under an old name."""
    before, after = (_asked(each) for each in (was, now))
    for model, weights in sorted(after.items()):
        if model not in before:
            where = (
                "served elsewhere: its name is all that is known"
                if weights is None
                else f"weights {weights[:12]}…"
            )
            yield f"{model} is asked, and was not before ({where})"
        elif before[model] != weights and not model.startswith("local/"):
            yield f"{model} has other weights than before"


def _asked(lock: Lock | None) -> dict[str, str | None]:
    return {
        model: weights
        for line in ({} if lock is None else lock.stages).values()
        for model, weights in line.models.items()
    }
