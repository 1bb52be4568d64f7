"""A rehearsal: what a build would do, found out by running stale stages in memory.

A stage's calls are answered by what is recorded. One that is not is left to `perform`, which in a rehearsal is expected to
raise; it is noted, and the stage goes on as it would where a call fails. So all requests that can be known are known exactly,
and a stage whose calls are all recorded gives its outputs to the stages behind it. Nothing is claimed, nothing written: a stage that
wants a folder to write to is not rehearsed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from charforge.engine.build import FAILED, Called, Context, Perform
from charforge.engine.digest import Action, of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.explain import Reason
from charforge.engine.graph import Graph, Source, Stage
from charforge.engine.stale import STALE, UNKNOWN, UP_TO_DATE, action_of, why_stale
from charforge.engine.store import Store


class NotRehearsed(Exception):
    """A stage asked for what a rehearsal has not: a place to write to, or an input yet to be made."""


@dataclass(slots=True)
class Rehearsed:
    """What a build would do with a stage.

    `status` is UP_TO_DATE, STALE, UNKNOWN or FAILED (it would fail, with `error`). `outputs` is None unless they are known.
    `recorded` and `missing` are the calls it would make, as far as that can be known, by digest.
    """

    stage: str
    status: str
    action: str | None = None
    outputs: Mapping[str, str] | None = None
    reasons: list[Reason] = field(default_factory=list)
    waits_for: tuple[str, ...] = ()
    recorded: dict[str, str] = field(default_factory=dict)
    """Call digest → what the caller's `label` says of its parameters."""
    missing: dict[str, Action] = field(default_factory=dict)
    published: list[Any] = field(default_factory=list)
    whole: bool = True
    """Whether it was run to its end: False where something was asked for that only a build can give."""
    error: Exception | None = None


@dataclass(slots=True)
class _Context:
    """What a stage sees of a rehearsal, in place of `build.Context`."""

    stage: Stage
    params: Mapping[str, Any]
    record: dict[str, Any]
    _rehearsal: Rehearsal
    _inputs: Mapping[str, str]
    _found: Rehearsed

    @property
    def scratch(self) -> Path:
        raise NotRehearsed

    @property
    def kept(self) -> Path:
        raise NotRehearsed

    def digest(self, name: str) -> str:
        return self._inputs[name]

    def read(self, name: str) -> bytes:
        ref = self.stage.inputs[name]
        return ref.data if isinstance(ref, Source) else self._rehearsal.read(self._inputs[name])

    async def folder(self, name: str) -> Path:
        # Whoever would read in it is a call, and not made here.
        return self._rehearsal.store.root / "trees" / self._inputs[name]

    def progress(self, done: int, total: int, note: str = "") -> None:
        pass

    def leave(self, outputs: Mapping[str, bytes]) -> None:
        pass

    def publish(self, item: Any) -> None:
        self._found.published.append(item)

    async def published(self) -> AsyncIterator[Any]:
        assert self.stage.follows is not None
        for item in self._rehearsal.found[self.stage.follows].published:
            yield item

    async def call(self, action: Action, perform: Perform, *, lane: str = "") -> Called:
        del lane
        digest = action.digest
        trace = self._rehearsal.store.find(digest)
        if trace is not None:
            with suppress(Damaged):
                called = Called(self._rehearsal.store.read(trace.outputs["reply"]), trace.record, made=False)
                self._found.recorded[digest] = self._rehearsal.label(action.params)
                return called
        self._found.missing[digest] = action
        reply, record = await perform()
        return Called(reply, record, made=True)

    def recorded_calls(self) -> Iterator[Mapping[str, Any]]:
        # Of a rehearsal's misses each is known; nobody has to be told what they are like.
        return iter(())

    def go_on(self) -> None:
        pass


class Rehearsal:
    """One rehearsal over a graph. Use `run()` once."""

    def __init__(self, store: Store, graph: Graph, label: Callable[[Mapping[str, Any]], str]) -> None:
        self.store = store
        self.graph = graph
        self.label = label
        self.found: dict[str, Rehearsed] = {}
        self._memory: dict[str, bytes] = {}

    async def run(self, targets: Iterable[str]) -> dict[str, Rehearsed]:
        """Return what a build would do with each stage needed, in graph order."""
        for stage in self.graph.needed(targets):
            found = self.found[stage.name] = Rehearsed(stage.name, UNKNOWN)
            await self._stage(stage, found)
        return self.found

    def read(self, digest: str) -> bytes:
        """Return the bytes of an output, of this rehearsal or of an earlier build. Raises Damaged."""
        made = self._memory.get(digest)
        return self.store.read(digest) if made is None else made

    async def _stage(self, stage: Stage, found: Rehearsed) -> None:
        made = {name: self.found[name].outputs for name in stage.upstream()}
        known = {name: outputs for name, outputs in made.items() if outputs is not None}
        found.waits_for = tuple(name for name in made if name not in known)
        if found.waits_for:
            found.whole = False
            await self._unknown(stage, found, known)
            return
        try:
            action = action_of(stage, known)
        except EngineError as error:
            found.status, found.error = FAILED, error
            return
        found.action = action.digest
        trace = self.store.find(action.digest)
        if trace is not None:
            found.status, found.outputs = UP_TO_DATE, trace.outputs
            with suppress(Damaged):
                for call in self.store.calls_in(trace):
                    body = self.store.action_body(call)
                    found.recorded[call] = "" if body is None else self.label(body["params"])
            return
        found.status, found.reasons = STALE, why_stale(self.store, stage, action)
        outputs = await self._run(stage, found, action.inputs)
        if outputs is None:
            return
        if any(not isinstance(data, bytes) for data in outputs.values()):
            found.whole = False
            return
        digests: dict[str, str] = {}
        for name, data in outputs.items():
            assert isinstance(data, bytes)
            digests[name] = of_bytes(data)
            self._memory[digests[name]] = data
        found.outputs = digests

    async def _unknown(self, stage: Stage, found: Rehearsed, known: Mapping[str, Mapping[str, str]]) -> None:
        """Look how far a stage gets though some of its inputs are yet to be made. Its outputs mean nothing."""
        inputs, open_, trees = {}, set(), True
        for name, ref in stage.inputs.items():
            if isinstance(ref, Source):
                inputs[name] = ref.digest
            elif ref.stage in known:
                inputs[name] = known[ref.stage][ref.name]
            else:
                open_.add(ref.stage)
                trees = trees and ref.name.endswith("/")
                inputs[name] = of_bytes(f"{ref.label}, yet to be made".encode())
        if trees:
            # Models: what is asked of others than these is known all the same.
            await self._run(stage, found, inputs)
        elif stage.ahead is not None and open_ == {stage.follows}:
            with suppress(Exception):
                await stage.ahead(cast(Context, self._context(stage, found, inputs)))

    def _context(self, stage: Stage, found: Rehearsed, inputs: Mapping[str, str]) -> _Context:
        return _Context(stage, stage.params, {}, self, inputs, found)

    async def _run(
        self, stage: Stage, found: Rehearsed, inputs: Mapping[str, str]
    ) -> Mapping[str, bytes | Path] | None:
        try:
            outputs = await stage.run(cast(Context, self._context(stage, found, inputs)))
        except NotRehearsed:
            found.whole = False
        except Exception as error:  # noqa: BLE001 - what a stage fails with is what is to be found out
            found.whole = False
            if not found.missing and found.status == STALE:
                found.status, found.error = FAILED, error
        else:
            if not found.missing:
                return outputs
            found.whole = False
        return None


async def rehearse(
    store: Store,
    graph: Graph,
    targets: Iterable[str],
    *,
    label: Callable[[Mapping[str, Any]], str] = lambda _params: "",
) -> dict[str, Rehearsed]:
    """Say of each stage needed what a build would do with it, and which calls it would make. Writes nothing.

    `store` is best a `reader.Reader`: an ordinary one sets damaged blobs aside. Recorded calls are kept as what `label` says
    of their parameters.
    """
    return await Rehearsal(store, graph, label).run(targets)
