"""The lane to local models: requests go to a worker process of our own, which batches them.

The parent's side only: imports neither torch nor transformers, so that a build which needs no local reply stays quick.
Knows nothing of calls' digests or of the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from charforge.errors import CharForgeError
from charforge.llm.request import Reply, Request
from charforge.models.process import describe_exit, end_child, keep_tail, start_child

_MODULE = "charforge.models.worker"
_LIVES = 2
"""Workers a request may go to. The one that died may have died of another request, so it gets a second."""


@dataclass(frozen=True, slots=True)
class WeightsRef:
    """Where weights lie: `where` is the name of an embedded model, or a folder's path; an adapter's folder needs its `base`'s."""

    kind: Literal["embedded", "folder", "adapter"]
    where: str
    base: str | None = None

    def message(self) -> dict[str, str]:
        """Return the reference as the worker reads it."""
        match self.kind:
            case "embedded":
                return {"kind": "embedded", "name": self.where}
            case "folder":
                return {"kind": "folder", "path": self.where}
            case "adapter":
                assert self.base is not None
                return {"kind": "adapter", "path": self.where, "base": self.base}


@dataclass(eq=False)
class _Worker:
    """A running worker and what it still owes."""

    process: asyncio.subprocess.Process
    pending: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    reader: asyncio.Task[None] | None = None


class _Died(Exception):
    """The worker ended before it answered; the text says how."""


class LocalLane:
    """Answers requests with local weights. Belongs to one event loop; the worker starts with the first request."""

    def __init__(self) -> None:
        self._worker: _Worker | None = None
        self._starting = asyncio.Lock()
        self._ids = itertools.count()

    async def complete(self, request: Request, weights: WeightsRef) -> Reply:
        """Return the reply. Raises CharForgeError where this request cannot be answered, or two workers died of it."""
        death = ""
        for _ in range(_LIVES):
            try:
                answer = await self._ask(request, weights)
            except _Died as error:
                death = str(error)
                continue
            if "error" in answer:
                raise CharForgeError(answer["error"], answer["hint"])
            return Reply(**answer["reply"])
        raise CharForgeError(f"the process that runs local models {death}")

    async def release(self) -> None:
        """Wait for the replies under way, then stop the worker, which frees its memory. The next request starts another."""
        worker = self._worker
        if worker is None:
            return
        while worker.pending:
            await asyncio.wait(list(worker.pending.values()))
            await asyncio.sleep(0)  # the waiting callers take their answers off the list
        await self._stop(worker)

    async def close(self) -> None:
        """Stop the worker at once; requests under way fail."""
        worker = self._worker
        if worker is None:
            return
        for future in worker.pending.values():
            if not future.done():
                future.set_exception(CharForgeError("local models were stopped"))
        await self._stop(worker)

    async def _stop(self, worker: _Worker) -> None:
        if self._worker is worker:
            self._worker = None
        await end_child(worker.process)
        if worker.reader is not None:
            await worker.reader

    async def _ask(self, request: Request, weights: WeightsRef) -> dict[str, Any]:
        async with self._starting:
            if self._worker is None:
                self._worker = await self._start()
            worker = self._worker
        key = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        worker.pending[key] = future
        try:
            await self._send(worker, {"id": key, "weights": weights.message(), "request": request.params()})
            return await future
        except asyncio.CancelledError:
            # The row's place in the batch goes to another; if the worker is gone there is nothing to cancel.
            with contextlib.suppress(OSError, RuntimeError):
                assert worker.process.stdin is not None
                worker.process.stdin.write(json.dumps({"cancel": key}).encode() + b"\n")
            raise
        finally:
            worker.pending.pop(key, None)

    @staticmethod
    async def _send(worker: _Worker, message: dict[str, Any]) -> None:
        assert worker.process.stdin is not None
        # A worker that just died fails the future through its reader, with what it said last.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.process.stdin.write(json.dumps(message).encode() + b"\n")
            await worker.process.stdin.drain()

    async def _start(self) -> _Worker:
        worker = _Worker(await start_child(_MODULE))
        worker.reader = asyncio.create_task(self._read(worker))
        return worker

    async def _read(self, worker: _Worker) -> None:
        """Hand out answers until the worker ends, then fail what it still owes."""
        stdout, stderr = worker.process.stdout, worker.process.stderr
        assert stdout is not None
        assert stderr is not None
        tail = asyncio.create_task(keep_tail(stderr))
        while line := await stdout.readline():
            answer = json.loads(line)
            future = worker.pending.get(answer["id"])
            if future is not None and not future.done():
                future.set_result(answer)
        await worker.process.wait()
        last = await tail
        if self._worker is worker:
            self._worker = None
        death = describe_exit(worker.process) + (f":\n{last}" if last else "")
        for future in worker.pending.values():
            if not future.done():
                future.set_exception(_Died(death))
