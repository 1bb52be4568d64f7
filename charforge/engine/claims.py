"""Claims: no two processes run the same action at once.

One file, one byte range per action, locked through the kernel: a claim ends with its holder, however that
dies, and leaves nothing behind. POSIX record locks belong to the process, and closing *any* descriptor of the file
drops them all, so a process opens this file once and keeps it open.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable
from pathlib import Path

from charforge.engine.disk import NO_LOCK, explained, no_locks

_POLL_SECONDS = 0.05


class Claims:
    """The claims of one process on one store."""

    def __init__(self, path: Path) -> None:
        self._root = path.parent
        with explained(self._root):
            self._file = path.open("a+b")
        self._here: dict[int, tuple[asyncio.Lock, list[None]]] = {}

    def close(self) -> None:
        """Give up everything."""
        self._file.close()

    def hold(self, action: str, waiting: Callable[[int], None] | None = None) -> _Hold:
        """Wait for the claim on an action digest, and hold it: `async with claims.hold(digest): …`.

        Look for a trace again once it is held. While another process has it, `waiting` is called at each look with the
        number of looks before; it may raise to give up. Two digests that share their first 62 bits only wait
        for each other needlessly.
        """
        return _Hold(self, int(action[:16], 16) >> 2, waiting)

    def _try(self, offset: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in NO_LOCK:
                raise
            raise no_locks(self._root, error) from error
        return True

    def _free(self, offset: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)


class _Hold:
    """One claim, while it is waited for and held. A class, since a generator costs a call a tenth of its time."""

    __slots__ = ("_claims", "_lock", "_offset", "_users", "_waiting")

    def __init__(self, claims: Claims, offset: int, waiting: Callable[[int], None] | None) -> None:
        self._claims = claims
        self._offset = offset
        self._waiting = waiting

    async def __aenter__(self) -> None:
        # The kernel does not hold a process off from its own locks, so inside the process a plain lock does.
        self._lock, self._users = self._claims._here.setdefault(self._offset, (asyncio.Lock(), []))  # noqa: SLF001
        self._users.append(None)
        try:
            await self._lock.acquire()
            try:
                polls = 0
                while not self._claims._try(self._offset):  # noqa: SLF001
                    if self._waiting is not None:
                        self._waiting(polls)
                    polls += 1
                    await asyncio.sleep(_POLL_SECONDS)
            except BaseException:
                self._lock.release()
                raise
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._claims._free(self._offset)  # noqa: SLF001
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users.pop()
        if not self._users:
            del self._claims._here[self._offset]  # noqa: SLF001
