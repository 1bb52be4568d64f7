"""The store's SQLite file: its tables, how it is opened, and what tells at a glance that it is not as SQLite left it.

SQLite has no checksums. It notices a torn page of its journal and most broken structure when it comes by; the rows speak for
themselves (a blob and an action hash to their names, a trace has its seal). What is looked at here is what would do harm
before anybody comes by: the header, and the tables' definitions.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import ExitStack, suppress
from pathlib import Path

from charforge.engine.digest import of_bytes

FORMAT = 1
"""Version of everything under the store's folder. A store of a newer format is refused, never guessed at."""

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

_TABLES = dict(re.findall(r"(?s)CREATE TABLE IF NOT EXISTS (\w+) (.*?);\n", SCHEMA))
_HEADER = 100
_JOURNAL_HEADER = 32
_PLAUSIBLE = 100
"""Formats to come stay below this: a version beyond is a flipped bit."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for reading and writing, making it if it is not there. Raises sqlite3.Error."""
    db = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=60, cached_statements=64
    )
    with ExitStack() as undo:
        undo.callback(db.close)
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":  # SQLite says nothing where the file system has no memory to share
            raise sqlite3.OperationalError("locking protocol")
        db.execute("PRAGMA synchronous = FULL")
        undo.pop_all()
    return db


def version(db: sqlite3.Connection) -> int:
    """Return the format that a file says it has, 0 for a new one. Raises sqlite3.Error."""
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    if not 0 <= found < _PLAUSIBLE:
        raise sqlite3.DatabaseError(f"format {found}")
    return found


def create(db: sqlite3.Connection) -> None:
    """Make the tables."""
    db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")


def check_tables(db: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError where the tables are not those that `create` made."""
    found = db.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    wanted = {(name, name, f"CREATE TABLE {name} {rest}") for name, rest in _TABLES.items()}
    if set(found) != wanted:
        raise sqlite3.DatabaseError("its tables are not as they were made")


def check_header(path: Path) -> None:
    """Raise sqlite3.DatabaseError for a file whose first 100 bytes SQLite has not written. One that is empty is new.

    https://www.sqlite.org/fileformat.html, section 1.3. Several of its fields SQLite believes, or answers by treating the
    file as one that may only be read.
    """
    journal = path.with_name(path.name + "-wal")
    # Looked at first: with a journal the file is at rest at no length, and whoever has it open may be closing it now.
    resting = not journal.exists() or not journal.stat().st_size
    head = b""
    with suppress(FileNotFoundError), path.open("rb") as file:
        head = file.read(_HEADER)
    if not head:
        return

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(head[at : at + size], "big")

    page = number(16, 2)
    right = (
        len(head) == _HEADER
        and head.startswith(b"SQLite format 3\0")
        and (page == 1 or (page >= 512 and page & (page - 1) == 0))
        and head[18:20] in {b"\1\1", b"\2\2"}
        and head[20:24] == b"\0\x40\x20\x20"
        and number(44) in {0, 4}
        and number(52) == 0
        and number(56) in {0, 1}
        and number(64) == number(68) == 0
        and not any(head[72:92])
    )
    if not right:
        raise sqlite3.DatabaseError("its header is none")
    if (
        resting
        and number(24) == number(92)
        and number(28) * (65536 if page == 1 else page) != path.stat().st_size
    ):
        # SQLite would write new pages over those it does not know of.
        raise sqlite3.DatabaseError("it is not as long as it says")


def unplayed(db: sqlite3.Connection, path: Path) -> bool:
    """Say whether the journal that a killed process left holds commits that SQLite will not play, for damage before them.

    SQLite takes a journal up to the first frame whose checksum is wrong, and forgets the rest without a word. What a kill
    cuts short is not meant: a commit is whole in the journal before the next one begins.
    """
    played = max(0, db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
    with path.with_name(path.name + "-wal").open("rb") as file:
        head = file.read(_JOURNAL_HEADER)
        page = db.execute("PRAGMA page_size").fetchone()[0]
        size = file.seek(0, 2)
        for at in range(_JOURNAL_HEADER + played * (24 + page), size - 24 - page + 1, 24 + page):
            file.seek(at)
            frame = file.read(16)
            # Of this journal, and not of the one before: both numbers change from one to the next, one of them may be damaged.
            ours = frame[8:12] == head[16:20] or frame[12:16] == head[20:24]
            if ours and any(frame[4:8]):
                return True
    return False


def seal(action: str, observation: int, outputs_json: str, record_json: str) -> str:
    """Return a trace's own checksum."""
    return of_bytes(f"{action}\n{observation}\n{outputs_json}\n{record_json}".encode())[:16]
