"""Opening a store: alone or beside others, on this machine, with a database that is as SQLite left it, or is mended first.

Whoever meets damage leaves word (`doubt`). Only a process that has the store to itself may mend it, and that is known only
while it is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO

from charforge.engine import database, disk
from charforge.engine.errors import EngineError

Explained = Callable[[], contextlib.AbstractContextManager[None]]
Opened = tuple[sqlite3.Connection, sqlite3.Connection, list[str]]
"""A connection to read, one to write, and what the user should know of how the store was found."""

_SCRATCH = re.compile(r"[0-9]+-\w+")


def enter(root: Path, users: IO[bytes], explained: Explained) -> Opened:
    """Take the shared lock on `users` and open the database. Raises EngineError.

    Nobody else may be opening the store meanwhile, on no machine: file locks reach as far as the file system does, but the
    memory that SQLite's processes share does not, so those of another machine have to wait.
    """
    notes: list[str] = []
    alone = True
    try:
        disk.lock(users, fcntl.LOCK_EX | fcntl.LOCK_NB, root)
    except BlockingIOError:
        alone = False
        if not disk.same_bytes(root / "machine", _machine()):
            raise EngineError(
                f"the store {root} is in use on another machine",
                "its database works on one machine at a time: run again when that build has ended",
            ) from None
    else:
        _sweep_scratch(root)
        if not disk.same_bytes(root / "machine", _machine()):
            (root / "machine").write_bytes(_machine())
        if _doubtful(root):
            notes.append(_save(root))
    try:
        reading, writing = _connect(root, explained, alone=alone)
    except EngineError:
        if not alone or not _doubtful(root):
            raise
        notes.append(_save(root))
        reading, writing = _connect(root, explained, alone=False)
    # Held shared while the store is open; gc takes it exclusively.
    disk.lock(users, fcntl.LOCK_SH, root)
    return reading, writing, notes


def _connect(
    root: Path, explained: Explained, *, alone: bool
) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    path, journal, kept = (root / f"store.db{end}" for end in ("", "-wal", "-kept"))
    left = alone and journal.exists() and journal.stat().st_size > 0
    with contextlib.ExitStack() as undo, explained():
        database.check_header(path)
        reading = undo.enter_context(contextlib.closing(database.connect(path)))
        # Before anything is written: that would begin the journal anew.
        if left and database.unplayed(reading, path):
            # The last to close the file removes the journal with it.
            shutil.copyfile(journal, kept)
            reading.close()
            kept.replace(journal)
            raise sqlite3.DatabaseError("its journal is")
        found = database.version(reading)
        if found > database.FORMAT:
            raise newer(root, found)
        if found < database.FORMAT:
            database.create(reading)
        database.check_tables(reading)
        writing = database.connect(path)
        undo.pop_all()
    return reading, writing


def doubt(root: Path) -> None:
    """Leave word that the database is damaged, for whoever next has the store to itself."""
    with contextlib.suppress(OSError):
        (root / "doubt").touch()


def _doubtful(root: Path) -> bool:
    return (root / "doubt").exists() or (root / "store.db.saved").exists()


def _save(root: Path) -> str:
    """Save what is sound in a damaged database into a new one, and say so."""
    from charforge.engine import salvage

    aside = root / "damaged"
    disk.own_folder(aside)
    count = salvage.save(root / "store.db", aside)
    (root / "doubt").unlink(missing_ok=True)
    return (
        f"{root / 'store.db'} was damaged: {count} results in it are sound and were kept;"
        f" the damaged file is in {aside}"
    )


def _sweep_scratch(root: Path) -> None:
    """Remove what killed processes left in `tmp/`."""
    for folder in (root / "tmp").iterdir():
        if _SCRATCH.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _machine() -> bytes:
    """Return what tells this running system from any other that may reach the same files."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    return os.uname().nodename.encode()


def newer(root: Path, version: int) -> EngineError:
    """Return the error for a store of a format yet to come."""
    return EngineError(
        f"{root}: the store was written by a newer CharForge (format {version}, this one knows {database.FORMAT})",
        "upgrade CharForge, or point it at another workspace",
    )
