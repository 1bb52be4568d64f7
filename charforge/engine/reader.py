"""A store that is only looked at: nothing in its folder changes, not even by SQLite, and it may not be there at all.

For whoever says what a build would do. A store that a killed build left behind is read as far as that build got.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from charforge.engine import database, disk
from charforge.engine.database import FORMAT, SCHEMA
from charforge.engine.disk import explained
from charforge.engine.errors import EngineError
from charforge.engine.opening import newer
from charforge.engine.store import Store

T = TypeVar("T")
_TRIES = 3


class Reader(Store):
    """A store opened for reading. What would write raises; a damaged blob stays where it is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes = []
        self._verified = set()
        self._path = root / "store.db"
        self._changing = False
        with contextlib.ExitStack() as undo, explained(root):
            if (root / "users").exists():
                # Held shared, as by everybody, so that gc keeps out meanwhile.
                disk.lock(undo.enter_context((root / "users").open("rb")), fcntl.LOCK_SH, root)
            self._before = self._stamp()
            self._db = undo.enter_context(contextlib.closing(self._look()))
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Let go of files and locks."""
        self._undo.close()

    def _look(self) -> sqlite3.Connection:
        if not self._path.exists():
            return self._nothing()
        # SQLite would make the two files beside a WAL database in order to read it, and leave them. With `immutable` it
        # does not look for them: right as long as nobody writes, which `steady` finds out. Where they are there, somebody is
        # writing or was killed: `readonly_shm` reads both files and writes to neither.
        database.check_header(self._path)
        self._changing = self._path.with_name("store.db-shm").exists()
        how = "mode=ro&readonly_shm=1" if self._changing else "mode=ro&immutable=1"
        db = sqlite3.connect(
            f"file:{quote(str(self._path))}?{how}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=60,
            cached_statements=64,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(db.close)
            version = database.version(db)
            if version > FORMAT:
                raise newer(self.root, version)
            if version < FORMAT:  # somebody is about to make it
                return self._nothing()
            database.check_tables(db)
            undo.pop_all()
        return db

    @staticmethod
    def _nothing() -> sqlite3.Connection:
        db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        db.executescript(SCHEMA)
        return db

    def _stamp(self) -> tuple[int, ...]:
        with contextlib.suppress(FileNotFoundError):
            status = self._path.stat()
            return status.st_ino, status.st_size, status.st_mtime_ns
        return ()

    def steady(self) -> bool:
        """Say whether what was read so far was all of one moment."""
        return self._changing or (
            self._stamp() == self._before and not self._path.with_name("store.db-shm").exists()
        )

    def _doubt(self) -> None:
        """Leave it to the next build to find."""

    def discard(self, digest: str) -> None:
        """Leave a damaged blob for the next build to find."""

    def discard_body(self, action: str) -> None:
        """Leave a damaged description there, too."""

    def pack(self, outputs: Mapping[str, bytes | Path]) -> NoReturn:
        """Refuse: large blobs would be files."""
        del outputs
        raise AssertionError("this store is only looked at")

    def _write(self, statements: list[tuple[str, tuple[Any, ...]]]) -> NoReturn:
        del statements
        raise AssertionError("this store is only looked at")


def look(root: Path, work: Callable[[Reader], T]) -> T:
    """Return what `work` makes of the store, read as of one moment. Raises EngineError, and what `work` raises."""
    for _ in range(_TRIES):
        with Reader(root) as store:
            try:
                result = work(store)
            except EngineError:
                if store.steady():
                    raise
            else:
                if store.steady():
                    return result
    raise EngineError(f"{root} is being written to all the time", "try again when the other build has ended")
