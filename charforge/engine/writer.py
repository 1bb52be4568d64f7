"""The store's writer: one thread commits what has queued up while the last commit was being synchronised.

A thousand calls share a few fsyncs, and each still is durable before it counts as done. The thread shares Python's lock with the
event loop that makes the calls, so it crosses over as seldom as it can: rows go in many at once, and waiters are told
by one message a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from charforge.engine.errors import EngineError

Statement = tuple[str, tuple[Any, ...]]

# A row that is there with other bytes is damaged, and gives way.
INSERT_BLOB = (
    "INSERT INTO blobs VALUES (?,?)"
    " ON CONFLICT DO UPDATE SET data = excluded.data WHERE digest = excluded.digest AND data IS NOT excluded.data"
)
INSERT_ACTION = (
    "INSERT INTO actions VALUES (?,?)"
    " ON CONFLICT DO UPDATE SET body = excluded.body WHERE digest = excluded.digest AND body IS NOT excluded.body"
)
INSERT_TRACE = "INSERT INTO traces VALUES (?,?,?,?,?)"
_INSERTS = (INSERT_BLOB, INSERT_ACTION, INSERT_TRACE)

_ONE_ROW = re.compile(r"(?<=VALUES )(\([?,]+\))")
_COMMIT_LIMIT = 512
_ROWS = (32, 8, 1)
"""Rows that one statement inserts: few sizes, so that each is prepared once."""


class Write(Future[None]):
    """A queued write. Wait for it with `result()`, or on an event loop with `await landed()`."""

    def __init__(self) -> None:
        super().__init__()
        self._landing: list[asyncio.Future[None]] = []
        # From here on nobody can cancel it: a waiter that is cancelled must not take a paid reply with it.
        self.set_running_or_notify_cancel()

    def landed(self) -> asyncio.Future[None]:
        """Return a future of the running loop that ends with the write. Cancelling it cancels only the waiting."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._condition:
            if not self.done():
                self._landing.append(waiter)
                return waiter
        _tell([(waiter, self.exception())])
        return waiter


@dataclass(frozen=True, slots=True)
class _Entry:
    statements: list[Statement]
    done: Write


class Writer(threading.Thread):
    """Commits queued statements in groups, in order, on a connection of its own."""

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        on_durable: Callable[[str], None],
        explained: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        """`on_durable` is called after each commit; `explained` turns what SQLite raises into what a user can read."""
        super().__init__(name="charforge-store-writer", daemon=True)
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._db = db
        self._on_durable = on_durable
        self._explained = explained
        self._stopped = False
        self.start()

    def put(self, statements: list[Statement]) -> Write:
        """Queue statements, which are committed together."""
        if self._stopped:
            raise RuntimeError("the store is closed")
        write = Write()
        self._queue.put(_Entry(statements, write))
        return write

    def stop(self) -> None:
        """Write what is queued, and end."""
        self._stopped = True
        self._queue.put(None)
        self.join()
        self._db.close()

    def run(self) -> None:
        """Commit until stopped."""
        stopping = False
        while not stopping:
            entry = self._queue.get()
            group: list[_Entry] = []
            while entry is not None:
                group.append(entry)
                if len(group) >= _COMMIT_LIMIT:
                    break
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
            stopping = entry is None
            if group:
                self._commit(group)

    def _commit(self, group: list[_Entry]) -> None:
        failure: BaseException | None = None
        try:
            with self._explained():
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    for sql, values in _merged(group):
                        self._db.execute(sql, values)
                    self._db.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                    raise
            self._on_durable("commit")
        except BaseException as error:  # noqa: BLE001 - each waiting caller must hear of it
            if len(group) > 1 and not isinstance(error, EngineError):
                # One bad entry must not take the others, which may be paid for, with it.
                for entry in group:
                    self._commit([entry])
                return
            failure = error
        # Of a group of several, only an EngineError comes here: it is the disk's, and everybody's.
        told: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], BaseException | None]]] = {}
        for entry in group:
            if failure is None:
                entry.done.set_result(None)
            else:
                entry.done.set_exception(failure)
            for waiter in entry.done._landing:  # noqa: SLF001 - the two are one thing
                told.setdefault(waiter.get_loop(), []).append((waiter, failure))
        for loop, them in told.items():
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(_tell, them)


def _tell(waiters: list[tuple[asyncio.Future[None], BaseException | None]]) -> None:
    for waiter, failure in waiters:
        if waiter.done():
            continue  # it was cancelled
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)


def _merged(group: list[_Entry]) -> Iterator[Statement]:
    """Yield a group's statements, with runs of inserts (whose order within a commit is no matter) many rows at once."""
    pending: dict[str, list[tuple[Any, ...]]] = {sql: [] for sql in _INSERTS}
    for entry in group:
        for sql, values in entry.statements:
            if sql in pending:
                pending[sql].append(values)
            else:
                yield from _inserts(pending)
                yield sql, values
    yield from _inserts(pending)


def _inserts(pending: dict[str, list[tuple[Any, ...]]]) -> Iterator[Statement]:
    for sql, rows in pending.items():
        verb, row, rest = _ONE_ROW.split(sql)
        start = 0
        while start < len(rows):
            size = next(size for size in _ROWS if size <= len(rows) - start)
            yield (
                f"{verb}{','.join([row] * size)}{rest}",
                tuple(value for values in rows[start : start + size] for value in values),
            )
            start += size
        rows.clear()
