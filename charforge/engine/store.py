"""The store: blobs under their own SHA-256, and traces that say which action gave which blobs.

Small blobs and all traces live in one SQLite file in WAL mode with full synchronisation; larger blobs are read-only files
under `objects/`. A blob is durable before any trace names it. Writes of traces go through one writer thread that commits
whatever has queued up while the last commit was being synchronised, so that a thousand calls share a few fsyncs
and each still is durable before it counts as done.

Output names that end in `/` are trees: the blob is a manifest `{path: {digest, size}}` whose files are blobs too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import Any, Self

from charforge.engine import database, disk, opening
from charforge.engine.digest import ACTION_DOMAIN, Action, canonical, of_bytes
from charforge.engine.disk import copy_hashed, explained
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.explain import readable
from charforge.engine.names import is_digest, is_manifest, is_name, is_outputs, is_record, parsed
from charforge.engine.writer import INSERT_ACTION, INSERT_BLOB, INSERT_TRACE, Statement, Write, Writer

INLINE_LIMIT = 64 * 1024
"""Blobs up to this many bytes lie in SQLite: measured, a row costs a tenth of a file's create, fsync and rename."""

# How the canonical body of a call begins, in 27 bytes: it has no inputs, and keys are sorted.
_CALL = b'{"inputs":{},"kind":"call",'
_TOGETHER = 500
_FOLDERS = ("objects", "tmp", "trees")
_LATER_FOLDERS = ("damaged", "kept", "receipts")
_EMPTY_LIST = b"[]"
_EMPTY_LISTS_NAME = of_bytes(_EMPTY_LIST)
"""The list of calls of a stage that makes none: known without being kept, so that no loss of it costs a training."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One observation of an action.

    `outputs` maps output name to digest; `record` holds what is not output: times, usage, environment.
    """

    action: str
    observation: int
    outputs: Mapping[str, str]
    record: Mapping[str, Any]


@dataclass(slots=True)
class Packed:
    """Outputs ready to be recorded: large blobs are durable already, small ones travel with the trace."""

    outputs: dict[str, str] = field(default_factory=dict)
    inline: dict[str, bytes] = field(default_factory=dict)


class Store:
    """An open store. One per process and folder; call `close()` (or use it as a context manager)."""

    def __init__(self, root: Path, *, on_durable: Callable[[str], None] | None = None) -> None:
        """Open the store in `root`, creating it. Raises EngineError if it cannot be used.

        `on_durable` is called after each durable write with what was written: tests kill the process there.
        """
        self.root = root
        self._on_durable = on_durable or (lambda _what: None)
        self._verified: set[str] = set()
        self.notes: list[str]
        """What the user should know of how the store was found."""
        with contextlib.ExitStack() as undo, self._explained():
            disk.own_folders(root, _FOLDERS, _LATER_FOLDERS)
            # SQLite does not wait but fails where two processes turn a new file to WAL mode at once.
            with self.alone("open"):
                self.users = undo.enter_context((root / "users").open("a+b"))
                self._db, writing, self.notes = opening.enter(root, self.users, self._explained)
                self._writer = Writer(writing, on_durable=self._on_durable, explained=self._explained)
            undo.pop_all()

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return explained(self.root, self._doubt)

    def _doubt(self) -> None:
        opening.doubt(self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is queued, then let go of files and locks."""
        self._writer.stop()
        self._db.close()
        self.users.close()

    # -- blobs ---------------------------------------------------------------------------------------------------

    def pack(self, outputs: Mapping[str, bytes | Path]) -> Packed:
        """Take a step's outputs. Bytes and files become blobs, folders (names ending in `/`) trees.

        Large blobs are durable when this returns. Files are copied: the caller keeps and removes its own.
        """
        packed = Packed()
        with self._explained():
            for name, value in sorted(outputs.items()):
                folder = not isinstance(value, bytes) and value.is_dir()
                if folder != name.endswith("/"):
                    raise ValueError(f"output {name!r}: a folder's name ends in '/', and no other's does")
                if isinstance(value, bytes):
                    packed.outputs[name] = self._pack_bytes(value, packed.inline)
                elif folder:
                    packed.outputs[name] = self._pack_tree(value, packed.inline)
                else:
                    packed.outputs[name], _ = self._put_file(value)
        return packed

    def _pack_bytes(self, data: bytes, inline: dict[str, bytes]) -> str:
        digest = of_bytes(data)
        if len(data) <= INLINE_LIMIT:
            inline[digest] = data
        elif not disk.same_bytes(self._object(digest), data):
            with self.scratch() as folder:
                temporary = folder / "blob"
                temporary.write_bytes(data)
                self._install(temporary, digest)
        return digest

    def _pack_tree(self, folder: Path, inline: dict[str, bytes]) -> str:
        manifest: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise EngineError(f"{path} is neither a file nor a folder, so it cannot be stored")
            if path.is_file():
                if not is_name(path.relative_to(folder).as_posix()):
                    raise EngineError(f"{str(path)!r} has a name that cannot be stored", "rename it")
                digest, size = self._put_file(path)
                manifest[path.relative_to(folder).as_posix()] = {"digest": digest, "size": size}
        data = canonical(manifest)
        return self._pack_bytes(data, inline)

    def _put_file(self, source: Path) -> tuple[str, int]:
        with self.scratch() as folder:
            temporary = folder / "blob"
            digest, size = copy_hashed(source, temporary)
            # Bytes that rotted under this name give way to those that are at hand.
            if not disk.same_bytes(self._object(digest), temporary):
                self._install(temporary, digest)
        return digest, size

    def _install(self, temporary: Path, digest: str) -> None:
        target = self._object(digest)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            disk.fsync(target.parent.parent)
        disk.read_only(temporary)
        disk.install(temporary, target)
        self._on_durable(f"object {digest}")

    def has(self, digest: str) -> bool:
        """Say whether the blob is there, without reading it."""
        return is_digest(digest) and (
            bool(self._rows("SELECT 1 FROM blobs WHERE digest = ?", digest)) or self._object(digest).exists()
        )

    def read(self, digest: str) -> bytes:
        """Return a blob's bytes, checked against its name. Raises Damaged; the blob is then out of the store."""
        # Twice: another build may just have put right what the first look found.
        data = self._bytes(digest)
        if data is None or of_bytes(data) != digest:
            data = self._bytes(digest)
        if data is None or of_bytes(data) != digest:
            raise self._spoiled(digest, data)
        return data

    def _bytes(self, digest: str) -> bytes | None:
        """Return what lies under a name, None where it cannot be read as bytes."""
        rows = self._rows("SELECT data FROM blobs WHERE digest = ?", digest)
        with self._explained():
            if rows:
                return rows[0][0] if isinstance(rows[0][0], bytes) else None
            try:
                return self._object(digest).read_bytes()
            except FileNotFoundError:
                if digest == _EMPTY_LISTS_NAME:
                    return _EMPTY_LIST
                raise Damaged(digest, "is missing") from None
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return None

    def _spoiled(self, digest: str, found: bytes | None) -> EngineError:
        """Discard a blob whose bytes are not those of its name, and return the error to raise."""
        if found is not None and self._rows("SELECT 1 FROM blobs WHERE digest = ?", of_bytes(found)):
            # Sound bytes under another's name: not they are damaged, but the way to them.
            self._doubt()
            return disk.damaged(self.root, "a row was found under another's name")
        self.discard(digest)
        return Damaged(digest, "cannot be read" if found is None else "does not hash to its name")

    def copy(self, digest: str, target: Path) -> None:
        """Write a blob to `target` (which must not exist), checked against its name on the way.

        Raises Damaged, and OSError as it comes: `target` may lie on another disk than the store.
        """
        source = self._object(digest)
        if not source.exists():
            target.write_bytes(self.read(digest))
            return
        for _ in range(2):  # twice, as in `read`
            found, _ = copy_hashed(source, target)
            if found == digest:
                return
            target.unlink()
        self.discard(digest)
        raise Damaged(digest, "does not hash to its name")

    def manifest(self, digest: str) -> dict[str, dict[str, Any]]:
        """Return a tree's `{path: {digest, size}}`. Raises Damaged."""
        manifest: dict[str, dict[str, Any]] = parsed(self.read(digest))
        if not is_manifest(manifest):
            raise Damaged(digest, "is no list of files")
        return manifest

    def checkout(self, digest: str) -> Path:
        """Return a folder with a tree's files under their names, to be read and never written.

        Every file is checked against its name once a process. Raises Damaged.
        """
        folder = self.root / "trees" / digest
        manifest = self.manifest(digest)
        with self._explained():
            if digest not in self._verified:
                for name in manifest:
                    self._check(self._object(manifest[name]["digest"]), manifest[name]["digest"])
            if not self._laid_out(folder, manifest, known=digest in self._verified):
                with self.scratch() as scratch:
                    laying = scratch / "tree"
                    laying.mkdir()
                    for name, entry in manifest.items():
                        target = laying / name
                        target.parent.mkdir(parents=True, exist_ok=True)
                        # A hard link, if it can be: both names are ours, read-only, and on one file system.
                        disk.link_or_copy(self._object(entry["digest"]), target)
                    with contextlib.suppress(FileNotFoundError):
                        disk.move(folder, scratch / "old")
                    try:
                        disk.move(laying, folder)
                    except OSError:
                        # Another process was quicker.
                        if not self._laid_out(folder, manifest, known=False):
                            raise
            self._verified.add(digest)
        return folder

    def _laid_out(self, folder: Path, manifest: Mapping[str, Mapping[str, Any]], *, known: bool) -> bool:
        """Say whether a checked-out tree is whole: removing one may have been cut short, an object may be a new file.

        `known` says that copies, where there are no links, were held against their names before.
        """
        try:
            for name, entry in manifest.items():
                status = (folder / name).stat()
                if status.st_ino == self._object(entry["digest"]).stat().st_ino:
                    continue
                if status.st_size != entry["size"] or (
                    not known and disk.hashed(folder / name) != entry["digest"]
                ):
                    return False
            return folder.is_dir()
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _check(self, path: Path, digest: str) -> None:
        """Hold an object against its name. Raises Damaged."""
        try:
            if any(disk.hashed(path) == digest for _ in range(2)):  # twice, as in `read`
                return
        except FileNotFoundError:
            raise Damaged(digest, "is missing") from None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        self.discard(digest)
        raise Damaged(digest, "does not hash to its name")

    def discard(self, digest: str) -> None:
        """Take a damaged blob out of the store, so that nothing finds it and it can be made again.

        The bytes of a large one are kept under `damaged/` for whoever wants to know what happened.
        """
        aside = self.root / "damaged"
        disk.own_folder(aside)
        # Not there: it is a small one, or another process was quicker.
        with contextlib.suppress(FileNotFoundError):
            disk.move(self._object(digest), aside / digest)
        self._write([("DELETE FROM blobs WHERE digest = ?", (digest,))]).result()
        if self._rows("SELECT 1 FROM blobs WHERE digest = ?", digest):
            self._doubt()
            raise disk.damaged(self.root, "a row cannot be removed")

    def _object(self, digest: str) -> Path:
        # A store may come from a stranger, and what it says of itself be a path that leads out.
        if not is_digest(digest):
            raise Damaged(str(digest), "is no digest")
        return self.root / "objects" / digest[:2] / digest[2:]

    # -- traces --------------------------------------------------------------------------------------------------

    def find(self, action: str) -> Trace | None:
        """Return the first observation of an action whose outputs are all there; None if there is none."""
        for trace in self.observations(action):
            if self._listed(trace) and all(starmap(self._whole, trace.outputs.items())):
                return trace
        return None

    def lost(self, action: str) -> bool:
        """Say whether an action for which `find` gives nothing had been recorded all the same."""
        return bool(self._rows("SELECT 1 FROM traces WHERE action = ?", action))

    def _whole(self, name: str, digest: str) -> bool:
        if not self.has(digest):
            return False
        if not name.endswith("/"):
            return True
        try:
            return all(
                self._object(entry["digest"]).stat().st_size == entry["size"]
                for entry in self.manifest(digest).values()
            )
        except (Damaged, FileNotFoundError):
            return False

    def _listed(self, trace: Trace) -> bool:
        """Say whether the lists of a stage's calls are there: without them gc and the lock could not find the replies."""
        for key in ("calls", "made"):
            digest = trace.record.get(key, _EMPTY_LISTS_NAME)
            if digest != _EMPTY_LISTS_NAME and not self.has(digest):
                return False
        return True

    def known(self) -> set[bytes]:
        """Return the digests of all actions that were ever recorded, 32 bytes each. Its outputs may be gone or unsound.

        An action whose description is gone is not among them: whoever needs it looks closer, and puts that back.
        """
        with self._explained():
            sql = "SELECT action FROM traces WHERE action IN (SELECT digest FROM actions)"
            found = [action for (action,) in self._db.execute(sql)]
        try:
            return set(map(bytes.fromhex, found))
        except (ValueError, TypeError):
            return {bytes.fromhex(one) for one in found if is_digest(one)}

    def newest(self, action: str) -> int | None:
        """Return the number of an action's last observation, sound or not; None if there never was one."""
        number: int | None = self._rows("SELECT max(observation) FROM traces WHERE action = ?", action)[0][0]
        return number

    def record(
        self, action: Action, packed: Packed, record: Mapping[str, Any], *, first: bool = False
    ) -> Write:
        """Add an observation of `action`. The write is done when blobs and trace are durable.

        `first` says that the caller knows of none before, from `newest`.
        """
        outputs_json = canonical(packed.outputs).decode()
        digest = action.digest
        statements: list[Statement] = [(INSERT_BLOB, item) for item in packed.inline.items()]
        statements.append((INSERT_ACTION, (digest, action.canonical)))
        record_json = json.dumps(record)
        newest = None if first else self.newest(digest)
        observation = 0 if newest is None else newest + 1
        seal = database.seal(digest, observation, outputs_json, record_json)
        row = (digest, observation, outputs_json, record_json, seal)
        statements.append((INSERT_TRACE, row))
        return self._write(statements)

    def restore(self, actions: Iterable[Action], sources: Mapping[str, bytes]) -> Write | None:
        """Put back what actions were described by and read from outside, where that is gone; None if all is there.

        No build misses either, but an audit does.
        """
        known = dict(self._of("SELECT digest, body FROM actions", [action.digest for action in actions]))
        lost = [action for action in actions if known.get(action.digest) != action.canonical]
        there = {digest for (digest,) in self._of("SELECT digest FROM blobs", list(sources))}
        missing = {digest: sources[digest] for digest in sources.keys() - there if not self.has(digest)}
        if not lost and not missing:
            return None
        statements: list[Statement] = [(INSERT_BLOB, item) for item in self.pack(missing).inline.items()]
        statements += [(INSERT_ACTION, (action.digest, action.canonical)) for action in lost]
        return self._write(statements)

    def _of(self, select: str, digests: Sequence[str]) -> Iterator[Any]:
        """Return the rows of these digests, whose number has no limit."""
        for start in range(0, len(digests), _TOGETHER):
            some = digests[start : start + _TOGETHER]
            yield from self._rows(f"{select} WHERE digest IN ({','.join('?' * len(some))})", *some)

    def action_body(self, action: str) -> dict[str, Any] | None:
        """Return the recorded `{kind, version, params, inputs}` of an action digest, None if there is none (or no more).

        One that is damaged is then out of the store.
        """
        rows = self._rows("SELECT body FROM actions WHERE digest = ?", action)
        if not rows:
            return None
        if not _names(action, rows[0][0]):
            self.discard_body(action)
            return None
        body: dict[str, Any] = json.loads(rows[0][0])
        return body

    def discard_body(self, action: str) -> None:
        """Take an action's damaged description out of the store, so that who knows it puts it back."""
        self._write([("DELETE FROM actions WHERE digest = ?", (action,))]).result()

    def unlist(self, trace: Trace) -> None:
        """Have a stage run again whose outputs are there, but not all of its calls: those that are sound it replays."""
        if (calls := trace.record.get("calls")) is not None:
            self.discard(calls)

    def call_bodies(self) -> Iterator[dict[str, Any]]:
        """Yield the bodies of recorded calls, those recorded last first."""
        sql = "SELECT digest, body FROM actions WHERE substr(body, 1, 27) = ? ORDER BY rowid DESC"
        with self._explained():
            for digest, body in self._db.execute(sql, (_CALL,)):
                if _names(digest, body):
                    yield json.loads(body)

    def call_records(self, param: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield (a parameter, the record beside the reply) of recorded calls, those recorded last first."""
        sql = (
            "SELECT json_extract(CAST(body AS TEXT), ?), action, outputs, record, seal"
            " FROM actions JOIN traces ON action = digest"
            " WHERE substr(body, 1, 27) = ? AND json_valid(CAST(body AS TEXT)) AND observation = 0"
            " ORDER BY actions.rowid DESC"
        )
        with self._explained():
            for value, action, outputs, record, seal in self._db.execute(sql, (f"$.params.{param}", _CALL)):
                if database.seal(action, 0, outputs, record) == seal:
                    yield value, json.loads(record)

    def last(self, stage: str) -> tuple[str, list[Any]] | None:
        """Return which action a stage last came from, and why it had run then (reasons as data)."""
        rows = self._rows("SELECT action, reasons FROM stages WHERE name = ?", stage)
        return (str(rows[0][0]), readable(rows[0][1])) if rows else None

    def last_action(self, stage: str) -> str | None:
        """Return which action a stage last came from."""
        rows = self._rows("SELECT action FROM stages WHERE name = ?", stage)
        return rows[0][0] if rows else None

    def set_last(self, stage: str, action: str, reasons: list[Any]) -> Write:
        """Remember which action a stage came from, and why it ran."""
        values = (stage, action, json.dumps(reasons), time.time())
        return self._write([("INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?)", values)])

    def stages(self) -> dict[str, str]:
        """Return every stage ever built here with the action it last came from."""
        return dict(self._rows("SELECT name, action FROM stages"))

    def observations(self, action: str) -> list[Trace]:
        """Return every observation of an action whose own row is sound, whether or not its blobs are there."""
        rows = self._rows(
            "SELECT observation, outputs, record, seal FROM traces WHERE action = ? ORDER BY observation",
            action,
        )
        traces = [
            Trace(action, observation, parsed(outputs), parsed(record))
            for observation, outputs, record, seal in rows
            if database.seal(action, observation, outputs, record) == seal
        ]
        return [trace for trace in traces if is_outputs(trace.outputs) and is_record(trace.record)]

    def calls_in(self, trace: Trace) -> list[str]:
        """Return the digests of the calls that a stage's run made or replayed. Raises Damaged."""
        digest = trace.record.get("calls")
        calls = [] if digest is None else parsed(self.read(digest))
        if not (isinstance(calls, list) and all(map(is_digest, calls))):
            raise Damaged(str(digest), "is no list of calls")
        return calls

    def files(self, outputs: Iterable[tuple[str, str]]) -> Iterator[Path]:
        """Return the paths of the large blobs that outputs (name, digest) stand on."""
        for name, digest in outputs:
            if name.endswith("/"):
                yield from (self._object(entry["digest"]) for entry in self.manifest(digest).values())
            elif (path := self._object(digest)).exists():
                yield path

    # -- for gc --------------------------------------------------------------------------------------------------

    def all_actions(self) -> Iterator[str]:
        """Every action digest in the store."""
        for (digest,) in self._rows("SELECT digest FROM actions"):
            yield digest

    def all_calls(self) -> Iterator[str]:
        """Every call in the store."""
        for (digest,) in self._rows("SELECT digest FROM actions WHERE substr(body, 1, 27) = ?", _CALL):
            yield digest

    def calls_of(self, stages: Collection[str]) -> Iterator[str]:
        """Every call that was made for one of these stages."""
        for action, record in self._rows("SELECT action, record FROM traces") if stages else []:
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                if json.loads(record).get("stage") in stages:
                    yield action

    def inline_blobs(self) -> Iterator[tuple[str, int]]:
        """Every small blob: (digest, size)."""
        yield from self._rows("SELECT digest, length(data) FROM blobs")

    def objects(self) -> Iterator[tuple[str, Path]]:
        """Every large blob: (digest, path)."""
        for path in (self.root / "objects").glob("??/*"):
            yield path.parent.name + path.name, path

    def forget(self, actions: list[str], blobs: list[str]) -> None:
        """Remove actions with their traces, and small blobs, in one transaction; then give the room back."""
        statements: list[Statement] = []
        for digest in actions:
            statements.append(("DELETE FROM traces WHERE action = ?", (digest,)))
            statements.append(("DELETE FROM actions WHERE digest = ?", (digest,)))
            statements.append(("DELETE FROM stages WHERE action = ?", (digest,)))
        statements += [("DELETE FROM blobs WHERE digest = ?", (digest,)) for digest in blobs]
        self._write(statements).result()
        with self._explained():
            self._db.execute("VACUUM")

    # -- the view's bookkeeping ----------------------------------------------------------------------------------

    def view_entries(self, prefix: str) -> dict[str, tuple[str, int, int, int]]:
        """Return `{path: (digest, size, mtime_ns, inode)}` of the view files under a folder written by earlier builds."""
        rows = self._rows(
            "SELECT path, digest, size, mtime_ns, inode FROM views WHERE path >= ? AND path < ?",
            prefix + "/",
            prefix + "0",
        )
        # A path that leads elsewhere was never written by a view, and is not one of its files to remove.
        return {
            path: (digest, size, mtime_ns, inode)
            for path, digest, size, mtime_ns, inode in rows
            if is_name(path)
        }

    def set_view_entries(self, add: Mapping[str, tuple[str, int, int, int]], remove: list[str]) -> None:
        """Remember view files as written, forget removed ones."""
        statements: list[Statement] = [("DELETE FROM views WHERE path = ?", (path,)) for path in remove]
        statements += [
            ("INSERT OR REPLACE INTO views VALUES (?, ?, ?, ?, ?)", (path, *row)) for path, row in add.items()
        ]
        if statements:
            self._write(statements).result()

    # -- the rest ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the store's file system, removed afterwards."""
        with self._explained():
            folder = Path(tempfile.mkdtemp(dir=self.root / "tmp", prefix=f"{os.getpid()}-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def kept(self, action: str) -> Path:
        """Return where a run of this action may keep what it need not do again. The folder may not be there."""
        return self.root / "kept" / action

    def all_kept(self) -> list[Path]:
        """Return what runs of all actions have kept."""
        folder = self.root / "kept"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    @contextlib.contextmanager
    def alone(self, doing: str) -> Iterator[None]:
        """Keep other processes from doing the same meanwhile. For moments only: it blocks."""
        with (self.root / f"{doing}.lock").open("a+b") as lock:
            disk.lock(lock, fcntl.LOCK_EX, self.root)
            yield

    def _rows(self, sql: str, *values: str | bytes) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            with self._explained():  # not around each of these reads: it costs as much as one
                raise

    def _write(self, statements: list[Statement]) -> Write:
        return self._writer.put(statements)


def _names(digest: str, body: object) -> bool:
    return isinstance(body, bytes) and of_bytes(ACTION_DOMAIN + body) == digest
