"""Two versions of one output, as differences down to the record: what audits and `charforge diff` show.

Works on bytes, which may be a stranger's: nothing is believed but that they are bytes. What both sides begin and end with is found by
halving, so one changed record in 50 MB costs little. Knows nothing of stores, locks or stages.
"""

from __future__ import annotations

import difflib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from charforge.files import visible

CHANGED, ADDED, REMOVED, MOVED = "changed", "added", "removed", "moved"

_IDS = ("id", "scene", "question", "step")
"""What may name a record of a JSON Lines file; the first that names all of those that differ, each once."""
_MAX_DEPTH = 64
_MAX_ALIGNED = 500
"""Lines that are aligned by what they say; beyond that, by position: the other may take the cube of their number."""
_MAX_ITEMS = 100
"""The same of a list inside a value, of which there may be many."""
_SHOWN = 60
_KEPT = 4_000
"""Characters of a value that `data` keeps."""
_BYTES = 16


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT: Any = _Absent()
"""The side of an added or removed thing that does not exist; None is JSON's null."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One record that is not the same on both sides. Numbers are lines from 1; None where the record is not there."""

    kind: str
    id: str | None
    before: int | None
    after: int | None
    was: Any = ABSENT
    now: Any = ABSENT


@dataclass(frozen=True, slots=True)
class RecordDifference:
    """One difference. `number` is the line from 1, of `now` except where the record is removed; `id` names the record.

    `path` leads into the record (`turns[2].content`; empty: all of it). `kind` is changed, added, removed or moved; of a
    moved record `was` and `now` are line numbers. `same` says of a change that it is of writing only, not of value.
    """

    number: int | None
    id: str | None
    path: str
    kind: str
    was: Any
    now: Any
    same: bool = False

    def said(self) -> str:
        """Return it on one short line, control characters made visible."""
        where = self.id if self.id is not None else None if self.number is None else f"line {self.number}"
        before = ": ".join(clipped(part) for part in (where, self.path) if part)
        match self.kind:
            case "added":
                what = f"added: {shown(self.now)}"
            case "removed":
                what = f"removed: {shown(self.was)}"
            case "moved":
                what = f"moved from line {self.was} to line {self.now}"
            case _ if self.same:
                what = "the same value, written otherwise"
            case _:
                what = " → ".join(near(self.was, self.now))
        return f"{before}: {what}" if before else what

    def data(self) -> dict[str, Any]:
        """Return it as data for JSON; long values are cut, a side that does not exist is left out."""
        found = {"number": self.number, "id": self.id, "path": self.path, "kind": self.kind}
        sides = {"was": self.was, "now": self.now}
        return found | {side: _bounded(value) for side, value in sides.items() if value is not ABSENT}


def differ(name: str, was: bytes, now: bytes, *, limit: int = 20) -> list[RecordDifference]:
    """Return the first `limit` differences of an output called `name`; none only where the bytes are equal.

    JSON Lines go by record, matched by id where the records have one; JSON and manifests of folders (`weights/`) by path; text
    by line; anything else by its first differing byte.
    """
    if was == now:
        return []
    return list(islice(_differences(name, was, now), limit)) or [_first_byte(was, now)]


def _differences(name: str, was: bytes, now: bytes) -> Iterator[RecordDifference]:
    if name.endswith(".jsonl"):
        pairs = aligned(was, now)
        if pairs is not None:
            for pair in pairs:
                yield from inside(pair)
            return
    elif name.endswith((".json", "/")):
        before, after = value_of(was), value_of(now)
        if before is not ABSENT and after is not ABSENT:
            for path, kind, one, other in paths(before, after):
                yield RecordDifference(None, None, path, kind, one, other)
            return
    try:
        yield from _text(was.decode(), now.decode())
    except UnicodeDecodeError:
        return


def inside(pair: Pair) -> Iterator[RecordDifference]:
    """Yield the differences of one record, each with its path."""
    number = pair.before if pair.after is None else pair.after
    if pair.kind == MOVED:
        yield RecordDifference(number, pair.id, "", MOVED, pair.before, pair.after)
    elif pair.kind != CHANGED:
        yield RecordDifference(number, pair.id, "", pair.kind, pair.was, pair.now)
    else:
        found = False
        for path, kind, was, now in paths(pair.was, pair.now):
            found = True
            yield RecordDifference(number, pair.id, path, kind, was, now)
        if not found:
            yield RecordDifference(number, pair.id, "", CHANGED, pair.was, pair.now, same=True)


# -- records ---------------------------------------------------------------------------------------------------------


def aligned(was: bytes, now: bytes) -> list[Pair] | None:
    """Return the records of two JSON Lines files that differ, in the order of `now`; None where a line that differs is no JSON."""
    first, before, after = _middle(was, now)
    kept = Counter(before) & Counter(after)
    old, old_keys = _others(before, kept, first)
    new, new_keys = _others(after, kept, first)
    if any(value is ABSENT for value in (*old.values(), *new.values())):
        return None
    name = _id_key(list(old.values()), list(new.values()))
    if name is None:
        return _by_position(first, before, after)
    old_ids = {value[name]: line for line, value in old.items()}
    new_ids = {value[name]: line for line, value in new.items()}
    pairs = [
        Pair(CHANGED, str(key), old_ids[key], line, old[old_ids[key]], new[line])
        if key in old_ids
        else Pair(ADDED, str(key), None, line, now=new[line])
        for key, line in new_ids.items()
    ]
    pairs += [
        Pair(REMOVED, str(key), line, None, old[line]) for key, line in old_ids.items() if key not in new_ids
    ]
    pairs += _moved(old_keys, new_keys)
    return sorted(pairs, key=lambda pair: (pair.after or pair.before or 0, pair.kind))


def _others(
    lines: Sequence[bytes], kept: Counter[bytes], first: int
) -> tuple[dict[int, Any], dict[tuple[bytes, int], int]]:
    """Return the parsed lines that the other side has not, by number, and the numbers of those it has."""
    left: dict[int, Any] = {}
    same: dict[tuple[bytes, int], int] = {}
    seen: Counter[bytes] = Counter()
    for number, line in enumerate(lines, first):
        if seen[line] < kept[line]:
            same[line, seen[line]] = number
            seen[line] += 1
        elif line.strip():
            left[number] = value_of(line)
    return left, same


def _id_key(old: Sequence[Any], new: Sequence[Any]) -> str | None:
    """Return what names each of these records once on its side: the first of `_IDS` that does."""

    def names(values: Sequence[Any], key: str) -> bool:
        found = [value.get(key) if isinstance(value, dict) else None for value in values]
        return all(type(each) in {str, int} for each in found) and len(set(map(str, found))) == len(found)

    return next((key for key in _IDS if names(old, key) and names(new, key)), None)


def _moved(old: Mapping[tuple[bytes, int], int], new: Mapping[tuple[bytes, int], int]) -> Iterator[Pair]:
    """Yield the fewest records whose moving explains the order: those outside the longest run that kept it."""
    order = [old[key] for key in new]
    stays = _longest_rise(order)
    for place, (line, occurrence) in enumerate(new):
        if place not in stays:
            value = value_of(line)
            key = next(
                (name for name in _IDS if isinstance(value, dict) and isinstance(value.get(name), str)), None
            )
            named = None if key is None else value[key]
            yield Pair(MOVED, named, order[place], new[line, occurrence], value, value)


def _longest_rise(numbers: Sequence[int]) -> set[int]:
    """Return the places of a longest rising subsequence of distinct numbers (patience sorting)."""
    ends: list[int] = []
    places: list[int] = []
    before: list[int] = []
    for place, number in enumerate(numbers):
        at = bisect_left(ends, number)
        before.append(places[at - 1] if at else -1)
        ends[at : at + 1], places[at : at + 1] = [number], [place]
    kept, at = set(), places[-1] if places else -1
    while at >= 0:
        kept.add(at)
        at = before[at]
    return kept


def _by_position(first: int, before: Sequence[bytes], after: Sequence[bytes]) -> list[Pair]:
    return [
        Pair(
            CHANGED if one is not None and other is not None else REMOVED if other is None else ADDED,
            None,
            None if one is None else first + one,
            None if other is None else first + other,
            ABSENT if one is None else value_of(before[one]),
            ABSENT if other is None else value_of(after[other]),
        )
        for one, other in _opposite(before, after)
    ]


T = TypeVar("T", bound=Hashable)


def _opposite(
    before: Sequence[T], after: Sequence[T], most: int = _MAX_ALIGNED
) -> Iterator[tuple[int | None, int | None]]:
    """Yield the places that differ, those that replace each other together."""
    if len(before) == len(after) or max(len(before), len(after)) > most:
        blocks = [(0, len(before), 0, len(after))]
    else:
        matched = difflib.SequenceMatcher(None, before, after, autojunk=False)
        blocks = [
            (one, one_end, other, other_end)
            for tag, one, one_end, other, other_end in matched.get_opcodes()
            if tag != "equal"
        ]
    for one, one_end, other, other_end in blocks:
        for step in range(max(one_end - one, other_end - other)):
            a = one + step if one + step < one_end else None
            b = other + step if other + step < other_end else None
            if a is None or b is None or before[a] != after[b]:
                yield a, b


def _text(was: str, now: str) -> Iterator[RecordDifference]:
    first, before, after = _middle(was.encode(), now.encode())
    for one, other in _opposite(before, after):
        number = first + (other if other is not None else one or 0)
        kind = REMOVED if other is None else ADDED if one is None else CHANGED
        yield RecordDifference(
            number,
            None,
            "",
            kind,
            ABSENT if one is None else before[one].decode(),
            ABSENT if other is None else after[other].decode(),
        )


def _first_byte(was: bytes, now: bytes) -> RecordDifference:
    at = shared(was, now)
    return RecordDifference(
        None,
        None,
        f"byte {at:,}",
        CHANGED,
        was[at : at + _BYTES].hex(" ") or "the end",
        now[at : at + _BYTES].hex(" ") or "the end",
    )


def _middle(was: bytes, now: bytes) -> tuple[int, list[bytes], list[bytes]]:
    """Return the lines between what both begin and end with, and the number of the first."""
    start = was.rfind(b"\n", 0, shared(was, now)) + 1
    was, before = was[start:], was.count(b"\n", 0, start)
    now = now[start:]
    end = was.find(b"\n", len(was) - _shared_end(was, now))
    tail = 0 if end < 0 else len(was) - end - 1
    return before + 1, _lines(was[: len(was) - tail]), _lines(now[: len(now) - tail])


def _lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return lines[:-1] if not lines[-1] else lines


def shared(a: bytes | str, b: bytes | str) -> int:
    """Return how many bytes or characters two begin with in common. By halving: comparing a slice costs next to nothing."""
    return _halved(min(len(a), len(b)), lambda low, high: a[low:high] == b[low:high])


def _shared_end(a: bytes, b: bytes) -> int:
    return _halved(
        min(len(a), len(b)),
        lambda low, high: a[len(a) - high : len(a) - low] == b[len(b) - high : len(b) - low],
    )


def _halved(most: int, same: Callable[[int, int], bool]) -> int:
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if same(low, middle):
            low = middle
        else:
            high = middle - 1
    return low


# -- inside a value --------------------------------------------------------------------------------------------------


def value_of(data: bytes) -> Any:
    """Return JSON's value; ABSENT where it is none, or nested more deeply than anything of ours."""
    try:
        value = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return ABSENT
    level = [value]
    for _ in range(_MAX_DEPTH):
        if not level:
            return value
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return ABSENT if level else value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def paths(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, str, Any, Any]]:
    """Yield where two JSON values differ: path, kind, and both sides. Items of lists that have ids are matched by them."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            inner = _inner(path, key)
            yield from _at(inner, was.get(key, ABSENT), now.get(key, ABSENT))
    elif isinstance(was, list) and isinstance(now, list):
        if (was or now) and _id_key(was, now) == "id":
            old, new = ({str(each["id"]): each for each in side} for side in (was, now))
            for key in [*old, *(key for key in new if key not in old)]:
                yield from _at(f"{path}[{key}]", old.get(key, ABSENT), new.get(key, ABSENT))
            if list(old) != list(new) and old.keys() == new.keys():
                yield path, CHANGED, list(old), list(new)
        else:
            # Item by item; as text, for values need not be hashable.
            before, after = ([json.dumps(each, sort_keys=True) for each in side] for side in (was, now))
            for one, other in _opposite(before, after, _MAX_ITEMS):
                yield from _at(
                    f"{path}[{other if one is None else one}]",
                    ABSENT if one is None else was[one],
                    ABSENT if other is None else now[other],
                )
    elif type(was) is not type(now) or repr(was) != repr(now):  # True equals 1, and 1.0
        yield path, CHANGED, was, now


def _at(path: str, was: Any, now: Any) -> Iterator[tuple[str, str, Any, Any]]:
    if was is ABSENT:
        yield path, ADDED, was, now
    elif now is ABSENT:
        yield path, REMOVED, was, now
    else:
        yield from paths(was, now, path)


def _inner(path: str, key: str) -> str:
    if not key.replace("_", "a").replace("-", "a").isalnum():
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key


# -- in words --------------------------------------------------------------------------------------------------------


def shown(value: Any, width: int = _SHOWN) -> str:
    """Return a value as one short line, control characters made visible."""
    if value is ABSENT:
        return "nothing"
    return clipped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), width)


def clipped(text: str, width: int = _SHOWN) -> str:
    """Return the start of a text as one line of at most `width` characters."""
    # White space is folded in what is shown anyway; cut first, for a text may be megabytes.
    text = visible(" ".join(text[: 4 * width].split())) + ("…" if len(text) > 4 * width else "")
    return text if len(text) <= width else text[: width - 1] + "…"


def near(was: Any, now: Any, width: int = _SHOWN) -> tuple[str, str]:
    """Return both sides short enough to read, long texts around their first difference."""
    if isinstance(was, str) and isinstance(now, str):
        before, after = was, now
    else:
        before, after = (
            side if side is ABSENT else json.dumps(side, ensure_ascii=False) for side in (was, now)
        )
    if before is ABSENT or after is ABSENT:
        return shown(was, width), shown(now, width)
    if max(len(before), len(after)) > width:
        start = max(0, shared(before, after) - width // 3)
        mark = "…" if start else ""
        return tuple(mark + clipped(side[start:], width - len(mark)) for side in (before, after))  # type: ignore[return-value]
    one, other = clipped(before, width), clipped(after, width)
    if one == other:  # a change of white space
        return visible(json.dumps(was, ensure_ascii=False)), visible(json.dumps(now, ensure_ascii=False))
    return one, other


def _bounded(value: Any) -> Any:
    """Return a value that any writer of JSON takes: not long, without halves of characters and numbers without end."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(repr(value)[: _KEPT + 1], ensure_ascii=False)
    if len(text) <= _KEPT:
        return json.loads(text.encode("utf-8", "replace"))
    start = (value if isinstance(value, str) else text)[:_KEPT].encode("utf-8", "replace").decode()
    return f"{start}… ({len(text):,} characters)"
