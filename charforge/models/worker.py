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
from collections import Counter, OrderedDict
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from charforge.errors import CharForgeError
from charforge.llm.request import Request
from charforge.models.process import available_cpus, claim_stdout, die_with_parent

if TYPE_CHECKING:
    from charforge.models.generate import Generator

LOADED = 3
"""Models kept in memory, the least recently used dropped first; one that is in the middle of its replies is not dropped."""
_GATHER = 0.01
"""Seconds an idle worker waits for companions of the first request."""
_TURN = 16
"""Steps that a model has at least, once it is its turn: about a question's length."""
_STARVED = 64
"""Steps after which a model has its turn however few its requests are: about a reply's length."""

Message = dict[str, Any]


class Worker:
    """One thread that reads, one that computes. `pending` is in order of arrival.

    Several models may be in the middle of their replies; one computes at a time, the one with most rows. In interviews a question
    of one model waits for the answer of another: so both have full batches, and a last long answer does not keep the others waiting.
    """

    def __init__(self, source: IO[str], sink: IO[str]) -> None:
        self.source, self.sink = source, sink
        self.inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.pending: list[Message] = []
        self.loaded: OrderedDict[str, Generator] = OrderedDict()
        self.at_end = False
        self.steps = 0
        self.turn_began = 0
        self.current: str | None = None
        self.last_ran: dict[str, int] = {}
        """The step at which a model that has requests last computed, or got the first of them."""

    def run(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            self._receive(block=not self.pending and not any(each.busy for each in self.loaded.values()))
            chosen = self._choose()
            if chosen is None:
                if self.at_end:
                    return
                continue
            if chosen != self.current:
                self.current, self.turn_began = chosen, self.steps
            generator = self._generator(chosen)
            if generator is None:
                continue
            self._feed()
            for done in generator.step():
                if isinstance(done.outcome, CharForgeError):
                    self._fail(done.key, done.outcome)
                else:
                    self._send({"id": done.key, "reply": asdict(done.outcome)})
            self.steps += 1
            self.last_ran[chosen] = self.steps

    def _choose(self) -> str | None:
        """Return the weights whose turn it is; None where nothing was asked."""
        sizes = Counter({weights: each.size for weights, each in self.loaded.items() if each.busy})
        full = len(sizes) >= LOADED
        for message in self.pending:
            weights = _weights(message)
            if weights in self.loaded or not full:
                sizes[weights] += 1
        self.last_ran = {weights: self.last_ran.get(weights, self.steps) for weights in sizes}
        current = self.current
        if current is None or current not in sizes:
            return max(sizes, key=lambda weights: sizes[weights], default=None)
        if self.steps - self.turn_began < _TURN:
            return current
        starved = [weights for weights in sizes if self.steps - self.last_ran[weights] >= _STARVED]
        if starved:
            return starved[0]
        best = max(sizes, key=lambda weights: sizes[weights])
        # To change costs nothing, but what is nearly done had better be done: others wait for it.
        return best if sizes[best] > 2 * sizes[current] else current

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
            del self.loaded[next(name for name, each in self.loaded.items() if not each.busy)]
        try:
            self.loaded[weights] = Generator(*load(json.loads(weights)))
        except CharForgeError as error:
            for message in [m for m in self.pending if _weights(m) == weights]:
                self.pending.remove(message)
                self._fail(message["id"], error)
            return None
        return self.loaded[weights]

    def _feed(self) -> None:
        """Hand the loaded models their requests, also those whose turn it is not."""
        mine = [message for message in self.pending if _weights(message) in self.loaded]
        self.pending = [message for message in self.pending if _weights(message) not in self.loaded]
        for message in mine:
            try:
                self.loaded[_weights(message)].add(message["id"], request_of(message["request"]))
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
