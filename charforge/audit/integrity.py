"""Integrity: every byte that the lock reaches is read and held against its name. Modes and times do not count.

Large files are hashed by threads (hashlib lets others run meanwhile), each once whatever refers to it. What is missing is not
checkable, what is other than its name says is divergent; both are told with the stage and the output or call they belong to.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charforge.asking import tally
from charforge.audit.finding import BIT_IDENTICAL, DIVERGENT, NOT_CHECKABLE, Difference, Level, Result
from charforge.audit.pieces import Manifest, Pieces, manifest
from charforge.engine.digest import of_bytes
from charforge.engine.errors import Damaged
from charforge.engine.graph import Source
from charforge.engine.lock import Line, Lock, observations_root
from charforge.recorded import Observation

NAME = "integrity"

_BUFFER = 4 << 20
_MANIFEST = 64 << 20
"""More bytes list no folder's files."""
_SHOWN = 12
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Read:
    """What reading a blob came to.

    `problem` is None where its bytes are right; else they are wrong, and `found` is their digest where they could be read to the end.
    `where` says who had it; None: nobody, or it cannot be read (`problem` says why).
    """

    where: str | None = None
    problem: str | None = None
    found: str | None = None
    size: int = 0
    lines: int | None = None

    @property
    def right(self) -> bool:
        """Say whether the bytes were there and are the right ones."""
        return self.where is not None and self.problem is None


@dataclass(frozen=True, slots=True)
class _Piece:
    """A blob that a stage needs: its digest, what it is there, and its size where something says that."""

    digest: str
    what: str
    size: int | None = None


@dataclass(slots=True)
class _Stage:
    """What was found of a stage so far."""

    pieces: list[_Piece] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: str | None = None
    checked: int = 0

    def result(self, kind: str) -> Result:
        """Return it as a finding."""
        why = "; ".join(each for each in (_absent(self.missing), self.unknown) if each) or None
        verdict = DIVERGENT if self.differences else NOT_CHECKABLE if why else BIT_IDENTICAL
        return Result(kind, verdict, self.checked, self.differences, why)


def integrity(lock: Lock, pieces: Pieces, sources: Iterable[Source] = ()) -> Level:
    """Read everything that a lock reaches. `sources` are the files of the checkout, which may be the inputs that it names."""
    blobs = _Blobs(pieces, {each.digest: each.data for each in sources}, _records(lock))
    stages = {kind: _Stage(list(_named(line, lock))) for kind, line in lock.stages.items()}
    replies = _Replies(lock, pieces)
    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool:
        blobs.read({piece.digest for each in stages.values() for piece in each.pieces}, pool)
        inner = {kind: list(_inside(line, blobs, stages[kind])) for kind, line in lock.stages.items()}
        blobs.read({piece.digest for each in inner.values() for piece in each}, pool)
        # Calls are many and small, and in the database: read here, while the threads hash.
        for kind, line in lock.stages.items():
            replies.check(kind, line, stages[kind])
        blobs.finish()
    for kind, line in lock.stages.items():
        each = stages[kind]
        if not any(blobs[digest].where or blobs[digest].problem for digest in line.outputs.values()):
            each.missing.append("its outputs" + ("" if pieces.reader else " (there is no store)"))
            each.pieces = [piece for piece in each.pieces if not piece.what.startswith("output ")]
        for piece in [*each.pieces, *inner[kind]]:
            _judge(piece, blobs[piece.digest], each)
        _counts(line, blobs, each)
        _contradicted(line, pieces, each)
    facts = {
        "store": pieces.reader is not None,
        "recording": None if pieces.recording is None else pieces.recording.root,
        "blobs": blobs.right,
        "bytes": blobs.bytes,
        "replies": replies.right,
    }
    return Level(NAME, [each.result(kind) for kind, each in stages.items()], facts)


# -- what a stage needs ----------------------------------------------------------------------------------------------


def _named(line: Line, lock: Lock) -> Iterator[_Piece]:
    made = {digest for each in lock.stages.values() for digest in each.outputs.values()}
    for name, digest in line.outputs.items():
        yield _Piece(digest, f"output {name}")
    for name, digest in line.inputs.items():
        if digest not in made:  # read where it is an output
            yield _Piece(digest, f"input {name}")


def _records(lock: Lock) -> set[str]:
    return {
        digest
        for line in lock.stages.values()
        for name, digest in line.outputs.items()
        if name.endswith(".jsonl")
    }


def _inside(line: Line, blobs: _Blobs, stage: _Stage) -> Iterator[_Piece]:
    """Yield the files of the folders among a stage's outputs."""
    for name, digest in line.outputs.items():
        if name.endswith("/") and blobs[digest].right:
            files = blobs.manifest(digest)
            if files is None:
                words = f"output {name}: blob {digest[:_SHOWN]}… is no list of a folder's files"
                stage.differences.append(Difference(f"output {name}", words, digest))
            for path, entry in sorted((files or {}).items()):
                yield _Piece(entry["digest"], f"output {name}{path}", entry["size"])


def _judge(piece: _Piece, read: Read, stage: _Stage) -> None:
    if read.where is None:
        stage.missing.append(piece.what if read.problem is None else f"{piece.what} ({read.problem})")
        return
    stage.checked += 1
    if read.problem is not None:
        said = f"{piece.what}: blob {piece.digest[:_SHOWN]}… {read.problem}"
        stage.differences.append(Difference(f"blob {piece.digest}", said, piece.digest, read.found))
    elif piece.size is not None and piece.size != read.size:
        said = f"{piece.what}: {read.size:,} bytes, and its folder's list says {piece.size:,}"
        stage.differences.append(Difference(piece.what, said, str(piece.size), str(read.size)))


def _counts(line: Line, blobs: _Blobs, stage: _Stage) -> None:
    """Hold the numbers of records against the bytes."""
    for name, digest in line.outputs.items():
        read = blobs[digest]
        if not name.endswith(".jsonl") or not read.right:
            continue
        said = line.counts.get(name)
        if said != read.lines:
            words = (
                f"output {name} has {read.lines} records, the lock counts {'none' if said is None else said}"
            )
            stage.differences.append(
                Difference(f"counts {name}", words, None if said is None else str(said), str(read.lines))
            )


def _contradicted(line: Line, pieces: Pieces, stage: _Stage) -> None:
    """Say where those who know a stage's action know other outputs of it, and none like the lock's."""
    traces = pieces.traces(line.action)
    known = [("store", trace.outputs) for trace in traces]
    if line.action in pieces.observed:
        kept = pieces.observed[line.action].outputs
        known.append(("recording", {name: each.digest for name, each in kept.items()}))
    for who in ("store", "recording"):
        theirs = [outputs for whose, outputs in known if whose == who]
        if not theirs or any(dict(outputs) == dict(line.outputs) for outputs in theirs):
            continue
        for name in sorted({*line.outputs, *theirs[0]}):
            expected, found = line.outputs.get(name), theirs[0].get(name)
            if expected != found:
                words = f"output {name}: the lock names {_short(expected)}, the {who} has {_short(found)} of this action"
                stage.differences.append(Difference(f"output {name}", words, expected, found))


# -- blobs -----------------------------------------------------------------------------------------------------------


class _Blobs:
    """Reads blobs, each once, and says what became of it."""

    def __init__(self, pieces: Pieces, sources: Mapping[str, bytes], counted: set[str]) -> None:
        self._counted = counted
        self._pieces = pieces
        self._sources = sources
        self._read: dict[str, Read] = {}
        self._running: dict[str, Future[Read]] = {}
        self._manifests: dict[str, Manifest | None] = {}

    def read(self, digests: Iterable[str], pool: ThreadPoolExecutor) -> None:
        """Begin to read these: large files in other threads, all else at once."""
        files: list[tuple[str, Path, os.stat_result]] = []
        for digest in sorted(set(digests) - set(self._read) - set(self._running)):
            path = self._pieces.path(digest)
            try:
                status = None if path is None else path.stat(follow_symlinks=False)
            except OSError:
                status = None
            if path is None or status is None:
                self._read[digest] = self._small(digest)
            else:
                files.append((digest, path, status))
        # In the order of the disk, as far as inode numbers tell. But first what would keep one thread busy after the others are done.
        whole = sum(status.st_size for _, _, status in files)
        big = whole // 16
        files.sort(
            key=lambda each: (
                each[2].st_size < big,
                -each[2].st_size * (each[2].st_size >= big),
                each[2].st_ino,
            )
        )
        for digest, path, _ in files:
            self._running[digest] = pool.submit(_hashed, path, digest, counted=digest in self._counted)

    def finish(self) -> None:
        """Wait for all that was begun."""
        for digest in list(self._running):
            self[digest]

    def __getitem__(self, digest: str) -> Read:
        """What reading a blob came to."""
        if digest in self._running:
            read = self._running.pop(digest).result()
            # A file that went, or may not be read: somebody else may have the bytes.
            self._read[digest] = self._elsewhere(digest, read) if read.where is None else read
        return self._read[digest]

    def manifest(self, digest: str) -> Manifest | None:
        """Return what a folder consists of, None where that is not known."""
        if digest not in self._manifests:
            path = self._pieces.path(digest)
            large = path is not None and path.stat().st_size > _MANIFEST
            data = None if large else self._pieces.blob(digest)
            self._manifests[digest] = None if data is None else manifest(data)
        return self._manifests[digest]

    @property
    def right(self) -> int:
        """How many blobs were found to be right."""
        return sum(read.right for read in self._read.values())

    @property
    def bytes(self) -> int:
        """How many bytes these have."""
        return sum(read.size for read in self._read.values() if read.right)

    def _small(self, digest: str) -> Read:
        reader = self._pieces.reader
        if reader is not None and reader.has(digest):
            try:
                return _of(reader.read(digest), "store")
            except Damaged:
                return Read("store", "is in the store with other bytes")
        return self._elsewhere(digest, Read())

    def _elsewhere(self, digest: str, missing: Read) -> Read:
        if digest in self._sources and of_bytes(self._sources[digest]) == digest:
            return _of(self._sources[digest], "checkout")
        # Of the recording: the store has it not, or not readable.
        data = self._pieces.kept.get(digest)
        return missing if data is None else _of(data, "recording")


def _of(data: bytes, where: str) -> Read:
    return Read(where, size=len(data), lines=data.count(b"\n"))


def _hashed(path: Path, digest: str, *, counted: bool) -> Read:
    """Read a file to its end. Whatever lies there: a link is followed, what is no file is none."""
    hasher, size, lines = hashlib.sha256(), 0, 0
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    try:
        with open(path, "rb", buffering=0, opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return Read("store", "is in the store as something else than a file")
            while count := file.readinto(buffer):
                hasher.update(view[:count])
                size += count
                if counted:  # keeps other threads waiting: not for weights
                    lines += buffer.count(b"\n", 0, count)
    except OSError as error:
        return Read(problem=f"cannot be read: {error.strerror}")
    if hasher.hexdigest() != digest:
        return Read("store", "is in the store with other bytes", hasher.hexdigest(), size)
    return Read("store", size=size, lines=lines)


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for whoever might write to a pipe that was put in its place."""
    return os.open(path, flags | os.O_NONBLOCK)


# -- replies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reply:
    """What counts of an observation: the digest of its reply, whom it asked, and the facts beside it."""

    digest: str
    model: str
    weights: str | None
    facts: Mapping[str, Any]


class _Replies:
    """Holds the replies at hand against what the lock says was observed."""

    def __init__(self, lock: Lock, pieces: Pieces) -> None:
        self._right: set[str] = set()
        self._character = lock.character
        self._pieces = pieces
        self._recorded = {each.action.digest: _reply(each) for each in pieces.recording or ()}

    @property
    def right(self) -> int:
        """How many calls' replies are those that the lock names. Two stages may make the same call."""
        return len(self._right)

    def check(self, kind: str, line: Line, stage: _Stage) -> None:
        """Hold a stage's replies against its line: that they are there, their root, the models asked, tokens and cost."""
        calls = self._pieces.calls(line.action, line.outputs)
        if calls is None:
            trace = self._pieces.trace(line.action, line.outputs)
            noted = None if trace is None else str(trace.record.get("calls"))
            if noted is not None and noted in self._pieces.damaged:
                words = f"the list of its calls: blob {noted[:_SHOWN]}… is in the store with other bytes"
                stage.differences.append(Difference(f"blob {noted}", words, noted))
            self._of_the_recording(kind, line, stage)
            return
        found: dict[str, _Reply] = {}
        missing = 0
        for call in calls:
            reply = self._stored(call, stage) or self._recorded.get(call)
            if reply is None:
                missing += 1
            else:
                found[call] = reply
        stage.checked += len(found)
        if missing:
            stage.missing.append(f"the replies to {missing:,} of {len(calls):,} calls")
        elif not stage.differences:  # a damaged reply was told, and is why the root is another
            self._compare(line, found, stage, "the replies here")
            if found and all(call in self._recorded for call in calls):
                self._other(found, stage)

    def _stored(self, call: str, stage: _Stage) -> _Reply | None:
        reader = self._pieces.reader
        assert reader is not None
        try:
            found = self._pieces.observe(call)
        except Damaged as error:
            if reader.has(error.digest):
                words = f"the reply to call {call[:_SHOWN]}…: blob {error.digest[:_SHOWN]}… is in the store with other bytes"
                stage.differences.append(Difference(f"blob {error.digest}", words, error.digest))
            return None
        return None if found is None else _reply(found)

    def _of_the_recording(self, kind: str, line: Line, stage: _Stage) -> None:
        """Without a list of the stage's calls: those recorded under its name are its calls if they are as many."""
        wanted = line.observations.get("count", 0)
        if not wanted:
            return
        under = f"{self._character}/{kind}"
        found = {call: each for call, each in self._recorded.items() if each.facts.get("stage") == under}
        if len(found) == wanted:
            stage.checked += len(found)
            self._compare(line, found, stage, "the recorded replies")
        elif not found:
            stage.missing.append(f"the replies to its {wanted:,} calls")
        else:
            stage.unknown = f"which recorded replies its {wanted:,} calls got is known to a store only (the replay finds it out)"

    def _compare(self, line: Line, found: Mapping[str, _Reply], stage: _Stage, whose: str) -> None:
        root = observations_root((call, each.digest) for call, each in found.items()) if found else None
        said = line.observations.get("root")
        if (root, len(found)) != (said, line.observations.get("count", 0)):
            words = f"{whose} are {len(found):,} with root {_short(root)}, the lock names {line.observations.get('count', 0):,} with root {_short(said)}"
            stage.differences.append(Difference("observations", words, said, root))
            return
        self._right.update(found)
        models = {each.model: each.weights for each in found.values()}
        for model in sorted({*models, *line.models}):
            if (model in models, models.get(model)) != (model in line.models, line.models.get(model)):
                words = _asked(model, line.models, models)
                stage.differences.append(
                    Difference("models", words, line.models.get(model), models.get(model))
                )
        _usage(line, found, stage)

    def _other(self, found: Mapping[str, _Reply], stage: _Stage) -> None:
        """Say where the recording has other replies than the store, whose replies are the lock's."""
        others = [call for call, each in found.items() if self._recorded[call].digest != each.digest]
        if others:
            words = f"the recording has other replies than the store to {len(others):,} calls, the first of them {others[0][:_SHOWN]}…"
            first = found[others[0]].digest, self._recorded[others[0]].digest
            stage.differences.append(Difference("recording", words, *first))


def _reply(each: Observation) -> _Reply:
    params = each.action.params
    return _Reply(of_bytes(each.reply), str(params.get("model")), params.get("weights"), each.facts)


def _asked(model: str, said: Mapping[str, str | None], found: Mapping[str, str | None]) -> str:
    if model not in said:
        return f"models: the calls asked {model}, which the lock does not name"
    if model not in found:
        return f"models: the lock names {model}, which no call asked"
    return (
        f"models: {model} has weights {_short(said[model])} in the lock, {_short(found[model])} in the calls"
    )


def _usage(line: Line, found: Mapping[str, _Reply], stage: _Stage) -> None:
    """Hold tokens and cost against what is recorded beside the replies, unless a call was asked for, and counted, twice."""
    sums: dict[str, dict[str, Any]] = {}
    for each in found.values():
        tally(sums, each.model, each.facts)
    for model, now in sorted(sums.items()):
        used = line.usage.get(model, {})
        if used.get("calls", 0) > now["calls"]:
            continue
        for key in sorted({*now, *used} - {"lost"}):
            said, is_ = used.get(key), now.get(key)
            # Costs are sums of floats, in another order here.
            if said is None or is_ is None or abs(said - is_) > 1e-5:
                shown = None if is_ is None else str(round(is_, 6))
                words = f"usage: {model} {key} {_or_nothing(said)} in the lock, {_or_nothing(shown)} beside the replies"
                stage.differences.append(
                    Difference("usage", words, None if said is None else str(said), shown)
                )


# -- words -----------------------------------------------------------------------------------------------------------


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:_SHOWN]}…"


def _or_nothing(value: object) -> str:
    return "nothing" if value is None else str(value)


def _absent(missing: list[str]) -> str | None:
    if not missing:
        return None
    more = len(missing) - _NAMED
    return f"not here: {', '.join(missing[:_NAMED])}" + (f" and {more:,} more" if more > 0 else "")
