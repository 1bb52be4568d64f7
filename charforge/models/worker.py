"""`python -m charforge.models.worker`: answers requests from stdin with local models, batching what waits.

Protocol, one JSON object a line. In: `{"id", "weights": {"kind": "embedded", "name"} | {"kind": "folder", "path"} |
{"kind": "adapter", "path", "base"}, "request": Request.params()}` or `{"cancel": id}`. Out, as soon as each reply is there: `{"id", "reply": {…}}` or
`{"id", "error", "hint"}`. At the end of stdin it finishes what was asked and exits. Knows nothing of builds.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections import OrderedDict
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from charforge.errors import CharForgeError
from charforge.llm.request import Request
from charforge.models.process import available_cpus, claim_stdout, die_with_parent

if TYPE_CHECKING:
    from charforge.models.generate import Generator

LOADED = 3
"""Models kept in memory, the least recently used dropped first."""
_GATHER = 0.01
"""Seconds an idle worker waits for companions of the first request."""
_FULL = 16
"""Where other weights' requests wait, newcomers join a batch of at least this many rows only."""

Message = dict[str, Any]


class Worker:
    """One thread that reads, one that computes. `pending` is in order of arrival."""

    def __init__(self, source: IO[str], sink: IO[str]) -> None:
        self.source, self.sink = source, sink
        self.inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.pending: list[Message] = []
        self.loaded: OrderedDict[str, Generator] = OrderedDict()
        self.at_end = False

    def run(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        current: str | None = None
        while True:
            generator = self.loaded.get(current) if current else None
            busy = generator is not None and generator.busy
            self._receive(block=not busy and not self.pending)
            if not busy:
                if not self.pending:
                    if self.at_end:
                        return
                    continue
                current = _weights(self.pending[0])
                generator = self._generator(current)
                if generator is None:
                    continue
            assert generator is not None
            assert current is not None
            others = any(_weights(message) != current for message in self.pending)
            if not busy or not others or len(generator.rows) >= _FULL:
                self._feed(current, generator)
            for done in generator.step():
                if isinstance(done.outcome, CharForgeError):
                    self._fail(done.key, done.outcome)
                else:
                    self._send({"id": done.key, "reply": asdict(done.outcome)})

    def _read(self) -> None:
        for line in self.source:
            self.inbox.put(json.loads(line))
        self.inbox.put(None)

    def _receive(self, *, block: bool) -> None:
        """Move what has arrived to `pending`; an idle worker waits for a first message, then a moment for more."""
        timeout = None if block else 0.0
        while not self.at_end:
            try:
                message = self.inbox.get(timeout=timeout) if timeout != 0.0 else self.inbox.get_nowait()
            except queue.Empty:
                return
            if message is None:
                self.at_end = True
            elif "cancel" in message:
                self._cancel(message["cancel"])
            else:
                self.pending.append(message)
            if block:
                timeout = _GATHER

    def _cancel(self, key: Any) -> None:
        self.pending = [message for message in self.pending if message["id"] != key]
        for generator in self.loaded.values():
            generator.cancel(key)

    def _generator(self, weights: str) -> Generator | None:
        """Return the generator of these weights, loading it if need be; None after failing all that wait for it."""
        if weights in self.loaded:
            self.loaded.move_to_end(weights)
            return self.loaded[weights]
        from charforge.models.generate import Generator
        from charforge.models.load import load

        while len(self.loaded) >= LOADED:
            self.loaded.popitem(last=False)
        try:
            self.loaded[weights] = Generator(*load(json.loads(weights)))
        except CharForgeError as error:
            for message in [m for m in self.pending if _weights(m) == weights]:
                self.pending.remove(message)
                self._fail(message["id"], error)
            return None
        return self.loaded[weights]

    def _feed(self, weights: str, generator: Generator) -> None:
        mine = [message for message in self.pending if _weights(message) == weights]
        if not mine:
            return
        self.pending = [message for message in self.pending if _weights(message) != weights]
        for message in mine:
            try:
                generator.add(message["id"], request_of(message["request"]))
            except CharForgeError as error:
                self._fail(message["id"], error)
            except Exception as error:  # noqa: BLE001 -- a chat template can raise anything; the others' replies go on
                self._fail(message["id"], CharForgeError(f"{type(error).__name__}: {error}"))

    def _fail(self, key: Any, error: CharForgeError) -> None:
        self._send({"id": key, "error": error.message, "hint": error.hint})

    def _send(self, message: Message) -> None:
        self.sink.write(json.dumps(message) + "\n")
        self.sink.flush()


def _weights(message: Message) -> str:
    return json.dumps(message["weights"], sort_keys=True)


def request_of(params: dict[str, Any]) -> Request:
    """Return the request whose `params()` these are."""
    messages = params["messages"]
    return Request(
        **params
        | {
            "messages": None if messages is None else tuple((role, content) for role, content in messages),
            "stop": tuple(params["stop"]),
        }
    )


def main() -> None:
    """Serve stdin until it ends."""
    protocol = claim_stdout()
    die_with_parent()
    # A model is a file that is already here: whatever a configuration says, nothing is fetched.
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(available_cpus())
    Worker(sys.stdin, protocol).run()


if __name__ == "__main__":
    main()
