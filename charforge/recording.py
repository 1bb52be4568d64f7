"""Recordings: what was observed and cannot be computed, in a file, to build and audit elsewhere without a key, a network or a bill.

One JSON line of facts about the file, then one for each reply, and one for each stage that was trained or downloaded, sorted by the
digest of their actions, all in canonical form and so without a choice: the same facts give the same bytes. In a `.zst` file
they are one Zstandard frame.

    {"character":"ada","charforge_recording":2,"count":2,"root":"<64 hex digits>","stages":1}
    {"action":{…},"digest":"<64 hex digits>","record":{"prompt_tokens":812,…},"reply":{"finish_reason":"stop","text":"…"}}
    {"action":{…},"digest":"<64 hex digits>","outputs":{"train_summary.json":{"digest":"…","text":"…"},…},"record":{"seconds":240,…}}

Of a stage the small outputs are there as they are, and of a folder of weights what it consists of. A recording comes from a stranger: it is read within limits, all of it is verified before any of it is believed, and what it
says is data. Nothing proves that a model ever said it: who imports a recording trusts its maker for that.
Knows calls, actions and the store; no spec, and of a stage what its action says.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
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
from charforge.recorded import (
    MAX_LINE,
    MIB,
    Observation,
    Observed,
    is_hex,
    is_whole,
    kept_of,
    observation_problem,
    observed_problem,
    parsed,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from charforge.engine.claims import Claims
    from charforge.engine.store import Store

VERSION = 2
"""1 had replies only; it is still read."""
SUFFIXES = (".jsonl.zst", ".jsonl")
MAX_MIB = 4096
"""Of a recording, decompressed, unless the user allows more. 1,600 scenes with their dialogues take about 40."""
MAX_PROBLEMS = 20
"""After which reading ends: the file is another thing than a recording."""
_DOMAINS = {1: b"charforge/recording/1\n", 2: b"charforge/recording/2\n"}
_MAGIC = b"\x28\xb5\x2f\xfd"
_WINDOW_LOG = 27
"""Of the largest window that a frame may ask memory for: 128 MiB. What we write needs 2 MiB."""
_CHUNK = MIB
_LEVEL = 9
_SPOOL = 64 * MIB
_GROUP = 256


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording that was verified. `count` are its replies, `stages` its observed stages; `root` names all of its content."""

    character: str
    count: int
    stages: int
    root: str
    _lines: IO[bytes]

    def __iter__(self) -> Iterator[Observation]:
        """Yield the replies it holds, sorted by digest."""
        for data in self._data():
            if "reply" in data:
                yield Observation(Action(**data["action"]), canonical(data["reply"]), data["record"])

    def observed(self) -> Iterator[Observed]:
        """Yield the observed stages it holds, sorted by digest."""
        for data in self._data():
            if "outputs" in data:
                outputs = {name: kept_of(name, entry) for name, entry in data["outputs"].items()}
                yield Observed(Action(**data["action"]), outputs, data["record"])

    def _data(self) -> Iterator[dict[str, Any]]:
        self._lines.seek(0)
        for line in self._lines:
            yield json.loads(line)


@dataclass(slots=True)
class Added:
    """What an import did. `differs` counts calls that had another reply here already, which stays the one in use."""

    added: int = 0
    known: int = 0
    differs: int = 0


# --- Writing ---------------------------------------------------------------------------------------------------------


def write(
    path: Path, character: str, observations: Iterable[Observation], observed: Iterable[Observed] = ()
) -> tuple[int, str]:
    """Write a recording, atomically, and return how many replies it holds, and its root digest.

    `observations` and `observed` come sorted by digest. Raises CharForgeError for a name that says no format, and where one cannot be
    written down; OSError as it comes.
    """
    packed = _packed(path)
    if not path.parent.is_dir():
        raise CharForgeError(f"{path}: there is no folder {path.parent}", "make it, and rerun")
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL) as body:
        both: tuple[Iterable[Observation | Observed], ...] = (observations, observed)
        merged = heapq.merge(*both, key=lambda one: one.action.digest)
        hasher, count, stages, last = hashlib.sha256(), 0, 0, ""
        for each in merged:
            try:
                line = each.line()
            except ValueError as error:
                what = f"{each.action.kind} {each.action.digest[:12]}"
                raise CharForgeError(f"{what} cannot be recorded: {error}") from error
            assert each.action.digest > last
            last = each.action.digest
            count += isinstance(each, Observation)
            stages += isinstance(each, Observed)
            hasher.update(line)
            body.write(line)
        header = {
            "character": character,
            "charforge_recording": VERSION,
            "count": count,
            "stages": stages,
        }
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
    domain = _DOMAINS[header["charforge_recording"]]
    return hashlib.sha256(domain + canonical(dict(header)) + b"\n" + lines.encode()).hexdigest()


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
        header = check.header
        yield Recording(header["character"], header["count"], header.get("stages", 0), header["root"], kept)


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
        mode = path.stat().st_mode  # before opening: a pipe would block
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise _Unreadable("not a regular file", None)
        with path.open("rb") as file:
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
        self._replies = self._stages = 0

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
            data = parsed(line)
        except ValueError as error:
            return str(error)
        keys = set(data) if isinstance(data, dict) else set()
        stage = keys == {"action", "digest", "outputs", "record"} and self.header["charforge_recording"] > 1
        if not stage and keys != {"action", "digest", "record", "reply"}:
            return "expected an object with action, digest, record and reply"
        found = observed_problem(data) if stage else observation_problem(data)
        if found is not None:
            return found
        try:
            action = Action(**data["action"])
            # A stage's line was held against its canonical form by what it consists of.
            again = (
                canonical(data) + b"\n"
                if stage
                else Observation(action, canonical(data["reply"]), data["record"]).line()
            )
        except ValueError as error:
            return str(error)
        self._stages += stage
        self._replies += not stage
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
        lines, told = self.number - 1, self.header["count"] + self.header.get("stages", 0)
        if lines != told or (not self.problems and self._replies != self.header["count"]):
            self.number = 1
            what = "replies" if not self.header.get("stages") else "replies and stages"
            raise _Unreadable(f"there should be {told:,} {what}, and there are {lines:,}", "get it again")
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
        header = parsed(line)
        same = canonical(header) == line
    except ValueError as error:
        raise _Unreadable(f"not a recording: {error}", "charforge record export writes one") from error
    if not isinstance(header, dict) or "charforge_recording" not in header:
        raise _Unreadable("not a recording", "charforge record export writes one")
    version = header["charforge_recording"]
    if is_whole(version) and version > VERSION:
        raise _Unreadable("written by a newer CharForge", "upgrade CharForge")
    keys = {"character", "charforge_recording", "count", "root"} | ({"stages"} if version == 2 else set())
    right = (
        set(header) == keys
        and version in {1, 2}
        and is_whole(header.get("stages", 0))
        and isinstance(header["character"], str)
        and is_whole(header["count"])
        and is_hex(header["root"])
        and same
    )
    if not right:
        raise _Unreadable("the first line is not that of a recording", "get it again")
    return header


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
