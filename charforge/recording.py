"""Recordings: recorded replies in a file, to build elsewhere without a key, a network or a bill.

One JSON line of facts about the file, then one for each reply, sorted by the digest of its call, all in canonical form and so
without a choice: the same replies give the same bytes. In a `.zst` file they are one Zstandard frame.

    {"character":"ada","charforge_recording":1,"count":2,"root":"<64 hex digits>"}
    {"action":{…},"digest":"<64 hex digits>","record":{"prompt_tokens":812,…},"reply":{"finish_reason":"stop","text":"…"}}

A recording comes from a stranger: it is read within limits, all of it is verified before any of it is believed, and what it
says is data. Nothing proves that a model ever said it: who imports a recording trusts its maker for that.
Knows calls and the store; no spec and no stage.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from charforge.engine.digest import Action, canonical
from charforge.errors import CharForgeError, FileProblems, Problem
from charforge.files import visible
from charforge.llm.request import FINISH_REASONS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from charforge.engine.claims import Claims
    from charforge.engine.store import Store

VERSION = 1
SUFFIXES = (".jsonl.zst", ".jsonl")
MIB = 1 << 20
MAX_MIB = 4096
"""Of a recording, decompressed, unless the user allows more. 1,600 scenes with their dialogues take about 40."""
MAX_LINE = 32 * MIB
MAX_DEPTH = 64
MAX_PROBLEMS = 20
"""After which reading ends: the file is another thing than a recording."""
FACTS = ("completion_tokens", "cost", "prompt_tokens", "stage")
"""What a recording says of a call besides the reply; no time, so that two exports are the same bytes."""

_DOMAIN = b"charforge/recording/1\n"
_MAGIC = b"\x28\xb5\x2f\xfd"
_WINDOW_LOG = 27
"""Of the largest window that a frame may ask memory for: 128 MiB. What we write needs 2 MiB."""
_CHUNK = MIB
_LEVEL = 9
_SPOOL = 64 * MIB
_GROUP = 256
_MAX_INTEGER = 2**53


@dataclass(frozen=True, slots=True)
class Observation:
    """A recorded reply: the call, the reply's canonical bytes, and what is known besides (some of FACTS)."""

    action: Action
    reply: bytes
    facts: Mapping[str, Any]

    def line(self) -> bytes:
        """Return its line. Raises ValueError with what is wrong, for what no recording may hold."""
        problem = _action_problem(self.action.body()) or _reply_problem(_parsed(self.reply))
        if problem is None and canonical(_parsed(self.reply)) != self.reply:
            problem = "the reply is not in canonical form"
        problem = problem or _facts_problem(dict(self.facts))
        line = b'{"action":%b,"digest":"%b","record":%b,"reply":%b}\n' % (
            self.action.canonical,
            self.action.digest.encode(),
            canonical(dict(self.facts)),
            self.reply,
        )
        if problem is None and len(line) > MAX_LINE:
            problem = f"{len(line):,} bytes, the limit is {MAX_LINE:,}"
        if problem is not None:
            raise ValueError(problem)
        return line


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording that was verified. `root` names all of its content."""

    character: str
    count: int
    root: str
    _lines: IO[bytes]

    def __iter__(self) -> Iterator[Observation]:
        """Yield what it holds, sorted by digest."""
        self._lines.seek(0)
        for line in self._lines:
            data = json.loads(line)
            yield Observation(Action(**data["action"]), canonical(data["reply"]), data["record"])


@dataclass(slots=True)
class Added:
    """What an import did. `differs` counts calls that had another reply here already, which stays the one in use."""

    added: int = 0
    known: int = 0
    differs: int = 0


# --- Writing ---------------------------------------------------------------------------------------------------------


def observe(store: Store, call: str) -> Observation | None:
    """Return the reply that the store gives to a call, None where it has none (or no more)."""
    trace, body = store.find(call), store.action_body(call)
    if trace is None or body is None or body["kind"] != "call":
        return None
    facts = {key: trace.record[key] for key in FACTS if trace.record.get(key) is not None}
    return Observation(Action(**body), store.read(trace.outputs["reply"]), facts)


def write(path: Path, character: str, observations: Iterable[Observation]) -> tuple[int, str]:
    """Write a recording, atomically, and return how many replies it holds, and its root digest.

    `observations` come sorted by digest. Raises CharForgeError for a name that says no format, and where one cannot be
    written down; OSError as it comes.
    """
    packed = _packed(path)
    if not path.parent.is_dir():
        raise CharForgeError(f"{path}: there is no folder {path.parent}", "make it, and rerun")
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL) as body:
        hasher, count, last = hashlib.sha256(), 0, ""
        for each in observations:
            try:
                line = each.line()
            except ValueError as error:
                raise CharForgeError(f"call {each.action.digest[:12]} cannot be recorded: {error}") from error
            assert each.action.digest > last
            last = each.action.digest
            count += 1
            hasher.update(line)
            body.write(line)
        header = {"character": character, "charforge_recording": VERSION, "count": count}
        root = _root(header, hasher.hexdigest())
        body.seek(0)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("xb") as file, _writer(file, packed=packed) as put:
                put(canonical({**header, "root": root}) + b"\n")
                while chunk := body.read(_CHUNK):
                    put(chunk)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return count, root


def _packed(path: Path) -> bool:
    if not path.name.endswith(SUFFIXES):
        raise CharForgeError(
            f"{path}: a recording's name ends in {' or '.join(SUFFIXES)}", "such as beethoven.jsonl.zst"
        )
    return path.name.endswith(SUFFIXES[0])


@contextmanager
def _writer(file: IO[bytes], *, packed: bool) -> Iterator[Callable[[bytes], object]]:
    if not packed:
        yield file.write
    else:
        # No threads: with them the bytes depend on how many there are.
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: _LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
        }
        compressor = zstd.ZstdCompressor(options=options)
        yield lambda data: file.write(compressor.compress(data))
        file.write(compressor.flush(compressor.FLUSH_FRAME))
    file.flush()
    os.fsync(file.fileno())


def _root(header: Mapping[str, Any], lines: str) -> str:
    """Return the digest of everything: the facts about the file, and the SHA-256 of its other lines as they stand."""
    return hashlib.sha256(_DOMAIN + canonical(dict(header)) + b"\n" + lines.encode()).hexdigest()


# --- Reading ---------------------------------------------------------------------------------------------------------


class _Unreadable(Exception):
    """Nothing behind this point can be read. The arguments are Problem's message and hint."""


@contextmanager
def verified(path: Path, *, max_mib: int = MAX_MIB) -> Iterator[Recording]:
    """Read a recording, all of it, and give it once everything in it was found to be right.

    The bytes verified are the ones given: they are kept apart, so that the file may change meanwhile. Raises FileProblems with
    what is wrong, up to MAX_PROBLEMS of them.
    """
    file = visible(str(path))
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL) as kept:
        check = _Check(file, kept)
        try:
            for line in _lines(path, max_mib * MIB):
                check.line(line)
            check.end()
        except _Unreadable as error:
            message, hint = error.args
            check.problems.append(Problem(file, check.number or None, None, message, None, hint))
        if check.problems:
            raise FileProblems(check.problems)
        yield Recording(check.header["character"], check.header["count"], check.header["root"], kept)


def _lines(path: Path, limit: int) -> Iterator[bytes]:
    """Yield the lines of a file, each without its end, whichever of the formats it has."""
    pending = b""
    total = 0
    for piece in _pieces(path):
        total += len(piece)
        if total > limit:
            raise _Unreadable(
                f"more than {limit // MIB:,} MiB of records", "if you trust it, allow more with --max-size"
            )
        *lines, pending = (pending + piece).split(b"\n")
        for line in (*lines, pending):
            if len(line) > MAX_LINE:
                raise _Unreadable(f"a line of more than {MAX_LINE // MIB} MiB", "this is no recording")
        yield from lines
    if pending:
        raise _Unreadable("the file ends within a line", "it was cut off: get it again")


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file, in pieces of at most 1 MiB."""
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _Unreadable("not a regular file", None)
            start = file.read(len(_MAGIC))
            file.seek(0)
            if start == _MAGIC:
                yield from _unpacked(file)
            elif start[:1] == b"{":
                while piece := file.read(_CHUNK):
                    yield piece
            else:
                what = (
                    "the file is empty" if not start else "not a recording: neither Zstandard nor JSON lines"
                )
                raise _Unreadable(what, "charforge record export writes one")
    except OSError as error:
        raise _Unreadable(f"cannot be read: {error.strerror}", None) from error


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    try:
        while not decompressor.eof:
            data = b""
            if decompressor.needs_input:
                data = file.read(_CHUNK)
                if not data:
                    raise _Unreadable("the compressed data ends too early", "it was cut off: get it again")
            yield decompressor.decompress(data, _CHUNK)
    except zstd.ZstdError as error:
        raise _Unreadable(f"the compressed data is damaged ({error})", "get it again") from error
    if decompressor.unused_data or file.read(1):
        raise _Unreadable("something follows the end of the compressed data", "get it again")


class _Check:
    """Takes the lines of a recording one after another, and collects what is wrong with them."""

    def __init__(self, file: str, kept: IO[bytes]) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.number = 0
        self.header: dict[str, Any] = {}
        self._kept = kept
        self._hasher = hashlib.sha256()
        self._last = ""

    def line(self, line: bytes) -> None:
        self.number += 1
        if self.number == 1:
            self.header = _header(line)
            return
        problem = self._problem(line)
        if problem is not None:
            self.problems.append(Problem(self.file, self.number, None, problem))
            if len(self.problems) >= MAX_PROBLEMS:
                raise _Unreadable("too much is wrong here: the rest was not read", None)
        self._hasher.update(line + b"\n")
        self._kept.write(line + b"\n")

    def _problem(self, line: bytes) -> str | None:
        try:
            data = _parsed(line)
        except ValueError as error:
            return str(error)
        if not isinstance(data, dict) or set(data) != {"action", "digest", "record", "reply"}:
            return "expected an object with action, digest, record and reply"
        found = (
            _action_problem(data["action"]) or _reply_problem(data["reply"]) or _facts_problem(data["record"])
        )
        if found is not None:
            return found
        try:
            action = Action(**data["action"])
            again = Observation(action, canonical(data["reply"]), data["record"]).line()
        except ValueError as error:
            return str(error)
        if data["digest"] != action.digest:
            return f"the digest is not that of the action, which is {action.digest[:12]}…"
        if again != line + b"\n":
            return "not in canonical form"
        earlier, self._last = self._last, max(self._last, action.digest)
        if action.digest == earlier:
            return "the same call as before"
        return None if action.digest > earlier else "not sorted by digest"

    def end(self) -> None:
        """Compare the whole with what the first line says of it."""
        if not self.header:
            raise _Unreadable("the file is empty", "charforge record export writes one")
        count = self.number - 1
        if count != self.header["count"]:
            self.number = 1
            raise _Unreadable(
                f"there should be {self.header['count']:,} replies, and there are {count:,}", "get it again"
            )
        header = {key: value for key, value in self.header.items() if key != "root"}
        if not self.problems and _root(header, self._hasher.hexdigest()) != self.header["root"]:
            self.number = 1
            raise _Unreadable(
                "the replies are not those that its root digest names",
                "it was changed or damaged: get it again",
            )


def _header(line: bytes) -> dict[str, Any]:
    """Return the first line's facts. Raises _Unreadable: what comes after it means nothing without it."""
    try:
        header = _parsed(line)
    except ValueError as error:
        raise _Unreadable(f"not a recording: {error}", "charforge record export writes one") from error
    if not isinstance(header, dict) or "charforge_recording" not in header:
        raise _Unreadable("not a recording", "charforge record export writes one")
    version = header["charforge_recording"]
    if _whole(version) and version > VERSION:
        raise _Unreadable("written by a newer CharForge", "upgrade CharForge")
    right = (
        set(header) == {"character", "charforge_recording", "count", "root"}
        and version == VERSION
        and isinstance(header["character"], str)
        and _whole(header["count"])
        and _hex(header["root"])
        and canonical(header) == line
    )
    if not right:
        raise _Unreadable("the first line is not that of a recording", "get it again")
    return header


def _parsed(line: bytes) -> Any:
    """Return a line's JSON. Raises ValueError, with what is wrong, also for a key that comes twice and for deep nesting."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key comes twice")
        return found

    def number(text: str) -> int:
        if len(text) > 17:
            raise ValueError("a number too large for JSON")
        return int(text)

    def constant(text: str) -> None:
        raise ValueError(f"{text} is no JSON")

    try:
        value = json.loads(line.decode(), object_pairs_hook=unique, parse_int=number, parse_constant=constant)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} in column {error.colno:,}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level, depth = [value], 0
    while level := [
        inner
        for each in level
        if isinstance(each, dict | list)
        for inner in (each.values() if isinstance(each, dict) else each)
    ]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
    return value


# --- What a call, a reply and its facts may be -----------------------------------------------------------------------


def _action_problem(body: Any) -> str | None:
    if not isinstance(body, dict) or set(body) != {"kind", "version", "params", "inputs"}:
        return "the action is no object with kind, version, params and inputs"
    if body["kind"] != "call" or body["inputs"] != {}:
        return "the action is no model call"
    if not _whole(body["version"]) or body["version"] < 1:
        return "the action's version is no whole number"
    params = body["params"]
    if not isinstance(params, dict) or set(params) != set(_FIELDS):
        wanted = set(params) ^ set(_FIELDS) if isinstance(params, dict) else set(_FIELDS)
        return f"the call's parameters are not those of a request: {visible(', '.join(sorted(wanted)))[:100]}"
    for name, fits in _FIELDS.items():
        if not fits(params[name]):
            return f"the call's {name} is not what a request has there"
    return (
        "the call has not exactly one of messages and prompt"
        if ((params["messages"] is None) == (params["prompt"] is None))
        else None
    )


def _reply_problem(reply: Any) -> str | None:
    if not isinstance(reply, dict) or set(reply) != {"text", "finish_reason"}:
        return "the reply is no object with text and finish_reason"
    if not isinstance(reply["text"], str):
        return "the reply's text is no text"
    if reply["finish_reason"] not in FINISH_REASONS:
        return f"the reply's finish_reason is none of {', '.join(FINISH_REASONS)}"
    return None


def _facts_problem(facts: Any) -> str | None:
    if not isinstance(facts, dict) or set(facts) - set(FACTS):
        return f"the record is no object with some of {', '.join(FACTS)}"
    right = (
        all(_whole(facts.get(key, 0)) for key in ("prompt_tokens", "completion_tokens"))
        and _number(facts.get("cost", 0))
        and facts.get("cost", 0) >= 0
        and _text(facts.get("stage", ""))
        and len(facts.get("stage", "")) <= 200
        and facts.get("stage", "").isprintable()
    )
    return None if right else "the record holds something else than tokens, cost and stage"


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INTEGER


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_INTEGER


def _hex(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(message, list) and len(message) == 2 and all(map(_text, message)) for message in value
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: _text(value) and value != "",
    "weights": _or_none(_hex),
    "messages": _or_none(_messages),
    "prompt": _or_none(_text),
    "schema": _or_none(lambda value: isinstance(value, dict)),
    "max_tokens": lambda value: _whole(value) and value >= 1,
    "temperature": _number,
    "top_p": _or_none(_number),
    "repetition_penalty": _or_none(_number),
    "stop": lambda value: isinstance(value, list) and all(map(_text, value)),
    "seed": _or_none(lambda value: _number(value) and isinstance(value, int)),
    "draw": _whole,
}
"""What each field of a request may be, as JSON. A test holds this to `Request`."""


# --- Into a store ----------------------------------------------------------------------------------------------------


async def add(store: Store, claims: Claims, recording: Recording) -> Added:
    """Add the replies of a recording to calls that have none here. Nothing is ever replaced."""
    added = Added()
    group: list[Observation] = []
    for each in recording:
        group.append(each)
        if len(group) == _GROUP:
            await asyncio.gather(*(_add(store, claims, one, recording.root, added) for one in group))
            group.clear()
    await asyncio.gather(*(_add(store, claims, one, recording.root, added) for one in group))
    return added


async def _add(store: Store, claims: Claims, each: Observation, root: str, added: Added) -> None:
    # A build that is making this call right now is waited for: its reply was paid for.
    async with claims.hold(each.action.digest):
        packed = store.pack({"reply": each.reply})
        trace = store.find(each.action.digest)
        if trace is not None:
            same = trace.outputs == packed.outputs
            added.known += same
            added.differs += not same
            return
        await store.record(each.action, packed, {**each.facts, "imported": root}).landed()
        added.added += 1
