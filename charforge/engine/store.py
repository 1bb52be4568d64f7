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
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from charforge.engine.digest import ACTION_DOMAIN, Action, canonical, of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.writer import INSERT_ACTION, INSERT_BLOB, INSERT_TRACE, Statement, Write, Writer

FORMAT = 1
"""Version of everything under the store's folder. A store of a newer format is refused, never guessed at."""

INLINE_LIMIT = 64 * 1024
"""Blobs up to this many bytes lie in SQLite: measured, a row costs a tenth of a file's create, fsync and rename."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

_CHUNK = 1 << 20
# How the canonical body of a call begins, in 27 bytes: it has no inputs, and keys are sorted.
_CALL = b'{"inputs":{},"kind":"call",'

SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (digest TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS actions (digest TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS traces (
    action TEXT NOT NULL, observation INTEGER NOT NULL, outputs TEXT NOT NULL, record TEXT NOT NULL, seal TEXT NOT NULL,
    PRIMARY KEY (action, observation)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stages (
    name TEXT PRIMARY KEY, action TEXT NOT NULL, reasons TEXT NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS views (
    path TEXT PRIMARY KEY, digest TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL
) WITHOUT ROWID;
"""


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
        with contextlib.ExitStack() as undo, explained(root):
            for folder in (root, root / "objects", root / "tmp", root / "trees"):
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except (FileExistsError, NotADirectoryError) as error:
                    raise EngineError(
                        f"cannot make the folder {folder}: a file is in the way", "move it away and rerun"
                    ) from error
            self.users = undo.enter_context((root / "users").open("a+b"))
            self._sweep_scratch()
            # Held shared while the store is open; gc takes it exclusively.
            fcntl.flock(self.users, fcntl.LOCK_SH)
            # SQLite does not wait but fails where two processes turn a new file to WAL mode at once.
            with self.alone("open"):
                self._db = undo.enter_context(contextlib.closing(self._connect()))
                self._prepare()
                self._writer = Writer(
                    self._connect(), on_durable=self._on_durable, explained=lambda: explained(root)
                )
            undo.pop_all()

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
        with explained(self.root):
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
        elif not self._object(digest).exists():
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
                digest, size = self._put_file(path)
                manifest[path.relative_to(folder).as_posix()] = {"digest": digest, "size": size}
        data = canonical(manifest)
        return self._pack_bytes(data, inline)

    def _put_file(self, source: Path) -> tuple[str, int]:
        with self.scratch() as folder:
            temporary = folder / "blob"
            digest, size = copy_hashed(source, temporary)
            if not self._object(digest).exists():
                self._install(temporary, digest)
        return digest, size

    def _install(self, temporary: Path, digest: str) -> None:
        target = self._object(digest)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            _fsync(target.parent.parent)
        temporary.chmod(0o444)
        _fsync(temporary)
        temporary.rename(target)
        _fsync(target.parent)
        self._on_durable(f"object {digest}")

    def has(self, digest: str) -> bool:
        """Say whether the blob is there, without reading it."""
        return (
            bool(self._rows("SELECT 1 FROM blobs WHERE digest = ?", digest)) or self._object(digest).exists()
        )

    def read(self, digest: str) -> bytes:
        """Return a blob's bytes, checked against its name. Raises Damaged; the blob is then out of the store."""
        rows = self._rows("SELECT data FROM blobs WHERE digest = ?", digest)
        with explained(self.root):
            if rows:
                data: bytes = rows[0][0]
            else:
                try:
                    data = self._object(digest).read_bytes()
                except FileNotFoundError:
                    raise Damaged(digest, "is missing") from None
            if of_bytes(data) != digest:
                self.discard(digest)
                raise Damaged(digest, "does not hash to its name")
        return data

    def copy(self, digest: str, target: Path) -> None:
        """Write a blob to `target` (which must not exist), checked against its name on the way.

        Raises Damaged, and OSError as it comes: `target` may lie on another disk than the store.
        """
        source = self._object(digest)
        if not source.exists():
            target.write_bytes(self.read(digest))
            return
        found, _ = copy_hashed(source, target)
        if found != digest:
            target.unlink()
            self.discard(digest)
            raise Damaged(digest, "does not hash to its name")

    def manifest(self, digest: str) -> dict[str, dict[str, Any]]:
        """Return a tree's `{path: {digest, size}}`. Raises Damaged."""
        data: dict[str, dict[str, Any]] = json.loads(self.read(digest))
        return data

    def checkout(self, digest: str) -> Path:
        """Return a folder with a tree's files under their names, to be read and never written.

        Every file is checked against its name once a process. Raises Damaged.
        """
        folder = self.root / "trees" / digest
        manifest = self.manifest(digest)
        with explained(self.root):
            if digest not in self._verified:
                for name in manifest:
                    self._check_object(manifest[name]["digest"])
                self._verified.add(digest)
            if not self._linked(folder, manifest):
                with self.scratch() as scratch:
                    (scratch / "tree").mkdir()
                    for name, entry in manifest.items():
                        target = scratch / "tree" / name
                        target.parent.mkdir(parents=True, exist_ok=True)
                        # A hard link: both names are ours, read-only, and on one file system.
                        os.link(self._object(entry["digest"]), target)
                    with contextlib.suppress(FileNotFoundError):
                        folder.rename(scratch / "old")
                    try:
                        (scratch / "tree").rename(folder)
                    except OSError:
                        # Another process was quicker.
                        if not self._linked(folder, manifest):
                            raise
        return folder

    def _linked(self, folder: Path, manifest: Mapping[str, Mapping[str, Any]]) -> bool:
        """Say whether a checked-out tree is whole: removing one may have been cut short, an object may be a new file."""
        try:
            return folder.is_dir() and all(
                (folder / name).stat().st_ino == self._object(entry["digest"]).stat().st_ino
                for name, entry in manifest.items()
            )
        except FileNotFoundError:
            return False

    def _check_object(self, digest: str) -> None:
        path = self._object(digest)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise Damaged(digest, "is missing") from None
        if found != digest:
            self.discard(digest)
            raise Damaged(digest, "does not hash to its name")

    def discard(self, digest: str) -> None:
        """Take a damaged blob out of the store, so that nothing finds it and it can be made again.

        The bytes of a large one are kept under `damaged/` for whoever wants to know what happened.
        """
        aside = self.root / "damaged"
        aside.mkdir(exist_ok=True)
        # Not there: it is a small one, or another process was quicker.
        with contextlib.suppress(FileNotFoundError):
            self._object(digest).rename(aside / digest)
        self._write([("DELETE FROM blobs WHERE digest = ?", (digest,))]).result()

    def _object(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest[2:]

    # -- traces --------------------------------------------------------------------------------------------------

    def find(self, action: str) -> Trace | None:
        """Return the first observation of an action whose outputs are all there; None if there is none."""
        for trace in self.observations(action):
            if all(self._whole(name, digest) for name, digest in trace.outputs.items()):
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
            return all(self._object(entry["digest"]).exists() for entry in self.manifest(digest).values())
        except Damaged:
            return False

    def known(self) -> set[bytes]:
        """Return the digests of all actions that were ever recorded, 32 bytes each. What is in it may be gone or unsound."""
        with explained(self.root):
            return {bytes.fromhex(action) for (action,) in self._db.execute("SELECT action FROM traces")}

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
        seal = _seal(digest, observation, outputs_json, record_json)
        row = (digest, observation, outputs_json, record_json, seal)
        statements.append((INSERT_TRACE, row))
        return self._write(statements)

    def action_body(self, action: str) -> dict[str, Any] | None:
        """Return the recorded `{kind, version, params, inputs}` of an action digest, None if there is none (or no more)."""
        rows = self._rows("SELECT body FROM actions WHERE digest = ?", action)
        if not rows or of_bytes(ACTION_DOMAIN + rows[0][0]) != action:
            return None
        body: dict[str, Any] = json.loads(rows[0][0])
        return body

    def call_bodies(self) -> Iterator[dict[str, Any]]:
        """Yield the bodies of recorded calls, those recorded last first."""
        sql = "SELECT body FROM actions WHERE substr(body, 1, 27) = ? ORDER BY rowid DESC"
        with explained(self.root):
            for (body,) in self._db.execute(sql, (_CALL,)):
                yield json.loads(body)

    def call_records(self, param: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield (a parameter, the record beside the reply) of recorded calls, those recorded last first."""
        sql = (
            "SELECT json_extract(CAST(body AS TEXT), ?), record FROM actions JOIN traces ON action = digest"
            " WHERE substr(body, 1, 27) = ? AND observation = 0 ORDER BY actions.rowid DESC"
        )
        with explained(self.root):
            for value, record in self._db.execute(sql, (f"$.params.{param}", _CALL)):
                yield value, json.loads(record)

    def last(self, stage: str) -> tuple[str, list[Any]] | None:
        """Return which action a stage last came from, and why it had run then (reasons as data)."""
        rows = self._rows("SELECT action, reasons FROM stages WHERE name = ?", stage)
        return (rows[0][0], json.loads(rows[0][1])) if rows else None

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
        return [
            Trace(action, observation, json.loads(outputs), json.loads(record))
            for observation, outputs, record, seal in rows
            if _seal(action, observation, outputs, record) == seal
        ]

    def calls_in(self, trace: Trace) -> list[str]:
        """Return the digests of the calls that a stage's run made or replayed. Raises Damaged."""
        digest = trace.record.get("calls")
        return [] if digest is None else [str(call) for call in json.loads(self.read(digest))]

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

    def calls_of(self, stages: Collection[str]) -> Iterator[str]:
        """Every call that was made for one of these stages."""
        for action, record in self._rows("SELECT action, record FROM traces") if stages else []:
            with contextlib.suppress(ValueError):
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
        with explained(self.root):
            self._db.execute("VACUUM")

    # -- the view's bookkeeping ----------------------------------------------------------------------------------

    def view_entries(self, prefix: str) -> dict[str, tuple[str, int, int, int]]:
        """Return `{path: (digest, size, mtime_ns, inode)}` of the view files under a folder written by earlier builds."""
        rows = self._rows(
            "SELECT path, digest, size, mtime_ns, inode FROM views WHERE path >= ? AND path < ?",
            prefix + "/",
            prefix + "0",
        )
        return {path: (digest, size, mtime_ns, inode) for path, digest, size, mtime_ns, inode in rows}

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
        with explained(self.root):
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
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _sweep_scratch(self) -> None:
        """Remove what killed processes left in `tmp/`, if nobody else has the store open."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in (self.root / "tmp").iterdir():
                shutil.rmtree(folder, ignore_errors=True)

    def _rows(self, sql: str, *values: str) -> list[Any]:
        with explained(self.root):
            return self._db.execute(sql, values).fetchall()

    def _write(self, statements: list[Statement]) -> Write:
        return self._writer.put(statements)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self.root / "store.db",
            isolation_level=None,
            check_same_thread=False,
            timeout=60,
            cached_statements=64,
        )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT:
            raise newer(self.root, version)
        if version < FORMAT:
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")


def copy_hashed(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file and return (SHA-256, size) of the bytes that were copied."""
    hasher = hashlib.sha256()
    size = 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            hasher.update(chunk)
            writer.write(chunk)
            size += len(chunk)
    return hasher.hexdigest(), size


def _seal(action: str, observation: int, outputs_json: str, record_json: str) -> str:
    """A trace's own checksum: SQLite notices a torn page, but not a flipped byte inside one."""
    return of_bytes(f"{action}\n{observation}\n{outputs_json}\n{record_json}".encode())[:16]


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn what the operating system and SQLite say into one clear error."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "full" in text or "disk I/O" in text:
            raise no_room(root) from error
        if "readonly" in text or "unable to open" in text:
            raise _no_write(root) from error
        if "malformed" in text or "not a database" in text:
            raise EngineError(
                f"{root / 'store.db'} is damaged ({text})",
                f"move it away and build again; large files under {root / 'objects'} are kept and found again",
            ) from error
        if "locked" in text:
            raise EngineError(
                f"{root / 'store.db'} is held by another process for over a minute", "try again"
            ) from error
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room(root) from error
        if error.errno in {errno.EPERM, errno.EACCES, errno.EROFS}:
            raise _no_write(root) from error
        raise


def no_room(root: Path) -> EngineError:
    """Return the error for a full disk."""
    return EngineError(
        f"no room left on the disk of {root}", "free some space and rerun; finished work is kept"
    )


def newer(root: Path, version: int) -> EngineError:
    """Return the error for a store of a format yet to come."""
    return EngineError(
        f"{root}: the store was written by a newer CharForge (format {version}, this one knows {FORMAT})",
        "upgrade CharForge, or point it at another workspace",
    )


def _no_write(root: Path) -> EngineError:
    return EngineError(f"cannot write to the store {root}", "make it writable, or build in another workspace")
