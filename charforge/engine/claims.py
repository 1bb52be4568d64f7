"""Claims: no two processes run the same action at once.

One file, one byte range per action, locked through the kernel: a claim ends with its holder, however that
dies, and leaves nothing behind. POSIX record locks belong to the process, and closing *any* descriptor of the file
drops them all, so a process opens this file once and keeps it open.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

_POLL_SECONDS = 0.05


class Claims:
    """The claims of one process on one store."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._here: dict[int, tuple[asyncio.Lock, list[None]]] = {}

    def close(self) -> None:
        """Give up everything."""
        self._file.close()

    @asynccontextmanager
    async def hold(self, action: str, waiting: Callable[[int], None] | None = None) -> AsyncIterator[None]:
        """Wait for the claim on an action digest, and hold it.

        Look for a trace again once it is held. While another process has it, `waiting` is called at each look with the
        number of looks before; it may raise to give up. Two digests that share their first 62 bits only wait
        for each other needlessly.
        """
        offset = int(action[:16], 16) >> 2
        # The kernel does not hold a process off from its own locks, so inside the process a plain lock does.
        lock, users = self._here.setdefault(offset, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                polls = 0
                while not self._try(offset):
                    if waiting is not None:
                        waiting(polls)
                    polls += 1
                    await asyncio.sleep(_POLL_SECONDS)
                try:
                    yield
                finally:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)
        finally:
            users.pop()
            if not users:
                del self._here[offset]

    def _try(self, offset: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except (BlockingIOError, PermissionError):
            return False
        return True
